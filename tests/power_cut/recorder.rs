//! The recorder: every call of the agent that changes a file, in order, with its bytes; and every answer it sends.
//!
//! ```text
//!  agent (all threads) ── syscall ──▶ seccomp: on the list? ── yes ──▶ stop ──▶ this thread notes it ──▶ goes on
//!                                                                       │
//!                           one clock: a tick per stop ◀────────────────┘◀── the far end asks for the time
//! ```
//!
//! ptrace and not a preloaded library: it sees calls that bypass libc (rustix makes its own), and it sees them in one
//! order over all threads, answers on sockets included, so "acknowledged before tick N" is a fact and not a guess. What
//! changes files without a call (a shared writable mapping, `io_uring`) is an *escape*, as is every call on the list that
//! the model does not know; and [`super::disk::Disk::differences`] holds the replay of everything against the directory.
//!
//! A call is done when its end was seen, and has happened before another only if its end was seen before the other's
//! beginning: both are what the agent's own threads can know of each other.

#![allow(unsafe_code)] // ptrace, seccomp and the memory they fill are behind no safe wrapper

use super::disk::{Base, Node, Op, What, is_at};
use super::tracee::{OPTIONS, Tracee, be_traced, class_of, signal, syscall_info};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self};
use std::io;
use std::mem::size_of;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// Calls that change files, or send answers. What is not here changes none.
#[rustfmt::skip]
const WATCHED: &[i64] = &[
    libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_ftruncate, libc::SYS_truncate, libc::SYS_fallocate,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_msync,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_unlinkat, libc::SYS_linkat, libc::SYS_symlinkat,
    libc::SYS_copy_file_range, libc::SYS_sendfile, libc::SYS_splice, libc::SYS_vmsplice, libc::SYS_ioctl,
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_io_uring_setup, libc::SYS_io_submit,
    libc::SYS_sendto, libc::SYS_sendmsg,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_creat,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_link,
    #[cfg(target_arch = "x86_64")] libc::SYS_symlink,
];

/// `FICLONE` and `FICLONERANGE`: the ioctls that change a file.
const CLONES: [u64; 2] = [0x4004_9409, 0x4020_940d];

/// An answer on its way to a client: from this tick on the agent has promised.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// When the call began.
    pub(crate) tick: u64,
    /// The client's port.
    pub(crate) port: u16,
    /// HTTP status.
    pub(crate) status: u16,
}

/// Everything that was seen, over all lives of the agent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Log {
    /// What was there before.
    pub(crate) base: Base,
    /// By the tick of their end.
    pub(crate) ops: Vec<Op>,
    /// Answers to clients.
    pub(crate) sent: Vec<Sent>,
    /// What changed files in a way the model does not know. Must be empty.
    pub(crate) escapes: Vec<String>,
    /// Last tick.
    pub(crate) end: u64,
}

/// An error to be answered instead of "done", as a disk would.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// The syncs it hits, as [`Op::site`] names them.
    pub(crate) site: String,
    /// Not before so many of them went well.
    pub(crate) after: u64,
    /// How many it hits.
    pub(crate) times: u64,
}

/// Shared by the recorder's thread and the world around the agent.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    clock: AtomicU64,
    state: Mutex<State>,
    stop: AtomicBool,
    release: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    root: PathBuf,
    log: Log,
    nodes: BTreeMap<(u64, u64), Node>,
    next_node: Node,
    seen: BTreeMap<String, u64>,
    fault: Option<Fault>,
    kill_before: Option<(String, u64)>,
    hold_before: Option<String>,
}

/// One life of the agent.
#[derive(Debug)]
pub(crate) struct Life {
    recorder: Arc<Recorder>,
    pid: i32,
    thread: std::thread::JoinHandle<io::Result<i32>>,
}

impl Recorder {
    /// Watches what happens below `root`, which is taken as it is: all of it counts as synced.
    pub(crate) fn new(root: &Path) -> Arc<Recorder> {
        let mut state = State { root: root.to_owned(), next_node: 1, ..State::default() };
        let meta = fs::metadata(root).expect("the root is there");
        state.nodes.insert((meta.dev(), meta.ino()), 0);
        state.scan(root, 0);
        Arc::new(Recorder { state: Mutex::new(state), ..Recorder::default() })
    }

    /// Now, on the clock of the log.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    /// Answers syncs with EIO from now on.
    pub(crate) fn fail(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Kills the agent before it makes its sync at a site for the `nth` time.
    pub(crate) fn kill_before(&self, site: &str, nth: u64) {
        self.lock().kill_before = Some((site.to_owned(), nth));
    }

    /// Lets nobody past a sync at a site until [`Life::release`]: what comes before it is as slow as the test needs.
    pub(crate) fn hold_before(&self, site: &str) {
        self.release.store(false, SeqCst);
        self.lock().hold_before = Some(site.to_owned());
    }

    /// What was seen so far.
    pub(crate) fn take(&self) -> Log {
        let mut state = self.lock();
        state.log.end = self.now();
        std::mem::take(&mut state.log)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst) + 1
    }

    /// Starts the agent under the recorder.
    pub(crate) fn start(self: &Arc<Recorder>, mut command: Command) -> io::Result<Life> {
        self.stop.store(false, SeqCst);
        be_traced(&mut command, WATCHED);
        let (told, tells) = mpsc::channel();
        let recorder = self.clone();
        // Only the thread that forked is told of its child, so it is one of its own.
        let thread = std::thread::spawn(move || {
            let pid = match command.spawn() {
                Ok(child) => i32::try_from(child.id()).expect("a pid"),
                Err(error) => {
                    let _ = told.send(Err(error));
                    return Ok(0);
                }
            };
            let _ = told.send(Ok(pid));
            Follower { recorder: &recorder, pid, under_way: BTreeMap::new(), held: Vec::new(), waiting: Vec::new() }
                .follow()
        });
        let pid = tells.recv().expect("it says")?;
        Ok(Life { recorder: self.clone(), pid, thread })
    }
}

impl Life {
    /// Still there?
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// SIGTERM; returns how it ended, as `wait` has it.
    pub(crate) fn terminate(self) -> i32 {
        signal(self.pid, libc::SIGTERM);
        self.join()
    }

    /// SIGKILL between two calls: what is under way ends, nothing new begins.
    pub(crate) fn kill(self) -> i32 {
        self.recorder.stop.store(true, SeqCst);
        signal(self.pid, libc::SIGWINCH); // the follower hears of it and looks
        self.join()
    }

    /// Who was held goes on.
    pub(crate) fn release(&self) {
        self.recorder.release.store(true, SeqCst);
        signal(self.pid, libc::SIGWINCH);
    }

    /// Until it ends by itself.
    pub(crate) fn join(self) -> i32 {
        self.thread.join().expect("the recorder does not panic").expect("ptrace works")
    }
}

/// A call that has begun and not ended.
struct Call {
    entered: u64,
    what: Begun,
}

enum Begun {
    /// An op that happens if the call says so; of a write as much as it says.
    Op(What, Option<String>),
    /// open(O_CREAT) of a name that was not there.
    Create {
        parent: Node,
        name: String,
    },
    Mkdir {
        parent: Node,
        name: String,
        path: PathBuf,
    },
    /// open(O_TRUNC) of a file that was there.
    Truncate(Node),
    /// An ioctl that most file systems refuse; the model does not know it.
    Clone,
}

struct Follower<'a> {
    recorder: &'a Recorder,
    pid: i32,
    under_way: BTreeMap<i32, Call>,
    /// Threads that stand before a call that will not happen.
    held: Vec<i32>,
    /// Threads that stand before a call that happens later.
    waiting: Vec<(i32, Begun)>,
}

/// What becomes of a call that begins.
enum Begins {
    /// Nobody minds it.
    Unseen,
    Seen(Call),
    /// Not yet.
    Later(Begun),
}

impl Follower<'_> {
    fn follow(mut self) -> io::Result<i32> {
        let mut begun = false;
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call. Children of other threads are not ours to wait for.
            let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
            if tid < 0 {
                return Err(io::Error::last_os_error());
            }
            if !libc::WIFSTOPPED(status) {
                self.under_way.remove(&tid);
                if tid == self.pid {
                    return Ok(status);
                }
                continue;
            }
            let (number, event) = (libc::WSTOPSIG(status), status >> 16);
            let mut pass_on = 0;
            let mut to_its_end = false;
            if number == libc::SIGTRAP | 0x80 {
                if let Some(call) = self.under_way.remove(&tid) {
                    self.ends(tid, call)?;
                }
            } else if event == libc::PTRACE_EVENT_SECCOMP {
                if self.recorder.stop.load(SeqCst) {
                    self.held.push(tid);
                    self.kill_if_quiet();
                    continue;
                }
                let call = self.begins(tid)?;
                if self.recorder.stop.load(SeqCst) {
                    self.held.push(tid); // it dies before this call
                    self.kill_if_quiet();
                    continue;
                }
                match call {
                    Begins::Unseen => {}
                    Begins::Seen(call) => {
                        self.under_way.insert(tid, call);
                        to_its_end = true;
                    }
                    Begins::Later(what) => {
                        self.waiting.push((tid, what));
                        continue;
                    }
                }
            } else if number == libc::SIGTRAP && event == 0 && !begun {
                begun = true; // the exec
                // SAFETY: no memory is involved.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0, OPTIONS as usize) };
            } else if event != 0 || number == libc::SIGSTOP {
                // A thread was made, or begins.
            } else {
                pass_on = number;
            }
            if self.recorder.stop.load(SeqCst) {
                self.kill_if_quiet();
            } else if self.recorder.release.load(SeqCst) {
                self.let_go();
            }
            let how = if to_its_end { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
            // SAFETY: no memory is involved. A thread that was killed meanwhile is told of by waitpid.
            unsafe { libc::ptrace(how, tid, 0, pass_on as usize) };
        }
    }

    fn kill_if_quiet(&self) {
        if self.under_way.is_empty() {
            signal(self.pid, libc::SIGKILL);
        }
    }

    /// Those that were held make their call now.
    fn let_go(&mut self) {
        for (tid, what) in std::mem::take(&mut self.waiting) {
            self.under_way.insert(tid, Call { entered: self.recorder.tick(), what });
            // SAFETY: no memory is involved. A thread that was killed meanwhile is told of by waitpid.
            unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0, 0) };
        }
    }

    fn begins(&mut self, tid: i32) -> io::Result<Begins> {
        let tracee = Tracee(tid);
        let (number, args) = tracee.call()?;
        let entered = self.recorder.tick();
        let mut state = self.recorder.lock();
        let what = state.begun(&tracee, number, args, entered);
        if let (Some(Begun::Op(_, Some(site))), Some((fatal, left))) = (&what, &mut state.kill_before)
            && is_at(site, fatal)
        {
            *left -= 1;
            if *left == 0 {
                state.kill_before = None;
                self.recorder.stop.store(true, SeqCst);
                return Ok(Begins::Unseen);
            }
        }
        let Some(what) = what else { return Ok(Begins::Unseen) };
        if let (Begun::Op(_, Some(site)), Some(held)) = (&what, &state.hold_before)
            && is_at(site, held)
            && !self.recorder.release.load(SeqCst)
        {
            return Ok(Begins::Later(what));
        }
        Ok(Begins::Seen(Call { entered, what }))
    }

    fn ends(&mut self, tid: i32, call: Call) -> io::Result<()> {
        let info = syscall_info(tid)?;
        let result = i64::from_ne_bytes(info[24..32].try_into().expect("eight bytes"));
        let mut state = self.recorder.lock();
        let mut failed = false;
        if let (Begun::Op(What::Sync { .. }, Some(site)), Some(fault)) = (&call.what, &mut state.fault)
            && is_at(site, &fault.site)
        {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                failed = true;
            }
        }
        if failed {
            answer(tid, -i64::from(libc::EIO))?;
        }
        let left = self.recorder.tick();
        state.ended(&Tracee(tid), call, result, failed, left);
        Ok(())
    }
}

impl State {
    /// What a call that begins now will do to the files we watch; `None`: nothing.
    fn begun(&mut self, tracee: &Tracee, number: i64, a: [u64; 6], tick: u64) -> Option<Begun> {
        let fd = a[0] as i32;
        let file = |state: &State, fd: i32| state.nodes.get(&tracee.identity(fd)?).copied();
        let op = |what: What| Some(Begun::Op(what, None));
        #[allow(non_upper_case_globals)]
        match number {
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_pwritev2 => {
                let Some(node) = file(self, fd) else {
                    self.note_answer(tracee, number, a, tick);
                    return None;
                };
                let data = match number {
                    libc::SYS_write | libc::SYS_pwrite64 => tracee.bytes(a[1], a[2]),
                    libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => tracee.gathered(a[1], a[2]),
                    _ => Vec::new(),
                };
                let at = match number {
                    libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_pwritev2 => a[3],
                    _ => tracee.position(fd)?,
                };
                op(What::Write { node, at, data })
            }
            libc::SYS_ftruncate => op(What::SetLen { node: file(self, fd)?, len: a[1] }),
            libc::SYS_fallocate => {
                let node = file(self, fd)?;
                if a[1] & !1 != 0 {
                    self.escape(tracee, number, "fallocate that punches or moves");
                }
                // Keeping the size, it changes nothing that can be read.
                let grown = tracee.size(fd)?.max(a[2] + a[3]);
                if a[1] & 1 == 1 { None } else { op(What::SetLen { node, len: grown }) }
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let node = file(self, fd)?;
                let what = What::Sync { node, failed: false };
                let kind = if number == libc::SYS_fsync { "fsync" } else { "fdatasync" };
                let site = self.site(tracee, kind, fd);
                Some(Begun::Op(what, Some(site)))
            }
            libc::SYS_openat => self.opening(tracee, fd, a[1], a[2]),
            libc::SYS_mkdirat => self.making(tracee, fd, a[1]),
            libc::SYS_renameat | libc::SYS_renameat2 => {
                if number == libc::SYS_renameat2 && a[4] & 2 != 0 {
                    self.escape(tracee, number, "an exchange");
                }
                self.renaming(tracee, (fd, a[1]), (a[2] as i32, a[3]), number)
            }
            libc::SYS_unlinkat => self.unlinking(tracee, fd, a[1]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.opening(tracee, libc::AT_FDCWD, a[0], a[1]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                self.opening(tracee, libc::AT_FDCWD, a[0], (libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY) as u64)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.making(tracee, libc::AT_FDCWD, a[0]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => self.renaming(tracee, (libc::AT_FDCWD, a[0]), (libc::AT_FDCWD, a[1]), number),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => self.unlinking(tracee, libc::AT_FDCWD, a[0]),
            libc::SYS_copy_file_range => {
                let node = file(self, a[2] as i32)?;
                let at = if a[3] == 0 { tracee.position(a[2] as i32)? } else { tracee.word(a[3])? };
                let from = if a[1] == 0 { tracee.position(fd)? } else { tracee.word(a[1])? };
                op(What::Write { node, at, data: tracee.contents(fd, from, a[4]) })
            }
            libc::SYS_sendfile => {
                let node = file(self, fd)?;
                let from = if a[2] == 0 { tracee.position(a[1] as i32)? } else { tracee.word(a[2])? };
                op(What::Write { node, at: tracee.position(fd)?, data: tracee.contents(a[1] as i32, from, a[3]) })
            }
            libc::SYS_mmap => {
                let (protection, flags, fd) = (a[2] as i32, a[3] as i32, a[4] as i32);
                let shared = flags & libc::MAP_TYPE != libc::MAP_PRIVATE && flags & libc::MAP_ANONYMOUS == 0;
                // Readable now may be made writable later, unless the file is open for reading only.
                if shared && (protection & libc::PROT_WRITE != 0 || tracee.is_writable(fd)) && file(self, fd).is_some()
                {
                    self.escape(tracee, number, "a shared mapping that can be written");
                }
                None
            }
            libc::SYS_splice | libc::SYS_vmsplice => {
                let to = if number == libc::SYS_splice { a[2] as i32 } else { fd };
                if file(self, to).is_some() {
                    self.escape(tracee, number, "splice into a file");
                }
                None
            }
            libc::SYS_ioctl => (CLONES.contains(&a[1]) && file(self, fd).is_some()).then_some(Begun::Clone),
            libc::SYS_mprotect | libc::SYS_sync | libc::SYS_syncfs | libc::SYS_sync_file_range | libc::SYS_msync => {
                None
            }
            libc::SYS_io_uring_setup | libc::SYS_io_submit => {
                self.escape(tracee, number, "asynchronous calls, whose writes nobody sees");
                None
            }
            other => {
                // openat2, truncate, link, symlink, mknod: nobody here uses them, so the model does not know them.
                self.escape(tracee, other, "a call the model does not know");
                None
            }
        }
    }

    fn ended(&mut self, tracee: &Tracee, call: Call, result: i64, failed: bool, left: u64) {
        let entered = call.entered;
        let (what, site) = match call.what {
            Begun::Op(What::Sync { node, .. }, site) => (What::Sync { node, failed: failed || result < 0 }, site),
            _ if result < 0 => return,
            Begun::Op(What::Write { node, at, mut data }, site) => {
                if (data.len() as i64) < result {
                    self.escapes(format!("a write of {result} bytes of which {} could be read", data.len()));
                }
                data.truncate(usize::try_from(result).unwrap_or(0));
                (What::Write { node, at, data }, site)
            }
            Begun::Op(what, site) => (what, site),
            Begun::Create { parent, name } => {
                let Some(identity) = tracee.identity(result as i32) else {
                    return self.escapes(format!("{name} was made and cannot be found"));
                };
                (What::Make { parent, name, node: self.new_node(identity), dir: false }, None)
            }
            Begun::Mkdir { parent, name, path } => {
                let Ok(meta) = fs::metadata(&path) else {
                    return self.escapes(format!("{name} was made and cannot be found"));
                };
                (What::Make { parent, name, node: self.new_node((meta.dev(), meta.ino())), dir: true }, None)
            }
            Begun::Clone => return self.escapes("a clone of a file".into()),
            Begun::Truncate(node) => (What::SetLen { node, len: 0 }, None),
        };
        self.log.ops.push(Op { entered, left, what, site });
    }

    fn new_node(&mut self, identity: (u64, u64)) -> Node {
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(identity, node);
        node
    }

    /// The watched directory a path leads into, its last name, and the whole path as we can reach it.
    fn place(&mut self, tracee: &Tracee, dir: i32, path: u64) -> Option<(Node, String, PathBuf)> {
        let path = tracee.path(path)?;
        let reach = if path.is_absolute() {
            path
        } else if dir == libc::AT_FDCWD {
            tracee.proc("cwd").join(path)
        } else {
            tracee.fd(dir).join(path)
        };
        let name = reach.file_name()?.to_str()?.to_owned();
        let meta = fs::metadata(reach.parent()?).ok()?;
        let parent = *self.nodes.get(&(meta.dev(), meta.ino()))?;
        Some((parent, name, reach))
    }

    fn opening(&mut self, tracee: &Tracee, dir: i32, path: u64, flags: u64) -> Option<Begun> {
        let flags = flags as i32;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            self.escape(tracee, libc::SYS_openat, "a file without a name");
        }
        if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
            return None;
        }
        let (parent, name, reach) = self.place(tracee, dir, path)?;
        match fs::symlink_metadata(&reach) {
            Err(_) if flags & libc::O_CREAT != 0 => Some(Begun::Create { parent, name }),
            Ok(meta) if flags & libc::O_TRUNC != 0 => {
                Some(Begun::Truncate(*self.nodes.get(&(meta.dev(), meta.ino()))?))
            }
            _ => None,
        }
    }

    fn making(&mut self, tracee: &Tracee, dir: i32, path: u64) -> Option<Begun> {
        let (parent, name, path) = self.place(tracee, dir, path)?;
        Some(Begun::Mkdir { parent, name, path })
    }

    fn renaming(&mut self, tracee: &Tracee, from: (i32, u64), to: (i32, u64), number: i64) -> Option<Begun> {
        match (self.place(tracee, from.0, from.1), self.place(tracee, to.0, to.1)) {
            (Some((from, old, _)), Some((to, new, _))) => Some(Begun::Op(What::Rename { from, old, to, new }, None)),
            (None, None) => None,
            _ => {
                self.escape(tracee, number, "a rename into or out of what is watched");
                None
            }
        }
    }

    fn unlinking(&mut self, tracee: &Tracee, dir: i32, path: u64) -> Option<Begun> {
        let (parent, name, _) = self.place(tracee, dir, path)?;
        Some(Begun::Op(What::Unlink { parent, name }, None))
    }

    /// Where a sync stands: the call, the kind of file, the thread, and the how-manieth of its kind it is for this very
    /// directory or file, which tells ours from fjall's. One name for all segments.
    fn site(&mut self, tracee: &Tracee, kind: &str, fd: i32) -> String {
        let path = fs::read_link(tracee.fd(fd)).unwrap_or_default();
        let below = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
        let class = class_of(&below);
        let thread = fs::read_to_string(tracee.proc("comm")).unwrap_or_default();
        let thread = thread.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        // Who makes a segment, whoever has none, is chance.
        let is_dir = fs::metadata(tracee.fd(fd)).is_ok_and(|m| m.is_dir());
        let thread = if is_dir { String::new() } else { format!(" by {thread}") };
        let count = self.seen.entry(format!("{kind} {below}{thread}")).or_default();
        *count += 1;
        // What happens again and again is one place; the steps of making a directory are several.
        let again = kind == "fdatasync" || class == "var/queue";
        let nth = if again { String::new() } else { format!(" #{}", (*count).min(5)) };
        format!("{kind} {class}{thread}{nth}")
    }

    fn note_answer(&mut self, tracee: &Tracee, number: i64, a: [u64; 6], tick: u64) {
        let head = match number {
            libc::SYS_write | libc::SYS_sendto => tracee.bytes(a[1], a[2].min(16)),
            libc::SYS_writev => tracee.gathered_up_to(a[1], a[2], 16),
            libc::SYS_sendmsg => {
                let Some((vec, count)) = tracee.word(a[1] + 16).zip(tracee.word(a[1] + 24)) else { return };
                tracee.gathered_up_to(vec, count, 16)
            }
            _ => return,
        };
        let Some(status) = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) else { return };
        let Some(status) = std::str::from_utf8(status).ok().and_then(|s| s.parse().ok()) else { return };
        if let Some(port) = tracee.peer_port(a[0] as i32) {
            self.log.sent.push(Sent { tick, port, status });
        }
    }

    fn escape(&mut self, tracee: &Tracee, number: i64, what: &str) {
        self.escapes(format!("thread {}, call {number}: {what}", tracee.0));
    }

    fn escapes(&mut self, what: String) {
        if self.log.escapes.len() < 100 {
            self.log.escapes.push(what);
        }
    }

    /// What is there at the beginning.
    fn scan(&mut self, dir: &Path, parent: Node) {
        let mut entries: Vec<_> = fs::read_dir(dir).expect("readable").map(|e| e.expect("readable")).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let meta = entry.metadata().expect("readable");
            let node = self.new_node((meta.dev(), meta.ino()));
            let name = entry.file_name().to_string_lossy().into_owned();
            let content = meta.is_file().then(|| fs::read(entry.path()).expect("readable"));
            self.log.base.add(parent, name, node, content);
            if meta.is_dir() {
                self.scan(&entry.path(), node);
            }
        }
    }
}

/// Changes what a call that has ended answers.
fn answer(tid: i32, result: i64) -> io::Result<()> {
    const RESULT: usize = if cfg!(target_arch = "x86_64") { 10 } else { 0 }; // rax of user_regs_struct; x0
    const PRSTATUS: usize = 1;
    let mut registers = [0_u64; 64];
    let mut place = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<[u64; 64]>() };
    // SAFETY: the kernel writes into and reads from `registers`, at most its size.
    let ok = unsafe {
        libc::ptrace(libc::PTRACE_GETREGSET, tid, PRSTATUS, &mut place) == 0 && {
            place.iov_base.cast::<u64>().add(RESULT).write(result.cast_unsigned());
            libc::ptrace(libc::PTRACE_SETREGSET, tid, PRSTATUS, &mut place) == 0
        }
    };
    if ok { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! A disk that fails on command: calls of the running agent are answered with an error instead of being made, or are held
//! back for a while, by what they do, to which kind of file, and from which thread.
//!
//! ```text
//!  agent (all threads) ── call ──▶ seccomp: on the list? ── yes ──▶ stop ──▶ "sync spool/seg/0.jnl by spool-writer"
//!                                                                              │ no rule: goes on
//!                                                     fails(EIO) ◀─────────────┤
//!                                                     slow(3 s)  ◀─────────────┘
//! ```
//!
//! ptrace and not a preloaded library: fjall and rustix make calls that bypass libc. What fails is not done at all, which is
//! what a disk may do that says so.

#![allow(unsafe_code)] // ptrace and the registers it changes are behind no safe wrapper

use super::tracee::{OPTIONS, Tracee, be_traced, class_of, signal};
use std::fs;
use std::io;
use std::mem::size_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Calls that work on files by name or content.
#[rustfmt::skip]
const CHANGES: &[i64] = &[
    libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_openat, libc::SYS_mkdirat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_creat,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
];
/// And those that read them: very many, so only for a suite that wants them.
const READS: &[i64] = &[libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv];

/// What becomes of a call that a rule hits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It is not made; this is its answer.
    Fails(i32),
    /// It is made after so long.
    Slow(Duration),
}

/// Which calls, how many, and what becomes of them.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// `sync spool/seg/0.jnl by spool-writer`; a `*` stands for anything. One of them must fit.
    pub(crate) sites: Vec<String>,
    pub(crate) fate: Fate,
    /// How many it hits; `u64::MAX`: until it is lifted.
    pub(crate) times: u64,
}

impl Rule {
    pub(crate) fn new(sites: &[&str], fate: Fate) -> Rule {
        Rule { sites: sites.iter().map(|s| (*s).to_owned()).collect(), fate, times: u64::MAX }
    }

    pub(crate) fn times(self, times: u64) -> Rule {
        Rule { times, ..self }
    }

    fn fits(&self, site: &str) -> bool {
        self.sites.iter().any(|pattern| fits(pattern, site))
    }
}

fn fits(pattern: &str, site: &str) -> bool {
    match pattern.split_once('*') {
        None => site == pattern,
        Some((start, "")) => site.starts_with(start),
        Some((start, rest)) => site
            .strip_prefix(start)
            .is_some_and(|left| (0..=left.len()).any(|n| left.get(n..).is_some_and(|left| fits(rest, left)))),
    }
}

#[test]
fn a_star_stands_for_anything() {
    for (pattern, site, expected) in [
        ("sync spool by *", "sync spool by spool-writer", true),
        ("sync spool by *", "sync spool/seg by spool-writer", false),
        ("write spool/seg/keyspaces/1* by fjall*", "write spool/seg/keyspaces/1/v<n> by fjall:worker", true),
        ("write spool/seg/keyspaces/1* by fjall*", "write spool/seg/keyspaces/1/v<n> by spool-keeper", false),
        ("* spool", "sync spool", true),
        ("sync spool", "sync spool", true),
    ] {
        assert_eq!(fits(pattern, site), expected, "{pattern}: {site}");
    }
}

/// Shared by the follower's thread and the test.
#[derive(Debug)]
pub(crate) struct Injector {
    root: PathBuf,
    reads: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    hits: u64,
    /// Journals whose sync or write failed in this life.
    bad: Vec<PathBuf>,
    /// What was written to one of them later.
    offences: Vec<String>,
}

/// One life of the agent.
#[derive(Debug)]
pub(crate) struct Life {
    pid: i32,
    thread: std::thread::JoinHandle<io::Result<i32>>,
}

impl Injector {
    /// Calls on what lies below `root` can fail; the `reads` too.
    pub(crate) fn below(root: &Path, reads: bool) -> Arc<Injector> {
        Arc::new(Injector { root: root.to_owned(), reads, state: Mutex::default() })
    }

    /// From now on by this rule, and no other. The hits are counted anew.
    pub(crate) fn set(&self, rule: Rule) {
        let mut state = self.lock();
        state.rules = vec![rule];
        state.hits = 0;
    }

    /// Nothing fails any more, and what is held back goes on.
    pub(crate) fn lift(&self) {
        self.lock().rules.clear();
    }

    /// Calls the rule has hit.
    pub(crate) fn hits(&self) -> u64 {
        self.lock().hits
    }

    /// What was written to a journal after its sync or write had failed.
    pub(crate) fn offences(&self) -> Vec<String> {
        self.lock().offences.clone()
    }

    /// Starts the agent; what failed in an earlier life is forgotten.
    pub(crate) fn start(self: &Arc<Injector>, mut command: Command) -> io::Result<Life> {
        self.lock().bad.clear();
        let watched = [CHANGES, if self.reads { READS } else { &[] }].concat();
        be_traced(&mut command, &watched);
        let (told, tells) = mpsc::channel();
        let injector = self.clone();
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
            Follower { injector: &injector, pid, held: Vec::new() }.follow()
        });
        Ok(Life { pid: tells.recv().expect("it says")?, thread })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of this call; `None`: it is made.
    fn fate(&self, tracee: Tracee) -> io::Result<Option<Fate>> {
        let (number, args) = tracee.call()?;
        let Some((what, path)) = aim(tracee, number, args) else { return Ok(None) };
        let Ok(below) = path.strip_prefix(&self.root) else { return Ok(None) };
        let class = class_of(&below.to_string_lossy());
        let thread = fs::read_to_string(tracee.proc("comm")).unwrap_or_default();
        let thread = thread.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        let site = format!("{what} {class} by {thread}");
        let mut state = self.lock();
        let journal = path.extension().is_some_and(|e| e == "jnl") && matches!(what, "sync" | "write");
        if what == "make" {
            state.bad.retain(|bad| *bad != path); // the number of a segment that could not be made comes again
        }
        if journal && what == "write" && state.bad.contains(&path) {
            state.offences.push(format!("{site}: {}", path.display()));
        }
        let Some(rule) = state.rules.iter_mut().find(|rule| rule.times > 0 && rule.fits(&site)) else {
            return Ok(None);
        };
        rule.times -= u64::from(rule.times < u64::MAX);
        let fate = rule.fate;
        state.hits += 1;
        if journal && matches!(fate, Fate::Fails(_)) {
            state.bad.push(path);
        }
        Ok(Some(fate))
    }
}

/// What a call does, and to which file.
fn aim(tracee: Tracee, number: i64, a: [u64; 6]) -> Option<(&'static str, PathBuf)> {
    let open_file = || {
        let path = fs::read_link(tracee.fd(a[0] as i32)).ok()?;
        let text = path.to_str()?;
        text.starts_with('/').then(|| PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(text)))
    };
    let named = |dir: u64, path: u64| {
        let path = tracee.path(path)?;
        if path.is_absolute() {
            return Some(path);
        }
        let dir = dir as i32;
        let from = if dir == libc::AT_FDCWD { tracee.proc("cwd") } else { tracee.fd(dir) };
        Some(fs::read_link(from).ok()?.join(path))
    };
    let opening = |flags: u64, path: Option<PathBuf>| {
        let flags = flags as i32;
        let path = path?;
        let what = match fs::symlink_metadata(&path) {
            Err(_) if flags & libc::O_CREAT != 0 => "make",
            _ if flags & libc::O_ACCMODE == libc::O_RDONLY => "look",
            _ => "open",
        };
        Some((what, path))
    };
    #[allow(non_upper_case_globals)]
    match number {
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            Some(("write", open_file()?))
        }
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv => Some(("read", open_file()?)),
        libc::SYS_ftruncate | libc::SYS_fallocate => Some(("length", open_file()?)),
        libc::SYS_fsync | libc::SYS_fdatasync => Some(("sync", open_file()?)),
        libc::SYS_openat => opening(a[2], named(a[0], a[1])),
        libc::SYS_mkdirat => Some(("make", named(a[0], a[1])?)),
        libc::SYS_renameat | libc::SYS_renameat2 => Some(("rename", named(a[0], a[1])?)),
        libc::SYS_unlinkat => Some(("remove", named(a[0], a[1])?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => opening(a[1], named(libc::AT_FDCWD as u64, a[0])),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat | libc::SYS_mkdir => Some(("make", named(libc::AT_FDCWD as u64, a[0])?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Some(("rename", named(libc::AT_FDCWD as u64, a[0])?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink | libc::SYS_rmdir => Some(("remove", named(libc::AT_FDCWD as u64, a[0])?)),
        _ => None,
    }
}

impl Life {
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) fn kill(self) {
        signal(self.pid, libc::SIGKILL);
        self.join();
    }

    /// SIGTERM; how it ended, as `wait` has it.
    pub(crate) fn terminate(self) -> i32 {
        signal(self.pid, libc::SIGTERM);
        self.join()
    }

    /// SIGHUP: it reads its configuration again.
    pub(crate) fn reload(&self) {
        signal(self.pid, libc::SIGHUP);
    }

    fn join(self) -> i32 {
        self.thread.join().expect("the follower does not panic").expect("ptrace works")
    }
}

struct Follower<'a> {
    injector: &'a Injector,
    pid: i32,
    /// Threads that stand before a call, and until when.
    held: Vec<(i32, Instant)>,
}

/// How often held threads are looked at.
const LOOK: Duration = Duration::from_micros(500);

impl Follower<'_> {
    fn follow(mut self) -> io::Result<i32> {
        let mut begun = false;
        loop {
            self.let_go();
            let how = if self.held.is_empty() { 0 } else { libc::WNOHANG };
            let mut status = 0;
            // SAFETY: `status` outlives the call. Children of other threads are not ours to wait for.
            let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD | how) };
            if tid == 0 {
                std::thread::sleep(LOOK);
                continue;
            }
            if tid < 0 {
                return Err(io::Error::last_os_error());
            }
            if !libc::WIFSTOPPED(status) {
                self.held.retain(|(held, _)| *held != tid);
                if tid == self.pid {
                    return Ok(status);
                }
                continue;
            }
            let (number, event) = (libc::WSTOPSIG(status), status >> 16);
            let mut pass_on = 0;
            if event == libc::PTRACE_EVENT_SECCOMP {
                match self.injector.fate(Tracee(tid))? {
                    None => {}
                    Some(Fate::Fails(errno)) => skip(tid, -i64::from(errno))?,
                    Some(Fate::Slow(time)) => {
                        self.held.push((tid, Instant::now() + time));
                        continue;
                    }
                }
            } else if number == libc::SIGTRAP && event == 0 && !begun {
                begun = true; // the exec
                // SAFETY: no memory is involved.
                unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0, OPTIONS as usize) };
            } else if event == 0 && number != libc::SIGSTOP {
                pass_on = number;
            }
            go_on(tid, pass_on);
        }
    }

    /// Threads whose time is over, or all when nothing is slow any more, make their call.
    fn let_go(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let lifted = self.injector.lock().rules.is_empty();
        let now = Instant::now();
        self.held.retain(|(tid, until)| {
            let stays = !lifted && *until > now;
            if !stays {
                go_on(*tid, 0);
            }
            stays
        });
    }
}

fn go_on(tid: i32, pass_on: i32) {
    // SAFETY: no memory is involved. A thread that was killed meanwhile is told of by waitpid.
    unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0, pass_on as usize) };
}

/// The call a thread stands before is not made; this is its answer.
#[cfg(target_arch = "x86_64")]
fn skip(tid: i32, answer: i64) -> io::Result<()> {
    const NUMBER: usize = 15; // orig_rax of user_regs_struct
    const ANSWER: usize = 10; // rax
    change(tid, 1, |registers| {
        registers[NUMBER] = u64::MAX;
        registers[ANSWER] = answer.cast_unsigned();
    })
}

/// The call a thread stands before is not made; this is its answer.
#[cfg(target_arch = "aarch64")]
fn skip(tid: i32, answer: i64) -> io::Result<()> {
    const NT_ARM_SYSTEM_CALL: usize = 0x404;
    change(tid, NT_ARM_SYSTEM_CALL, |number| number[0] = u64::MAX)?;
    change(tid, 1, |registers| registers[0] = answer.cast_unsigned())
}

/// Changes a set of registers of a stopped thread.
fn change(tid: i32, set: usize, change: impl FnOnce(&mut [u64; 64])) -> io::Result<()> {
    let mut registers = [0_u64; 64];
    let mut place = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<[u64; 64]>() };
    // SAFETY: the kernel writes into and reads from `registers`, at most its size, and says how much that was.
    let ok = unsafe {
        libc::ptrace(libc::PTRACE_GETREGSET, tid, set, &mut place) == 0 && {
            change(&mut *place.iov_base.cast::<[u64; 64]>());
            libc::ptrace(libc::PTRACE_SETREGSET, tid, set, &mut place) == 0
        }
    };
    if ok { Ok(()) } else { Err(io::Error::last_os_error()) }
}

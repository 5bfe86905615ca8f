//! A thread of another process that stands before a call, or behind one: what it asks for, and where it points to.

#![allow(unsafe_code)] // ptrace, seccomp and the memory they fill are behind no safe wrapper
#![allow(dead_code)] // each of the suites that stop an agent needs some of it

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this system lets a process be traced by its parent; some containers do not. Says SKIPPED if not.
pub(crate) fn is_allowed() -> bool {
    let mut command = Command::new("true");
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    match command.spawn() {
        Ok(mut child) => child.kill().and_then(|()| child.wait()).is_ok(),
        Err(error) => {
            println!("SKIPPED: nobody may trace here: {error}");
            false
        }
    }
}

/// Has the process that the command becomes stop at these calls, for the thread that starts it.
pub(crate) fn be_traced(command: &mut Command, watched: &[i64]) {
    let filter = filter(watched);
    // SAFETY: between fork and exec only three system calls are made; the filter was built before.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            let ok = libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0;
            if ok { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// seccomp: the watched calls stop, all others run.
fn filter(watched: &[i64]) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)]; // the call's number
    for number in watched {
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *number as u32));
        program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRACE));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

pub(crate) const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_EXITKILL;

pub(crate) fn signal(pid: i32, number: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, number) };
}

/// A path below the watched directory with one name for all segments, tables and lists of them.
pub(crate) fn class_of(below: &str) -> String {
    let mut class: Vec<String> = Vec::new();
    for part in Path::new(below).iter().map(|p| p.to_string_lossy()) {
        let part = match part.split_once('-') {
            Some(("seg", rest)) if rest.contains('.') => "copy".into(),
            Some(("seg", _)) => "seg".into(),
            Some(("trash", _)) => "trash".into(),
            _ if class.last().is_some_and(|p| p == "tables") => "<table>".into(),
            _ if part.strip_prefix('v').is_some_and(|n| n.parse::<u64>().is_ok()) => "v<n>".into(),
            _ if part.starts_with(".tmp") => "<tmp>".into(),
            _ => part.into_owned(),
        };
        class.push(part);
    }
    if class.is_empty() { "<root>".into() } else { class.join("/") }
}

/// A stopped thread of the agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracee(pub(crate) i32);

impl Tracee {
    /// The call as the kernel sees it: number and arguments.
    pub(crate) fn call(self) -> io::Result<(i64, [u64; 6])> {
        let info = syscall_info(self.0)?;
        let word = |i: usize| u64::from_ne_bytes(info[24 + 8 * i..32 + 8 * i].try_into().expect("eight bytes"));
        Ok((word(0).cast_signed(), std::array::from_fn(|i| word(i + 1))))
    }

    pub(crate) fn proc(self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.0))
    }

    pub(crate) fn fd(self, fd: i32) -> PathBuf {
        self.proc(&format!("fd/{fd}"))
    }

    pub(crate) fn identity(self, fd: i32) -> Option<(u64, u64)> {
        let meta = fs::metadata(self.fd(fd)).ok()?;
        Some((meta.dev(), meta.ino()))
    }

    pub(crate) fn size(self, fd: i32) -> Option<u64> {
        Some(fs::metadata(self.fd(fd)).ok()?.len())
    }

    pub(crate) fn info(self, fd: i32, key: &str, radix: u32) -> Option<u64> {
        let text = fs::read_to_string(self.proc(&format!("fdinfo/{fd}"))).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), radix).ok()
    }

    /// Where the next write goes.
    pub(crate) fn position(self, fd: i32) -> Option<u64> {
        let appends = self.info(fd, "flags:", 8)? & libc::O_APPEND as u64 != 0;
        if appends { self.size(fd) } else { self.info(fd, "pos:", 10) }
    }

    pub(crate) fn is_writable(self, fd: i32) -> bool {
        self.info(fd, "flags:", 8).is_none_or(|flags| flags & libc::O_ACCMODE as u64 != libc::O_RDONLY as u64)
    }

    pub(crate) fn bytes(self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).expect("an address space")];
        let memory = File::open(self.proc("mem")).and_then(|m| m.read_exact_at(&mut bytes, at));
        if memory.is_err() {
            bytes.clear(); // the call fails too, or the end of it finds bytes missing
        }
        bytes
    }

    pub(crate) fn word(self, at: u64) -> Option<u64> {
        Some(u64::from_ne_bytes(self.bytes(at, 8).try_into().ok()?))
    }

    pub(crate) fn gathered(self, vec: u64, count: u64) -> Vec<u8> {
        self.gathered_up_to(vec, count, u64::MAX)
    }

    pub(crate) fn gathered_up_to(self, vec: u64, count: u64, most: u64) -> Vec<u8> {
        let mut all = Vec::new();
        for i in 0..count.min(1_024) {
            let (Some(at), Some(len)) = (self.word(vec + 16 * i), self.word(vec + 16 * i + 8)) else { break };
            all.extend(self.bytes(at, len.min(most - all.len() as u64)));
            if all.len() as u64 >= most {
                break;
            }
        }
        all
    }

    pub(crate) fn path(self, at: u64) -> Option<PathBuf> {
        let memory = File::open(self.proc("mem")).ok()?;
        let mut bytes = Vec::new();
        // To the next page border at a time: what lies behind it may not be there.
        while bytes.len() < libc::PATH_MAX as usize {
            let from = at + bytes.len() as u64;
            let mut piece = vec![0; 4_096 - (from % 4_096) as usize];
            memory.read_exact_at(&mut piece, from).ok()?;
            if let Some(end) = piece.iter().position(|b| *b == 0) {
                bytes.extend_from_slice(&piece[..end]);
                return Some(PathBuf::from(String::from_utf8(bytes).ok()?));
            }
            bytes.extend(piece);
        }
        None
    }

    /// The source of a copy, before it happens.
    pub(crate) fn contents(self, fd: i32, at: u64, len: u64) -> Vec<u8> {
        let len = len.min(self.size(fd).unwrap_or(0).saturating_sub(at));
        let mut bytes = vec![0; usize::try_from(len).expect("an address space")];
        let read = File::open(self.fd(fd)).and_then(|file| file.read_exact_at(&mut bytes, at));
        if read.is_err() {
            bytes.clear();
        }
        bytes
    }

    pub(crate) fn peer_port(self, fd: i32) -> Option<u16> {
        // SAFETY: plain calls; both descriptors are owned and closed here.
        let socket = unsafe {
            let group = fs::read_to_string(self.proc("status")).ok()?;
            let group: i32 = group.lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()?;
            let process = libc::syscall(libc::SYS_pidfd_open, group, 0);
            let process = (process >= 0).then(|| OwnedFd::from_raw_fd(process as i32))?;
            let socket = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
            (socket >= 0).then(|| OwnedFd::from_raw_fd(socket as i32))?
        };
        Some(std::net::TcpStream::from(socket).peer_addr().ok()?.port())
    }
}

/// `PTRACE_GET_SYSCALL_INFO`: operation, architecture and, from byte 24 on, what the operation brings.
pub(crate) fn syscall_info(tid: i32) -> io::Result<[u8; 96]> {
    let mut info = [0_u8; 96];
    // SAFETY: the kernel writes at most the size it is told.
    let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, info.len(), info.as_mut_ptr()) };
    // A thread that is being killed has none.
    if got < 0 { Ok([0; 96]) } else { Ok(info) }
}

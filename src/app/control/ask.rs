//! The command's side.

use super::address;
use super::protocol::{Answer, LINE_MAX, Order, Request, VERSION};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the agent may be silent; one whose disk stalls says nothing for a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody listens.
    #[error("the program that has it does not listen ({0})")]
    Nobody(io::Error),
    /// He who listens is somebody else's.
    #[error("who listens there is user {0}, not the directory's owner {1} nor root")]
    Stranger(u32, u32),
    /// It would not say anything.
    #[error("the agent does not answer: {0}; it takes orders of its own user and of root, four at a time")]
    Silent(io::Error),
    /// The agent's words.
    #[error("{0}")]
    Failed(String),
}

/// Has the agent that has `directory` do it; `progress` hears of items done so far.
///
/// # Errors
/// See [`Refused`].
pub(crate) fn ask(directory: &Path, order: Order, mut progress: impl FnMut(u64)) -> Result<Answer, Refused> {
    let stream = address(directory).and_then(|at| UnixStream::connect_addr(&at)).map_err(Refused::Nobody)?;
    let who = socket_peercred(&stream).map_err(|e| Refused::Nobody(e.into()))?.uid.as_raw();
    let owner = std::fs::metadata(directory).map_err(Refused::Nobody)?.uid();
    if who != 0 && who != owner && who != geteuid().as_raw() {
        return Err(Refused::Stranger(who, owner));
    }
    let talk = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(&Request { version: VERSION, order })?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut from = BufReader::new(&stream);
        loop {
            let mut line = String::new();
            if from.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_str(&line)? {
                Answer::Progress(items) => progress(items),
                answer => return Ok(answer),
            }
        }
    };
    match talk().map_err(Refused::Silent)? {
        Answer::Failed(why) => Err(Refused::Failed(why)),
        answer => Ok(answer),
    }
}

//! What the process tells its parent when it ends: every code in one table.
//!
//! systemd restarts after everything but 0 when it asked for the stop, and 2, which only a person can mend
//! (`RestartPreventExitStatus=2`). After 1 too: on a gateway that nobody visits a card may be mounted later, a port be free.

use std::fmt;
use std::process::ExitCode;

/// Every way this process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Asked to stop, and everything that was in hand is safe.
    Clean = 0,
    /// The configuration is wrong or a listener, file or certificate could not be had: otelcol's code for both. Of the commands
    /// that look into a spool: something in it is damaged, or they could not do what was asked; of `health`: not well.
    Config = 1,
    /// The command line could not be understood: clap's code.
    Usage = 2,
    /// A vital post fell more often than its budget allows (`EX_SOFTWARE` of sysexits.h).
    Escalated = 70,
    /// A thread stood still for longer than its post may (`EX_OSERR`: a disk or driver that does not return).
    Blocked = 71,
    /// Asked to stop, and something in hand is not safe: acknowledged data was in memory only and the far end did not take
    /// it, or a spool could not be closed (`EX_IOERR`).
    Unsafe = 74,
    /// A second SIGINT while stopping: 128 + 2, what a shell expects of Ctrl-C.
    Interrupted = 130,
    /// A second SIGTERM while stopping: 128 + 15.
    Terminated = 143,
}

impl Exit {
    /// The whole table, in the order of the codes.
    pub const ALL: [Exit; 8] = [
        Exit::Clean,
        Exit::Config,
        Exit::Usage,
        Exit::Escalated,
        Exit::Blocked,
        Exit::Unsafe,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// The number the parent sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for `--help` and the manual.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Clean => "stopped when asked",
            Exit::Config => {
                "bad configuration, or the start failed; spool: damaged, or it could not be done; health: not well"
            }
            Exit::Usage => "bad command line",
            Exit::Escalated => "a vital post fell too often",
            Exit::Blocked => "a thread stood still",
            Exit::Unsafe => "stopped when asked, and not everything in hand is safe",
            Exit::Interrupted => "second SIGINT while stopping",
            Exit::Terminated => "second SIGTERM while stopping",
        }
    }

    /// Ends the process at once, without unwinding anything. For the last line of `main` and last resorts.
    pub fn now(self) -> ! {
        std::process::exit(i32::from(self.code()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code(), self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_are_the_ones_other_programs_know() {
        let codes: Vec<u8> = Exit::ALL.map(Exit::code).into();
        assert_eq!(codes, [0, 1, 2, 70, 71, 74, 130, 143]);
        assert_eq!(Exit::Escalated.to_string(), "70 (a vital post fell too often)");
    }
}

//! Who exists: every post of the agent as one readable table.
//!
//! A post without a row cannot be filled, and `tests/roster.rs` makes every row fall and hang in every way.

use crate::base::backoff::Curve;
use crate::supervise::{Crew, OnHang, Policy, Post, Roster, Stage, Supervisor};
use std::time::Duration;

/// Answers a restart within a breath: the first pause is what a client would notice.
const QUICK: Policy =
    Policy { pause: Curve { initial: Duration::from_millis(50), ..Policy::STANDARD.pause }, ..Policy::STANDARD };

/// Cannot be replaced: it lives on the main thread, or has all connections of HTTP, which would be lost with its own.
const ALONE: Policy = Policy { on_hang: OnHang::ExitProcess, ..QUICK };

/// Works on a disk: an SD card may take a minute for one sync and come back (architecture §5, "Slow disks"), so its
/// thread is given up only after five.
const DISK: Policy = Policy {
    pause: Curve { initial: Duration::from_millis(50), ..Policy::STANDARD.pause },
    soft_deadline: Duration::from_secs(240),
    hard_deadline: Duration::from_secs(300),
    ..Policy::STANDARD
};

/// Owns the segment that is written: when its thread is blocked for good nobody may take its place.
const WRITER: Policy = Policy { on_hang: OnHang::ExitProcess, ..DISK };

macro_rules! roster {
    ($($name:ident: $post:literal, $crew:ident, $policy:expr, vital $vital:literal, mailbox $mailbox:literal, stop $stop:literal, $why:literal;)*) => {
        $(
            #[doc = $why]
            pub const $name: Post = Post {
                name: $post, crew: Crew::$crew, policy: $policy, vital: $vital, mailbox: $mailbox, stop: Stage($stop),
            };
        )*
        static POSTS: &[Post] = &[$($name),*];
    };
}

// Stages of the stop: 1 nobody is let in any more, 2 what came in is committed, 3 what is out comes home, 4 the spool
// is closed, 5 who tells about it falls silent last.
#[rustfmt::skip]
roster! {
    OTLP_GRPC: "otlp-grpc",    Own,  QUICK,  vital true,  mailbox 16,  stop 1, "The gRPC server of one OTLP receiver.";
    DOORMAN:   "doorman",      Main, ALONE,  vital false, mailbox 16,  stop 1, "Closes the receivers at a stop and waits until everybody is out.";
    SELF_:     "self",         Own,  QUICK,  vital false, mailbox 16,  stop 1, "Sends the agent's own metrics through one `self` receiver.";
    REGISTRAR: "registrar",    Own,  Policy::STANDARD, vital false, mailbox 16, stop 1, "Registers at the platform and says that the agent is there; nobody waits for it.";
    BATCHER:   "batcher",      Own,  QUICK,  vital true,  mailbox 256, stop 2, "Group commit in front of one store.";
    UPLINK:    "uplink",       Own,  QUICK,  vital true,  mailbox 64,  stop 3, "One exporter.";
    KEEPER:    "spool-keeper", Own,  DISK,   vital false, mailbox 16,  stop 4, "Seals, deletes and copies segments of one store.";
    READER:    "spool-reader", Own,  DISK,   vital true,  mailbox 64,  stop 4, "Reads one store.";
    WRITER_:   "spool-writer", Own,  WRITER, vital true,  mailbox 64,  stop 5, "Writes one store.";
    OPAMP:     "opamp",     Own,  Policy::STANDARD, vital false, mailbox 16, stop 6, "Tells an OpAMP server about the agent; nobody waits for it.";
    WEB:       "web",          Own,  ALONE,  vital true,  mailbox 16,  stop 6, "All HTTP ports: OTLP, health, metrics.";
}

/// The table.
#[must_use]
pub fn roster() -> Roster {
    Roster(POSTS)
}

/// The row of a post in the roster that is in force, for [`Supervisor::post`], which wants it from there.
///
/// # Panics
/// For a post that is none of ours.
#[must_use]
pub fn row(supervisor: &Supervisor, post: &Post) -> &'static Post {
    supervisor.lookout().roster().find(post.name).expect("every post of this module is in its table")
}

/// The same posts with deadlines a test can wait for: a hang of an actor is seen after 1 s, of a thread after 2.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn hurried() -> Roster {
    let hurry = |post: &Post| {
        let policy = Policy {
            budget: 100, // the walk makes each of them fall many times, and waits out every pause
            pause: Curve { max: Duration::from_millis(200), ..post.policy.pause },
            heartbeat: Duration::from_millis(50),
            soft_deadline: Duration::from_secs(1),
            hard_deadline: Duration::from_secs(2),
            ..post.policy
        };
        Post { policy, ..post.clone() }
    };
    Roster(Vec::leak(POSTS.iter().map(hurry).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_work() {
        assert_eq!(roster().problems(), Vec::<String>::new());
    }

    /// What a stop depends on: nobody is stopped before those that still hand him work.
    #[test]
    fn the_stop_goes_down_the_data_path() {
        let order = [OTLP_GRPC, BATCHER, UPLINK, READER, WRITER_, WEB].map(|p| p.stop);
        assert!(order.is_sorted(), "{order:?}");
    }
}

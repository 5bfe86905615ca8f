//! The table of posts: who exists, on which thread, how often it may fall, and in which order it stops.

use crate::base::backoff::Curve;
use std::fmt;
use std::time::Duration;

/// One row of the roster: an actor's place, which outlives every actor that fills it.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// As in logs, metrics and thread names, for example `spool-writer`. Linux shows 15 bytes of it for a thread.
    pub name: &'static str,
    /// Whose thread it runs on.
    pub crew: Crew,
    /// What happens when it falls or stands still.
    pub policy: Policy,
    /// Whether the process is worth nothing without it.
    pub vital: bool,
    /// Most messages that may wait for it. An asker beyond that waits for a place; news is refused.
    pub mailbox: usize,
    /// When it is drained at a stop: lower stages first.
    pub stop: Stage,
}

/// A step of the ordered stop; posts of one stage are drained together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stage(pub u8);

/// Whose thread a post runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crew {
    /// The supervisor's own arbiter: the main thread. Nothing there may block.
    Main,
    /// A thread (actix `Arbiter`) of its own, named after the post.
    Own,
}

/// How a post is treated when it falls or stands still.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Rest between a fall and the rebuilding; grows with the falls in the window.
    pub pause: Curve,
    /// Falls within `window` that are borne; one more escalates.
    pub budget: u32,
    /// How long a fall is remembered.
    pub window: Duration,
    /// Rest of a post that is not vital after it escalated; then it starts with a clean record.
    pub long_rest: Duration,
    /// How often the guard looks at its actor. Every look wakes a thread, so this is what idling costs.
    pub heartbeat: Duration,
    /// An actor that handles nothing for so long, its guard's pings included, is rebuilt in place.
    pub soft_deadline: Duration,
    /// A thread that stands still for so long is given up. Generous: symbolising one backtrace takes seconds on ARM.
    pub hard_deadline: Duration,
    /// What giving up a thread means.
    pub on_hang: OnHang,
}

/// What to do about a thread that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHang {
    /// Start a new actor on a new thread behind the same handle; the old one is fenced.
    Replace,
    /// End the process. For whoever owns something exclusively (the spool's writer): a blocked owner that wakes
    /// must not find a second one.
    ExitProcess,
}

impl Policy {
    /// What a post gets unless its row says otherwise.
    ///
    /// A post on the main thread says `on_hang: OnHang::ExitProcess` beside it.
    ///
    /// * Pauses of 0.1 s doubling to 10 s: a bug in one message costs nothing, a broken disk is not hammered.
    /// * Five falls a minute, then a rest of ten minutes: OTP's usual intensity and a rest a person notices.
    /// * A look every 5 s: ten posts then cost about 0.01 % of a core (`tests/supervision/cost.rs` measures).
    pub const STANDARD: Policy = Policy {
        pause: Curve {
            initial: Duration::from_millis(100),
            multiplier: 2.0,
            max: Duration::from_secs(10),
            randomization_factor: 0.2,
        },
        budget: 5,
        window: Duration::from_secs(60),
        long_rest: Duration::from_secs(600),
        heartbeat: Duration::from_secs(5),
        soft_deadline: Duration::from_secs(30),
        hard_deadline: Duration::from_secs(60),
        on_hang: OnHang::Replace,
    };
}

/// All posts of a program.
#[derive(Debug, Clone, Copy)]
pub struct Roster(pub &'static [Post]);

impl Roster {
    /// The row with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Post> {
        self.0.iter().find(|post| post.name == name)
    }

    /// The stages that occur, in the order of the stop.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = self.0.iter().map(|post| post.stop).collect();
        stages.sort_unstable();
        stages.dedup();
        stages
    }

    /// Every mistake a row can hold, as sentences; a roster is code, so a test or the start asserts this is empty.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (n, post) in self.0.iter().enumerate() {
            let Policy { heartbeat, soft_deadline, hard_deadline, on_hang, .. } = post.policy;
            for (wrong, why) in [
                (
                    post.name.is_empty() || post.name.contains('/'),
                    "needs a name without `/`, which parts off an instance",
                ),
                (self.0[..n].iter().any(|other| other.name == post.name), "is there twice"),
                (post.mailbox == 0, "has a mailbox nobody can use"),
                (heartbeat.is_zero(), "has no heartbeat"),
                (
                    soft_deadline < heartbeat * 2,
                    "is called hung before it could answer a ping: soft_deadline < 2 heartbeats",
                ),
                (
                    hard_deadline < heartbeat * 2,
                    "is called blocked between two heartbeats: hard_deadline < 2 heartbeats",
                ),
                (
                    post.crew == Crew::Main && on_hang == OnHang::Replace,
                    "is on the main thread, which cannot be replaced: say ExitProcess",
                ),
            ] {
                if wrong {
                    found.push(format!("post `{}` {why}", post.name));
                }
            }
        }
        found
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Crew::Main => "main",
            Crew::Own => "own",
        })
    }
}

impl fmt::Display for OnHang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OnHang::Replace => "replace",
            OnHang::ExitProcess => "exit",
        })
    }
}

impl fmt::Display for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|post| post.name.len()).max().unwrap_or(0).max("post".len());
        writeln!(
            f,
            "{:width$}  {:6}  {:5}  {:>7}  {:>12}  {:>15}  {:>5}  {:>5}  {:7}  {:>4}",
            "post", "thread", "vital", "mailbox", "falls", "pause", "soft", "hard", "on hang", "stop"
        )?;
        for post in self.0 {
            let Policy { pause, budget, window, soft_deadline, hard_deadline, on_hang, .. } = post.policy;
            writeln!(
                f,
                "{:width$}  {:6}  {:5}  {:>7}  {:>12}  {:>15}  {:>5}  {:>5}  {:7}  {:>4}",
                post.name,
                post.crew,
                if post.vital { "vital" } else { "" },
                post.mailbox,
                format!("{budget} in {window:?}"),
                format!("{:?} to {:?}", pause.initial, pause.max),
                format!("{soft_deadline:?}"),
                format!("{hard_deadline:?}"),
                on_hang,
                post.stop.0,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Post = Post {
        name: "spool-writer",
        crew: Crew::Own,
        policy: Policy { on_hang: OnHang::ExitProcess, hard_deadline: Duration::from_secs(180), ..Policy::STANDARD },
        vital: true,
        mailbox: 256,
        stop: Stage(3),
    };

    #[test]
    fn the_roster_is_a_table_a_person_can_read() {
        static ROSTER: [Post; 2] = [GOOD, Post { name: "uplink", vital: false, stop: Stage(1), ..GOOD }];
        let roster = Roster(&ROSTER);
        assert_eq!(
            roster.to_string(),
            "post          thread  vital  mailbox         falls            pause   soft   hard  on hang  stop\n\
             spool-writer  own     vital      256      5 in 60s     100ms to 10s    30s   180s  exit        3\n\
             uplink        own                256      5 in 60s     100ms to 10s    30s   180s  exit        1\n"
        );
        assert_eq!(roster.stages(), [Stage(1), Stage(3)]);
        assert_eq!(roster.find("uplink").map(|p| p.stop), Some(Stage(1)));
        assert_eq!(roster.problems(), Vec::<String>::new());
    }

    #[test]
    fn a_row_that_cannot_work_is_named() {
        static BAD: [Post; 4] = [
            GOOD,
            GOOD,
            Post { name: "a/b", mailbox: 0, ..GOOD },
            Post {
                name: "m",
                crew: Crew::Main,
                policy: Policy { heartbeat: Duration::from_secs(20), ..Policy::STANDARD },
                ..GOOD
            },
        ];
        let problems = Roster(&BAD).problems();
        for expected in ["is there twice", "without `/`", "nobody can use", "soft_deadline", "cannot be replaced"] {
            assert!(problems.iter().any(|p| p.contains(expected)), "{expected} in {problems:?}");
        }
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}

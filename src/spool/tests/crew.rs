//! The actors around a spool: when they begin.

use super::{fill, open, scratch};
use crate::base::{Clock, Stamp};
use crate::otlp::Signal;
use crate::spool::Store as _;
use crate::spool::crew::{SpoolKeeper, Witness};
use crate::telemetry::health::Health;
use actix::Actor as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir.join("spool")).expect("it is there").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("seg-")).count()
}

/// Whatever can run without time passing.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Goal: housekeeping does not delay a start's first answer (promise P5); where nobody comes it begins all the same.
/// Method: the keeper alone, time virtual; what it does first of all is a spare segment.
#[test]
fn house_is_kept_once_the_first_client_has_its_answer() {
    for client in [true, false] {
        actix_rt::System::new().block_on(async {
            tokio::time::pause();
            let (dir, clock) =
                (scratch(), Clock::by_hand(Stamp { wall_ns: 1_700_000_000_000_000_000, mono_ms: 5_000 }));
            let spool = Arc::new(open(dir.path(), &clock));
            let lane = spool.lane("logs", Signal::Logs);
            let keeper =
                SpoolKeeper { spool: spool.clone(), witness: Witness::new(Health::starting(clock.clone()), "disk") };
            let _keeper = keeper.start();
            let before = segments(dir.path());
            settle().await;
            assert_eq!(segments(dir.path()), before, "it waits for the first client");
            if client {
                fill(&spool, lane, &clock, 1, 0);
            } else {
                tokio::time::advance(Duration::from_millis(249)).await;
            }
            let between = segments(dir.path());
            assert!(client || between == before, "it waits longer for nobody than it said");
            if !client {
                tokio::time::advance(Duration::from_millis(2)).await;
            }
            settle().await;
            assert_eq!(segments(dir.path()), between + 1, "with a client: {client}");
        });
    }
}

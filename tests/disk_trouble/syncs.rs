//! EIO on every kind of sync, on writes and on reads; syncs that take seconds; a disk that is read-only for a while.

use super::injector::{Fate, Rule};
use super::rig::{PATIENCE, Rig, Wish};
use super::{tracee, trouble_time};
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Running, until};

const EIO: Fate = Fate::Fails(libc::EIO);

/// A kind of call, where it is made, and whether nothing can be acknowledged while all of them fail.
struct Kind {
    name: &'static str,
    sites: &'static [&'static str],
    holds_up: bool,
    /// The far end takes data, so that segments are consumed; else they are sealed.
    drains: bool,
}

#[rustfmt::skip]
const SYNCS: &[Kind] = &[
    Kind { name: "commit",               sites: &["sync spool/seg/0.jnl by spool-writer"],                 holds_up: true,  drains: false },
    Kind { name: "books before a deletion", sites: &["sync spool/seg/0.jnl by spool-keeper"],              holds_up: false, drains: true },
    Kind { name: "spool directory",      sites: &["sync spool by *"],                                      holds_up: false, drains: false },
    Kind { name: "new segment: directory", sites: &["sync spool/seg by *", "sync spool/seg/keyspaces by *"], holds_up: false, drains: false },
    Kind { name: "new segment: marker",  sites: &["sync spool/seg/version by *"],                          holds_up: false, drains: false },
    Kind { name: "new segment: fjall's notes", sites: &["sync spool/seg/keyspaces/0*"],                    holds_up: false, drains: false },
    Kind { name: "seal: table",          sites: &["sync spool/seg/keyspaces/1/tables/<table> by fjall*"],  holds_up: false, drains: false },
    Kind { name: "seal: names",          sites: &["sync spool/seg/keyspaces/1 by fjall*", "sync spool/seg/keyspaces/1/tables by fjall*"], holds_up: false, drains: false },
    Kind { name: "seal: list of tables", sites: &["sync spool/seg/keyspaces/1/v<n> by fjall*", "sync spool/seg/keyspaces/1/<tmp> by fjall*", "sync spool/seg/keyspaces/1/current by fjall*"], holds_up: false, drains: false },
    Kind { name: "seal: journal",        sites: &["sync spool/seg/0.jnl by fjall*", "sync spool/seg/0.jnl by spool-keeper"], holds_up: false, drains: false },
    Kind { name: "opening to read",      sites: &["sync spool/seg/0.jnl by spool-reader"],                 holds_up: false, drains: true },
];

/// Waits until a rule hit something.
async fn is_provoked(rig: &Rig, name: &str, times: u64) {
    let provoked = until(PATIENCE, || rig.injector.hits() >= times || !rig.is_alive()).await;
    assert!(
        provoked && rig.is_alive(),
        "{name}: provoked {} times; alive {}\n{}",
        rig.injector.hits(),
        rig.is_alive(),
        rig.log()
    );
}

/// While nothing can be acknowledged nothing is.
async fn is_held_up(rig: &Rig, load: &Running, name: &str, time: Duration) {
    tokio::time::sleep(Duration::from_millis(200)).await; // answers to what was synced before
    let (acknowledged, refused) = (load.acknowledged(), load.refused());
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(load.acknowledged(), acknowledged, "{name}: acknowledged without a sync");
        assert!(rig.is_alive(), "{name}: {}", rig.log());
    }
    assert!(load.refused() > refused, "{name}: clients hear that they should come back");
    rig.health_says("file_storage: data cannot be kept").await;
}

/// Goal: a sync that fails, once or for a while, is nobody's acknowledgement. Clients are asked to come back, what failed is
/// never written again, the agent goes on in a new segment, and after a kill -9 nothing acknowledged is missing.
#[actix::test]
async fn a_sync_that_fails_acknowledges_nothing_and_costs_nothing() {
    if !tracee::is_allowed() {
        return;
    }
    let mut rig = Rig::start(Wish::USUAL).await;
    let load = rig.load();
    for kind in SYNCS {
        rig.far_end.play(if kind.drains { Script::new() } else { Script::new().always(Act::Refuse) });
        rig.takes(&load, 1_000).await;
        rig.injector.set(Rule::new(kind.sites, EIO).times(1));
        is_provoked(&rig, kind.name, 1).await;
        rig.takes(&load, 1_000).await;
        rig.health_is_well().await;
        rig.injector.set(Rule::new(kind.sites, EIO));
        is_provoked(&rig, kind.name, 1).await;
        if kind.holds_up {
            is_held_up(&rig, &load, kind.name, trouble_time()).await;
        } else {
            tokio::time::sleep(trouble_time()).await;
        }
        println!("EIO on sync, {}: once, and {} times in {:?}", kind.name, rig.injector.hits(), trouble_time());
        rig.injector.lift();
        rig.takes(&load, 1_000).await;
        rig.health_is_well().await;
        rig.kill_and_begin().await;
    }
    rig.takes(&load, 1_000).await;
    rig.ends_well(&[&load], &[]).await;
}

#[rustfmt::skip]
const WRITES: &[Kind] = &[
    Kind { name: "commit",         sites: &["write spool/seg/0.jnl by spool-writer"], holds_up: true, drains: false },
    Kind { name: "cursors",        sites: &["write spool/seg/0.jnl by spool-reader"], holds_up: false, drains: true },
    Kind { name: "books",          sites: &["write spool/seg/0.jnl by spool-keeper"], holds_up: false, drains: true },
    Kind { name: "new segment",    sites: &["write spool/seg/version by *", "write spool/seg/keyspaces/0*"], holds_up: false, drains: false },
    Kind { name: "seal: table",    sites: &["write spool/seg/keyspaces/1* by fjall*", "write spool/seg/keyspaces/1/tables/<table> by fjall:worker"], holds_up: false, drains: false },
    Kind { name: "marks in slots", sites: &["write spool/slots by spool-reader", "write spool/slots by uplink"], holds_up: false, drains: true },
    Kind { name: "truncation",     sites: &["length spool/seg/0.jnl by *"], holds_up: false, drains: false },
];

/// The same for write(2) and ftruncate(2).
#[actix::test]
async fn a_write_that_fails_acknowledges_nothing_and_costs_nothing() {
    if !tracee::is_allowed() {
        return;
    }
    let mut rig = Rig::start(Wish::USUAL).await;
    let load = rig.load();
    for kind in WRITES {
        rig.far_end.play(if kind.drains { Script::new() } else { Script::new().always(Act::Refuse) });
        rig.takes(&load, 1_000).await;
        rig.injector.set(Rule::new(kind.sites, EIO));
        is_provoked(&rig, kind.name, 1).await;
        if kind.holds_up {
            is_held_up(&rig, &load, kind.name, trouble_time()).await;
        } else {
            tokio::time::sleep(trouble_time()).await;
        }
        println!("EIO on write, {}: {} times in {:?}", kind.name, rig.injector.hits(), trouble_time());
        rig.injector.lift();
        rig.takes(&load, 1_000).await;
        rig.health_is_well().await;
        rig.kill_and_begin().await;
    }
    rig.ends_well(&[&load], &[]).await;
}

/// Goal: a disk that does not give for a while what it holds costs time and no data: it is asked again before what it does
/// not give counts as lost.
#[actix::test]
async fn reads_that_fail_for_a_while_lose_nothing() {
    if !tracee::is_allowed() {
        return;
    }
    let mut rig = Rig::start(Wish { reads: true, rate: 2_000, ..Wish::USUAL }).await;
    let load = rig.load();
    rig.takes(&load, 20_000).await; // several sealed segments
    for (name, sites) in [
        ("tables", &["read spool/seg/keyspaces/1/tables/<table> by spool-reader"] as &[&str]),
        ("opening", &["read spool/seg/* by spool-reader"]),
        ("looking", &["look spool/seg/* by spool-reader"]),
    ] {
        rig.injector.set(Rule::new(sites, EIO));
        rig.far_end.play(Script::new());
        is_provoked(&rig, name, 2).await;
        tokio::time::sleep(trouble_time()).await;
        println!("EIO on read, {name}: {} times in {:?}", rig.injector.hits(), trouble_time());
        rig.injector.lift();
        rig.far_end.play(Script::new().always(Act::Refuse));
        rig.takes(&load, 6_000).await;
    }
    rig.ends_well(&[&load], &[]).await;
}

/// Everything that changes a file or a directory below the spool.
const CHANGES: &[&str] =
    &["write spool*", "sync spool*", "length spool*", "make spool*", "open spool*", "rename spool*", "remove spool*"];

/// Goal: a disk that is read-only for a while refuses with a reason, in health and in the log, and data is taken again by
/// itself.
#[actix::test]
async fn a_disk_that_is_read_only_for_a_while_is_told_and_forgotten() {
    if !tracee::is_allowed() {
        return;
    }
    let mut rig = Rig::start(Wish::USUAL).await;
    let load = rig.load();
    rig.takes(&load, 10_000).await;
    for kill in [false, true] {
        let changes: Vec<&str> = CHANGES.iter().copied().filter(|site| !site.starts_with("sync")).collect();
        rig.injector.set(Rule::new(&changes, Fate::Fails(libc::EROFS)));
        is_provoked(&rig, "read-only", 1).await;
        is_held_up(&rig, &load, "read-only", trouble_time() * 2).await;
        rig.health_says("Read-only file system").await;
        assert!(rig.log().contains("Data cannot be kept"), "{}", rig.log());
        println!("EROFS: {} calls", rig.injector.hits());
        rig.injector.lift();
        rig.takes(&load, 2_000).await;
        rig.health_is_well().await;
        if kill {
            rig.kill_and_begin().await;
        }
        rig.far_end.play(Script::new().always(Act::Refuse));
        rig.takes(&load, 2_000).await;
    }
    rig.ends_well(&[&load], &[]).await;
}

/// Goal: syncs of 3 s are slow and nothing else; with 7 s health is degraded and what is offered is refused at once, from 5 s
/// on. Nobody is given up, nothing is lost, and it is well when the disk is.
#[actix::test]
async fn a_disk_that_takes_seconds_for_a_sync_loses_nothing_and_nobody() {
    if !tracee::is_allowed() {
        return;
    }
    let mut rig = Rig::start(Wish::USUAL).await;
    let load = rig.load();
    rig.takes(&load, 2_000).await;
    let pid = rig.life().pid();
    rig.injector.set(Rule::new(&["sync spool*"], Fate::Slow(Duration::from_secs(3))));
    let (acknowledged, refused, began) = (load.acknowledged(), load.refused(), Instant::now());
    while began.elapsed() < Duration::from_secs(8) {
        assert!(!rig.health().await.contains("longer than 5 s"), "3 s are no stall");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(load.acknowledged() > acknowledged, "slowly, but it is taken");
    assert_eq!(load.refused(), refused, "nobody is sent away");
    println!("slow: {} syncs of 3 s", rig.injector.hits());
    rig.injector.lift();
    rig.takes(&load, 1_000).await;
    rig.injector.set(Rule::new(&["sync spool*"], Fate::Slow(Duration::from_secs(7))));
    rig.health_says("longer than 5 s").await;
    let began = Instant::now();
    let late = rig.load_from(21);
    assert!(until(Duration::from_secs(1), || late.refused() > 0).await, "refused at once, not after 7 s");
    tokio::time::sleep(Duration::from_secs(8).saturating_sub(began.elapsed())).await;
    println!("slow: {} syncs of 7 s", rig.injector.hits());
    rig.injector.lift();
    rig.takes(&load, 1_000).await;
    rig.health_is_well().await;
    assert_eq!(rig.life().pid(), pid, "nobody was given up");
    rig.ends_well(&[&load, &late], &[]).await;
}

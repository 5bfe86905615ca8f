//! No space, for one kind of write after the other. `tests/disk_full.rs` does the same with disks that are full; here each kind
//! of write meets it for certain.

use super::injector::{Fate, Rule};
use super::rig::{PATIENCE, Rig, Wish};
use super::{tracee, trouble_time};
use std::time::{Duration, Instant};
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::{Running, until};

const FULL: Fate = Fate::Fails(libc::ENOSPC);

/// How a kind of write is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Data that comes in, while the far end is away.
    Backlog,
    /// A far end that takes it.
    Delivery,
    /// A far end that is there and away, so that segments are consumed in part.
    Weather,
    /// SIGHUP with another configuration.
    Reload,
    /// The next start, after a kill.
    Start,
    /// SIGTERM.
    Stop,
}

#[rustfmt::skip]
const WRITES: &[(&str, By, &[&str])] = &[
    ("commit",                   By::Backlog,  &["write spool/seg/0.jnl by spool-writer"]),
    ("segment: directory",       By::Backlog,  &["make spool/seg by *", "make spool/seg/keyspaces*"]),
    ("segment: journal",         By::Backlog,  &["make spool/seg/0.jnl by *", "length spool/seg/0.jnl by spool-*"]),
    ("segment: fjall's notes",   By::Backlog,  &["write spool/seg/version by *", "write spool/seg/keyspaces/0*"]),
    ("segment: the spare one",   By::Backlog,  &["make spool/seg* by spool-keeper", "write spool/seg/version by spool-keeper"]),
    ("segment: current",         By::Backlog,  &["rename spool/seg/keyspaces/0/<tmp> by *"]),
    ("seal: table",              By::Backlog,  &["make spool/seg/keyspaces/1/tables* by fjall*", "write spool/seg/keyspaces/1/tables* by fjall*"]),
    ("seal: list of tables",     By::Backlog,  &["write spool/seg/keyspaces/1/v<n> by fjall*", "rename spool/seg/keyspaces/1/<tmp> by fjall*"]),
    ("seal: journal",            By::Backlog,  &["length spool/seg/0.jnl by spool-keeper"]),
    ("summary",                  By::Backlog,  &["make spool/seg/summary.tmp by *", "write spool/seg/summary.tmp by *", "rename spool/seg/summary.tmp by *"]),
    ("cursors",                  By::Delivery, &["write spool/seg/0.jnl by spool-reader"]),
    ("books before a deletion",  By::Delivery, &["write spool/seg/0.jnl by spool-keeper"]),
    ("deletion",                 By::Delivery, &["rename spool/seg by *", "remove spool/trash*"]),
    ("attempt",                  By::Delivery, &["make spool/seg/attempt by *", "write spool/seg/attempt by *"]),
    ("marks in slots",           By::Delivery, &["write spool/slots by spool-reader", "write spool/slots by uplink"]),
    ("copy forward",             By::Weather,  &["make spool/copy*", "write spool/copy*"]),
    ("last good configuration",  By::Reload,   &["make last-good.new by *", "write last-good.new by *"]),
    ("log",                      By::Reload,   &["write own.log by *", "write agent.log by *"]),
    ("lock",                     By::Start,    &["write spool/lock by *"]),
    ("reserve",                  By::Start,    &["make spool/reserve*", "length spool/reserve*", "write spool/reserve*"]),
    ("slots at a stop",          By::Stop,     &["write spool/slots by *"]),
];

/// Brings the kind about until the rule has hit, and a while longer.
async fn provoke(rig: &mut Rig, load: &Running, by: By, name: &str, round: u32) {
    let end = Instant::now() + PATIENCE;
    match by {
        By::Backlog | By::Weather => rig.far_end.play(Script::new().always(Act::Refuse)),
        By::Delivery => rig.far_end.play(Script::new()),
        By::Reload => {
            rig.configure(100 + round);
            rig.life().reload();
        }
        By::Start => rig.kill_and_begin_failing().await,
        By::Stop => {
            rig.stop(74).await; // not everything could be said to the next start: `src/app/stop.rs`
            let hits = rig.injector.hits();
            assert!(hits > 0, "{name}");
            rig.injector.lift();
            rig.begin().await;
            return;
        }
    }
    // How long it must be fair until a segment is mostly consumed and not wholly depends on the machine: short and long by turns.
    let mut spells = [100, 300, 900, 300].into_iter().cycle();
    let mut fair = false;
    while rig.injector.hits() == 0 {
        assert!(
            rig.is_alive() && Instant::now() < end,
            "{name} was not provoked; alive {}\n{}",
            rig.is_alive(),
            rig.log()
        );
        let spell = if by == By::Weather { spells.next().unwrap_or(300) } else { 20 };
        tokio::time::sleep(Duration::from_millis(spell)).await;
        if by == By::Weather {
            fair = !fair;
            rig.far_end.play(if fair { Script::new() } else { Script::new().always(Act::Refuse) });
        }
    }
    tokio::time::sleep(trouble_time() / 2).await;
    assert!(load.acknowledged() > 0 && rig.is_alive(), "{name}: {}", rig.log());
}

/// Goal: ENOSPC at every kind of write neither ends nor blocks the agent, loses nothing that was acknowledged, and is over when it
/// is over.
/// Method: by `when_full: refuse`, so that nothing may be lost at all.
#[actix::test]
async fn no_space_at_any_kind_of_write_costs_nothing_and_passes() {
    if !tracee::is_allowed() {
        return;
    }
    let wish = Wish { storage: "max_size_mib: 128, when_full: refuse", ..Wish::USUAL };
    let mut rig = Rig::start(wish).await;
    let load = rig.load();
    rig.takes(&load, 5_000).await;
    for (round, (name, by, sites)) in (1..).zip(WRITES) {
        if *name == "reserve" {
            std::fs::remove_file(rig.spool().join("reserve")).expect("it was set by");
        }
        if *by == By::Delivery {
            rig.far_end.play(Script::new().always(Act::Refuse));
            rig.takes(&load, 5_000).await; // sealed segments, which must be opened again
        }
        let pid = rig.life().pid();
        rig.injector.set(Rule::new(sites, FULL));
        provoke(&mut rig, &load, *by, name, round).await;
        assert!(matches!(by, By::Start | By::Stop) || rig.life().pid() == pid, "{name}: the same process");
        println!("ENOSPC, {name}: {} times", rig.injector.hits());
        rig.injector.lift();
        rig.takes(&load, 1_000).await;
        rig.health_is_well().await;
    }
    rig.far_end.play(Script::new());
    assert!(until(PATIENCE, || rig.spool().join("reserve").exists()).await, "room is set by again");
    rig.ends_well(&[&load], &[]).await;
}

/// With `drop_oldest` the oldest gives way when a commit finds no space, whatever the limits say: at most one segment for each
/// commit that failed.
#[actix::test]
async fn when_a_commit_finds_no_space_the_oldest_gives_way() {
    if !tracee::is_allowed() {
        return;
    }
    let wish = Wish { storage: "max_size_mib: 512, min_free_mib: 0, when_full: drop_oldest", ..Wish::USUAL };
    let mut rig = Rig::start(wish).await;
    let load = rig.load();
    rig.takes(&load, 20_000).await;
    rig.injector.set(Rule::new(&["write spool/seg/0.jnl by spool-writer"], FULL));
    let end = Instant::now() + PATIENCE;
    while rig.metric("tfo_agent_items_lost").await == 0 {
        assert!(Instant::now() < end, "nothing gives way\n{}", rig.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let hits = rig.injector.hits();
    rig.injector.lift();
    rig.takes(&load, 2_000).await;
    rig.health_is_well().await;
    rig.ends_well(&[&load], &["evicted"]).await;
    let lost = rig.metric("tfo_agent_items_lost").await;
    println!("{hits} commits without space: {lost} items evicted");
    assert!((1..20_000).contains(&lost), "the oldest gave way, and not all: {lost}");
}

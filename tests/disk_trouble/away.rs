//! The spool's directory is removed under the running agent, moved away, brought back, or replaced.

use super::rig::{PATIENCE, Rig, Wish};
use super::tracee;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::load::until;

const ANEW: &str = "the spool goes on in a new one";

/// How often that was said.
fn times_anew(rig: &Rig) -> usize {
    fs::read_to_string(rig.path("own.log")).unwrap_or_default().matches(ANEW).count()
}

/// A backlog of sealed segments, and the far end away.
async fn with_backlog() -> (Rig, tfo_otel_agent::testing::load::Running) {
    let rig = Rig::start(Wish::USUAL).await;
    let load = rig.load();
    rig.takes(&load, 15_000).await;
    (rig, load)
}

/// The directory is there again and is the agent's alone, with what it needs for the next start.
async fn is_whole(rig: &Rig) {
    let there = || ["slots", "lock"].iter().all(|name| rig.spool().join(name).is_file());
    assert!(until(PATIENCE, there).await, "{}", rig.log());
    let mode = fs::metadata(rig.spool()).expect("made anew").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// Goal: after `rm -rf` the agent goes on in a new directory; what was acknowledged and removed is told as lost to corruption,
/// to the item; what comes later is safe, over a kill -9 too.
#[actix::test]
async fn a_directory_that_is_removed_is_made_anew_and_what_was_in_it_is_counted() {
    if !tracee::is_allowed() {
        return;
    }
    let (mut rig, load) = with_backlog().await;
    for time in 1..=2 {
        while fs::remove_dir_all(rig.spool()).is_err() {} // somebody puts files in while it is emptied
        assert!(until(PATIENCE, || times_anew(&rig) >= time).await, "{}", rig.log());
        rig.takes(&load, 10_000).await;
        rig.health_is_well().await;
        is_whole(&rig).await;
    }
    // What lies in the new directory is found by the next life, and is nobody's loss.
    rig.kill_and_begin().await;
    rig.takes(&load, 2_000).await;
    rig.ends_well(&[&load], &["corrupt"]).await;
    let lost = rig.metric("tfo_agent_items_lost").await;
    println!("removed twice: {lost} items told as lost");
    assert!(lost > 0, "what was removed is told");
}

/// The same without a client: housekeeping misses the directory.
#[actix::test]
async fn a_directory_that_is_removed_is_missed_without_a_client_too() {
    if !tracee::is_allowed() {
        return;
    }
    let (mut rig, load) = with_backlog().await;
    load.stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    while fs::remove_dir_all(rig.spool()).is_err() {}
    assert!(until(PATIENCE, || times_anew(&rig) >= 1).await, "{}", rig.log());
    rig.health_is_well().await;
    is_whole(&rig).await;
    rig.ends_well(&[&load], &["corrupt"]).await;
}

/// Goal: a directory that is moved away is made anew, and one that comes back is taken up again: nothing in it is lost that was
/// not counted while it was away.
#[actix::test]
async fn a_directory_that_is_moved_away_and_comes_back_is_taken_up_again() {
    if !tracee::is_allowed() {
        return;
    }
    let (mut rig, load) = with_backlog().await;
    let away = rig.path("away");
    fs::rename(rig.spool(), &away).expect("the same disk");
    assert!(until(PATIENCE, || times_anew(&rig) == 1).await, "{}", rig.log());
    let before = load.acknowledged();
    rig.takes(&load, 5_000).await;
    is_whole(&rig).await;
    let meanwhile = load.acknowledged() + 1_000 - before; // and what was under way
    // The far end is still away, so nobody missed anything yet. What came in meanwhile lies in the other one.
    fs::rename(rig.spool(), rig.path("meanwhile")).expect("the same disk");
    fs::rename(&away, rig.spool()).expect("the same disk");
    assert!(until(PATIENCE, || times_anew(&rig) == 2).await, "{}", rig.log());
    rig.takes(&load, 5_000).await;
    rig.health_is_well().await;
    rig.ends_well(&[&load], &["corrupt"]).await;
    let lost = rig.metric("tfo_agent_items_lost").await;
    println!("moved away and back: {lost} items told as lost of {meanwhile} that came in meanwhile");
    assert!(lost <= meanwhile, "the backlog is there again: {lost} of {meanwhile}");
}

/// Goal: in place of the directory an empty one, a file, or another spool. The first is taken; the others are not touched, data
/// is refused with the reason in health until they are gone, and nobody falls.
#[actix::test]
async fn a_directory_that_is_replaced_is_taken_or_refused_with_the_reason() {
    if !tracee::is_allowed() {
        return;
    }
    let (mut rig, load) = with_backlog().await;
    // Another spool: one of another agent that ran here.
    let mut other = Rig::start(Wish::USUAL).await;
    let its_load = other.load();
    other.takes(&its_load, 2_000).await;
    other.ends_well(&[&its_load], &[]).await;
    other.stop(0).await;

    let gone = rig.path("gone");
    fs::create_dir(rig.path("empty")).expect("space");
    fs::rename(rig.spool(), &gone).expect("the same disk");
    fs::rename(rig.path("empty"), rig.spool()).or_else(|_| fs::create_dir_all(rig.spool())).expect("space");
    assert!(until(PATIENCE, || times_anew(&rig) == 1).await, "{}", rig.log());
    rig.takes(&load, 5_000).await;

    // A file: the directory is swapped for it in one step, as far as anybody can see.
    let swap = |with: &std::path::Path, to: &str| loop {
        let _ = fs::rename(rig.spool(), rig.path(to));
        if fs::rename(with, rig.spool()).is_ok() {
            return;
        }
        let _ = fs::remove_dir_all(rig.path(to));
    };
    fs::write(rig.path("file"), b"nobody's").expect("space");
    swap(&rig.path("file"), "before-the-file");
    rig.health_says("data cannot be kept").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.is_alive(), "{}", rig.log());
    assert_eq!(fs::read(rig.spool()).expect("not touched"), b"nobody's");
    fs::remove_file(rig.spool()).expect("it is there");
    rig.takes(&load, 2_000).await;
    rig.health_is_well().await;

    swap(&other.spool(), "before-the-other");
    rig.health_says("another spool's data").await;
    let held: Vec<_> = fs::read_dir(rig.spool()).expect("there").flatten().map(|e| e.file_name()).collect();
    assert!(held.iter().any(|name| name.to_string_lossy().starts_with("seg-")), "not touched: {held:?}");
    fs::rename(rig.spool(), rig.path("the-other")).expect("the same disk");
    rig.takes(&load, 2_000).await;
    rig.health_is_well().await;
    is_whole(&rig).await;
    rig.far_end.play(Script::new().always(Act::Refuse));
    rig.ends_well(&[&load], &["corrupt"]).await;
}

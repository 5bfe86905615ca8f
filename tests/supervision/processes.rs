//! Exit codes, of real processes: this test binary starts itself again as a small agent.

use crate::toys::*;
use actix::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tfo_otel_agent::supervise::{Exit, Handle, Roster, Settings, Signals, Supervisor, install_hook};

/// Which part the child plays.
const PART: &str = "TFO_SUPERVISION_TEST_PART";

fn start(part: &str) -> (Child, impl FnMut(&str)) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "processes::the_child", "--ignored", "--nocapture"])
        .env(PART, part)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let wait_for = move |text: &str| {
        let said = lines.by_ref().map_while(Result::ok).find(|line| line.contains(text));
        assert!(said.is_some(), "the child says `{text}` before it ends");
    };
    (child, wait_for)
}

fn code(mut child: Child) -> Option<i32> {
    child.wait().expect("it ends").code()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

#[test]
fn the_first_signal_stops_in_order_with_zero() {
    for sent in [Signal::TERM, Signal::INT] {
        let (child, mut wait_for) = start("obedient");
        wait_for("ready");
        signal(&child, sent);
        assert_eq!(code(child), Some(i32::from(Exit::Clean.code())), "{sent:?}");
    }
}

#[test]
fn the_second_signal_does_not_wait_for_an_ordered_stop() {
    for (sent, exit) in [(Signal::TERM, Exit::Terminated), (Signal::INT, Exit::Interrupted)] {
        let (child, mut wait_for) = start("slow to stop");
        wait_for("ready");
        signal(&child, sent);
        wait_for("stopping");
        signal(&child, sent);
        assert_eq!(code(child), Some(i32::from(exit.code())), "{sent:?}");
    }
}

#[test]
fn a_blocked_main_thread_exits_71_and_an_escalation_70() {
    for (part, exit) in [("blocked", Exit::Blocked), ("escalating", Exit::Escalated)] {
        let (child, mut wait_for) = start(part);
        wait_for("ready");
        assert_eq!(code(child), Some(i32::from(exit.code())), "{part}");
    }
}

/// Not a test: the process the tests above start. The supervisor is the real one, its last resort included.
#[test]
#[ignore = "the child of the tests of this file"]
fn the_child() {
    let Ok(part) = std::env::var(PART) else { return };
    install_hook();
    System::new().block_on(async move {
        let settings = Settings { main_deadline: MS(30_000), grace: MS(1_000), ..Settings::default() };
        let mut supervisor = Supervisor::start(Roster(&ROSTER), settings).expect("a watchdog");
        let lives = Arc::default();
        let handle: Handle<Worker> = supervisor.post(row("strict"), "", worker(&lives));
        actix_rt::spawn(Signals::listen().expect("signals can be heard").obey(supervisor.lookout()));
        assert!(handle.ask(Add).await.is_ok());
        println!("\nready");
        match part.as_str() {
            "blocked" => handle.tell(BlockFor(MS(60_000))).expect("room"),
            "escalating" => (0..4).for_each(|_| handle.tell(Blow(Bomb::Handler)).expect("room")),
            _ => {}
        }
        let end = supervisor.run_until_end().await;
        println!("\nstopping: {end}");
        if part == "slow to stop" {
            std::future::pending::<()>().await;
        }
        supervisor.drain(MS(1_000)).await;
        end.exit().now()
    });
}

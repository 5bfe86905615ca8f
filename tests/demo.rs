//! The demo is a proof only if it can fail: with the real binary, once as a user runs it, once with an agent that dies.

use std::process::{Command, Output};

fn demo(args: &[&str], sabotage: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tfo-otel-agent"));
    command.arg("demo").args(args);
    // Orders to the agent it starts, see `app::run`.
    if let Some(order) = sabotage {
        command.env("TFO_TEST_ROSTER", "hurried").env("TFO_TEST_SABOTAGE", order);
    }
    command.output().expect("the binary cargo built for this test")
}

#[test]
fn the_demo_ends_with_what_the_far_end_counted() {
    let shown = demo(&["--seconds", "6", "--rate", "2000"], None);
    let said = String::from_utf8(shown.stdout).expect("text");
    let errors = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert_eq!(shown.status.code(), Some(0), "{said}{errors}");
    assert_eq!(errors, "", "quiet in a pipe");
    let line = said.trim_end();
    let accepted =
        line.strip_prefix("accepted ").and_then(|rest| rest.split(',').next()).expect("the count").to_owned();
    assert!(accepted.parse::<u64>().is_ok_and(|n| n > 1_000), "{line}");
    assert!(line.starts_with(&format!("accepted {accepted}, delivered {accepted}, lost 0, duplicates ")), "{line}");
}

#[test]
fn a_demo_that_proves_nothing_says_so() {
    let shown = demo(&["--seconds", "5", "--rate", "2000", "--json"], Some("uplink/otlphttp guard"));
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let errors = String::from_utf8_lossy(&shown.stderr);
    assert!(errors.contains("the agent ended by itself") || errors.contains("not proved"), "{errors}");
}

//! The log as `main` installs it: once for the process, so this file has one test.

use std::time::Duration;
use tfo_otel_agent::base::Clock;
use tfo_otel_agent::telemetry::logs::{LogError, LogSettings, Logs};
use tracing::{debug, info};
use tracing_log::log;

/// As our own modules speak; this file is another crate.
const OURS: &str = "tfo_otel_agent::test";

struct Chatty;

impl std::fmt::Display for Chatty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        info!(target: OURS, inner = 1, "asked");
        f.write_str("chatty")
    }
}

#[test]
fn once_installed_it_hears_us_and_the_warnings_of_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("agent.log");
    let settings = LogSettings {
        output_paths: vec![path.to_str().expect("a temporary path is text").to_owned()],
        disable_caller: true,
        ..LogSettings::default()
    };
    let logs = Logs::install(&settings, &Clock::system()).expect("nobody was before us");

    info!(target: OURS, "ours");
    debug!(target: OURS, "below the level");
    info!("of another crate");
    log::warn!(target: "fjall::journal", "journal is {} bytes", 7);
    log::info!(target: "fjall::journal", "chatter");
    // A value that logs while it is being written comes in a second time on the same thread.
    info!(target: OURS, before = 0, value = %Chatty, after = 2, "outer");
    std::thread::spawn(|| info!(target: OURS, "from a thread")).join().expect("it only logs");

    assert!(logs.flush(Duration::from_secs(10)));
    let said = std::fs::read_to_string(&path).expect("written");
    let lines: Vec<&str> = said.lines().map(|line| line.split_once('\t').expect("columns").1).collect();
    assert_eq!(
        lines,
        [
            "info\tours",
            "warn\tfjall::journal\tjournal is 7 bytes",
            "info\tasked\t{\"inner\": 1}",
            "info\touter\t{\"before\": 0, \"value\": \"chatty\", \"after\": 2}",
            "info\tfrom a thread",
        ]
    );
    assert!(matches!(Logs::install(&settings, &Clock::system()), Err(LogError::Installed)));
}

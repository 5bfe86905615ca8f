//! The log from `info!` to the file.

use super::*;
use crate::base::Stamp;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use tempfile::TempDir;
use tracing::{debug, error, info, info_span, trace, warn};

/// 2026-11-23T05:42:41.5Z; half a second is a number that a double holds exactly.
const NOW: Stamp = Stamp { wall_ns: 1_795_412_561_500_000_000, mono_ms: 1_000 };

struct World {
    dir: TempDir,
    clock: Clock,
    logs: Logs,
    subscriber: tracing::Dispatch,
}

impl World {
    /// A log into one file, and troubles into another.
    fn with(change: impl FnOnce(&mut LogSettings, &Path)) -> World {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("a temporary path is text").to_owned();
        let mut settings = LogSettings {
            output_paths: vec![path("agent.log")],
            error_output_paths: vec![path("errors.log")],
            zone: Zone::Utc,
            ..LogSettings::default()
        };
        change(&mut settings, dir.path());
        let clock = Clock::by_hand(NOW);
        let (logs, layer) = Logs::start(&settings, &clock).expect("a thread");
        let subscriber = tracing::Dispatch::new(tracing_subscriber::registry().with(layer));
        World { dir, clock, logs, subscriber }
    }

    fn says(&self, what: impl FnOnce()) -> String {
        let before = self.read("agent.log").len();
        tracing::dispatcher::with_default(&self.subscriber, what);
        self.read("agent.log")[before..].to_owned()
    }

    fn read(&self, name: &str) -> String {
        assert!(self.logs.flush(Duration::from_secs(10)), "the writer is stuck");
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

fn console() -> World {
    World::with(|_, _| ())
}

#[derive(Debug, thiserror::Error)]
#[error("spool store is unavailable")]
struct Unavailable(#[source] io::Error);

/// Goal: what components say comes out in the shape of the original, in both encodings.
#[test]
fn an_event_becomes_a_line_of_the_original() {
    let line = std::cell::Cell::new(0);
    let said = || {
        let span = info_span!("component", kind = "exporter", name = "otlphttp", lives = tracing::field::Empty);
        span.record("lives", 2);
        let error = Unavailable(io::Error::other("no space left on device"));
        line.set(line!() + 1);
        error!(
            parent: &span,
            error = &error as &dyn std::error::Error,
            interval = 1.5,
            items = 7_u64,
            delta = -7_i64,
            id = 1_u128 << 100,
            parked = true,
            from = %"up\n",
            range = ?(1, 2),
            "resource spans" = 2,
            r#type = "x",
            "batch \"{}\" was parked\tonce", 7
        );
    };
    let console = console().says(said);
    let line = line.get();
    assert_eq!(
        console,
        format!(
            "2026-11-23T05:42:41.500Z\terror\tlogs/tests.rs:{line}\tbatch \"7\" was parked\\tonce\t{{\"kind\": \"exporter\", \
             \"name\": \"otlphttp\", \"lives\": 2, \"error\": \"spool store is unavailable: no space left on device\", \
             \"interval\": 1.5, \"items\": 7, \"delta\": -7, \"id\": 1267650600228229401496703205376, \"parked\": true, \
             \"from\": \"up\\n\", \"range\": \"(1, 2)\", \"resource spans\": 2, \"type\": \"x\"}}\n"
        )
    );
    let json = World::with(|settings, _| {
        settings.encoding = Encoding::Json;
        settings.initial_fields = BTreeMap::from([("site".into(), serde_json::json!({"no": 7}))]);
    })
    .says(said);
    assert_eq!(
        json,
        format!(
            "{{\"level\":\"error\",\"ts\":1795412561.5,\"caller\":\"logs/tests.rs:{line}\",\
             \"msg\":\"batch \\\"7\\\" was parked\\tonce\",\"site\":{{\"no\":7}},\"kind\":\"exporter\",\
             \"name\":\"otlphttp\",\"lives\":2,\"error\":\"spool store is unavailable: no space left on device\",\
             \"interval\":1.5,\"items\":7,\"delta\":-7,\"id\":1267650600228229401496703205376,\"parked\":true,\
             \"from\":\"up\\n\",\"range\":\"(1, 2)\",\"resource spans\":2,\"type\":\"x\"}}\n"
        )
    );
}

/// The last line of the measured start of the original, but for its caller.
#[test]
fn a_line_without_fields_ends_with_its_message() {
    let world = World::with(|settings, _| settings.disable_caller = true);
    let said = world.says(|| info!("Everything is ready. Begin running and processing data."));
    assert_eq!(said, "2026-11-23T05:42:41.500Z\tinfo\tEverything is ready. Begin running and processing data.\n");
}

#[test]
fn nearer_context_is_written_later_and_wins() {
    let said = console().says(|| {
        let outer = info_span!("pipeline", pipeline = "traces", name = "outer");
        let inner = info_span!(parent: &outer, "component", name = "batch");
        info!(parent: &inner, "x");
        inner.in_scope(|| info!(name = "own", "y"));
    });
    let fields: Vec<&str> = said.lines().map(|line| line.rsplit('\t').next().expect("columns")).collect();
    assert_eq!(fields, [r#"{"pipeline": "traces", "name": "batch"}"#, r#"{"pipeline": "traces", "name": "own"}"#]);
}

#[test]
fn our_lines_are_heard_from_the_level_up_and_those_of_others_from_warn_up() {
    for (level, ours, others) in [
        (Severity::Debug, "debug info warn error", "warn error"),
        (Severity::Info, "info warn error", "warn error"),
        (Severity::Warn, "warn error", "warn error"),
        (Severity::Error, "error", "error"),
        (Severity::Fatal, "", ""),
    ] {
        let world = World::with(|settings, _| settings.level = level);
        let levels = |said: String| -> Vec<String> {
            said.lines().map(|line| line.split('\t').nth(1).expect("columns").to_owned()).collect()
        };
        let said = world.says(|| {
            trace!("x");
            debug!("x");
            info!("x");
            warn!("x");
            error!("x");
        });
        assert_eq!(levels(said).join(" "), ours, "{level:?}");
        let said = world.says(|| {
            debug!(target: "h2::proto", "x");
            info!(target: "tfo_otel_agents_rival", "x");
            warn!(target: "h2::proto", "x");
            error!(target: "h2::proto", "x");
        });
        assert_eq!(levels(said).join(" "), others, "{level:?}");
    }
}

/// fjall, rustls and actix speak through the crate `log`; its records say where they come from in fields.
#[test]
fn a_record_of_the_log_crate_is_a_line_under_its_own_name() {
    use tracing_log::log::{Level, Record};
    let world = console();
    let said = world.says(|| {
        for level in [Level::Info, Level::Warn] {
            let record = Record::builder()
                .args(format_args!("certificate of \x1b[31mpeer\n is bad"))
                .level(level)
                .target("rustls::conn")
                .file(Some("/root/rustls-0.23/src/conn.rs"))
                .line(Some(42))
                .build();
            tracing_log::format_trace(&record).expect("it cannot fail");
        }
    });
    let expected =
        "2026-11-23T05:42:41.500Z\twarn\trustls::conn\tsrc/conn.rs:42\tcertificate of \\u001b[31mpeer\\n is bad\n";
    assert_eq!(said, expected);
}

/// The measured dump of the original's logging exporter: no caller, newlines as they are, fields after the last.
#[test]
fn a_dump_keeps_its_lines_and_is_not_sampled() {
    let world = console();
    let said = world.says(|| {
        for _ in 0..20 {
            info!(target: DUMP, kind = "exporter", "ResourceLog #0\n     -> host.name: Str(h\x1b1)\n");
        }
    });
    let one = "2026-11-23T05:42:41.500Z\tinfo\tResourceLog #0\n     -> host.name: Str(h\\u001b1)\n\t{\"kind\": \"exporter\"}\n";
    assert_eq!(said, one.repeat(20));
    let large = "x".repeat(100_000);
    assert_eq!(world.says(|| info!(target: DUMP, "{large}")).matches('x').count(), 100_000);
    assert!(world.says(|| info!("{large}")).contains("xxx…[cut]\n"), "what is no dump is cut at 8 KiB");
}

#[test]
fn equal_lines_are_sampled_and_the_rest_is_counted() {
    let world = console();
    let flood = || (0..115).for_each(|n| warn!(n, "disk is slow"));
    let said = world.says(flood);
    let numbers: Vec<&str> = said.lines().filter_map(|line| line.split("\"n\": ").nth(1)).collect();
    assert_eq!(numbers, ["0}", "1}", "2}", "3}", "4}", "5}", "6}", "7}", "8}", "9}", "109}"]);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.says(flood).lines().count(), 11);
    assert_eq!((world.logs.suppressed(), world.logs.counts().accepted), (208, 22));

    let metrics = Metrics::detached();
    world.logs.register(&metrics);
    let text = metrics.text();
    for (name, value) in [("tfo_agent_log_lines{", "22"), ("tfo_agent_log_lines_suppressed{", "208")] {
        assert!(text.lines().any(|l| l.starts_with(name) && l.ends_with(&format!("}} {value}"))), "{text}");
    }
    let all = World::with(|settings, _| settings.sampling = None);
    assert_eq!(all.says(flood).lines().count(), 115);
}

#[test]
fn lines_of_many_threads_stay_whole_and_in_each_threads_order() {
    let world = World::with(|settings, _| (settings.sampling, settings.disable_caller) = (None, true));
    std::thread::scope(|s| {
        for thread in 0..4 {
            let subscriber = &world.subscriber;
            s.spawn(move || {
                tracing::dispatcher::with_default(subscriber, || {
                    (0..250).for_each(|n| info!(thread, n, "a line of some length, so that it could be torn apart"));
                });
            });
        }
    });
    let said = world.read("agent.log");
    for thread in 0..4 {
        let mine = format!("\"thread\": {thread}, \"n\": ");
        let numbers: Vec<&str> = said.lines().filter_map(|l| l.split(&mine).nth(1)).collect();
        assert_eq!(numbers, (0..250).map(|n| format!("{n}}}")).collect::<Vec<_>>());
    }
    assert_eq!(said.lines().count(), 1_000);
}

#[test]
fn after_rotation_the_lines_go_to_the_new_file() {
    let world = World::with(|settings, _| settings.disable_caller = true);
    let (now, old) = (world.dir.path().join("agent.log"), world.dir.path().join("agent.log.1"));
    world.says(|| info!("first"));
    fs::rename(&now, &old).expect("it was written");
    tracing::dispatcher::with_default(&world.subscriber, || info!("still into the renamed one"));
    assert!(world.logs.flush(Duration::from_secs(10)));
    world.logs.reopen();
    tracing::dispatcher::with_default(&world.subscriber, || info!("second"));
    assert!(world.read("agent.log").ends_with("\tsecond\n"));
    let old = fs::read_to_string(old).expect("it was renamed");
    assert_eq!((old.lines().count(), old.contains("second")), (2, false));

    // A file is appended to, never emptied: a restart keeps the story of the crash before it.
    drop(world.logs);
    let (logs, layer) = Logs::start(
        &LogSettings { output_paths: vec![format!("file://{}", now.display())], ..LogSettings::default() },
        &world.clock,
    )
    .expect("a thread");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || info!("third"));
    drop(logs); // writes out what waits
    assert_eq!(fs::read_to_string(&now).expect("written").lines().count(), 2);
}

/// Goal: whoever rotates by hand, or by a tool that sends no signal, finds the new lines in the new file.
#[test]
fn a_file_that_was_moved_away_or_removed_is_opened_anew_within_a_second() {
    let world = World::with(|settings, _| settings.disable_caller = true);
    let (now, old) = (world.dir.path().join("agent.log"), world.dir.path().join("agent.log.1"));
    let says = |what: &str| {
        tracing::dispatcher::with_default(&world.subscriber, || info!("{what}"));
        assert!(world.logs.flush(Duration::from_secs(10)));
    };
    says("first");
    fs::rename(&now, &old).expect("it was written");
    says("in the same second");
    assert!(!now.exists());
    world.clock.advance(Duration::from_secs(1));
    says("second");
    assert_eq!(fs::read_to_string(&now).expect("opened anew").lines().count(), 1);
    assert_eq!(fs::read_to_string(&old).expect("renamed").lines().count(), 2);
    fs::remove_file(&now).expect("it is there");
    world.clock.advance(Duration::from_secs(1));
    says("third");
    assert_eq!(fs::read_to_string(&now).expect("opened anew").lines().count(), 1);
}

/// Goal: what strangers can make libraries say (a malformed head, a broken handshake) is bounded, sampled or not.
#[test]
fn what_other_crates_say_does_not_grow_with_what_strangers_send() {
    let world = World::with(|settings, _| settings.sampling = None);
    let said = world.says(|| {
        for n in 0..1_000 {
            tracing::error!(target: "actix_http::h1::dispatcher", "stream error: request parse error {n}");
            tracing::error!(target: "h2::server", "connection error {n}");
            tracing::error!("ours {n}");
        }
    });
    let of = |target: &str| said.lines().filter(|line| line.contains(target)).count();
    assert_eq!((of("actix_http"), of("h2::server"), of("ours")), (5, 5, 1_000));
    world.clock.advance(Duration::from_secs(60));
    let said = world.says(|| tracing::error!(target: "h2::server", "a minute later"));
    assert!(said.contains("a minute later"));
}

/// Goal: level, shape and place change while the process runs; what was said before is where it was to be, and counts go
/// on.
#[test]
fn settings_change_from_one_line_to_the_next() {
    let world = World::with(|settings, _| {
        settings.disable_caller = true;
        settings.sampling = Some(Sampling { tick: Duration::from_secs(10), initial: 1, thereafter: 0 });
    });
    let other = world.dir.path().join("other.log");
    let settings = LogSettings {
        level: Severity::Debug,
        encoding: Encoding::Json,
        output_paths: vec![other.to_str().expect("a temporary path is text").to_owned()],
        error_output_paths: Vec::new(),
        zone: Zone::Utc,
        sampling: None,
        ..LogSettings::default()
    };
    tracing::dispatcher::with_default(&world.subscriber, || {
        let say = || debug!("quiet");
        say();
        info!("before");
        info!("before");
        world.logs.change(&settings);
        say();
    });
    assert_eq!(world.read("agent.log"), "2026-11-23T05:42:41.500Z\tinfo\tbefore\n");
    let said = world.read("other.log");
    assert!(said.starts_with(r#"{"level":"debug""#) && said.contains(r#""msg":"quiet""#), "{said}");
    assert_eq!((said.lines().count(), world.logs.suppressed()), (1, 1));
}

#[test]
fn one_full_disk_is_told_and_counted_and_the_other_outputs_go_on() {
    let world = World::with(|settings, _| settings.output_paths.insert(0, "/dev/full".into()));
    let said = world.says(|| (0..5).for_each(|n| warn!(n, "x")));
    assert_eq!(said.lines().count(), 5);
    assert_eq!(world.logs.counts(), Counts { accepted: 5, overflowed: 0, failed: 5 });
    let told = world.read("errors.log");
    assert_eq!(told, "2026-11-23T05:42:41.500Z write error: /dev/full: No space left on device (os error 28)\n");
}

/// Goal: a reader that hangs costs lines, not the data path's time, and the loss is said when it reads again.
/// Method: a FIFO whose reader does nothing while 20,000 lines are said; then it reads everything.
#[test]
fn a_reader_that_hangs_holds_nobody_up() {
    let mut fifo = std::path::PathBuf::new();
    let world = World::with(|settings, dir| {
        fifo = dir.join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("tmp knows FIFOs");
        settings.output_paths = vec![fifo.to_str().expect("a temporary path is text").to_owned()];
        settings.sampling = None;
        settings.encoding = Encoding::Json;
    });
    // Opening for reading alone would wait for the writer, and the writer opens with its first line.
    let mut reader =
        fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).expect("it was made");

    let began = std::time::Instant::now();
    tracing::dispatcher::with_default(&world.subscriber, || {
        (0..20_000).for_each(|n| info!(n, "a line of a hundred bytes or so, as most of them are"));
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} for 20,000 lines");
    assert!(!world.logs.flush(Duration::from_millis(20)), "the writer is held up by the reader");
    let counts = world.logs.counts();
    assert_eq!(counts.accepted + counts.overflowed, 20_000);
    assert!(counts.overflowed > 10_000, "64 KiB of pipe and two buffers of 256 KiB: {counts:?}");

    let mut read = Vec::new();
    for _ in 0..2_000 {
        // Asked before reading: what an idle writer had is in the pipe by now.
        let idle = world.logs.flush(Duration::from_millis(5));
        let before = read.len();
        let _ = reader.read_to_end(&mut read); // ends with "would block" when the pipe is empty
        if idle && read.len() == before {
            break;
        }
    }
    let read = String::from_utf8(read).expect("text");
    let mut read: Vec<serde_json::Value> =
        read.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let report = read.pop().expect("the last line is the report");
    assert_eq!(report["msg"], "Log lines were lost.");
    assert_eq!((report["lines"].as_u64(), &report["output"]), (Some(counts.overflowed), &"queue".into()));
    let numbers: Vec<u64> = read.iter().filter_map(|line| line["n"].as_u64()).collect();
    assert_eq!(numbers.len() as u64, counts.accepted, "whatever was accepted arrived");
    assert!(numbers.is_sorted());
    assert!(world.logs.flush(Duration::from_secs(10)));
}

#[test]
fn settings_start_as_those_of_the_original() {
    let settings = LogSettings::default();
    assert_eq!((settings.level, settings.encoding), (Severity::Info, Encoding::Console));
    assert_eq!(settings.sampling, Some(Sampling { tick: Duration::from_secs(10), initial: 10, thereafter: 100 }));
    assert_eq!((settings.output_paths, settings.error_output_paths), (vec!["stderr".into()], vec!["stderr".into()]));
}

//! The HTTP client alone: what goes over the wire, and what it makes of what comes back.

use super::world::{MS, config, run};
use crate::base::Clock;
use crate::config::Secret;
use crate::otlp::Signal;
use crate::testing::far_end::{self, Act, FarEnd, Script, Seen};
use crate::testing::numbered::{Numbered, Source};
use crate::uplink::config::OtlpHttpConfig;
use crate::uplink::link::Trouble;
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::{Parcel, Transport as _, UPLOAD_ID};
use crate::uplink::verdict::{BODY_MAX, Verdict};
use std::time::Duration;

fn parcel(signal: Signal, encoding: Encoding) -> Parcel {
    let raw = Numbered::new(signal, Source(1)).request(10).bytes.into();
    Parcel {
        signal,
        body: Packer::new(encoding, LEVEL).pack(&raw),
        upload_id: "3f2a/1/0.0-1.0".to_owned(),
        origin: None,
    }
}

async fn send(config: &OtlpHttpConfig, parcel: Parcel) -> Verdict {
    OtlpHttp::new(config, 4, Clock::system()).expect("a client").send(parcel).await
}

/// Sends logs to a far end that plays `act`.
async fn meet(act: Act) -> (Verdict, Vec<Seen>) {
    let far_end = FarEnd::start(Script::new().always(act)).expect("a port");
    let verdict = send(&config(&far_end.endpoint()), parcel(Signal::Logs, Encoding::Gzip)).await;
    (verdict, far_end.seen())
}

fn accepted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Accepted { oddity: None, .. })
}

/// Goal: the request is the one otelcol sends (reference §2.10), header names in Go's spelling; the operator's headers
/// win over ours.
#[test]
fn a_request_looks_as_the_original_writes_it() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let mut config = config(&far_end.endpoint());
        config.headers = vec![
            ("x-tenant-id".to_owned(), Secret::new("0123")),
            ("Authorization".to_owned(), Secret::new("Bearer s3cret")),
        ];
        assert!(accepted(&send(&config, parcel(Signal::Traces, Encoding::Gzip)).await));
        config.headers.push(("user-agent".to_owned(), Secret::new("mine")));
        assert!(accepted(&send(&config, parcel(Signal::Traces, Encoding::Identity)).await));
        let seen = far_end.seen();
        let names: Vec<&str> = seen[0].headers.iter().map(|(name, _)| &name[..]).collect();
        for name in ["X-Tenant-Id", "Authorization", "Content-Type", "Content-Encoding", "User-Agent", "Content-Length"]
        {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        let agent = format!("tfo-otel-agent/{} (linux/", env!("CARGO_PKG_VERSION"));
        assert!(seen[0].header("user-agent").is_some_and(|value| value.starts_with(&agent)), "{:?}", seen[0]);
        let of = |seen: &Seen, name: &str| seen.header(name).unwrap_or_default().to_owned();
        assert_eq!(of(&seen[0], "x-tenant-id"), "0123");
        assert_eq!(of(&seen[0], "content-type"), "application/x-protobuf");
        assert_eq!(
            (of(&seen[0], "content-encoding"), of(&seen[1], "content-encoding")),
            ("gzip".into(), String::new())
        );
        assert_eq!((of(&seen[0], UPLOAD_ID), UPLOAD_ID), ("3f2a/1/0.0-1.0".into(), far_end::UPLOAD_ID));
        assert_eq!(of(&seen[1], "user-agent"), "mine");
        assert_eq!((seen[0].items, seen[1].items), (10, 10));
    });
}

#[test]
fn each_signal_has_its_address() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let base = far_end.endpoint();
        #[rustfmt::skip]
        let cases = [
            (OtlpHttpConfig { endpoint: Some(base.clone()), ..OtlpHttpConfig::default() },                                    "/v1/logs"),
            (OtlpHttpConfig { endpoint: Some(format!("{base}/")), ..OtlpHttpConfig::default() },                              "/v1/logs"),
            (OtlpHttpConfig { endpoint: Some(format!("{base}/otlp")), ..OtlpHttpConfig::default() },                          "/otlp/v1/logs"),
            (OtlpHttpConfig { logs_endpoint: Some(format!("{base}/in?x=1")), ..OtlpHttpConfig::default() },                   "/in?x=1"),
            (OtlpHttpConfig { endpoint: Some(base.clone()), logs_endpoint: Some(format!("{base}/in")), ..OtlpHttpConfig::default() }, "/in"),
        ];
        for (config, path) in cases {
            send(&config, parcel(Signal::Logs, Encoding::Gzip)).await;
            assert_eq!(far_end.seen().last().map(|seen| seen.path.clone()).as_deref(), Some(path));
        }
        let only_traces = OtlpHttpConfig { traces_endpoint: Some(base), ..OtlpHttpConfig::default() };
        let verdict = send(&only_traces, parcel(Signal::Logs, Encoding::Gzip)).await;
        assert_eq!(verdict, Verdict::Hold { why: "no endpoint is configured for logs".to_owned() });
    });
}

/// Goal: uploads one after the other use one connection; a gateway on a mobile link pays for each handshake.
#[test]
fn connections_are_used_again() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let (connections, to) = (Arc::new(AtomicUsize::new(0)), far_end.addr());
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", front.local_addr().expect("bound"));
        let counted = connections.clone();
        let relay = tokio::spawn(async move {
            while let Ok((mut from, _)) = front.accept().await {
                counted.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to).await.expect("the far end listens");
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        for (disable, expected) in [(false, 1), (true, 6)] {
            let config = OtlpHttpConfig { disable_keep_alives: disable, ..config(&endpoint) };
            let client = OtlpHttp::new(&config, 4, Clock::system()).expect("a client");
            connections.store(0, SeqCst);
            for _ in 0..6 {
                assert!(accepted(&client.send(parcel(Signal::Logs, Encoding::Gzip)).await));
            }
            assert_eq!(connections.load(SeqCst), expected, "disable_keep_alives: {disable}");
        }
        relay.abort();
    });
}

/// Goal: connections leave from the address and by the interface the operator wants; one that is not there is waited for, with
/// its reason.
#[test]
fn connections_leave_from_where_they_are_told() {
    use crate::uplink::config::SourceConfig;
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let relayed = config(&format!("http://{}", listener.local_addr().expect("bound")));
        let to = far_end.addr();
        let peer = tokio::spawn(async move {
            let (mut from, peer) = listener.accept().await.expect("the client comes");
            let mut to = tokio::net::TcpStream::connect(to).await.expect("the far end listens");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
            peer.ip().to_string()
        });
        let local_address = Some(std::net::IpAddr::from([127, 0, 0, 9]));
        let source = SourceConfig { interface: None, local_address };
        assert!(accepted(&send(&OtlpHttpConfig { source, ..relayed }, parcel(Signal::Logs, Encoding::Gzip)).await));
        assert_eq!(peer.await.expect("it ended"), "127.0.0.9");

        for (interface, arrives) in [("lo", true), ("no-such-link0", false)] {
            let source = SourceConfig { interface: Some(interface.to_owned()), local_address: None };
            let config = OtlpHttpConfig { source, ..config(&far_end.endpoint()) };
            match OtlpHttp::new(&config, 4, Clock::system()) {
                Ok(client) => {
                    let verdict = client.send(parcel(Signal::Logs, Encoding::Gzip)).await;
                    assert_eq!(accepted(&verdict), arrives, "{verdict:?}");
                    assert!(arrives || verdict.why().contains("No such device"), "{verdict:?}");
                }
                // Where interfaces may not be chosen, the start says so.
                Err(error) => assert!(error.to_string().contains("CAP_NET_RAW"), "{error}"),
            }
        }
    });
}

/// Goal: data goes where the operator said, and nowhere else.
#[test]
fn only_307_and_308_to_the_same_place_are_followed() {
    run(async {
        let elsewhere = FarEnd::start(Script::new()).expect("a port");
        for code in [301, 302, 303, 307, 308] {
            let far_end = FarEnd::start(Script::new()).expect("a port");
            let base = far_end.endpoint();
            for (to, same) in [("/v1/logs", true), (&elsewhere.endpoint()[..], false)] {
                let to = if same { format!("{base}{to}") } else { format!("{to}/v1/logs") };
                far_end.play(Script::new().times(1, Act::Redirect { code, to: to.clone() }));
                let verdict = send(&config(&base), parcel(Signal::Logs, Encoding::Gzip)).await;
                if same && code >= 307 {
                    assert!(accepted(&verdict), "{code} to {to}: {verdict:?}");
                    assert_eq!(far_end.seen().last().map(|seen| seen.items), Some(10), "the body went along");
                } else {
                    assert!(matches!(&verdict, Verdict::Hold { why } if why.contains(&to)), "{code}: {verdict:?}");
                }
            }
            // In circles: five times, then it is an answer that nobody can use.
            let to = format!("{base}/v1/logs");
            far_end.play(Script::new().always(Act::Redirect { code: 308, to }));
            let before = far_end.seen().len();
            let verdict = send(&config(&base), parcel(Signal::Logs, Encoding::Gzip)).await;
            assert!(matches!(verdict, Verdict::Hold { .. }), "{verdict:?}");
            assert!(far_end.seen().len() - before <= 6);
        }
        assert_eq!(elsewhere.seen().len(), 0);
    });
}

#[test]
fn what_is_no_answer_is_told_apart() {
    run(async {
        let nobody = FarEnd::start(Script::new().always(Act::Refuse)).expect("a port");
        tokio::time::sleep(20 * MS).await;
        let refused = send(&config(&nobody.endpoint()), parcel(Signal::Logs, Encoding::Gzip)).await;
        let Verdict::Silence { trouble: Trouble::Unreachable, why } = refused else { panic!("{refused:?}") };
        assert!(why.contains("refused"), "{why}");

        let unknown = send(&config("http://no-such-host.invalid:4318"), parcel(Signal::Logs, Encoding::Gzip)).await;
        assert!(matches!(unknown, Verdict::Silence { trouble: Trouble::Unreachable, .. }), "{unknown:?}");

        for act in [Act::ResetMidRequest, Act::TakeAndReset] {
            let (verdict, _) = meet(act.clone()).await;
            assert!(matches!(verdict, Verdict::Silence { trouble: Trouble::NoAnswer, .. }), "{act:?}: {verdict:?}");
        }
        let (verdict, _) = meet(Act::ResetMidAnswer).await;
        assert!(matches!(verdict, Verdict::Accepted { oddity: Some("the answer broke off"), .. }), "{verdict:?}");

        let hangs = FarEnd::start(Script::new().always(Act::Hang)).expect("a port");
        let short = OtlpHttpConfig { timeout: Some(100 * MS), ..config(&hangs.endpoint()) };
        let verdict = send(&short, parcel(Signal::Logs, Encoding::Gzip)).await;
        let Verdict::Silence { trouble: Trouble::NoAnswer, why } = verdict else { panic!("{verdict:?}") };
        assert!(why.contains("timed out"), "{why}");
    });
}

/// Goal: an answer without end costs 64 KiB and the timeout, and a secret in the address stays one.
#[test]
fn answers_are_bounded_and_secrets_stay_secret() {
    run(async {
        let (verdict, _) = meet(Act::ok_with("application/x-protobuf", &vec![0; 50 * BODY_MAX])).await;
        assert!(matches!(verdict, Verdict::Accepted { oddity: Some("the answer broke off"), .. }), "{verdict:?}");
        let (verdict, _) = meet(Act::Verbatim { code: 500, content_type: None, body: vec![b'x'; 50 * BODY_MAX] }).await;
        assert!(verdict.why().len() < 1_000);

        let mut config = config("http://user:s3cret@127.0.0.1:1");
        config.headers = vec![("authorization".to_owned(), Secret::new("s3cret"))];
        let client = OtlpHttp::new(&config, 4, Clock::system()).expect("a client");
        let verdict = client.send(parcel(Signal::Logs, Encoding::Gzip)).await;
        assert!(!format!("{verdict:?}").contains("s3cret"), "{verdict:?}");
        config.headers = vec![("x-\u{1}".to_owned(), Secret::new("s3cret"))];
        let error = OtlpHttp::new(&config, 4, Clock::system()).expect_err("no header").to_string();
        assert!(error.starts_with("header `x-") && !error.contains("s3cret"), "{error}");
        config.headers = vec![("x-token".to_owned(), Secret::new("s3cret\n"))];
        let error = OtlpHttp::new(&config, 4, Clock::system()).expect_err("no value").to_string();
        assert!(error.contains("`x-token`") && !error.contains("s3cret"), "{error}");
    });
}

/// Goal: a far end that dribbles its answer for ever is given up in time.
#[test]
fn the_timeout_covers_the_reading_of_the_answer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let dribble = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("the client comes");
            let _ = stream.read(&mut [0; 16 << 10]).await;
            let head = b"HTTP/1.1 503 busy\r\nContent-Length: 60000\r\nRetry-After: 9\r\n\r\n";
            let _ = stream.write_all(head).await;
            while stream.write_all(b".").await.is_ok() {
                tokio::time::sleep(10 * MS).await;
            }
        });
        let config = OtlpHttpConfig { timeout: Some(300 * MS), ..config(&endpoint) };
        let start = tokio::time::Instant::now();
        let verdict = send(&config, parcel(Signal::Logs, Encoding::Gzip)).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // What it said before is believed.
        assert!(matches!(verdict, Verdict::Later { after: Some(after), .. } if after.as_secs() == 9), "{verdict:?}");
        dribble.abort();
    });
}

/// Goal: `max_conns_per_host` bounds the uploads on the way, of all signals together.
#[test]
fn no_more_uploads_are_on_the_way_than_connections_are_allowed() {
    run(async {
        let far_end = FarEnd::start(Script::new().always(Act::Slow(200 * MS))).expect("a port");
        for (most, expected) in [(Some(1), 590 * MS), (Some(3), Duration::ZERO), (None, Duration::ZERO)] {
            let config = OtlpHttpConfig { max_conns_per_host: most, ..config(&far_end.endpoint()) };
            let client = OtlpHttp::new(&config, 4, Clock::system()).expect("a client");
            let start = tokio::time::Instant::now();
            let sent = Signal::ALL.map(|signal| client.send(parcel(signal, Encoding::Gzip)));
            assert!(futures_util::future::join_all(sent).await.iter().all(accepted));
            assert!(start.elapsed() >= expected, "{most:?}: {:?}", start.elapsed());
        }
    });
}

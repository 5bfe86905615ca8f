//! A disk that stands still for a while: a card that erases, a controller that resets.

use super::answers::{client, header, logs};
use super::rig::{PATIENCE, PROTOBUF, Rig};
use std::time::{Duration, Instant};
use tfo_otel_agent::otlp::{Signal, Status};
use tfo_otel_agent::testing::load::until;
use tfo_otel_agent::testing::numbered::Request;
use tfo_otel_agent::testing::{Numbered, Source};
use tonic::{Code, IntoRequest as _};

/// Longer than the 5 s after which a commit counts as stalled, shorter than a client waits.
const STALL: Duration = Duration::from_secs(8);
const WRITER: &str = "spool-writer/file_storage";

/// A request whose items the far end's books know of; `acknowledged` when the client was told so.
fn made(rig: &Rig, numbered: &mut Numbered) -> Request {
    let request = numbered.request(5);
    rig.far_end.with(|c| c.tally().issued(Signal::Logs, Source(1), request.seqs.clone()));
    request
}

fn acknowledged(rig: &Rig, request: &Request) {
    rig.far_end.with(|c| c.tally().acknowledged(Signal::Logs, Source(1), request.seqs.clone()));
}

/// Goal: while a commit is out for longer than 5 s, who waits for it goes on waiting and everybody else is asked at once
/// to come back; health says so, and no longer when it ends. What was acknowledged arrives, what was refused does not.
#[actix::test]
async fn a_disk_that_stands_still_refuses_what_comes_and_keeps_what_waits() {
    let rig = Rig::plain().await;
    let degraded = || rig.agent.health.look().0.degraded;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let (waiting, over_http, over_grpc, after) =
        (made(&rig, &mut numbered), numbered.request(5), numbered.request(5), made(&rig, &mut numbered));
    let spool = rig.agent.stores.all[0].spool.clone();
    let begun = Instant::now();
    let disk = std::thread::spawn(move || spool.stand_still(STALL));
    tokio::time::sleep(Duration::from_millis(300)).await; // it stands still before the first request comes

    let waits = async {
        let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], waiting.bytes.clone()).await;
        (answer.status().as_u16(), begun.elapsed())
    };
    let meanwhile = async {
        assert!(until(PATIENCE, || degraded().contains_key(WRITER)).await, "it is seen");
        assert!((Duration::from_secs(5)..STALL).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], over_http.bytes).await;
        let retry = answer.headers().get("retry-after").map(|v| v.to_str().expect("ASCII").to_owned());
        assert_eq!((answer.status().as_u16(), retry.as_deref()), (503, Some("2")));
        let said = Status::decode(&answer.bytes().await.expect("a body")).expect("a Status");
        assert_eq!((said.code, said.message.as_str()), (14, "the disk takes too long"));
        let refused = client(&rig).await.export(logs(&over_grpc.bytes).into_request()).await.expect_err("the disk");
        let details = Status::decode(refused.details()).expect("a Status");
        assert_eq!((refused.code(), details.retry_delay), (Code::Unavailable, Some(Duration::from_secs(2))));
        assert!(begun.elapsed() < STALL, "they were not kept waiting: {:?}", begun.elapsed());
    };
    let ((status, waited), ()) = tokio::join!(waits, meanwhile);
    assert_eq!(status, 200, "who waited is answered when the disk goes on");
    assert!(waited >= STALL, "and not before: {waited:?}");
    acknowledged(&rig, &waiting);
    disk.join().expect("it only sleeps");

    assert!(until(PATIENCE, || degraded().is_empty()).await, "{:?}", degraded());
    let answer = rig.post("/v1/logs", &[("content-type", PROTOBUF)], after.bytes.clone()).await;
    assert_eq!(answer.status().as_u16(), 200, "as before");
    acknowledged(&rig, &after);
    let home = rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0).await;
    let report = rig.far_end.report();
    assert!(home && report.arrived() == 10 && report.never_issued() == 0, "{report:?}");
    assert_eq!(rig.books().iter().map(|b| b.accepted).sum::<u64>(), 10);
}

/// Goal: a client that says how long it waits hears DEADLINE_EXCEEDED then, and not when the disk goes on. What it sent
/// was whole, so it is kept, counted once, and arrives: a client that sends it again has it twice, as gRPC has it.
#[actix::test]
async fn a_grpc_client_is_answered_in_its_own_time_and_what_it_sent_may_be_kept() {
    let rig = Rig::plain().await;
    let mut numbered = Numbered::new(Signal::Logs, Source(1));
    let (by_hand, by_tonic) = (made(&rig, &mut numbered), made(&rig, &mut numbered));
    let spool = rig.agent.stores.all[0].spool.clone();
    let begun = Instant::now();
    let stall = Duration::from_secs(3);
    let disk = std::thread::spawn(move || spool.stand_still(stall));
    tokio::time::sleep(Duration::from_millis(300)).await;

    // tonic's client ends a call by its own clock too, so the server is asked by one that does not know the header.
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let url = format!("{}/opentelemetry.proto.collector.logs.v1.LogsService/Export", rig.at("otlp/grpc"));
    let len = u32::try_from(by_hand.bytes.len()).expect("short").to_be_bytes();
    let message = [&[0], &len[..], &by_hand.bytes].concat();
    let ask = |timeout: &'static str, message: Vec<u8>| {
        h2.post(&url).header("content-type", "application/grpc").header("grpc-timeout", timeout).body(message).send()
    };
    let answer = ask("400m", message).await.expect("an answer");
    assert_eq!((header(&answer, "grpc-status").as_str(), answer.status().as_u16()), ("4", 200));
    assert!((Duration::from_millis(700)..stall).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let mut request = logs(&by_tonic.bytes).into_request();
    request.set_timeout(Duration::from_millis(300));
    let refused = client(&rig).await.export(request).await.expect_err("the disk stands still");
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused}");
    assert!(begun.elapsed() < stall, "{:?}", begun.elapsed());
    let malformed = ask("soon", Vec::new()).await.expect("an answer");
    assert_eq!(header(&malformed, "grpc-status"), "3");
    disk.join().expect("it only sleeps");

    for request in [&by_hand, &by_tonic] {
        acknowledged(&rig, request); // to nobody; but it was whole when it came
    }
    let home = rig.far_end.until(PATIENCE, |c| c.tally().report().lost() == 0).await;
    let report = rig.far_end.report();
    assert!(home && report.arrived() == 10, "{report:?}");
    assert_eq!(rig.number("otelcol_receiver_accepted_log_records", &["transport=\"grpc\""]).await, 10.0);
    // Of the second one the server may hear first that its client gave up.
    assert!(rig.number("tfo_agent_requests_refused", &["reason=\"overdue\"", "grpc"]).await >= 1.0);
    // And one that has the time it says is answered as ever.
    let mut request = logs(&numbered.request(1).bytes).into_request();
    request.set_timeout(PATIENCE);
    client(&rig).await.export(request).await.expect("taken");
}

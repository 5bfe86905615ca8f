//! The batcher in front of a writer that answers late, or not.

use super::budget::Budget;
use super::*;
use crate::base::Bytes as Size;
use crate::otlp::{Signal, Walked};
use crate::spool::Lane;
use std::sync::Mutex;
use tokio::sync::mpsc;

type Asked = (Vec<u128>, oneshot::Sender<Result<Result<(), CommitError>, Fallen>>);

/// A writer played by the test: what it is asked, and where the answer goes.
fn writer() -> (Line<Commit>, mpsc::UnboundedReceiver<Asked>) {
    let (asked, questions) = mpsc::unbounded_channel();
    let line = Line::new(move |Commit(blocks): Commit| {
        let (answer, answered) = oneshot::channel();
        let ids = blocks.iter().map(|b| b.block_id).collect();
        asked.send((ids, answer)).expect("the test listens");
        async move { answered.await.unwrap_or_else(|_| Err(Fallen::Unanswered("writer".into()))) }
    });
    (line, questions)
}

fn batcher(writer: Line<Commit>) -> (actix::Addr<Batcher>, Health) {
    let health = Health::starting(Clock::system());
    health.ready();
    (Batcher::new(writer, "disk", health.clone(), Clock::system(), Arc::default()).start(), health)
}

fn offer(budget: &Budget, bytes: usize) -> Offer {
    let mut charge = budget.open();
    charge.grow(bytes).expect("room");
    let part = Part {
        lane: Lane(1),
        pipeline: Lane(1),
        signal: Signal::Logs,
        raw: vec![0; bytes].into(),
        walked: Walked { items: 1, data_ns: (0, 0) },
    };
    Offer { parts: vec![part], charge: Arc::new(charge), caller: None }
}

/// Goal: clients that hang up while the disk stalls cannot make memory grow.
#[actix::test]
async fn bytes_stay_charged_until_the_commit_ends_whoever_still_waits() {
    let (line, mut questions) = writer();
    let (batcher, _) = batcher(line);
    let budget = Budget::new(Size(1_000));
    let first = actix_rt::spawn(batcher.send(offer(&budget, 100)));
    let (_, answer) = questions.recv().await.expect("a commit");
    let second = actix_rt::spawn(batcher.send(offer(&budget, 50)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    first.abort();
    second.abort();
    let _ = (first.await, second.await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(budget.used(), 150, "nobody waits for the answer, and the bytes are still here");
    answer.send(Ok(Ok(()))).expect("asked");
    let (_, answer) = questions.recv().await.expect("what gathered meanwhile");
    assert_eq!(budget.used(), 50);
    answer.send(Ok(Ok(()))).expect("asked");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(budget.used(), 0);
}

/// Goal: time inside a sync counts as waiting for the disk: degraded and refusing from 5 s, well when it ends.
#[actix::test]
async fn a_commit_that_stalls_degrades_and_refuses_until_it_ends() {
    tokio::time::pause();
    let (line, mut questions) = writer();
    let (batcher, health) = batcher(line);
    let budget = Budget::new(Size(1_000));
    let first = actix_rt::spawn(batcher.send(offer(&budget, 10)));
    let (_, answer) = questions.recv().await.expect("a commit");
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    assert!(health.look().0.degraded.is_empty());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(health.look().0.degraded["spool-writer/disk"].contains("longer than 5 s"));
    let refused = batcher.send(offer(&budget, 10)).await.expect("an answer at once");
    assert_eq!(refused, Err(OfferError::Later("the disk takes too long".into())));
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(questions.try_recv().is_err(), "the commit that is out is not offered again meanwhile");
    answer.send(Ok(Ok(()))).expect("still waited for");
    assert_eq!(first.await.expect("not aborted").expect("an answer"), Ok(()));
    assert!(health.look().0.degraded.is_empty());
    let next = actix_rt::spawn(batcher.send(offer(&budget, 10)));
    let (_, answer) = questions.recv().await.expect("a commit again");
    answer.send(Ok(Ok(()))).expect("asked");
    assert_eq!(next.await.expect("not aborted").expect("an answer"), Ok(()));
}

/// A late or missing answer is asked for again under the same ids; only a writer that falls every time has its offers
/// taken apart, because then one of them may be why.
#[actix::test]
async fn an_unknown_outcome_is_offered_again_under_the_same_ids() {
    for (fallen, apart) in [(Fallen::Late("writer".into()), false), (Fallen::Unanswered("writer".into()), true)] {
        let (line, mut questions) = writer();
        let (batcher, _) = batcher(line);
        let budget = Budget::new(Size(1_000));
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let (asking, hears) = (batcher.send(offer(&budget, 10)), told.clone());
        actix_rt::spawn(async move {
            let answer = asking.await.expect("an answer");
            hears.lock().expect("whole").push(answer);
        });
        let (ids, answer) = questions.recv().await.expect("a commit");
        answer.send(Err(fallen.clone())).expect("asked");
        let (again, answer) = questions.recv().await.expect("a second try");
        assert_eq!(ids, again);
        answer.send(Err(fallen)).expect("asked");
        if apart {
            let (alone, answer) = questions.recv().await.expect("each offer by itself");
            assert_ne!(ids, alone);
            answer.send(Ok(Ok(()))).expect("asked");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(questions.try_recv().is_err());
        let later = Err(OfferError::Later("the spool's writer is down".into()));
        assert_eq!(*told.lock().expect("whole"), [if apart { Ok(()) } else { later }]);
    }
}

/// Goal: a batch that can never be kept is refused for good, and those that happen to go with it are not.
#[actix::test]
async fn what_is_too_large_takes_no_neighbour_with_it() {
    let (line, mut questions) = writer();
    let (batcher, _) = batcher(line);
    let budget = Budget::new(Size(1_000));
    let too_large = || Ok(Err(CommitError::TooLarge { size: Size(20), limit: Size(10) }));
    let mut asked = Vec::new();
    for bytes in [10, 20, 10] {
        asked.push(actix_rt::spawn(batcher.send(offer(&budget, bytes))));
        tokio::task::yield_now().await;
    }
    // The first went alone, and the others with the commit after it.
    for answer in [Ok(Ok(())), too_large(), too_large(), Ok(Ok(()))] {
        let soon = tokio::time::timeout(Duration::from_secs(20), questions.recv());
        let (_, question) = soon.await.expect("each offer by itself").expect("a commit");
        question.send(answer).expect("asked");
    }
    let mut told = Vec::new();
    for answer in asked {
        told.push(answer.await.expect("not aborted").expect("an answer"));
    }
    assert!(matches!(&told[..], [Ok(()), Err(OfferError::TooLarge(_)), Ok(())]), "{told:?}");
    // Alone it is not asked again: nothing would change.
    let alone = actix_rt::spawn(batcher.send(offer(&budget, 20)));
    questions.recv().await.expect("a commit").1.send(too_large()).expect("asked");
    assert!(matches!(alone.await.expect("not aborted"), Ok(Err(OfferError::TooLarge(_)))));
    assert!(questions.try_recv().is_err());
    assert_eq!(budget.used(), 0);
}

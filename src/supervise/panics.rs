//! Panics, seen once each: caught where they belong, counted, logged in one line.
//!
//! ```text
//!   panic! ─▶ hook: writes down message and place (no backtrace, no log: a lock of the logger may be held)
//!               │ unwinds
//!               ├─▶ a guard's catch       charged to the post           (guard.rs logs it)
//!               ├─▶ contain / contained   charged to one request        (logged and counted here)
//!               └─▶ nobody of ours        a stray task or thread        (the hook logs and counts it)
//! ```
//!
//! Without [`install_hook`] everything still works, but places are unknown and strays are not counted.

use futures_util::FutureExt as _;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tracing::{error, warn};

/// What is known of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanicReport {
    /// What it said.
    pub message: String,
    /// `file:line:column`, when the hook is installed.
    pub place: Option<String>,
}

impl fmt::Display for PanicReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} at {place}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for PanicReport {}

/// How many panics there were in this process, for the metrics. (Those of posts are in the supervisor's watch.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PanicCounts {
    /// Caused by one request or block, and caught there.
    pub contained: u64,
    /// In a task or thread nobody supervises. Every one is a bug of ours.
    pub stray: u64,
}

static CONTAINED: AtomicU64 = AtomicU64::new(0);
static STRAY: AtomicU64 = AtomicU64::new(0);

/// The counts so far.
#[must_use]
pub fn panic_counts() -> PanicCounts {
    PanicCounts { contained: CONTAINED.load(Relaxed), stray: STRAY.load(Relaxed) }
}

/// Does `work`; a panic in it is this caller's error, not the post's.
///
/// For what one request or one block can cause (promise P8): answer that request non-retryably and go on. What
/// `work` borrowed may be half changed afterwards, so lend it only what ends with the request. `what` names the
/// work in the log.
///
/// # Errors
/// The panic, already counted and logged.
pub fn contained<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T, PanicReport> {
    catch(work).inspect_err(|report| note_contained(what, report))
}

/// [`contained`] for a future. The panicked future is dropped before this returns.
///
/// # Errors
/// The panic, already counted and logged.
pub async fn contain<F: Future>(what: &'static str, work: F) -> Result<F::Output, PanicReport> {
    catch_future(work).await.inspect_err(|report| note_contained(what, report))
}

fn note_contained(what: &'static str, report: &PanicReport) {
    CONTAINED.fetch_add(1, Relaxed);
    warn!(what, panic = %report, "contained a panic");
}

thread_local! {
    /// Whether some catch of ours is below us on this thread's stack.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    /// What the hook saw last on this thread and no catch has taken yet.
    static LAST: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic becomes its report. Neither counts nor logs.
pub(super) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, PanicReport> {
    let outer = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(outer);
    outcome.map_err(|payload| report(payload.as_ref()))
}

/// [`catch`] around every poll, and around the drop of a panicked future.
pub(super) async fn catch_future<F: Future>(work: F) -> Result<F::Output, PanicReport> {
    let mut work = Some(Box::pin(AssertUnwindSafe(work).catch_unwind()));
    let outcome = std::future::poll_fn(|cx| {
        let outer = CATCHING.replace(true);
        let polled = work.as_mut().expect("not polled after it ended").poll_unpin(cx);
        CATCHING.set(outer);
        polled
    })
    .await;
    let outcome = outcome.map_err(|payload| report(payload.as_ref()));
    let dropped = catch(|| drop(work.take()));
    outcome.and_then(|value| dropped.map(|()| value))
}

/// Throws a report on, without calling the hook again: it was seen where it began.
pub(super) fn throw_on(report: PanicReport) -> ! {
    std::panic::resume_unwind(Box::new(report))
}

fn report(payload: &(dyn Any + Send)) -> PanicReport {
    if let Some(thrown_on) = payload.downcast_ref::<PanicReport>() {
        return thrown_on.clone();
    }
    let message = message(payload);
    // A report that says something else is left over from a panic that somebody else caught.
    let seen = LAST.take().filter(|last| last.message == message);
    seen.unwrap_or(PanicReport { message, place: None })
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// Replaces the standard panic hook, once per process; `main` calls it first.
///
/// The standard hook, which may spend seconds on symbols, is only asked when `RUST_BACKTRACE` is set; and in builds
/// for tests for panics that nobody supervises, which is what a failed assertion is.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let in_tests = cfg!(any(test, feature = "testing"));
        let wanted = !in_tests && std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0");
        let standard: Option<Hook> = (wanted || in_tests).then(std::panic::take_hook);
        std::panic::set_hook(Box::new(move |info| {
            let seen =
                PanicReport { message: message(info.payload()), place: info.location().map(ToString::to_string) };
            if !CATCHING.get() {
                STRAY.fetch_add(1, Relaxed);
                let thread = std::thread::current();
                error!(panic = %seen, thread = thread.name().unwrap_or("without a name"), "a panic nobody supervises");
                if let Some(standard) = &standard {
                    standard(info);
                }
            } else if wanted && let Some(standard) = &standard {
                standard(info);
            }
            LAST.set(Some(seen));
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_an_error_with_its_place_and_is_counted() {
        install_hook();
        let before = panic_counts().contained;
        let line = line!() + 1;
        let report = contained("test", || panic!("block {} is bad", 7)).map(|()| 0).expect_err("it panicked");
        assert_eq!(report.message, "block 7 is bad");
        assert!(report.to_string().contains(&format!("panics.rs:{line}:")), "{report}");
        assert!(panic_counts().contained > before);
        assert_eq!(contained("test", || 5), Ok(5));
    }

    #[actix::test]
    async fn a_contained_future_may_panic_after_it_slept() {
        install_hook();
        let late = async {
            tokio::task::yield_now().await;
            if panic_counts().stray < u64::MAX {
                panic!("late");
            }
        };
        let report = contain("test", late).await.expect_err("it panicked");
        assert_eq!(report.message, "late");
        assert_eq!(contain("test", async { 3 }).await, Ok(3));
    }

    #[test]
    fn a_panic_nobody_supervises_is_counted_as_stray_and_a_contained_one_is_not() {
        install_hook();
        let stray = || std::thread::spawn(|| panic!("a stray for the test")).join();
        let before = panic_counts().stray;
        assert!(stray().is_err());
        assert!(panic_counts().stray > before);
    }

    /// A report must never carry the message of an earlier panic that somebody else caught on this thread.
    #[test]
    fn a_report_is_not_mixed_up_with_an_earlier_panic() {
        install_hook();
        let _ = catch_unwind(|| panic!("caught by somebody else"));
        let thrown = PanicReport { message: "thrown on".into(), place: Some("x.rs:1:1".into()) };
        assert_eq!(catch(|| throw_on(thrown.clone())), Err::<(), _>(thrown));
        let silent = catch(|| std::panic::resume_unwind(Box::new("resumed"))).map(|()| 0);
        assert_eq!(silent, Err(PanicReport { message: "resumed".into(), place: None }));
    }

    #[test]
    fn a_panic_while_a_panicked_future_is_dropped_stays_contained() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!("in drop");
                }
            }
        }
        let outcome = catch_future(async { Bomb }.map(|_| ())).now_or_never().expect("ready");
        assert_eq!(outcome.map_err(|r| r.message), Err("in drop".to_owned()));
    }
}

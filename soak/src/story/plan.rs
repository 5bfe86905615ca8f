//! What will happen: chapters of trouble, drawn from a seed. Plain data, so that a story can be told again.

use std::fmt;
use std::time::Duration;
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::Reason;
use tfo_otel_agent::testing::far_end::{Act, Script};
use tfo_otel_agent::testing::{Mark, Source};

/// What the link and the far end are like during a chapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Nobody listens.
    Gone,
    /// Takes the request and stays silent.
    BlackHole,
    /// 503.
    Overloaded,
    /// 429 with a Retry-After of a second.
    Throttling,
    /// 401 to everything: the data must be held.
    Unauthorized,
    /// A captive portal: 200 and a page.
    Portal,
    /// Answers after 300 ms.
    Slow,
    /// Takes two uploads, loses the third one's connection, refuses the fourth.
    Flaky,
    /// Takes uploads and loses every second answer.
    Forgetful,
    /// Metrics are refused with 503, the other signals taken.
    OneSignal,
    /// A few items are refused for good (400) with whatever they come in; they are set aside, and sent again when it is over.
    Poison,
}

/// Which items of the first client are poison, in each signal.
const POISON: [u64; 3] = [3, 40, 41];

impl Link {
    pub(crate) const ALL: [Link; 12] = [
        Link::Gone,
        Link::Up,
        Link::BlackHole,
        Link::Overloaded,
        Link::Throttling,
        Link::Unauthorized,
        Link::Portal,
        Link::Slow,
        Link::Flaky,
        Link::Forgetful,
        Link::OneSignal,
        Link::Poison,
    ];

    /// Nothing is taken while it lasts.
    pub(crate) fn is_down(self) -> bool {
        !matches!(self, Link::Up | Link::Slow | Link::Flaky | Link::Forgetful | Link::OneSignal | Link::Poison)
    }

    /// The same for the far end, for as long as `lasts`; `sources`: a client of each signal.
    pub(crate) fn script(self, lasts: Duration, sources: [(Signal, Source); 3]) -> Script {
        let always = |act: Act| Script::new().always(act);
        // Counted steps come to an end: enough of them for one upload in 10 ms.
        let rounds = u32::try_from(lasts.as_millis() / 10).unwrap_or(u32::MAX).clamp(1, 20_000);
        match self {
            Link::Up => Script::new(),
            Link::Gone => always(Act::Refuse),
            Link::BlackHole => always(Act::Hang),
            Link::Overloaded => always(Act::status(503)),
            Link::Throttling => always(Act::status(429).retry_after(1)),
            Link::Unauthorized => always(Act::status(401)),
            Link::Portal => always(Act::Portal),
            Link::Slow => always(Act::Slow(Duration::from_millis(300))),
            Link::Flaky => (0..rounds / 4).fold(Script::new(), |script, _| {
                script.times(2, Act::Accept).times(1, Act::ResetMidRequest).times(1, Act::Refuse)
            }),
            Link::Forgetful => (0..rounds / 2)
                .fold(Script::new(), |script, _| script.times(1, Act::Accept).times(1, Act::TakeAndReset)),
            Link::Poison => {
                let marks = |(signal, source)| POISON.map(|seq| (signal, Mark { source, seq }));
                let all = sources.into_iter().flat_map(marks);
                all.fold(Script::new().poison_status(400), |script, (signal, mark)| script.poison(signal, mark))
            }
            Link::OneSignal => Script::new().for_signal(Signal::Metrics, Act::status(503)),
        }
    }
}

/// What happens to the machine in the middle of a chapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// SIGKILL, and a new start.
    Kill,
    /// SIGKILL three times, each as soon as it listens again.
    KillAgain,
    /// SIGTERM, and a new start.
    Restart,
    /// SIGHUP.
    Reload,
    /// SIGSTOP for a while.
    Freeze,
    /// Every sync takes 300 ms.
    SlowDisk,
    /// Every sync takes as long as to be a stall.
    StalledDisk,
    /// Every sync fails with EIO.
    SyncFails,
    /// Every write fails with EIO.
    WriteFails,
    /// No write finds space.
    DiskFull,
    /// Nothing can be created, written or removed.
    ReadOnly,
    /// The wall clock is ten years ahead.
    ClockAhead,
    /// The wall clock is ten years behind.
    ClockBehind,
    /// SIGKILL, a few bytes of one closed segment flipped, and a new start.
    Corruption,
    /// Every read fails with EIO.
    ReadFails,
    /// A cap that is soon reached, set by a reload; traces give way first, then logs.
    Cramped,
    /// The same, and clients wait.
    Refusing,
    /// What waits longer than two seconds is given up, set by a reload.
    Aging,
}

impl Fault {
    pub(crate) const ALL: [Fault; 19] = [
        Fault::Kill,
        Fault::SyncFails,
        Fault::Corruption,
        Fault::DiskFull,
        Fault::ClockAhead,
        Fault::Restart,
        Fault::ReadOnly,
        Fault::KillAgain,
        Fault::SlowDisk,
        Fault::ClockBehind,
        Fault::WriteFails,
        Fault::Reload,
        Fault::Freeze,
        Fault::StalledDisk,
        Fault::Nothing,
        Fault::ReadFails,
        Fault::Cramped,
        Fault::Refusing,
        Fault::Aging,
    ];

    /// It needs the library that stands between the agent and the C library.
    pub(crate) fn needs_shim(self) -> bool {
        use Fault::{
            ClockAhead, ClockBehind, DiskFull, ReadFails, ReadOnly, SlowDisk, StalledDisk, SyncFails, WriteFails,
        };
        matches!(
            self,
            SlowDisk
                | StalledDisk
                | SyncFails
                | WriteFails
                | ReadFails
                | DiskFull
                | ReadOnly
                | ClockAhead
                | ClockBehind
        )
    }

    /// What the storage is told while it lasts, beside what it is told anyway.
    pub(crate) fn storage(self) -> &'static str {
        match self {
            Fault::Cramped => "max_size_mib: 6\n    shed: [traces, logs, metrics]",
            Fault::Refusing => "max_size_mib: 6\n    when_full: refuse",
            Fault::Aging => "max_age: 2s",
            _ => "",
        }
    }

    /// The one reason for which items may be lost then.
    pub(crate) fn may_lose(self) -> Option<Reason> {
        match self {
            Fault::Corruption => Some(Reason::Corrupt),
            // On a full disk the oldest gives way, by `when_full: drop_oldest`.
            Fault::DiskFull | Fault::Cramped => Some(Reason::Evicted),
            Fault::Aging => Some(Reason::Expired),
            _ => None,
        }
    }
}

/// How much comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Items a second, all signals together.
    pub(crate) rate: u64,
    /// Items of a request.
    pub(crate) request: u32,
    /// Requests under way at once, per signal.
    pub(crate) clients: u32,
}

/// A few bytes now and then, a gateway, many small requests, few large ones, a burst.
const SHAPES: [(&str, Shape); 5] = [
    ("trickle", Shape { rate: 30, request: 1, clients: 1 }),
    ("gateway", Shape { rate: 2_000, request: 100, clients: 1 }),
    ("many small requests", Shape { rate: 2_000, request: 10, clients: 4 }),
    ("large requests", Shape { rate: 6_000, request: 1_000, clients: 1 }),
    ("burst", Shape { rate: 20_000, request: 500, clients: 4 }),
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPES.iter().find(|(_, shape)| shape == self).map_or("load", |(name, _)| name))
    }
}

/// A disturbance, and the quiet after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chapter {
    pub(crate) link: Link,
    pub(crate) fault: Fault,
    pub(crate) shape: Shape,
    /// How long the disturbance lasts; the drain comes on top.
    pub(crate) lasts: Duration,
    /// When the fault begins.
    pub(crate) fault_after: Duration,
    /// How long the fault lasts, if it is one that lasts.
    pub(crate) fault_lasts: Duration,
}

impl fmt::Display for Chapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chapter { link, fault, shape, lasts, fault_after, .. } = self;
        write!(
            f,
            "{:.1} s of {shape}, link {link:?}, {fault:?} after {:.1} s",
            lasts.as_secs_f64(),
            fault_after.as_secs_f64()
        )
    }
}

/// Share of a chapter that is disturbance; the rest is for the drain and the checks.
const DISTURBED: f64 = 0.6;
/// A chapter of a story that lasts for hours is no longer than this: more of them find more.
const CHAPTER_MAX: Duration = Duration::from_secs(600);
const CHAPTER_TYPICAL: Duration = Duration::from_secs(12);
const CHAPTER_MIN: Duration = Duration::from_secs(9);

/// The chapters of a story of that length. Every link and every fault comes before any comes twice, in an order that
/// is the seed's.
pub(crate) fn story(seed: u64, length: Duration) -> Vec<Chapter> {
    let mut dice = Dice::seeded(seed);
    let (mut links, mut faults) = (Vec::new(), Vec::new());
    let mut chapters = Vec::new();
    let mut told = Duration::ZERO;
    while told < length {
        // A minute has some five chapters, an hour some eighty: they grow with the story.
        let typical = (length / 50).clamp(CHAPTER_TYPICAL, CHAPTER_MAX);
        let longest = u64::try_from(typical.as_millis()).unwrap_or(u64::MAX);
        let shortest = u64::try_from(CHAPTER_MIN.as_millis()).unwrap_or(0);
        let whole = Duration::from_millis(dice.within(shortest..longest.max(shortest) + 1));
        let lasts = whole.mul_f64(DISTURBED);
        let fault_after = lasts.mul_f64(f64::from(u32::try_from(dice.within(20..60)).unwrap_or(20)) / 100.0);
        let fault = draw(&mut dice, &mut faults, &Fault::ALL);
        let (_, shape) = SHAPES[usize::try_from(dice.within(0..SHAPES.len() as u64)).unwrap_or(0)];
        let most = (lasts - fault_after).mul_f64(0.7);
        chapters.push(Chapter {
            link: draw(&mut dice, &mut links, &Link::ALL),
            fault,
            shape,
            lasts,
            fault_after,
            fault_lasts: most.min(Duration::from_secs(if fault == Fault::StalledDisk { 8 } else { 20 })),
        });
        told += whole;
    }
    chapters
}

/// One of a bag that is filled again when it is empty.
fn draw<T: Copy>(dice: &mut Dice, bag: &mut Vec<T>, all: &[T]) -> T {
    if bag.is_empty() {
        bag.extend_from_slice(all);
    }
    let n = usize::try_from(dice.within(0..bag.len() as u64)).unwrap_or(0);
    bag.swap_remove(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_told_again_by_its_seed_and_leaves_nothing_out() {
        let hour = Duration::from_secs(3_600);
        let told = story(7, hour);
        assert_eq!(told, story(7, hour));
        assert_ne!(told, story(8, hour));
        assert!(Fault::ALL.iter().all(|fault| told.iter().any(|c| c.fault == *fault)));
        assert!(Link::ALL.iter().all(|link| told.iter().any(|c| c.link == *link)));
    }

    #[test]
    fn a_minute_is_a_few_chapters_and_a_fault_ends_before_its_chapter() {
        for seed in 0..200 {
            let told = story(seed, Duration::from_secs(60));
            assert!((4..=8).contains(&told.len()), "{}", told.len());
            for chapter in story(seed, Duration::from_secs(7_200)).iter().chain(&told) {
                assert!(chapter.fault_after + chapter.fault_lasts < chapter.lasts, "{chapter:?}");
                assert!(chapter.lasts <= CHAPTER_MAX);
            }
        }
    }
}

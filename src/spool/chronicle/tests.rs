//! Ages against the true time, which no machine knows and a test does.

use super::*;
use crate::base::Clock;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const YEARS_10: u64 = 10 * 365 * 86_400 * 1_000_000_000;
/// 2026-11-27.
const TODAY: u64 = 1_795_737_600_000_000_000;
/// Where a clock begins that has no battery.
const IN_1970: u64 = 5_000_000_000;

/// A machine whose true time is known.
struct Machine {
    clock: Clock,
    chronicle: Chronicle,
    /// Seconds since the story began.
    truth: Duration,
    epoch: u32,
}

impl Machine {
    fn new() -> Machine {
        let clock = Clock::by_hand(Stamp { wall_ns: TODAY, mono_ms: 30_000 });
        let mut machine = Machine { clock, chronicle: Chronicle::default(), truth: Duration::ZERO, epoch: 1 };
        machine.look();
        machine
    }

    fn look(&mut self) {
        self.chronicle.observe(&self.clock.reading(), self.epoch);
    }

    /// Time passes with the machine on; the keeper looks now and then.
    fn pass(&mut self, time: Duration) {
        let looks = 20;
        for _ in 0..looks {
            self.clock.advance(time / looks);
            self.truth += time / looks;
            self.look();
        }
    }

    /// The agent ends and starts again: what it knows is what it wrote.
    fn restart(&mut self) {
        let mut next = Chronicle::default();
        for (epoch, record) in self.chronicle.take_records(true) {
            next.restore(epoch, &record).expect("as it was written");
        }
        self.chronicle = next;
        self.epoch += 1;
        self.look();
    }

    /// Off for so long, then a clock that begins at `wall_ns`.
    fn off(&mut self, time: Duration, wall_ns: u64) {
        self.clock.reboot(time, wall_ns);
        self.truth += time;
        self.restart();
    }

    fn right(&self) -> u64 {
        TODAY + u64::try_from(self.truth.as_nanos()).expect("stories are short")
    }

    /// NTP answers.
    fn in_step(&mut self) {
        self.clock.set_wall_ns(self.right());
        self.clock.set_synced(true);
        self.look();
    }

    /// Somebody sets it by hand, which the kernel takes for out of step.
    fn set(&mut self, wall_ns: u64) {
        self.clock.set_wall_ns(wall_ns);
        self.clock.set_synced(false);
        self.look();
    }

    fn block(&self) -> (Stamp, BootId, u64) {
        (self.clock.now(), self.clock.boot_id(), u64::from(self.epoch) << 32)
    }

    fn age(&self, (accepted, boot, index): (Stamp, BootId, u64)) -> Duration {
        self.chronicle.age(accepted, boot, index, &self.clock.reading())
    }
}

/// What the clock did, and what may be said of the age of what came in first.
#[test]
fn ages_go_over_reboots_and_jumps() {
    type Story = fn(&mut Machine);
    let stories: [(&str, Story, Duration); 11] = [
        ("nothing happens", |m| m.pass(HOUR), HOUR),
        (
            "+10 years in one boot",
            |m| {
                m.pass(HOUR);
                m.set(m.right() + YEARS_10);
                m.pass(HOUR)
            },
            2 * HOUR,
        ),
        (
            "-10 years in one boot",
            |m| {
                m.pass(HOUR);
                m.set(m.right() - YEARS_10);
                m.pass(HOUR)
            },
            2 * HOUR,
        ),
        (
            "1970, then set, in one boot",
            |m| {
                m.set(IN_1970);
                m.pass(HOUR);
                m.in_step();
                m.pass(HOUR)
            },
            2 * HOUR,
        ),
        (
            "off for a day, no clock ever",
            |m| {
                m.pass(HOUR);
                m.off(24 * HOUR, IN_1970);
                m.pass(HOUR)
            },
            2 * HOUR,
        ),
        (
            "off for a day, both in step",
            |m| {
                m.in_step();
                m.pass(HOUR);
                m.off(24 * HOUR, IN_1970);
                m.in_step();
                m.pass(HOUR)
            },
            26 * HOUR,
        ),
        (
            "corrected after: set an hour after it came in",
            |m| {
                m.set(IN_1970);
                m.pass(HOUR);
                m.in_step();
                m.pass(HOUR);
                m.off(24 * HOUR, IN_1970);
                m.pass(HOUR);
                m.in_step();
                m.pass(HOUR)
            },
            28 * HOUR,
        ),
        (
            "in step, then +10 years, off, in step",
            |m| {
                m.in_step();
                m.pass(HOUR);
                m.set(m.right() + YEARS_10);
                m.pass(HOUR);
                m.off(24 * HOUR, IN_1970);
                m.in_step();
                m.pass(HOUR)
            },
            27 * HOUR,
        ),
        (
            "off, +10 years by hand, right again",
            |m| {
                m.in_step();
                m.pass(HOUR);
                m.off(24 * HOUR, TODAY);
                m.set(m.right() + YEARS_10);
                m.pass(HOUR);
                m.in_step();
                m.pass(HOUR)
            },
            27 * HOUR,
        ),
        (
            "a boot between that never was in step",
            |m| {
                m.in_step();
                m.pass(HOUR);
                m.off(HOUR, IN_1970);
                m.pass(HOUR);
                m.off(HOUR, IN_1970);
                m.in_step();
                m.pass(HOUR)
            },
            5 * HOUR,
        ),
        (
            "in step for a moment only: not believed",
            |m| {
                m.in_step();
                m.pass(HOUR);
                m.off(24 * HOUR, TODAY);
                m.clock.set_wall_ns(TODAY + YEARS_10);
                m.clock.set_synced(true);
                m.pass(20 * S);
                m.set(TODAY);
                m.pass(HOUR - 20 * S)
            },
            2 * HOUR,
        ),
    ];
    for (name, story, expected) in stories {
        let mut machine = Machine::new();
        let block = machine.block();
        story(&mut machine);
        let age = machine.age(block);
        assert!(age.abs_diff(expected) < 2 * S, "{name}: {age:?}, not {expected:?}");
        assert!(age <= machine.truth + S, "{name}: {age:?} is more than has passed, {:?}", machine.truth);
    }
}

/// A clock that says it is in step and lies behind what earlier boots prove is not believed, so nothing is aged by it.
#[test]
fn a_clock_in_step_with_the_past_is_not_believed() {
    let mut m = Machine::new();
    m.in_step();
    m.pass(HOUR);
    m.off(HOUR, TODAY);
    m.clock.set_wall_ns(m.right() - YEARS_10 / 2);
    m.clock.set_synced(true);
    m.pass(HOUR);
    let block = m.block();
    assert!(m.chronicle.is_unset(block.0, block.1), "five years back, in a year that might be");
    m.off(HOUR, TODAY);
    m.in_step();
    m.pass(HOUR);
    assert!(m.age(block) <= 2 * HOUR + S, "{:?}", m.age(block));
    assert!(!m.chronicle.is_unset(m.block().0, m.block().1));
}

/// What came in before the clock was set shows its true time when the boot's clock comes into step.
#[test]
fn a_time_before_the_clock_was_set_is_corrected() {
    let mut m = Machine::new();
    m.set(IN_1970);
    let (accepted, boot, _) = m.block();
    assert_eq!(m.chronicle.corrected_ns(accepted, boot), None);
    assert!(m.chronicle.is_unset(accepted, boot));
    m.pass(HOUR);
    m.in_step();
    m.pass(2 * HOUR);
    let corrected = m.chronicle.corrected_ns(accepted, boot).expect("in step for two hours");
    assert!(corrected.abs_diff(TODAY) < 1_000_000_000, "{corrected}");
    m.restart();
    assert_eq!(m.chronicle.corrected_ns(accepted, boot), Some(corrected), "and is written down");
}

/// A card that goes to another machine and back: no hour counts twice.
#[test]
fn a_card_in_another_machine_ages_no_faster() {
    let mut chronicle = Chronicle::default();
    let at = |boot: u8, s: u64| Reading {
        stamp: Stamp { wall_ns: 0, mono_ms: s * 1_000 },
        boot: BootId([boot; 16]),
        synced_ns: None,
    };
    chronicle.observe(&at(1, 100), 1);
    chronicle.observe(&at(1, 200), 1);
    chronicle.observe(&at(2, 90_000), 2); // up for a day before the card came
    chronicle.observe(&at(2, 90_010), 2);
    let here = chronicle.age(at(2, 90_005).stamp, BootId([2; 16]), 2 << 32, &at(2, 90_010));
    assert_eq!(here, 5 * S);
    assert_eq!(chronicle.age(at(1, 150).stamp, BootId([1; 16]), 1 << 32, &at(2, 90_010)), 60 * S);
    chronicle.observe(&at(1, 300), 3);
    chronicle.observe(&at(1, 310), 3);
    assert_eq!(chronicle.age(at(1, 150).stamp, BootId([1; 16]), 1 << 32, &at(1, 310)), 160 * S, "its own clock");
    assert_eq!(chronicle.age(at(2, 90_005).stamp, BootId([2; 16]), 2 << 32, &at(1, 310)), 15 * S);
}

/// Boots without end are not remembered without end, and what is older than all that is remembered is not called younger.
#[test]
fn a_thousand_boots_take_the_room_of_a_few() {
    let mut m = Machine::new();
    let block = m.block();
    for _ in 0..1_000 {
        m.pass(HOUR);
        m.off(S, IN_1970);
    }
    m.pass(HOUR);
    assert_eq!(m.chronicle.boots.len(), BOOTS_MAX);
    let least = HOUR * u32::try_from(BOOTS_MAX - 1).expect("small");
    assert!(m.age(block) >= least && m.age(block) <= m.truth, "{:?}", m.age(block));
    // A boot whose record was lost lies behind the boots before it, not before them all.
    let lost = (Stamp::default(), BootId([9; 16]), u64::from(m.epoch) << 32);
    assert_eq!(m.age(lost), Duration::ZERO);
}

#[derive(Debug, Clone)]
enum Happens {
    Block,
    Pass(u16),
    Off(u32, u8),
    Restart,
    InStep,
    Set(i8),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => Just(Happens::Block),
        5 => (1..10_000_u16).prop_map(Happens::Pass),
        2 => (1..1_000_000_u32, 0..4_u8).prop_map(|(s, at)| Happens::Off(s, at)),
        1 => Just(Happens::Restart),
        3 => Just(Happens::InStep),
        2 => (-10..=10_i8).prop_map(Happens::Set),
    ]
}

proptest! {
    /// Whatever the clocks do: no age is ever more than the true one; every age is at least the time the machine was on and
    /// looked at; and between two boots in which the clock was in step it is the true one.
    #[test]
    fn no_age_is_more_than_has_passed(story in prop::collection::vec(happens(), 1..60)) {
        let mut m = Machine::new();
        let mut on = Duration::ZERO;
        // The block, when it was (true, on), and which boot.
        let mut blocks = Vec::new();
        let (mut boot, mut in_step_since) = (0, None::<Duration>);
        let mut settled = vec![false];
        for event in story {
            match event {
                Happens::Block => blocks.push((m.block(), m.truth, on, boot)),
                Happens::Pass(s) => {
                    m.pass(u32::from(s) * S);
                    on += u32::from(s) * S;
                    // The keeper looks twenty times: the first look begins the clock's probation, the last ends it.
                    settled[boot] |= in_step_since.is_some_and(|since| m.truth - since > Duration::from_millis(SETTLED_MS) + 2 * S);
                }
                Happens::Off(s, at) => {
                    let begins = [IN_1970, TODAY, m.right(), m.right() + YEARS_10][usize::from(at)];
                    m.off(s * S, begins);
                    (boot, in_step_since) = (boot + 1, None);
                    settled.push(false);
                }
                Happens::Restart => {
                    m.restart();
                    in_step_since = in_step_since.map(|_| m.truth);
                }
                Happens::InStep => {
                    m.in_step();
                    in_step_since = in_step_since.or(Some(m.truth));
                }
                Happens::Set(years) => {
                    m.set(m.right().saturating_add_signed(i64::from(years) * (YEARS_10 / 10).cast_signed()));
                    in_step_since = None;
                }
            }
            for (block, truth, on_then, of) in &blocks {
                let (age, truly) = (m.age(*block), m.truth - *truth);
                prop_assert!(age <= truly + 2 * S, "{age:?}, and only {truly:?} have passed");
                prop_assert!(age + S >= on - *on_then, "{age:?}, and it was on for {:?}", on - *on_then);
                if settled[*of] && settled[boot] {
                    prop_assert!(age + 2 * S >= truly, "{age:?} of {truly:?}, with both clocks in step");
                }
            }
        }
    }

    /// A record that was torn or flipped is no record, and nothing else happens.
    #[test]
    fn a_damaged_record_is_refused(byte in 0..50_usize, bit in 0..8_u8) {
        let mut m = Machine::new();
        let (epoch, mut record) = m.chronicle.take_records(true).remove(0);
        prop_assert_eq!(record.len(), 50);
        record[byte] ^= 1 << bit;
        prop_assert!(Chronicle::default().restore(epoch, &record).is_err());
    }
}

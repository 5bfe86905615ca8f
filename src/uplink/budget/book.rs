//! Days and months by the wall clock, and what was used in them.
//!
//! A gateway's clock may be wrong by decades and be set at any moment. What always holds:
//! * A clock that nobody has set (before 2020) ends no period and begins none.
//! * A clock that goes back was wrong before: what was used in the period it leaves counts in the one it returns to.
//! * A clock that goes forward begins a period with nothing used, as time does; if it was wrong, going back mends that.

use super::{CLASSES, Use};
use crate::base::Date;
use crate::base::civil::DAY_S;
use crate::spool::block::CLOCK_SET_NS;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the provider counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calendar {
    /// Of its clock, seconds.
    pub utc_offset_s: i32,
    /// The day on which its month begins, 1 to 28.
    pub month_starts_on: u8,
}

/// A day, or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// `per_day`.
    Day,
    /// `per_month`.
    Month,
}

impl Period {
    /// Both.
    pub const ALL: [Period; 2] = [Period::Day, Period::Month];

    /// For labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}

/// Where a moment lies: the day on which its period begins, the next one's, and the seconds since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first_day: i64,
    next_day: i64,
    passed_s: i64,
}

impl Calendar {
    /// `None`: the clock is not set.
    fn span(self, period: Period, wall_ns: u64) -> Option<Span> {
        if wall_ns < CLOCK_SET_NS {
            return None;
        }
        let local_s = i64::try_from(wall_ns / 1_000_000_000).ok()? + i64::from(self.utc_offset_s);
        let today = local_s.div_euclid(DAY_S);
        let (first_day, next_day) = match period {
            Period::Day => (today, today + 1),
            Period::Month => {
                let (date, starts) = (Date::of_days(today), i64::from(self.month_starts_on.clamp(1, 28)));
                let this = Date { day: starts, ..date };
                let other = |month: i64| Date {
                    year: date.year + month.div_euclid(12),
                    month: month.rem_euclid(12) + 1,
                    day: starts,
                };
                // Months count from 0 here.
                if date.day >= starts {
                    (this.days(), other(date.month).days())
                } else {
                    (other(date.month - 2).days(), this.days())
                }
            }
        };
        Some(Span { first_day, next_day, passed_s: local_s - first_day * DAY_S })
    }
}

/// What was used in one period, bytes by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    /// Its first day since 1970-01-01; None: the clock was not set yet.
    first_day: Option<i64>,
    by: [u64; CLASSES],
}

/// Periods that are remembered: this one, and those a clock that was wrong may come back to.
const KEPT: usize = 4;

/// What was used: of this day and month, and of some before. The last of each list is the present one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    day: Vec<Count>,
    month: Vec<Count>,
}

impl Book {
    fn counts(&mut self, period: Period) -> &mut Vec<Count> {
        match period {
            Period::Day => &mut self.day,
            Period::Month => &mut self.month,
        }
    }

    /// It is that time now.
    pub fn turn_to(&mut self, calendar: Calendar, wall_ns: u64) {
        for period in Period::ALL {
            let first_day = calendar.span(period, wall_ns).map(|span| span.first_day);
            turn(self.counts(period), first_day);
        }
    }

    /// So many bytes more.
    pub fn spend(&mut self, class: usize, bytes: u64) {
        for period in Period::ALL {
            let counts = self.counts(period);
            if counts.is_empty() {
                turn(counts, None);
            }
            if let Some(now) = counts.last_mut() {
                now.by[class] = now.by[class].saturating_add(bytes);
            }
        }
    }

    /// So many bytes were not used after all.
    pub fn give_back(&mut self, class: usize, bytes: u64) {
        for period in Period::ALL {
            if let Some(now) = self.counts(period).last_mut() {
                now.by[class] = now.by[class].saturating_sub(bytes);
            }
        }
    }

    /// How the present period stands, against this limit.
    #[must_use]
    pub fn of(&self, period: Period, limit: u64, calendar: Calendar, wall_ns: u64) -> Use {
        let counts = match period {
            Period::Day => &self.day,
            Period::Month => &self.month,
        };
        let by = counts.last().map_or([0; CLASSES], |now| now.by);
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        match calendar.span(period, wall_ns) {
            Some(span) => {
                let (length, passed) = (seconds((span.next_day - span.first_day) * DAY_S), seconds(span.passed_s));
                let of_length = passed.as_secs_f64() / length.as_secs_f64();
                Use { limit, by, passed: of_length, length, left: length.saturating_sub(passed) }
            }
            // When it began nobody knows, nor when it ends.
            None => {
                let length = seconds(DAY_S * if period == Period::Day { 1 } else { 30 });
                Use { limit, by, passed: 1.0, length, left: length }
            }
        }
    }
}

fn turn(counts: &mut Vec<Count>, first_day: Option<i64>) {
    let none = [0; CLASSES];
    let Some(now) = counts.last().copied() else {
        counts.push(Count { first_day, by: none });
        return;
    };
    match (now.first_day, first_day) {
        (before, after) if before == after => {}
        // Not set (any more): what is used counts where it did.
        (_, None) => {}
        // It was not set until now.
        (None, Some(_)) => {
            counts.pop();
            begin(counts, first_day, now.by);
        }
        (Some(before), Some(after)) if after > before => begin(counts, first_day, none),
        // It was wrong.
        (Some(_), Some(_)) => {
            counts.pop();
            begin(counts, first_day, now.by);
        }
    }
}

/// The period of this first day is the present one; with what is known of it, and so much more.
fn begin(counts: &mut Vec<Count>, first_day: Option<i64>, more: [u64; CLASSES]) {
    let known = counts.iter().position(|count| count.first_day == first_day).map(|at| counts.remove(at));
    let mut by = known.map_or([0; CLASSES], |count| count.by);
    by.iter_mut().zip(more).for_each(|(bytes, more)| *bytes = bytes.saturating_add(more));
    counts.push(Count { first_day, by });
    let surplus = counts.len().saturating_sub(KEPT);
    counts.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn at(date: (i64, i64, i64), hour: u64) -> u64 {
        let days = Date { year: date.0, month: date.1, day: date.2 }.days();
        (u64::try_from(days).expect("after 1970") * 86_400 + hour * HOUR) * 1_000_000_000
    }

    fn used(book: &Book, period: Period) -> u64 {
        book.of(period, 1_000, Calendar::default(), 0).used()
    }

    #[test]
    #[rustfmt::skip]
    fn months_begin_where_the_provider_says() {
        let date = |y, m, d| Date { year: y, month: m, day: d }.days();
        for (starts, now, first, next) in [
            (1,  (2026, 11, 27), date(2026, 11, 1),  date(2026, 12, 1)),
            (1,  (2026, 12, 31), date(2026, 12, 1),  date(2027, 1, 1)),
            (15, (2026, 11, 14), date(2026, 10, 15), date(2026, 11, 15)),
            (15, (2026, 11, 15), date(2026, 11, 15), date(2026, 12, 15)),
            (15, (2027, 1, 3),   date(2026, 12, 15), date(2027, 1, 15)),
            (28, (2028, 2, 28),  date(2028, 2, 28),  date(2028, 3, 28)),
        ] {
            let calendar = Calendar { utc_offset_s: 0, month_starts_on: starts };
            let span = calendar.span(Period::Month, at(now, 0)).expect("it is set");
            assert_eq!((span.first_day, span.next_day), (first, next), "{starts} {now:?}");
        }
        // In Jakarta the day has begun.
        let jakarta = Calendar { utc_offset_s: 7 * 3_600, month_starts_on: 1 };
        let span = jakarta.span(Period::Day, at((2026, 11, 27), 18)).expect("it is set");
        assert_eq!((span.first_day, span.passed_s), (date(2026, 11, 28), 3_600));
        assert_eq!(jakarta.span(Period::Day, CLOCK_SET_NS - 1), None);
    }

    /// Goal: a day ends at its end, and a clock that was wrong, both ways, neither gives a budget twice nor takes one for good.
    #[test]
    fn a_clock_that_is_set_forgets_nothing() {
        let (today, tomorrow, wrong) = (at((2026, 11, 27), 12), at((2026, 11, 28), 1), at((2035, 1, 1), 0));
        let calendar = Calendar { utc_offset_s: 0, month_starts_on: 1 };
        let mut book = Book::default();
        let mut step = |to: u64, bytes: u64, what: &str, day: u64, month: u64| {
            book.turn_to(calendar, to);
            book.spend(2, bytes);
            assert_eq!((used(&book, Period::Day), used(&book, Period::Month)), (day, month), "{what}");
        };
        step(0, 10, "switched on, the clock not set", 10, 10);
        step(today, 5, "set: what was sent before counts today", 15, 15);
        step(0, 1, "the battery of the clock is empty", 16, 16);
        step(wrong, 7, "set wrongly", 7, 7);
        step(today, 0, "mended: nothing is forgotten", 23, 23);
        step(tomorrow, 2, "midnight", 2, 25);
        step(today, 1, "some seconds back", 26, 26);
        step(tomorrow, 0, "midnight again", 0, 26);
        // Wrong from the first day on.
        let mut book = Book::default();
        book.turn_to(calendar, wrong);
        book.spend(0, 9);
        book.turn_to(calendar, today);
        assert_eq!((used(&book, Period::Day), used(&book, Period::Month)), (9, 9));
        assert!(book.day.len() == 1, "{book:?}");
    }

    #[test]
    fn a_book_does_not_grow() {
        let mut book = Book::default();
        for day in 0..1_000 {
            book.turn_to(Calendar::default(), at((2026, 1, 1), 24 * day));
            book.spend(0, 1);
        }
        assert_eq!((book.day.len(), book.month.len(), used(&book, Period::Day)), (KEPT, KEPT, 1));
    }
}

//! For which items a processor is: `include`, `exclude` and everything that drops items, asked from the outside in.
//!
//! ```text
//! Resource ─ Scope ─ (Metric) ─ item          include: services [a], span_names [x]
//!    a     ── open ──────────── x? y?         the name is asked of each span of `a`
//!    b     ── not meant                       nobody asks what is in it: it is copied as it lies
//! ```
//!
//! Each question is asked once of the message it is about, however many items stand below it; so what a condition costs
//! grows with the request and not with its square. Beside the edit itself (0.14 µs a record of 390 bytes): nothing for a
//! resource, 0.04 µs for a severity, 0.15 µs for the last of eight attributes (`cargo bench --bench wire`).

use super::peek::Peek;
use std::fmt;
use std::sync::Arc;

/// A question about one message.
pub type Look = Arc<dyn Fn(Peek<'_>) -> bool + Send + Sync>;

/// The messages around an item, and the item, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `Resource`.
    Resource,
    /// `InstrumentationScope`.
    Scope,
    /// `Metric` with all its points; other signals have none, and a question about it is not asked there.
    Metric,
    /// `Span`, `LogRecord` or a data point.
    Item,
}

/// Holds for an item when every look it has says yes; one without any holds for all.
#[derive(Clone, Default)]
pub struct Test {
    looks: [Option<Look>; 4],
}

impl Test {
    /// Adds a question; one that is there already must hold too.
    #[must_use]
    pub fn and(mut self, level: Level, look: impl Fn(Peek<'_>) -> bool + Send + Sync + 'static) -> Test {
        let place = &mut self.looks[level as usize];
        *place = Some(match place.take() {
            Some(before) => Arc::new(move |message| before(message) && look(message)),
            None => Arc::new(look),
        });
        self
    }

    /// Whether it holds for everything below this message; `None`: that depends on what is below.
    fn at(&self, level: Level, message: &[u8]) -> Option<bool> {
        if self.looks[level as usize].as_ref().is_some_and(|look| !look(Peek(message))) {
            return Some(false);
        }
        let settled = self.looks[level as usize + 1..].iter().all(Option::is_none);
        (settled || level == Level::Item).then_some(true)
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Test")
    }
}

/// For which items.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// Each test, and what it must come to.
    conditions: Vec<(Test, bool)>,
}

/// What is known of the items below a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// All are meant.
    Meant,
    /// None is.
    NotMeant,
    /// These conditions (bit by bit) are not decided.
    Open(u32),
}

/// One item with what stands around it, all serialized.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// By [`Level`]; of other signals than metrics the third is `None`.
    pub levels: [Option<&'a [u8]>; 4],
}

impl Only {
    /// Those for which `test` holds.
    #[must_use]
    pub fn including(self, test: Test) -> Only {
        self.with(test, true)
    }

    /// Not those for which `test` holds.
    #[must_use]
    pub fn excluding(self, test: Test) -> Only {
        self.with(test, false)
    }

    fn with(mut self, test: Test, wanted: bool) -> Only {
        assert!(self.conditions.len() < 32, "a processor has an include and an exclude or two");
        self.conditions.push((test, wanted));
        self
    }

    /// Is anything asked at all?
    #[must_use]
    pub fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Before anything was looked at.
    pub(super) fn start(&self) -> Standing {
        if self.conditions.is_empty() {
            Standing::Meant
        } else {
            Standing::Open(u32::MAX >> (32 - self.conditions.len()))
        }
    }

    /// Will anybody look at this level?
    pub(super) fn asks(&self, level: Level) -> bool {
        self.conditions.iter().any(|(test, _)| test.looks[level as usize].is_some())
    }

    /// Looks at one message, knowing what is known of it already.
    pub(super) fn ask(&self, standing: Standing, level: Level, message: &[u8]) -> Standing {
        let Standing::Open(mut open) = standing else { return standing };
        for (n, (test, wanted)) in self.conditions.iter().enumerate().filter(|(n, _)| standing.is_open(*n)) {
            match test.at(level, message) {
                None => {}
                Some(holds) if holds == *wanted => open &= !(1 << n),
                Some(_) => return Standing::NotMeant,
            }
        }
        if open == 0 { Standing::Meant } else { Standing::Open(open) }
    }

    /// The same said plainly, of one item: what the tests compare with.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn holds(&self, item: &Item<'_>) -> bool {
        let yes = |(look, message): (&Option<Look>, &Option<&[u8]>)| match (look, message) {
            (Some(look), Some(message)) => look(Peek(message)),
            _ => true,
        };
        self.conditions.iter().all(|(test, wanted)| test.looks.iter().zip(&item.levels).all(yes) == *wanted)
    }
}

impl Standing {
    fn is_open(self, n: usize) -> bool {
        matches!(self, Standing::Open(open) if open >> n & 1 == 1)
    }
}

//! The agent's books against the far end's own count (promise P2): at a quiet end both say the same, but for what a crash leaves
//! imprecise, which has a bound (ARCHITECTURE, "What a crash leaves in the books").

use super::child;
use super::tally::{Report, StreamReport, Tally};
use crate::otlp::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One exporter's books of one signal, summed over its pipelines and groups, as `/metrics` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// `tfo_agent_items_accepted`.
    pub accepted: u64,
    /// `…_delivered`.
    pub delivered: u64,
    /// `…_waiting`.
    pub waiting: u64,
    /// `…_dead_letters` and `…_quarantined`.
    pub held: u64,
    /// `…_lost`, for every reason.
    pub lost: u64,
}

impl Shown {
    /// What was accepted has a fate.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.accepted == self.delivered + self.waiting + self.held + self.lost
    }
}

/// What a crash, or an answer that was never heard, may leave between the two counts, in items of one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    /// Offered again because the agent's answer was lost: the agent may count them twice, the far end has them once.
    pub twice: u64,
    /// Under way to the far end when they were evicted: they arrive, and are counted as lost.
    pub late: u64,
}

/// Where the counts disagree.
#[derive(Debug)]
pub struct Disagree(String);

impl fmt::Display for Disagree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The books of an exporter, from the agent's metrics port.
///
/// # Errors
/// When nobody serves metrics there.
pub async fn shown(port: u16, exporter: &str) -> io::Result<BTreeMap<Signal, Shown>> {
    let text = child::metrics(port).await?;
    Ok(Signal::ALL.into_iter().map(|signal| (signal, of_text(&text, exporter, signal))).collect())
}

fn of_text(text: &str, exporter: &str, signal: Signal) -> Shown {
    let of_exporter = format!("exporter=\"{exporter}\"");
    let is_ours = |line: &&str| {
        let pipeline = line.split("pipeline=\"").nth(1).unwrap_or_default();
        let name = pipeline.split(['"', '/', '?']).next().unwrap_or_default();
        line.contains(&of_exporter) && name == signal.name()
    };
    let sum = |name: &str| {
        let start = format!("tfo_agent_items_{name}{{");
        let lines = text.lines().filter(|line| line.starts_with(&start)).filter(is_ours);
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    Shown {
        accepted: sum("accepted"),
        delivered: sum("delivered"),
        waiting: sum("waiting"),
        held: sum("dead_letters") + sum("quarantined"),
        lost: sum("lost"),
    }
}

/// Compares one signal's books with what clients and far end know.
///
/// # Errors
/// What does not hold.
pub fn compare(shown: &Shown, report: &Report, signal: Signal, bound: Bound) -> Result<(), Disagree> {
    let streams = || report.streams.iter().filter(|stream| stream.signal == signal);
    let sum = |of: fn(&StreamReport) -> u64| streams().map(of).sum::<u64>();
    let (issued, acknowledged, arrived) = (sum(|s| s.issued), sum(|s| s.acknowledged), sum(|s| s.arrived));
    let missing = streams().flat_map(|s| &s.lost).map(|run| run.end - run.start).sum::<u64>();
    let Shown { accepted, delivered, waiting, held, lost } = *shown;
    let rules = [
        ("what was accepted has a fate", shown.adds_up()),
        ("nothing waits at a quiet end", waiting == 0),
        ("what was acknowledged was accepted", accepted >= acknowledged),
        ("what was accepted was offered, and at most so many items twice", accepted <= issued + bound.twice),
        ("what is called delivered arrived, at most so many items twice", delivered <= arrived + bound.twice),
        ("what arrived is called delivered, at most so many items lost", delivered + lost.min(bound.late) >= arrived),
        ("what is missing is told", missing <= lost + held),
    ];
    match rules.into_iter().find(|(_, holds)| !holds) {
        None => Ok(()),
        Some((rule, _)) => {
            Err(Disagree(format!("{signal}: {rule} ({bound:?}): {shown:?}, {missing} missing of\n{report}")))
        }
    }
}

/// Waits until the books of every signal agree with the far end's count.
///
/// # Errors
/// Where they disagree when `patience` is over.
pub async fn agree(
    port: u16,
    exporter: &str,
    bound: Bound,
    patience: Duration,
    tally: impl Fn() -> Tally,
) -> Result<BTreeMap<Signal, Shown>, Disagree> {
    let end = Instant::now() + patience;
    loop {
        let said = match shown(port, exporter).await {
            Ok(books) => {
                let report = tally().report();
                let compared = books.iter().try_for_each(|(signal, shown)| compare(shown, &report, *signal, bound));
                compared.map(|()| books)
            }
            Err(error) => Err(Disagree(format!("no metrics at {port}: {error}"))),
        };
        if said.is_ok() || Instant::now() > end {
            return said;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbered::{Mark, Source};

    const TEXT: &str = "\
tfo_agent_items_accepted{exporter=\"a\",pipeline=\"logs\"} 10
tfo_agent_items_accepted{exporter=\"a\",pipeline=\"logs/2\"} 5
tfo_agent_items_accepted{exporter=\"a\",pipeline=\"logs?x=1\"} 1
tfo_agent_items_accepted{exporter=\"a\",pipeline=\"metrics\"} 100
tfo_agent_items_accepted{exporter=\"b\",pipeline=\"logs\"} 1000
tfo_agent_items_lost{exporter=\"a\",pipeline=\"logs\",reason=\"evicted\"} 2
tfo_agent_items_lost{exporter=\"a\",pipeline=\"logs\",reason=\"corrupt\"} 1
";

    #[test]
    fn the_books_of_an_exporter_are_summed_over_its_pipelines() {
        let shown = of_text(TEXT, "a", Signal::Logs);
        assert_eq!(shown, Shown { accepted: 16, lost: 3, ..Shown::default() });
        assert_eq!(of_text(TEXT, "a", Signal::Traces), Shown::default());
    }

    #[test]
    #[rustfmt::skip]
    fn each_rule_can_be_broken() {
        let mut tally = Tally::default();
        tally.issued(Signal::Logs, Source(1), 0..12);
        tally.acknowledged(Signal::Logs, Source(1), 0..10);
        (2..11).for_each(|seq| tally.arrived(Signal::Logs, Some(Mark { source: Source(1), seq })));
        let report = tally.report(); // 9 arrived, one of them not acknowledged; 2 are missing
        let right = Shown { accepted: 11, delivered: 9, waiting: 0, held: 0, lost: 2 };
        let none = Bound::default();
        for (shown, bound, holds) in [
            (right, none, true),
            (Shown { held: 1, lost: 1, ..right }, none, true),
            (Shown { accepted: 12, ..right }, none, false), // one without a fate
            (Shown { accepted: 12, waiting: 1, ..right }, none, false),
            (Shown { accepted: 9, delivered: 7, ..right }, none, false), // less than acknowledged
            (Shown { accepted: 13, delivered: 11, ..right }, none, false),
            (Shown { accepted: 13, delivered: 11, ..right }, Bound { twice: 2, late: 0 }, true),
            (Shown { accepted: 13, delivered: 11, ..right }, Bound { twice: 1, late: 0 }, false),
            (Shown { delivered: 8, lost: 3, ..right }, none, false), // a late one
            (Shown { delivered: 8, lost: 3, ..right }, Bound { twice: 0, late: 1 }, true),
            (Shown { delivered: 10, lost: 1, ..right }, Bound { twice: 5, late: 5 }, false), // one missing that nobody tells
        ] {
            let said = compare(&shown, &report, Signal::Logs, bound);
            assert_eq!(said.is_ok(), holds, "{shown:?} {bound:?} {said:?}");
        }
    }
}

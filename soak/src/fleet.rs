//! `soak fleet`: ten thousand agents and one far end of limited capacity, in virtual time. What decides when an agent knocks is
//! the agent's own code (`uplink::flow`, with its links, rests and ramps); made up are their data, the way and the far end.
//!
//! ```text
//!      0 s  power comes back everywhere at once; every agent has a backlog; the far end is not there yet
//!    120 s  the far end is there
//!    300 s  it restarts: refuses for 10 s
//!    420 s  a quarter of its capacity for 60 s: 503 with Retry-After
//!    600 s  the end
//! ```
//!
//! Three fleets go through that: one without jitter and spread, one with the defaults, and one with `reconnect_spread`. A
//! synchronised peak is a second with many times the knocks of the seconds around it.

use crate::plot::{Plot, Shade, escaped, page};
use clap::Args;
use plotters::style::RGBColor;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tfo_otel_agent::base::Dice;
use tfo_otel_agent::base::backoff::Curve;
use tfo_otel_agent::otlp::Signal;
use tfo_otel_agent::spool::Pos;
use tfo_otel_agent::uplink::assemble::{Part, Piece};
use tfo_otel_agent::uplink::desk::{Desk, Order};
use tfo_otel_agent::uplink::fate::Fate;
use tfo_otel_agent::uplink::flow::{BUDGET, Do, Flow};
use tfo_otel_agent::uplink::link::Trouble;
use tfo_otel_agent::uplink::pack::Body;
use tfo_otel_agent::uplink::retry::Retry;
use tfo_otel_agent::uplink::verdict::Verdict;
use tokio::time::Instant;

/// How many, and where to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Agents of the fleet.
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    /// `reconnect_spread` of the third fleet, seconds.
    #[arg(long, default_value_t = 60)]
    spread: u64,
    /// Chance; the same seed tells the same story.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where `fleet.html` and `fleet.json` go.
    #[arg(long, default_value = "target/soak")]
    report: PathBuf,
}

const S: Duration = Duration::from_secs(1);
/// Each agent has something to say so often.
const PERIOD: Duration = Duration::from_secs(10);
/// So much of a backlog goes in one upload: of 10 s each, what `send_batch_size` holds of a small gateway's records.
const MERGED: u64 = 20;
/// Backlog of each agent when power comes back: an hour.
const BACKLOG: u64 = 360;
/// To the far end and back.
const WAY: Duration = Duration::from_millis(50);
/// Gateways of one model boot alike, to a second.
const BOOT: Duration = Duration::from_secs(1);
/// What the far end takes a second: three times what the fleet says when nothing is wrong.
const CAPACITY: f64 = 3.0;
/// It queues what it can take in so long, and refuses the rest.
const QUEUE: Duration = Duration::from_secs(1);

const ABSENT: [Range<u64>; 2] = [0..120, 300..310];
const WEAK: Range<u64> = 420..480;
const END: u64 = 600;

/// The far end.
struct FarEnd {
    start: Instant,
    capacity: f64,
    /// What it has taken is done by then.
    free: Instant,
    seconds: Vec<Second>,
}

/// What the far end saw in one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    knocks: u32,
    taken: u32,
    refused: u32,
}

impl FarEnd {
    /// When a request that comes now is answered, and how.
    fn answer(&mut self, now: Instant) -> (Instant, Verdict) {
        let second = (now - self.start).as_secs();
        let within = |spans: &[Range<u64>]| spans.iter().any(|span| span.contains(&second));
        let seen = &mut self.seconds[usize::try_from(second).expect("minutes").min(END as usize)];
        seen.knocks += 1;
        if within(&ABSENT) {
            return (now + WAY, Verdict::Silence { trouble: Trouble::Unreachable, why: String::new() });
        }
        let free = self.free.max(now);
        if free - now > QUEUE {
            seen.refused += 1;
            return (now + WAY, Verdict::Later { after: Some(10 * S), why: String::new() });
        }
        seen.taken += 1;
        let capacity = if within(&[WEAK]) { self.capacity / 4.0 } else { self.capacity };
        self.free = free + Duration::from_secs_f64(1.0 / capacity);
        (self.free + WAY, Verdict::Accepted { rejected: 0, message: String::new(), oddity: None })
    }
}

/// One agent: its uplink, and what waits in its spool.
struct Agent {
    flow: Flow,
    waiting: u64,
    /// How much each upload in hand carries.
    out: BTreeMap<u64, u64>,
    next: u64,
    /// Its turn at the start.
    first: Instant,
    /// The wake-up that counts; earlier ones are void.
    wake: Option<Instant>,
}

#[derive(Debug)]
enum Event {
    /// It has more to say.
    Data,
    Wake,
    Answer(Pos, Verdict),
}

/// How a fleet is set up.
#[derive(Debug, Clone, Copy)]
struct Manner {
    name: &'static str,
    jitter: f64,
    spread: Duration,
}

/// What became of a fleet.
#[derive(Debug)]
struct Told {
    manner: Manner,
    seconds: Vec<Second>,
    /// What was said and taken; what still waits.
    delivered: u64,
    waiting: u64,
    /// When the backlog of the outage was gone: the last agent's first moment with nothing to send.
    drained: Option<u64>,
}

/// A fleet and the order of what happens to it.
struct Fleet {
    agents: Vec<Agent>,
    far_end: FarEnd,
    /// When, in which order it was said, to whom, what.
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: BTreeMap<u64, Event>,
    said: u64,
    delivered: u64,
}

impl Fleet {
    fn new(manner: Manner, options: &Options) -> Fleet {
        let start = Instant::now();
        let mut dice = Dice::seeded(options.seed);
        let curve = Curve { randomization_factor: manner.jitter, ..Curve::default() };
        let retry = Retry { curve, reconnect_spread: manner.spread, ..Retry::default() };
        let mut agent = || {
            let desk = Desk::new(Signal::Logs, Order::Any, 10, false);
            let first = start + dice.up_to(BOOT) + dice.up_to(manner.spread);
            let flow = Flow::new(vec![desk], retry, BUDGET, Dice::seeded(dice.u64()));
            Agent { flow, waiting: BACKLOG, out: BTreeMap::new(), next: 1, first, wake: None }
        };
        let agents: Vec<Agent> = (0..options.agents).map(|_| agent()).collect();
        let capacity = f64::from(options.agents) / PERIOD.as_secs_f64() * CAPACITY;
        let far_end = FarEnd { start, capacity, free: start, seconds: vec![Second::default(); END as usize + 1] };
        let mut fleet =
            Fleet { agents, far_end, queue: BinaryHeap::new(), events: BTreeMap::new(), said: 0, delivered: 0 };
        for at in 0..fleet.agents.len() {
            let (first, phase) = (fleet.agents[at].first, dice.up_to(PERIOD));
            fleet.say(first, at, Event::Wake);
            fleet.agents[at].wake = Some(first);
            fleet.say(start + phase, at, Event::Data);
        }
        fleet
    }

    fn say(&mut self, when: Instant, at: usize, event: Event) {
        self.said += 1;
        self.queue.push(Reverse((when, self.said, at)));
        self.events.insert(self.said, event);
    }

    fn tell(mut self, manner: Manner) -> Told {
        let (start, mut drained) = (self.far_end.start, vec![None; self.agents.len()]);
        while let Some(Reverse((now, no, at))) = self.queue.pop() {
            if now > start + S * END as u32 {
                break;
            }
            match self.events.remove(&no).expect("each was said once") {
                Event::Data => {
                    self.agents[at].waiting += 1;
                    self.say(now + PERIOD, at, Event::Data);
                }
                Event::Wake if self.agents[at].wake != Some(now) => continue,
                Event::Wake => self.agents[at].wake = None,
                Event::Answer(key, verdict) => self.hear(at, key, &verdict, now),
            }
            if now >= self.agents[at].first {
                self.step(at, now);
            }
            if self.agents[at].waiting == 0 && self.agents[at].out.is_empty() {
                drained[at].get_or_insert((now - start).as_secs());
            }
        }
        let waiting = self.agents.iter().map(|agent| agent.waiting + agent.out.values().sum::<u64>()).sum();
        let drained = drained.into_iter().collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
        Told { manner, seconds: self.far_end.seconds, delivered: self.delivered, waiting, drained }
    }

    fn hear(&mut self, at: usize, key: Pos, verdict: &Verdict, now: Instant) {
        let agent = &mut self.agents[at];
        match agent.flow.answered(0, key, verdict, now) {
            Some(Fate::Kept(_) | Fate::Suspect | Fate::Halve) | None => {}
            Some(fate) => {
                let carried = agent.out.remove(&key.index).unwrap_or_default();
                agent.flow.desk_mut(0).settled(key);
                match fate {
                    Fate::Delivered { .. } => self.delivered += carried,
                    _ => agent.waiting += carried, // parked: it comes again
                }
            }
        }
    }

    /// All there is to do now for one agent.
    fn step(&mut self, at: usize, now: Instant) {
        loop {
            let agent = &mut self.agents[at];
            let due = (agent.waiting > 0).then_some(now);
            agent.flow.desk_mut(0).set_due(due);
            match agent.flow.next(now) {
                Do::Lease(..) => {
                    let carried = agent.waiting.min(MERGED);
                    let (index, window) = (agent.next, agent.next..agent.next + 1);
                    let place = |index| Pos { index, item: 0 };
                    let part =
                        Part { range: place(index)..place(index + 1), pieces: vec![Piece { index, items: 0..1 }] };
                    agent.waiting -= carried;
                    agent.next += 1;
                    agent.out.insert(index, carried);
                    agent.flow.leased(0, window, vec![(part, Body::default())], Duration::ZERO, now);
                }
                Do::Send(_, key) => {
                    let (when, verdict) = self.far_end.answer(now);
                    self.say(when, at, Event::Answer(key, verdict));
                }
                Do::GiveBack(_, window) => {
                    agent.waiting += window.filter_map(|index| agent.out.remove(&index)).sum::<u64>();
                }
                Do::Park(_, key) => {
                    agent.waiting += agent.out.remove(&key.index).unwrap_or_default();
                    agent.flow.desk_mut(0).settled(key);
                }
                Do::Cut(..) => unreachable!("uploads are of one item here"),
                Do::Rest(until) => {
                    if let Some(until) = until.filter(|until| agent.wake != Some(*until)) {
                        agent.wake = Some(until);
                        self.say(until, at, Event::Wake);
                    }
                    return;
                }
            }
        }
    }
}

/// Spans that are looked at, and what happens in them.
const SPANS: [(&str, Range<u64>); 4] = [
    ("power is back, nobody answers", 0..120),
    ("the far end is back", 120..300),
    ("after its restart", 300..420),
    ("it is weak, then well", 420..600),
];

impl Told {
    /// Knocks of the worst second of a span, and of the mean one.
    fn peak(&self, span: &Range<u64>) -> (f64, f64) {
        let knocks = |second: u64| f64::from(self.seconds[second as usize].knocks);
        let (all, worst) =
            span.clone().map(knocks).fold((0.0, 0.0), |(all, worst): (f64, f64), k| (all + k, worst.max(k)));
        (worst, all / (span.end - span.start) as f64)
    }

    fn refused(&self) -> u32 {
        self.seconds.iter().map(|second| second.refused).sum()
    }

    fn json(&self) -> Value {
        let spans = SPANS.iter().map(|(what, span)| {
            let (worst, mean) = self.peak(span);
            json!({"span": what, "worst": worst, "mean": mean, "ratio": worst / mean})
        });
        json!({
            "fleet": self.manner.name, "spans": spans.collect::<Vec<_>>(), "delivered": self.delivered, "waiting": self.waiting,
            "refused": self.refused(), "drained_s": self.drained,
            "knocks": self.seconds.iter().map(|second| second.knocks).collect::<Vec<_>>(),
        })
    }
}

/// All fleets.
#[derive(Debug)]
pub(crate) struct Report {
    agents: u32,
    seed: u64,
    told: Vec<Told>,
}

impl Report {
    fn of(options: &Options) -> Report {
        let default = Retry::default();
        let fleets = [
            Manner { name: "no jitter, no spread", jitter: 0.0, spread: Duration::ZERO },
            Manner { name: "defaults", jitter: default.curve.randomization_factor, spread: default.reconnect_spread },
            Manner {
                name: "reconnect_spread",
                jitter: default.curve.randomization_factor,
                spread: Duration::from_secs(options.spread),
            },
        ];
        let told = fleets.map(|manner| Fleet::new(manner, options).tell(manner)).into();
        Report { agents: options.agents, seed: options.seed, told }
    }

    /// No second of the fleet with a spread has many times the knocks of the seconds around it.
    fn is_calm(&self) -> bool {
        self.told
            .last()
            .is_some_and(|told| SPANS.iter().map(|(_, span)| told.peak(span)).all(|(worst, mean)| worst < 3.0 * mean))
    }

    fn html(&self) -> io::Result<String> {
        let mut body =
            format!("<h1>{} agents and one far end</h1>\n<pre>{}</pre>\n", self.agents, escaped(&self.to_string()));
        body += "<p>Red: the far end is not there. Orange: it has a quarter of its capacity.</p>\n";
        let (away, weak) = (RGBColor(200, 30, 30), RGBColor(220, 140, 0));
        let shade = |span: &Range<u64>, colour| Shade { from: span.start as f64, until: span.end as f64, colour };
        for told in &self.told {
            let shades = ABSENT.iter().map(|span| shade(span, away)).chain([shade(&WEAK, weak)]).collect();
            let points = told.seconds.iter().enumerate().map(|(at, second)| (at as f64, f64::from(second.knocks)));
            let plot = Plot {
                title: format!("Knocks a second: {}", told.manner.name),
                x: "seconds".to_owned(),
                unit: "requests".to_owned(),
                points: points.take(END as usize).collect(),
                shades,
                span: Some(0.0..END as f64),
                log_x: false,
            };
            body += &plot.svg()?;
        }
        Ok(page("A fleet", &body))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} agents, seed {}; worst second and mean second, in requests, and how they compare",
            self.agents, self.seed
        )?;
        let spans = SPANS.map(|(what, _)| what).join(" | ");
        writeln!(f, "| fleet | {spans} | refused (503) | backlog gone, s |\n|---|{}", "---:|".repeat(SPANS.len() + 2))?;
        for told in &self.told {
            write!(f, "| {} |", told.manner.name)?;
            for (_, span) in &SPANS {
                let (worst, mean) = told.peak(span);
                write!(f, " {worst:.0} / {mean:.0} = {:.1} |", worst / mean.max(1e-9))?;
            }
            let drained = told.drained.map_or("not in time".to_owned(), |second| second.to_string());
            writeln!(f, " {} | {drained} |", told.refused())?;
        }
        Ok(())
    }
}

/// Tells it, and writes the report.
pub(crate) fn tell(options: &Options, json: bool) -> ExitCode {
    let report = Report::of(options);
    let told = Value::Array(report.told.iter().map(Told::json).collect());
    let written = fs::create_dir_all(&options.report)
        .and_then(|()| fs::write(options.report.join("fleet.json"), told.to_string()))
        .and_then(|()| fs::write(options.report.join("fleet.html"), report.html()?));
    match (written, json) {
        (Err(error), _) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
        (Ok(()), true) => println!("{told}"),
        (Ok(()), false) => println!("{report}report: {}", options.report.join("fleet.html").display()),
    }
    if report.is_calm() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise P9. Goal: no synchronised peaks of a fleet that loses and finds its far end in one moment, and everything arrives.
    /// That it is jitter and spread that do it is seen in the fleet that has neither.
    #[test]
    fn a_fleet_does_not_knock_in_one_moment() {
        // `soak fleet` has ten thousand, which takes a minute without optimisation.
        let options = Options { agents: 2_000, spread: 60, seed: 7, report: PathBuf::new() };
        let report = Report::of(&options);
        println!("{report}");
        assert!(report.is_calm(), "{report}");
        let bare = &report.told[0];
        let (worst, mean) = bare.peak(&SPANS[0].1);
        assert!(worst > 10.0 * mean, "{report}");
        assert!(report.told[1..].iter().all(|told| told.drained.is_some()), "{report}");
        let issued = |told: &Told| told.delivered + told.waiting;
        assert!(report.told.iter().all(|told| issued(told) == issued(bare)), "nothing gets lost: {report}");
    }
}

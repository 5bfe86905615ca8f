//! What was seen from outside, on one time axis; thinned when it grows long.

use serde_json::{Value, json};

/// One look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Seconds since the beginning.
    pub(crate) at: f64,
    pub(crate) rss_mib: f64,
    /// CPU, % of a core, since the look before.
    pub(crate) cpu: f64,
    pub(crate) disk_mib: f64,
    /// Items that wait for the far end, by the agent's own books.
    pub(crate) waiting: f64,
    /// Items acknowledged a second, since the look before.
    pub(crate) accepted: f64,
    /// Items the far end took a second.
    pub(crate) delivered: f64,
    /// Syncs a second.
    pub(crate) syncs: f64,
}

/// What a plot shows of a sample.
pub(crate) type Of = fn(&Sample) -> f64;

/// The plots, in their order: title, unit, and what of a sample.
pub(crate) const PLOTS: [(&str, &str, Of); 7] = [
    ("Backlog", "items", |s| s.waiting),
    ("Taken in", "items/s", |s| s.accepted),
    ("Delivered", "items/s", |s| s.delivered),
    ("Resident memory", "MiB", |s| s.rss_mib),
    ("Spool on disk", "MiB", |s| s.disk_mib),
    ("CPU", "% of a core", |s| s.cpu),
    ("Syncs", "1/s", |s| s.syncs),
];

/// Most samples that are kept; a plot has fewer pixels.
const MOST: usize = 2_400;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Series {
    samples: Vec<Sample>,
    /// How many looks one sample stands for.
    every: usize,
    /// Looks that are not a sample yet: the highest of each.
    gathering: Option<(usize, Sample)>,
}

impl Series {
    /// Adds a look. Of looks that are thinned out the highest values stay, so no peak is hidden.
    pub(crate) fn add(&mut self, look: Sample) {
        let every = self.every.max(1);
        let (n, highest) = self.gathering.take().map_or((1, look), |(n, before)| (n + 1, higher(before, look)));
        if n < every {
            self.gathering = Some((n, highest));
            return;
        }
        self.samples.push(highest);
        if self.samples.len() >= MOST {
            let halved = self.samples.chunks(2).map(|pair| pair.iter().copied().reduce(higher).unwrap_or_default());
            self.samples = halved.collect();
            self.every = every * 2;
        }
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub(crate) fn json(&self) -> Value {
        let one = |s: &Sample| {
            let round = |v: f64| (v * 1e3).round() / 1e3;
            json!({
                "at_s": round(s.at), "rss_mib": round(s.rss_mib), "cpu_percent": round(s.cpu), "disk_mib": round(s.disk_mib),
                "waiting": s.waiting, "accepted_per_s": round(s.accepted), "delivered_per_s": round(s.delivered),
                "syncs_per_s": round(s.syncs),
            })
        };
        self.samples.iter().map(one).collect()
    }
}

fn higher(a: Sample, b: Sample) -> Sample {
    Sample {
        at: b.at,
        rss_mib: a.rss_mib.max(b.rss_mib),
        cpu: a.cpu.max(b.cpu),
        disk_mib: a.disk_mib.max(b.disk_mib),
        waiting: a.waiting.max(b.waiting),
        accepted: a.accepted.max(b.accepted),
        delivered: a.delivered.max(b.delivered),
        syncs: a.syncs.max(b.syncs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_series_is_thinned_and_keeps_its_peaks() {
        let mut series = Series::default();
        for n in 0..100_000_u32 {
            series.add(Sample { at: f64::from(n), rss_mib: if n == 77_777 { 99.0 } else { 1.0 }, ..Sample::default() });
        }
        assert!((MOST / 2 - 1..=MOST).contains(&series.samples().len()), "{}", series.samples().len());
        assert_eq!(series.samples().iter().filter(|s| s.rss_mib > 98.0).count(), 1);
        assert!(series.samples().is_sorted_by(|a, b| a.at < b.at));
    }
}

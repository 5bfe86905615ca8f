//! Several endpoints of one exporter, in order of preference: one is used, and the preferred one again when it is back.
//!
//! ```text
//! Parcel ─▶ first that is open ── silence, Retry-After ─▶ next that is open ─ … ─▶ those that are away, in order ─▶ Verdict
//!              ├── took it: that is the verdict
//!              └── refused it ─▶ next that is open ── refuses it too: it is the upload
//!                                                  └─ takes it: it is the first
//! ```
//!
//! What always holds:
//! * The uplink sees one far end: it is away when none of the endpoints answers. Uploads, their ids and the books know
//!   nothing of which one took them.
//! * One that asks for patience gets nothing until then, and the exporter rests for that only when all of them ask for it.
//! * An upload is offered to each endpoint at most once before its verdict, each time for at most `timeout`.
//! * An upload that was sent and not answered may have been taken; the next endpoint gets it under the same id.

use super::endpoint::Rules;
use super::metrics::EndpointMetrics;
use super::transport::{Parcel, Transport};
use super::verdict::Verdict;
use super::way::{Way, together};
use crate::base::Dice;
use futures_util::future::{BoxFuture, FutureExt as _};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Failover(Arc<[Arc<Way>]>);

impl Failover {
    /// Over these, the preferred one first; each with its name.
    #[must_use]
    pub fn new(
        ways: impl IntoIterator<Item = (String, Arc<dyn Transport>)>,
        rules: Rules,
        metrics: &EndpointMetrics,
        mut dice: Dice,
    ) -> Failover {
        let way = |(name, transport)| Way::new(name, transport, rules, metrics.clone(), Dice::seeded(dice.u64()));
        Failover(ways.into_iter().map(way).collect())
    }
}

impl Transport for Failover {
    fn send(&self, parcel: Parcel) -> BoxFuture<'static, Verdict> {
        let ways = self.0.clone();
        async move {
            // While none is open, uploads themselves find out.
            if ways.iter().any(|way| way.is_open()) {
                ways.iter().for_each(|way| way.look(parcel.signal));
            }
            let mut left: Vec<&Arc<Way>> = ways.iter().collect();
            let mut heard: Option<Verdict> = None;
            let mut refused: Option<(&Arc<Way>, Verdict)> = None;
            while let Some(at) = next(&left, refused.is_some()) {
                let way = left.remove(at);
                if let Some(rest) = way.refusal() {
                    heard = both(heard, rest.at(&way.name));
                    continue;
                }
                let (verdict, elsewhere) = way.carry(parcel.clone()).await;
                match (verdict, refused.take()) {
                    (refusal @ Verdict::Split { .. }, None) => refused = Some((way, refusal)),
                    (refusal @ Verdict::Split { .. }, Some((first, said))) => {
                        first.upheld(&said);
                        way.upheld(&refusal);
                        return said.at(&first.name).and(refusal.at(&way.name));
                    }
                    (verdict, before) if elsewhere => {
                        heard = both(heard, verdict.at(&way.name));
                        refused = before;
                    }
                    (verdict, before) => {
                        if let (Verdict::Accepted { .. }, Some((first, said))) = (&verdict, before) {
                            first.overruled(&said);
                        }
                        return together(&ways, verdict);
                    }
                }
            }
            match refused {
                Some((way, said)) if way.is_credible() || ways.len() == 1 => {
                    way.upheld(&said);
                    return said;
                }
                // Others took what it refused before, and cannot be asked now.
                Some((way, said)) => heard = both(heard, said.in_doubt().at(&way.name)),
                None => {}
            }
            let nobody = || Verdict::Hold { why: "there is no endpoint".to_owned() };
            together(&ways, heard.unwrap_or_else(nobody))
        }
        .boxed()
    }
}

/// Whom to ask next: the first that is open; else the first there is, but nobody for a second opinion.
fn next(left: &[&Arc<Way>], is_second: bool) -> Option<usize> {
    let open = left.iter().position(|way| way.is_open());
    open.or_else(|| (!is_second && !left.is_empty()).then_some(0))
}

fn both(before: Option<Verdict>, verdict: Verdict) -> Option<Verdict> {
    Some(match before {
        Some(before) => before.and(verdict),
        None => verdict,
    })
}

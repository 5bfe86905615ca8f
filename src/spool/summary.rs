//! What a segment holds, in a small file beside it: so that it need not be opened to know. A cache: missing or damaged,
//! the segment is opened instead (`docs/spool-format.md` §3).

use super::codec::{Damage, Eye, Pen};
use super::disk::{No, Span, Spans};
use super::source::{Reading, small};
use std::fs;
use std::path::Path;

const NAME: &str = "summary";

/// 2: says whose it is, so that one that came from another segment is known, and how many bytes. 1 did not, and counts as missing.
const VERSION: u8 = 2;

/// Writes it; a failure costs an opening later and nothing else.
pub(crate) fn write(segment: &Path, no: No, spans: &Spans) {
    let mut pen = Pen::default();
    pen.u8(VERSION);
    pen.u64(no.0);
    pen.u32(no.1);
    pen.count(spans.len());
    for (lane, s) in spans {
        pen.u32(*lane);
        for n in [s.first, s.last, s.totals.0, s.totals.1, s.bytes] {
            pen.u64(n);
        }
    }
    let tmp = segment.join("summary.tmp");
    let _ = fs::remove_file(&tmp); // of an earlier life; should it be a pipe, writing would wait
    if let Err(error) = fs::write(&tmp, pen.seal()).and_then(|()| fs::rename(&tmp, segment.join(NAME))) {
        tracing::debug!(segment = %segment.display(), %error, "spool summary not written");
    }
}

/// Reads it back.
pub(crate) fn read(segment: &Path, no: No) -> Option<Spans> {
    parse(&small(&segment.join(NAME), Reading::Strict).ok()??, no).ok()
}

fn parse(record: &[u8], no: No) -> Result<Spans, Damage> {
    let mut eye = Eye::unseal(record)?;
    match eye.u8()? {
        VERSION => {}
        other => return Err(Damage::Unknown { what: "summary version", found: other.into() }),
    }
    if (eye.u64()?, eye.u32()?) != no {
        return Err(Damage::Range("the segment's number"));
    }
    let n = eye.count(44)?;
    (0..n)
        .map(|_| {
            let (lane, first, last) = (eye.u32()?, eye.u64()?, eye.u64()?);
            Ok((lane, Span { first, last, totals: (eye.u64()?, eye.u64()?), bytes: eye.u64()? }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path(), (7, 1)), None);
        let spans: Spans = [(3, Span { first: 1, last: 9, totals: (10, 90), bytes: 800 })].into();
        write(dir.path(), (7, 1), &spans);
        assert_eq!(read(dir.path(), (7, 1)), Some(spans));
        assert_eq!(read(dir.path(), (7, 0)), None, "another one's");
        fs::write(dir.path().join(NAME), b"\x01\xff\xff\xff\xff").expect("writable");
        assert_eq!(read(dir.path(), (7, 1)), None);
    }
}

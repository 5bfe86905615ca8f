//! A lease made ready to be sent: planned, serialized, packed.
//!
//! A block was read and validated when it came in, so it can be cut; should it be cut wrongly all the same (a bug, a bit
//! that fell over in memory), only that block's items leave the stream, as a dead letter for a person.

use super::assemble::{self, Part, Piece, Size};
use super::pack::{Body, Packer};
use crate::otlp::Signal;
use crate::spool::{Lease, Pos};
use crate::supervise::{Wire, tripwire};
use bytes::Bytes;

/// What came of a lease.
#[derive(Debug, Default)]
pub struct Prepared {
    /// To be sent.
    pub uploads: Vec<(Part, Body)>,
    /// What cannot be cut, with the whole block it came from and why.
    pub unreadable: Vec<(Part, Bytes, String)>,
}

/// Cuts `lease` and packs the parts; those of `ceiling` bytes or more are halved, for they would be too large.
pub fn prepare(lease: &Lease, ceiling: Option<u32>, packer: &mut Packer) -> Prepared {
    lease.blocks.iter().for_each(|block| tripwire(Wire::Block, &block.raw));
    let sizes: Vec<Size> = lease.blocks.iter().map(Size::from).collect();
    let mut limit = ceiling.map_or(usize::MAX, |bytes| bytes as usize);
    if lease.cut.max_bytes > 0 {
        limit = limit.min(lease.cut.max_bytes as usize + 1);
    }
    let mut prepared = Prepared::default();
    // Last first, so that what is halved goes back on top in order.
    let mut todo = assemble::plan(&lease.window, &sizes, lease.cut, &lease.settled);
    todo.reverse();
    while let Some(part) = todo.pop() {
        match assemble::serialize(lease.signal, &part, &lease.blocks) {
            Ok(raw) if raw.len() >= limit && part.items() > 1 => {
                let (front, back) = part.halve().expect("it has more than one item");
                todo.extend([back, front]);
            }
            Ok(raw) => {
                let body = packer.pack(&raw);
                prepared.uploads.push((part, body));
            }
            Err(_) if part.pieces.len() > 1 => todo.extend(one_by_one(&part).into_iter().rev()),
            Err(fault) => {
                let block = lease.blocks.iter().find(|block| block.index == part.pieces[0].index);
                let raw = block.expect("the part was planned from these blocks").raw.clone();
                prepared.unreadable.push((part, raw, format!("its block cannot be cut: {fault}")));
            }
        }
    }
    prepared
}

/// A part for each piece of it; together they cover the same range.
fn one_by_one(part: &Part) -> Vec<Part> {
    let starts: Vec<Pos> =
        part.pieces.iter().map(|piece| Pos { index: piece.index, item: piece.items.start }).collect();
    let alone = |(i, piece): (usize, &Piece)| Part {
        range: if i == 0 { part.range.start } else { starts[i] }..starts.get(i + 1).copied().unwrap_or(part.range.end),
        pieces: vec![piece.clone()],
    };
    part.pieces.iter().enumerate().map(alone).collect()
}

/// An upload as two, the first of `items` items, packed anew; `None` when it cannot be cut there.
#[must_use]
pub fn cut(signal: Signal, part: &Part, body: &Body, items: u32, packer: &mut Packer) -> Option<[(Part, Body); 2]> {
    let (front, back) = part.cut(items)?;
    let raw = body.unpack();
    let mut pack = |piece: Part| {
        let raw = assemble::end_of(signal, part, &raw, &piece).ok()?;
        Some((piece, packer.pack(&raw)))
    };
    Some([pack(front)?, pack(back)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;
    use crate::spool::{Cut, Lane, LeasedBlock};
    use crate::testing::numbered::{Numbered, Source, numbers};
    use crate::uplink::pack::{Encoding, LEVEL};

    fn lease(blocks: Vec<(u32, Bytes)>, cut: Cut) -> Lease {
        let blocks: Vec<_> = (3..)
            .zip(blocks)
            .map(|(index, (items, raw))| LeasedBlock { index, items, accepted: Stamp::default(), raw })
            .collect();
        let window = 3..3 + blocks.len() as u64;
        Lease { lane: Lane(1), signal: Signal::Logs, window, cut, settled: Vec::new(), blocks }
    }

    fn made(items: u32) -> (u32, Bytes) {
        (items, Numbered::new(Signal::Logs, Source(1)).request(items).bytes.into())
    }

    fn items_of(prepared: &Prepared) -> Vec<u32> {
        prepared.uploads.iter().map(|(part, _)| part.items()).collect()
    }

    const ANY: Cut = Cut { enough_items: 1, max_items: 0, max_bytes: 0 };

    #[test]
    fn what_is_known_to_be_too_large_is_halved_before_it_is_sent() {
        let mut packer = Packer::new(Encoding::Gzip, LEVEL);
        let lease = lease(vec![made(60), made(60)], ANY);
        let whole = prepare(&lease, None, &mut packer);
        assert_eq!(items_of(&whole), [120]);
        let raw_len = whole.uploads[0].1.raw_len;
        assert_eq!(items_of(&prepare(&lease, Some(raw_len + 1), &mut packer)), [120]);
        let halved = prepare(&lease, Some(raw_len), &mut packer);
        assert_eq!(items_of(&halved), [60, 60]);
        let (front, back) = whole.uploads[0].0.halve().expect("many items");
        assert_eq!([&halved.uploads[0].0, &halved.uploads[1].0], [&front, &back], "as a split would have cut it");
        assert_eq!(
            items_of(&prepare(&lease, Some(1), &mut packer)),
            [1; 120],
            "one item alone is sent whatever its size"
        );
    }

    /// Goal: `max_bytes` holds also where the items are of uneven size, which the plan cannot know.
    #[test]
    fn no_upload_is_larger_than_the_operator_said() {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
        use prost::Message as _;
        let mut decoded = ExportLogsServiceRequest::decode(&made(64).1[..]).expect("logs");
        for record in decoded.resource_logs[0].scope_logs[0].log_records.iter_mut().take(4) {
            record.body = Some(AnyValue { value: Some(Value::StringValue("x".repeat(9_000))) });
        }
        let cut = Cut { max_bytes: 20_000, ..ANY };
        let lease = lease(vec![(64, decoded.encode_to_vec().into())], cut);
        let prepared = prepare(&lease, None, &mut Packer::new(Encoding::Identity, LEVEL));
        assert_eq!(items_of(&prepared).iter().sum::<u32>(), 64);
        for (part, body) in &prepared.uploads {
            assert!(body.raw_len <= 20_000, "{} items in {} B", part.items(), body.raw_len);
        }
    }

    /// Goal: one block that cannot be cut takes nobody with it.
    #[test]
    fn a_block_that_cannot_be_cut_leaves_alone() {
        let broken = (10, Bytes::from_static(b"\xff\xff\xff"));
        let lease = lease(vec![made(10), broken.clone(), made(10)], Cut { max_items: 20, ..ANY });
        let prepared = prepare(&lease, None, &mut Packer::new(Encoding::Gzip, LEVEL));
        let mut sent = 0;
        for (part, body) in &prepared.uploads {
            let before = sent;
            numbers(Signal::Logs, &body.unpack(), |_| sent += 1).expect("a request");
            assert_eq!(sent - before, part.items());
        }
        assert_eq!(sent, 20);
        let lost: u32 = prepared.unreadable.iter().map(|(part, _, _)| part.items()).sum();
        assert_eq!(lost, 10);
        assert!(prepared.unreadable.iter().all(|(part, raw, _)| part.pieces[0].index == 4 && *raw == broken.1));
        // Together they still cover the window without a gap.
        let mut ranges: Vec<_> = prepared.uploads.iter().map(|(part, _)| part.range.clone()).collect();
        ranges.extend(prepared.unreadable.iter().map(|(part, _, _)| part.range.clone()));
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    }

    #[test]
    fn an_upload_cut_in_two_carries_what_the_whole_did() {
        let mut packer = Packer::new(Encoding::Gzip, LEVEL);
        let prepared = prepare(&lease(vec![made(7)], ANY), None, &mut packer);
        let (part, body) = &prepared.uploads[0];
        for items in [1, 3, 6] {
            let pieces = cut(Signal::Logs, part, body, items, &mut packer).expect("it can be cut");
            let mut seqs = Vec::new();
            for (_, piece) in &pieces {
                numbers(Signal::Logs, &piece.unpack(), |mark| seqs.push(mark.expect("numbered").seq))
                    .expect("a request");
            }
            assert_eq!((seqs, pieces[0].0.items(), pieces[1].0.items()), ((0..7).collect(), items, 7 - items));
        }
        for items in [0, 7, 8] {
            assert!(cut(Signal::Logs, part, body, items, &mut packer).is_none(), "{items}");
        }
    }
}

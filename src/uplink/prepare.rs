//! A lease made ready to be sent: planned, serialized, packed.
//!
//! A block was read and validated when it came in, so it can be cut; should it be cut wrongly all the same (a bug, a bit
//! that fell over in memory), only that block's items leave the stream, as a dead letter for a person. That is so
//! whether reading it ends with an error or with a panic (promise P8).
//!
//! What one lease becomes is bounded: a resource of megabytes is repeated in every part, so a part whose envelopes alone
//! are too long is not halved (what becomes of it is the far end's verdict), and after [`growth_max`] bytes the rest of
//! the window goes as one.

use super::assemble::{self, Blocks, Part, Piece, Size, Unreadable};
use super::pack::{Body, Packer};
use crate::otlp::Signal;
use crate::spool::{Lease, Pos};
use crate::supervise::contained;
use bytes::Bytes;

/// What came of a lease.
#[derive(Debug, Default)]
pub struct Prepared {
    /// To be sent.
    pub uploads: Vec<(Part, Body)>,
    /// What cannot be cut, with the whole block it came from and why.
    pub unreadable: Vec<(Part, Bytes, String)>,
}

/// Uncompressed bytes the uploads of one lease may have together before the rest is no longer cut: twice the lease, and
/// 16 MiB, so that small requests with large envelopes can still be cut as small as the operator says.
fn growth_max(lease: &Lease) -> usize {
    let raw: usize = lease.blocks.iter().map(|block| block.raw.len()).sum();
    raw.saturating_mul(2).saturating_add(16 << 20)
}

/// Cuts `lease` and packs the parts; those of `ceiling` bytes or more are halved, for they would be too large.
pub fn prepare(lease: &Lease, ceiling: Option<u32>, packer: &mut Packer) -> Prepared {
    let sizes: Vec<Size> = lease.blocks.iter().map(Size::from).collect();
    let mut limit = ceiling.map_or(usize::MAX, |bytes| bytes as usize);
    if lease.cut.max_bytes > 0 {
        limit = limit.min(lease.cut.max_bytes as usize + 1);
    }
    let (mut prepared, mut blocks) = (Prepared::default(), Blocks::of(lease));
    // Bytes that may still become uploads of their own; none: the rest is cut no more.
    let mut left = Some(growth_max(lease));
    // Last first, so that what is halved goes back on top in order.
    let mut todo = assemble::plan(&lease.window, &sizes, lease.cut, &lease.settled);
    todo.reverse();
    while let Some(part) = todo.pop() {
        let raw = match blocks.serialize(&part) {
            Ok(raw) => raw,
            Err(bad) => {
                set_aside(part, bad, &blocks, &mut prepared, &mut todo);
                continue;
            }
        };
        if !todo.is_empty() && left.is_some_and(|left| raw.len() > left) {
            left = None;
            todo.push(part);
            todo = as_few_as_possible(todo);
            continue;
        }
        let halves =
            part.halve().filter(|_| raw.len() >= limit && left.is_some() && !blocks.is_mostly_envelope(&part, limit));
        if let Some((front, back)) = halves {
            todo.extend([back, front]);
            continue;
        }
        left = left.map(|left| left.saturating_sub(raw.len()));
        match contained("pack an upload", || packer.pack(&raw)) {
            Ok(body) => prepared.uploads.push((part, body)),
            Err(panic) => {
                let bad = Unreadable { index: part.pieces[0].index, why: format!("panic: {panic}") };
                set_aside(part, bad, &blocks, &mut prepared, &mut todo);
            }
        }
    }
    prepared
}

/// A part with a block that cannot be read: its other blocks go alone, the bad one is no upload at all.
fn set_aside(part: Part, bad: Unreadable, blocks: &Blocks<'_>, prepared: &mut Prepared, todo: &mut Vec<Part>) {
    if part.pieces.len() > 1 {
        return todo.extend(one_by_one(&part).into_iter().rev());
    }
    // What follows in the same block belongs to the same letter.
    if let Some((last, _, _)) = prepared.unreadable.last_mut()
        && last.range.end == part.range.start
        && last.pieces[0].index == bad.index
    {
        last.range.end = part.range.end;
        last.pieces[0].items.end = part.pieces[0].items.end;
        return;
    }
    prepared.unreadable.push((part, blocks.raw(bad.index), format!("its block cannot be cut: {}", bad.why)));
}

/// Parts that follow each other (the last first) as one; those behind a settled gap stay apart.
fn as_few_as_possible(mut parts: Vec<Part>) -> Vec<Part> {
    let mut few: Vec<Part> = Vec::new();
    while let Some(mut part) = parts.pop() {
        match few.last_mut() {
            Some(last) if last.range.end == part.range.start => {
                last.range.end = part.range.end;
                let joins = last.pieces.last().zip(part.pieces.first());
                if joins.is_some_and(|(a, b)| a.index == b.index && a.items.end == b.items.start) {
                    let first = part.pieces.remove(0);
                    last.pieces.last_mut().expect("it joins").items.end = first.items.end;
                }
                last.pieces.append(&mut part.pieces);
            }
            _ => few.push(part),
        }
    }
    few.reverse();
    few
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
    let [first, second] = assemble::ends_of(signal, &body.unpack(), [&front, &back]).ok()?;
    Some([(front, packer.pack(&first)), (back, packer.pack(&second))])
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
        Lease {
            lane: Lane(1),
            signal: Signal::Logs,
            window,
            cut,
            settled: Vec::new(),
            age: std::time::Duration::ZERO,
            blocks,
        }
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
        let alone =
            assemble::ends_of(Signal::Logs, &made(60).1, [&part_of(0..1), &part_of(1..60)]).expect("ours")[0].len();
        let least = u32::try_from(alone).expect("small");
        assert_eq!(
            items_of(&prepare(&lease, Some(least), &mut packer)),
            [1; 120],
            "one item alone is sent whatever its size"
        );
        assert_eq!(items_of(&prepare(&lease, Some(1), &mut packer)), [120], "no cut would help");
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

    fn part_of(items: std::ops::Range<u32>) -> Part {
        let at = |item| Pos { index: 3, item };
        Part { range: at(items.start)..at(items.end), pieces: vec![Piece { index: 3, items }] }
    }

    /// A request of log records in one resource whose attribute alone is so long, and cannot be compressed.
    fn wrapped(envelope: usize, records: usize, body: usize) -> (u32, Bytes) {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
        use prost::Message as _;
        let (items, raw) = made(u32::try_from(records).expect("few"));
        let mut decoded = ExportLogsServiceRequest::decode(&raw[..]).expect("logs");
        let mut dice = crate::base::Dice::seeded(5);
        let noise: Vec<u8> = (0..envelope.div_ceil(8)).flat_map(|_| dice.u64().to_le_bytes()).take(envelope).collect();
        let value = Some(AnyValue { value: Some(Value::BytesValue(noise)) });
        let resource = decoded.resource_logs[0].resource.get_or_insert_default();
        resource.attributes.push(KeyValue { key: "huge".to_owned(), value, ..KeyValue::default() });
        for record in &mut decoded.resource_logs[0].scope_logs[0].log_records {
            record.body = Some(AnyValue { value: Some(Value::StringValue("x".repeat(body))) });
        }
        (items, decoded.encode_to_vec().into())
    }

    /// Goal: what one lease becomes is bounded, however large its envelopes and however small the limits; nothing is
    /// lost by that.
    #[test]
    fn a_huge_resource_is_not_repeated_a_thousand_times() {
        const MIB: usize = 1 << 20;
        for (envelope, body, max_items, most) in [
            (4 * MIB + 200_000, 10, 0, 2), // too long as it is: no cut helps but the plan's
            (4 * MIB + 200_000, 10, 1, 7), // also where the operator wants each record alone: until it is enough
            (3_900_000, 9_000, 0, 12),     // it fits, with a few records each
            (3_000, 10, 1, 1_000),         // nothing special
        ] {
            let cut = Cut { max_items, max_bytes: 4 << 20, ..ANY };
            let lease = lease(vec![wrapped(envelope, 1_000, body)], cut);
            let raw = lease.blocks[0].raw.len();
            let prepared = prepare(&lease, None, &mut Packer::new(Encoding::Gzip, LEVEL));
            assert_eq!(items_of(&prepared).iter().sum::<u32>(), 1_000);
            let sum: usize = prepared.uploads.iter().map(|(_, body)| body.raw_len as usize).sum();
            let uploads = prepared.uploads.len();
            assert!(sum <= 3 * raw + (16 << 20) && uploads <= most, "{uploads} uploads of {sum} B of {raw} B");
            assert!(prepared.uploads.windows(2).all(|pair| pair[0].0.range.end == pair[1].0.range.start));
        }
    }

    /// Goal: a block that makes its reader panic is one dead letter, and its neighbours arrive.
    #[test]
    fn a_block_that_causes_a_panic_leaves_alone() {
        use crate::supervise::Wire;
        let poison = {
            let (items, raw) = wrapped(1, 4, 10);
            let mut raw = raw.to_vec();
            // An unknown field of the request: a block that is valid and trips the wire.
            raw.extend([0x92, 0x3f, u8::try_from(Wire::Block.word().len()).expect("short")]);
            raw.extend(Wire::Block.word().as_bytes());
            (items, Bytes::from(raw))
        };
        for max_items in [0, 3, 2] {
            let lease = lease(vec![made(5), poison.clone(), made(5)], Cut { max_items, ..ANY });
            let prepared = prepare(&lease, None, &mut Packer::new(Encoding::Gzip, LEVEL));
            assert_eq!(items_of(&prepared).iter().sum::<u32>(), 10, "{max_items}");
            let [(part, raw, why)] = &prepared.unreadable[..] else { panic!("{:?}", prepared.unreadable) };
            assert!(part.items() == 4 && *raw == poison.1 && why.contains("tripwire"), "{part:?} {why}");
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

//! One block as it lies on the disk: a header of fixed size, then the lz4 payload.
//!
//! The header answers everything the spool asks of a block without touching the payload: whose it is, how many
//! items it has and how many the lane had accepted with it (so that a hole costs a known number, architecture §5),
//! when it was accepted on both clocks, and two checksums, so that a length is believed only after it was checked.
//! The layout is written down in `docs/spool-format.md`; change both together, with the version.

use super::codec::{Damage, Eye};
use super::{Lane, NewBlock};
use crate::base::{BootId, Stamp};
use crate::otlp::Signal;
use xxhash_rust::xxh3::xxh3_64;

/// Length of the header, bytes. [`NewBlock::framed`] starts with so much room.
pub const HEADER_LEN: usize = 120;

/// Most a block may hold before compression, bytes. Requests are bounded far below (4 MiB and 20 MiB by default);
/// this bounds what a reader allocates whatever a header says.
pub const RAW_MAX: usize = 64 << 20;

const MAGIC: u16 = 0x4254; // "TB", little endian
const VERSION: u8 = 1;
/// How every header begins.
pub(crate) const HEADER_BEGINS: [u8; 3] = [MAGIC.to_le_bytes()[0], MAGIC.to_le_bytes()[1], VERSION];

/// The accept time was taken before the wall clock was set: in a year before 2020, or in a time that earlier boots prove to
/// be over.
pub const FLAG_CLOCK_UNSET: u16 = 1;
/// The block was copied forward: an older segment may hold it too.
pub const FLAG_COPIED: u16 = 2;

/// 2020-01-01: no gateway of ours was built before; an earlier wall clock has not been set yet.
pub(crate) const CLOCK_SET_NS: u64 = 1_577_836_800_000_000_000;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it carries.
    pub signal: Signal,
    /// `FLAG_…` bits.
    pub flags: u16,
    /// Whose it is.
    pub lane: Lane,
    /// Its items.
    pub items: u32,
    /// Its number in the lane.
    pub index: u64,
    /// Items the lane had accepted with this block, since the lane began.
    pub accepted_total: u64,
    /// The batcher's id, the same if it was offered twice.
    pub block_id: u128,
    /// Bytes after decompression.
    pub raw_len: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// When it was accepted.
    pub accepted: Stamp,
    /// The boot that `accepted.mono_ms` belongs to.
    pub boot: BootId,
    /// Earliest and latest time in the data, ns since 1970; 0 for none.
    pub data_ns: (u64, u64),
    /// xxh3 of the payload.
    pub payload_sum: u64,
}

impl Header {
    /// Items the lane had accepted before this block.
    #[must_use]
    pub fn accepted_before(&self) -> u64 {
        self.accepted_total.saturating_sub(u64::from(self.items))
    }

    /// Length of the whole value.
    #[must_use]
    pub fn value_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.payload_len)
    }

    fn write(&self, to: &mut [u8; HEADER_LEN]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&[VERSION, self.signal as u8]);
        put(&self.flags.to_le_bytes());
        put(&0_u16.to_le_bytes()); // reserved: length of extras between header and payload
        put(&self.lane.0.to_le_bytes());
        put(&self.items.to_le_bytes());
        put(&self.index.to_le_bytes());
        put(&self.accepted_total.to_le_bytes());
        put(&self.block_id.to_le_bytes());
        put(&self.raw_len.to_le_bytes());
        put(&self.payload_len.to_le_bytes());
        put(&self.accepted.wall_ns.to_le_bytes());
        put(&self.accepted.mono_ms.to_le_bytes());
        put(&self.boot.0);
        put(&self.data_ns.0.to_le_bytes());
        put(&self.data_ns.1.to_le_bytes());
        put(&self.payload_sum.to_le_bytes());
        assert_eq!(at, HEADER_LEN - 8, "the layout of docs/spool-format.md");
        let sum = xxh3_64(&to[..HEADER_LEN - 8]);
        to[HEADER_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the header at the start of `value`.
    ///
    /// # Errors
    /// When it is short, its checksum is wrong, or a field has a value nobody wrote.
    pub fn read(value: &[u8]) -> Result<Header, Damage> {
        let Some(head) = value.get(..HEADER_LEN) else {
            return Err(Damage::Short { offset: 0, missing: HEADER_LEN - value.len() });
        };
        let mut eye = Eye::unseal(head)?;
        let unknown = |what, found| Err(Damage::Unknown { what, found });
        match eye.u16()? {
            MAGIC => {}
            other => return unknown("magic", other.into()),
        }
        match eye.u8()? {
            VERSION => {}
            other => return unknown("version", other.into()),
        }
        let signal = eye.u8()?;
        let Some(signal) = Signal::from_u8(signal) else { return unknown("signal", signal.into()) };
        let flags = eye.u16()?;
        match eye.u16()? {
            0 => {}
            other => return unknown("length of extras", other.into()),
        }
        let header = Header {
            signal,
            flags,
            lane: Lane(eye.u32()?),
            items: eye.u32()?,
            index: eye.u64()?,
            accepted_total: eye.u64()?,
            block_id: eye.u128()?,
            raw_len: eye.u32()?,
            payload_len: eye.u32()?,
            accepted: Stamp { wall_ns: eye.u64()?, mono_ms: eye.u64()? },
            boot: BootId(eye.id()?),
            data_ns: (eye.u64()?, eye.u64()?),
            payload_sum: eye.u64()?,
        };
        if header.raw_len as usize > RAW_MAX {
            return Err(Damage::Range("raw length"));
        }
        Ok(header)
    }
}

impl NewBlock {
    /// Fills the room in front of the payload with the header: from here on the block has its number. `boot` is the present
    /// one; `clock_unset`: the wall part of its accept time is certainly wrong.
    #[must_use]
    pub fn number(mut self, index: u64, accepted_total: u64, boot: BootId, clock_unset: bool) -> (Header, Vec<u8>) {
        let boot = self.boot.unwrap_or(boot);
        let (head, payload) =
            self.framed.split_first_chunk_mut::<HEADER_LEN>().expect("framed begins with the header's room");
        let header = Header {
            signal: self.signal,
            flags: if clock_unset { FLAG_CLOCK_UNSET } else { 0 },
            lane: self.lane,
            items: self.items,
            index,
            accepted_total,
            block_id: self.block_id,
            raw_len: self.raw_len,
            payload_len: u32::try_from(payload.len()).expect("a payload is bounded by RAW_MAX"),
            accepted: self.accepted,
            boot,
            data_ns: self.data_ns,
            payload_sum: xxh3_64(payload),
        };
        header.write(head);
        (header, self.framed)
    }
}

/// Writes the header of a copied block anew, in a copy of it: the same block under another lane and number
/// (quarantine), or the same with [`FLAG_COPIED`].
#[must_use]
pub fn relabel(value: &[u8], header: &Header) -> Vec<u8> {
    let mut copy = value.to_vec();
    if let Some(head) = copy.first_chunk_mut::<HEADER_LEN>() {
        header.write(head);
    }
    copy
}

thread_local! {
    /// Where [`frame`] compresses to.
    static ROOM: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Larger rooms are given back: 1 MiB takes a request of 2,500 log records.
const ROOM_KEPT: usize = 1 << 20;

/// Compresses serialized requests of one signal, in order, into one frame with room for the header.
#[must_use]
pub fn frame(raw: &[u8]) -> Vec<u8> {
    let bound = lz4_flex::block::get_maximum_output_size(raw.len());
    ROOM.with_borrow_mut(|room| {
        if room.len() < bound {
            room.resize(bound, 0);
        }
        let n = lz4_flex::block::compress_into(raw, room).expect("the output has the size lz4 asks for");
        // The value stays in the memtable as long as it waits. A vector shrunk to it would leave a hole behind each.
        let mut framed = Vec::with_capacity(HEADER_LEN + n);
        framed.resize(HEADER_LEN, 0);
        framed.extend_from_slice(&room[..n]);
        if room.len() > ROOM_KEPT {
            *room = Vec::new();
        }
        framed
    })
}

/// Checks and decompresses a stored block.
///
/// # Errors
/// When the payload is not what the header says.
pub fn unframe(header: &Header, value: &[u8]) -> Result<bytes::Bytes, Damage> {
    let payload = value.get(HEADER_LEN..).unwrap_or_default();
    if payload.len() != header.payload_len as usize || xxh3_64(payload) != header.payload_sum {
        return Err(Damage::Checksum);
    }
    // The header's checksum held, so its length is what was written; RAW_MAX bounds it all the same.
    let raw = lz4_flex::block::decompress(payload, header.raw_len as usize).map_err(|_| Damage::Range("payload"))?;
    if raw.len() != header.raw_len as usize {
        return Err(Damage::Range("payload"));
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(raw: &[u8]) -> NewBlock {
        NewBlock {
            lane: Lane(3),
            signal: Signal::Logs,
            block_id: 77,
            items: 5,
            raw_len: u32::try_from(raw.len()).expect("small"),
            accepted: Stamp { wall_ns: CLOCK_SET_NS, mono_ms: 9 },
            boot: None,
            data_ns: (1, 2),
            framed: frame(raw),
        }
    }

    proptest! {
        #[test]
        fn what_was_framed_comes_back(raw in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            let (header, value) = block(&raw).number(4, 100, BootId([6; 16]), false);
            prop_assert_eq!(Header::read(&value), Ok(header));
            prop_assert_eq!(header.accepted_before(), 95);
            prop_assert_eq!(&unframe(&header, &value).expect("intact")[..], &raw[..]);
        }

        #[test]
        fn any_flipped_bit_is_seen(raw in proptest::collection::vec(any::<u8>(), 1..300), at in any::<prop::sample::Index>()) {
            let (_, mut value) = block(&raw).number(4, 100, BootId([6; 16]), false);
            let bit = at.index(value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            let read = Header::read(&value).and_then(|h| unframe(&h, &value));
            prop_assert!(read.is_err(), "bit {}", bit);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(garbage in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Header::read(&garbage).is_err());
        }
    }

    #[test]
    fn a_block_says_when_it_came_in_and_whether_the_clock_was_set() {
        let (now, then) = (BootId([6; 16]), BootId([5; 16]));
        let early = block(b"x").number(1, 1, now, true).0;
        assert_eq!((early.flags, early.boot), (FLAG_CLOCK_UNSET, now));
        let moved = NewBlock { boot: Some(then), ..block(b"x") }.number(1, 1, now, false).0;
        assert_eq!((moved.flags, moved.boot), (0, then), "what moves to another lane keeps the boot of its time");
    }

    #[test]
    fn a_relabelled_block_is_the_same_data_under_another_number() {
        let (header, value) = block(b"hello").number(4, 100, BootId::default(), false);
        let moved = relabel(&value, &Header { lane: Lane(9), index: 1, flags: FLAG_COPIED, ..header });
        let read = Header::read(&moved).expect("intact");
        assert_eq!((read.lane, read.index, read.block_id), (Lane(9), 1, 77));
        assert_eq!(&unframe(&read, &moved).expect("intact")[..], b"hello");
    }
}

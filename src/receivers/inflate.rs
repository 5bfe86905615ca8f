//! Decompression of request bodies, streamed, with an end: a kilobyte of zeros is a megabyte elsewhere.
//!
//! | encoding | format | what bounds it beside the size of what comes out |
//! |---|---|---|
//! | `gzip` | RFC 1952, members one after the other | |
//! | `zlib`, `deflate` | RFC 1950; without its two bytes, RFC 1951 | |
//! | `zstd` | RFC 8878, frames one after the other | [`WINDOW_MAX`], [`FRAMES_MAX`] |
//! | `snappy` | framed (framing_format.txt), as Collectors send it; over HTTP also one block | a block says its size first |

use crate::batcher::budget::{Charge, Crowded};
use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::Read;
use xxhash_rust::xxh64::xxh64;

/// `Content-Encoding`s and `grpc-encoding`s we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which is HTTP's `deflate` too; some clients send RFC 1951 under that name, and it is told by its bytes.
    Zlib,
    /// RFC 8878.
    Zstd,
    /// Frames or a block, told by the first bytes: older Collectors mean frames by `snappy`, newer ones blocks
    /// (`newSnappyHandler` of confighttp).
    Snappy,
}

impl Encoding {
    /// Of a header's value; `None` for one we do not know, which is refused and never taken for identity.
    #[must_use]
    pub fn parse(name: &str) -> Option<Encoding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" => Some(Encoding::Identity),
            "gzip" => Some(Encoding::Gzip),
            "zlib" | "deflate" => Some(Encoding::Zlib),
            "zstd" => Some(Encoding::Zstd),
            "snappy" | "x-snappy-framed" => Some(Encoding::Snappy),
            _ => None,
        }
    }
}

/// Why a body cannot be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uninflatable {
    /// It is not what its encoding says.
    #[error("{0}")]
    Broken(String),
    /// It grows beyond the limit.
    #[error("request body is larger than {0} bytes when decompressed")]
    TooLarge(usize),
    /// There is no room for it just now.
    #[error(transparent)]
    Crowded(#[from] Crowded),
}

/// Inflates `body` up to `max` bytes, charging what comes out.
///
/// # Errors
/// See [`Uninflatable`].
pub fn inflate(encoding: Encoding, body: Bytes, max: usize, charge: &mut Charge) -> Result<Bytes, Uninflatable> {
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => drain(MultiGzDecoder::new(&body[..]), body.len(), max, charge),
        Encoding::Zlib if is_zlib(&body) => drain(ZlibDecoder::new(&body[..]), body.len(), max, charge),
        Encoding::Zlib => drain(DeflateDecoder::new(&body[..]), body.len(), max, charge),
        Encoding::Zstd => unframe(&body, max, charge),
        Encoding::Snappy if body.is_empty() => Ok(body),
        Encoding::Snappy if body.starts_with(SNAPPY_FRAMES) => {
            drain(snap::read::FrameDecoder::new(&body[..]), body.len(), max, charge)
        }
        Encoding::Snappy => block(&body, max, charge),
    }
}

/// What a stream of snappy frames begins with. No block does: read as one it copies from before its beginning.
const SNAPPY_FRAMES: &[u8] = b"\xff\x06\0\0sNaPpY";

/// One block of snappy. It begins with its size, which is charged before anything is allocated.
fn block(body: &[u8], max: usize, charge: &mut Charge) -> Result<Bytes, Uninflatable> {
    let size = snap::raw::decompress_len(body).map_err(broken)?;
    if size > max {
        return Err(Uninflatable::TooLarge(max));
    }
    charge.grow(size)?;
    Ok(snap::raw::Decoder::new().decompress_vec(body).map_err(broken)?.into())
}

/// RFC 1950: method 8, and the first two bytes are a multiple of 31. A raw stream that begins so would begin with a
/// block that is stored or of the fixed codes, whose first byte has 0x08 in its low half: no encoder writes those bits.
fn is_zlib(body: &[u8]) -> bool {
    body.first_chunk().is_some_and(|head: &[u8; 2]| head[0] & 0x0f == 8 && u16::from_be_bytes(*head).is_multiple_of(31))
}

/// Inflated bytes are charged and read in steps of this size.
const STEP: usize = 64 << 10;

fn drain(mut from: impl Read, compressed: usize, max: usize, charge: &mut Charge) -> Result<Bytes, Uninflatable> {
    let mut out: Vec<u8> = Vec::with_capacity(compressed.saturating_mul(4).min(max).min(1 << 20));
    loop {
        let before = out.len();
        charge.grow(STEP)?;
        let read = (&mut from).take(STEP as u64).read_to_end(&mut out).map_err(broken)?;
        if out.len() > max {
            return Err(Uninflatable::TooLarge(max));
        }
        if read == 0 || out.len() == before {
            return Ok(out.into());
        }
    }
}

/// The most a zstd frame may look back: 8 MiB, what RFC 9659 grants the content encoding, and what Go's encoder uses at
/// its default level. The decoder keeps so much beside what has come out; a frame that announces more is refused unread.
const WINDOW_MAX: u64 = 8 << 20;
/// Most frames of one body. An encoder writes one, parallel ones one for each megabyte or so; a million empty ones are 9
/// bytes each and would keep a thread busy for seconds.
const FRAMES_MAX: usize = 1_024;
/// RFC 8878, 3.1.1.2.4: no block becomes more.
const BLOCK_MAX: usize = 128 << 10;

/// The frames of a zstd body, block by block. Blocks are charged before they are decoded.
fn unframe(mut body: &[u8], max: usize, charge: &mut Charge) -> Result<Bytes, Uninflatable> {
    let mut out: Vec<u8> = Vec::new();
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_MAX);
    let mut frames = 0;
    while !body.is_empty() {
        frames += 1;
        if frames > FRAMES_MAX {
            return Err(Uninflatable::Broken(format!("more than {FRAMES_MAX} zstd frames")));
        }
        match decoder.reset(&mut body) {
            Ok(()) => {}
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                body = body.get(length as usize..).ok_or_else(|| broken("a skippable frame is cut short"))?;
                continue;
            }
            Err(e) => return Err(broken(e)),
        }
        let begun = out.len();
        while !decoder.is_finished() {
            charge.grow(becomes_at_most(body))?;
            decoder.decode_blocks(&mut body, BlockDecodingStrategy::UptoBlocks(1)).map_err(broken)?;
            decoder.collect_to_writer(&mut out).map_err(broken)?;
            if out.len() > max {
                return Err(Uninflatable::TooLarge(max));
            }
        }
        let sum = xxh64(&out[begun..], 0) as u32; // RFC 8878, 3.1.1: the low four bytes
        if decoder.get_checksum_from_data().is_some_and(|told| told != sum) {
            return Err(broken("the checksum of a zstd frame does not match"));
        }
    }
    Ok(out.into())
}

/// What the next block of a zstd frame becomes, at most: raw and RLE blocks say it, compressed ones do not.
fn becomes_at_most(body: &[u8]) -> usize {
    let Some([a, b, c]) = body.first_chunk() else { return 0 };
    let head = u32::from_le_bytes([*a, *b, *c, 0]);
    let is_compressed = head >> 1 & 3 == 2;
    if is_compressed { BLOCK_MAX } else { (head >> 3) as usize & (2 * BLOCK_MAX - 1) }
}

fn broken(e: impl ToString) -> Uninflatable {
    Uninflatable::Broken(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Bytes as Size;
    use crate::batcher::budget::Budget;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write;

    fn gzip(raw: &[u8]) -> Bytes {
        let mut to = GzEncoder::new(Vec::new(), Compression::fast());
        to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it").into()
    }

    fn zlib(raw: &[u8]) -> Bytes {
        let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
        to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it").into()
    }

    fn deflate(raw: &[u8], level: u32) -> Bytes {
        let mut to = DeflateEncoder::new(Vec::new(), Compression::new(level));
        to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it").into()
    }

    /// As libzstd makes it, with a checksum; `known`: the size stands in the header, and the window is no more.
    fn zstd(raw: &[u8], known: bool) -> Vec<u8> {
        let mut to = zstd::Encoder::new(Vec::new(), 3).expect("a level");
        to.include_checksum(true).expect("before the first byte");
        if known {
            to.set_pledged_src_size(Some(raw.len() as u64)).expect("before the first byte");
        }
        to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it")
    }

    fn snappy_frames(raw: &[u8]) -> Vec<u8> {
        let mut to = snap::write::FrameEncoder::new(Vec::new());
        to.write_all(raw).expect("memory takes it");
        to.into_inner().expect("memory takes it")
    }

    fn snappy_block(raw: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(raw).expect("memory takes it")
    }

    #[test]
    fn bodies_come_back_as_they_were() {
        let raw: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let budget = Budget::new(Size::mib(8));
        for (encoding, body) in [
            (Encoding::Identity, Bytes::from(raw.clone())),
            (Encoding::Gzip, gzip(&raw)),
            (Encoding::Gzip, [gzip(&raw[..7]), gzip(&raw[7..])].concat().into()),
            (Encoding::Zlib, zlib(&raw)),
            (Encoding::Zlib, deflate(&raw, 0)),
            (Encoding::Zlib, deflate(&raw, 9)),
            (Encoding::Zstd, zstd(&raw, true).into()),
            (Encoding::Zstd, zstd(&raw, false).into()),
            (Encoding::Zstd, [zstd(&raw[..7], false), skippable, zstd(&raw[7..], true)].concat().into()),
            (Encoding::Zstd, [zstd(b"", true), zstd(&raw[..9], true), zstd(&raw[9..], true)].concat().into()),
            (Encoding::Snappy, snappy_frames(&raw).into()),
            (Encoding::Snappy, [snappy_frames(&raw[..7]), snappy_frames(&raw[7..])].concat().into()),
            (Encoding::Snappy, snappy_block(&raw).into()),
        ] {
            assert_eq!(inflate(encoding, body, 2 << 20, &mut budget.open()).expect("whole"), raw, "{encoding:?}");
        }
        for encoding in [Encoding::Zstd, Encoding::Snappy] {
            assert_eq!(inflate(encoding, Bytes::new(), 1, &mut budget.open()).expect("nothing"), "");
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_bomb_ends_at_the_limit_and_a_torn_body_is_broken() {
        let budget = Budget::new(Size::mib(8));
        let zeros = vec![0; 64 << 20];
        for (encoding, bomb) in [
            (Encoding::Gzip, gzip(&zeros)),
            (Encoding::Zlib, zlib(&zeros)),
            (Encoding::Zlib, deflate(&zeros, 6)),
            (Encoding::Zstd, zstd(&zeros, false).into()),
            (Encoding::Snappy, snappy_frames(&zeros).into()),
            (Encoding::Snappy, snappy_block(&zeros).into()),
        ] {
            let told = inflate(encoding, bomb.clone(), 4 << 20, &mut budget.open());
            assert_eq!(told, Err(Uninflatable::TooLarge(4 << 20)), "{encoding:?}");
            let torn = bomb.slice(..bomb.len() / 2);
            let told = inflate(encoding, torn, 1 << 30, &mut budget.open());
            assert!(matches!(told, Err(Uninflatable::Broken(_))), "{encoding:?}: {told:?}");
            let mut other = budget.open();
            other.grow(7 << 20).expect("room");
            let told = inflate(encoding, bomb, 64 << 20, &mut budget.open());
            assert!(matches!(told, Err(Uninflatable::Crowded(_))), "{encoding:?}: {told:?}");
        }
    }

    /// Goal: no frame of a few bytes can ask for much memory or much time, and what was changed on the way is seen.
    #[test]
    fn a_zstd_frame_is_bounded_by_its_window_their_number_and_its_checksum() {
        let budget = Budget::new(Size::mib(8));
        let told = |body: Vec<u8>| inflate(Encoding::Zstd, body.into(), 1 << 30, &mut budget.open());
        let broken = |body: Vec<u8>, why: &str| match told(body) {
            Err(Uninflatable::Broken(told)) => assert!(told.contains(why), "{told}"),
            other => panic!("{other:?}"),
        };
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let empty = |window: u8| [&magic[..], &[0, window, 1, 0, 0]].concat(); // a last block, raw, of nothing
        assert_eq!(told(empty(13 << 3)).expect("8 MiB"), "");
        broken(empty(13 << 3 | 1), "window_size"); // 9 MiB
        broken(empty(0xff), "WindowTooBig"); // 3.75 TiB
        // One segment, so its window is its size; which is said to be 2^40.
        broken([&magic[..], &[0xe0], &(1_u64 << 40).to_le_bytes(), &[1, 0, 0]].concat(), "window_size");
        assert_eq!(told(empty(0).repeat(FRAMES_MAX)).expect("each is one"), "");
        broken(empty(0).repeat(FRAMES_MAX + 1), "more than 1024 zstd frames");
        let mut changed = zstd(b"abcdefgh", true);
        let at = changed.len() - 6; // among the literals, before the checksum
        changed[at] ^= 1;
        broken(changed, "checksum");
        broken(b"\x5a\x2a\x4d\x18\x09\0\0\0abc".to_vec(), "cut short");
        broken(b"no zstd".to_vec(), "");
    }

    /// Goal: a few bytes that promise much cost nothing, and what was changed on the way is seen.
    #[test]
    fn a_snappy_block_is_bounded_by_the_size_it_says_and_frames_by_their_checksums() {
        let budget = Budget::new(Size::mib(8));
        let told = |body: &[u8], max| inflate(Encoding::Snappy, Bytes::copy_from_slice(body), max, &mut budget.open());
        let promise = [0xff, 0xff, 0xff, 0xff, 0x0f, 0]; // 4 GiB
        assert_eq!(told(&promise, 20 << 20), Err(Uninflatable::TooLarge(20 << 20)));
        assert!(matches!(told(b"\x80\x80\x80\x80\x80\x80", 99), Err(Uninflatable::Broken(_))), "no number");
        assert!(matches!(told(b"\x09\x00x", 99), Err(Uninflatable::Broken(_))), "less than it says");
        let mut changed = snappy_frames(b"abcdefgh");
        *changed.last_mut().expect("not empty") ^= 1;
        assert!(matches!(told(&changed, 99), Err(Uninflatable::Broken(_))), "its checksum");
        assert!(matches!(told(&[SNAPPY_FRAMES, &[2, 0, 0, 0]].concat(), 99), Err(Uninflatable::Broken(_))), "kind 2");
        // Chunks to pass over: many of them are no more work than they are bytes.
        let padded = [SNAPPY_FRAMES, &[0xfe, 0, 0, 0].repeat(100_000)].concat();
        assert_eq!(told(&padded, 99).expect("nothing"), "");
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_encoding_nobody_knows_is_not_taken_for_none() {
        for (name, expected) in [
            ("", Some(Encoding::Identity)),
            (" GZip ", Some(Encoding::Gzip)),
            ("deflate", Some(Encoding::Zlib)),
            ("zstd", Some(Encoding::Zstd)),
            ("identity", None),
            ("br", None),
            ("snappy", Some(Encoding::Snappy)),
            ("x-snappy-framed", Some(Encoding::Snappy)),
            ("lz4", None),
        ] {
            assert_eq!(Encoding::parse(name), expected, "{name:?}");
        }
    }
}

//! Decompression of request bodies, streamed, with an end: a kilobyte of zeros is a megabyte elsewhere.

use crate::batcher::budget::{Charge, Crowded};
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use std::io::Read;

/// `Content-Encoding`s we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950; HTTP's `deflate` is this one too.
    Zlib,
}

impl Encoding {
    /// Of a header's value; `None` for one we do not know, which is refused and never taken for identity.
    #[must_use]
    pub fn parse(name: &str) -> Option<Encoding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" => Some(Encoding::Identity),
            "gzip" => Some(Encoding::Gzip),
            "zlib" | "deflate" => Some(Encoding::Zlib),
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
        Encoding::Zlib => drain(ZlibDecoder::new(&body[..]), body.len(), max, charge),
    }
}

/// Inflated bytes are charged and read in steps of this size.
const STEP: usize = 64 << 10;

fn drain(mut from: impl Read, compressed: usize, max: usize, charge: &mut Charge) -> Result<Bytes, Uninflatable> {
    let mut out: Vec<u8> = Vec::with_capacity(compressed.saturating_mul(4).min(max).min(1 << 20));
    loop {
        let before = out.len();
        charge.grow(STEP)?;
        let read =
            (&mut from).take(STEP as u64).read_to_end(&mut out).map_err(|e| Uninflatable::Broken(e.to_string()))?;
        if out.len() > max {
            return Err(Uninflatable::TooLarge(max));
        }
        if read == 0 || out.len() == before {
            return Ok(out.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Bytes as Size;
    use crate::batcher::budget::Budget;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;

    fn gzip(raw: &[u8]) -> Bytes {
        let mut to = GzEncoder::new(Vec::new(), Compression::fast());
        to.write_all(raw).and_then(|()| to.finish()).expect("memory takes it").into()
    }

    #[test]
    fn bodies_come_back_as_they_were() {
        let raw: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&raw).expect("memory takes it");
        let budget = Budget::new(Size::mib(8));
        for (encoding, body) in [
            (Encoding::Identity, Bytes::from(raw.clone())),
            (Encoding::Gzip, gzip(&raw)),
            (Encoding::Gzip, [gzip(&raw[..7]), gzip(&raw[7..])].concat().into()),
            (Encoding::Zlib, zlib.finish().expect("memory takes it").into()),
        ] {
            assert_eq!(inflate(encoding, body, 2 << 20, &mut budget.open()).expect("whole"), raw, "{encoding:?}");
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_bomb_ends_at_the_limit_and_a_torn_body_is_broken() {
        let budget = Budget::new(Size::mib(8));
        let bomb = gzip(&vec![0; 64 << 20]);
        assert_eq!(
            inflate(Encoding::Gzip, bomb.clone(), 4 << 20, &mut budget.open()),
            Err(Uninflatable::TooLarge(4 << 20))
        );
        let torn = bomb.slice(..bomb.len() / 2);
        assert!(matches!(inflate(Encoding::Gzip, torn, 1 << 30, &mut budget.open()), Err(Uninflatable::Broken(_))));
        let mut other = budget.open();
        other.grow(7 << 20).expect("room");
        assert!(matches!(inflate(Encoding::Gzip, bomb, 64 << 20, &mut budget.open()), Err(Uninflatable::Crowded(_))));
    }

    #[test]
    fn an_encoding_nobody_knows_is_not_taken_for_none() {
        for (name, expected) in [
            ("", Some(Encoding::Identity)),
            (" GZip ", Some(Encoding::Gzip)),
            ("deflate", Some(Encoding::Zlib)),
            ("identity", None),
            ("br", None),
            ("snappy", None),
        ] {
            assert_eq!(Encoding::parse(name), expected, "{name:?}");
        }
    }
}

//! Little-endian records with a checksum: written by hand, because their layout is a promise
//! (`docs/spool-format.md`) and a reader must never trust a length it has not compared with what is there.

use xxhash_rust::xxh3::xxh3_64;

/// Why bytes are not the record they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes than the record says it has.
    #[error("ends {missing} bytes early at offset {offset}")]
    Short {
        /// Where the read began.
        offset: usize,
        /// How much is not there.
        missing: usize,
    },
    /// The checksum over it does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// A version, a magic number or an enum nobody wrote.
    #[error("{what} {found} is unknown")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A count that the rest of the record contradicts.
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// Appends fields; [`Pen::seal`] closes the record with its checksum.
#[derive(Debug, Default)]
pub(crate) struct Pen(pub(crate) Vec<u8>);

impl Pen {
    pub(crate) fn u8(&mut self, n: u8) {
        self.0.push(n);
    }
    pub(crate) fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    /// A count that [`Eye::count`] reads back.
    pub(crate) fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).expect("records hold thousands of entries, not billions"));
    }
    pub(crate) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }
    /// The record with the checksum of all before it.
    pub(crate) fn seal(mut self) -> Vec<u8> {
        let sum = xxh3_64(&self.0);
        self.u64(sum);
        self.0
    }
}

/// Reads fields back, each read bounded by what is there.
#[derive(Debug)]
pub(crate) struct Eye<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Eye<'a> {
    /// Over a sealed record, whose checksum it compares first.
    pub(crate) fn unseal(record: &'a [u8]) -> Result<Eye<'a>, Damage> {
        let Some((body, sum)) = record.split_last_chunk::<8>() else {
            return Err(Damage::Short { offset: 0, missing: 8 - record.len() });
        };
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(Damage::Checksum);
        }
        Ok(Eye { bytes: body, at: 0 })
    }

    /// Over bytes without a checksum of their own.
    pub(crate) fn open(bytes: &'a [u8]) -> Eye<'a> {
        Eye { bytes, at: 0 }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Damage> {
        let rest = &self.bytes[self.at..];
        if rest.len() < n {
            return Err(Damage::Short { offset: self.at, missing: n - rest.len() });
        }
        self.at += n;
        Ok(&rest[..n])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        Ok(self.take(N)?.try_into().expect("take gave exactly N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, Damage> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn u128(&mut self) -> Result<u128, Damage> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub(crate) fn id(&mut self) -> Result<[u8; 16], Damage> {
        self.array()
    }

    /// A count of entries of at least `each` bytes, checked against what is left before anybody allocates for it.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Damage> {
        let n = usize::try_from(self.u32()?).map_err(|_| Damage::Range("count"))?;
        if n.saturating_mul(each.max(1)) > self.bytes.len() - self.at {
            return Err(Damage::Range("count"));
        }
        Ok(n)
    }

    pub(crate) fn text(&mut self) -> Result<String, Damage> {
        let n = self.count(1)?;
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| Damage::Range("text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_reads_back_and_any_flipped_bit_is_seen() {
        let mut pen = Pen::default();
        pen.u8(7);
        pen.text("logs/2");
        pen.u64(u64::MAX);
        let record = pen.seal();
        let mut eye = Eye::unseal(&record).expect("just written");
        assert_eq!((eye.u8(), eye.text(), eye.u64()), (Ok(7), Ok("logs/2".into()), Ok(u64::MAX)));
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Eye::unseal(&flipped).err(), Some(Damage::Checksum), "bit {bit}");
        }
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut pen = Pen::default();
        pen.u32(u32::MAX);
        let record = pen.seal();
        assert_eq!(Eye::unseal(&record).and_then(|mut e| e.text()), Err(Damage::Range("count")));
        assert_eq!(Eye::unseal(&[1, 2, 3]).err(), Some(Damage::Short { offset: 0, missing: 5 }));
    }
}

//! `metadata_keys`: requests that differ in these headers go in different uploads, each by a lane of its own.
//!
//! A group's lane is named `<pipeline>?<key>=<value>&…`, as a query would be; the lane of those who say nothing is the
//! pipeline's own. So a group that the far end does not take, or that is slow, holds up no other, and has books of its own.

use crate::otlp::Caller;
use crate::processors::pipe::StoreNo;
use crate::spool::Lane;
use ring::digest::{SHA256, digest};
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// Between a pipeline's id and what its group says.
pub const MARK: char = '?';

/// Longest value that stands in a name as it is, bytes; longer ones by their digest. Tenants and regions are shorter.
const VALUE_MAX: usize = 64;

/// Longest that what a group says may be, bytes: a client may repeat a header as often as a head has room. Beyond it, the digest
/// of all of it stands there; names are kept in memory, on the disk and in metrics.
const NAME_MAX: usize = 256;

/// Headers whose values are secrets: in names, which are logged and scraped, only a digest of them stands.
const SECRET: [&str; 7] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token", "x-access-token"];

/// There are as many groups as `metadata_cardinality_limit` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many batcher metadata-value combinations (metadata_cardinality_limit is {0})")]
pub struct TooMany(pub u32);

/// Lanes of a group by its name, opened when there are none.
pub type Open = Arc<dyn Fn(&str) -> Result<Vec<(StoreNo, Lane)>, TooMany> + Send + Sync>;

/// The groups of one pipeline.
#[derive(Clone)]
pub struct Groups {
    pipeline: String,
    /// In lower case and in order.
    keys: Vec<String>,
    open: Open,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("pipeline", &self.pipeline).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Groups {
    /// Of this pipeline, by these headers.
    #[must_use]
    pub fn new(pipeline: &str, keys: &[String], open: Open) -> Groups {
        let mut keys: Vec<String> = keys.iter().map(|key| key.to_ascii_lowercase()).collect();
        keys.sort();
        Groups { pipeline: pipeline.to_owned(), keys, open }
    }

    /// Where a request of this caller goes; `None`: to the pipeline's own lanes.
    ///
    /// # Errors
    /// When it would be one group too many. What waits is safe; a lane that is empty is free again after a restart.
    pub fn lanes(&self, caller: Option<&Caller>) -> Result<Option<Vec<(StoreNo, Lane)>>, TooMany> {
        self.name(caller).map(|name| (self.open)(&name)).transpose()
    }

    /// `logs?x-tenant=acme`; `None` when the caller has none of the headers.
    fn name(&self, caller: Option<&Caller>) -> Option<String> {
        let caller = caller?;
        let mut name = format!("{}{MARK}", self.pipeline);
        let bare = name.len();
        for key in &self.keys {
            let values = caller.metadata(key);
            if values.is_empty() {
                continue; // which is not the same as an empty value
            }
            let parted = if name.len() > bare { "&" } else { "" };
            let _ = write!(name, "{parted}{}=", Plain(key)); // a String takes all
            for (i, value) in values.iter().enumerate() {
                let parted = if i > 0 { "," } else { "" };
                let _ = match SECRET.contains(&&key[..]) || value.len() > VALUE_MAX {
                    true => write!(name, "{parted}~{}", Digest(value)),
                    false => write!(name, "{parted}{}", Plain(value)),
                };
            }
        }
        if name.len() - bare > NAME_MAX {
            let whole = Digest(&name[bare..]).to_string();
            name.replace_range(bare.., &format!("~{whole}"));
        }
        (name.len() > bare).then_some(name)
    }
}

/// Percent-encoded, but for what stands in a name by itself: RFC 3986's unreserved, without `~`, which marks a digest.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => f.write_char(byte.into())?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// Half of a SHA-256: 128 bits, which nobody finds a second text for.
struct Digest<'a>(&'a str);

impl fmt::Display for Digest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digest(&SHA256, self.0.as_bytes()).as_ref()[..16].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_group_is_named_by_what_its_headers_say() {
        let long = "x".repeat(65);
        for (headers, expected) in [
            (vec![],                                              None),
            (vec![("other", "a")],                                None),
            (vec![("X-Tenant", "acme")],                          Some("logs?x-tenant=acme")),
            (vec![("x-tenant", "")],                              Some("logs?x-tenant=")),
            (vec![("x-tenant", "a"), ("x-tenant", "b")],          Some("logs?x-tenant=a,b")),
            (vec![("x-tenant", "a,b")],                           Some("logs?x-tenant=a%2Cb")),
            (vec![("x-tenant", "a&region=b")],                    Some("logs?x-tenant=a%26region%3Db")),
            (vec![("x-tenant", "~a\u{1b}[31m")],                  Some("logs?x-tenant=%7Ea%1B%5B31m")),
            (vec![("region", "eu"), ("x-tenant", "a")],           Some("logs?region=eu&x-tenant=a")),
            (vec![("authorization", "Bearer s3cret")],            Some("logs?authorization=~0c9ae6066b41d3711dea4667cfcc513f")),
            (vec![("x-tenant", &long)],                           Some("logs?x-tenant=~9537c5fdf120482f7d58d25e9ed583f5")),
            (vec![("x-tenant", &long[..64]); 100],                Some("logs?~6454a13c1d96dc55be427f69b78715d8")),
        ] {
            let keys = ["X-Tenant", "Region", "Authorization"].map(str::to_owned);
            let groups = Groups::new("logs", &keys, Arc::new(|_| Err(TooMany(0))));
            let mut caller = Caller::default();
            headers.iter().for_each(|(name, value)| caller.add(name, value.as_bytes()));
            assert_eq!(groups.name(Some(&caller)).as_deref(), expected, "{headers:?}");
        }
    }
}

//! What Apache's `htpasswd` writes: `name:password`, a line each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use std::collections::BTreeMap;
use std::fmt;
use subtle::ConstantTimeEq as _;

/// The most expensive bcrypt that is taken: four seconds on a fast machine, a minute on a small one.
const COST_MAX: u32 = 16;

/// A password as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Kept {
    /// `$2y$…`: bcrypt, `htpasswd -B`.
    Bcrypt(String),
    /// `{SHA}…`, or `{SSHA}…` with a salt.
    Sha {
        /// Of password and salt.
        digest: [u8; 20],
        /// Nothing for `{SHA}`.
        salt: Vec<u8>,
    },
    /// As it is.
    Plain(String),
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// A line nobody could log in by. It names no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// Why.
    pub why: String,
}

/// Names and passwords. Empty lines and those that begin with `#` are none.
///
/// # Errors
/// The first line that is not understood, or of a kind that is not taken.
pub fn parse(text: &str) -> Result<BTreeMap<String, Kept>, BadLine> {
    let mut all = BTreeMap::new();
    for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
        let bad = |why: String| BadLine { line: n + 1, why };
        let (name, kept) = line.split_once(':').ok_or_else(|| bad("there is no colon after the name".into()))?;
        all.insert(name.to_owned(), Kept::parse(name, kept).map_err(bad)?);
    }
    if all.is_empty() {
        return Err(BadLine { line: 1, why: "there is no name in it".into() });
    }
    Ok(all)
}

impl Kept {
    fn parse(name: &str, kept: &str) -> Result<Kept, String> {
        let not_taken = |kind: &str| format!("the {kind} hash of `{name}` is not taken; make it with `htpasswd -B`");
        let sha = |coded: &str| {
            let bytes = STANDARD.decode(coded).map_err(|_| format!("the SHA hash of `{name}` is no base64"))?;
            let (digest, salt) = bytes.split_first_chunk().ok_or_else(|| format!("the SHA hash of `{name}` is cut"))?;
            Ok(Kept::Sha { digest: *digest, salt: salt.to_vec() })
        };
        match kept {
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| kept.starts_with(prefix)) => {
                let parts = kept.parse::<bcrypt::HashParts>();
                let parts = parts.map_err(|_| format!("the bcrypt hash of `{name}` is broken"))?;
                match parts.get_cost() {
                    4..=COST_MAX => Ok(Kept::Bcrypt(kept.to_owned())),
                    cost => Err(format!("the bcrypt hash of `{name}` has a cost of {cost}; 4 to {COST_MAX} are taken")),
                }
            }
            _ if kept.starts_with("{SHA}") => sha(&kept[5..]),
            _ if kept.starts_with("{SSHA}") => sha(&kept[6..]),
            _ if kept.starts_with("$apr1$") || kept.starts_with("$1$") => Err(not_taken("MD5")),
            _ if kept.starts_with("$5$") || kept.starts_with("$6$") => Err(not_taken("crypt")),
            "" => Err("the password is empty; a variable that is not set?".to_owned()),
            _ => Ok(Kept::Plain(kept.to_owned())),
        }
    }

    /// Whether this is the password; bcrypt takes its time.
    #[must_use]
    pub fn is(&self, password: &[u8]) -> bool {
        match self {
            Kept::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Kept::Sha { digest, salt } => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(password);
                context.update(salt);
                context.finish().as_ref().ct_eq(digest).into()
            }
            Kept::Plain(plain) => super::Mark::of(password).is(&super::Mark::of(plain.as_bytes())).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `htpasswd` of Apache makes them, of the password `secret`.
    const FILE: &str = "
# who may come
plain:secret
colon:sec:ret
bcrypt:$2b$04$WA9kUeZoGzf8Or3e9Hob9.k9PgdFzUrDwl3AAq5LaMGfNCIwdgPmK
sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=
";

    #[test]
    fn what_htpasswd_writes_is_understood() {
        let all = parse(FILE).expect("whole");
        assert_eq!(all.len(), 4);
        for name in ["plain", "sha"] {
            assert!(all[name].is(b"secret") && !all[name].is(b"Secret") && !all[name].is(b""), "{name}");
        }
        assert!(all["colon"].is(b"sec:ret"));
        let hash = bcrypt::hash_with_salt("secret", 4, [7; 16]).expect("a hash").to_string();
        let made = parse(&format!("x:{hash}")).expect("whole");
        assert!(made["x"].is(b"secret") && !made["x"].is(b"secret2"));
        assert!(!format!("{all:?}").contains("secret"));
    }

    #[test]
    #[rustfmt::skip]
    fn a_line_nobody_could_log_in_by_is_told_with_its_number() {
        for (text, told) in [
            ("a:b\nnobody",          "line 2: there is no colon after the name"),
            ("",                      "line 1: there is no name in it"),
            ("a:$apr1$x$y",           "line 1: the MD5 hash of `a` is not taken; make it with `htpasswd -B`"),
            ("a:$6$x$y",              "line 1: the crypt hash of `a` is not taken; make it with `htpasswd -B`"),
            ("a:$2y$04$short",        "line 1: the bcrypt hash of `a` is broken"),
            ("a:$2b$31$WA9kUeZoGzf8Or3e9Hob9.k9PgdFzUrDwl3AAq5LaMGfNCIwdgPmK", "line 1: the bcrypt hash of `a` has a cost of 31; 4 to 16 are taken"),
            ("a:{SHA}***",            "line 1: the SHA hash of `a` is no base64"),
            ("a:{SHA}YWJj",           "line 1: the SHA hash of `a` is cut"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), told);
        }
    }

    /// A variable that is not set leaves nothing behind the colon, and nothing is no password.
    #[test]
    fn an_empty_password_lets_nobody_in() {
        assert!(Kept::parse("agent", "").is_err());
    }
}

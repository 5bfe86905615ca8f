//! The `${…}` in a text, taken apart: pure syntax, nothing is looked up here.
//!
//! ```text
//! a${env:NAME:-b${OTHER}}c   →   "a"  Env{ "NAME", default: "b" Env{"OTHER"} }  "c"
//! $NAME             →   Env{ "NAME" } in the old form, up to the first character no name has; not inside ${…}
//! $$ is $      $1, a$, $| stay as they are (0.88 would eat `$1`, reference §1.3)
//! ```

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Stands for itself.
    Text(String),
    /// Is to be looked up.
    Ref(Reference),
}

/// One `${…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// `${env:NAME}`, `${NAME}`, either with `:-default`; `$NAME`.
    Env {
        /// The name, which may be made of references itself.
        name: Vec<Part>,
        /// What stands there when the variable is not set.
        default: Option<Vec<Part>>,
        /// Written without braces.
        is_old: bool,
    },
    /// `${file:path}`.
    File(Vec<Part>),
    /// `${yaml:text}`.
    Yaml(Vec<Part>),
}

/// Why a text cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadReference {
    /// `${env:A`.
    #[error("`${{` is never closed; write `$${{` for the characters themselves")]
    Open,
    /// `${http://…}`.
    #[error(
        "`${{{0}:…}}` would be fetched over the network; an agent must start without its link, so only env, file and yaml are read"
    )]
    Network(String),
    /// `${foo:…}`.
    #[error("`${{{0}:…}}` is not known; env, file and yaml are")]
    Scheme(String),
    /// `${}`.
    #[error("`${{}}` names nothing")]
    Empty,
    /// References in references in references.
    #[error("references are nested deeper than {NESTING_MAX} levels")]
    TooDeep,
}

/// Deepest nesting of references; `${env:${env:A}}` is two.
const NESTING_MAX: usize = 16;

/// Takes a text apart.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, BadReference> {
    let (parts, rest) = parts(text, 0)?;
    debug_assert!(rest.is_empty(), "outside of a reference only the end of the text ends it");
    Ok(parts)
}

/// Parts up to the end, or inside a reference up to its closing brace; and what follows.
fn parts(text: &str, depth: usize) -> Result<(Vec<Part>, &str), BadReference> {
    if depth > NESTING_MAX {
        return Err(BadReference::TooDeep);
    }
    let inside = depth > 0;
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    loop {
        let stop = rest.find(|c| c == '$' || (inside && c == '}')).unwrap_or(rest.len());
        plain.push_str(&rest[..stop]);
        rest = &rest[stop..];
        if let Some(after) = rest.strip_prefix("${") {
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let (inner, after) = self::parts(after, depth + 1)?;
            parts.push(reference(inner)?);
            rest = after;
        } else if let Some((name, after)) =
            old_form(rest).filter(|_| !inside && !in_hash(text, text.len() - rest.len()))
        {
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let name = vec![Part::Text(name.to_owned())];
            parts.push(Part::Ref(Reference::Env { name, default: None, is_old: true }));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('$') {
            plain.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        } else {
            if !plain.is_empty() {
                parts.push(Part::Text(plain));
            }
            return match rest.strip_prefix('}') {
                Some(after) => Ok((parts, after)),
                None if inside => Err(BadReference::Open),
                None => Ok((parts, rest)),
            };
        }
    }
}

/// The name of a `$NAME` at the start, and what follows it. A dollar sign before anything but a letter or `_` is one:
/// the end of a pattern, a group's number, a shell's `$?`.
fn old_form(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix('$')?;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_').then_some((name, rest))
}

/// How hashes of passwords begin (crypt(5)): `user:$apr1$salt$hash` has no variables.
const HASHES: [&str; 12] =
    ["$1$", "$2$", "$2a$", "$2b$", "$2x$", "$2y$", "$5$", "$6$", "$y$", "$apr1$", "$argon2i$", "$argon2id$"];

/// Longest hash of a password, bytes: argon2 with all its parameters is some hundred.
const HASH_MAX: usize = 512;

/// Whether the word that has a dollar sign at `at` is the hash of a password.
fn in_hash(text: &str, at: usize) -> bool {
    // Hashes are shorter than that, and a text of many dollar signs is not read again for each of them.
    let from = (at.saturating_sub(HASH_MAX)..=at).find(|from| text.is_char_boundary(*from)).unwrap_or(at);
    let begun = text[from..at].rsplit(|c: char| c.is_whitespace() || c == ':').next().unwrap_or_default();
    HASHES.iter().any(|begin| text[at - begun.len()..].starts_with(begin))
}

/// What the inside of a `${…}` says.
fn reference(mut inner: Vec<Part>) -> Result<Part, BadReference> {
    let scheme = match inner.first() {
        None => return Err(BadReference::Empty),
        Some(Part::Text(text)) => scheme(text).map(str::to_owned),
        Some(Part::Ref(_)) => None,
    };
    let Some(scheme) = scheme else {
        return Ok(env(inner));
    };
    if let Some(Part::Text(text)) = inner.first_mut() {
        text.drain(..=scheme.len());
    }
    match scheme.as_str() {
        "env" => Ok(env(inner)),
        "file" => Ok(Part::Ref(Reference::File(inner))),
        "yaml" => Ok(Part::Ref(Reference::Yaml(inner))),
        "http" | "https" => Err(BadReference::Network(scheme)),
        _ => Err(BadReference::Scheme(scheme)),
    }
}

/// The scheme a location or a reference begins with: two characters at least, so that `C:\` is none (reference §1.2).
/// `NAME:-x` is a name with a default.
pub(super) fn scheme(text: &str) -> Option<&str> {
    let (scheme, after) = text.split_once(':')?;
    let mut chars = scheme.chars();
    let well_formed = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
        && scheme.len() > 1;
    (well_formed && !after.starts_with('-')).then_some(scheme)
}

fn env(mut inner: Vec<Part>) -> Part {
    let split = inner.iter().enumerate().find_map(|(n, part)| match part {
        Part::Text(text) => text.find(":-").map(|at| (n, at)),
        Part::Ref(_) => None,
    });
    let default = split.map(|(n, at)| {
        let mut default = inner.split_off(n);
        if let Part::Text(text) = &mut default[0] {
            let behind = text.split_off(at + 2);
            inner.push(Part::Text(text[..at].to_owned()));
            *text = behind;
        }
        default
    });
    Part::Ref(Reference::Env { name: inner, default, is_old: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts in a form to read.
    fn show(parts: &[Part]) -> String {
        let one = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Ref(Reference::Env { name, default: None, is_old }) if *is_old => format!("<old {}>", show(name)),
            Part::Ref(Reference::Env { name, default: None, .. }) => format!("<{}>", show(name)),
            Part::Ref(Reference::Env { name, default: Some(d), .. }) => format!("<{}|{}>", show(name), show(d)),
            Part::Ref(Reference::File(path)) => format!("<file {}>", show(path)),
            Part::Ref(Reference::Yaml(text)) => format!("<yaml {}>", show(text)),
        };
        parts.iter().map(one).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn a_text_is_taken_apart_at_its_references() {
        for (text, expected) in [
            ("plain",                  Ok("plain")),
            ("${env:A}",               Ok("<A>")),
            ("${A}",                   Ok("<A>")),
            ("x${env:A}y${B}z",        Ok("x<A>y<B>z")),
            ("${env:A:-d}",            Ok("<A|d>")),
            ("${A:-d}",                Ok("<A|d>")),
            ("${NOPE:-d}",             Ok("<NOPE|d>")), // four letters and a colon, yet no scheme
            ("${A:-}",                 Ok("<A|>")),
            ("${A:-x:-y}",             Ok("<A|x:-y>")),
            ("${A:-b${B}c}",           Ok("<A|b<B>c>")),
            ("${env:${env:A}}",        Ok("<<A>>")),
            ("${env:P_${A}_S:-${B}}",  Ok("<P_<A>_S|<B>>")),
            ("${file:/a/${B}}",        Ok("<file /a/<B>>")),
            ("${yaml:[1, 2]}",         Ok("<yaml [1, 2]>")),
            ("$$",                     Ok("$")),
            ("$$$$",                   Ok("$$")),
            ("$${env:A}",              Ok("${env:A}")),
            ("$$${env:A}",             Ok("$<A>")),
            ("pa$$word",               Ok("pa$word")),
            ("$NAME",                  Ok("<old NAME>")),
            ("a$NAME/b$_x9-y",         Ok("a<old NAME>/b<old _x9>-y")),
            ("$A$B",                   Ok("<old A><old B>")),
            ("$$NAME",                 Ok("$NAME")),
            ("$$$NAME",                Ok("$<old NAME>")),
            ("$NAMEä",                 Ok("<old NAME>ä")),
            ("u:$apr1$ab$cd",          Ok("u:$apr1$ab$cd")),
            ("$2y$05$abc.d/e$f\u{a0}x:$A",  Ok("$2y$05$abc.d/e$f\u{a0}x:<old A>")),
            ("${A:-$B}",               Ok("<A|$B>")), // as the current collector, which does not know the form
            ("$1 ${A}$ a$",            Ok("$1 <A>$ a$")),
            ("^(a|b$)|c$|$ $) [$] $.", Ok("^(a|b$)|c$|$ $) [$] $.")),
            ("a}b{c",                  Ok("a}b{c")),
            ("${env:A",                Err(BadReference::Open)),
            ("${",                     Err(BadReference::Open)),
            ("${env:${A}",             Err(BadReference::Open)),
            ("${}",                    Err(BadReference::Empty)),
            ("${http://x}",            Err(BadReference::Network("http".into()))),
            ("${vault:x}",             Err(BadReference::Scheme("vault".into()))),
        ] {
            assert_eq!(parse(text).map(|p| show(&p)), expected.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |n| format!("{}A{}", "${".repeat(n), "}".repeat(n));
        assert!(parse(&deep(16)).is_ok());
        assert_eq!(parse(&deep(17)), Err(BadReference::TooDeep));
        assert_eq!(parse(&deep(100_000)), Err(BadReference::TooDeep));
    }
}

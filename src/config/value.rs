//! Values that sections hand on: attribute values of any type, secrets, patterns, listening addresses.

use super::problems::quote;
use regex_lite::Regex;
use std::fmt;

/// A value of an attribute action: what OTLP calls AnyValue, but for bytes, which YAML cannot write.
#[derive(Debug, Clone, PartialEq)]
pub enum Any {
    /// `stringValue`; every value that came from a variable is one (`0123` stays `0123`).
    Text(String),
    /// `intValue`.
    Int(i64),
    /// `doubleValue`.
    Double(f64),
    /// `boolValue`.
    Bool(bool),
    /// `arrayValue`.
    List(Vec<Any>),
    /// `kvlistValue`, in the order of the file.
    Map(Vec<(String, Any)>),
}

/// A text that logs and `{:?}` never show: header values, keys in PEM form.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one who sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::mask::MASK)
    }
}

/// A regular expression that compiled: the one place that names the engine.
///
/// Go's RE2 and this engine share syntax and the promise of linear time, but for Unicode classes (`\pL`). It looks at a
/// text letter by letter, 20 ns each, so patterns that are no more than a text, which most are, are not asked of it.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    plain: Option<Plain>,
}

/// A pattern that says no more than this.
#[derive(Debug, Clone, PartialEq)]
enum Plain {
    /// `a`, `.*a.*`.
    Within(String),
    /// `^a`, `^a.*`.
    First(String),
    /// `a$`, `.*a$`.
    Last(String),
    /// `^a$`.
    Whole(String),
}

impl Plain {
    fn of(pattern: &str) -> Option<Plain> {
        let (begins, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
        let (ends, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
        // Where nothing holds the end, anything may stand there, also nothing.
        let rest = if begins { rest } else { rest.strip_prefix(".*").unwrap_or(rest) };
        let rest = if ends { rest } else { rest.strip_suffix(".*").unwrap_or(rest) };
        if rest.contains(|c| r"\.+*?()|[]{}^$".contains(c)) {
            return None;
        }
        let kind = match (begins, ends) {
            (false, false) => Plain::Within,
            (true, false) => Plain::First,
            (false, true) => Plain::Last,
            (true, true) => Plain::Whole,
        };
        Some(kind(rest.to_owned()))
    }

    fn is_in(&self, text: &str) -> bool {
        match self {
            Plain::Within(part) => text.contains(part),
            Plain::First(part) => text.starts_with(part),
            Plain::Last(part) => text.ends_with(part),
            Plain::Whole(whole) => text == whole,
        }
    }
}

impl Pattern {
    /// Compiles a pattern; it matches anywhere unless anchored.
    ///
    /// # Errors
    /// What the engine says of it, in one line.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let compiled = Regex::new(text).map_err(|e| e.to_string().replace('\n', " "));
        compiled.map(|regex| Pattern { regex, plain: Plain::of(text) })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }

    /// Whether it matches somewhere in `text`.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        match &self.plain {
            Some(plain) => plain.is_in(text),
            None => self.regex.is_match(text),
        }
    }

    /// The names of its groups, in order; `None` for a group without one. The whole match is not among them.
    #[must_use]
    pub fn groups(&self) -> Vec<Option<&str>> {
        self.regex.capture_names().skip(1).collect()
    }

    /// The named groups of the first match with what they caught; `None` when nothing matches.
    #[must_use]
    pub fn extract<'t>(&self, text: &'t str) -> Option<Vec<(&str, &'t str)>> {
        let caught = self.regex.captures(text)?;
        let named = self.regex.capture_names().flatten();
        Some(named.map(|name| (name, caught.name(name).map_or("", |m| m.as_str()))).collect())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}

/// Where a server listens: `0.0.0.0:4317`, `localhost:4317`, `[::1]:4317`, `:4317` (every interface).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Name or address without brackets; empty for every interface.
    pub host: String,
    /// 0 lets the kernel choose.
    pub port: u16,
}

impl Listen {
    /// A place to listen at.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Listen {
        Listen { host: host.to_owned(), port }
    }

    /// Reads `host:port`.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let shown = quote(text);
        if text.contains("://") {
            return Err(format!("{shown} is a URL; write only `host:port`"));
        }
        // Before anything of it is shown in pieces: it may be a password.
        if text.contains('@') {
            return Err(format!("{shown} is not `host:port`"));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some(parts) => parts,
            None => return Err(format!("{shown} has no port; write `host:port`")),
        };
        let bare = match host.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').ok_or_else(|| format!("{shown} opens a bracket and never closes it"))?
            }
            None if host.contains(':') => {
                return Err(format!("{shown} is ambiguous; write IPv6 as {}", quote(&format!("[{host}]:{port}"))));
            }
            None => host,
        };
        if bare.contains(|c: char| c.is_whitespace() || c.is_control() || "/[]".contains(c)) {
            return Err(format!("{shown} is not `host:port`"));
        }
        let port =
            port.parse().map_err(|_| format!("{} is not a port; write a number from 0 to 65535", quote(port)))?;
        Ok(Listen::new(bare, port))
    }

    /// Whether it listens on every interface.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }

    /// Whether two servers at these places would be in each other's way.
    #[must_use]
    pub fn collides_with(&self, other: &Listen) -> bool {
        let same_host = self.host == other.host || self.is_everywhere() || other.is_everywhere();
        self.port != 0 && self.port == other.port && same_host
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_listening_address_is_a_host_and_a_port() {
        for (text, expected) in [
            ("0.0.0.0:4317",   Ok(("0.0.0.0", 4317))),
            ("localhost:0",    Ok(("localhost", 0))),
            (":8888",          Ok(("", 8888))),
            ("[::1]:4317",     Ok(("::1", 4317))),
            ("::1:4317",       Err("`::1:4317` is ambiguous; write IPv6 as `[::1]:4317`")),
            ("[::1:4317",      Err("`[::1:4317` opens a bracket and never closes it")),
            ("localhost",      Err("`localhost` has no port; write `host:port`")),
            ("localhost:http", Err("`http` is not a port; write a number from 0 to 65535")),
            ("a:70000",        Err("`70000` is not a port; write a number from 0 to 65535")),
            ("http://a:1",     Err("`http://a:1` is a URL; write only `host:port`")),
            ("a b:1",          Err("`a b:1` is not `host:port`")),
            ("u:SECRET@h",     Err("`REDACTED@h` is not `host:port`")),
            ("u:SECRET@h:1",   Err("`REDACTED@h:1` is not `host:port`")),
            ("http://u:SECRET@h:1", Err("`http://REDACTED@h:1` is a URL; write only `host:port`")),
            ("",               Err("`` has no port; write `host:port`")),
        ] {
            let read = Listen::parse(text);
            let read = read.as_ref().map(|l| (l.host.as_str(), l.port)).map_err(String::as_str);
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn servers_collide_on_one_port_of_one_interface() {
        for (one, other, expected) in [
            ("0.0.0.0:1",   "127.0.0.1:1", true),
            (":1",          "[::]:1",      true),
            ("10.0.0.1:1",  "127.0.0.1:1", false),
            ("0.0.0.0:1",   "0.0.0.0:2",   false),
            ("0.0.0.0:0",   "0.0.0.0:0",   false), // the kernel chooses twice
        ] {
            let parse = |text| Listen::parse(text).expect("the table holds addresses");
            assert_eq!(parse(one).collides_with(&parse(other)), expected, "{one} and {other}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[REDACTED]");
    }

    #[test]
    fn a_pattern_tells_its_groups_and_what_they_caught() {
        let pattern = Pattern::new(r"^(?P<a>\w+)-(?P<b>\d+)?$").expect("it is a pattern");
        assert_eq!(pattern.groups(), [Some("a"), Some("b")]);
        assert_eq!(pattern.extract("x-7"), Some(vec![("a", "x"), ("b", "7")]));
        assert_eq!(pattern.extract("x-"), Some(vec![("a", "x"), ("b", "")]));
        assert_eq!(pattern.extract("nothing"), None);
        assert!(Pattern::new("(").is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

        /// Goal: what is not asked of the engine is answered as the engine would.
        #[test]
        fn plain_patterns_mean_what_the_engine_makes_of_them(pattern in "\\^?(\\.\\*)?[ab.*\\\\|?$^]{0,3}(\\.\\*)?\\$?", text in "[ab.\\n$]{0,5}") {
            if let Ok(compiled) = Pattern::new(&pattern) {
                proptest::prop_assert_eq!(compiled.is_match(&text), compiled.regex.is_match(&text), "{:?}", compiled.plain);
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_pattern_that_is_only_a_text_is_known() {
        let text = |it: &str| it.to_owned();
        for (pattern, expected) in [
            ("within limits", Some(Plain::Within(text("within limits")))),
            (".*gc.*",        Some(Plain::Within(text("gc")))),
            ("^go_.*",        Some(Plain::First(text("go_")))),
            ("_total$",       Some(Plain::Last(text("_total")))),
            ("^up$",          Some(Plain::Whole(text("up")))),
            ("^.*up",         None), // not behind a line's end
            ("up.*$",         None),
            ("10\\.0",        None),
            ("a|b",           None),
            ("(?i)up",        None),
        ] {
            assert_eq!(Plain::of(pattern), expected, "{pattern}");
        }
    }
}

//! Typed values out of a [`Section`]: each getter states its rule and tells what breaks it.
//!
//! As in 0.88 a quoted `"512"` is a number where a number is wanted, a single value is a list of one, and a text
//! with commas is a list (reference §1.4). Unlike there, a bare `10` is no duration of ten nanoseconds.

use super::problems::{At, quote};
use super::section::{READ_AS_EMPTY, Section};
use super::tree::{Node, Scalar, Typed, Value, Written, typed};
use super::value::{Any, Listen, Pattern, Secret};
use super::{Headers, Id};
use crate::base::units::{BadDuration, parse_duration};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What a getter says of a variable that is not set when it returns its default.
const DEFAULT_STAYS: &str = "the default stays";

impl<'a> Section<'a> {
    /// A text; numbers and booleans count by their characters.
    #[must_use]
    pub fn text(&self, key: &'static str, default: &str) -> String {
        self.text_if_given(key).unwrap_or_else(|| default.to_owned())
    }

    /// A text, or `None` when nothing or an empty one stands there.
    #[must_use]
    pub fn text_if_given(&self, key: &'static str) -> Option<String> {
        let (scalar, _) = self.scalar(key, "a text", DEFAULT_STAYS)?;
        Some(scalar.text.clone()).filter(|t| !t.is_empty())
    }

    /// A text nobody shall see in a log.
    #[must_use]
    pub fn secret_if_given(&self, key: &'static str) -> Option<Secret> {
        self.text_if_given(key).map(Secret::new)
    }

    /// A path, or `None` when nothing stands there.
    #[must_use]
    pub fn path_if_given(&self, key: &'static str) -> Option<PathBuf> {
        self.text_if_given(key).map(PathBuf::from)
    }

    /// `true` or `false`, also in quotes; and what Go's ParseBool takes besides.
    #[must_use]
    pub fn flag(&self, key: &'static str, default: bool) -> bool {
        let Some((scalar, _)) = self.scalar(key, "true or false", DEFAULT_STAYS) else { return default };
        match scalar.text.as_str() {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
            "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
            "" => default,
            other => {
                self.error(key, format!("{} is neither true nor false", quote(other)));
                default
            }
        }
    }

    /// A whole number within `range`.
    #[must_use]
    pub fn number<T>(&self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + Display + TryFrom<i128>,
    {
        let Some((scalar, _)) = self.scalar(key, "a whole number", DEFAULT_STAYS) else { return default };
        let number = match whole(&scalar.text) {
            Ok(None) => return default,
            Ok(Some(number)) => number,
            Err(why) => {
                self.error(key, why);
                return default;
            }
        };
        match T::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.error(key, format!("{number} is not from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    /// A number within `range`, with or without a fraction.
    #[must_use]
    pub fn decimal(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let Some((scalar, _)) = self.scalar(key, "a number", DEFAULT_STAYS) else { return default };
        let number = match typed(scalar.text.trim()) {
            Typed::Null => return default,
            #[allow(clippy::cast_precision_loss)] // factors and multipliers are small
            Typed::Int(n) => n as f64,
            Typed::Float(n) => n,
            _ => {
                self.error(key, format!("{} is not a number", quote(&scalar.text)));
                return default;
            }
        };
        if !range.contains(&number) {
            self.error(key, format!("{number} is not from {} to {}", range.start(), range.end()));
            return default;
        }
        number
    }

    /// A duration in Go's syntax.
    #[must_use]
    pub fn duration(&self, key: &'static str, default: Duration) -> Duration {
        let Some((scalar, _)) = self.scalar(key, "a duration such as `30s`", DEFAULT_STAYS) else { return default };
        match parse_duration(&scalar.text) {
            Ok(duration) => duration,
            Err(_) if scalar.text.is_empty() && scalar.written != Written::Quoted => default,
            Err(e @ BadDuration::NoUnit(_)) => {
                self.error(key, format!("{e} (otelcol reads it as nanoseconds)"));
                default
            }
            Err(e) => {
                self.error(key, e.to_string());
                default
            }
        }
    }

    /// A duration above zero.
    #[must_use]
    pub fn duration_above_zero(&self, key: &'static str, default: Duration) -> Duration {
        let duration = self.duration(key, default);
        self.unless(!duration.is_zero(), key, || "0 is not a duration here; it must be longer".to_owned());
        duration
    }

    /// A duration where zero means that there is none.
    #[must_use]
    pub fn duration_or_never(&self, key: &'static str, default: Option<Duration>) -> Option<Duration> {
        let duration = self.duration(key, default.unwrap_or(Duration::ZERO));
        (!duration.is_zero()).then_some(duration)
    }

    /// One of several words, in any case.
    pub fn choice<T: Copy>(&self, key: &'static str, default: T, choices: &[(&'static str, T)]) -> T {
        let Some((scalar, at)) = self.scalar(key, "a word", DEFAULT_STAYS) else { return default };
        match choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(&scalar.text)) {
            Some((_, choice)) => *choice,
            None if scalar.text.is_empty() => default,
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).filter(|w| !w.is_empty()).collect();
                let meant = self.reading().problems.meant(&scalar.text, words.iter().copied());
                let message = format!("{} is not one of {}", quote(&scalar.text), words.join(", "));
                self.reading().problems.error_meaning(at, &self.path_of(key), message, meant);
                default
            }
        }
    }

    /// A word of which this build knows only some.
    pub fn only(&self, key: &'static str, words: &[&'static str]) {
        let words: Vec<_> = words.iter().map(|word| (*word, ())).collect();
        self.choice(key, (), &words);
    }

    /// An address to listen at.
    #[must_use]
    pub fn listen(&self, key: &'static str, default: Listen) -> Listen {
        let Some(entry) = self.get(key) else { return default };
        let Some(scalar) = self.scalar_of(&entry.value, &self.path_of(key), "`host:port`") else { return default };
        if self.refuses_missing(key, scalar) || entry.value.is_null() {
            return default;
        }
        Listen::parse(&scalar.text).unwrap_or_else(|why| {
            self.error(key, why);
            default
        })
    }

    /// A URL of HTTP to send to. One that hangs on a variable without a value is an error that names the variable.
    #[must_use]
    pub fn url_if_given(&self, key: &'static str) -> Option<String> {
        let entry = self.get(key)?;
        let scalar = self.scalar_of(&entry.value, &self.path_of(key), "a URL such as `https://collector:4318`")?;
        if self.refuses_missing(key, scalar) || scalar.text.is_empty() {
            return None;
        }
        if let Err((why, meant)) = check_url(&scalar.text) {
            let at = entry.value.at;
            self.reading().problems.error_meaning(at, &self.path_of(key), why, meant.as_deref());
        }
        Some(scalar.text.clone())
    }

    /// An endpoint cannot do without its variables.
    fn refuses_missing(&self, key: &'static str, scalar: &Scalar) -> bool {
        for missing in scalar.missing() {
            let how = if missing.is_set { "set, but empty" } else { "not set" };
            let message = format!("the variable {} is {how}; without it there is no endpoint", quote(&missing.name));
            self.error(key, message);
        }
        !scalar.missing().is_empty()
    }

    /// The id of another component.
    #[must_use]
    pub fn id_if_given(&self, key: &'static str) -> Option<Id> {
        let text = self.text_if_given(key)?;
        Id::parse(&text).map_err(|e| self.error(key, e.to_string())).ok()
    }

    /// A list of texts; a single one counts as a list of one, commas split it. `None` when nothing stands there.
    #[must_use]
    pub fn texts_if_given(&self, key: &'static str) -> Option<Vec<(String, At)>> {
        let entry = self.get(key).filter(|e| !e.value.is_null() || e.value.hangs_on_missing())?;
        let path = self.path_of(key);
        let Some(items) = entry.value.as_seq() else {
            let scalar = self.scalar_of(&entry.value, &path, "a list of texts")?;
            self.tell_missing(scalar, entry.value.at, &path, READ_AS_EMPTY);
            let words = scalar.text.split(',').map(str::trim).filter(|w| !w.is_empty());
            return Some(words.map(|word| (word.to_owned(), entry.value.at)).collect());
        };
        let one = |(n, item): (usize, &'a Node)| {
            let path = format!("{path}[{n}]");
            let scalar = self.scalar_of(item, &path, "a text")?;
            self.tell_missing(scalar, item.at, &path, READ_AS_EMPTY);
            Some((scalar.text.clone(), item.at))
        };
        Some(items.iter().enumerate().filter_map(one).collect())
    }

    /// As [`Section::texts_if_given`], without places.
    #[must_use]
    pub fn texts(&self, key: &'static str, default: &[&str]) -> Vec<String> {
        match self.texts_if_given(key) {
            Some(texts) => texts.into_iter().map(|(text, _)| text).collect(),
            None => default.iter().map(|t| (*t).to_owned()).collect(),
        }
    }

    /// A map of header names to values nobody shall see.
    #[must_use]
    pub fn headers(&self, key: &'static str) -> Headers {
        let entries = self.free(key).iter();
        let one = |entry: &'a super::tree::Entry| {
            let path = format!("{}.{}", self.path_of(key), entry.key);
            let problems = self.reading().problems;
            if http::HeaderName::from_bytes(entry.key.as_bytes()).is_err() {
                problems.error(entry.key_at, &path, format!("{} is not the name of a header", quote(&entry.key)));
            }
            let scalar = self.scalar_of(&entry.value, &path, "a text")?;
            self.tell_missing(scalar, entry.value.at, &path, READ_AS_EMPTY);
            // The value may be a password: it is not shown.
            if http::HeaderValue::from_str(&scalar.text).is_err() {
                problems.error(entry.value.at, &path, "the value has a line break or another control character");
            }
            let text = if scalar.typed() == Typed::Null { "" } else { scalar.text.as_str() };
            Some((entry.key.clone(), Secret::new(text)))
        };
        entries.filter_map(one).collect()
    }

    /// A regular expression, or `None` when nothing stands there or it does not compile.
    #[must_use]
    pub fn pattern_if_given(&self, key: &'static str) -> Option<Pattern> {
        let text = self.text_if_given(key)?;
        Pattern::new(&text).map_err(|why| self.error(key, bad_pattern(&text, &why))).ok()
    }

    /// The value under a key as an attribute value; `None` when nothing stands there, or a variable without a value.
    #[must_use]
    pub fn any_if_given(&self, key: &'static str, stays: &str) -> Option<Any> {
        let entry = self.get(key)?;
        self.any(&entry.value, &self.path_of(key), stays)
    }

    /// A node as an attribute value.
    #[must_use]
    pub fn any(&self, node: &'a Node, path: &str, stays: &str) -> Option<Any> {
        match &node.value {
            Value::Scalar(scalar) => {
                if !scalar.missing().is_empty() {
                    self.tell_missing(scalar, node.at, path, stays);
                    return None;
                }
                self.any_scalar(scalar, node.at, path)
            }
            Value::Seq(items) => {
                let one = |(n, item)| self.any_inside(item, &format!("{path}[{n}]"), stays);
                items.iter().enumerate().map(one).collect::<Option<_>>().map(Any::List)
            }
            Value::Map(entries) => {
                let one = |e: &'a super::tree::Entry| {
                    Some((e.key.clone(), self.any_inside(&e.value, &format!("{path}.{}", e.key), stays)?))
                };
                entries.iter().map(one).collect::<Option<_>>().map(Any::Map)
            }
        }
    }

    /// Inside a list or a map nothing is no value: OTLP could carry it, but nobody means it.
    fn any_inside(&self, node: &'a Node, path: &str, stays: &str) -> Option<Any> {
        if node.is_null() && !node.hangs_on_missing() {
            self.reading().problems.error(node.at, path, "is empty; give it a value");
        }
        self.any(node, path, stays)
    }

    fn any_scalar(&self, scalar: &Scalar, at: At, path: &str) -> Option<Any> {
        // What came from a variable is text, whatever it looks like: a tenant `0123` is no number (reference §0).
        let kind = if scalar.written == Written::Expanded { Typed::Text } else { scalar.typed() };
        Some(match kind {
            Typed::Null => return None,
            Typed::Bool(b) => Any::Bool(b),
            Typed::Int(n) => Any::Int(n),
            Typed::Float(n) => Any::Double(n),
            Typed::Text => Any::Text(scalar.text.clone()),
            Typed::LeadingZero => {
                let message = format!(
                    "{} is kept as text; otelcol reads it as an octal number; quotes make it clear",
                    quote(&scalar.text)
                );
                self.reading().problems.warn(at, path, message);
                Any::Text(scalar.text.clone())
            }
        })
    }
}

/// One line about a pattern that does not compile.
#[must_use]
pub fn bad_pattern(text: &str, why: &str) -> String {
    format!("{} is not a pattern: {why}", quote(text))
}

/// A whole number out of a text: also quoted, in other bases, or `1e3`.
fn whole(text: &str) -> Result<Option<i128>, String> {
    match typed(text.trim()) {
        Typed::Null => Ok(None),
        Typed::Int(n) => Ok(Some(n.into())),
        // Beyond 2^53 a float is no longer one number.
        #[allow(clippy::cast_possible_truncation)]
        Typed::Float(n) if n.fract() == 0.0 && n.abs() < 9e15 => Ok(Some(n as i128)),
        Typed::LeadingZero => Err(format!(
            "{} begins with a zero, which otelcol reads as octal; write the number without it",
            quote(text)
        )),
        _ => Err(format!("{} is not a whole number", quote(text))),
    }
}

/// Why a text is no URL to send to, and what was meant.
fn check_url(text: &str) -> Result<(), (String, Option<String>)> {
    // A password in a URL is not shown.
    let shown = match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(at)) if start < at => quote(&format!("{}://…{}", &text[..start], &text[at..])),
        _ => quote(text),
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        let meant = format!("http://{text}");
        let meant = check_url(&meant).is_ok().then_some(meant);
        return Err((format!("{shown} has no scheme; it must begin with http:// or https://"), meant));
    };
    if !["http", "https"].iter().any(|s| s.eq_ignore_ascii_case(scheme)) {
        return Err((format!("{shown} has the scheme {}; http and https can be sent to", quote(scheme)), None));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match host_port.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (host_port, None),
    };
    if let Some(port) = port.filter(|p| p.parse::<u16>().map_or(true, |p| p == 0)) {
        return Err((format!("{shown}: {} is not a port; write a number from 1 to 65535", quote(port)), None));
    }
    if host.is_empty() {
        return Err((format!("{shown} has no host"), None));
    }
    match text.parse::<http::Uri>() {
        Ok(_) => Ok(()),
        Err(e) => Err((format!("{shown} is not a URL: {e}"), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::try_out;

    const VARS: [(&str, &str); 6] =
        [("N", "12"), ("LZ", "0123"), ("T", "true"), ("E", ""), ("L", "a,b"), ("M", "{a: 1}")];

    /// What a getter makes of `k: <written>`, and whether it had something to tell.
    fn got<T>(written: &str, f: impl FnOnce(&Section<'_>) -> T) -> (T, bool) {
        let (value, told) = try_out(&format!("k: {written}"), &VARS, f);
        (value, told.is_empty())
    }

    #[test]
    #[rustfmt::skip]
    fn text_is_taken_letter_by_letter() {
        for (written, expected) in [
            ("abc",           "abc"),
            ("12",            "12"),
            ("0123",          "0123"),
            ("1e3",           "1e3"),
            ("true",          "true"),
            ("2024-01-02",    "2024-01-02"),
            ("\"${env:LZ}\"", "0123"),
            ("${env:LZ}",     "0123"),
            ("${env:M}",      "{a: 1}"),
            ("a${env:N}b",    "a12b"),
            ("",              "default"),
            ("~",             "default"),
            ("\"\"",          "default"),
        ] {
            assert_eq!(got(written, |s| s.text("k", "default")), (expected.to_owned(), true), "{written}");
        }
        assert_eq!(got("${env:GONE}", |s| s.text("k", "default")), ("default".to_owned(), false));
        let (text, told) = try_out("k: x${env:GONE}", &[], |s| s.text("k", "default"));
        assert_eq!((text.as_str(), told.as_str()), ("x", "warning: the variable `GONE` is not set; it is read as empty"));
        let (_, told) = try_out("k: ${env:GONE}", &[], |s| s.text("k", "default"));
        assert_eq!(told, "warning: the variable `GONE` is not set; the default stays");
        assert_eq!(got("[a]", |s| s.text("k", "default")), ("default".to_owned(), false));
    }

    #[test]
    #[rustfmt::skip]
    fn a_flag_is_true_or_false_as_go_reads_it() {
        for (written, expected) in [
            ("true",       (true, true)),
            ("\"false\"",  (false, true)),
            ("TRUE",       (true, true)),
            ("1",          (true, true)),
            ("f",          (false, true)),
            ("${env:T}",   (true, true)),
            ("",           (true, true)), // the default of this test
            ("yes",        (true, false)),
            ("2",          (true, false)),
        ] {
            assert_eq!(got(written, |s| s.flag("k", true)), expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_number_is_whole_and_in_its_range() {
        for (written, expected) in [
            ("512",        (512, true)),
            ("\"512\"",    (512, true)), // weak typing of 0.88
            ("1_000",      (1_000, true)),
            ("0x10",       (16, true)),
            ("1e3",        (1_000, true)),
            ("512.0",      (512, true)),
            ("${env:N}",   (12, true)),
            ("${env:N}0",  (120, true)),
            ("",           (7, true)),
            ("${env:E}",   (7, false)),
            ("${env:LZ}",  (7, false)),
            ("0123",       (7, false)),
            ("1.5",        (7, false)),
            ("-1",         (7, false)),
            ("65536",      (7, false)),
            ("99999999999999999999999999", (7, false)),
            ("abc",        (7, false)),
            ("true",       (7, false)),
            (".nan",       (7, false)),
        ] {
            assert_eq!(got(written, |s| s.number("k", 7_u16, 0..=u16::MAX)), expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_decimal_is_a_number_in_its_range() {
        for (written, expected) in [
            ("0.5",    (0.5, true)),
            ("1",      (1.0, true)),
            ("\".5\"", (0.5, true)),
            ("",       (0.25, true)),
            ("1.5",    (0.25, false)),
            (".nan",   (0.25, false)),
            ("x",      (0.25, false)),
        ] {
            assert_eq!(got(written, |s| s.decimal("k", 0.25, 0.0..=1.0)), expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_duration_has_a_unit() {
        let s = Duration::from_secs;
        for (written, expected) in [
            ("90s",      (s(90), true)),
            ("1m30s",    (s(90), true)),
            ("0",        (s(0), true)),
            ("\"2s\"",   (s(2), true)),
            ("",         (s(7), true)),
            ("${env:E}", (s(7), false)),
            ("10",       (s(7), false)),
            ("\"\"",     (s(7), false)),
            ("1d",       (s(7), false)),
            ("-1s",      (s(7), false)),
        ] {
            assert_eq!(got(written, |x| x.duration("k", s(7))), expected, "{written}");
        }
        assert_eq!(got("0s", |x| x.duration_or_never("k", Some(s(7)))), (None, true));
        assert_eq!(got("", |x| x.duration_or_never("k", Some(s(7)))), (Some(s(7)), true));
        assert!(!got("0s", |x| x.duration_above_zero("k", s(7))).1);
    }

    #[test]
    #[rustfmt::skip]
    fn a_list_may_be_one_text_with_commas() {
        for (written, expected) in [
            ("[a, b]",       (vec!["a", "b"], true)),
            ("a, b",         (vec!["a", "b"], true)), // weak typing of 0.88
            ("a",            (vec!["a"], true)),
            ("${env:L}",     (vec!["a", "b"], true)),
            ("[\"a,b\", 1]", (vec!["a,b", "1"], true)),
            ("[]",           (vec![], true)),
            ("",             (vec!["d"], true)), // nothing keeps the default, `[]` empties it
            ("\"a,, b,\"",   (vec!["a", "b"], true)),
            ("[a, [b]]",     (vec!["a"], false)),
            ("{a: b}",       (vec!["d"], false)),
        ] {
            let (texts, good) = got(written, |s| s.texts("k", &["d"]));
            assert_eq!((texts.iter().map(String::as_str).collect(), good), expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn an_attribute_value_has_the_type_it_is_written_in_and_text_from_a_variable() {
        let text = |t: &str| Any::Text(t.to_owned());
        for (written, expected) in [
            ("abc",           (Some(text("abc")), true)),
            ("\"12\"",        (Some(text("12")), true)),
            ("12",            (Some(Any::Int(12)), true)),
            ("1.5",           (Some(Any::Double(1.5)), true)),
            ("true",          (Some(Any::Bool(true)), true)),
            ("yes",           (Some(text("yes")), true)),
            ("${env:N}",      (Some(text("12")), true)),
            ("${env:LZ}",     (Some(text("0123")), true)),
            ("${env:T}",      (Some(text("true")), true)),
            ("${env:M}",      (Some(text("{a: 1}")), true)),
            ("${yaml:12}",    (Some(Any::Int(12)), true)), // there the type is asked for
            ("${N:-x}0",      (Some(text("120")), true)),
            ("[1, a]",        (Some(Any::List(vec![Any::Int(1), text("a")])), true)),
            ("{a: {b: 1}}",   (Some(Any::Map(vec![("a".into(), Any::Map(vec![("b".into(), Any::Int(1))]))])), true)),
            ("",              (None, true)),
            ("0123",          (Some(text("0123")), false)),
            ("${env:GONE}",   (None, false)),
            ("${env:E}",      (None, false)),
            ("[a, ]",         (Some(Any::List(vec![text("a")])), true)),
            ("[a, ~]",        (None, false)),
            ("[\"${GONE}\"]", (None, false)),
        ] {
            assert_eq!(got(written, |s| s.any_if_given("k", "left out")), expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_url_names_scheme_host_and_maybe_port() {
        for (written, good) in [
            ("http://collector:4318",         true),
            ("https://collector",             true),
            ("HTTPS://collector/otlp/",       true),
            ("http://10.0.0.1:4318",          true),
            ("http://[::1]:4318/x",           true),
            ("http://user:pw@collector:4318", true),
            ("collector:4318",                false),
            ("10.0.0.1:4318",                 false),
            ("http://",                       false),
            ("http://:4318",                  false),
            ("http://collector:0",            false),
            ("http://collector:http",         false),
            ("http://coll ector",             false),
            ("grpc://collector",              false),
            ("\"http://a\\nb\"",              false),
        ] {
            assert_eq!(got(written, |s| s.url_if_given("k")).1, good, "{written}");
        }
    }

    #[test]
    fn headers_keep_their_values_to_themselves() {
        let (headers, told) = try_out("k: {A: 0123, B: \"a\\nhunter2\", C: ~, D: '${GONE}'}", &[], |s| s.headers("k"));
        let shown: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(shown, [("A", "0123"), ("B", "a\nhunter2"), ("C", ""), ("D", "")]);
        assert!(told.contains("control character") && !told.contains("hunter2"), "{told}");
        assert!(told.contains("the variable `GONE` is not set; it is read as empty"), "{told}");
    }
}

//! Typed values out of a [`Section`]: each getter states its rule and tells what breaks it.
//!
//! As in 0.88 a quoted `"512"` is a number where a number is wanted, a single value is a list of one, and a text
//! with commas is a list (reference §1.4). Unlike there, a bare `10` is no duration of ten nanoseconds.

use super::problems::{At, quote};
use super::section::{READ_AS_EMPTY, Section};
use super::tree::{Node, Scalar, Typed, Value, Written, typed};
use super::value::{Any, Listen, Pattern, Secret};
use super::{Headers, Id};
use crate::base::units::{BadDuration, parse_bytes, parse_duration};
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
        self.reading().is_secret(self.path_of(key));
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

    /// A number of bytes such as `10MiB`, above zero; `None` when nothing stands there.
    #[must_use]
    pub fn bytes_if_given(&self, key: &'static str) -> Option<u64> {
        let (scalar, _) = self.scalar(key, "a number of bytes such as `10MiB`", DEFAULT_STAYS)?;
        if scalar.text.is_empty() || scalar.typed() == Typed::Null {
            return None;
        }
        match parse_bytes(&scalar.text) {
            Some(bytes) if bytes.0 > 0 => return Some(bytes.0),
            Some(_) => self.error(key, "must be more than 0; without the key there is no limit"),
            None => {
                let message = format!("{} is not a number of bytes; write for example 512KiB", quote(&scalar.text));
                self.error(key, message);
            }
        }
        None
    }

    /// The same of each second, with or without `/s` behind it.
    #[must_use]
    pub fn bytes_a_second_if_given(&self, key: &'static str) -> Option<u64> {
        let (scalar, _) = self.scalar(key, "a number of bytes a second such as `512KiB/s`", DEFAULT_STAYS)?;
        match scalar.text.trim_end().strip_suffix("/s").and_then(parse_bytes) {
            Some(bytes) if bytes.0 > 0 => Some(bytes.0),
            _ => self.bytes_if_given(key),
        }
    }

    /// A list of some of these words, each at most once, in any case.
    #[must_use]
    pub fn choices<T: Copy + PartialEq>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Vec<T> {
        let mut chosen: Vec<T> = Vec::new();
        for (n, (word, at)) in self.texts_if_given(key).unwrap_or_default().into_iter().enumerate() {
            let (problems, path) = (self.reading().problems, format!("{}[{n}]", self.path_of(key)));
            match choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&word)) {
                Some((_, choice)) if chosen.contains(choice) => {
                    problems.error(at, &path, format!("{} stands there twice", quote(&word)));
                }
                Some((_, choice)) => chosen.push(*choice),
                None => {
                    let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                    let message = format!("{} is not one of {}", quote(&word), names.join(", "));
                    problems.error_meaning(at, &path, message, problems.meant(&word, names));
                }
            }
        }
        chosen
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
        self.checked_url(key, "a URL such as `https://collector:4318`", check_url)
    }

    /// The same of a WebSocket: `ws://` or `wss://`.
    #[must_use]
    pub fn web_socket_url_if_given(&self, key: &'static str) -> Option<String> {
        self.checked_url(key, "a URL such as `wss://opamp.example.com/v1/opamp`", check_web_socket_url)
    }

    fn checked_url(&self, key: &'static str, wanted: &str, check: fn(&str) -> Result<(), NoUrl>) -> Option<String> {
        let entry = self.get(key)?;
        let scalar = self.scalar_of(&entry.value, &self.path_of(key), wanted)?;
        if self.refuses_missing(key, scalar) || scalar.text.is_empty() {
            return None;
        }
        if let Err((why, meant)) = check(&scalar.text) {
            let at = entry.value.at;
            self.reading().problems.error_meaning(at, &self.path_of(key), why, meant.as_deref());
        }
        Some(scalar.text.clone())
    }

    /// A list of URLs of HTTP to send to; a single one counts as a list of one.
    #[must_use]
    pub fn urls(&self, key: &'static str) -> Vec<String> {
        let urls = self.texts_if_given(key).unwrap_or_default();
        for (n, (url, at)) in urls.iter().enumerate() {
            if let Err((why, meant)) = check_url(url) {
                let path = format!("{}[{n}]", self.path_of(key));
                self.reading().problems.error_meaning(*at, &path, why, meant.as_deref());
            }
        }
        urls.into_iter().map(|(url, _)| url).collect()
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

    /// A list of texts nobody shall see in a log.
    #[must_use]
    pub fn secret_texts(&self, key: &'static str) -> Vec<String> {
        self.reading().is_secret(self.path_of(key));
        self.texts(key, &[])
    }

    /// A map of header names to values nobody shall see.
    #[must_use]
    pub fn headers(&self, key: &'static str) -> Headers {
        let entries = self.free(key).iter();
        let one = |entry: &'a super::tree::Entry| {
            let path = format!("{}.{}", self.path_of(key), entry.key);
            self.reading().is_secret(path.clone());
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
            if is_read_otherwise(scalar) {
                let message = "an unquoted number or word is sent as it is written; otelcol reads it first and sends another text (83 for 0123, 1 for true); quotes make it clear";
                problems.warn(entry.value.at, &path, message);
            }
            let text = if scalar.typed() == Typed::Null { "" } else { scalar.text.as_str() };
            Some((entry.key.clone(), Secret::new(text)))
        };
        entries.filter_map(one).collect()
    }

    /// A map of free names to texts.
    #[must_use]
    pub fn texts_by_name(&self, key: &'static str) -> Vec<(String, String)> {
        let one = |entry: &'a super::tree::Entry| {
            let path = format!("{}.{}", self.path_of(key), entry.key);
            let scalar = self.scalar_of(&entry.value, &path, "a text")?;
            self.tell_missing(scalar, entry.value.at, &path, READ_AS_EMPTY);
            let is_nothing = scalar.typed() == Typed::Null && scalar.written == Written::Plain;
            Some((entry.key.clone(), if is_nothing { String::new() } else { scalar.text.clone() }))
        };
        self.free(key).iter().filter_map(one).collect()
    }

    /// A map of free names to a text, or to a list of texts, that nobody shall see.
    #[must_use]
    pub fn secret_params(&self, key: &'static str) -> Headers {
        let mut params = Headers::new();
        for entry in self.free(key) {
            let path = format!("{}.{}", self.path_of(key), entry.key);
            self.reading().is_secret(path.clone());
            for value in entry.value.as_seq().unwrap_or(std::slice::from_ref(&entry.value)) {
                let Some(scalar) = self.scalar_of(value, &path, "a text, or a list of texts") else { continue };
                self.tell_missing(scalar, value.at, &path, READ_AS_EMPTY);
                params.push((entry.key.clone(), Secret::new(&*scalar.text)));
            }
        }
        params
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
        let kind = if scalar.written == Written::Expanded {
            self.reading().is_text(path);
            Typed::Text
        } else {
            scalar.typed()
        };
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

/// Whether 0.88 makes another text of a scalar where a text is wanted (reference §1.3, §1.4).
fn is_read_otherwise(scalar: &Scalar) -> bool {
    scalar.written == Written::Plain
        && match scalar.typed() {
            Typed::LeadingZero | Typed::Bool(_) => true,
            Typed::Int(n) => n.to_string() != scalar.text,
            Typed::Float(n) => n.to_string() != scalar.text,
            Typed::Null | Typed::Text => false,
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

/// Why a text is no URL, and what was meant.
type NoUrl = (String, Option<String>);

/// A URL to send to.
fn check_url(text: &str) -> Result<(), NoUrl> {
    let shown = quote(text);
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
    // What looks like a port may be a password with a slash in it, and must not be shown.
    if !authority.contains('@') && rest.contains('@') && port.is_some_and(|p| p.parse::<u16>().is_err()) {
        let message = format!("{shown} has a password with `/`, `?` or `#` in it; write them as %2F, %3F, %23");
        return Err((message, None));
    }
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

/// The same of a URL of a WebSocket, which differs in its scheme alone.
fn check_web_socket_url(text: &str) -> Result<(), NoUrl> {
    let of =
        |scheme: &str| [("ws", "http"), ("wss", "https")].into_iter().find(|(ws, _)| ws.eq_ignore_ascii_case(scheme));
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err((format!("{} has no scheme; it must begin with ws:// or wss://", quote(text)), None));
    };
    match of(scheme) {
        Some((_, http)) => {
            let as_written = |why: String| why.replace(&format!("{http}://"), &format!("{scheme}://"));
            check_url(&format!("{http}://{rest}")).map_err(|(why, _)| (as_written(why), None))
        }
        None => {
            let why = format!("{} has the scheme {}; ws and wss are those of a WebSocket", quote(text), quote(scheme));
            let meant = ["http", "https"].iter().find(|http| http.eq_ignore_ascii_case(scheme));
            Err((why, meant.map(|http| format!("{}://{rest}", http.replace("http", "ws")))))
        }
    }
}

#[cfg(test)]
mod tests;

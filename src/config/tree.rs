//! A configuration as written: values with their places, whatever language they came in.
//!
//! A scalar keeps its text beside what YAML makes of it, because both are right: a tenant `0123` is a text of four
//! characters, a queue size of `0123` is a question (reference §1.3, otelcol turns both into 83).

use super::problems::At;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its first character; for an empty value that of its key.
    pub at: At,
    /// What it is.
    pub value: Value,
}

/// The three shapes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A single value.
    Scalar(Scalar),
    /// `[a, b]` or lines with dashes.
    Seq(Vec<Node>),
    /// `{a: b}` or lines with keys, in the order of the file; keys are unique.
    Map(Vec<Entry>),
}

/// One line of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key stands.
    pub key_at: At,
    /// What it leads to.
    pub value: Node,
}

/// A single value.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Its characters, after quotes and references are resolved.
    pub text: String,
    /// How it was written, which decides whether it can be other than text.
    pub written: Written,
    /// What a `${…}` in it led to; `None` when there was none.
    pub expanded: Option<Box<Expanded>>,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Without quotes: may be a number, a boolean or nothing.
    Plain,
    /// With quotes or as a block: text.
    Quoted,
    /// By a reference: text where text is wanted, a number where a number is wanted.
    Expanded,
}

/// What references led to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expanded {
    /// Variables that were not set or empty, and had no default.
    pub missing: Vec<Missing>,
    /// When the whole scalar was one reference and its text is a YAML list or map: that.
    pub structure: Option<Node>,
}

/// A variable without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Set, but to nothing.
    pub is_set: bool,
}

/// What YAML makes of a scalar (yaml.v3's reading, which otelcol has).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Typed {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// Decimal, `0x`, `0o`, `0b`, with `_` between digits.
    Int(i64),
    /// With a point or an exponent, `.inf`, `.nan`, or an integer too large.
    Float(f64),
    /// `0123`: yaml.v3 reads it as octal, YAML 1.2 as decimal, people as text.
    LeadingZero,
    /// Anything else.
    Text,
}

/// Deepest nesting of maps and lists. The deepest key otelcol knows is at 12; 64 is OTLP's bound for values.
pub const DEPTH_MAX: usize = 64;

impl Node {
    /// An empty value.
    #[must_use]
    pub fn null(at: At) -> Node {
        Node { at, value: Value::Scalar(Scalar::plain("")) }
    }

    /// Whether nothing stands here.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.typed() == Typed::Null)
    }

    /// Whether a variable without a value stands here.
    #[must_use]
    pub fn hangs_on_missing(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if !scalar.missing().is_empty())
    }

    /// What shape this is, in words for a message.
    #[must_use]
    pub fn shape(&self) -> &'static str {
        match &self.value {
            Value::Scalar(s) => match s.typed() {
                Typed::Null => "empty",
                Typed::Bool(_) => "a boolean",
                Typed::Int(_) | Typed::Float(_) | Typed::LeadingZero => "a number",
                Typed::Text => "a text",
            },
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The entries of a map, or of a reference that led to one.
    #[must_use]
    pub fn as_map(&self) -> Option<&[Entry]> {
        match self.seen_through() {
            Node { value: Value::Map(entries), .. } => Some(entries),
            _ => None,
        }
    }

    /// The items of a list, or of a reference that led to one.
    #[must_use]
    pub fn as_seq(&self) -> Option<&[Node]> {
        match self.seen_through() {
            Node { value: Value::Seq(items), .. } => Some(items),
            _ => None,
        }
    }

    /// What a reference that is a list or a map leads to, else the node itself.
    pub(super) fn seen_through(&self) -> &Node {
        match &self.value {
            Value::Scalar(Scalar { expanded: Some(e), .. }) => e.structure.as_ref().unwrap_or(self),
            _ => self,
        }
    }
}

impl Scalar {
    /// Without quotes.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Scalar {
        Scalar { text: text.into(), written: Written::Plain, expanded: None }
    }

    /// With quotes.
    #[must_use]
    pub fn quoted(text: impl Into<String>) -> Scalar {
        Scalar { text: text.into(), written: Written::Quoted, expanded: None }
    }

    /// Variables in it that had no value.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        self.expanded.as_ref().map_or(&[], |e| &e.missing)
    }

    /// What YAML makes of it; quotes make it text.
    #[must_use]
    pub fn typed(&self) -> Typed {
        if self.written == Written::Quoted { Typed::Text } else { typed(&self.text) }
    }
}

/// What yaml.v3 makes of an unquoted text.
#[must_use]
pub fn typed(text: &str) -> Typed {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Typed::Null,
        "true" | "True" | "TRUE" => return Typed::Bool(true),
        "false" | "False" | "FALSE" => return Typed::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Typed::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Typed::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Typed::Float(f64::NAN),
        _ => {}
    }
    // Everything that is a number begins so; this keeps Rust's `inf`, `infinity` and `nan` out.
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Typed::Text;
    }
    let joined = text.replace('_', "");
    let (sign, digits) = match joined.strip_prefix(['+', '-']) {
        Some(rest) => (&joined[..1], rest),
        None => ("", joined.as_str()),
    };
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            // `from_str_radix` would take a second sign.
            let number = if rest.starts_with(['+', '-']) {
                None
            } else {
                i64::from_str_radix(&format!("{sign}{rest}"), radix).ok()
            };
            return number.map_or(Typed::Text, Typed::Int);
        }
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Typed::LeadingZero;
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let whole = joined.parse().map(Typed::Int);
        return whole.or_else(|_| joined.parse().map(Typed::Float)).unwrap_or(Typed::Text);
    }
    let shaped = digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match joined.parse() {
        Ok(number) if shaped => Typed::Float(number),
        _ => Typed::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn an_unquoted_text_is_read_as_the_original_reads_it() {
        for (text, expected) in [
            ("",          Typed::Null),
            ("~",         Typed::Null),
            ("null",      Typed::Null),
            ("nULL",      Typed::Text),
            ("True",      Typed::Bool(true)),
            ("FALSE",     Typed::Bool(false)),
            ("yes",       Typed::Text), // measured: yaml.v3 keeps yes and no as text
            ("12",        Typed::Int(12)),
            ("-12",       Typed::Int(-12)),
            ("+12",       Typed::Int(12)),
            ("1_000",     Typed::Int(1_000)),
            ("0x10",      Typed::Int(16)),
            ("-0x10",     Typed::Int(-16)),
            ("0o17",      Typed::Int(15)),
            ("0b101",     Typed::Int(5)),
            ("0x-1",      Typed::Text),
            ("0xg",       Typed::Text),
            ("0123",      Typed::LeadingZero),
            ("-007",      Typed::LeadingZero),
            ("0",         Typed::Int(0)),
            ("9223372036854775807",  Typed::Int(i64::MAX)),
            ("18446744073709551616", Typed::Float(18_446_744_073_709_551_616.0)),
            ("1.5",       Typed::Float(1.5)),
            (".5",        Typed::Float(0.5)),
            ("1e3",       Typed::Float(1_000.0)),
            ("-1.5E-3",   Typed::Float(-0.0015)),
            (".inf",      Typed::Float(f64::INFINITY)),
            ("inf",       Typed::Text),
            ("infinity",  Typed::Text),
            ("nan",       Typed::Text),
            ("-",         Typed::Text),
            (".",         Typed::Text),
            ("e5",        Typed::Text),
            ("1.2.3",     Typed::Text),
            ("10s",       Typed::Text),
            ("2024-01-02", Typed::Text), // a date is text here; 0.88 stops at it
            ("127.0.0.1", Typed::Text),
            ("--1",       Typed::Text),
        ] {
            assert_eq!(typed(text), expected, "{text:?}");
        }
        assert!(matches!(typed(".nan"), Typed::Float(n) if n.is_nan()));
    }

    #[test]
    fn quotes_make_text_of_anything() {
        assert_eq!(Scalar::quoted("12").typed(), Typed::Text);
        assert_eq!(Scalar::quoted("").typed(), Typed::Text);
        assert_eq!(Scalar::plain("12").typed(), Typed::Int(12));
    }
}

//! How a line looks: plain functions from what happened to the bytes of zap's two encodings (reference §3.3).
//!
//! ```text
//! 2026-11-23T05:42:41.746Z⇥info⇥uplink/link.rs:84⇥link moved⇥{"kind": "exporter", "from": "up"}
//! {"level":"info","ts":1795412561.746,"caller":"uplink/link.rs:84","msg":"link moved","kind":"exporter","from":"up"}
//! ```
//!
//! What always holds:
//! * A JSON line is one JSON object with each key once, whatever the values are.
//! * No character that moves a cursor or turns the reading direction leaves here unescaped, so a value from the network
//!   can forge neither a line nor a terminal.
//! * A value longer than [`VALUE_MAX`] is cut, and says so.

use std::fmt::{self, Write as _};

/// Longest message or value, bytes before escaping: 8 KiB, eight screens. zap has no limit; a peer's error page does.
pub const VALUE_MAX: usize = 8 << 10;

/// Longest message of a dump, bytes: the debug exporter's `detailed` output of a small request.
pub const DUMP_MAX: usize = 1 << 20;

/// What stands at the end of a value that was cut.
const CUT: &str = "…[cut]";

/// `service.telemetry.logs.encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Columns for people, separated by tabs.
    #[default]
    Console,
    /// One object per line for programs.
    Json,
}

/// How grave a line is. The numbers grow with gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Severity {
    /// For whoever looks for a fault.
    Debug,
    /// The course of things.
    #[default]
    Info,
    /// Something is not as it should be; the agent goes on.
    Warn,
    /// Something was lost or cannot be done.
    Error,
    /// No line is that grave: as a level it silences everything. zap's `dpanic`, `panic` and `fatal`.
    Fatal,
}

impl Severity {
    /// A level as zap reads it, in any case; `None` for "unrecognized level".
    #[must_use]
    pub fn parse(text: &str) -> Option<Severity> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Severity::Debug,
            "info" | "" => Severity::Info,
            "warn" => Severity::Warn,
            "error" => Severity::Error,
            "dpanic" | "panic" | "fatal" => Severity::Fatal,
            _ => return None,
        })
    }

    /// As in a line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Debug => "debug",
            Severity::Info => "info",
            Severity::Warn => "warn",
            Severity::Error => "error",
            Severity::Fatal => "fatal",
        }
    }
}

/// Everything of a line but its fields.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// When, nanoseconds since 1970.
    pub wall_ns: u64,
    /// Where the wall hangs, seconds east of Greenwich.
    pub offset_s: i32,
    /// How grave.
    pub severity: Severity,
    /// Who spoke, when it was not us.
    pub logger: Option<&'a str>,
    /// File and line it was said in.
    pub caller: Option<(&'a str, u32)>,
    /// What was said, escaped for the encoding already.
    pub message: &'a str,
}

/// One field: its name, and its value as JSON.
pub type Field<'a> = (&'a str, &'a str);

/// Writes one line with its newline. `fields` are in the order of the line; where a name comes twice, the later value
/// is taken, because it is the nearer one (initial fields, then the context's, then the event's own).
pub fn write_line(out: &mut String, encoding: Encoding, head: &Head<'_>, fields: &[Field<'_>]) {
    let last = |i: usize| !fields[i + 1..].iter().any(|(name, _)| *name == fields[i].0);
    let fields = (0..fields.len()).filter(|&i| last(i)).map(|i| fields[i]);
    match encoding {
        Encoding::Console => console(out, head, fields),
        Encoding::Json => json(out, head, fields),
    }
    out.push('\n');
}

fn console<'a>(out: &mut String, head: &Head<'_>, fields: impl Iterator<Item = Field<'a>>) {
    out.push_str(&super::super::gotime::iso8601_ms(head.wall_ns, head.offset_s));
    out.push('\t');
    out.push_str(head.severity.name());
    if let Some(logger) = head.logger {
        out.push('\t');
        put(out, Form::Column, VALUE_MAX, logger);
    }
    if let Some(caller) = head.caller {
        out.push('\t');
        write_caller(out, caller);
    }
    out.push('\t');
    out.push_str(head.message);
    let mut before = "\t{";
    for (name, value) in fields {
        out.push_str(before);
        put_json_string(out, name);
        out.push_str(": ");
        out.push_str(value);
        before = ", ";
    }
    if before == ", " {
        out.push('}');
    }
}

fn json<'a>(out: &mut String, head: &Head<'_>, fields: impl Iterator<Item = Field<'a>>) {
    // zap's EpochTimeEncoder: a float of seconds, the shortest digits that give the same double.
    #[allow(clippy::cast_precision_loss)]
    let ts = head.wall_ns as f64 / 1e9;
    put_args(out, format_args!(r#"{{"level":"{}","ts":{ts}"#, head.severity.name()));
    if let Some(logger) = head.logger {
        out.push_str(r#","logger":"#);
        put_json_string(out, logger);
    }
    if let Some(caller) = head.caller {
        out.push_str(r#","caller":""#);
        write_caller(out, caller);
        out.push('"');
    }
    out.push_str(r#","msg":""#);
    out.push_str(head.message);
    out.push('"');
    for (name, value) in fields {
        out.push(',');
        // A field named as one of the line's own keys would make the object ambiguous.
        if matches!(name, "level" | "ts" | "logger" | "caller" | "msg") {
            put_args(out, format_args!(r#""field.{name}""#));
        } else {
            put_json_string(out, name);
        }
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
}

/// zap's short caller: the file with its directory. Ours are `file!()` literals, others' come with a log record.
fn write_caller(out: &mut String, (file, line): (&str, u32)) {
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1);
    put(out, Form::Json, VALUE_MAX, &file[start..]);
    put_args(out, format_args!(":{line}"));
}

/// In which dress a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Inside the quotes of a JSON string.
    Json,
    /// As a column of a console line: on that line, without tabs.
    Column,
    /// As a column whose newlines and tabs are wanted: the debug exporter's dump.
    Lines,
}

impl Form {
    /// How the message of a line is to be written.
    #[must_use]
    pub fn of_message(encoding: Encoding, dump: bool) -> Form {
        match (encoding, dump) {
            (Encoding::Json, _) => Form::Json,
            (Encoding::Console, false) => Form::Column,
            (Encoding::Console, true) => Form::Lines,
        }
    }
}

/// Appends what a value shows, escaped, at most `max` bytes of it.
pub fn put(out: &mut String, form: Form, max: usize, value: impl fmt::Display) {
    let mut escaped = Escaped { out, form, left: max };
    // An error is our own: the value was cut and need not go on.
    if write!(escaped, "{value}").is_err() && escaped.left == 0 {
        out.push_str(CUT);
    }
}

/// Appends a text as a JSON string.
pub fn put_json_string(out: &mut String, value: impl fmt::Display) {
    out.push('"');
    put(out, Form::Json, VALUE_MAX, value);
    out.push('"');
}

/// Appends a number as zap does: no exponent, and what JSON has no number for as a string.
pub fn put_json_f64(out: &mut String, value: f64) {
    match value {
        v if v.is_finite() => put_args(out, format_args!("{v}")),
        v if v.is_nan() => out.push_str(r#""NaN""#),
        v if v > 0.0 => out.push_str(r#""+Inf""#),
        _ => out.push_str(r#""-Inf""#),
    }
}

/// Appends JSON that a serializer made: its structure is right, but serializers leave DEL and its like alone.
pub fn put_json_value(out: &mut String, value: &serde_json::Value) {
    for c in value.to_string().chars() {
        if is_unsafe(c) { put_escape(out, c) } else { out.push(c) }
    }
}

fn put_args(out: &mut String, args: fmt::Arguments<'_>) {
    out.write_fmt(args).expect("a String takes whatever is written to it");
}

struct Escaped<'a> {
    out: &'a mut String,
    form: Form,
    left: usize,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.len_utf8() > self.left {
                self.left = 0;
                return Err(fmt::Error);
            }
            self.left -= c.len_utf8();
            match (self.form, c) {
                (Form::Json, '"') => self.out.push_str("\\\""),
                (Form::Json, '\\') => self.out.push_str("\\\\"),
                (Form::Lines, '\n' | '\t') => self.out.push(c),
                (_, '\n') => self.out.push_str("\\n"),
                (_, '\r') => self.out.push_str("\\r"),
                (_, '\t') => self.out.push_str("\\t"),
                (_, c) if is_unsafe(c) => put_escape(self.out, c),
                (_, c) => self.out.push(c),
            }
        }
        Ok(())
    }
}

/// Controls of C0, DEL and C1 (ESC and CSI drive terminals), Unicode's line and paragraph separators, and the marks
/// that turn the reading direction ("Trojan Source", CVE-2021-42574).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

fn put_escape(out: &mut String, c: char) {
    // All of `is_unsafe` lie below U+10000, so four digits do.
    put_args(out, format_args!("\\u{:04x}", u32::from(c)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: Head<'_> = Head {
        wall_ns: 1_795_412_561_500_000_000,
        offset_s: 0,
        severity: Severity::Info,
        logger: None,
        caller: Some(("src/uplink/link.rs", 84)),
        message: "link moved",
    };

    fn line(encoding: Encoding, head: &Head<'_>, fields: &[Field<'_>]) -> String {
        let mut out = String::new();
        write_line(&mut out, encoding, head, fields);
        out
    }

    /// The shapes are those of the measured logs of 0.88 (run1 and run2): separators, order of keys, and that a line
    /// without fields ends with its message.
    #[test]
    #[rustfmt::skip]
    fn lines_have_the_shape_of_the_original() {
        let bare = Head { caller: None, ..HEAD };
        let other = Head { logger: Some("h2::proto"), caller: Some(("/root/.cargo/h2-0.4/src/proto/streams.rs", 7)), severity: Severity::Warn, ..HEAD };
        let fields = [("kind", r#""exporter""#), ("resource spans", "2"), ("config", r#"{"Path":"/","n":[1,2]}"#)];
        for (encoding, head, fields, expected) in [
            (Encoding::Console, HEAD,  &fields[..0], "2026-11-23T05:42:41.500Z\tinfo\tuplink/link.rs:84\tlink moved\n"),
            (Encoding::Console, HEAD,  &fields[..],  "2026-11-23T05:42:41.500Z\tinfo\tuplink/link.rs:84\tlink moved\t{\"kind\": \"exporter\", \"resource spans\": 2, \"config\": {\"Path\":\"/\",\"n\":[1,2]}}\n"),
            (Encoding::Console, bare,  &fields[..1], "2026-11-23T05:42:41.500Z\tinfo\tlink moved\t{\"kind\": \"exporter\"}\n"),
            (Encoding::Console, other, &fields[..1], "2026-11-23T05:42:41.500Z\twarn\th2::proto\tproto/streams.rs:7\tlink moved\t{\"kind\": \"exporter\"}\n"),
            (Encoding::Json,    HEAD,  &fields[..0], "{\"level\":\"info\",\"ts\":1795412561.5,\"caller\":\"uplink/link.rs:84\",\"msg\":\"link moved\"}\n"),
            (Encoding::Json,    HEAD,  &fields[..],  "{\"level\":\"info\",\"ts\":1795412561.5,\"caller\":\"uplink/link.rs:84\",\"msg\":\"link moved\",\"kind\":\"exporter\",\"resource spans\":2,\"config\":{\"Path\":\"/\",\"n\":[1,2]}}\n"),
            (Encoding::Json,    bare,  &fields[..0], "{\"level\":\"info\",\"ts\":1795412561.5,\"msg\":\"link moved\"}\n"),
            (Encoding::Json,    other, &fields[..0], "{\"level\":\"warn\",\"ts\":1795412561.5,\"logger\":\"h2::proto\",\"caller\":\"proto/streams.rs:7\",\"msg\":\"link moved\"}\n"),
        ] {
            assert_eq!(line(encoding, &head, fields), expected);
        }
    }

    /// Method: the float of the first line of the measured JSON log.
    #[test]
    fn json_time_is_the_float_of_the_original() {
        let head = Head { wall_ns: 1_795_412_698_173_494_300, ..HEAD };
        assert!(line(Encoding::Json, &head, &[]).contains(r#""ts":1795412698.1734943,"#));
    }

    #[test]
    fn a_name_stands_once_and_the_nearest_value_wins() {
        let fields = [("name", r#""initial""#), ("kind", "1"), ("name", r#""event""#), ("msg", "2"), ("level", "3")];
        assert!(
            line(Encoding::Json, &HEAD, &fields)
                .ends_with("\"msg\":\"link moved\",\"kind\":1,\"name\":\"event\",\"field.msg\":2,\"field.level\":3}\n")
        );
        assert!(line(Encoding::Console, &HEAD, &fields[..3]).ends_with("\t{\"kind\": 1, \"name\": \"event\"}\n"));
    }

    #[test]
    #[rustfmt::skip]
    fn a_value_from_the_network_forges_neither_line_nor_terminal() {
        let evil = "a\n2026\terror\r\x1b[2J\u{9b}1m\x7f\u{202e}\u{2028}\0\"\\é€";
        for (form, expected) in [
            (Form::Json,   "a\\n2026\\terror\\r\\u001b[2J\\u009b1m\\u007f\\u202e\\u2028\\u0000\\\"\\\\é€"),
            (Form::Column, "a\\n2026\\terror\\r\\u001b[2J\\u009b1m\\u007f\\u202e\\u2028\\u0000\"\\é€"),
            (Form::Lines,  "a\n2026\terror\\r\\u001b[2J\\u009b1m\\u007f\\u202e\\u2028\\u0000\"\\é€"),
        ] {
            let mut out = String::new();
            put(&mut out, form, VALUE_MAX, evil);
            assert_eq!(out, expected, "{form:?}");
        }
        let mut out = String::new();
        put_json_value(&mut out, &serde_json::json!({"a\u{7f}": ["\u{202e}", "\n"]}));
        assert_eq!(out, "{\"a\\u007f\":[\"\\u202e\",\"\\n\"]}");
    }

    #[test]
    fn a_value_is_cut_at_a_character_and_says_so() {
        for (text, max, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcde…[cut]"),
            ("aé€", 4, "aé…[cut]"),
            ("", 0, ""),
            ("é", 1, "…[cut]"),
        ] {
            let mut out = String::new();
            put(&mut out, Form::Json, max, text);
            assert_eq!(out, expected, "{text:?} at {max}");
        }
    }

    /// A peer may send a value whose `Debug` is endless: the formatting stops at the cap, it is not thrown away after.
    #[test]
    fn formatting_stops_where_the_value_is_cut() {
        struct Endless(std::cell::Cell<usize>);
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    self.0.set(self.0.get() + 1);
                    f.write_str("0123456789")?;
                }
            }
        }
        let endless = Endless(0.into());
        let mut out = String::new();
        put_json_string(&mut out, &endless);
        assert_eq!((out.len(), endless.0.get()), (VALUE_MAX + CUT.len() + 2, VALUE_MAX / 10 + 1));
    }

    #[test]
    #[rustfmt::skip]
    fn numbers_are_written_as_zap_writes_them() {
        for (value, expected) in [
            (1.0, "1"), (0.1, "0.1"), (-2.5, "-2.5"), (1e21, "1000000000000000000000"), (1e-7, "0.0000001"),
            (f64::NAN, "\"NaN\""), (f64::INFINITY, "\"+Inf\""), (f64::NEG_INFINITY, "\"-Inf\""),
        ] {
            let mut out = String::new();
            put_json_f64(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn levels_are_read_as_zap_reads_them() {
        for (text, expected) in [
            ("debug", Some(Severity::Debug)),
            ("INFO", Some(Severity::Info)),
            ("Warn", Some(Severity::Warn)),
            ("error", Some(Severity::Error)),
            ("fatal", Some(Severity::Fatal)),
            ("dpanic", Some(Severity::Fatal)),
            ("trace", None),
            ("warning", None),
        ] {
            assert_eq!(Severity::parse(text), expected, "{text}");
        }
    }

    proptest! {
        /// Goal: whatever is said and whatever the values are, a JSON line is one object on one line that gives
        /// everything back, and a console line is one line whose last column is such an object.
        #[test]
        fn no_message_and_no_value_breaks_a_line(
            message in any::<String>(),
            names in proptest::collection::hash_set("[a-z .\"\\\\\u{0}-\u{a0}]{0,6}", 0..6),
            values in proptest::collection::vec(any::<String>(), 6),
            number in any::<f64>(),
        ) {
            let mut quoted: Vec<String> = values.iter().map(|value| {
                let mut out = String::new();
                put_json_string(&mut out, value);
                out
            }).collect();
            quoted[0].clear();
            put_json_f64(&mut quoted[0], number);
            let fields: Vec<Field<'_>> = names.iter().map(String::as_str).zip(quoted.iter().map(String::as_str)).collect();

            let mut escaped = String::new();
            put(&mut escaped, Form::Json, VALUE_MAX, &message);
            let text = line(Encoding::Json, &Head { message: &escaped, ..HEAD }, &fields);
            prop_assert_eq!(text.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("one object");
            prop_assert_eq!(object.len(), 4 + fields.len());
            prop_assert_eq!(object["msg"].as_str(), Some(message.as_str()));
            for (name, value) in names.iter().zip(&values).skip(1) {
                let reserved = ["level", "ts", "logger", "caller", "msg"].contains(&name.as_str());
                let name = if reserved { format!("field.{name}") } else { name.clone() };
                prop_assert_eq!(object[&name].as_str(), Some(value.as_str()));
            }

            let mut escaped = String::new();
            put(&mut escaped, Form::Column, VALUE_MAX, &message);
            let text = line(Encoding::Console, &Head { message: &escaped, ..HEAD }, &fields);
            let columns: Vec<&str> = text.strip_suffix('\n').expect("a line ends").split('\t').collect();
            prop_assert_eq!(columns.len(), 4 + usize::from(!fields.is_empty()));
            prop_assert!(!text.trim_end_matches('\n').chars().any(|c| c != '\t' && is_unsafe(c)));
            if !fields.is_empty() {
                let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(columns[4]).expect("one object");
                prop_assert_eq!(object.len(), fields.len());
            }
        }
    }
}

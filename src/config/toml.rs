//! TOML to the same tree, for those who would rather write TOML.

use super::problems::{At, Problems, quote};
use super::tree::{DEPTH_MAX, Entry, Node, Scalar, Value};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// Reads a TOML document; every problem of it is entered. `None` when it is no TOML.
#[must_use]
pub(super) fn parse(text: &str, source: u32, problems: &Problems) -> Option<Node> {
    let lines = Lines::of(text, source);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let start = error.span().map_or(0, |span| span.start);
        let at = lines.place(text, start);
        match error.message() {
            DUPLICATE => {
                let path = path_at(text, start);
                let key = path.rsplit('.').next().unwrap_or_default();
                problems.error(at, &path, format!("the key {} stands twice", quote(key)));
            }
            message => problems.error(at, "", format!("not TOML: {}", message.replace('\n', ", "))),
        }
    }
    // With nothing wrong but keys that stand twice the rest of it is there to be checked.
    if errors.iter().any(|error| error.message() != DUPLICATE) {
        return None;
    }
    let reader = Reader { text, lines, problems };
    reader.table(table.span(), table.get_ref(), 0)
}

/// What the crate says of a key that stands twice.
const DUPLICATE: &str = "duplicate key";

/// The keys that lead to a byte, by the header above it and the key it is in: good for a report.
fn path_at(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = text[line_start..].lines().next().unwrap_or_default().trim();
    let bare =
        |keys: &str| keys.split('.').map(|key| key.trim().trim_matches(['"', '\''])).collect::<Vec<_>>().join(".");
    let header = |line: &str| {
        let line = line.trim();
        let keys = line.strip_prefix('[')?.trim_start_matches('[').split(']').next()?;
        (!line.contains('=')).then(|| bare(keys))
    };
    if let Some(keys) = header(line) {
        return keys;
    }
    let table = before[..line_start].lines().rev().find_map(header).unwrap_or_default();
    let key = bare(line.split('=').next().unwrap_or_default());
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

struct Reader<'a> {
    text: &'a str,
    lines: Lines,
    problems: &'a Problems,
}

impl Reader<'_> {
    fn value(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Option<Node> {
        let at = self.lines.place(self.text, value.span().start);
        let scalar = match value.get_ref() {
            DeValue::Table(table) => return self.table(value.span(), table, depth),
            DeValue::Array(items) => {
                self.not_too_deep(at, depth)?;
                let items: Option<_> = items.iter().map(|item| self.value(item, depth + 1)).collect();
                return items.map(|items| Node { at, value: Value::Seq(items) });
            }
            DeValue::String(text) => Scalar::quoted(text.as_ref()),
            DeValue::Integer(number) => Scalar::plain(integer(number)),
            DeValue::Float(number) => Scalar::plain(float(number.as_str())),
            DeValue::Boolean(yes) => Scalar::plain(yes.to_string()),
            DeValue::Datetime(when) => Scalar::quoted(when.to_string()),
        };
        Some(Node { at, value: Value::Scalar(scalar) })
    }

    fn table(&self, span: Range<usize>, table: &DeTable<'_>, depth: usize) -> Option<Node> {
        let at = self.lines.place(self.text, span.start);
        self.not_too_deep(at, depth)?;
        // The crate sorts keys by name; the file's order is that of their places.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries: Option<_> = entries
            .into_iter()
            .map(|(key, value)| {
                let key_at = self.lines.place(self.text, key.span().start);
                Some(Entry { key: key.get_ref().to_string(), key_at, value: self.value(value, depth + 1)? })
            })
            .collect();
        entries.map(|entries| Node { at, value: Value::Map(entries) })
    }

    fn not_too_deep(&self, at: At, depth: usize) -> Option<()> {
        if depth >= DEPTH_MAX {
            self.problems.error(at, "", format!("this is nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        Some(())
    }
}

/// The number with the prefix YAML has for its base.
fn integer(number: &DeInteger<'_>) -> String {
    let prefix = match number.radix() {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    format!("{prefix}{}", number.as_str())
}

/// YAML writes what is no finite number with a point in front.
fn float(text: &str) -> String {
    match text.trim_start_matches(['+', '-']) {
        "inf" if text.starts_with('-') => "-.inf".to_owned(),
        "inf" => ".inf".to_owned(),
        "nan" => ".nan".to_owned(),
        _ => text.to_owned(),
    }
}

/// Where each line begins, in bytes.
struct Lines {
    source: u32,
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str, source: u32) -> Lines {
        let after_breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(n, _)| n + 1);
        Lines { source, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn place(&self, text: &str, byte: usize) -> At {
        let line = self.starts.partition_point(|start| *start <= byte).saturating_sub(1);
        let column = text.get(self.starts[line]..byte).map_or(0, |before| before.chars().count());
        let number = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        At { source: self.source, line: number(line), column: number(column) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::Typed;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let problems = Problems::new();
        problems.source("f.toml");
        let node = parse(text, 0, &problems);
        let report = problems.into_report();
        let told = report.problems().iter().map(|p| format!("{}:{} {}", p.at.line, p.at.column, p.told()));
        (node, told.collect())
    }

    fn get<'n>(node: &'n Node, path: &str) -> &'n Node {
        path.split('.').fold(node, |node, key| {
            let entries = node.as_map().unwrap_or_else(|| panic!("{path} leads through a map"));
            &entries.iter().find(|e| e.key == key).unwrap_or_else(|| panic!("{path} is there")).value
        })
    }

    #[test]
    #[rustfmt::skip]
    fn a_toml_document_becomes_the_same_tree_with_places() {
        let text = "z = 1\na.b = \"x\"\n[receivers.otlp.protocols.grpc]\nendpoint = '0.0.0.0:4317'\n\
                    sizes = [0x10, 1_000, -inf, 1.5, true, 2024-01-02]\n[[actions]]\nkey = \"ä\" # c\n\"ö\" = 1\n";
        let (node, told) = read(text);
        let node = node.expect("it is TOML");
        assert_eq!(told, Vec::<String>::new());
        let order: Vec<_> = node.as_map().expect("a table").iter().map(|e| e.key.as_str()).collect();
        assert_eq!(order, ["z", "a", "receivers", "actions"]); // the file's, not the alphabet's
        let endpoint = get(&node, "receivers.otlp.protocols.grpc.endpoint");
        assert_eq!((endpoint.at.line, endpoint.at.column), (4, 12));
        let sizes = get(&node, "receivers.otlp.protocols.grpc.sizes").as_seq().expect("an array");
        let typed: Vec<_> = sizes.iter().map(|n| match &n.value { Value::Scalar(s) => s.typed(), _ => Typed::Null }).collect();
        assert_eq!(typed, [Typed::Int(16), Typed::Int(1_000), Typed::Float(f64::NEG_INFINITY), Typed::Float(1.5), Typed::Bool(true), Typed::Text]);
        let action = &get(&node, "actions").as_seq().expect("an array of tables")[0];
        let o = action.as_map().expect("a table").iter().find(|e| e.key == "ö").expect("it is there");
        assert_eq!((o.key_at.line, o.key_at.column, o.value.at.column), (8, 1, 7));
    }

    #[test]
    fn what_is_no_toml_is_told_all_at_once() {
        let (node, told) = read("a = 1\na = 2\nb = \nc = \"open\n");
        assert_eq!(node, None);
        let places: Vec<_> = told.iter().map(|t| t.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(places, ["2:1", "3:5", "4:10"], "{told:?}");
    }

    #[test]
    fn every_key_that_stands_twice_is_told_with_its_path_and_the_rest_is_read() {
        let problems = Problems::new();
        problems.source("f.toml");
        let text = "[a.b]\nx = 1\nx = 2\n\"y\" = 1\ny = 2\n[c]\nz = 1\n[a.b]\nw = 1\n[c]\n";
        let node = parse(text, 0, &problems).expect("it can be read");
        let report = problems.into_report();
        let told: Vec<_> = report
            .problems()
            .iter()
            .map(|p| format!("{}:{} {} {}", p.at.line, p.at.column, p.path, p.told()))
            .collect();
        assert_eq!(
            told,
            [
                "3:1 a.b.x the key `x` stands twice",
                "5:1 a.b.y the key `y` stands twice",
                "8:4 a.b the key `b` stands twice",
                "10:2 c the key `c` stands twice"
            ]
        );
        assert_eq!(get(&node, "c.z").at.line, 7);
    }

    #[test]
    fn depth_is_bounded() {
        let (node, told) = read(&format!("a = {}{}\n", "[".repeat(70), "]".repeat(70)));
        assert!(node.is_none());
        assert!(told.iter().any(|t| t.contains("deeper")), "{told:?}");
        let (node, _) = read(&format!("a = {}{}\n", "[".repeat(100_000), "]".repeat(100_000)));
        assert!(node.is_none());
    }
}

//! YAML to a tree.
//!
//! The events come from `saphyr-parser`; this file puts them together, because only so a duplicate key is a
//! problem with two places instead of the end, and an alias cannot grow into gigabytes.

use super::problems::{At, Problems, quote};
use super::tree::{DEPTH_MAX, Entry, Node, Scalar, Value, Written};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Most a tree may weigh, aliases written out, bytes of text plus [`NODE_WEIGHT`] for each value. The largest file we
/// read is 1 MiB; nine lines of aliases upon aliases would be gigabytes.
const WEIGHT_MAX: usize = 8 << 20;
/// What a value costs beside its text: about the size of a [`Node`].
const NODE_WEIGHT: usize = 64;

/// Reads the first document of `text`. An empty text is an empty map.
///
/// `None` when the text is no YAML or no map; every problem met until then is in `problems`.
#[must_use]
pub(super) fn parse(text: &str, source: u32, problems: &Problems) -> Option<Node> {
    let root = parse_value(text, source, problems)?;
    let root = if root.is_null() { Node { at: root.at, value: Value::Map(Vec::new()) } } else { root };
    if root.as_map().is_none() {
        problems.error(
            root.at,
            "",
            format!("the document is {}; it must be a map of receivers, exporters and so on", root.shape()),
        );
        return None;
    }
    Some(root)
}

/// As [`parse`], but any value may stand at the top: what `--set` and variables hold.
#[must_use]
pub(super) fn parse_value(text: &str, source: u32, problems: &Problems) -> Option<Node> {
    if let Some(at) = control_character(text, source) {
        problems.error(at, "", "here is a control character, which YAML does not take");
        return None;
    }
    let mut builder = Builder { source, problems, frames: Vec::new(), anchors: HashMap::new(), weight: 0, root: None };
    match builder.read(text) {
        Ok(()) => Some(builder.root.unwrap_or_else(|| Node::null(At { source, line: 1, column: 1 }))),
        Err(Stop::Told) => None,
        Err(Stop::Syntax(e)) => {
            let (at, message) = explain(&e, text, source);
            problems.error(at, "", message);
            None
        }
    }
}

/// The parser lets most of them pass; yaml.v3 does not, and a header with one in it would fail far later.
fn control_character(text: &str, source: u32) -> Option<At> {
    let bad = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (line, column) = text.lines().zip(1..).find_map(|(line, n)| Some((n, line.chars().position(bad)?)))?;
    Some(At { source, line, column: u32::try_from(column + 1).unwrap_or(u32::MAX) })
}

/// Why reading ended early.
enum Stop {
    /// The problem is entered.
    Told,
    /// The parser's own words, to be explained.
    Syntax(ScanError),
}

/// A list or a map that is not complete.
enum Open {
    Seq { at: At, anchor: usize, items: Vec<Node> },
    Map { at: At, anchor: usize, entries: Vec<Entry>, seen: HashMap<String, At>, merges: Vec<Node>, key: Option<Key> },
}

/// A key that waits for its value.
enum Key {
    Name(String, At),
    /// `<<`.
    Merge(At),
    /// A list or map as key: told, and its value is thrown away.
    Bad,
}

struct Builder<'a> {
    source: u32,
    problems: &'a Problems,
    frames: Vec<Open>,
    /// Complete values with an anchor, by the parser's number.
    anchors: HashMap<usize, Node>,
    weight: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn read(&mut self, text: &str) -> Result<(), Stop> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(Stop::Syntax)?;
            if let Event::DocumentEnd = event {
                self.warn_of_a_second_document(&mut parser);
                return Ok(());
            }
            self.take(event, span)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let at = self.place(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(text.into_owned(), style, tag);
                let at = if scalar.text.is_empty() && span.is_empty() { self.key_place().unwrap_or(at) } else { at };
                self.complete(Node { at, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(Open::Seq { at, anchor, items: Vec::new() }, at),
            Event::MappingStart(anchor, _) => self.open(
                Open::Map { at, anchor, entries: Vec::new(), seen: HashMap::new(), merges: Vec::new(), key: None },
                at,
            ),
            Event::SequenceEnd | Event::MappingEnd => match self.frames.pop() {
                Some(Open::Seq { at, anchor, items }) => self.complete(Node { at, value: Value::Seq(items) }, anchor),
                Some(Open::Map { at, anchor, entries, seen, merges, .. }) => {
                    let entries = merged(entries, seen, merges);
                    self.complete(Node { at, value: Value::Map(entries) }, anchor)
                }
                None => Ok(()), // the parser closes only what it opened
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.weigh(&node, at)?;
                    self.complete(node, 0)
                }
                None => {
                    self.problems.error(at, "", "this alias stands inside the very value it names");
                    Err(Stop::Told)
                }
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, frame: Open, at: At) -> Result<(), Stop> {
        if self.frames.len() >= DEPTH_MAX {
            self.problems.error(at, "", format!("this is nested deeper than {DEPTH_MAX} levels"));
            return Err(Stop::Told);
        }
        self.frames.push(frame);
        Ok(())
    }

    /// A value is there: it becomes an item, a key, what a key leads to, or the document.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.weigh(&node, node.at)?;
            self.anchors.insert(anchor, node.clone());
        } else if let Value::Scalar(_) = node.value {
            self.weigh(&node, node.at)?;
        }
        let told = match self.frames.last_mut() {
            None => {
                self.root = Some(node);
                None
            }
            Some(Open::Seq { items, .. }) => {
                items.push(node);
                None
            }
            Some(Open::Map { key: key @ None, .. }) => {
                let at = node.at;
                *key = Some(key_of(node));
                matches!(key, Some(Key::Bad)).then(|| (at, None, "a key is a list or a map; keys are texts".to_owned()))
            }
            Some(Open::Map { key, entries, seen, merges, .. }) => match key.take() {
                Some(Key::Name(name, key_at)) => match seen.get(&name) {
                    Some(first) => {
                        let message = twice(&name, *first);
                        Some((key_at, Some(name), message))
                    }
                    None => {
                        seen.insert(name.clone(), key_at);
                        entries.push(Entry { key: name, key_at, value: node });
                        None
                    }
                },
                Some(Key::Merge(at)) => {
                    let (maps, wrong) = mergeable(node);
                    merges.extend(maps);
                    wrong.map(|shape| (at, None, format!("`<<` takes in a map or a list of maps; here is {shape}")))
                }
                Some(Key::Bad) | None => None,
            },
        };
        if let Some((at, name, message)) = told {
            let path = [self.path(), name.unwrap_or_default()];
            self.problems.error(at, path.join(".").trim_matches('.'), message);
        }
        Ok(())
    }

    /// Counts what a value will keep in memory, and how deep it goes from here.
    fn weigh(&mut self, node: &Node, at: At) -> Result<(), Stop> {
        let (weight, depth) = measure(node);
        self.weight = self.weight.saturating_add(weight);
        if self.weight > WEIGHT_MAX {
            self.problems.error(
                at,
                "",
                format!("with its aliases written out the file needs more than {} MiB", WEIGHT_MAX >> 20),
            );
            return Err(Stop::Told);
        }
        if self.frames.len() + depth > DEPTH_MAX {
            self.problems.error(at, "", format!("this is nested deeper than {DEPTH_MAX} levels"));
            return Err(Stop::Told);
        }
        Ok(())
    }

    /// The keys that lead to where we are: `a.b[2].c`.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match frame {
                Open::Map { key: Some(Key::Name(name, _)), .. } if path.is_empty() => path.push_str(name),
                Open::Map { key: Some(Key::Name(name, _)), .. } => path = format!("{path}.{name}"),
                Open::Seq { items, .. } => path = format!("{path}[{}]", items.len()),
                Open::Map { .. } => {}
            }
        }
        path
    }

    /// Where the key stands whose value comes next.
    fn key_place(&self) -> Option<At> {
        match self.frames.last() {
            Some(Open::Map { key: Some(Key::Name(_, at)), .. }) => Some(*at),
            _ => None,
        }
    }

    fn place(&self, mark: Marker) -> At {
        place(mark, self.source)
    }

    /// Only the first document is read, as otelcol does; a second one is probably meant to be read.
    fn warn_of_a_second_document(&self, parser: &mut Parser<'_, saphyr_parser::StrInput<'_>>) {
        if let Some(Ok((Event::DocumentStart(_), span))) = parser.next_event() {
            self.problems.warn(self.place(span.start), "", "a second document begins here; only the first one is read");
        }
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<Cow<'_, Tag>>) -> Scalar {
    let is_text = tag.is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
    let written = if style == ScalarStyle::Plain && !is_text { Written::Plain } else { Written::Quoted };
    Scalar { text, written, expanded: None }
}

fn key_of(node: Node) -> Key {
    match node.value {
        Value::Scalar(Scalar { text, written: Written::Plain, .. }) if text == "<<" => Key::Merge(node.at),
        Value::Scalar(scalar) => Key::Name(scalar.text, node.at),
        Value::Seq(_) | Value::Map(_) => Key::Bad,
    }
}

fn twice(name: &str, first: At) -> String {
    format!("the key {} stands twice, first at {}:{}", quote(name), first.line, first.column)
}

/// The maps a `<<` brings in, nearest first; and the shape of what is none.
fn mergeable(node: Node) -> (Vec<Node>, Option<&'static str>) {
    let all = match node.value {
        Value::Seq(items) => items,
        Value::Map(_) | Value::Scalar(_) => vec![node],
    };
    let (maps, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|n| matches!(n.value, Value::Map(_)));
    (maps, others.first().map(Node::shape))
}

/// A map's own keys, then those of the maps it takes in that it does not have.
fn merged(mut entries: Vec<Entry>, mut seen: HashMap<String, At>, merges: Vec<Node>) -> Vec<Entry> {
    for node in merges {
        let Value::Map(theirs) = node.value else { continue };
        for entry in theirs {
            if seen.insert(entry.key.clone(), entry.key_at).is_none() {
                entries.push(entry);
            }
        }
    }
    entries
}

/// Weight and depth of a value. Stored values are at most [`DEPTH_MAX`] deep, so the recursion ends.
fn measure(node: &Node) -> (usize, usize) {
    let sum = |of: &mut dyn Iterator<Item = (usize, usize)>| {
        of.fold((NODE_WEIGHT, 1), |(weight, depth), (w, d)| (weight + w, depth.max(d + 1)))
    };
    match &node.value {
        Value::Scalar(scalar) => (NODE_WEIGHT + scalar.text.len(), 0),
        Value::Seq(items) => sum(&mut items.iter().map(measure)),
        Value::Map(entries) => sum(&mut entries.iter().map(|e| {
            let (weight, depth) = measure(&e.value);
            (weight + e.key.len(), depth)
        })),
    }
}

fn place(mark: Marker, source: u32) -> At {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    At { source, line: number(mark.line()), column: number(mark.col() + 1) }
}

/// The parser's words, in those of somebody who edits the file.
fn explain(error: &ScanError, text: &str, source: u32) -> (At, String) {
    let at = place(*error.marker(), source);
    let here = char_at(text, at);
    let before = char_at(text, At { column: at.column.saturating_sub(1), ..at });
    let words = error.info();
    let message = match words {
        _ if here == Some('{') && before == Some('$') => {
            "inside [ ] or { } a reference needs quotes: \"${env:NAME}\"".to_owned()
        }
        _ if leading_tab(text, at).is_some() => {
            let tab = leading_tab(text, at).unwrap_or(at);
            return (tab, "a tab indents this line; YAML takes only spaces".to_owned());
        }
        w if w.contains("quoted scalar") && (w.contains("indentation") || w.contains("end of stream")) => {
            "the quote that opens here is not closed in its lines".to_owned()
        }
        w if w.contains("document indicator") => {
            "the quote that opens here is not closed before the next document".to_owned()
        }
        w if w.contains("escape") => {
            "this text has an escape that YAML does not know; in single quotes a backslash is a backslash".to_owned()
        }
        w if w.contains("trailing content") => {
            "something follows the closing quote; quote all of it or nothing".to_owned()
        }
        w if w.contains("mapping values are not allowed") => {
            "a second `: ` in one line, or a line indented deeper than its key allows; quote a value that has a colon"
                .to_owned()
        }
        w if w.contains("did not find expected key") || w.contains("expected '-' indicator") => {
            "this line's indentation fits no line above it".to_owned()
        }
        w if w.contains("flow mapping") => "the `{` above is not closed, or a comma is missing".to_owned(),
        w if w.contains("flow sequence") => "the `[` above is not closed, or a comma is missing".to_owned(),
        w if w.contains("illegal placement of ':'") => {
            "a `:` stands where a list goes on; is the `[` above not closed?".to_owned()
        }
        w if w.contains("unexpected character") => {
            let c = here.map(String::from).unwrap_or_default();
            format!("a value cannot begin with {}; quote it", quote(&c))
        }
        w if w.contains("unknown anchor") => "this alias names no anchor above it".to_owned(),
        w => format!("not YAML: {w}"),
    };
    (at, message)
}

/// The tab that indents the line of an error, or the next line (where some errors are noticed too early).
fn leading_tab(text: &str, at: At) -> Option<At> {
    (at.line..=at.line.saturating_add(1)).find_map(|line| {
        let written = text.lines().nth(line.saturating_sub(1) as usize)?;
        let column = written.chars().take_while(|c| c.is_whitespace()).position(|c| c == '\t')?;
        Some(At { line, column: u32::try_from(column + 1).unwrap_or(u32::MAX), ..at })
    })
}

fn char_at(text: &str, at: At) -> Option<char> {
    text.lines().nth(at.line.checked_sub(1)? as usize)?.chars().nth(at.column.checked_sub(1)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in a form to read: places of values, `!` before quoted texts.
    fn show(node: &Node) -> String {
        let at = format!("{}:{}", node.at.line, node.at.column);
        match &node.value {
            Value::Scalar(s) if s.written == Written::Quoted => format!("{at} !{}", s.text),
            Value::Scalar(s) => format!("{at} {}", s.text),
            Value::Seq(items) => format!("{at} [{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => {
                let entries = entries.iter().map(|e| format!("{}={}", e.key, show(&e.value)));
                format!("{at} {{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn read(text: &str) -> String {
        let problems = Problems::new();
        problems.source("f");
        let root = parse(text, 0, &problems);
        let report = problems.into_report();
        let told = report.problems().iter().map(|p| format!("{}:{} {} {}", p.at.line, p.at.column, p.path, p.told()));
        let told: Vec<_> = told.collect();
        match root {
            Some(root) if told.is_empty() => show(&root),
            Some(root) => format!("{} | {}", show(&root), told.join(" | ")),
            None => told.join(" | "),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_document_becomes_a_tree_with_places() {
        for (text, expected) in [
            ("",                          "1:1 {}"),
            ("# nothing\n",               "1:1 {}"),
            ("~\n",                       "1:1 {}"),
            ("a: 1\nb: 'x'\n",            "1:1 {a=1:4 1, b=2:4 !x}"),
            ("a:\n  b:\n",                "1:1 {a=2:3 {b=2:3 }}"), // an empty value stands where its key stands
            ("a: [x, {y: z}]\n",          "1:1 {a=1:4 [1:5 x, 1:8 {y=1:12 z}]}"),
            ("a:\n  - b: 1\n    c: 2\n  -\n", "1:1 {a=2:3 [2:5 {b=2:8 1, c=3:8 2}, 4:4 ]}"),
            ("a: |\n  x\n  y\n",          "1:1 {a=2:3 !x\ny\n}"),
            ("a: !!str 12\nb: !!int 1\n", "1:1 {a=1:4 !12, b=2:4 1}"),
            ("\u{feff}a: 1\n",           "1:1 {a=1:4 1}"),
            ("a: ${env:X}\n",             "1:1 {a=1:4 ${env:X}}"),
            ("ä: ö\nb: 1",                "1:1 {ä=1:4 ö, b=2:4 1}"), // columns are characters
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn anchors_aliases_and_merge_keys_are_written_out() {
        for (text, expected) in [
            ("a: &x {b: 1}\nc: *x\n",                        "1:1 {a=1:4 {b=1:11 1}, c=1:4 {b=1:11 1}}"),
            ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n",   "1:1 {a=1:4 {b=1:11 1, c=1:17 2}, d=3:3 {b=4:6 3, c=1:17 2}}"),
            ("a: &x {b: 1}\ne: &y {b: 2, f: 3}\nd:\n  <<: [*x, *y]\n",
             "1:1 {a=1:4 {b=1:11 1}, e=2:4 {b=2:11 2, f=2:17 3}, d=4:3 {b=1:11 1, f=2:17 3}}"), // the first one wins
            ("'<<': 1\n",                                    "1:1 {<<=1:7 1}"), // in quotes it is a key like any
            ("a: &x k\n*x : 1\n",                            "1:1 {a=1:4 k, k=2:6 1}"),
            ("<<: 1\n",                                      "1:1 {} | 1:1  `<<` takes in a map or a list of maps; here is a number"),
            ("a: *no\n",                                     "1:4  this alias names no anchor above it"),
            ("a: &x [*x]\n",                                 "1:8  this alias stands inside the very value it names"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_wrong_with_a_document_is_told_with_its_place() {
        for (text, expected) in [
            ("a: 1\nb: 2\na: 3\na: 4\n", "1:1 {a=1:4 1, b=2:4 2} | 3:1 a the key `a` stands twice, first at 1:1 | 4:1 a the key `a` stands twice, first at 1:1"),
            ("x:\n  a: 1\n  a: 2\n",     "1:1 {x=2:3 {a=2:6 1}} | 3:3 x.a the key `a` stands twice, first at 2:3"),
            ("? [a]\n: 1\nb: 2\n",       "1:1 {b=3:4 2} | 1:3  a key is a list or a map; keys are texts"),
            ("a: 1\n---\nb: 2\n",        "1:1 {a=1:4 1} | 2:1  warning: a second document begins here; only the first one is read"),
            ("- a\n",                     "1:1  the document is a list; it must be a map of receivers, exporters and so on"),
            ("hello\n",                   "1:1  the document is a text; it must be a map of receivers, exporters and so on"),
            ("a:\n\tb: 1\n",              "2:1  a tab indents this line; YAML takes only spaces"),
            ("a:\n  b: 1\n\tc: 2\n",      "3:1  a tab indents this line; YAML takes only spaces"),
            ("a: 'open\nb: 1\n",          "1:4  the quote that opens here is not closed in its lines"),
            ("a: \"open",                  "1:4  the quote that opens here is not closed in its lines"),
            ("a: \"x\" y\n",              "1:8  something follows the closing quote; quote all of it or nothing"),
            ("a: b: c\n",                 "1:5  a second `: ` in one line, or a line indented deeper than its key allows; quote a value that has a colon"),
            ("a:\n  b: 1\n c: 2\n",       "3:2  this line's indentation fits no line above it"),
            ("a: {b: 1\n",                "2:1  the `{` above is not closed, or a comma is missing"),
            ("a: [1, 2\nb: 3\n",          "2:2  a `:` stands where a list goes on; is the `[` above not closed?"),
            ("a: [${env:X}]\n",           "1:6  inside [ ] or { } a reference needs quotes: \"${env:NAME}\""),
            ("a: @x\n",                   "1:4  a value cannot begin with `@`; quote it"),
            ("a: \"\\q\"\n",             "1:4  this text has an escape that YAML does not know; in single quotes a backslash is a backslash"),
            ("a: \u{1}\n",               "1:4  here is a control character, which YAML does not take"),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_billion_laughs_stay_small() {
        let mut text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for n in 1..20 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            text += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        assert!(
            read(&text).ends_with("with its aliases written out the file needs more than 8 MiB"),
            "{}",
            read(&text)
        );
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 19), vec!["*a"; 1_000].join(", "));
        assert!(read(&long).ends_with("needs more than 8 MiB"));
    }

    #[test]
    fn depth_is_bounded_also_through_aliases() {
        let deep = |n| format!("a: {}{}", "[".repeat(n), "]".repeat(n));
        assert!(!read(&deep(60)).contains("deeper"));
        assert!(read(&deep(70)).contains("nested deeper than 64 levels"));
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for n in 1..100 {
            chain += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        assert!(read(&chain).ends_with("nested deeper than 64 levels"));
    }
}

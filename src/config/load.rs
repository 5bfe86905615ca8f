//! Several sources become one tree: read, merge left to right, `--set` last, then expand.

use super::expand;
use super::host::{FILE_MAX, Host};
use super::mask::{is_suspicious, masked};
use super::problems::{At, Problems, quote};
use super::reference::scheme;
use super::section::join;
use super::tree::{DEPTH_MAX, Entry, Node, Value};
use super::{toml, yaml};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// What the command line names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locations {
    /// `--config`, in order: `file:path` or a path, `env:NAME`, `yaml:text`.
    pub configs: Vec<String>,
    /// `--set`, in order: `key.key=value`.
    pub sets: Vec<String>,
}

impl Locations {
    /// One location and no `--set`.
    #[must_use]
    pub fn of(config: &str) -> Locations {
        Locations { configs: vec![config.to_owned()], sets: Vec::new() }
    }
}

/// What a configuration was made of: its sources and values as they were given, nothing in them expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// What the locations held, in order.
    pub sources: Vec<Source>,
    /// `--set`, in order.
    pub sets: Vec<String>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// As reports name it.
    pub name: String,
    /// How its text is written.
    pub form: Form,
    /// What it says.
    pub text: String,
}

/// How a source is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

/// Longest name of a source in a report, characters: a `yaml:` location may be a whole configuration.
const NAME_MAX: usize = 60;
/// Most keys joined by `::` or dots in one.
const JOINED_MAX: usize = 32;

/// Reads, merges and expands everything; `None` when any of it cannot be read. Problems are entered in any case.
#[must_use]
pub fn load(locations: &Locations, host: &dyn Host, problems: &Problems) -> Option<Node> {
    load_from(locations, host, problems).0.filter(|_| !problems.is_partial())
}

/// As [`load`], but without the sources that cannot be read ([`Problems::is_partial`] tells that there were some), so that
/// what is wrong in the others is told in the same run; and what it was loaded from: whole unless it is partial.
#[must_use]
pub fn load_from(locations: &Locations, host: &dyn Host, problems: &Problems) -> (Option<Node>, Given) {
    let mut given = Given { sources: Vec::new(), sets: locations.sets.clone() };
    if locations.configs.is_empty() {
        let source = problems.source("command line");
        problems.error(At { source, line: 1, column: 1 }, "", "at least one --config must be given");
        return (None, given);
    }
    // Collected first: every source is read and its problems told, also when an earlier one is broken.
    let one = |location: &String| {
        let (source, fetched) = read(location, host, problems);
        let fetched = fetched?;
        let tree = parse(&fetched, source, problems);
        given.sources.push(fetched);
        tree
    };
    let trees = locations.configs.iter().map(one).collect();
    (whole(trees, &locations.sets, host, problems), given)
}

/// As [`load_from`], of what is there already.
#[must_use]
pub fn load_given(given: &Given, host: &dyn Host, problems: &Problems) -> Option<Node> {
    let one = |source: &Source| parse(source, problems.source(&source.name), problems);
    whole(given.sources.iter().map(one).collect(), &given.sets, host, problems)
}

/// A text of YAML as a tree, nothing in it expanded; problems are entered under `name`.
#[must_use]
pub fn parse_text(text: &str, name: &str, problems: &Problems) -> Option<Node> {
    yaml::parse(text, problems.source(name), problems)
}

/// Merges and expands.
fn whole(mut trees: Vec<Option<Node>>, sets: &[String], host: &dyn Host, problems: &Problems) -> Option<Node> {
    trees.extend(sets.iter().map(|set| read_set(set, problems)));
    if trees.iter().any(Option::is_none) {
        problems.go_on_without_a_source();
    }
    let mut trees: Vec<Node> = trees.into_iter().flatten().collect();
    for tree in &mut trees {
        nest(tree, 0, problems);
    }
    let mut root = trees.into_iter().reduce(|under, over| merge(under, over, "", problems))?;
    expand::expand(&mut root, host, problems);
    Some(root)
}

/// Where a location leads.
#[derive(Debug, PartialEq, Eq)]
enum Location<'l> {
    File(&'l str),
    Env(&'l str),
    Yaml(&'l str),
    /// `http`, `https`.
    Network(&'l str),
    Unknown(&'l str),
}

fn location(text: &str) -> Location<'_> {
    let behind = |scheme: &str| &text[scheme.len() + 1..];
    match scheme(text) {
        None => Location::File(text),
        Some(s @ "file") => Location::File(behind(s)),
        Some(s @ "env") => Location::Env(behind(s)),
        Some(s @ "yaml") => Location::Yaml(behind(s)),
        Some(s @ ("http" | "https")) => Location::Network(s),
        Some(s) => Location::Unknown(s),
    }
}

/// What a location leads to, and its number in the report.
fn read(text: &str, host: &dyn Host, problems: &Problems) -> (u32, Option<Source>) {
    let location = location(text);
    let name = match location {
        Location::File(path) => path.to_owned(),
        Location::Yaml(_) => name_of(text),
        _ => masked(text).chars().take(NAME_MAX).collect(),
    };
    let source = problems.source(&name);
    let fetched = fetch(&location, host, source, problems);
    (source, fetched.map(|(form, text)| Source { name, form, text }))
}

fn parse(Source { form, text, .. }: &Source, source: u32, problems: &Problems) -> Option<Node> {
    match form {
        Form::Yaml => yaml::parse(text, source, problems),
        Form::Toml => toml::parse(text, source, problems),
    }
}

fn fetch(location: &Location<'_>, host: &dyn Host, source: u32, problems: &Problems) -> Option<(Form, String)> {
    let refuse = |why: String| {
        problems.error(At { source, line: 1, column: 1 }, "", why);
        None
    };
    match location {
        Location::File(path) => {
            let bytes = match host.read(Path::new(path)) {
                Ok(bytes) if bytes.len() > FILE_MAX => {
                    return refuse(format!("the file is larger than {} MiB", FILE_MAX >> 20));
                }
                Ok(bytes) => bytes,
                Err(e) => return refuse(format!("the file cannot be read: {e}")),
            };
            let content = utf8(&bytes, source, problems)?;
            let is_toml = Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
            Some((if is_toml { Form::Toml } else { Form::Yaml }, content.to_owned()))
        }
        Location::Env(name) => match host.var(name) {
            Some(content) => Some((Form::Yaml, content)),
            None => refuse(format!("the variable {} is not set", quote(name))),
        },
        Location::Yaml(content) => Some((Form::Yaml, (*content).to_owned())),
        Location::Network(scheme) => refuse(format!(
            "a configuration over {scheme} is not read: an agent must start without its link; fetch it to a file first"
        )),
        Location::Unknown(scheme) => {
            refuse(format!("the scheme {} is not known; file, env and yaml are", quote(scheme)))
        }
    }
}

/// What a report calls a location that holds a configuration itself: its beginning, up to what may be a secret.
fn name_of(text: &str) -> String {
    let short: String = masked(text).chars().take(NAME_MAX).collect();
    let is_word = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let words = short.match_indices(is_word).map(|(at, _)| at).filter(|at| !short[..*at].ends_with(is_word));
    let mut words = words.map(|at| (at, short[at..].split(|c| !is_word(c)).next().unwrap_or_default()));
    match words.find(|(_, word)| is_suspicious(word)) {
        Some((at, word)) => format!("{}…", &short[..at + word.len()]),
        None => short,
    }
}

fn utf8<'b>(bytes: &'b [u8], source: u32, problems: &Problems) -> Option<&'b str> {
    let bad = match std::str::from_utf8(bytes) {
        Ok(text) => return Some(text),
        Err(e) => e.valid_up_to(),
    };
    let good = std::str::from_utf8(&bytes[..bad]).expect("this far the bytes were found valid");
    let line = good.split('\n').count();
    let column = good.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    problems.error(At { source, line: number(line), column: number(column) }, "", "this byte is not UTF-8");
    None
}

/// `key.key=value`: the value is YAML.
fn read_set(text: &str, problems: &Problems) -> Option<Node> {
    let (keys, value) = text.split_once('=').unwrap_or((text, ""));
    let keys_shown = if text.contains('=') { keys.chars().take(NAME_MAX).collect() } else { name_of(text) };
    let source = problems.source(&format!("--set {keys_shown}"));
    let key_at = At { source, line: 1, column: 1 };
    let path: Vec<&str> = keys.split('.').collect();
    if !text.contains('=') {
        problems.error(key_at, "", "missing equal sign; write `--set key.key=value`");
        return None;
    }
    if path.len() > JOINED_MAX || path.iter().any(|key| key.is_empty()) {
        problems.error(key_at, keys, "a key is empty, or there are too many; write `--set key.key=value`");
        return None;
    }
    let mut value = yaml::parse_value(value, source, problems)?;
    let offset = u32::try_from(keys.chars().count() + 1).unwrap_or(u32::MAX);
    move_right(&mut value, offset);
    let nested = path.into_iter().rev().fold(value, |value, key| {
        let entry = Entry { key: key.to_owned(), key_at, value };
        Node { at: key_at, value: Value::Map(vec![entry]) }
    });
    Some(nested)
}

/// Places in a `--set` count from the start of the whole argument.
fn move_right(node: &mut Node, by: u32) {
    let shift = |at: &mut At| {
        if at.line == 1 {
            at.column = at.column.saturating_add(by);
        }
    };
    shift(&mut node.at);
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::Seq(items) => items.iter_mut().for_each(|item| move_right(item, by)),
        Value::Map(entries) => {
            for entry in entries {
                shift(&mut entry.key_at);
                move_right(&mut entry.value, by);
            }
        }
    }
}

/// `a::b: 1` means `a: {b: 1}`, at every level (reference §1.2).
fn nest(node: &mut Node, depth: usize, problems: &Problems) {
    if depth > DEPTH_MAX {
        problems.error(node.at, "", format!("this is nested deeper than {DEPTH_MAX} levels"));
        node.value = Value::Map(Vec::new());
        return;
    }
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::Seq(items) => items.iter_mut().for_each(|item| nest(item, depth + 1, problems)),
        Value::Map(entries) => {
            *entries = gather(std::mem::take(entries));
            for entry in entries {
                nest(&mut entry.value, depth + 1, problems);
            }
        }
    }
}

/// Takes the first key off joined ones and puts what has the same first key together. Maps are only appended to
/// each other here: what is double in them meets one level deeper.
fn gather(entries: Vec<Entry>) -> Vec<Entry> {
    let mut gathered: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut index: HashMap<String, usize> = HashMap::new();
    for entry in entries.into_iter().map(split) {
        match index.get(&entry.key) {
            Some(&n) => match (&mut gathered[n].value.value, entry.value.value) {
                (Value::Map(under), Value::Map(over)) => under.extend(over),
                (under, over) => {
                    *under = over;
                    gathered[n].value.at = entry.value.at;
                }
            },
            None => {
                index.insert(entry.key.clone(), gathered.len());
                gathered.push(entry);
            }
        }
    }
    gathered
}

/// `a::b: v` as `a: {b: v}`. An empty part means the key is something else, an IPv6 address maybe.
fn split(entry: Entry) -> Entry {
    let keys = entry.key.split("::").count();
    let is_joined = (2..=JOINED_MAX).contains(&keys) && entry.key.split("::").all(|key| !key.is_empty());
    let Some((first, rest)) = entry.key.split_once("::").filter(|_| is_joined) else { return entry };
    let inner = Entry { key: rest.to_owned(), key_at: entry.key_at, value: entry.value };
    let value = Node { at: entry.key_at, value: Value::Map(vec![inner]) };
    Entry { key: first.to_owned(), key_at: entry.key_at, value }
}

/// The right one laid over the left one: maps key by key, everything else replaced.
fn merge(under: Node, over: Node, path: &str, problems: &Problems) -> Node {
    tell_erased(&under, &over, path, problems);
    match (under.value, over.value) {
        (Value::Map(mut under_entries), Value::Map(over_entries)) => {
            let mut index: HashMap<String, usize> = under_entries.iter().map(|e| e.key.clone()).zip(0..).collect();
            for entry in over_entries {
                match index.get(&entry.key) {
                    Some(&n) => {
                        let below = std::mem::replace(&mut under_entries[n].value, Node::null(entry.key_at));
                        let path = join(path, &entry.key);
                        let value = merge(below, entry.value, &path, problems);
                        under_entries[n] = Entry { value, ..under_entries[n].clone() };
                    }
                    None => {
                        index.insert(entry.key.clone(), under_entries.len());
                        under_entries.push(entry);
                    }
                }
            }
            Node { at: under.at, value: Value::Map(under_entries) }
        }
        (_, value) => Node { at: over.at, value },
    }
}

/// A key without a value takes away what an earlier source put there: as in otelcol, and seldom meant.
fn tell_erased(under: &Node, over: &Node, path: &str, problems: &Problems) {
    let is_full = match &under.value {
        Value::Map(entries) => !entries.is_empty(),
        Value::Seq(items) => !items.is_empty(),
        Value::Scalar(_) => false,
    };
    if is_full && over.is_null() {
        let message = format!(
            "nothing stands here, which takes away what stands in {}; leave the key out to keep that",
            problems.place(under.at)
        );
        problems.warn(over.at, path, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Imagined;
    use crate::config::problems::Report;

    /// The tree as flow YAML, and the report.
    fn loaded(configs: &[&str], sets: &[&str], host: &Imagined) -> (Option<String>, Report) {
        let problems = Problems::new();
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        let root = load(&Locations { configs: own(configs), sets: own(sets) }, host, &problems);
        (root.as_ref().map(show), problems.into_report())
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Scalar(s) => s.text.clone(),
            Value::Seq(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => {
                let entries = entries.iter().map(|e| format!("{}: {}", e.key, show(&e.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn host() -> Imagined {
        let mut host = Imagined::with(&[("WHOLE", "a: {b: 9}"), ("X", "x!")]);
        for (path, text) in [
            ("base.yaml", "a: {b: 1, l: [1, 2]}\nc: 2\n"),
            ("over.yaml", "a: {b: 3, l: [4]}\nd: ${env:X}\n"),
            ("t.toml", "a.b = 7\n"),
            ("broken.yaml", "a: 'x\n"),
            ("empty.yaml", ""),
        ] {
            host.files.insert(path.to_owned(), text.to_owned());
        }
        host
    }

    #[test]
    #[rustfmt::skip]
    fn sources_are_laid_over_each_other_from_left_to_right() {
        for (configs, sets, expected) in [
            (&["base.yaml"][..],                        &[][..],                "{a: {b: 1, l: [1, 2]}, c: 2}"),
            (&["file:base.yaml", "over.yaml"][..],      &[],                    "{a: {b: 3, l: [4]}, c: 2, d: x!}"), // lists are replaced
            (&["base.yaml", "yaml:a::b: 5"][..],        &[],                    "{a: {b: 5, l: [1, 2]}, c: 2}"),
            (&["base.yaml", "env:WHOLE"][..],           &[],                    "{a: {b: 9, l: [1, 2]}, c: 2}"),
            (&["base.yaml", "t.toml"][..],              &[],                    "{a: {b: 7, l: [1, 2]}, c: 2}"),
            (&["base.yaml"][..],                        &["a.b=6", "e.f=[7]"],  "{a: {b: 6, l: [1, 2]}, c: 2, e: {f: [7]}}"),
            (&["base.yaml", "over.yaml"][..],           &["a.b="],              "{a: {b: , l: [4]}, c: 2, d: x!}"),
            (&["base.yaml", "yaml:a: 1"][..],           &[],                    "{a: 1, c: 2}"),
            (&["yaml:{x::y: 1, x: {z: 2}}"][..],        &[],                    "{x: {y: 1, z: 2}}"),
            (&["yaml:{x::y::z: 1, w: 2, x: {y: {z: 3}}, x::y::v: 4}"][..], &[], "{x: {y: {z: 3, v: 4}}, w: 2}"),
            (&["yaml:{x: 1, x::y: 2}"][..],             &[],                    "{x: {y: 2}}"),
            (&["yaml:{'::1': 1}"][..],                  &[],                    "{::1: 1}"), // an address, not joined keys
            (&["empty.yaml"][..],                       &["a=${env:X}"],        "{a: x!}"),
        ] {
            let (tree, report) = loaded(configs, sets, &host());
            assert_eq!((tree.as_deref(), report.errors()), (Some(expected), 0), "{configs:?} {sets:?}: {report}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_location_is_told_by_its_scheme() {
        for (text, expected) in [
            ("a.yaml",            Location::File("a.yaml")),
            ("./a:b.yaml",        Location::File("./a:b.yaml")),
            (r"C:\a.yaml",        Location::File(r"C:\a.yaml")), // one letter is a drive
            ("file:/a.yaml",      Location::File("/a.yaml")),
            ("env:A",             Location::Env("A")),
            ("yaml:a: 1",         Location::Yaml("a: 1")),
            ("https://x/y",       Location::Network("https")),
            ("s3:x",              Location::Unknown("s3")),
        ] {
            assert_eq!(location(text), expected, "{text}");
        }
    }

    #[test]
    fn every_source_tells_its_problems_also_after_a_broken_one() {
        let (tree, report) = loaded(
            &["broken.yaml", "http://x", "s3:x", "gone.yaml", "env:NOPE", "base.yaml"],
            &["foo", "a..b=1", "a.b='x"],
            &host(),
        );
        assert_eq!(tree, None);
        let expected = "\
broken.yaml: 1 problem
  1:4  -  the quote that opens here is not closed in its lines
http://x: 1 problem
  1:1  -  a configuration over http is not read: an agent must start without its link; fetch it to a file first
s3:x: 1 problem
  1:1  -  the scheme `s3` is not known; file, env and yaml are
gone.yaml: 1 problem
  1:1  -  the file cannot be read: entity not found
env:NOPE: 1 problem
  1:1  -  the variable `NOPE` is not set
--set foo: 1 problem
  1:1  -  missing equal sign; write `--set key.key=value`
--set a..b: 1 problem
  1:1  a..b  a key is empty, or there are too many; write `--set key.key=value`
--set a.b: 1 problem
  1:1  -  the quote that opens here is not closed in its lines
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_file_larger_than_any_configuration_is_not_read() {
        let mut host = host();
        host.files.insert("big.yaml".to_owned(), "#".repeat(FILE_MAX + 1));
        let (tree, report) = loaded(&["big.yaml"], &[], &host);
        assert_eq!(tree, None);
        assert_eq!(report.to_string(), "big.yaml: 1 problem\n  1:1  -  the file is larger than 1 MiB\n");
    }

    #[test]
    fn no_config_at_all_is_told() {
        let (tree, report) = loaded(&[], &["a=1"], &host());
        assert_eq!(tree, None);
        assert_eq!(report.to_string(), "command line: 1 problem\n  1:1  -  at least one --config must be given\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_with_their_place() {
        let problems = Problems::new();
        problems.source("f");
        assert_eq!(utf8(b"a: 1\nb: \xff\n", 0, &problems), None);
        assert_eq!(problems.into_report().to_string(), "f: 1 problem\n  2:4  -  this byte is not UTF-8\n");
    }

    #[test]
    fn joined_keys_cannot_nest_without_end() {
        let deep = format!("yaml:{}: 1", vec!["a"; 30].join("::"));
        let nested = format!("{deep}\n{}", "");
        let (tree, report) = loaded(&[&nested], &[], &host());
        assert!(tree.is_some() && report.errors() == 0, "{report}");
        let mut text = "1".to_owned();
        for _ in 0..20 {
            text = format!("{{{}: {text}}}", vec!["a"; 30].join("::"));
        }
        let (_, report) = loaded(&[&format!("yaml:{text}")], &[], &host());
        assert!(report.to_string().contains("deeper"), "{report}");
    }
}

//! References in values become what they name.
//!
//! A value never turns into something else on the way: a secret with `$` in it is not expanded again, a tenant
//! `0123` stays four characters (otelcol 0.88 gets both wrong, reference §1.3). Keys are never expanded.
//!
//! What is not set is not decided here but by whoever reads the value (an endpoint cannot do without, an attribute
//! is left out, a header is empty); only the machine's own names have a stand-in:
//!
//! ```text
//! HOST_IP  → AGENT_IP       → the address packets leave from
//! HOSTNAME → AGENT_HOSTNAME → the machine's name
//! ```

use super::host::{FILE_MAX, Host};
use super::mask::{is_address, is_delicate};
use super::problems::{At, Problems, quote};
use super::reference::{self, Part, Reference};
use super::tree::{Expanded, Missing, Node, Scalar, Value, Written};
use super::yaml;
use std::cell::Cell;
use std::path::Path;

/// Most text that references may bring into one configuration, bytes: twice the largest file.
const EXPANDED_MAX: usize = 2 << 20;
/// Files that refer to files that refer to files: so many levels.
const FILES_MAX: usize = 8;

/// Expands every scalar of the tree in place.
pub(super) fn expand(root: &mut Node, host: &dyn Host, problems: &Problems) {
    let expander = Expander { host, problems, brought: Cell::new(0) };
    expander.node(root, &Trail::Top, 0);
}

/// How we came here; only a problem makes a text of it.
enum Trail<'t> {
    Top,
    Key(&'t Trail<'t>, &'t str),
    Item(&'t Trail<'t>, usize),
}

impl Trail<'_> {
    fn path(&self) -> String {
        match self {
            Trail::Top => String::new(),
            Trail::Key(Trail::Top, key) => (*key).to_owned(),
            Trail::Key(before, key) => format!("{}.{key}", before.path()),
            Trail::Item(before, n) => format!("{}[{n}]", before.path()),
        }
    }
}

struct Expander<'a> {
    host: &'a dyn Host,
    problems: &'a Problems,
    brought: Cell<usize>,
}

/// What the parts of one scalar became.
#[derive(Default)]
struct Resolved {
    text: String,
    missing: Vec<Missing>,
    /// It could not be found, and that is told: nobody needs to miss it again.
    failed: bool,
}

impl Expander<'_> {
    fn node(&self, node: &mut Node, trail: &Trail<'_>, files: usize) {
        match &mut node.value {
            Value::Scalar(scalar) => self.scalar(scalar, node.at, trail, files),
            Value::Seq(items) => {
                for (n, item) in items.iter_mut().enumerate() {
                    self.node(item, &Trail::Item(trail, n), files);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.node(&mut entry.value, &Trail::Key(trail, &entry.key), files);
                }
            }
        }
    }

    fn scalar(&self, scalar: &mut Scalar, at: At, trail: &Trail<'_>, files: usize) {
        if !scalar.text.contains('$') {
            return;
        }
        let parts = match reference::parse(&scalar.text) {
            Ok(parts) => parts,
            Err(e) => {
                let path = trail.path();
                let shown = if is_delicate(&path) { String::new() } else { format!(": {}", quote(&scalar.text)) };
                return self.problems.error(at, &path, format!("{e}{shown}"));
            }
        };
        self.tell_old_forms(&parts, at, trail);
        if let [Part::Ref(one)] = parts.as_slice() {
            return self.whole(scalar, one, at, trail, files);
        }
        let has_references = parts.iter().any(|part| matches!(part, Part::Ref(_)));
        let resolved = self.resolve(&parts, at, trail);
        scalar.text = resolved.text;
        if has_references {
            scalar.written = Written::Expanded;
            scalar.expanded = Some(Box::new(Expanded { missing: resolved.missing, structure: None }));
        }
    }

    /// 0.88 reads `$NAME`, the collectors since 0.107 leave it as it is: whoever updates has to know.
    fn tell_old_forms(&self, parts: &[Part], at: At, trail: &Trail<'_>) {
        for part in parts {
            if let Part::Ref(Reference::Env { name, is_old: true, .. }) = part {
                let path = trail.path();
                let name = shown(&plain_text(name), &path, parts.len() == 1);
                let message = format!(
                    "`${name}` is the old form of a variable, read as 0.88 does; write `${{env:{name}}}`, or `$${name}` for the characters themselves"
                );
                self.problems.warn(at, &path, message);
            }
        }
    }

    /// The whole scalar is one reference: it may stand for a list or a map.
    fn whole(&self, scalar: &mut Scalar, one: &Reference, at: At, trail: &Trail<'_>, files: usize) {
        let resolved = self.look_up(one, true, at, trail);
        let structure =
            looks_like_structure(&resolved.text).then(|| self.structure(one, &resolved.text, at, trail, files));
        scalar.text = resolved.text;
        scalar.written = match one {
            Reference::Yaml(_) => Written::Plain,
            _ if resolved.failed => Written::Quoted,
            _ => Written::Expanded,
        };
        scalar.expanded = Some(Box::new(Expanded { missing: resolved.missing, structure: structure.flatten() }));
    }

    /// A list or map that a reference led to. Text that is no YAML is text (0.107); a file may hold references
    /// itself, a variable not.
    fn structure(&self, one: &Reference, text: &str, at: At, trail: &Trail<'_>, files: usize) -> Option<Node> {
        let name = match one {
            Reference::Env { name, .. } => format!("env:{}", plain_text(name)),
            Reference::File(path) => plain_text(path),
            Reference::Yaml(_) => "yaml:".to_owned(),
        };
        let found = Problems::new();
        let node = yaml::parse_value(text, self.problems.source(&name), &found);
        let mut node = node.filter(|node| !matches!(node.value, Value::Scalar(_)))?;
        self.problems.absorb(found);
        if let Reference::File(_) = one {
            if files >= FILES_MAX {
                self.problems.error(at, &trail.path(), format!("files refer to files deeper than {FILES_MAX} levels"));
                return None;
            }
            self.node(&mut node, trail, files + 1);
        }
        Some(node)
    }

    fn resolve(&self, parts: &[Part], at: At, trail: &Trail<'_>) -> Resolved {
        let mut all = Resolved::default();
        for part in parts {
            match part {
                Part::Text(text) => all.text.push_str(text),
                Part::Ref(reference) => {
                    let one = self.look_up(reference, parts.len() == 1, at, trail);
                    all.text.push_str(&one.text);
                    all.missing.extend(one.missing);
                }
            }
        }
        all
    }

    /// `alone`: the reference is the whole text.
    fn look_up(&self, one: &Reference, alone: bool, at: At, trail: &Trail<'_>) -> Resolved {
        let before = self.brought.get();
        if before > EXPANDED_MAX {
            return Resolved::default();
        }
        let resolved = match one {
            Reference::Env { name, is_old: true, .. } => {
                let mut resolved = self.variable(name, None, at, trail);
                resolved
                    .missing
                    .iter_mut()
                    .for_each(|missing| missing.name = shown(&missing.name, &trail.path(), alone));
                resolved
            }
            Reference::Env { name, default, .. } => self.variable(name, default.as_deref(), at, trail),
            Reference::File(path) => self.file(path, at, trail),
            Reference::Yaml(text) => self.resolve(text, at, trail),
        };
        self.brought.set(self.brought.get().saturating_add(resolved.text.len()));
        if self.brought.get() <= EXPANDED_MAX {
            return resolved;
        }
        self.problems.error(
            at,
            &trail.path(),
            format!("references bring in more than {} MiB of text", EXPANDED_MAX >> 20),
        );
        Resolved::default()
    }

    fn variable(&self, name: &[Part], default: Option<&[Part]>, at: At, trail: &Trail<'_>) -> Resolved {
        let name_of = self.resolve(name, at, trail);
        let name = name_of.text.as_str();
        if !is_name(name) {
            // `${1}` stands in patterns of relabelling; 0.88 makes nothing of it, which nobody means.
            let kept = format!("${{{name}}}");
            let message = format!(
                "{} is not a variable's name and stays as it is; write `$${{` for the characters themselves",
                quote(&kept)
            );
            self.problems.warn(at, &trail.path(), message);
            return Resolved { text: kept, missing: name_of.missing, failed: false };
        }
        let missing =
            |is_set| Resolved { missing: vec![Missing { name: name.to_owned(), is_set }], ..Resolved::default() };
        match (self.host.var(name), default) {
            (Some(text), _) if !text.is_empty() => Resolved { text, ..Resolved::default() },
            (None, Some(default)) => self.resolve(default, at, trail),
            (found, _) => match self.stand_in(name) {
                Some((text, from)) => {
                    self.problems.warn(
                        at,
                        &trail.path(),
                        format!("the variable {} is not set; {from} is taken: {}", quote(name), quote(&text)),
                    );
                    Resolved { text, ..Resolved::default() }
                }
                None => missing(found.is_some()),
            },
        }
    }

    /// What the machine knows of itself, when nobody told it.
    fn stand_in(&self, name: &str) -> Option<(String, &'static str)> {
        let var = |name| self.host.var(name).filter(|text| !text.is_empty());
        match name {
            "HOST_IP" => var("AGENT_IP")
                .map(|text| (text, "`AGENT_IP`"))
                .or_else(|| Some((self.host.address()?, "the address packets leave from"))),
            "HOSTNAME" => var("AGENT_HOSTNAME")
                .map(|text| (text, "`AGENT_HOSTNAME`"))
                .or_else(|| Some((self.host.hostname()?, "the machine's name"))),
            _ => None,
        }
    }

    fn file(&self, path: &[Part], at: At, trail: &Trail<'_>) -> Resolved {
        let path = self.resolve(path, at, trail);
        let text = match self.host.read(Path::new(&path.text)) {
            Ok(bytes) if bytes.len() > FILE_MAX => Err(format!("is larger than {} MiB", FILE_MAX >> 20)),
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned()),
            Err(e) => Err(format!("cannot be read: {e}")),
        };
        match text {
            // Editors and `echo` end a file with a line break that is not part of the secret in it.
            Ok(text) => {
                Resolved { text: text.trim_end_matches(['\n', '\r']).to_owned(), missing: path.missing, failed: false }
            }
            Err(why) => {
                self.problems.error(at, &trail.path(), format!("the file {} {why}", quote(&path.text)));
                Resolved { failed: true, ..Resolved::default() }
            }
        }
    }
}

/// The name of a variable without braces, unless it may be a piece of a password: `pa$word`, `https://u:p$WORD@h`.
fn shown(name: &str, path: &str, alone: bool) -> String {
    let key = path.rsplit('.').next().unwrap_or_default();
    let looks_like_a_name = !name.contains(|c: char| c.is_ascii_lowercase());
    let is_piece = if alone { is_delicate(path) && !looks_like_a_name } else { is_delicate(path) || is_address(key) };
    if is_piece { "…".to_owned() } else { name.to_owned() }
}

/// Only such texts are worth asking YAML about.
fn looks_like_structure(text: &str) -> bool {
    text.contains(['{', '[', ':']) || text.starts_with('-')
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A name or path for a report; references in it are only hinted at.
fn plain_text(parts: &[Part]) -> String {
    let one = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Ref(_) => "…".to_owned(),
    };
    parts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Imagined;
    use crate::config::tree::Typed;

    fn machine() -> Imagined {
        let mut host = Imagined::with(&[
            ("HOSTNAME", "h1"),
            ("NUM", "12"),
            ("LZ", "0123"),
            ("BOOL", "yes"),
            ("DATE", "2024-01-02"),
            ("EMPTY", ""),
            ("MAPV", "{a: 1}"),
            ("LISTV", "[1, '${env:NUM}']"),
            ("IPV6", "fe80::"),
            ("QUOTED", "\"007\""),
            ("WITHDOLLAR", "pa$HOSTNAME${env:NUM}$$"),
            ("WHICH", "NUM"),
            ("OPEN", "{a: ["),
        ]);
        host.files.insert("/run/secret".into(), "s3cr$et\n".into());
        host.files.insert("/etc/part.yaml".into(), "otlp:\n  at: ${env:HOSTNAME}\n".into());
        host.files.insert("/etc/loop.yaml".into(), "a: ${file:/etc/loop.yaml}\n".into());
        host
    }

    fn expanded(text: &str, host: &Imagined) -> (Node, Vec<String>) {
        let problems = Problems::new();
        problems.source("f");
        let value = Value::Scalar(Scalar::plain(text));
        let mut root = Node { at: At::default(), value };
        expand(&mut root, host, &problems);
        let told = problems.into_report().problems().iter().map(|p| p.told()).collect();
        (root, told)
    }

    fn scalar(node: &Node) -> &Scalar {
        match &node.value {
            Value::Scalar(scalar) => scalar,
            other => panic!("{other:?} is a scalar"),
        }
    }

    /// Reference §1.3's table with ours beside it: verbatim as the current collector, and never expanded twice.
    #[test]
    #[rustfmt::skip]
    fn a_value_arrives_as_it_is() {
        for (written, expected) in [
            ("$HOSTNAME",             "h1"),
            ("$HOSTNAME:$NUM$",       "h1:12$"),
            ("$UNSET",                ""),
            ("${HOSTNAME}",           "h1"),
            ("${env:HOSTNAME}",       "h1"),
            ("$$HOSTNAME",            "$HOSTNAME"),
            ("$${env:HOSTNAME}",      "${env:HOSTNAME}"),
            ("$$${env:HOSTNAME}",     "$h1"),
            ("a${env:NUM}b",          "a12b"),
            ("${env:NUM}",            "12"),
            ("${env:LZ}",             "0123"),
            ("${env:BOOL}",           "yes"),
            ("${env:DATE}",           "2024-01-02"),
            ("${env:EMPTY}",          ""),
            ("x${env:EMPTY}y",        "xy"),
            ("${env:UNSET}",          ""),
            ("x-${env:UNSET}",        "x-"),
            ("a$",                    "a$"),
            ("$1",                    "$1"),
            ("${env:MAPV}",           "{a: 1}"),
            ("${env:IPV6}",           "fe80::"),
            ("${env:QUOTED}",         "\"007\""),
            ("pa$$word",              "pa$word"),
            ("${env:WITHDOLLAR}",     "pa$HOSTNAME${env:NUM}$$"),
            ("${env:NOPE:-dflt}",     "dflt"),
            ("${NOPE:-dflt}",         "dflt"),
            ("${NOPE:-}",             ""),
            ("${EMPTY:-dflt}",        ""), // a default is for what is not set
            ("${NOPE:-${env:NUM}0}",  "120"),
            ("${env:${env:WHICH}}",   "12"),
            ("${yaml:5}",             "5"),
            ("${file:/run/secret}",   "s3cr$et"),
        ] {
            assert_eq!(scalar(&expanded(written, &machine()).0).text, expected, "{written}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_whole_reference_keeps_its_type_beside_its_text() {
        for (written, expected) in [
            ("${env:NUM}",     Typed::Int(12)),
            ("${env:LZ}",      Typed::LeadingZero),
            ("${yaml:true}",   Typed::Bool(true)),
            ("${env:UNSET}",   Typed::Null),
            ("a${env:NUM}",    Typed::Text),
        ] {
            assert_eq!(scalar(&expanded(written, &machine()).0).typed(), expected, "{written}");
        }
    }

    #[test]
    fn a_whole_reference_may_stand_for_a_list_or_a_map() {
        let (node, _) = expanded("${env:LISTV}", &machine());
        let items: Vec<_> = node.as_seq().expect("a list").iter().map(|n| scalar(n).text.clone()).collect();
        assert_eq!(items, ["1", "${env:NUM}"], "what a variable holds is not expanded again");
        let (node, _) = expanded("${file:/etc/part.yaml}", &machine());
        let inner = node.as_map().expect("a map")[0].value.as_map().expect("a map");
        assert_eq!(scalar(&inner[0].value).text, "h1", "a file is a part of the configuration");
        assert!(expanded("${env:OPEN}", &machine()).0.as_map().is_none(), "no YAML is text");
        assert_eq!(expanded("${env:OPEN}", &machine()).1, Vec::<String>::new());
    }

    #[test]
    #[rustfmt::skip]
    fn what_cannot_be_found_is_told() {
        for (written, expected) in [
            ("${file:/nowhere}",  "the file `/nowhere` cannot be read: entity not found"),
            ("${env:A",           "`${` is never closed; write `$${` for the characters themselves: `${env:A`"),
            ("${1}",              "warning: `${1}` is not a variable's name and stays as it is; write `$${` for the characters themselves"),
            ("${file:/etc/loop.yaml}", "files refer to files deeper than 8 levels"),
        ] {
            assert_eq!(expanded(written, &machine()).1, [expected], "{written}");
        }
        assert_eq!(scalar(&expanded("${1}", &machine()).0).text, "${1}");
    }

    #[test]
    fn what_is_not_set_is_left_to_the_reader_by_name() {
        let (node, told) = expanded("a${env:UNSET}${EMPTY}", &machine());
        let missing = |name: &str, is_set| Missing { name: name.to_owned(), is_set };
        assert_eq!(scalar(&node).missing(), [missing("UNSET", false), missing("EMPTY", true)]);
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    #[rustfmt::skip]
    fn the_machine_stands_in_for_its_own_names() {
        let host = |vars: &[(&str, &str)]| Imagined { name: Some("gw-7".into()), ip: Some("10.1.2.3".into()), ..Imagined::with(vars) };
        for (vars, written, expected, told) in [
            (&[("HOST_IP", "1.1.1.1"), ("AGENT_IP", "2.2.2.2")][..], "${env:HOST_IP}", "1.1.1.1", None),
            (&[("AGENT_IP", "2.2.2.2")][..],       "${env:HOST_IP}",  "2.2.2.2",  Some("warning: the variable `HOST_IP` is not set; `AGENT_IP` is taken: `2.2.2.2`")),
            (&[][..],                              "${env:HOST_IP}",  "10.1.2.3", Some("warning: the variable `HOST_IP` is not set; the address packets leave from is taken: `10.1.2.3`")),
            (&[("HOST_IP", ""), ("AGENT_IP", "")][..], "${env:HOST_IP}", "10.1.2.3", Some("warning: the variable `HOST_IP` is not set; the address packets leave from is taken: `10.1.2.3`")),
            (&[("AGENT_HOSTNAME", "edge")][..],    "${HOSTNAME}",     "edge",     Some("warning: the variable `HOSTNAME` is not set; `AGENT_HOSTNAME` is taken: `edge`")),
            (&[][..],                              "${HOSTNAME}",     "gw-7",     Some("warning: the variable `HOSTNAME` is not set; the machine's name is taken: `gw-7`")),
            (&[][..],                              "${HOSTNAME:-me}", "me",       None), // the operator's own default goes first
        ] {
            let (node, said) = expanded(written, &host(vars));
            assert_eq!(scalar(&node).text, expected, "{written} {vars:?}");
            assert_eq!(said, Vec::from_iter(told.map(str::to_owned)), "{written} {vars:?}");
        }
    }

    /// A machine that counts how often it is asked for a file.
    struct Counting(Imagined, Cell<usize>);

    impl Host for Counting {
        fn var(&self, name: &str) -> Option<String> {
            self.0.var(name)
        }

        fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            self.1.set(self.1.get() + 1);
            self.0.read(path)
        }

        fn is_dir(&self, path: &Path) -> bool {
            self.0.is_dir(path)
        }

        fn is_no_dir(&self, path: &Path) -> bool {
            self.0.is_no_dir(path)
        }

        fn resolved(&self, path: &Path) -> std::path::PathBuf {
            self.0.resolved(path)
        }

        fn hostname(&self) -> Option<String> {
            None
        }

        fn address(&self) -> Option<String> {
            None
        }
    }

    #[test]
    fn a_full_measure_is_not_filled_on() {
        let mut host = Imagined::default();
        host.files.insert("/big".into(), "x".repeat(FILE_MAX));
        let host = Counting(host, Cell::new(0));
        let value = Value::Scalar(Scalar::plain("${file:/big}".repeat(1_000)));
        let problems = Problems::new();
        expand(&mut Node { at: At::default(), value }, &host, &problems);
        assert_eq!(host.1.get(), 3, "two files of a MiB fit, the third is one too many");
    }

    #[test]
    fn a_file_may_be_too_large_or_no_text() {
        let mut host = Imagined::default();
        host.files.insert("/big".into(), "x".repeat(FILE_MAX + 1));
        assert_eq!(expanded("${file:/big}", &host).1, ["the file `/big` is larger than 1 MiB"]);
    }

    #[test]
    fn what_references_bring_in_is_bounded() {
        let host = Imagined::with(&[("BIG", &"x".repeat(1 << 20))]);
        let (node, told) = expanded(&"${BIG}".repeat(1_000), &host);
        assert_eq!(told, ["references bring in more than 2 MiB of text"]);
        assert!(scalar(&node).text.len() <= EXPANDED_MAX);
    }
}

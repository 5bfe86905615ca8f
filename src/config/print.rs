//! A configuration as it was read, for people: merged, references resolved, secrets masked. What is printed reads back as
//! the same configuration, but for what is masked.

use super::mask::{MASK, is_address, is_suspicious, is_telling, masked, masked_url};
use super::section::{Reading, join};
use super::tree::{Node, Scalar, Typed, Value, Written};
use std::collections::BTreeSet;

/// What readers said of values.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// Nobody shall see it.
    secrets: BTreeSet<String>,
    /// Nobody read it, so nobody said what of it is a secret.
    unread: BTreeSet<String>,
    /// It came from a variable and is text, whatever it looks like.
    texts: BTreeSet<String>,
}

impl Remarks {
    pub(super) fn secret(&mut self, path: String) {
        self.secrets.insert(path);
    }

    pub(super) fn unread(&mut self, path: String) {
        self.unread.insert(path);
    }

    pub(super) fn text(&mut self, path: String) {
        self.texts.insert(path);
    }
}

/// How a value is looked at, by the keys above it.
#[derive(Clone, Copy, PartialEq)]
enum View {
    /// Somebody read it and said what is secret.
    Read,
    /// Nobody read it: what looks like a header or a credential is one.
    Unread,
    /// It stands under such a key.
    Hidden,
}

impl View {
    fn below(self, key: &str, path: &str, remarks: &Remarks) -> View {
        match self {
            View::Hidden => View::Hidden,
            View::Read if !remarks.unread.contains(path) => View::Read,
            View::Read | View::Unread if is_suspicious(key) => View::Hidden,
            View::Read | View::Unread => View::Unread,
        }
    }
}

/// `root` as YAML, as `reading` read it.
#[must_use]
pub fn print(root: &Node, reading: &Reading<'_>) -> String {
    reading.with_remarks(|remarks| {
        let mut out = String::new();
        match &root.value {
            Value::Map(entries) if !entries.is_empty() => block(root, "", (0, View::Read), remarks, &mut out),
            _ => {
                out.push_str(&inline(root, "", View::Read, remarks));
                out.push('\n');
            }
        }
        out
    })
}

/// The lines of a map or list that is not empty.
fn block(node: &Node, path: &str, (depth, view): (usize, View), remarks: &Remarks, out: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = join(path, &entry.key);
                out.push_str(&format!("{indent}{}:", bare_or_quoted(&entry.key)));
                let view = view.below(&entry.key, &path, remarks);
                child(&entry.value, &path, (depth + 1, view), remarks, out);
            }
        }
        Value::Seq(items) => {
            for (n, item) in items.iter().enumerate() {
                out.push_str(&format!("{indent}-"));
                child(item, &format!("{path}[{n}]"), (depth + 1, view), remarks, out);
            }
        }
        Value::Scalar(_) => unreachable!("a scalar is printed in its line"),
    }
}

fn child(node: &Node, path: &str, (depth, view): (usize, View), remarks: &Remarks, out: &mut String) {
    let node = if remarks.texts.contains(path) { node } else { node.seen_through() };
    let is_block = match &node.value {
        Value::Map(entries) => !entries.is_empty(),
        Value::Seq(items) => !items.is_empty(),
        Value::Scalar(_) => false,
    };
    if is_block && !is_secret(path, remarks) {
        out.push('\n');
        block(node, path, (depth, view), remarks, out);
    } else {
        let text = inline(node, path, view, remarks);
        if !text.is_empty() {
            out.push(' ');
            out.push_str(&text);
        }
        out.push('\n');
    }
}

fn inline(node: &Node, path: &str, view: View, remarks: &Remarks) -> String {
    match &node.value {
        // That nothing stands there is no secret.
        Value::Scalar(scalar) if scalar.text.is_empty() => one(scalar, false),
        _ if is_secret(path, remarks) && !node.is_null() => quoted(MASK),
        Value::Scalar(_) if view == View::Hidden && !node.is_null() => quoted(MASK),
        Value::Scalar(scalar) => {
            let text = if is_address(last(path)) { masked(&scalar.text) } else { masked_url(&scalar.text) };
            match text == scalar.text {
                true => one(scalar, remarks.texts.contains(path)),
                false => bare_or_quoted(&text),
            }
        }
        Value::Seq(_) => "[]".to_owned(),
        Value::Map(_) => "{}".to_owned(),
    }
}

fn one(scalar: &Scalar, is_text: bool) -> String {
    let kind = if scalar.written == Written::Quoted || is_text { Typed::Text } else { scalar.typed() };
    match kind {
        Typed::Text if scalar.written == Written::Plain => bare_or_quoted(&scalar.text),
        Typed::Text => match bare(&scalar.text) {
            Some(text) if super::tree::typed(text) == Typed::Text => text.to_owned(),
            _ => quoted(&scalar.text),
        },
        _ => scalar.text.clone(),
    }
}

fn is_secret(path: &str, remarks: &Remarks) -> bool {
    remarks.secrets.contains(path) || is_telling(last(path))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn bare_or_quoted(text: &str) -> String {
    bare(text).map_or_else(|| quoted(text), str::to_owned)
}

/// The text, if it needs no quotes in any place of a block.
fn bare(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:-@+".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "_/.".contains(c));
    // A colon that ends it would be a key's; `- ` and `--` begin something else.
    (starts && text.chars().all(plain) && !text.ends_with(':')).then_some(text)
}

/// In double quotes, as JSON has them, which YAML takes; a dollar sign is doubled, for it would be a reference.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Imagined, Locations, Section, load, problems::Problems};
    use super::*;

    /// What `text` prints as; `f` reads the section `a`.
    fn printed(text: &str, vars: &[(&str, &str)], f: impl Fn(&Section<'_>)) -> String {
        let (problems, host) = (Problems::new(), Imagined::with(vars));
        let root =
            load(&Locations::of(&format!("yaml:{text}")), &host, &problems).unwrap_or_else(|| panic!("{problems:?}"));
        let reading = Reading::new(&problems, &host);
        Section::read(&reading, &root, "", "", |top| top.section("a", |a| f(a)));
        print(&root, &reading)
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let text = "{a: {h: {X-Key: \"${K}\", plain: p}, s: hush, empty: }, b: {password: p, x: [{api_token: t, n: 1}], token: {a: b}}}";
        let out = printed(text, &[("K", "key")], |a| {
            let _ = (a.headers("h"), a.secret_if_given("s"), a.secret_if_given("empty"));
        });
        assert_eq!(
            out,
            "a:\n  h:\n    X-Key: \"[REDACTED]\"\n    plain: \"[REDACTED]\"\n  s: \"[REDACTED]\"\n  empty:\nb:\n  \
             password: \"[REDACTED]\"\n  x:\n    -\n      api_token: \"[REDACTED]\"\n      n: 1\n  token: \"[REDACTED]\"\n"
        );
    }

    #[test]
    fn a_reference_that_is_a_list_is_printed_as_one_where_a_list_was_read() {
        let out = printed("{a: {l: \"${L}\"}}", &[("L", "[x, y: 1]")], |a| assert_eq!(a.free("l").len(), 0));
        assert_eq!(out, "a:\n  l:\n    - x\n    -\n      y: 1\n");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let text = r#"{a: {n: 0x10, f: 1.5, t: "12", b: 'true', e: "", nul: ~, multi: "x\n$$y: #z", v: "${V}", w: "${V}",
            list: "${L}", url: http://h:1/p, l: [], m: {}, "k: 1": 2, s: "- a", c: "a:", p: a b, zero: 007, d: $$, u: "ü"}}"#;
        let read = |text: &str| {
            let (problems, host) = (Problems::new(), Imagined::with(&[("V", "0123"), ("L", "[1, {k: v}]")]));
            let root = load(&Locations::of(&format!("yaml:{text}")), &host, &problems)
                .unwrap_or_else(|| panic!("{problems:?}"));
            let reading = Reading::new(&problems, &host);
            let keys = [
                "n", "f", "t", "b", "e", "nul", "multi", "v", "w", "url", "l", "m", "s", "c", "p", "zero", "d", "u",
                "list",
            ];
            let values = Section::read(&reading, &root, "", "", |top| {
                top.section("a", |a| keys.map(|key| a.any_if_given(key, "")))
            });
            (values, print(&root, &reading))
        };
        let (values, once) = read(text);
        let (again, twice) = read(&once);
        assert_eq!((&values, &once), (&again, &twice));
        assert!(once.contains("list: \"[1, {k: v}]\"\n"), "{once}");
        assert!(once.contains("n: 0x10\n") && once.contains("v: \"0123\"\n"), "{once}");
    }

    #[test]
    fn a_url_is_printed_without_its_secrets_and_is_a_url_still() {
        let text = "{a: {endpoint: 'http://u:SECRET@h:1', l_endpoint: 'http://h/p?api_key=SECRET', proxy_url: 'u:SECRET@h:1', \
                    pattern: '^(?P<u>[^:]+):(.*)@h', l: ['http://SECRET@h']}}";
        let out = printed(text, &[], |a| {
            let _ = ["endpoint", "l_endpoint", "proxy_url", "pattern"].map(|key| a.any_if_given(key, ""));
            let _ = a.texts("l", &[]);
        });
        assert_eq!(
            out,
            "a:\n  endpoint: http://REDACTED@h:1\n  l_endpoint: \"http://h/p?api_key=REDACTED\"\n  proxy_url: \
             REDACTED@h:1\n  pattern: \"^(?P<u>[^:]+):(.*)@h\"\n  l:\n    - http://REDACTED@h\n"
        );
    }

    #[test]
    fn under_a_key_nobody_reads_what_looks_like_a_header_is_masked() {
        let text = "{a: {haeders: {A: S, b: [S, {c: S, d: }]}, timeuot: 5s, not_mine: {auth: {x: S}, y: 1}, moot: [{headers: [{name: S}]}]}}";
        let out = printed(text, &[], |a| a.moot("moot", "of the test"));
        let expected = "a:
  haeders:
    A: \"[REDACTED]\"
    b:
      - \"[REDACTED]\"
      -
        c: \"[REDACTED]\"
        d:
  timeuot: 5s
  not_mine:
    auth:
      x: \"[REDACTED]\"
    y: 1
  moot:
    -
      headers:
        -
          name: \"[REDACTED]\"
";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_list_of_secrets_is_masked_whole() {
        let out = printed("{a: {tokens: [one, two]}}", &[], |a| assert_eq!(a.secret_texts("tokens").len(), 2));
        assert_eq!(out, "a:\n  tokens: \"[REDACTED]\"\n");
    }
}

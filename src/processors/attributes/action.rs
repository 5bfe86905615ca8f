//! One edit of an attribute list, checked: what `resource.attributes` and `attributes.actions` hold (reference §2.8).

use crate::config::{Any, Pattern, Section};

/// One action; actions run strictly in order and each sees what the earlier ones did.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `insert`: add the attribute unless it is there.
    Insert {
        /// `key`.
        key: String,
        /// Exactly one of `value`, `from_attribute`, `from_context`.
        from: Source,
    },
    /// `update`: change the attribute if it is there.
    Update {
        /// `key`.
        key: String,
        /// As in `Insert`.
        from: Source,
    },
    /// `upsert`: change the attribute in its place, or add it.
    Upsert {
        /// `key`.
        key: String,
        /// As in `Insert`.
        from: Source,
    },
    /// `delete`: remove what the target names.
    Delete(Target),
    /// `hash`: replace values by their SHA-256, hex in lower case.
    Hash(Target),
    /// `extract`: set one attribute for each named group of `pattern`, when it matches the text under `key`.
    Extract {
        /// `key`.
        key: String,
        /// Every group has a name.
        pattern: Pattern,
    },
    /// `convert`: change the type of the value; one that cannot be converted stays.
    Convert {
        /// `key`.
        key: String,
        /// `converted_type`.
        to: Kind,
    },
}

/// Where a value comes from; when the place is empty the action does nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `value`.
    Value(Any),
    /// `from_attribute`: another attribute of the same list.
    Attribute(String),
    /// `from_context`: `metadata.<name>` or a bare name, of the request; needs `include_metadata`.
    Context(String),
}

/// `key`, `pattern`, or both (at least one).
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The attribute of this name.
    pub key: Option<String>,
    /// Every attribute whose name this matches somewhere.
    pub pattern: Option<Pattern>,
}

/// `converted_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `int`: decimal text; bool gives 1 or 0; a double is cut off.
    Int,
    /// `double`.
    Double,
    /// `string`.
    Text,
}

/// The words of `action`.
#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Insert,
    Update,
    Upsert,
    Delete,
    Hash,
    Extract,
    Convert,
}

const VERBS: [(&str, Verb); 7] = [
    ("insert", Verb::Insert),
    ("update", Verb::Update),
    ("upsert", Verb::Upsert),
    ("delete", Verb::Delete),
    ("hash", Verb::Hash),
    ("extract", Verb::Extract),
    ("convert", Verb::Convert),
];

/// The keys beside `key` and `action`, each with the verbs it has a use for.
const USES: [(&str, &[Verb]); 6] = [
    ("default_value", &[Verb::Insert, Verb::Update, Verb::Upsert]),
    ("value", &[Verb::Insert, Verb::Update, Verb::Upsert]),
    ("from_attribute", &[Verb::Insert, Verb::Update, Verb::Upsert]),
    ("from_context", &[Verb::Insert, Verb::Update, Verb::Upsert]),
    ("pattern", &[Verb::Delete, Verb::Hash, Verb::Extract]),
    ("converted_type", &[Verb::Convert]),
];

impl Action {
    /// What it asks of the request's context, if anything.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        match self {
            Action::Insert { from, .. } | Action::Update { from, .. } | Action::Upsert { from, .. } => match from {
                Source::Context(name) => Some(name),
                Source::Value(_) | Source::Attribute(_) => None,
            },
            Action::Delete(_) | Action::Hash(_) | Action::Extract { .. } | Action::Convert { .. } => None,
        }
    }

    /// Reads a list of actions, in order. One whose value is a variable that is not set is left out with a warning.
    #[must_use]
    pub fn read_all(s: &Section<'_>, key: &'static str) -> Vec<Action> {
        let actions = s.items(key, Action::read);
        // An empty list is an error of the original too; one whose actions were all left out is not.
        s.unless(s.fills(key), key, || "there is no action; give at least one".to_owned());
        actions.into_iter().flatten().collect()
    }

    /// One entry of the list; two actions where it has a `default_value`.
    fn read(s: &Section<'_>) -> Vec<Action> {
        let default = s.any_if_given("default_value", "there is no default");
        let action = Action::read_one(s);
        let stands_alone = s.gives("default_value") && s.gives("value");
        s.unless(!stands_alone, "default_value", || "has no use beside value, which is always there".to_owned());
        match (action, default) {
            (Some(action), Some(default)) => action.or_else(default),
            (action, _) => action.into_iter().collect(),
        }
    }

    /// This action, and `default` where the place its value comes from is empty (reference §1.8).
    fn or_else(self, default: Any) -> Vec<Action> {
        let default = Source::Value(default);
        let same = |key: &str, from: &Source| matches!(from, Source::Attribute(name) if name == key);
        match self {
            // What is there once the first has acted is not touched by the second.
            Action::Insert { key, from } => {
                vec![Action::Insert { key: key.clone(), from }, Action::Insert { key, from: default }]
            }
            Action::Upsert { key, from } if same(&key, &from) => vec![Action::Insert { key, from: default }],
            // The default first: the second does nothing when its place is empty.
            Action::Upsert { key, from } => {
                vec![Action::Upsert { key: key.clone(), from: default }, Action::Upsert { key, from }]
            }
            Action::Update { key, from } if !same(&key, &from) => {
                vec![Action::Update { key: key.clone(), from: default }, Action::Update { key, from }]
            }
            other => vec![other],
        }
    }

    fn read_one(s: &Section<'_>) -> Option<Action> {
        let key = s.text_if_given("key");
        let value = s.any_if_given("value", "the action is left out");
        let attribute = s.text_if_given("from_attribute");
        let context = s.text_if_given("from_context");
        let pattern = s.pattern_if_given("pattern");
        let kinds = [("int", Kind::Int), ("double", Kind::Double), ("string", Kind::Text)];
        let to = s.fills("converted_type").then(|| s.choice("converted_type", Kind::Text, &kinds));
        if !s.fills("action") {
            s.error("action", format!("an action needs one of {}", VERBS.map(|(word, _)| word).join(", ")));
            return None;
        }
        let verb = s.choice("action", None, &VERBS.map(|(word, verb)| (word, Some(verb))))?;
        for (unused, verbs) in USES {
            let fits = verbs.contains(&verb) || !given(s, unused);
            s.unless(fits, unused, || format!("{unused} has no use in this action"));
        }
        match verb {
            Verb::Delete | Verb::Hash => {
                if key.is_none() && !s.fills("pattern") {
                    s.error_here("needs key, pattern or both");
                }
                let target = Target { key, pattern };
                Some(if verb == Verb::Delete { Action::Delete(target) } else { Action::Hash(target) })
            }
            Verb::Insert | Verb::Update | Verb::Upsert => {
                let (key, from) = (needed(s, "key", key), source(s, value, attribute, context));
                let (key, from) = (key?, from?);
                Some(match verb {
                    Verb::Insert => Action::Insert { key, from },
                    Verb::Update => Action::Update { key, from },
                    _ => Action::Upsert { key, from },
                })
            }
            Verb::Extract => {
                let groups = pattern.as_ref().map(Pattern::groups).unwrap_or_default();
                let named = pattern.is_none() || (!groups.is_empty() && groups.iter().all(Option::is_some));
                s.unless(named, "pattern", || {
                    "every group needs a name, as in `(?P<name>…)`, and there must be one".to_owned()
                });
                let key = needed(s, "key", key);
                // A pattern that does not compile is told already.
                let pattern = if s.fills("pattern") { pattern } else { needed(s, "pattern", None) };
                Some(Action::Extract { key: key?, pattern: pattern? })
            }
            Verb::Convert => {
                let (key, to) = (needed(s, "key", key), needed(s, "converted_type", to));
                Some(Action::Convert { key: key?, to: to? })
            }
        }
    }
}

/// Exactly one place a value may come from; `None` with a problem, or without one when the action is left out.
fn source(s: &Section<'_>, value: Option<Any>, attribute: Option<String>, context: Option<String>) -> Option<Source> {
    let given = ["value", "from_attribute", "from_context"].iter().filter(|key| given(s, key)).count();
    match given {
        1 => {}
        0 => s.error_here("needs one of value, from_attribute, from_context"),
        _ => s.error_here("has more than one of value, from_attribute, from_context; give one"),
    }
    let attribute = attribute.map(Source::Attribute);
    value.map(Source::Value).or(attribute).or(context.map(Source::Context))
}

/// An empty text is a value, and no name of an attribute.
fn given(s: &Section<'_>, key: &'static str) -> bool {
    if key == "value" || key == "default_value" { s.gives(key) } else { s.fills(key) }
}

fn needed<T>(s: &Section<'_>, key: &'static str, value: Option<T>) -> Option<T> {
    if value.is_none() {
        s.error_here(format!("{key} is missing"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::try_out;

    fn read(actions: &str) -> (Vec<Action>, String) {
        try_out(&format!("actions: {actions}"), &[("T", "0123")], |s| Action::read_all(s, "actions"))
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).expect("the test writes patterns")
    }

    #[test]
    #[rustfmt::skip]
    fn every_action_is_read_with_what_it_needs() {
        let key = || "k".to_owned();
        let target = |key: Option<&str>, text: Option<&str>| Target { key: key.map(str::to_owned), pattern: text.map(pattern) };
        let value = |text: &str| Source::Value(Any::Text(text.to_owned()));
        for (written, expected) in [
            ("{key: k, action: insert, value: v}",              Action::Insert { key: key(), from: value("v") }),
            ("{key: k, action: UPDATE, value: 7}",              Action::Update { key: key(), from: Source::Value(Any::Int(7)) }),
            ("{key: k, action: upsert, value: '${T}'}",         Action::Upsert { key: key(), from: value("0123") }),
            ("{key: k, action: upsert, value: ''}",             Action::Upsert { key: key(), from: value("") }),
            ("{key: k, action: upsert, from_attribute: o}",     Action::Upsert { key: key(), from: Source::Attribute("o".into()) }),
            ("{key: k, action: delete}",                        Action::Delete(target(Some("k"), None))),
            ("{pattern: ^x, action: delete}",                   Action::Delete(target(None, Some("^x")))),
            ("{key: k, pattern: ^x, action: hash}",             Action::Hash(target(Some("k"), Some("^x")))),
            ("{key: k, pattern: '(?P<a>.)', action: extract}",  Action::Extract { key: key(), pattern: pattern("(?P<a>.)") }),
            ("{key: k, action: convert, converted_type: int}",  Action::Convert { key: key(), to: Kind::Int }),
            ("{key: k, action: convert, converted_type: string}", Action::Convert { key: key(), to: Kind::Text }),
            ("{key: k, action: convert, converted_type: double}", Action::Convert { key: key(), to: Kind::Double }),
        ] {
            assert_eq!(read(&format!("[{written}]")), (vec![expected], String::new()), "{written}");
        }
    }

    /// Reference §1.8: `default_value` stands in where `from_attribute` or `from_context` lead to nothing.
    #[test]
    #[rustfmt::skip]
    fn a_default_is_a_second_action_that_acts_when_the_first_finds_nothing() {
        let key = || "k".to_owned();
        let (from, default) = (|| Source::Attribute("o".into()), || Source::Value(Any::Text("d".into())));
        for (written, expected, told) in [
            ("{key: k, action: insert, from_attribute: o, default_value: d}",
             vec![Action::Insert { key: key(), from: from() }, Action::Insert { key: key(), from: default() }], ""),
            ("{key: k, action: upsert, from_attribute: o, default_value: d}",
             vec![Action::Upsert { key: key(), from: default() }, Action::Upsert { key: key(), from: from() }], ""),
            ("{key: k, action: update, from_attribute: o, default_value: d}",
             vec![Action::Update { key: key(), from: default() }, Action::Update { key: key(), from: from() }], ""),
            ("{key: k, action: upsert, from_attribute: k, default_value: d}",
             vec![Action::Insert { key: key(), from: default() }], ""),
            ("{key: k, action: update, from_attribute: k, default_value: d}",
             vec![Action::Update { key: key(), from: Source::Attribute(key()) }], ""),
            ("{key: k, action: upsert, from_context: c, default_value: '${GONE}'}",
             vec![Action::Upsert { key: key(), from: Source::Context("c".into()) }], "warning: the variable `GONE` is not set; there is no default"),
            ("{key: k, action: delete, default_value: d}",
             vec![Action::Delete(Target { key: Some(key()), pattern: None })], "default_value has no use in this action"),
        ] {
            assert_eq!(read(&format!("[{written}]")), (expected, told.to_owned()), "{written}");
        }
        let (_, told) = read("[{key: k, action: insert, value: v, default_value: d}]");
        assert_eq!(told, "has no use beside value, which is always there");
    }

    #[test]
    fn actions_keep_their_order_and_one_alone_needs_no_list() {
        let (actions, told) = read("[{key: b, action: delete}, {key: a, action: delete}]");
        let keys: Vec<_> = actions.iter().map(|a| format!("{a:?}").contains("\"b\"")).collect();
        assert_eq!((keys, told.as_str()), (vec![true, false], ""));
        assert_eq!(read("{key: b, action: delete}").0.len(), 1); // weak typing of 0.88
    }

    #[test]
    fn an_action_without_its_variable_is_left_out_and_a_list_of_such_is_no_error() {
        let (actions, told) = read("[{key: k, action: insert, value: '${GONE}'}]");
        assert_eq!(
            (actions, told.as_str()),
            (vec![], "warning: the variable `GONE` is not set; the action is left out")
        );
    }
}

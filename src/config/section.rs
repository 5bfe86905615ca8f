//! One map of the configuration, read key by key into a struct.
//!
//! ```text
//! section.duration("timeout", 30 s)  ── absent ──▶ the default
//!                                    ── right ───▶ the value
//!                                    ── wrong ───▶ the default, and a problem with place, path and rule
//! ```
//!
//! What always holds:
//! * A reader never stops at a problem; what it returns after one is never used, because the run ends in a report.
//! * A key nobody asked for is a problem: [`Section::read`] checks it after the closure, so no reader can forget.
//! * Every key asked for is noted ([`Reading::asked`]), so a test can compare them with `configs/reference.yaml`.

use super::host::Host;
use super::print::Remarks;
use super::problems::{At, Problems, quote};
use super::tree::{Entry, Node, Scalar, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What all sections of one run share.
pub struct Reading<'a> {
    /// Where problems go.
    pub problems: &'a Problems,
    /// The machine.
    pub host: &'a dyn Host,
    asked: RefCell<BTreeSet<String>>,
    remarks: RefCell<Remarks>,
}

impl<'a> Reading<'a> {
    /// A run that has not begun.
    #[must_use]
    pub fn new(problems: &'a Problems, host: &'a dyn Host) -> Reading<'a> {
        Reading { problems, host, asked: RefCell::default(), remarks: RefCell::default() }
    }

    /// Every key asked for so far: `exporters.otlphttp.timeout`, `processors.attributes.actions[].key`. Ids are
    /// reduced to their types, and a map with free keys ends in `.*`.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Nobody shall see the value of this path.
    pub(super) fn is_secret(&self, path: String) {
        self.remarks.borrow_mut().secret(path);
    }

    /// The value of this path came from a variable and was taken as text.
    pub(super) fn is_text(&self, path: &str) {
        self.remarks.borrow_mut().text(path.to_owned());
    }

    /// Nobody reads what stands under this path.
    pub(crate) fn is_unread(&self, path: String) {
        self.remarks.borrow_mut().unread(path);
    }

    pub(super) fn with_remarks<T>(&self, f: impl FnOnce(&Remarks) -> T) -> T {
        f(&self.remarks.borrow())
    }
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("problems", self.problems).finish_non_exhaustive()
    }
}

/// A map under its path; an absent one has no entries.
pub struct Section<'a> {
    reading: &'a Reading<'a>,
    path: String,
    /// The path as [`Reading::asked`] notes it.
    pattern: String,
    at: At,
    entries: &'a [Entry],
    known: RefCell<Vec<Known>>,
}

/// A key that is understood here.
#[derive(Clone, Copy, PartialEq)]
struct Known {
    key: &'static str,
    /// Not moot and not refused: worth naming to somebody who looks for a key.
    useful: bool,
}

/// What is said of a variable without a value in the middle of a text.
pub(super) const READ_AS_EMPTY: &str = "it is read as empty";
/// Keys that are told in one message about an unknown one.
const KEYS_SHOWN_MAX: usize = 12;

impl<'a> Section<'a> {
    /// Reads a map with `f`, then tells every key `f` did not ask for. Nothing at all counts as an empty map.
    pub fn read<T>(
        reading: &'a Reading<'a>,
        node: &'a Node,
        path: &str,
        pattern: &str,
        f: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let entries = match node.as_map() {
            Some(entries) => entries,
            None if node.is_null() => &[],
            None => {
                tell_no_map(reading, node, path);
                &[]
            }
        };
        Section::over(reading, node.at, entries, path.to_owned(), pattern.to_owned(), f)
    }

    fn over<T>(
        reading: &'a Reading<'a>,
        at: At,
        entries: &'a [Entry],
        path: String,
        pattern: String,
        f: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let section = Section { reading, path, pattern, at, entries, known: RefCell::default() };
        let read = f(&section);
        section.refuse_the_unknown();
        read
    }

    /// The value under a key; noted as known.
    pub fn get(&self, key: &'static str) -> Option<&'a Entry> {
        self.know(key, true);
        self.reading.asked.borrow_mut().insert(join(&self.pattern, key));
        self.entry(key)
    }

    /// Whether the key stands in the file, with or without a value.
    #[must_use]
    pub fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Whether the key stands in the file with a value, or with a variable that should have had one.
    #[must_use]
    pub fn gives(&self, key: &'static str) -> bool {
        self.get(key).is_some_and(|e| !e.value.is_null() || e.value.hangs_on_missing())
    }

    /// As [`Section::gives`], but an empty text or list counts as nothing.
    #[must_use]
    pub fn fills(&self, key: &'static str) -> bool {
        let is_empty = |e: &Entry| match &e.value.value {
            Value::Scalar(scalar) => scalar.text.is_empty(),
            Value::Seq(items) => items.is_empty(),
            Value::Map(_) => false,
        };
        self.get(key).is_some_and(|e| e.value.hangs_on_missing() || !(e.value.is_null() || is_empty(e)))
    }

    /// A key that is understood and has no effect here: a warning with the reason, when it is there.
    pub fn moot(&self, key: &'static str, why: &str) {
        self.know(key, false);
        if let Some(entry) = self.entry(key) {
            self.reading.is_unread(self.path_of(key));
            self.reading.problems.warn(entry.key_at, &self.path_of(key), format!("has no effect: {why}"));
        }
    }

    /// Keys that are understood where the whole section has no effect, which is told of it once.
    pub fn accept(&self, keys: &[&'static str]) {
        for key in keys {
            self.know(key, true);
            if self.entry(key).is_some() {
                self.reading.is_unread(self.path_of(key));
            }
        }
    }

    /// Several [`Section::moot`] keys with one reason.
    pub fn moot_all(&self, keys: &[&'static str], why: &str) {
        for key in keys {
            self.moot(key, why);
        }
    }

    /// A key that is understood and cannot be done: an error with the reason, when it is there with a value.
    pub fn refuse(&self, key: &'static str, why: &str) {
        self.know(key, false);
        if let Some(entry) = self.entry(key).filter(|e| !e.value.is_null()) {
            self.reading.is_unread(self.path_of(key));
            self.reading.problems.error(entry.key_at, &self.path_of(key), why);
        }
    }

    /// A key that is read and that this build does not act on yet: a warning, when it differs from its default.
    pub fn not_acted_on(&self, key: &'static str, is_default: bool) {
        self.warn_unless(is_default, key, || "is read, but this build does not act on it yet".to_owned());
    }

    /// A key that is read and that it would be wrong to run without: an error, when it differs from its default.
    pub fn not_available(&self, key: &'static str, is_default: bool) {
        self.unless(is_default, key, || "is not available in this build".to_owned());
    }

    /// A rule about a key that was read.
    pub fn unless(&self, holds: bool, key: &'static str, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.error(key, otherwise());
        }
    }

    /// A rule about a key that was read, whose breach can be lived with.
    pub fn warn_unless(&self, holds: bool, key: &'static str, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.warn(key, otherwise());
        }
    }

    /// The configuration cannot run, because of this key.
    pub fn error(&self, key: &'static str, message: impl AsRef<str>) {
        if self.may_speak_of(key) {
            self.reading.problems.error(self.at_of(key), &self.path_of(key), message);
        }
    }

    /// Something about this key was assumed.
    pub fn warn(&self, key: &'static str, message: impl AsRef<str>) {
        if self.may_speak_of(key) {
            self.reading.problems.warn(self.at_of(key), &self.path_of(key), message);
        }
    }

    /// What is said of a key that is not there says that it is missing, which a source that is broken may be to blame for.
    fn may_speak_of(&self, key: &str) -> bool {
        !self.reading.problems.is_partial() || self.entry(key).is_some()
    }

    /// The section as a whole cannot run.
    pub fn error_here(&self, message: impl AsRef<str>) {
        if !self.reading.problems.is_partial() {
            self.reading.problems.error(self.at, &self.path, message);
        }
    }

    /// Something about the section as a whole was assumed.
    pub fn warn_here(&self, message: impl AsRef<str>) {
        if !self.reading.problems.is_partial() {
            self.reading.problems.warn(self.at, &self.path, message);
        }
    }

    /// Reads the map under a key; an absent one as an empty one.
    pub fn section<T>(&self, key: &'static str, f: impl FnOnce(&Section<'a>) -> T) -> T {
        let (path, pattern) = (self.path_of(key), join(&self.pattern, key));
        match self.get(key) {
            Some(entry) => Section::read(self.reading, &entry.value, &path, &pattern, f),
            None => Section::over(self.reading, self.at, &[], path, pattern, f),
        }
    }

    /// Reads the map under a key, if the key is there; `key:` with nothing behind it counts as there.
    pub fn section_if_there<T>(&self, key: &'static str, f: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        self.has(key).then(|| self.section(key, f))
    }

    /// Reads a list of maps; an absent one as an empty one.
    pub fn items<T>(&self, key: &'static str, mut f: impl FnMut(&Section<'a>) -> T) -> Vec<T> {
        let Some(entry) = self.get(key).filter(|e| !e.value.is_null()) else { return Vec::new() };
        let items = match (&entry.value.as_seq(), &entry.value.as_map()) {
            (Some(items), _) => *items,
            // The original takes a single value for a list of one.
            (None, Some(_)) => std::slice::from_ref(&entry.value),
            (None, None) => {
                self.error(
                    key,
                    format!("here is {}; it must be a list, lines that begin with a dash", entry.value.shape()),
                );
                &[]
            }
        };
        let pattern = format!("{}[]", join(&self.pattern, key));
        let one = |(n, item): (usize, &'a Node)| {
            let path = format!("{}[{n}]", self.path_of(key));
            if item.as_map().is_none() && !item.is_null() {
                tell_no_map(self.reading, item, &path);
                return None; // what such an item lacks need not be told as well
            }
            Some(Section::read(self.reading, item, &path, &pattern, &mut f))
        };
        items.iter().enumerate().filter_map(one).collect()
    }

    /// The entries of a map whose keys are free, noted as `<key>.*`.
    pub fn free(&self, key: &'static str) -> &'a [Entry] {
        self.reading.asked.borrow_mut().insert(format!("{}.*", join(&self.pattern, key)));
        self.map(key)
    }

    /// The entries of a map whose keys the caller goes through.
    pub fn map(&self, key: &'static str) -> &'a [Entry] {
        let Some(entry) = self.get(key) else { return &[] };
        match entry.value.as_map() {
            Some(entries) => entries,
            None if entry.value.is_null() => &[],
            None => {
                self.error(key, format!("here is {}; it must be a map", entry.value.shape()));
                &[]
            }
        }
    }

    /// A scalar with a value. Wrong shapes are told; so are variables that are not set, for which `stays` says what
    /// happens.
    pub(super) fn scalar(&self, key: &'static str, wanted: &str, stays: &str) -> Option<(&'a Scalar, At)> {
        let entry = self.get(key)?;
        let scalar = self.scalar_of(&entry.value, &self.path_of(key), wanted)?;
        let stays = if scalar.text.is_empty() { stays } else { READ_AS_EMPTY };
        self.tell_missing(scalar, entry.value.at, &self.path_of(key), stays);
        (!entry.value.is_null()).then_some((scalar, entry.value.at))
    }

    /// The scalar a node is, told otherwise.
    pub(super) fn scalar_of(&self, node: &'a Node, path: &str, wanted: &str) -> Option<&'a Scalar> {
        match &node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Seq(_) | Value::Map(_) => {
                self.reading.problems.error(node.at, path, format!("here is {}; it must be {wanted}", node.shape()));
                None
            }
        }
    }

    /// Warns of variables without a value.
    pub(super) fn tell_missing(&self, scalar: &Scalar, at: At, path: &str, stays: &str) {
        for missing in scalar.missing() {
            let how = if missing.is_set { "set, but empty" } else { "not set" };
            self.reading.problems.warn(at, path, format!("the variable {} is {how}; {stays}", quote(&missing.name)));
        }
    }

    /// What all sections share.
    #[must_use]
    pub fn reading(&self) -> &'a Reading<'a> {
        self.reading
    }

    /// Where the section stands.
    #[must_use]
    pub fn at(&self) -> At {
        self.at
    }

    /// The section's own path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of one of its keys.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Where a key's value stands; the section when it is absent.
    #[must_use]
    pub fn at_of(&self, key: &str) -> At {
        self.entry(key).map_or(self.at, |e| e.value.at)
    }

    /// Where the value at the end of these keys stands, or the last one of them that is there.
    #[must_use]
    pub fn locate(&self, keys: &[&str]) -> At {
        let (mut at, mut entries) = (self.at, self.entries);
        for key in keys {
            let Some(entry) = entries.iter().find(|e| e.key.trim() == *key) else { break };
            at = entry.value.at;
            entries = entry.value.as_map().unwrap_or_default();
        }
        at
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    fn know(&self, key: &'static str, useful: bool) {
        let (mut known, new) = (self.known.borrow_mut(), Known { key, useful });
        if !known.contains(&new) {
            known.push(new);
        }
    }

    fn refuse_the_unknown(&self) {
        let known = self.known.borrow();
        let is_known = |entry: &&Entry| known.iter().any(|k| k.key == entry.key);
        let useful: Vec<&str> = known.iter().filter(|k| k.useful).map(|k| k.key).collect();
        for entry in self.entries.iter().filter(|e| !is_known(e)) {
            self.reading.is_unread(self.path_of(&entry.key));
            let key = quote(&entry.key);
            let meant = self.reading.problems.meant(&entry.key, known.iter().map(|k| k.key));
            let message = match (meant, useful.as_slice()) {
                (None, [only]) => format!("{key} is not a key here; only {only} is"),
                (None, keys @ [_, ..]) if keys.len() <= KEYS_SHOWN_MAX => {
                    format!("{key} is not a key here; {} are", keys.join(", "))
                }
                _ => format!("{key} is not a key here"),
            };
            self.reading.problems.error_meaning(entry.key_at, &self.path_of(&entry.key), message, meant);
        }
    }
}

fn tell_no_map(reading: &Reading<'_>, node: &Node, path: &str) {
    let message = format!("here is {}; it must be a map, an indented block of keys", node.shape());
    reading.problems.error(node.at, path, message);
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl std::fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads a piece of YAML as a section, for the tests of those who read sections; with what was told of it.
#[cfg(test)]
pub(crate) fn try_out<T>(yaml: &str, vars: &[(&str, &str)], f: impl FnOnce(&Section<'_>) -> T) -> (T, String) {
    let problems = Problems::new();
    let host = super::Imagined::with(vars);
    let root = super::load(&super::Locations::of(&format!("yaml:{yaml}")), &host, &problems);
    let root = root.unwrap_or_else(|| panic!("{yaml:?} is no YAML"));
    let reading = Reading::new(&problems, &host);
    let read = Section::read(&reading, &root, "", "", f);
    let report = problems.into_report();
    (read, report.problems().iter().map(super::problems::Problem::told).collect::<Vec<_>>().join(" | "))
}

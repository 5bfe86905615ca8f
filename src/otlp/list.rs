//! One list of attributes under one list of actions.
//!
//! Most items have none of the attributes the actions name, and then what the actions do depends on nothing in the
//! item: it is found once per request, by running them on an empty list, and appended ([`Suffix`]). Only an item in
//! which a named key occurs is edited entry by entry.

use super::edits::{Action, Groups, Keys, Source, Type, Value, When};
use super::value;
use super::wire::{CONCERNED_MAX, LEN, Open, Pieces, Read, What, bad, put_bytes, put_key, put_varint};
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// Gives the value of a `from_context`, if the request has one.
pub type Context<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What the actions add to a list in which no named key occurs: whole attribute fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Suffix(Vec<u8>);

impl Suffix {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Actions in order, with what is worth knowing about all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Actions {
    actions: Vec<Prepared>,
    /// Every key an action names, reads or may write.
    named: Vec<String>,
    /// Bit `n`: a named key has `n` bytes (63: or more). Spares most comparisons.
    lengths: u64,
    /// Some action asks a pattern about every key.
    patterns: bool,
}

/// An action with its constant value encoded.
#[derive(Debug, Clone)]
struct Prepared {
    action: Action,
    constant: Vec<u8>,
}

impl Actions {
    pub(super) fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    pub(super) fn extend(&mut self, actions: Vec<Action>) {
        for action in actions {
            match &action {
                Action::Set { key, source, .. } => {
                    self.name(key);
                    if let Source::Attribute(from) = source {
                        self.name(from);
                    }
                }
                Action::Delete(keys) | Action::Hash(keys) => {
                    keys.key.iter().for_each(|key| self.name(key));
                    self.patterns |= keys.pattern.is_some();
                }
                Action::Extract { key, groups } => {
                    self.name(key);
                    groups.names.iter().for_each(|key| self.name(key));
                }
                Action::Convert { key, .. } => self.name(key),
            }
            let constant = action.value().map(Value::encode).unwrap_or_default();
            self.actions.push(Prepared { action, constant });
        }
    }

    fn name(&mut self, key: &str) {
        self.lengths |= 1 << key.len().min(63);
        self.named.push(key.to_owned());
    }

    /// May any action care about an attribute of this name?
    #[inline(always)]
    fn concerns(&self, key: &[u8]) -> bool {
        (self.lengths >> key.len().min(63) & 1 == 1 && self.named.iter().any(|named| named.as_bytes() == key))
            || (self.patterns && self.matches_a_pattern(key))
    }

    fn matches_a_pattern(&self, key: &[u8]) -> bool {
        self.actions.iter().any(|prepared| match &prepared.action {
            Action::Delete(keys) | Action::Hash(keys) => keys.pattern.is_some() && selects(keys, key),
            _ => false,
        })
    }

    pub(super) fn suffix(&self, list: u32, context: &Context<'_>) -> Suffix {
        let mut entries = Vec::new();
        for action in &self.actions {
            action.apply(&mut entries, &[], context);
        }
        let mut out = Vec::new();
        for entry in entries.iter().filter(|entry| entry.alive) {
            entry.put(&[], list, &mut out);
        }
        Suffix(out)
    }

    /// Writes the message at `range`, whose list is at field `numbers.1`, edited, as field `numbers.0`.
    pub(super) fn edit(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        (number, list): (u32, u32),
        suffix: &Suffix,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) -> Read<()> {
        let mut entries = self.concerned(bytes, range.clone(), list)?;
        if entries.is_empty() {
            put_key(out, number, LEN);
            put_varint(out, (range.len() + suffix.0.len()) as u64);
            out.extend_from_slice(&bytes[range]);
            out.extend_from_slice(&suffix.0);
            return Ok(());
        }
        for action in &self.actions {
            action.apply(&mut entries, bytes, context);
        }
        let open = Open::field(out, number, range.len() + suffix.0.len());
        let mut copied = range.start;
        for entry in &entries {
            if let Some(origin) = &entry.origin
                && (entry.new_value.is_some() || !entry.alive)
            {
                out.extend_from_slice(&bytes[copied..origin.start]);
                copied = origin.end;
                if entry.alive {
                    entry.put(bytes, list, out);
                }
            }
        }
        out.extend_from_slice(&bytes[copied..range.end]);
        for entry in entries.iter().filter(|entry| entry.origin.is_none() && entry.alive) {
            entry.put(bytes, list, out);
        }
        open.close(out);
        Ok(())
    }

    /// The attributes that some action may care about; to the others nothing can happen.
    fn concerned<'a>(&self, bytes: &'a [u8], range: Range<usize>, list: u32) -> Read<Vec<Entry<'a>>> {
        let mut entries = Vec::new();
        let mut pieces = Pieces::of(bytes, range);
        while let Some(piece) = pieces.next()? {
            if piece.is(list) {
                let key = &bytes[key_of(bytes, piece.value())?];
                if self.concerns(key) {
                    if entries.len() == CONCERNED_MAX {
                        return bad(piece.start, What::Attributes);
                    }
                    let (origin, content) = (Some(piece.whole()), piece.value());
                    entries.push(Entry { key: Cow::Borrowed(key), origin, content, new_value: None, alive: true });
                }
            }
        }
        Ok(entries)
    }
}

/// One attribute of the list being edited.
struct Entry<'a> {
    key: Cow<'a, [u8]>,
    /// Its field in the request; `None` for one that was added.
    origin: Option<Range<usize>>,
    /// Its `KeyValue` there.
    content: Range<usize>,
    /// What an action set it to: the content of an `AnyValue`.
    new_value: Option<Cow<'a, [u8]>>,
    alive: bool,
}

impl Entry<'_> {
    fn value(&self, bytes: &[u8]) -> Vec<u8> {
        if let Some(value) = &self.new_value {
            return value.to_vec();
        }
        let mut merged = Vec::new();
        let mut pieces = Pieces::of(bytes, self.content.clone());
        while let Ok(Some(piece)) = pieces.next() {
            if piece.is(2) {
                merged.extend_from_slice(&bytes[piece.value()]);
            }
        }
        merged
    }

    /// Writes a changed or added attribute; of a changed one everything but the value stays.
    fn put(&self, bytes: &[u8], list: u32, out: &mut Vec<u8>) {
        let value: &[u8] = self.new_value.as_deref().unwrap_or_default();
        let open = Open::field(out, list, self.content.len().max(self.key.len() + value.len() + 4));
        if self.origin.is_none() {
            put_bytes(out, 1, &self.key);
            put_bytes(out, 2, value);
        } else {
            let mut written = false;
            let mut pieces = Pieces::of(bytes, self.content.clone());
            while let Ok(Some(piece)) = pieces.next() {
                if !piece.is(2) {
                    out.extend_from_slice(&bytes[piece.whole()]);
                } else if !written {
                    written = true;
                    put_bytes(out, 2, value);
                }
            }
            if !written {
                put_bytes(out, 2, value);
            }
        }
        open.close(out);
    }
}

/// Where the key of a `KeyValue` stands: the last one, should there be several.
#[inline(always)]
fn key_of(bytes: &[u8], content: Range<usize>) -> Read<Range<usize>> {
    let mut found = content.start..content.start;
    let mut pieces = Pieces::of(bytes, content);
    while let Some(piece) = pieces.next()? {
        if piece.is(1) {
            found = piece.value();
        }
    }
    Ok(found)
}

fn selects(keys: &Keys, key: &[u8]) -> bool {
    let by_name = keys.key.as_ref().is_some_and(|named| named.as_bytes() == key);
    by_name || keys.pattern.as_ref().is_some_and(|pattern| std::str::from_utf8(key).is_ok_and(|key| (pattern.0)(key)))
}

impl Prepared {
    fn apply<'a>(&'a self, entries: &mut Vec<Entry<'a>>, bytes: &[u8], context: &Context<'_>) {
        match &self.action {
            Action::Set { key, source, when } => {
                let value = match source {
                    Source::Value(_) => Some(Cow::Borrowed(self.constant.as_slice())),
                    Source::Attribute(from) => {
                        first(entries, from.as_bytes()).map(|n| Cow::Owned(entries[n].value(bytes)))
                    }
                    Source::Context(name) => context(name).map(|text| Cow::Owned(Value::Text(text).encode())),
                };
                if let Some(value) = value {
                    set(entries, key.as_bytes(), value, *when);
                }
            }
            Action::Delete(keys) => {
                for entry in entries.iter_mut().filter(|entry| selects(keys, &entry.key)) {
                    entry.alive = false;
                }
            }
            Action::Hash(keys) => {
                // One pass: the first of a name is hashed, the others are removed.
                let mut hashed = HashSet::new();
                for entry in entries.iter_mut().filter(|entry| entry.alive && selects(keys, &entry.key)) {
                    if hashed.insert(entry.key.clone()) {
                        let text = Value::Text(value::hashed(&entry.value(bytes)));
                        entry.new_value = Some(Cow::Owned(text.encode()));
                    } else {
                        entry.alive = false;
                    }
                }
            }
            Action::Extract { key, groups: Groups { names, find } } => {
                let text = first(entries, key.as_bytes()).and_then(|n| value::text(&entries[n].value(bytes)));
                if let Some(found) = text.and_then(|text| find(&text)) {
                    for (name, text) in names.iter().zip(found) {
                        set(entries, name.as_bytes(), Cow::Owned(Value::Text(text).encode()), When::Always);
                    }
                }
            }
            Action::Convert { key, to } => {
                let to: Type = *to;
                change(entries, bytes, key.as_bytes(), |value| value::converted(value, to));
            }
        }
    }
}

fn first(entries: &[Entry<'_>], key: &[u8]) -> Option<usize> {
    entries.iter().position(|entry| entry.alive && *entry.key == *key)
}

/// Sets the first attribute of the name and removes the others, or adds one.
fn set<'a>(entries: &mut Vec<Entry<'a>>, key: &'a [u8], value: Cow<'a, [u8]>, when: When) {
    match (first(entries, key), when) {
        (Some(_), When::Absent) | (None, When::Present) => {}
        (Some(n), _) => {
            entries[n].new_value = Some(value);
            for other in entries[n + 1..].iter_mut().filter(|other| *other.key == *key) {
                other.alive = false;
            }
        }
        (None, _) => entries.push(Entry {
            key: Cow::Borrowed(key),
            origin: None,
            content: 0..0,
            new_value: Some(value),
            alive: true,
        }),
    }
}

/// Sets an attribute from its own value, if there is one and `how` knows.
fn change(entries: &mut [Entry<'_>], bytes: &[u8], key: &[u8], how: impl Fn(&[u8]) -> Option<Value>) {
    if let Some(n) = first(entries, key)
        && let Some(value) = how(&entries[n].value(bytes))
    {
        entries[n].new_value = Some(Cow::Owned(value.encode()));
        for other in entries[n + 1..].iter_mut().filter(|other| *other.key == *key) {
            other.alive = false;
        }
    }
}

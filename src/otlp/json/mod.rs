//! OTLP/JSON requests, written straight to protobuf by the same table the walk reads ([`schema`](super::schema)).
//!
//! ```text
//! {"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"0AF7…","timeUnixNano":"17"}]}]}]}
//!        │ field 1        │ 2            │ 2           │ 9: hex        │ 1: fixed64
//!        ▼                ▼              ▼             ▼               ▼
//!      0A len           12 len         12 len        4A 10 …        09 …
//! ```
//!
//! What it takes (reference §4; pdata v1.0.0-rcv0017, `internal/json` and the `json.go` of each signal):
//! * keys in lowerCamelCase or snake_case, in any order; unknown ones are skipped;
//! * integers as numbers or strings, enums as numbers or names, doubles as numbers or strings (`"NaN"`,
//!   `"Infinity"`, `"-Infinity"`), ids in hex of either case or empty, bytes in base64;
//! * `null` for nothing: an absent field, an empty message, an empty list;
//! * a key written twice: the last one wins, messages merge and lists grow, members of a oneof replace each other;
//! * anything after the object.
//!
//! What it refuses beyond that: strings that are not UTF-8 (Go passes them on), and nesting that would not be
//! accepted as protobuf ([`DEPTH_MAX`]). What it gives, [`walk`](super::walk()) accepts.
//!
//! It keeps its own pile of open objects and lists instead of recursing, so no body can overflow a stack.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | objects and lists to messages and fields |
//! | `lex.rs` | the characters: strings, numbers, skipping |
//! | `scalar.rs` | one value to its wire form |
//! | `write.rs` | the way back |

mod lex;
mod scalar;
mod write;

pub use write::{PIECE, each_item, put_text, to_json, to_json_in_pieces};

use super::Signal;
use super::schema::{DEPRECATED_SCOPES, Field, Kind, Msg};
use super::wire::{DEPTH_MAX, LEN, Open, REQUEST_MAX, put_bytes};
use lex::Lexer;

/// Why a body is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column} (byte {offset}): {what}")]
pub struct BadJson {
    /// Byte in the body, from 0.
    pub offset: usize,
    /// Line, from 1.
    pub line: usize,
    /// Byte in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
    /// It is well-formed so far, but comes to more than is taken: 413.
    pub is_too_large: bool,
}

/// Turns an OTLP/JSON `Export…ServiceRequest` into a protobuf one.
///
/// # Errors
/// Where the body is no such request, and why. It must be refused.
pub fn from_json(signal: Signal, body: &[u8]) -> Result<Vec<u8>, BadJson> {
    from_json_within(signal, body, REQUEST_MAX)
}

/// [`from_json`] of at most `limit` bytes: `0,` in a list of buckets becomes eight.
///
/// # Errors
/// Where the body is no such request, and why; or where it comes to more than `limit`. It must be refused.
pub fn from_json_within(signal: Signal, body: &[u8], limit: usize) -> Result<Vec<u8>, BadJson> {
    let out = Vec::with_capacity((body.len() / 2).min(limit));
    let mut reader = Reader { lexer: Lexer::new(body), out, limit, pile: Vec::new(), depth: 0 };
    let read = reader.request(Msg::request(signal));
    let is_too_large = reader.out.len() > limit;
    match read {
        Ok(()) => Ok(reader.out),
        Err(Fault { at, what }) => {
            let before = &body[..at.min(body.len())];
            let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(BadJson { offset: at, line, column: at - line_start + 1, what, is_too_large })
        }
    }
}

/// Where and why reading stopped.
#[derive(Debug)]
struct Fault {
    at: usize,
    what: String,
}

type Read<T> = Result<T, Fault>;

#[cold]
fn fault<T>(at: usize, what: impl Into<String>) -> Read<T> {
    Err(Fault { at, what: what.into() })
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    out: Vec<u8>,
    /// Most bytes `out` may have, but for one value.
    limit: usize,
    /// The objects and lists being read, innermost last.
    pile: Vec<Level>,
    /// How many of them are messages inside the request.
    depth: usize,
}

/// An object or a list being read.
enum Level {
    /// `{`: a message, as the field `open` of the one around it; the request itself is no field.
    Object { msg: Msg, open: Option<Open>, member: Option<Member> },
    /// `[`: the values of a repeated field; `packed` when they share one field.
    List { field: &'static Field, packed: Option<Open> },
}

/// Where the member of a message's oneof lies in the output, to be replaced by the next one.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    /// [`Member::OPEN`] while it is being read.
    end: usize,
}

impl Member {
    const OPEN: usize = usize::MAX;
}

/// What may come next in the innermost object or list.
#[derive(PartialEq, Eq)]
enum Next {
    First,
    CommaOrEnd,
}

impl Reader<'_> {
    fn request(&mut self, msg: Msg) -> Read<()> {
        if self.lexer.null() {
            return Ok(());
        }
        self.lexer.open(b'{', "a request is an object")?;
        self.pile.push(Level::Object { msg, open: None, member: None });
        let mut next = Next::First;
        while let Some(level) = self.pile.last() {
            let end = if matches!(level, Level::Object { .. }) { b'}' } else { b']' };
            if self.lexer.ends(end, next == Next::First)? {
                self.close();
                next = Next::CommaOrEnd;
                continue;
            }
            let deeper = match *level {
                Level::Object { msg, .. } => self.member(msg)?,
                Level::List { field, .. } => self.element(field)?,
            };
            if self.out.len() > self.limit {
                return fault(self.lexer.at(), format!("request is larger than {} bytes as protobuf", self.limit));
            }
            next = if deeper { Next::First } else { Next::CommaOrEnd };
        }
        Ok(())
    }

    /// Reads a key and its value; true when the value is an object or list that is now open.
    fn member(&mut self, msg: Msg) -> Read<bool> {
        let key = self.lexer.key()?;
        let known = msg.get().fields.iter().find(|field| is_named(&key, field.name));
        let Some(field) = known.filter(|field| field.number != DEPRECATED_SCOPES) else {
            self.lexer.skip_value()?;
            return Ok(false);
        };
        if self.lexer.null() {
            self.null(field);
            return Ok(false);
        }
        if field.repeated {
            return self.list(field);
        }
        if field.oneof {
            self.drop_former_member();
        }
        let start = self.out.len();
        let deeper = match field.kind {
            Kind::Message(inner) => self.message(field, inner)?,
            _ => {
                scalar::put(&mut self.lexer, &mut self.out, field, true)?;
                false
            }
        };
        if field.oneof {
            let end = if deeper { Member::OPEN } else { self.out.len() };
            if let Some(Level::Object { member, .. }) = self.pile.iter_mut().rev().nth(usize::from(deeper)) {
                *member = Some(Member { start, end });
            }
        }
        Ok(deeper)
    }

    /// `null` is no field; but in a oneof Go reads it as an empty text or message, and so chooses that member.
    fn null(&mut self, field: &Field) {
        if field.oneof && matches!(field.kind, Kind::Text | Kind::Bytes | Kind::Message(_)) {
            self.drop_former_member();
            let start = self.out.len();
            put_bytes(&mut self.out, field.number, b"");
            if let Some(Level::Object { member, .. }) = self.pile.last_mut() {
                *member = Some(Member { start, end: self.out.len() });
            }
        }
    }

    /// Begins the list of a repeated field.
    fn list(&mut self, field: &'static Field) -> Read<bool> {
        self.lexer.open(b'[', "a repeated field is a list")?;
        let packed = (field.kind.wire() != LEN).then(|| Open::field(&mut self.out, field.number, 0));
        self.pile.push(Level::List { field, packed });
        Ok(true)
    }

    /// Reads a value of a list; true when it is an object that is now open.
    fn element(&mut self, field: &'static Field) -> Read<bool> {
        match field.kind {
            Kind::Message(_) | Kind::Text if self.lexer.null() => {
                put_bytes(&mut self.out, field.number, b"");
                Ok(false)
            }
            Kind::Message(inner) => self.message(field, inner),
            _ => {
                let packed = matches!(self.pile.last(), Some(Level::List { packed: Some(_), .. }));
                scalar::put(&mut self.lexer, &mut self.out, field, !packed)?;
                Ok(false)
            }
        }
    }

    /// Begins a message.
    fn message(&mut self, field: &'static Field, msg: Msg) -> Read<bool> {
        let at = self.lexer.at();
        self.lexer.open(b'{', "a message is an object")?;
        if self.depth == DEPTH_MAX {
            return fault(at, format!("messages are nested more than {DEPTH_MAX} deep"));
        }
        self.depth += 1;
        let open = Some(Open::field(&mut self.out, field.number, 64));
        self.pile.push(Level::Object { msg, open, member: None });
        Ok(true)
    }

    fn close(&mut self) {
        match self.pile.pop() {
            Some(Level::Object { open: Some(open), .. }) => {
                open.close(&mut self.out);
                self.depth -= 1;
            }
            Some(Level::List { packed: Some(open), .. }) => open.close(&mut self.out),
            _ => {}
        }
        if let Some(Level::Object { member: Some(member), .. }) = self.pile.last_mut()
            && member.end == Member::OPEN
        {
            member.end = self.out.len();
        }
    }

    /// Removes what the oneof of the innermost message held.
    fn drop_former_member(&mut self) {
        if let Some(Level::Object { member, .. }) = self.pile.last_mut()
            && let Some(Member { start, end }) = member.take()
        {
            self.out.drain(start..end);
        }
    }
}

/// Is `key` the snake_case `name`, or its lowerCamelCase?
fn is_named(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut key = key.bytes();
    let mut upper = false;
    for letter in name.bytes() {
        if letter == b'_' {
            upper = true;
        } else {
            let wanted = if upper { letter.to_ascii_uppercase() } else { letter };
            upper = false;
            if key.next() != Some(wanted) {
                return false;
            }
        }
    }
    key.next().is_none()
}

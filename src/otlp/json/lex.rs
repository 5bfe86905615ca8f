//! The characters of JSON: tokens on demand, strings unescaped, values skipped without recursion.

use super::{Read, fault};
use std::borrow::Cow;

/// Objects and lists inside each other in a value that is skipped: 512.
///
/// More than a message can nest; the Go collector's reader (jsoniter) ends at 10,000. One byte is kept for each.
const SKIP_DEPTH_MAX: usize = 512;

pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// Where the next token begins.
    pub(super) fn at(&mut self) -> usize {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.at
    }

    /// The first byte of the next token.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let at = self.at();
        self.text.get(at).copied()
    }

    /// Reads `null` if it is next.
    pub(super) fn null(&mut self) -> bool {
        self.word(b"null")
    }

    /// Reads `true` or `false`.
    pub(super) fn bool(&mut self) -> Read<bool> {
        if self.word(b"true") {
            Ok(true)
        } else if self.word(b"false") {
            Ok(false)
        } else {
            self.unexpected("true or false")
        }
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let at = self.at();
        let found = self.text[at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Reads the bracket that begins an object or list.
    pub(super) fn open(&mut self, bracket: u8, rule: &str) -> Read<()> {
        if self.peek() == Some(bracket) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(&format!("`{}` ({rule})", char::from(bracket)))
    }

    /// Reads the end of an object or list, or what stands before its next member.
    pub(super) fn ends(&mut self, bracket: u8, first: bool) -> Read<bool> {
        match self.peek() {
            Some(byte) if byte == bracket => {
                self.at += 1;
                Ok(true)
            }
            _ if first => Ok(false),
            Some(b',') => {
                self.at += 1;
                Ok(false)
            }
            _ => self.unexpected(&format!("`,` or `{}`", char::from(bracket))),
        }
    }

    /// Reads a key and its colon.
    pub(super) fn key(&mut self) -> Read<Cow<'a, str>> {
        let key = self.string()?;
        self.open(b':', "it follows a key")?;
        Ok(key)
    }

    pub(super) fn string(&mut self) -> Read<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a string");
        }
        self.at += 1;
        let start = self.at;
        let mut unescaped: Option<Vec<u8>> = None;
        let mut copied = start;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    let so_far = unescaped.get_or_insert_default();
                    so_far.extend_from_slice(&self.text[copied..self.at]);
                    let letter = self.escape()?;
                    let mut utf8 = [0; 4];
                    so_far.extend_from_slice(letter.encode_utf8(&mut utf8).as_bytes());
                    copied = self.at;
                }
                Some(0..0x20) => return fault(self.at, "a string holds a control character"),
                Some(_) => self.at += 1,
                None => return fault(start - 1, "a string has no end"),
            }
        }
        let last = &self.text[copied..self.at];
        self.at += 1;
        let text = match unescaped {
            None => std::str::from_utf8(last).ok().map(Cow::Borrowed),
            Some(mut bytes) => {
                bytes.extend_from_slice(last);
                String::from_utf8(bytes).ok().map(Cow::Owned)
            }
        };
        text.map_or_else(|| fault(start, "a string is not valid UTF-8"), Ok)
    }

    /// Reads an escape. Half a surrogate pair becomes U+FFFD, as in Go.
    fn escape(&mut self) -> Read<char> {
        let at = self.at;
        self.at += 2;
        Ok(match self.text.get(at + 1) {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'u') => {
                let first = self.hex4(at)?;
                if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let second = self.hex4(back)?;
                    if (0xdc00..0xe000).contains(&second) {
                        let pair = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = back; // it stands for itself
                }
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return fault(at, "a string holds an unknown escape"),
        })
    }

    fn hex4(&mut self, escape: usize) -> Read<u32> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        let value = digits.iter().try_fold(0, |value, &digit| char::from(digit).to_digit(16).map(|d| value << 4 | d));
        match value {
            Some(value) if digits.len() == 4 => {
                self.at += 4;
                Ok(value)
            }
            _ => fault(escape, "a string holds an unknown escape"),
        }
    }

    /// Reads a number as it is written.
    pub(super) fn number(&mut self) -> Read<&'a str> {
        let start = self.at();
        let mut at = start + usize::from(self.text.get(start) == Some(&b'-'));
        let digits = |at: usize| self.text[at.min(self.text.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
        let whole = digits(at);
        let leading_zero = whole > 1 && self.text[at] == b'0';
        at += whole;
        let mut ok = whole > 0 && !leading_zero;
        if ok && self.text.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            ok = fraction > 0;
            at += 1 + fraction;
        }
        if ok && matches!(self.text.get(at), Some(b'e' | b'E')) {
            at += 1;
            at += usize::from(matches!(self.text.get(at), Some(b'+' | b'-')));
            let exponent = digits(at);
            ok = exponent > 0;
            at += exponent;
        }
        if !ok {
            return self.unexpected("a number");
        }
        self.at = at;
        Ok(std::str::from_utf8(&self.text[start..at]).expect("digits, signs, points and e are ASCII"))
    }

    /// Reads over one value of any kind.
    pub(super) fn skip_value(&mut self) -> Read<()> {
        let mut open: Vec<u8> = Vec::new();
        let mut first = false;
        loop {
            if let Some(&bracket) = open.last() {
                if self.ends(bracket, first)? {
                    open.pop();
                    first = false;
                    if open.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                if bracket == b'}' {
                    self.key()?;
                }
            }
            first = false;
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if open.len() == SKIP_DEPTH_MAX {
                        return fault(self.at, format!("a value is nested more than {SKIP_DEPTH_MAX} deep"));
                    }
                    self.at += 1;
                    open.push(if bracket == b'{' { b'}' } else { b']' });
                    first = true;
                    continue;
                }
                Some(b'"') => drop(self.string()?),
                Some(b't' | b'f') => drop(self.bool()?),
                Some(b'n') if self.null() => {}
                _ => drop(self.number()?),
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    #[cold]
    fn unexpected<T>(&mut self, wanted: &str) -> Read<T> {
        match self.peek() {
            Some(byte @ 0x21..0x7f) => fault(self.at, format!("found `{}`, expected {wanted}", char::from(byte))),
            Some(byte) => fault(self.at, format!("found byte 0x{byte:02x}, expected {wanted}")),
            None => fault(self.at, format!("the body ends where {wanted} was expected")),
        }
    }
}

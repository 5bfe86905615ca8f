//! One JSON value to the wire form of its field.

use super::lex::Lexer;
use super::{Read, fault};
use crate::otlp::schema::{Field, Kind};
use crate::otlp::wire::{put_bytes, put_key, put_varint};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use std::str::FromStr;

/// Standard alphabet, padded; like Go's it does not mind bits left over in the last letter.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Reads a value and writes it; without its key when it goes into a packed run.
pub(super) fn put(lexer: &mut Lexer<'_>, out: &mut Vec<u8>, field: &Field, with_key: bool) -> Read<()> {
    let at = lexer.at();
    if with_key && !matches!(field.kind, Kind::Text | Kind::Bytes | Kind::TraceId | Kind::SpanId) {
        put_key(out, field.number, field.kind.wire());
    }
    match field.kind {
        Kind::Text => {
            let text = lexer.string()?;
            put_bytes(out, field.number, text.as_bytes());
        }
        Kind::Bytes => {
            let text = lexer.string()?;
            match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => put_bytes(out, field.number, &bytes),
                Err(error) => return fault(at, format!("{} is not base64: {error}", field.name)),
            }
        }
        Kind::TraceId => put_id::<16>(lexer, out, field)?,
        Kind::SpanId => put_id::<8>(lexer, out, field)?,
        Kind::Bool => put_varint(out, u64::from(lexer.bool()?)),
        Kind::Enum(names) => {
            let number = if lexer.peek() == Some(b'"') {
                let name = lexer.string()?;
                match names.iter().find(|(known, _)| *known == name) {
                    Some((_, number)) => *number,
                    None => return fault(at, format!("`{name}` is no value of {}", field.name)),
                }
            } else {
                integer::<i32>(lexer, field)?
            };
            put_signed(out, i64::from(number));
        }
        Kind::Int32 => put_signed(out, i64::from(integer::<i32>(lexer, field)?)),
        Kind::Int64 => put_signed(out, integer::<i64>(lexer, field)?),
        Kind::UInt32 => put_varint(out, u64::from(integer::<u32>(lexer, field)?)),
        Kind::UInt64 => put_varint(out, integer::<u64>(lexer, field)?),
        Kind::SInt32 => {
            let n = integer::<i32>(lexer, field)?;
            #[allow(clippy::cast_sign_loss)] // zigzag
            put_varint(out, u64::from((n << 1 ^ n >> 31) as u32));
        }
        Kind::Fixed32 => out.extend_from_slice(&integer::<u32>(lexer, field)?.to_le_bytes()),
        Kind::Fixed64 => out.extend_from_slice(&integer::<u64>(lexer, field)?.to_le_bytes()),
        Kind::SFixed64 => out.extend_from_slice(&integer::<i64>(lexer, field)?.to_le_bytes()),
        Kind::Double => out.extend_from_slice(&double(lexer, field)?.to_le_bytes()),
        Kind::Message(_) => return fault(at, format!("{} is an object", field.name)),
    }
    Ok(())
}

#[allow(clippy::cast_sign_loss)] // protobuf writes a negative varint as its two's complement of 64 bits
fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, n as u64);
}

/// Reads hex digits of either case.
fn put_id<const BYTES: usize>(lexer: &mut Lexer<'_>, out: &mut Vec<u8>, field: &Field) -> Read<()> {
    let at = lexer.at();
    let text = lexer.string()?;
    if text.is_empty() {
        put_bytes(out, field.number, b"");
        return Ok(());
    }
    if text.len() != 2 * BYTES {
        return fault(
            at,
            format!("{} is {} characters, must be 0 or {} hex digits", field.name, text.len(), 2 * BYTES),
        );
    }
    let mut id = [0; BYTES];
    for (to, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        match (char::from(pair[0]).to_digit(16), char::from(pair[1]).to_digit(16)) {
            #[allow(clippy::cast_possible_truncation)] // two hex digits
            (Some(high), Some(low)) => *to = (high << 4 | low) as u8,
            _ => return fault(at, format!("{} is not hex", field.name)),
        }
    }
    put_bytes(out, field.number, &id);
    Ok(())
}

/// Reads an integer, written as a number or as a string.
fn integer<T: FromStr>(lexer: &mut Lexer<'_>, field: &Field) -> Read<T> {
    let at = lexer.at();
    let parsed = if lexer.peek() == Some(b'"') { lexer.string()?.parse().ok() } else { lexer.number()?.parse().ok() };
    parsed.map_or_else(|| fault(at, format!("{} is no integer, or out of range", field.name)), Ok)
}

/// Reads a double, written as a number or as a string.
fn double(lexer: &mut Lexer<'_>, field: &Field) -> Read<f64> {
    let at = lexer.at();
    let (text, digits) = if lexer.peek() == Some(b'"') {
        let text = lexer.string()?;
        let digits = text.bytes().any(|byte| byte.is_ascii_digit());
        (text, digits)
    } else {
        (lexer.number()?.into(), true)
    };
    match text.parse::<f64>() {
        // Digits that come out infinite are out of range; "Infinity" has none.
        Ok(n) if n.is_finite() || !digits => Ok(n),
        _ => fault(at, format!("{} is no number, or out of range", field.name)),
    }
}

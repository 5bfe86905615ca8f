//! As much protobuf as the test helpers need, apart from `otlp` on purpose: what checks the agent must not share
//! its mistakes.

/// The bytes are no protobuf message, or not the one expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub struct NotProtobuf;

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order. Groups, which nobody has written for fifteen years, are an error.
pub(crate) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, Value<'_>), NotProtobuf>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = next(&mut rest);
        if read.is_err() {
            rest = &[];
        }
        Some(read)
    })
}

/// The length-delimited values of one field.
pub(crate) fn messages(message: &[u8], field: u32) -> impl Iterator<Item = Result<&[u8], NotProtobuf>> {
    fields(message).filter_map(move |read| match read {
        Ok((number, Value::Bytes(value))) if number == field => Some(Ok(value)),
        Ok((number, _)) if number == field => Some(Err(NotProtobuf)),
        Ok(_) => None,
        Err(fault) => Some(Err(fault)),
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Value<'a>), NotProtobuf> {
    let key = varint(rest)?;
    let field = u32::try_from(key >> 3).map_err(|_| NotProtobuf)?;
    let value = match key & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        2 => {
            let len = usize::try_from(varint(rest)?).map_err(|_| NotProtobuf)?;
            Value::Bytes(take(rest, len)?)
        }
        _ => return Err(NotProtobuf),
    };
    if field == 0 { Err(NotProtobuf) } else { Ok((field, value)) }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], NotProtobuf> {
    let (value, after) = rest.split_at_checked(len).ok_or(NotProtobuf)?;
    *rest = after;
    Ok(value)
}

fn varint(rest: &mut &[u8]) -> Result<u64, NotProtobuf> {
    let mut value = 0;
    for (i, &byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(NotProtobuf)
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Bytes of `value` as a varint.
pub(crate) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_their_length_is_known() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            assert_eq!(varint(&mut &bytes[..]), Ok(value));
        }
        assert_eq!(varint(&mut &[0x80; 11][..]), Err(NotProtobuf));
        assert_eq!(varint(&mut &[0x80][..]), Err(NotProtobuf));
    }
}

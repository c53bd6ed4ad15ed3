//! The protobuf wire format: varints, tags and lengths over a byte slice. It knows nothing of OTLP.

/// How a field's value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Length,
    Group,
    EndGroup,
    Fixed32,
}

/// What can be wrong with the bytes themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The input ends inside a value.
    #[error("truncated")]
    Truncated,
    /// A varint is longer than ten bytes or exceeds 64 bits.
    #[error("varint too long")]
    Varint,
    /// Field number zero, or a tag of more than 32 bits.
    #[error("invalid tag")]
    Tag,
    /// A wire type that does not exist.
    #[error("unknown wire type")]
    WireType,
    /// A known field with the wire type of another kind.
    #[error("wrong wire type")]
    Mismatch,
    /// A `string` that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// Messages nested too deep.
    #[error("nested too deep")]
    Depth,
    /// A group that ends without a start, or the other way round.
    #[error("unbalanced group")]
    Group,
    /// A trace or span id of the wrong length.
    #[error("wrong id length")]
    Id,
}

/// A cursor over a message.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                return Err(Problem::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() >= 10 { Problem::Varint } else { Problem::Truncated })
    }

    pub(super) fn tag(&mut self) -> Result<(u32, WireType), Problem> {
        let key = u32::try_from(self.varint()?).map_err(|_| Problem::Tag)?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            3 => WireType::Group,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            _ => return Err(Problem::WireType),
        };
        match key >> 3 {
            0 => Err(Problem::Tag),
            number => Ok((number, wire)),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(Problem::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub(super) fn length_delimited(&mut self) -> Result<&'a [u8], Problem> {
        let length = usize::try_from(self.varint()?).map_err(|_| Problem::Truncated)?;
        self.take(length)
    }

    pub(super) fn fixed32(&mut self) -> Result<u32, Problem> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| Problem::Truncated)?))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Problem> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| Problem::Truncated)?))
    }

    /// Steps over a field nobody knows; groups count towards the nesting that is `left`.
    pub(super) fn skip(&mut self, number: u32, wire: WireType, left: usize) -> Result<(), Problem> {
        match wire {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
            WireType::Length => self.length_delimited().map(drop),
            WireType::EndGroup => Err(Problem::Group),
            WireType::Group => {
                let left = left.checked_sub(1).ok_or(Problem::Depth)?;
                loop {
                    match self.tag()? {
                        (end, WireType::EndGroup) if end == number => return Ok(()),
                        (inner, wire) => self.skip(inner, wire, left)?,
                    }
                }
            }
        }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    put_varint(out, u64::from(number << 3 | wire));
}

/// Runs `fill` and puts the length of what it wrote in front of it.
pub(super) fn put_length_prefixed<E>(
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.push(0);
    fill(out)?;
    let length = out.len() - start - 1;
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    out.splice(start..=start, prefix);
    Ok(())
}

pub(super) fn zigzag(value: i32) -> u64 {
    u64::from(((value << 1) ^ (value >> 31)) as u32)
}

pub(super) fn unzigzag(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_prefix_grows_to_what_is_needed() {
        for size in [0usize, 1, 127, 128, 20_000] {
            let mut out = vec![9];
            put_length_prefixed(&mut out, |out| {
                out.resize(out.len() + size, 7);
                Ok::<_, ()>(())
            })
            .unwrap();
            let mut reader = Reader::new(&out[1..]);
            assert_eq!(reader.length_delimited().unwrap().len(), size);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn zigzag_round_trips() {
        for value in [0, -1, 1, i32::MIN, i32::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }
}

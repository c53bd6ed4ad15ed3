//! One message: a header, a fixed part that its kind prescribes, and attributes.

use super::Attributes;

const HEADER: usize = 16;

/// `NLM_F_*`: what a message asks for beside its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// To change what may be there.
    pub(crate) const CHANGE: Self = Self(0x1);
    /// To list all there is.
    pub(crate) const DUMP: Self = Self(0x1 | 0x100 | 0x200);
    /// To create what may be there already.
    pub(crate) const CREATE: Self = Self(0x1 | 0x400);
    /// To create what must not be there.
    pub(crate) const CREATE_NEW: Self = Self(0x1 | 0x200 | 0x400);
    /// To create something behind its like.
    pub(crate) const APPEND: Self = Self(0x1 | 0x400 | 0x800);

    pub(super) const fn and_acknowledged(self) -> Self {
        Self(self.0 | 0x4)
    }
}

/// A message to the kernel, its sequence number still open.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(super) kind: u16,
    pub(super) flags: Flags,
    fixed: Vec<u8>,
    attributes: Attributes,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: Flags, fixed: &[u8], attributes: Attributes) -> Self {
        Self { kind, flags, fixed: fixed.to_vec(), attributes }
    }

    pub(super) fn write(&self, sequence: u32, flags: Flags, to: &mut Vec<u8>) {
        let attributes = self.attributes.as_bytes();
        let length = HEADER + self.fixed.len() + attributes.len();
        to.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        to.extend(self.kind.to_ne_bytes());
        to.extend(flags.0.to_ne_bytes());
        to.extend(sequence.to_ne_bytes());
        // The kernel fills in who we are.
        to.extend([0; 4]);
        to.extend(&self.fixed);
        to.extend(attributes);
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages in one datagram; what is cut short ends the list.
pub(super) fn received(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<2>()?;
        let (_flags, after) = after.split_first_chunk::<2>()?;
        let (sequence, _) = after.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind: u16::from_ne_bytes(*kind), sequence: u32::from_ne_bytes(*sequence), body })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut datagram = Vec::new();
        let first = Message::new(7, Flags::CHANGE, &[1, 2, 3, 4], Attributes::new().be32(1, 5));
        let second = Message::new(8, Flags::DUMP, &[], Attributes::new());
        first.write(1, first.flags, &mut datagram);
        second.write(2, second.flags, &mut datagram);
        let read: Vec<_> = received(&datagram).collect();
        assert_eq!(read.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(), [(7, 1), (8, 2)]);
        assert_eq!(read[0].body[..4], [1, 2, 3, 4]);
        assert!(read[1].body.is_empty());
        assert_eq!(received(&datagram[..datagram.len() - 1]).count(), 1, "the second is cut short");
    }
}

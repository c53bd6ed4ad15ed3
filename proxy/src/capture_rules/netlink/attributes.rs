//! Attributes: length, kind, value, padded to four bytes, and nested in each other (`man 7 netlink`).

/// The bits of a kind that are no flags.
const KIND: u16 = (1 << 14) - 1;
const HEADER: usize = 4;

/// Attributes in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // No value here comes near 64 KiB but the whole of a rule, whose conditions are bounded by its options.
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With the zero byte that ends it.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// In the order of the network, as netfilter has numbers.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// In the order of this machine, as routing has numbers.
    pub(crate) fn ne32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Without the flag that says so: netfilter sends none back, and needs none.
    pub(crate) fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind, &value.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The kinds and values in some bytes; what is cut short ends the list.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (kind, _) = after.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & KIND, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_padding_is_not() {
        let inner = Attributes::new().be32(1, 7).text(2, "lo");
        let all = Attributes::new().bytes(3, &[1]).nested(4, &inner).ne32(5, 9);
        assert_eq!(all.as_bytes().len() % 4, 0);
        let read: Vec<_> = attributes(all.as_bytes()).collect();
        assert_eq!(read.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(read[0].1, [1]);
        let inner: Vec<_> = attributes(read[1].1).collect();
        assert_eq!(inner, [(1, &[0, 0, 0, 7][..]), (2, &b"lo\0"[..])]);
        assert_eq!(read[2].1, 9_u32.to_ne_bytes());
    }

    #[test]
    fn short_bytes_end_the_list() {
        let whole = Attributes::new().be32(1, 7).be32(2, 8);
        for cut in 0..whole.as_bytes().len() {
            let read = attributes(&whole.as_bytes()[..cut]).count();
            assert_eq!(read, cut / 8, "{cut}");
        }
        // A length below that of its own header.
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }
}

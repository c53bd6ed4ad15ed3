//! The server name of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3), read from the first bytes of a connection.
//!
//! Nothing is checked beyond the lengths on the way to the name: the endpoint ends TLS, and it judges the rest.

/// What the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hello {
    /// A beginning of a hello; there is more to come.
    Partial,
    /// A hello, with the name if it has one.
    Tls(Option<Box<str>>),
    /// Something else.
    Other,
}

/// Reads a hello that begins with the first byte.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let mut reader = Reader { bytes, in_record: 0 };
    match client_hello(&mut reader) {
        Ok(name) => Hello::Tls(name),
        Err(Stop::Partial) => Hello::Partial,
        Err(Stop::Other) => Hello::Other,
    }
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Partial,
    Other,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// What a record may hold (RFC 8446 5.1); a hello is never encrypted.
const LONGEST_RECORD: usize = 1 << 14;
const SERVER_NAME: usize = 0;
const HOST_NAME: u8 = 0;
const LONGEST_NAME: usize = 255;

fn client_hello(hello: &mut Reader<'_>) -> Result<Option<Box<str>>, Stop> {
    if hello.byte()? != CLIENT_HELLO {
        return Err(Stop::Other);
    }
    let mut left = hello.number(3)?;
    hello.skip(2 + 32, &mut left)?;
    for width in [1, 2, 1] {
        // Session, cipher suites, compression methods.
        let length = hello.length(width, &mut left)?;
        hello.skip(length, &mut left)?;
    }
    if left == 0 {
        return Ok(None);
    }
    let mut extensions = hello.length(2, &mut left)?;
    if extensions != left {
        return Err(Stop::Other);
    }
    while extensions > 0 {
        let kind = hello.length(2, &mut extensions)?;
        let mut length = hello.length(2, &mut extensions)?;
        if kind == SERVER_NAME {
            if length > extensions {
                return Err(Stop::Other);
            }
            return server_name(hello, &mut length);
        }
        hello.skip(length, &mut extensions)?;
    }
    Ok(None)
}

fn server_name(hello: &mut Reader<'_>, left: &mut usize) -> Result<Option<Box<str>>, Stop> {
    let mut names = hello.length(2, left)?;
    if names != *left {
        return Err(Stop::Other);
    }
    while names > 0 {
        names -= 1;
        let kind = hello.byte()?;
        let length = hello.length(2, &mut names)?;
        if kind != HOST_NAME {
            hello.skip(length, &mut names)?;
            continue;
        }
        if length == 0 || length > LONGEST_NAME || length > names {
            return Err(Stop::Other);
        }
        let mut name = String::with_capacity(length);
        for _ in 0..length {
            match hello.byte()? {
                byte @ 0x21..=0x7e => name.push(byte.to_ascii_lowercase().into()),
                _ => return Err(Stop::Other),
            }
        }
        return Ok(Some(name.into()));
    }
    Ok(None)
}

/// The handshake's bytes, which may be spread over records.
struct Reader<'a> {
    bytes: &'a [u8],
    in_record: usize,
}

impl Reader<'_> {
    fn raw(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.bytes.split_first().ok_or(Stop::Partial)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.in_a_record()?;
        let byte = self.raw()?;
        self.in_record -= 1;
        Ok(byte)
    }

    /// Reads the header of the next record where one ends.
    fn in_a_record(&mut self) -> Result<(), Stop> {
        if self.in_record > 0 {
            return Ok(());
        }
        // Kind, major version; the minor version says nothing.
        if self.raw()? != HANDSHAKE || self.raw()? != 3 {
            return Err(Stop::Other);
        }
        self.raw()?;
        let length = usize::from(self.raw()?) << 8 | usize::from(self.raw()?);
        if length == 0 || length > LONGEST_RECORD {
            return Err(Stop::Other);
        }
        self.in_record = length;
        Ok(())
    }

    fn number(&mut self, width: usize) -> Result<usize, Stop> {
        let mut number = 0;
        for _ in 0..width {
            number = number << 8 | usize::from(self.byte()?);
        }
        Ok(number)
    }

    /// A number of `width` bytes, out of the `left` ones of what surrounds it.
    fn length(&mut self, width: usize, left: &mut usize) -> Result<usize, Stop> {
        *left = left.checked_sub(width).ok_or(Stop::Other)?;
        self.number(width)
    }

    fn skip(&mut self, count: usize, left: &mut usize) -> Result<(), Stop> {
        *left = left.checked_sub(count).ok_or(Stop::Other)?;
        let mut count = count;
        while count > 0 {
            self.in_a_record()?;
            let step = count.min(self.in_record);
            self.bytes = self.bytes.get(step..).ok_or(Stop::Partial)?;
            self.in_record -= step;
            count -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;

//! What a TLS ClientHello asks for (RFC 8446 4.1.2, RFC 6066 3, RFC 7301 3.1), read from the first bytes of a connection.
//!
//! Nothing is checked beyond lengths: whoever ends TLS judges the rest.

/// What the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A beginning of a hello; there is more to come.
    Partial,
    /// A whole hello.
    Tls(Asked),
    /// Something else.
    Other,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    /// In lower case.
    pub(crate) server_name: Option<Box<str>>,
    /// It offers a protocol of Istio's: it is a sidecar.
    pub(crate) mutual: bool,
    /// It offers to speak HTTP, of whatever version.
    pub(crate) requests: bool,
}

/// Reads a hello that begins with the first byte.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    let mut reader = Reader { bytes, in_record: 0 };
    match client_hello(&mut reader) {
        Ok(asked) => Hello::Tls(asked),
        Err(Stop::Partial) => Hello::Partial,
        Err(Stop::Other) => Hello::Other,
    }
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Partial,
    Other,
}

/// The first byte of every TLS connection: the type of a record of the handshake.
pub(crate) const RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// What a record may hold (RFC 8446 5.1); a hello is never encrypted.
const LONGEST_RECORD: usize = 1 << 14;
const SERVER_NAME: usize = 0;
const PROTOCOLS: usize = 16;
const HOST_NAME: u8 = 0;
const LONGEST_NAME: usize = 255;

fn client_hello(hello: &mut Reader<'_>) -> Result<Asked, Stop> {
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
        return Ok(Asked::default());
    }
    let mut asked = Asked::default();
    let mut extensions = hello.length(2, &mut left)?;
    if extensions != left {
        return Err(Stop::Other);
    }
    while extensions > 0 {
        let kind = hello.length(2, &mut extensions)?;
        let mut length = hello.length(2, &mut extensions)?;
        extensions = extensions.checked_sub(length).ok_or(Stop::Other)?;
        match kind {
            SERVER_NAME => asked.server_name = server_name(hello, &mut length)?,
            PROTOCOLS => protocols(hello, &mut length, &mut asked)?,
            _ => {}
        }
        hello.skip(length, &mut length.clone())?;
    }
    Ok(asked)
}

/// Longer names are none of those that count.
const LONGEST_PROTOCOL: usize = 24;

fn protocols(hello: &mut Reader<'_>, left: &mut usize, asked: &mut Asked) -> Result<(), Stop> {
    let mut names = hello.length(2, left)?;
    if names != *left {
        return Err(Stop::Other);
    }
    *left = 0;
    while names > 0 {
        let mut length = hello.length(1, &mut names)?;
        names = names.checked_sub(length).ok_or(Stop::Other)?;
        let mut name = Vec::with_capacity(LONGEST_PROTOCOL);
        while length > 0 && name.len() < LONGEST_PROTOCOL {
            name.push(hello.byte()?);
            length -= 1;
        }
        hello.skip(length, &mut length.clone())?;
        // `istio`, `istio-peer-exchange`, `istio-http/1.1`, `istio-h2`.
        let inner = name.strip_prefix(b"istio");
        asked.mutual |= inner.is_some();
        let http = inner.and_then(|inner| inner.strip_prefix(b"-")).unwrap_or(&name);
        asked.requests |= http == b"h2" || http.starts_with(b"http/1.");
    }
    Ok(())
}

fn server_name(hello: &mut Reader<'_>, left: &mut usize) -> Result<Option<Box<str>>, Stop> {
    let mut names = hello.length(2, left)?;
    if names != *left {
        return Err(Stop::Other);
    }
    *left = 0;
    let mut found = None;
    while names > 0 {
        names -= 1;
        let kind = hello.byte()?;
        let length = hello.length(2, &mut names)?;
        if kind != HOST_NAME || found.is_some() {
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
        names -= length;
        found = Some(name.into());
    }
    Ok(found)
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
        if self.raw()? != RECORD || self.raw()? != 3 {
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

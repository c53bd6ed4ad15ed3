use proptest::prelude::*;

use super::*;

/// A hello as a client puts it: a session, two cipher suites, an extension before and one behind the name.
fn handshake(name: Option<&[u8]>) -> Vec<u8> {
    with_protocols(name, &[])
}

fn with_protocols(name: Option<&[u8]>, protocols: &[&str]) -> Vec<u8> {
    let block = |width: usize, content: &[u8]| {
        let length = (content.len() as u32).to_be_bytes();
        [&length[4 - width..], content].concat()
    };
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &block(2, content)].concat();
    let mut extensions = extension(0x0a, &[0, 2, 0, 0x1d]);
    if let Some(name) = name {
        extensions.extend(extension(0, &block(2, &[&[0][..], &block(2, name)].concat())));
    }
    if !protocols.is_empty() {
        let names: Vec<_> = protocols.iter().flat_map(|name| block(1, name.as_bytes())).collect();
        extensions.extend(extension(16, &block(2, &names)));
    }
    extensions.extend(extension(0x2b, &[2, 3, 4]));
    let body = [
        &[3, 3][..],
        &[7; 32],
        &block(1, &[9; 32]),
        &block(2, &[0x13, 1, 0x13, 2]),
        &block(1, &[0]),
        &block(2, &extensions),
    ];
    [&[CLIENT_HELLO][..], &block(3, &body.concat())].concat()
}

/// In records of `size` bytes.
fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[RECORD, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    handshake.chunks(size).flat_map(record).collect()
}

fn named(name: &str) -> Hello {
    Hello::Tls(Asked { server_name: Some(name.into()), ..Asked::default() })
}

#[test]
fn the_name_is_read_in_lower_case() {
    let hello = records(&handshake(Some(b"Reviews.Example.com")), 1 << 14);
    assert_eq!(read(&hello), named("reviews.example.com"));
    assert_eq!(read(&records(&handshake(None), 1 << 14)), Hello::Tls(Asked::default()));
}

#[test]
fn protocols_of_istio_and_of_requests_are_seen() {
    for (protocols, mutual, requests) in [
        (&["istio"] as &[&str], true, false),
        (&["istio-peer-exchange", "istio"], true, false),
        (&["h2", "istio-peer-exchange"], true, true),
        (&["istio-http/1.1", "http/1.1"], true, true),
        (&["istio-h2"], true, true),
        (&["h2", "http/1.1"], false, true),
        (&["isti", "xistio"], false, false),
        (&["a-protocol-of-a-very-long-name"], false, false),
        (&["i"], false, false),
    ] {
        let hello = records(&with_protocols(Some(b"a.b"), protocols), 7);
        let expected = Asked { server_name: Some("a.b".into()), mutual, requests };
        assert_eq!(read(&hello), Hello::Tls(expected), "{protocols:?}");
    }
}

#[test]
fn what_is_no_hello_is_told_at_once() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x02\x00", b"\x00"] {
        assert_eq!(read(bytes), Hello::Other, "{bytes:?}");
    }
    assert_eq!(read(b""), Hello::Partial);
    assert_eq!(read(b"\x16\x03\x01"), Hello::Partial);
}

#[test]
fn a_name_with_bytes_that_no_host_has_is_none() {
    assert_eq!(read(&records(&handshake(Some(b"a\0b")), 1 << 14)), Hello::Other);
    assert_eq!(read(&records(&handshake(Some(b"")), 1 << 14)), Hello::Other);
    assert_eq!(read(&records(&handshake(Some(&[b'a'; 256])), 1 << 14)), Hello::Other);
}

proptest! {
    #[test]
    fn a_hello_is_read_whole_however_it_is_cut(
        name in "[a-z0-9.-]{1,255}",
        size in 1_usize..700,
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let handshake = handshake(Some(name.as_bytes()));
        let mut bytes = records(&handshake, size);
        let whole = bytes.len();
        bytes.extend(behind);
        prop_assert_eq!(read(&bytes), named(&name));
        // It is known once all of it is there, and before that nothing is.
        let mut known = false;
        for length in 0..=whole {
            match read(&bytes[..length]) {
                Hello::Partial => prop_assert!(!known),
                Hello::Tls(found) => {
                    prop_assert_eq!(found.server_name.as_deref(), Some(&*name));
                    known = true;
                }
                Hello::Other => prop_assert!(false, "{length} of {whole}"),
            }
        }
        prop_assert!(known);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        read(&bytes);
    }

    /// A hello with some bytes changed: lengths that lie.
    #[test]
    fn a_broken_hello_is_read_to_an_end(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        size in 1_usize..300,
    ) {
        let mut bytes = records(&handshake(Some(b"reviews.example.com")), size);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Hello::Tls(Asked { server_name: Some(name), .. }) = read(&bytes) {
            prop_assert!(name.len() <= LONGEST_NAME);
        }
    }
}

//! A Zipkin span, by the rules of the reference server, whatever it was spelled in.
//!
//! | field | rule |
//! |---|---|
//! | trace id | 1 to 32 lower-case hex digits, left-padded; not all zeros |
//! | id | 1 to 16 lower-case hex digits, left-padded; not all zeros |
//! | parent id | as the id; all zeros, or the id itself, is no parent |
//! | names | lower case; empty is absent |
//! | timestamp, duration | microseconds; zero and negative are absent |
//! | endpoint | an address that can't be read is absent; a port above 65535 is an error |
//! | annotations | in order of time, without duplicates |
//! | shared | removed from a client span |

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::json::STRING_BYTES_MAX;

/// Tags, and annotations, of one span. They are held until the span is whole, at a multiple of what they take
/// in a body; OpenTelemetry's SDKs stop at 128.
pub(crate) const PARTS_MAX: usize = 16 << 10;

/// Text of a request, borrowed where it needed no change.
pub(crate) type Text<'a> = Cow<'a, [u8]>;

/// A Zipkin span.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Span<'a> {
    /// All zeros: not seen yet.
    pub(crate) trace_id: [u8; 16],
    /// All zeros: not seen yet.
    pub(crate) id: [u8; 8],
    pub(crate) parent_id: [u8; 8],
    pub(crate) kind: Option<Kind>,
    pub(crate) name: Text<'a>,
    /// Microseconds since the Unix epoch, 0 where absent.
    pub(crate) timestamp: u64,
    /// Microseconds, 0 where absent.
    pub(crate) duration: u64,
    pub(crate) local: Endpoint<'a>,
    pub(crate) remote: Endpoint<'a>,
    pub(crate) annotations: Vec<Annotation<'a>>,
    pub(crate) tags: Vec<Tag<'a>>,
    pub(crate) debug: bool,
    pub(crate) shared: bool,
}

/// Zipkin's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Client,
    Server,
    Producer,
    Consumer,
}

/// Something that happened at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Annotation<'a> {
    /// Microseconds since the Unix epoch.
    pub(crate) timestamp: i64,
    pub(crate) value: Text<'a>,
}

/// A key with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) value: Text<'a>,
}

/// One end of a call. All fields empty: absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Endpoint<'a> {
    /// Lower case; empty where absent.
    pub(crate) service: Text<'a>,
    /// In its one spelling; empty where absent.
    pub(crate) ipv4: Text<'a>,
    /// In its canonical spelling (RFC 5952); empty where absent.
    pub(crate) ipv6: Text<'a>,
    /// 0 where absent.
    pub(crate) port: u16,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// 400, or 413 for what is beyond a limit.
    pub(crate) status: u16,
    /// In the words of the reference server, where it has words for it; it adds what was read.
    pub(crate) cause: String,
    /// What the reference server does not say: where, and what was expected.
    pub(crate) detail: String,
}

impl Fault {
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self { status: 400, cause: cause.into(), detail: String::new() }
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..Self::new("Malformed") }
    }

    pub(crate) fn too_much(cause: impl Into<String>) -> Self {
        Self { status: 413, ..Self::new(cause) }
    }
}

impl Span<'_> {
    /// Forgets everything and keeps the room.
    pub(crate) fn clear(&mut self) {
        let Self { annotations, tags, .. } = self;
        annotations.clear();
        tags.clear();
        self.trace_id = [0; 16];
        self.id = [0; 8];
        self.parent_id = [0; 8];
        self.kind = None;
        self.name = Text::default();
        self.timestamp = 0;
        self.duration = 0;
        self.local = Endpoint::default();
        self.remote = Endpoint::default();
        self.debug = false;
        self.shared = false;
    }

    /// The rules that need the whole span.
    pub(crate) fn complete(&mut self) -> Result<(), Fault> {
        let (no_trace_id, no_id) = (self.trace_id == [0; 16], self.id == [0; 8]);
        if no_trace_id || no_id {
            let trace_id = if no_trace_id { " traceId" } else { "" };
            let id = if no_id { " id" } else { "" };
            return Err(Fault::new(format!("Missing :{trace_id}{id}")));
        }
        if self.parent_id == self.id {
            self.parent_id = [0; 8];
        }
        if self.kind == Some(Kind::Client) {
            self.shared = false;
        }
        if self.annotations.len() > 1 {
            self.annotations.sort();
            self.annotations.dedup();
        }
        Ok(())
    }
}

impl Kind {
    /// The kind of this name; names are upper case.
    pub(crate) fn named(name: &[u8]) -> Result<Self, Fault> {
        match name {
            b"CLIENT" => Ok(Self::Client),
            b"SERVER" => Ok(Self::Server),
            b"PRODUCER" => Ok(Self::Producer),
            b"CONSUMER" => Ok(Self::Consumer),
            other => Err(Fault::new(format!("No enum constant zipkin2.Span.Kind.{}", quoted(other)))),
        }
    }
}

impl<'a> Endpoint<'a> {
    /// Whether nothing is known.
    pub(crate) fn is_absent(&self) -> bool {
        let Self { service, ipv4, ipv6, port } = self;
        service.is_empty() && ipv4.is_empty() && ipv6.is_empty() && *port == 0
    }

    /// Reads an address, of either family whatever it was called. What is no address leaves everything as it
    /// was.
    pub(crate) fn read_address(&mut self, text: Text<'a>) {
        if is_ipv4(&text) {
            self.ipv4 = text;
        } else if let Some(embedded) = embedded_ipv4(&text) {
            self.ipv4 = embedded.to_vec().into();
        } else if !text.contains(&b'.')
            && let Some(address) =
                core::str::from_utf8(&text).ok().and_then(|text| text.parse::<Ipv6Addr>().ok())
        {
            self.ipv6 = address.to_string().into_bytes().into();
        }
    }

    /// Takes an address in its binary form.
    pub(crate) fn take_address(&mut self, bytes: &[u8]) {
        if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
            self.ipv4 = Ipv4Addr::from(bytes).to_string().into_bytes().into();
        } else if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
            match bytes {
                // IPv4 inside of IPv6, but for ::1.
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] if [a, b, c, d] != [0, 0, 0, 1] => {
                    self.take_address(&[a, b, c, d]);
                }
                bytes => self.ipv6 = Ipv6Addr::from(bytes).to_string().into_bytes().into(),
            }
        }
    }

    /// The address; of two the IPv4 one. Empty where absent.
    pub(crate) fn address(&self) -> &[u8] {
        if self.ipv4.is_empty() { &self.ipv6 } else { &self.ipv4 }
    }

    /// Takes a port; zero and below is absent.
    pub(crate) fn take_port(&mut self, port: i64) -> Result<(), Fault> {
        self.port = match u16::try_from(port.max(0)) {
            Ok(port) => port,
            Err(_) => return Err(Fault::new(format!("invalid port {port}"))),
        };
        Ok(())
    }

    /// Whether both have the same name, or both none.
    pub(crate) fn has_name_of(&self, other: &Endpoint<'a>) -> bool {
        self.service == other.service
    }
}

/// Four numbers up to 255 without leading zeros.
fn is_ipv4(text: &[u8]) -> bool {
    let mut parts = 0;
    for part in text.split(|byte| *byte == b'.') {
        parts += 1;
        let number = part.iter().fold(0u32, |number, digit| {
            number.wrapping_mul(10).wrapping_add(u32::from(digit.wrapping_sub(b'0')))
        });
        let digits = (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
        if !digits || number > 255 || (part.len() > 1 && part[0] == b'0') {
            return false;
        }
    }
    parts == 4
}

/// `::1.2.3.4`, `::ffff:1.2.3.4` and `::0000:1.2.3.4` are IPv4; an address of other mixed forms is not read,
/// as in the reference server.
fn embedded_ipv4(text: &[u8]) -> Option<&[u8]> {
    let (prefix, address) = text.split_at(text.iter().rposition(|byte| *byte == b':')? + 1);
    let known = match prefix {
        b"::" => true,
        [b':', b':', digits @ .., b':'] => {
            digits.len() == 4 && digits.iter().all(|digit| matches!(digit, b'f' | b'F' | b'0'))
        }
        _ => false,
    };
    (known && is_ipv4(address)).then_some(address)
}

/// Adds a tag or an annotation to those of a span.
pub(crate) fn add<T>(parts: &mut Vec<T>, part: T) -> Result<(), Fault> {
    if parts.len() == PARTS_MAX {
        return Err(Fault::too_much(format!("more than {PARTS_MAX} tags or annotations in one span")));
    }
    parts.push(part);
    Ok(())
}

/// An id in hex, padded with zeros on its left.
pub(crate) fn hex_id<const N: usize>(name: &str, hex: &[u8]) -> Result<[u8; N], Fault> {
    if hex.is_empty() {
        return Err(Fault::new(format!("{name} is empty")));
    }
    if hex.len() > 2 * N {
        return Err(Fault::new(format!("{name}.length > {}", 2 * N)));
    }
    let mut id = [0; N];
    // From the right: bytes of two digits, and at the left end perhaps one of one.
    let mut invalid = 0;
    for (byte, digits) in id.iter_mut().rev().zip(hex.rchunks(2)) {
        let (high, low) = match digits {
            [high, low] => (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]),
            digits => (0, DIGITS[usize::from(digits[0])]),
        };
        invalid |= high | low;
        *byte = high << 4 | low & 15;
    }
    if invalid & NO_DIGIT != 0 {
        return Err(Fault::new(format!("{} should be lower-hex encoded with no prefix", quoted(hex))));
    }
    Ok(id)
}

/// What is no digit, in [`DIGITS`].
const NO_DIGIT: u8 = 0x80;

/// Values of lower-case hex digits.
static DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// An id as bytes, padded with zeros on its left.
pub(crate) fn byte_id<const N: usize>(name: &str, bytes: &[u8]) -> Result<[u8; N], Fault> {
    let mut id = [0; N];
    match N.checked_sub(bytes.len()) {
        Some(start) => id[start..].copy_from_slice(bytes),
        None => return Err(Fault::new(format!("{name}.length > {}", 2 * N))),
    }
    Ok(id)
}

/// An id that may not be zero.
pub(crate) fn not_zero<const N: usize>(name: &str, id: [u8; N]) -> Result<[u8; N], Fault> {
    if id == [0; N] { Err(Fault::new(format!("{name} is all zeros"))) } else { Ok(id) }
}

/// A string; what is not UTF-8 becomes U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> Result<Text<'_>, Fault> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(Fault::too_much(format!("a string is longer than {STRING_BYTES_MAX} bytes")));
    }
    Ok(match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

/// Names are lower case, in every alphabet that has cases.
pub(crate) fn lower_case(name: Text<'_>) -> Text<'_> {
    if name.iter().any(|byte| !byte.is_ascii() || byte.is_ascii_uppercase()) {
        String::from_utf8_lossy(&name).to_lowercase().into_bytes().into()
    } else {
        name
    }
}

/// A number that is a time or a span of time: negative is absent.
pub(crate) fn micros(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A sender's text in an answer: short, and on one line.
pub(crate) fn quoted(text: &[u8]) -> String {
    const QUOTED_MAX: usize = 64;
    let text = String::from_utf8_lossy(&text[..text.len().min(QUOTED_MAX)]);
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(endpoint: &Endpoint<'_>) -> (Option<String>, Option<String>) {
        let text = |text: &Text<'_>| (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned());
        (text(&endpoint.ipv4), text(&endpoint.ipv6))
    }

    fn address(text: &str) -> (Option<String>, Option<String>) {
        let mut endpoint = Endpoint::default();
        endpoint.read_address(text.as_bytes().into());
        texts(&endpoint)
    }

    /// Scenario: addresses of both families, mixed forms, and texts that are none.
    /// Guarantees: what the reference server reads of them.
    #[test]
    fn an_address_is_read_by_its_form() {
        let ipv4 = |text: &str| (Some(text.to_owned()), None);
        let ipv6 = |text: &str| (None, Some(text.to_owned()));
        assert_eq!(address("10.43.17.42"), ipv4("10.43.17.42"));
        assert_eq!(address("2001:DB8:0:0::c001"), ipv6("2001:db8::c001"));
        assert_eq!(address("::1"), ipv6("::1"));
        assert_eq!(address("::1.2.3.4"), ipv4("1.2.3.4"));
        assert_eq!(address("::ffff:1.2.3.4"), ipv4("1.2.3.4"));
        assert_eq!(address("::FfFf:1.2.3.4"), ipv4("1.2.3.4"));
        assert_eq!(address("::0000:1.2.3.4"), ipv4("1.2.3.4"));
        for text in [
            "",
            "localhost",
            "1.2.3",
            "1.2.3.256",
            "1.2.3.04",
            "1.2.3.4.5",
            "1..2.3",
            "7::0.128.128.127",
            "::fffe:1.2.3.4",
            "fe80::1%eth0",
            "1:2:3",
            "::ffff:1.2.3",
        ] {
            assert_eq!(address(text), (None, None), "{text}");
        }
    }

    /// Scenario: addresses in bytes.
    /// Guarantees: IPv4 inside of IPv6 is IPv4, but for the loopback address; other lengths are ignored.
    #[test]
    fn an_address_in_bytes_is_read_by_its_length() {
        let read = |bytes: &[u8]| {
            let mut endpoint = Endpoint::default();
            endpoint.take_address(bytes);
            texts(&endpoint)
        };
        assert_eq!(read(&[1, 2, 3, 4]).0.as_deref(), Some("1.2.3.4"));
        let mut long = [0; 16];
        long[15] = 1;
        assert_eq!(read(&long).1.as_deref(), Some("::1"));
        long[12] = 10;
        assert_eq!(read(&long).0.as_deref(), Some("10.0.0.1"));
        long[0] = 0xfe;
        assert_eq!(read(&long).1.as_deref(), Some("fe00::a00:1"));
        assert_eq!(read(&[1, 2, 3]), (None, None));
    }

    /// Scenario: ids of every length, upper case, zeros, too long.
    /// Guarantees: padding on the left; the reference server's words for the rest.
    #[test]
    fn an_id_is_padded_or_refused() {
        assert_eq!(hex_id::<8>("id", b"2"), Ok([0, 0, 0, 0, 0, 0, 0, 2]));
        assert_eq!(
            hex_id::<8>("id", b"6b221d5bc9e6496c"),
            Ok([0x6b, 0x22, 0x1d, 0x5b, 0xc9, 0xe6, 0x49, 0x6c])
        );
        assert_eq!(hex_id::<16>("traceId", b"abc").map(|id| id[13..] == [0, 0x0a, 0xbc]), Ok(true));
        let words = |fault: Result<[u8; 8], Fault>| fault.expect_err("refused").cause;
        assert_eq!(words(hex_id("id", b"")), "id is empty");
        assert_eq!(words(hex_id("id", b"00000000000000001")), "id.length > 16");
        assert_eq!(words(hex_id("id", b"48485A39")), "48485A39 should be lower-hex encoded with no prefix");
        assert_eq!(words(not_zero("id", [0; 8])), "id is all zeros");
        assert_eq!(byte_id::<8>("id", &[1, 2]), Ok([0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(words(byte_id("id", &[1; 9])), "id.length > 16");
    }

    /// Scenario: names in several alphabets, and bytes that are no text.
    /// Guarantees: lower case; what is lower case already is not copied.
    #[test]
    fn names_are_lower_case() {
        assert!(matches!(lower_case(Cow::Borrowed(b"get /x")), Cow::Borrowed(b"get /x")));
        assert_eq!(*lower_case(Cow::Borrowed(b"GET")), *b"get");
        assert_eq!(*lower_case(Cow::Borrowed("ÄΣ".as_bytes())), *"äς".as_bytes());
        assert_eq!(*lower_case(Cow::Borrowed(b"\xff")), *"\u{fffd}".as_bytes());
    }
}

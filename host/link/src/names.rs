//! What is told apart by which number.
//!
//! | number | made | durable | tells apart |
//! | --- | --- | --- | --- |
//! | [`Incarnation`] | with the agent's folder, and anew where a collector asks for it | yes | two lives of one folder: an old copy that came back, a wiped disk |
//! | epoch | 1 with the incarnation, one more at each start | yes | starts of one folder |
//! | [`Boot`] | at each start | the last 64 of the incarnation | two processes that have a copy of the same folder, at the same epoch; two copies that were started since, at any epoch |
//! | [`StoreId`] | with the collector's folder | yes | a collector that has lost what it had acknowledged |
//!
//! A numbering of data records ([`weir_model::Source::incarnation`]) is made of the agent's incarnation and of the log's own, so
//! that a new life of either begins a new numbering.

use std::fmt;

/// One life of an agent's folder: a UUIDv7, so that later ones are higher where clocks are right, and made higher than any that
/// is known where they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u128);

/// One start of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Boot(pub u128);

/// One life of a collector's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StoreId(pub u128);

/// Bits of a UUIDv7 that say version and variant (RFC 9562, 5.7).
const FIXED: u128 = (0x7 << 76) | (0x2 << 62);
const FIXED_MASK: u128 = (0xf << 76) | (0x3 << 62);

impl Incarnation {
    /// A new one: of this time (milliseconds since the Unix epoch) and these random bits, and above `known`.
    pub fn new(unix_millis: u64, random: u128, known: Option<Self>) -> Self {
        let millis = u128::from(unix_millis & 0xffff_ffff_ffff);
        // The highest 48 bits count milliseconds: one more there is above every number of that millisecond.
        let floor = known.map_or(0, |known| (known.0 >> 80) + 1);
        let millis = millis.max(floor).min(0xffff_ffff_ffff);
        Self((millis << 80) | (random & !FIXED_MASK & ((1 << 80) - 1)) | FIXED)
    }

    /// The numbering of a log's records under this incarnation.
    pub fn numbering(self, log: u128) -> u128 {
        self.0 ^ log
    }
}

/// Whether a name has the form of those that certificates prove: a scheme and what it names (RFC 3986, 3.1), as in
/// `urn:weir:host:edge-1`. Nobody takes such a name by saying it.
pub fn is_uri(name: &str) -> bool {
    let Some((scheme, _)) = name.split_once(':') else { return false };
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_part)
}

/// An id as it goes over the wire.
pub fn to_wire(id: u128) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

/// An id as it came over the wire; none where it has not 16 bytes.
pub fn from_wire(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

impl fmt::Display for Incarnation {
    /// As a UUID is written (RFC 9562, 4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a new incarnation while the clock is right, and while it is ten years behind.
    /// Guarantees: it is a UUID of version 7, and above the one that is known.
    #[test]
    fn a_new_incarnation_is_above_the_known_one() {
        let first = Incarnation::new(1_790_000_000_000, u128::MAX, None);
        assert_eq!(first.to_string(), "01a0c450-6c00-7fff-bfff-ffffffffffff");
        let second = Incarnation::new(1_474_000_000_000, 0, Some(first));
        assert!(second > first, "{second} {first}");
        assert_eq!(second.to_string().as_bytes()[14], b'7');
    }

    /// Scenario: names of certificates, and names that agents give themselves.
    /// Guarantees: whatever begins with a scheme is a URI, and nothing else.
    #[test]
    fn a_name_with_a_scheme_is_a_uri() {
        for uri in ["urn:weir:host:a", "dns:web-1", "spiffe://a/b", "weir:", "SPIFFE://a", "a+b-c.1:x"] {
            assert!(is_uri(uri), "{uri}");
        }
        for name in [
            "",
            "edge-1",
            "web-1.example",
            "01a0c450-6c00-7fff-bfff-ffffffffffff",
            ":",
            "::1",
            "1:2",
            "a b:c",
            "ü:x",
        ] {
            assert!(!is_uri(name), "{name}");
        }
    }

    /// Scenario: an id goes over the wire; ids of other lengths come from it.
    /// Guarantees: it comes back the same; the others are none.
    #[test]
    fn an_id_has_sixteen_bytes() {
        assert_eq!(from_wire(&to_wire(7)), Some(7));
        assert_eq!((from_wire(&[]), from_wire(&[0; 15]), from_wire(&[0; 17])), (None, None, None));
    }
}

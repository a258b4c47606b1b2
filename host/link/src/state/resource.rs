//! Names of resources, the order of what is said about them, and digests over many.

use sha2::{Digest as _, Sha256};
use weir_proto::weir::link::v1::KindDigest;

use crate::limits::STATE_NAME_BYTES_MAX;
use crate::names::to_wire;

/// What stands between the parts of a row's key: no name may hold it.
pub(super) const SEPARATOR: u8 = 0;

/// The order of two states of one resource: the higher is the newer (DESIGN 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Order {
    /// Of the agent's folder.
    pub(super) incarnation: u128,
    /// Rises with each report in this incarnation.
    pub(super) revision: u64,
}

/// Says what is wrong with a name.
pub(super) fn check(kind: &str, key: &str) -> Result<(), String> {
    let bounds = 1..=STATE_NAME_BYTES_MAX;
    if !bounds.contains(&kind.len()) || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "give it 1 to 255 visible ASCII characters";
        return Err(format!("the kind {:?} of a state is no name: {what}", shorten(kind)));
    }
    if !bounds.contains(&key.len()) || key.chars().any(char::is_control) {
        let what = "give it 1 to 255 bytes without control characters";
        return Err(format!("the key {:?} of a state of kind {kind} is no name: {what}", shorten(key)));
    }
    Ok(())
}

/// The start of a text that may be of any length.
fn shorten(text: &str) -> String {
    /// Enough to recognise a name by.
    const CHARS_MAX: usize = 60;
    text.chars().take(CHARS_MAX).collect()
}

/// The digest over states of a kind, which come in the order of their keys.
pub(super) fn digest<'a>(kind: &str, states: impl Iterator<Item = (&'a str, Order)>) -> KindDigest {
    let mut hash = Sha256::new();
    let mut count = 0;
    for (key, order) in states {
        hash.update(key.as_bytes());
        hash.update([0]);
        hash.update(to_wire(order.incarnation));
        hash.update(order.revision.to_be_bytes());
        count += 1;
    }
    KindDigest { kind: kind.to_owned(), count, digest: hash.finalize().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: names of all lengths and with characters of all sorts.
    /// Guarantees: what could be taken for a separator, and what has no bound, is no name; the text says what to do.
    #[test]
    fn a_name_is_bounded_and_has_no_control_characters() {
        assert_eq!(check("app/Deployment", "namespace/größe 1"), Ok(()));
        assert_eq!(check(&"k".repeat(255), &"k".repeat(255)), Ok(()));
        for (kind, key) in
            [("", "k"), ("a b", "k"), ("a\0", "k"), ("ä", "k"), ("a", ""), ("a", "x\0y"), ("a", "x\n")]
        {
            assert!(check(kind, key).unwrap_err().contains("give it"), "{kind:?} {key:?}");
        }
        assert!(check(&"k".repeat(256), "k").unwrap_err().len() < 200);
        assert!(check("k", &"k".repeat(1 << 20)).unwrap_err().len() < 200);
    }

    /// Scenario: digests over the same states, over others, and over states whose parts could run into each other.
    /// Guarantees: equal only for equal states.
    #[test]
    fn a_digest_tells_states_apart() {
        let of = |states: &[(&'static str, u128, u64)]| {
            let states = states.iter();
            digest(
                "k",
                states.map(|(key, incarnation, revision)| {
                    (*key, Order { incarnation: *incarnation, revision: *revision })
                }),
            )
        };
        let one = of(&[("a", 1, 1), ("b", 1, 2)]);
        assert_eq!(one, of(&[("a", 1, 1), ("b", 1, 2)]));
        assert_eq!((one.count, one.digest.len()), (2, 32));
        for other in [
            of(&[]),
            of(&[("a", 1, 1)]),
            of(&[("a", 1, 1), ("b", 1, 3)]),
            of(&[("a", 2, 1), ("b", 1, 2)]),
            of(&[("a", 1, 1), ("c", 1, 2)]),
        ] {
            assert_ne!(one.digest, other.digest);
        }
    }
}

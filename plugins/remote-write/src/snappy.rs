//! Snappy's block format: one block, its decoded length in front. (The framed format begins with `ff 06 00 00`; it is no block.)

use snap::raw::{Decoder, Encoder, decompress_len};

use crate::Fault;

/// Bytes of a decoded request (`client_golang`, `exp/api/remote`).
pub const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A copy of 3 bytes stands for at most 64, so no block decodes to more than so many times its length.
const RATIO_MAX: usize = 22;

/// Decodes a block. What its length claims is checked before anything is allocated: against the limit and against what so short a
/// block can hold.
///
/// # Errors
/// [`Fault`] for what is no block, or one beyond [`DECODED_BYTES_MAX`].
pub fn decode(block: &[u8]) -> Result<Vec<u8>, Fault> {
    let corrupt = |what: &str| Fault::unreadable(format!("snappy: corrupt input: {what}"));
    if block.is_empty() {
        return Err(corrupt("the body is empty; a request is one block of snappy's block format"));
    }
    let length = decompress_len(block).map_err(|error| corrupt(&error.to_string()))?;
    if length > DECODED_BYTES_MAX {
        return Err(Fault::unreadable(format!(
            "the decoded request has {length} bytes; at most {DECODED_BYTES_MAX} are taken, send smaller requests"
        )));
    }
    if length > block.len().saturating_mul(RATIO_MAX) {
        return Err(corrupt("it claims to decode to more than a block of its length can"));
    }
    Decoder::new().decompress_vec(block).map_err(|error| corrupt(&error.to_string()))
}

/// Encodes a message as a block; nothing for one beyond [`DECODED_BYTES_MAX`], which no receiver takes.
#[must_use]
pub fn encode(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() > DECODED_BYTES_MAX {
        return None;
    }
    Encoder::new().compress_vec(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: texts of many lengths, some that repeat and some that do not.
    /// Guarantees: what was encoded is decoded to what it was.
    #[test]
    fn a_block_is_decoded_to_what_it_was() {
        let mut random = fastrand::Rng::with_seed(7);
        for length in [0, 1, 64, 1000, 70_000] {
            let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            for message in [vec![7; length], noise] {
                let block = encode(&message).expect("below the limit");
                assert_eq!(decode(&block), Ok(message));
            }
        }
    }

    /// Scenario: no bytes; a framed stream; a length beyond the limit, of 2^32 - 1, of more than 32 bits; a short block with a long
    /// length; a block that is cut.
    /// Guarantees: each is refused, those with a claim for the claim.
    #[test]
    fn what_is_no_block_is_refused() {
        let text = |block: &[u8]| decode(block).expect_err("no block").text;
        assert!(text(&[]).contains("empty"));
        assert!(text(b"\xff\x06\x00\x00sNaPpY").starts_with("snappy: corrupt input"));
        assert!(text(&[0x81, 0x80, 0x80, 0x10, 0]).contains("33554433 bytes"));
        assert!(text(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).contains("4294967295 bytes"));
        assert!(text(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]).starts_with("snappy: corrupt input"));
        assert!(text(&[0x80, 0x80, 0x80, 0x10, 0, b'x']).contains("claims"));
        let block = encode(&[7; 1000]).expect("below the limit");
        assert!(text(&block[..block.len() - 1]).starts_with("snappy: corrupt input"));
        assert_eq!(encode(&vec![0; DECODED_BYTES_MAX + 1]), None);
    }

    /// Scenario: the densest block there is: one byte, then copies of it.
    /// Guarantees: it is decoded; the limit of the ratio refuses nothing that is true.
    #[test]
    fn the_densest_block_is_decoded() {
        let message = vec![7; DECODED_BYTES_MAX];
        let block = encode(&message).expect("at the limit");
        assert!(message.len() / block.len() >= 20, "{}", message.len() / block.len());
        assert_eq!(decode(&block).map(|message| message.len()), Ok(DECODED_BYTES_MAX));
    }
}

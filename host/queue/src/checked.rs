//! Small values with a checksum: redb trusts what it reads from a file that was closed cleanly.
//!
//! ```text
//! value   crc32c u32 (over key and content) · content
//! ```

use crate::segment::Fault;

/// The value for a key.
pub(crate) fn seal(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + content.len());
    value.extend_from_slice(&checksum(key, content).to_le_bytes());
    value.extend_from_slice(content);
    value
}

/// The content of a value.
pub(crate) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Fault> {
    let (crc, content) = value.split_first_chunk::<4>().ok_or_else(|| damaged(key))?;
    if u32::from_le_bytes(*crc) != checksum(key, content) {
        return Err(damaged(key));
    }
    Ok(content)
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), content)
}

fn damaged(key: &[u8]) -> Fault {
    Fault::Damaged(format!("the value of {}", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each bit of a value flipped, and the value under another key.
    /// Guarantees: only the value as it was written, under its own key, is read.
    #[test]
    fn a_value_is_read_as_it_was_written_or_not_at_all() {
        let value = seal(b"key", b"content");
        assert_eq!(unseal(b"key", &value).unwrap(), b"content");
        assert!(unseal(b"kez", &value).is_err());
        assert!(unseal(b"key", &value[..3]).is_err());
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &flipped).is_err(), "bit {bit}");
        }
    }
}

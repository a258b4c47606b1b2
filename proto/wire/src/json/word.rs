//! Eight bytes of a JSON string at a time.

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);

/// The high bits of bytes that may not stand in a JSON string as they are: quote, backslash, control
/// characters. The lowest set bit is exact; bits above it may be false, because a borrow runs upwards.
#[inline]
pub(super) const fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found = (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    found & HIGHS
}

/// Bytes before the first special one; `special` must not be 0.
#[inline]
pub(super) const fn plain(special: u64) -> usize {
    (special.trailing_zeros() / 8) as usize
}

/// The high bits of bytes that are not ASCII.
#[inline]
pub(super) const fn non_ascii(word: u64) -> u64 {
    word & HIGHS
}

/// The last bytes of a string, fewer than eight, in the low bytes of a word; the rest is zero.
#[inline]
pub(super) fn load_short(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // The two overlap where there are fewer than eight; the same bits meet in the same place.
        return u64::from(u32::from_le_bytes(*first))
            | u64::from(u32::from_le_bytes(*last)) << (8 * (length - 4));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
        return u64::from(u16::from_le_bytes(*first))
            | u64::from(u16::from_le_bytes(*last)) << (8 * (length - 2));
    }
    bytes.first().map_or(0, |byte| u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: every byte at every place of a word of letters, and of a word of bytes that are not ASCII.
    /// Guarantees: the first special byte is found, and nothing else is taken for one.
    #[test]
    fn the_first_special_byte_is_found() {
        for filler in [b'a', 0xff, 0x80, 0x21, 0x23, 0x5b, 0x5d, 0x7f] {
            for place in 0..8 {
                for byte in 0..=255u8 {
                    let mut bytes = [filler; 8];
                    bytes[place] = byte;
                    let found = special(u64::from_le_bytes(bytes));
                    if byte < 0x20 || byte == b'"' || byte == b'\\' {
                        assert_eq!(plain(found), place, "{bytes:?}");
                    } else {
                        assert_eq!(found, 0, "{bytes:?}");
                    }
                }
            }
        }
    }

    /// Scenario: two special bytes in a word.
    /// Guarantees: the first is the one that is found.
    #[test]
    fn a_borrow_does_not_hide_the_first_special_byte() {
        assert_eq!(plain(special(u64::from_le_bytes(*b"ab\"!!\x1f#\\"))), 2);
        assert_eq!(plain(special(u64::from_le_bytes(*b"ab \x1f!!!!"))), 3);
    }

    /// Scenario: strings of no to seven bytes.
    /// Guarantees: the word holds them in order, low first.
    #[test]
    fn short_strings_are_loaded_whole() {
        let text = b"abcdefg";
        for length in 0..=7 {
            let mut expected = [0; 8];
            expected[..length].copy_from_slice(&text[..length]);
            assert_eq!(load_short(&text[..length]).to_le_bytes(), expected);
        }
    }
}

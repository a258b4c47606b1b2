//! Numbers of the compact protocol: seven bits a byte, low first; signed ones zigzag.

/// Bytes of the longest varint.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// The number at the beginning of `bytes`, and how many bytes it takes.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if at == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    None
}

/// Appends a number.
pub(crate) fn write(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// 0, 1, 2, 3 … as 0, -1, 1, -2 …
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// The other way round.
pub(crate) fn zigzag(number: i64) -> u64 {
    (number << 1).cast_unsigned() ^ (number >> 63).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the ends of the range and what lies around zero; numbers that do not end, or are too large.
    /// Guarantees: what was written is read; what is no number is none.
    #[test]
    fn numbers_are_read_as_they_were_written() {
        for number in [0, 1, -1, 2, -2, 63, -64, 64, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write(&mut out, zigzag(number));
            let (read, bytes) = read(&out).unwrap();
            assert_eq!((unzigzag(read), bytes), (number, out.len()));
        }
        assert_eq!(read(&[0xff; 9]), None);
        assert_eq!(read(&[0xff; 20]), None);
        assert_eq!(read(&[0x80, 0]), Some((0, 2)), "need not be minimal");
    }
}

//! MD5 (RFC 1321), for `hashmod`, whose numbers must be those of Prometheus. It protects nothing.

/// The last eight bytes of a text's MD5, as a number, highest byte first.
pub(crate) fn last_eight(text: &[u8]) -> u64 {
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(text.len() as u64).wrapping_mul(8).to_le_bytes());
    for block in padded.chunks_exact(64) {
        round(&mut state, block);
    }
    u64::from(state[2].swap_bytes()) << 32 | u64::from(state[3].swap_bytes())
}

fn round(state: &mut [u32; 4], block: &[u8]) {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let word = |index: usize| {
        let bytes: [u8; 4] = block[4 * index..][..4].try_into().expect("a block has sixteen words");
        u32::from_le_bytes(bytes)
    };
    let [mut a, mut b, mut c, mut d] = *state;
    for step in 0..64 {
        let (mixed, index) = match step / 16 {
            0 => ((b & c) | (!b & d), step),
            1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
            2 => (b ^ c ^ d, (3 * step + 5) % 16),
            _ => (c ^ (b | !d), (7 * step) % 16),
        };
        // The table of RFC 1321: floor(2^32 · |sin(step + 1)|).
        let constant = ((step as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32;
        let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(word(index));
        let turned = sum.rotate_left(SHIFTS[step / 16][step % 4]);
        (a, d, c, b) = (d, c, b, b.wrapping_add(turned));
    }
    for (part, more) in state.iter_mut().zip([a, b, c, d]) {
        *part = part.wrapping_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: texts of RFC 1321's test suite.
    /// Guarantees: the last eight bytes are those of its sums.
    #[test]
    fn the_sums_are_those_of_the_rfc() {
        for (text, sum) in [
            ("", 0xe980_0998_ecf8_427e),
            ("a", 0x31c3_99e2_6977_2661),
            ("abc", 0xd696_3f7d_28e1_7f72),
            ("message digest", 0x525a_2f31_aaf1_61d0),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                0xac49_da2e_2107_b67a,
            ),
        ] {
            assert_eq!(last_eight(text.as_bytes()), sum, "{text:?}");
        }
    }
}

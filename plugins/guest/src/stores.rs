//! Copies of short strings without a call out of the guest.

#![expect(
    unsafe_code,
    reason = "stores behind a reservation that was made once for many of them; each block says why it holds"
)]

/// Copies `text` and tells whether it can stand in a JSON string as it is: ASCII without controls, quotes and
/// backslashes.
///
/// The last piece of a text overlaps the one before it, so nothing outside of `text` is read and nothing
/// behind its copy is written.
///
/// # Safety
/// `text.len()` bytes from `at` on may be written.
#[inline(always)]
pub(crate) unsafe fn put_bytes(at: *mut u8, text: &[u8]) -> (*mut u8, bool) {
    let len = text.len();
    let from = text.as_ptr();
    let mut found = 0u64;
    // SAFETY: every piece is read within `text`, as the comparisons with `len` before it say, and written at
    // the same offset of a destination that is as long.
    unsafe {
        let mut copy8 = |offset: usize| {
            let piece = from.add(offset).cast::<u64>().read_unaligned();
            at.add(offset).cast::<u64>().write_unaligned(piece);
            found |= unclean(piece);
        };
        if len >= 16 {
            let mut offset = 0;
            while offset + 16 <= len {
                copy8(offset);
                copy8(offset + 8);
                offset += 16;
            }
            if offset < len {
                copy8(len - 16);
                copy8(len - 8);
            }
        } else if len >= 8 {
            copy8(0);
            copy8(len - 8);
        } else if len >= 4 {
            let first = from.cast::<u32>().read_unaligned();
            let last = from.add(len - 4).cast::<u32>().read_unaligned();
            at.cast::<u32>().write_unaligned(first);
            at.add(len - 4).cast::<u32>().write_unaligned(last);
            found |= unclean(u64::from(first) | u64::from(last) << 32);
        } else if len > 0 {
            // One to three bytes: the first, the middle and the last are all of them.
            let (first, middle, last) = (from.read(), from.add(len / 2).read(), from.add(len - 1).read());
            at.write(first);
            at.add(len / 2).write(middle);
            at.add(len - 1).write(last);
            found |= unclean(u64::from_le_bytes([first, middle, last, b' ', b' ', b' ', b' ', b' ']));
        }
        (at.add(len), found == 0)
    }
}

/// Not zero when one of eight bytes is a control, a quote, a backslash or not ASCII.
///
/// A byte below `c` borrows when `c` is subtracted, which sets its high bit; a borrow may set more bits
/// above, but only if there was one to find.
#[inline(always)]
pub(crate) const fn unclean(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let control = eight.wrapping_sub(ONES * 0x20);
    let quote = (eight ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (eight | control | quote | backslash) & HIGHS
}

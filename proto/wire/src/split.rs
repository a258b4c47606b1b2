//! Make two requests of one, and one of many.

use core::ops::Range;

use crate::shape::{self, Verdict};
use crate::signal::Signal;

/// Halves a request by items: the first half gets the odd one less. Resource, scope and metric around the cut
/// stand in both halves; order is kept. Even one metric with many points is halved.
///
/// Nothing where there are fewer than two items or the body is malformed: such a body can't be made smaller.
#[must_use]
pub fn halve(signal: Signal, body: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut items = 0usize;
    shape::each_item(signal, body, &mut |_| items += 1).ok()?;
    let first_half = items / 2;
    if first_half == 0 {
        return None;
    }
    let mut index = 0usize;
    let mut cut = 0;
    let find = &mut |item: Range<usize>| {
        if index == first_half {
            cut = item.start;
        }
        index += 1;
    };
    shape::each_item(signal, body, find).ok()?;
    let first = shape::select(signal, body, &|record| match record {
        record if record.end <= cut => Verdict::Keep,
        record if record.start >= cut => Verdict::Drop,
        _ => Verdict::Part,
    });
    let second = shape::select(signal, body, &|record| match record {
        record if record.start >= cut => Verdict::Keep,
        record if record.end <= cut => Verdict::Drop,
        _ => Verdict::Part,
    });
    Some((first.ok()?, second.ok()?))
}

/// Joins requests of one signal into one: their one repeated field makes concatenation exactly that
/// (protobuf, "merging"). Unknown fields come along.
#[must_use]
pub fn join(bodies: &[&[u8]]) -> Vec<u8> {
    bodies.concat()
}

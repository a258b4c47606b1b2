//! What a page takes of the heap, and what it reckons that it takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::*;

/// Series of a page.
const SERIES: usize = 400;

/// Bytes that an allocator adds to each piece.
const HEADER_BYTES: usize = 8;

/// What pieces are rounded up to.
const PIECE_BYTES: usize = 8;

thread_local! {
    /// Bytes that this thread holds; tests run beside each other.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The system's, and counts.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn piece(layout: Layout) -> usize {
    (layout.size() + HEADER_BYTES).next_multiple_of(PIECE_BYTES)
}

#[expect(unsafe_code, reason = "an allocator can't be written without; it hands all on to the system's")]
// SAFETY: the system's allocator does what is asked for; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get().wrapping_add(piece(layout)));
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(piece(layout)));
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Writes a point of a series, by its number and by how often it was absorbed before.
type Point<'p> = &'p dyn Fn(usize, usize, &mut Encoder);

/// Absorbs a page, so many series in each family, twice; what is held of it, and what it is reckoned to be.
fn held(each: usize, field: u32, temporality: u64, point: Point<'_>) -> (usize, usize) {
    let mut exporter = exporter("{}");
    let mut absorb = |turn: usize| {
        for family in 0..SERIES / each {
            let name = format!("a_family_of_some_name_{family:03}");
            let points = |data: &mut Encoder| {
                for at in family * each..(family + 1) * each {
                    data.message(1, |out| {
                        out.fixed64(3, 1 + turn as u64);
                        point(at, turn, out);
                    });
                }
                data.nonzero_varint(2, temporality);
                if field == 7 {
                    data.bool(3, true);
                }
            };
            let metric = |out: &mut Encoder| {
                out.string(1, &name);
                out.message(field, points);
            };
            assert_eq!(exporter.absorb_at(&batch(&[&metric]), 1), Outcome::Accepted);
        }
    };
    let before = HELD.get();
    absorb(0);
    absorb(1);
    (HELD.get() - before, exporter.page.bytes())
}

fn label(out: &mut Encoder, field: u32, at: usize) {
    out.attribute_str(field, "series", format!("{at:06}"));
}

fn value(at: usize, _: usize, out: &mut Encoder) {
    out.double(4, 1.0);
    label(out, 7, at);
}

fn long(at: usize, turn: usize, out: &mut Encoder) {
    value(at, turn, out);
    out.attribute_str(7, "long", "x".repeat(3_000));
}

fn traced(at: usize, turn: usize, out: &mut Encoder) {
    value(at, turn, out);
    out.message(5, |out| {
        out.double(3, 1.0);
        out.bytes(4, [1; 8]);
        out.bytes(5, [2; 16]);
    });
}

fn buckets(at: usize, first: usize, count: usize, out: &mut Encoder) {
    out.fixed64(4, count as u64);
    out.packed_fixed64(6, (0..count).map(|_| 1));
    out.packed_double(7, (first..first + count - 1).map(|bound| bound as f64));
    label(out, 9, at);
}

fn scaled(at: usize, _: usize, out: &mut Encoder) {
    out.fixed64(4, 200);
    for side in [8, 9] {
        out.message(side, |out| out.bytes(2, [1; 100]));
    }
    label(out, 1, at);
}

fn summary(at: usize, _: usize, out: &mut Encoder) {
    for quantile in [0.5, 0.9, 0.99] {
        out.message(6, |out| out.double(1, quantile));
    }
    label(out, 7, at);
}

/// Scenario: pages of numbers, of histograms with the same, with other and with changing bounds, with scales, of summaries,
/// with exemplars, with long labels; many series in a family, and one.
/// Guarantees: what is held is at most a tenth more than what the page reckons, for that is what bounds it.
#[test]
fn a_page_takes_what_it_reckons() {
    let all: [(&str, u32, u64, Point<'_>); 10] = [
        ("numbers", 5, 0, &value),
        ("long labels", 5, 0, &long),
        ("exemplars", 7, 2, &traced),
        ("shared bounds", 9, 2, &|at, _, out| buckets(at, 0, 100, out)),
        ("other bounds", 9, 2, &|at, _, out| buckets(at, at, 100, out)),
        ("few buckets", 9, 2, &|at, _, out| buckets(at, at, 2, out)),
        ("changing bounds", 9, 2, &|at, turn, out| buckets(at, turn, 100, out)),
        ("scales", 10, 2, &scaled),
        ("deltas with scales", 10, 1, &scaled),
        ("summaries", 11, 0, &summary),
    ];
    let mut faults = Vec::new();
    for (each, (what, field, temporality, point)) in
        [1, SERIES].into_iter().flat_map(|each| all.map(|one| (each, one)))
    {
        let (held, reckoned) = held(each, field, temporality, point);
        let line = format!("{what}, {each} in a family: {held} bytes, reckoned to be {reckoned}");
        println!("{line}");
        if held * 10 > reckoned * 11 {
            faults.push(line);
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Scenario: the bounds of all histograms of a family change.
/// Guarantees: they are shared again.
#[test]
fn new_bounds_are_shared_again() {
    let (stay, _) = held(SERIES, 9, 2, &|at, _, out| buckets(at, 0, 100, out));
    let (change, _) = held(SERIES, 9, 2, &|at, turn, out| buckets(at, turn, 100, out));
    assert!(change < stay + 4_096, "{change} {stay}");
}

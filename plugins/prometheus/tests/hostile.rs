//! Bodies that want to be more in memory than they are.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use weir_guest::wire::Encoder;
use weir_prometheus::protobuf::{Fault, HEAD_BYTES_MAX, METRIC_BYTES_MAX, Wanted, read};

/// Counts what each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: the system's allocator does the work; the counters are numbers of the thread, which need no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that are held beside what was held before.
fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = run();
    (result, usize::try_from(PEAK.get() - before).expect("no less than before"))
}

/// What reading may hold: a quarter of what an instance has.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Bytes of the bodies: as large as one may be.
const BODY_BYTES: usize = 16 << 20;

/// A family of this kind made of one metric, so often that the body is as large as a body may be.
fn body(kind: u64, metric: &[u8]) -> Vec<u8> {
    let mut family = Encoder::new();
    family.string(1, "m");
    family.varint(3, kind);
    for _ in 0..(BODY_BYTES - 64) / (metric.len() + 5) {
        family.bytes(4, metric);
    }
    let mut out = Encoder::new();
    out.raw_varint(family.len() as u64);
    out.raw(family.as_bytes());
    out.into_bytes()
}

/// Field `field`, which holds a message that consists of so many fields `part`.
fn parts(field: u32, part: u32, bytes: &[u8], count: usize) -> Vec<u8> {
    let mut out = Encoder::new();
    out.message(field, |out| (0..count).for_each(|_| out.bytes(part, bytes)));
    out.into_bytes()
}

/// Points of a body, and the most bytes that were held.
fn points(body: &[u8], wanted: Wanted) -> (Result<usize, Fault>, usize) {
    peak(|| {
        let mut points = 0;
        read(body, wanted, |family| points += family.points.len())?;
        Ok(points)
    })
}

/// Scenario: bodies of 16 MiB in one family: metrics of nothing; of labels of a byte; of as many empty buckets, quantiles, exemplars
/// as are taken; of exemplars with a label each; of native buckets of a byte each.
/// Guarantees: all are read, and what is held at once stays below a bound.
#[test]
fn a_family_is_not_held_whole() {
    let labels: Vec<u8> = (0..500_u16)
        .flat_map(|label| {
            let mut out = Encoder::new();
            out.message(1, |pair| pair.string(1, &format!("{label:x}")));
            out.into_bytes()
        })
        .collect();
    let native = {
        let mut out = Encoder::new();
        out.message(7, |out| {
            for field in [9, 12] {
                out.message(field, |span| span.varint(2, 16_384));
                out.bytes(field + 1, vec![0; 16_384]);
            }
        });
        out.into_bytes()
    };
    let metrics = [
        ("nothing", 1, Vec::new()),
        ("labels", 1, labels),
        ("buckets", 4, parts(7, 3, &[], 16_384)),
        ("quantiles", 2, parts(4, 3, &[], 16_384)),
        ("exemplars", 0, parts(3, 2, &[], 16_384)),
        ("exemplars with labels", 0, parts(3, 2, &[0x0a, 3, 0x0a, 1, b'a'], 16_384)),
        ("native", 4, native),
    ];
    for (name, kind, metric) in metrics {
        let body = body(kind, &metric);
        let (read, held) = points(&body, Wanted { native: true, classic_too: true });
        let read = read.expect(name);
        println!("{name}: {read} points of {} bytes, {held} held", metric.len());
        assert_eq!(read, (BODY_BYTES - 64) / (metric.len() + 5), "{name}");
        assert!(held <= HELD_BYTES_MAX, "{name}: {held} bytes");
    }
}

/// Scenario: a metric, and a family's help, as large as may be and one byte larger; a label twice, whose name is long.
/// Guarantees: what is larger is refused by a short fault that says the bound.
#[test]
fn what_is_too_large_to_hold_is_refused() {
    let family = |help: usize, metric: &[u8]| {
        let mut family = Encoder::new();
        family.string(1, "m");
        family.string(2, &"h".repeat(help));
        family.bytes(4, metric);
        let mut out = Encoder::new();
        out.raw_varint(family.len() as u64);
        out.raw(family.as_bytes());
        out.into_bytes()
    };
    // A field that nobody knows, of one byte each.
    let metric = |bytes: usize| [8, 0].repeat(bytes / 2);
    let read = |body: &[u8]| points(body, Wanted::default()).0;
    assert_eq!(read(&family(HEAD_BYTES_MAX, &metric(METRIC_BYTES_MAX))), Ok(1));
    let fault = read(&family(0, &metric(METRIC_BYTES_MAX + 2))).expect_err("a large metric");
    assert_eq!(fault.what, format!("a metric of more than {METRIC_BYTES_MAX} bytes"));
    let fault = read(&family(HEAD_BYTES_MAX + 1, &[])).expect_err("a long help");
    assert_eq!(fault.what, format!("a name, a help or a unit of more than {HEAD_BYTES_MAX} bytes"));
    let mut twice = Encoder::new();
    for _ in 0..2 {
        twice.message(1, |pair| pair.string(1, &"\u{1}".repeat(100_000)));
    }
    let fault = read(&family(0, twice.as_bytes())).expect_err("a label twice");
    assert!(fault.what.contains("is not unique") && fault.what.len() < 1_024, "{} bytes", fault.what.len());
}

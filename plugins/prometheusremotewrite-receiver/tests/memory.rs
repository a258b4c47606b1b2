//! What a request costs, measured: an instance has 64 MiB, and one that asks for more is gone with its request.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use prometheusremotewrite_receiver::read;
use weir_exposition::Kind;
use weir_remote_write::{Exemplar, Histogram, Metadata, Sample, Series, Version, Writer};

/// What an instance has, less what its code and its stack take. Here texts and lists take twice as much beside their content as
/// there, so what fits here fits there.
const INSTANCE_BYTES: isize = (64 << 20) - (2 << 20);

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn add(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe to write; this one hands on to the system's and counts"
)]
// SAFETY: every call is handed on as it came, and the cells allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size().cast_signed());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-layout.size().cast_signed());
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What reading it took at most, the request among it, and whether it was taken.
fn measure(message: Vec<u8>, version: Version) -> (isize, bool) {
    let before = NOW.get() - message.capacity().cast_signed();
    PEAK.set(NOW.get());
    let taken = read(&message, version).map_err(|fault| assert_eq!(fault.status, 413, "{fault}")).is_ok();
    (PEAK.get() - before, taken)
}

fn message(version: Version, series: impl Iterator<Item = Series<'static>>) -> Vec<u8> {
    let mut writer = Writer::new(version);
    for name in ["h", "s"] {
        let kind = if name == "h" { Kind::Histogram } else { Kind::Summary };
        if version == Version::V1 {
            writer.metadata(&Metadata { family: name, kind, help: "", unit: "" });
        }
    }
    series.for_each(|series| writer.series(&series));
    let mut message = writer.into_message();
    message.shrink_to_fit();
    message
}

fn samples(count: usize) -> Vec<Sample> {
    (0..count as i64).map(|at| Sample { value: 1.0, timestamp: 1_700_000_000_000 + at, start: 0 }).collect()
}

/// A text that lives as long as the test.
fn text(text: String) -> &'static str {
    text.leak()
}

const SHAPES: [&str; 7] = ["parts", "buckets", "numbers", "labels", "infos", "exemplars", "natives"];

/// As many samples, or what stands for them, in the shape that is named.
fn shape(name: &str, count: usize) -> Vec<u8> {
    let one = |name, labels: &[(&'static str, &'static str)], samples| Series {
        labels: [&[("__name__", name)], labels].concat(),
        samples,
        ..Series::default()
    };
    let many = |make: &dyn Fn(&'static str) -> Series<'static>| {
        let texts = (0..count).map(|number| text(number.to_string()));
        message(Version::V1, texts.map(make))
    };
    match name {
        "parts" => message(Version::V1, [one("h_count", &[], samples(count))].into_iter()),
        "buckets" => many(&|number| one("h_bucket", &[("le", number)], samples(1))),
        "numbers" => message(Version::V1, [one("m", &[("a", "b")], samples(count))].into_iter()),
        "labels" => {
            many(&|number| one("m", &[("a", number), ("b", "1"), ("c", "2"), ("d", "3")], samples(1)))
        }
        "infos" => many(&|number| one("target_info", &[("instance", number), ("job", "j")], samples(1))),
        "exemplars" => many(&|_| {
            let labels = vec![("a", "b"); 8];
            Series {
                exemplars: vec![Exemplar { labels, value: 1.0, timestamp: 1 }],
                ..one("m", &[], Vec::new())
            }
        }),
        _ => {
            let histogram =
                |sample: Sample| Histogram { timestamp: sample.timestamp, ..Histogram::default() };
            let histograms = samples(count).into_iter().map(histogram).collect();
            message(Version::V1, [Series { histograms, ..one("n", &[], Vec::new()) }].into_iter())
        }
    }
}

/// Scenario: series of seven shapes that take little on the wire, from ten thousand of them to more than are taken.
/// Guarantees: ten thousand are taken; at some number they are refused, and up to there what it takes to read them fits an instance.
#[test]
fn what_is_taken_fits_an_instance() {
    let mut wrong = Vec::new();
    for name in SHAPES {
        let mut was_refused = false;
        for count in [10_000, 30_000, 60_000, 90_000, 130_000, 180_000, 225_000, 260_000, 500_000] {
            let (bytes, taken) = measure(shape(name, count), Version::V1);
            println!("{name} {count}: {bytes} {taken}");
            was_refused |= !taken;
            if bytes > INSTANCE_BYTES || (count == 10_000 && !taken) {
                wrong.push(format!("{name} {count}: {bytes} bytes, {taken}"));
            }
            if was_refused {
                break;
            }
        }
        if !was_refused {
            wrong.push(format!("{name}: never refused"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! What each change of a request costs: 1000 spans of 845 bytes with 20 attributes, as senders batch them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use weir_wire::json::{JsonLimits, to_json, to_protobuf};
use weir_wire::{Addition, Encoder, Signal, WalkLimits, augment, cut, group, halve, join, walk};

/// Spans of a request.
const SPANS: u32 = 1000;

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    bytes(&mut criterion);
    json(&mut criterion);
    criterion.final_summary();
}

fn bytes(criterion: &mut Criterion) {
    let body = request(&["one"], SPANS);
    let quarter = SPANS / 4;
    let mixed = request(&["one", "two", "one", "two"], quarter);
    let limits = WalkLimits::default();
    let walked = walk(Signal::Traces, &body, &limits).expect("our own request");
    let parts = walk(Signal::Traces, &mixed, &limits).expect("our own request").resources;
    // One span without an id, so that there is something to cut.
    let mut flawed = body.clone();
    flawed.extend_from_slice(&[0x0a, 4, 0x12, 2, 0x12, 0]);
    let flaw = walk(Signal::Traces, &flawed, &limits).expect("whole, with an invalid span");
    assert_eq!((walked.invalid.len(), flaw.invalid.len()), (0, 1), "what the rows below are about");
    let additions = [Addition::string("host.name", "load-host"), Addition::string("os.type", "linux")];

    let mut rows = criterion.benchmark_group("wire");
    rows.throughput(Throughput::Elements(u64::from(SPANS)));
    rows.bench_function("walk", |b| b.iter(|| walk(Signal::Traces, black_box(&body), &limits)));
    rows.bench_function("cut nothing", |b| b.iter(|| cut(black_box(&body), &walked).map(|body| body.len())));
    rows.bench_function("cut one span", |b| b.iter(|| cut(black_box(&flawed), &flaw)));
    rows.bench_function("augment by two", |b| b.iter(|| augment(black_box(&body), &additions, false)));
    rows.bench_function("group two nodes", |b| b.iter(|| group(black_box(&mixed), &parts, &[0, 1, 0, 1], 2)));
    rows.bench_function("halve", |b| b.iter(|| halve(Signal::Traces, black_box(&body))));
    rows.bench_function("join two", |b| b.iter(|| join(black_box(&[&body, &body]))));
    rows.bench_function("copy", |b| b.iter(|| black_box(&body).to_vec()));
    rows.finish();
}

fn json(criterion: &mut Criterion) {
    let body = request(&["one"], SPANS);
    let mut text = Vec::new();
    to_json(Signal::Traces, &body, &mut text).expect("our own request");
    let limits = JsonLimits::default();

    let mut rows = criterion.benchmark_group("json");
    rows.throughput(Throughput::Elements(u64::from(SPANS)));
    rows.bench_function("to JSON", |b| {
        let mut out = Vec::with_capacity(text.len());
        b.iter(|| {
            out.clear();
            to_json(Signal::Traces, black_box(&body), &mut out)
        });
    });
    rows.bench_function("to protobuf", |b| b.iter(|| to_protobuf(Signal::Traces, black_box(&text), &limits)));
    rows.finish();
}

/// A request with a group of `spans` spans for each instance.
fn request(instances: &[&str], spans: u32) -> Vec<u8> {
    let mut out = Encoder::with_capacity(instances.len() * spans as usize * 1024);
    for instance in instances {
        out.message(1, |group| {
            group.message(1, |resource| {
                resource.attribute_str(1, "service.name", "checkout");
                resource.attribute_str(1, "service.instance.id", instance);
            });
            group.message(2, |scope| {
                for index in 1..=spans {
                    scope.message(2, |span| one_span(span, index));
                }
            });
        });
    }
    out.into_bytes()
}

fn one_span(span: &mut Encoder, index: u32) {
    let id = u64::from(index);
    span.bytes(1, (u128::from(id) << 64 | 7).to_be_bytes());
    span.bytes(2, id.to_be_bytes());
    span.bytes(4, (id / 2 + 1).to_be_bytes());
    span.string(5, "GET /api/v1/products");
    span.varint(6, 2);
    span.fixed64(7, 1_790_000_000_000_000_000 + id);
    span.fixed64(8, 1_790_000_000_001_500_000 + id);
    for number in 0..20 {
        span.attribute_str(9, format!("key.{number:02}.name"), format!("value {index:06} {number:07}"));
    }
}

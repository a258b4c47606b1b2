//! What an exporter does with a lease before it is sent: joining its records.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use weir_exporter::bisect::join;
use weir_model::Seq;
use weir_queue::Record;

/// Bytes of a record of a thousand spans.
const BYTES: usize = 845_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = criterion.benchmark_group("lease");
    for count in [1, 2, 8] {
        let record = |seq| Record {
            seq: Seq(seq),
            items: 1000,
            body: Bytes::from(vec![0x5a; BYTES]),
            attempts: 1,
            origin: None,
        };
        let records: Vec<_> = (0..count).map(record).collect();
        rows.throughput(Throughput::Bytes(count * BYTES as u64));
        rows.bench_function(BenchmarkId::new("join", count), |b| b.iter(|| join(black_box(&records))));
    }
    rows.finish();
    criterion.final_summary();
}

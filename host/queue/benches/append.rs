//! Append rounds on disk, beside the same bytes written with `O_DSYNC` and no books kept.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use weir_model::{Batch, LANES, Lane, Ledger, Log, Signal};
use weir_queue::{Cursor, DiskQueue, Leased, Queue, Settings, Settlement, WhenFull, Wish};

/// Bytes of a batch of one span, of a hundred, of a thousand.
const SIZES: [usize; 3] = [845, 84_500, 845_000];

/// Batches of a round: one for each lane.
const ROUND: usize = LANES;

/// Bytes of a file that the baseline writes round and round: a segment's.
const FILE_BYTES: u64 = 64 << 20;

fn main() {
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(4)).sample_size(20).configure_from_args();
    // The build's folder lies on a disk; /tmp may lie in memory.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder in the build's folder");
    let runtime = Runtime::new().expect("a runtime");
    let mut rows = criterion.benchmark_group("append");
    for size in SIZES {
        rows.throughput(Throughput::Bytes((size * ROUND) as u64));
        let body = Bytes::from(vec![0x5a; size]);
        let queue =
            DiskQueue::open(&folder.path().join(format!("queue-{size}")), settings(), SystemTime::now());
        let queue = queue.expect("a queue in an empty folder");
        let cursor = queue.subscribe("bench", WhenFull::Refuse).expect("one exporter");
        rows.bench_function(BenchmarkId::new("round", size), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let since = Instant::now();
                    runtime.block_on(round(&queue, &body));
                    spent += since.elapsed();
                    runtime.block_on(deliver_all(&*cursor));
                }
                spent
            });
        });
        runtime.block_on(queue.close()).expect("it closes");
        let file = raw_file(&folder.path().join(format!("raw-{size}")));
        let mut at = 0;
        rows.bench_function(BenchmarkId::new("raw O_DSYNC", size), |b| {
            b.iter(|| {
                for _ in 0..ROUND {
                    at = if at + size as u64 > FILE_BYTES { 0 } else { at };
                    file.write_all_at(&body, at).expect("the disk takes it");
                    at += size as u64;
                }
            });
        });
    }
    rows.finish();
    criterion.final_summary();
}

fn settings() -> Settings {
    Settings::new(Ledger::new(192 << 20))
}

/// Appends of all lanes at once, as a busy daemon has them: the committer takes those that have arrived.
async fn round(queue: &DiskQueue, body: &Bytes) {
    let mut commits = JoinSet::new();
    for lane in 0..ROUND {
        let lane = u8::try_from(lane).ok().and_then(Lane::new).expect("as many as there are");
        let batch =
            Batch { signal: Signal::Traces, lane, items: 1, body: body.clone(), origin: None, claim: None };
        let admission = queue.admit(vec![batch]).expect("there is room");
        commits.spawn(admission.commit());
    }
    while let Some(receipt) = commits.join_next().await {
        drop(receipt.expect("no panic").expect("the disk takes it"));
    }
}

/// Empties the log, so that the budget never ends.
async fn deliver_all(cursor: &dyn Cursor) {
    let wish = Wish { items_max: 8192, bytes_max: 8 << 20, linger: Duration::ZERO };
    while let Leased::Lease(lease) = cursor.lease(wish, Instant::now()).await {
        lease.settle_all(Settlement::Delivered, Instant::now()).await.expect("it is ours");
    }
}

fn raw_file(path: &Path) -> File {
    let flags = i32::try_from(OFlags::DSYNC.bits()).expect("a flag");
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path);
    let file = file.expect("a file in our folder");
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).expect("there is room");
    file
}

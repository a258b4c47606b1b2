//! The queue on disk alone, beside what the disk does with the same bytes when nobody keeps books.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, stream};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use weir_model::{Batch, LANES, Lane, Ledger, Log, Receipt, Signal};
use weir_queue::{DiskQueue, Queue, Settings, WhenFull};

use crate::corpus::Corpus;

/// Bytes of a file that the baseline writes round and round: a segment's.
const FILE_BYTES: u64 = 64 << 20;

/// Appends under way at once: as many as the closed loops have.
const IN_FLIGHT: usize = 16;

/// Memory of the ledger: the daemon's default.
const LEDGER_BYTES: u64 = 192 << 20;

/// Bytes a second, of both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    pub(crate) queue: f64,
    pub(crate) raw: f64,
}

/// Writes `total` bytes each way, in batches of the corpus, to files in `folder`.
///
/// # Errors
/// The disk's.
pub(crate) async fn measure(folder: &Path, corpus: &Corpus, total: u64) -> anyhow::Result<Appended> {
    let raw = raw(folder, corpus, total)?;
    let queue = queue(folder, corpus, total).await?;
    Ok(Appended { queue, raw })
}

/// One write with `O_DSYNC` for each batch, into blocks that are reserved already.
fn raw(folder: &Path, corpus: &Corpus, total: u64) -> anyhow::Result<f64> {
    let flags = i32::try_from(OFlags::DSYNC.bits()).context("O_DSYNC as the library wants it")?;
    let path = folder.join("raw");
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).context("reserve blocks")?;
    // The first round writes blocks that were never written, as a queue does; its books are part of the price.
    let since = Instant::now();
    let (mut written, mut at, mut number) = (0, 0, 0);
    while written < total {
        let body = &corpus.get(number).body;
        let bytes = body.len() as u64;
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(body, at).context("write the baseline")?;
        (written, at, number) = (written + bytes, at + bytes, number + 1);
    }
    Ok(written as f64 / since.elapsed().as_secs_f64())
}

async fn queue(folder: &Path, corpus: &Corpus, total: u64) -> anyhow::Result<f64> {
    let queue =
        DiskQueue::open(&folder.join("queue"), Settings::new(Ledger::new(LEDGER_BYTES)), SystemTime::now())?;
    let kept = queue.subscribe("nobody", WhenFull::Refuse)?;
    let bytes = corpus.get(0).body.len() as u64;
    let appends = (0..total.div_ceil(bytes)).map(|number| append(&queue, corpus, number));
    let since = Instant::now();
    let mut done = stream::iter(appends).buffer_unordered(IN_FLIGHT);
    while let Some(receipt) = done.next().await {
        // The proof is what was waited for; nobody is to be told.
        drop(receipt?);
    }
    let rate = (total.div_ceil(bytes) * bytes) as f64 / since.elapsed().as_secs_f64();
    drop((done, kept));
    queue.close().await?;
    Ok(rate)
}

async fn append(queue: &DiskQueue, corpus: &Corpus, number: u64) -> anyhow::Result<Receipt> {
    let load = corpus.get(number);
    let lane = u8::try_from(number % LANES as u64).ok().and_then(Lane::new).context("a lane")?;
    let body = load.body.slice(5..);
    let batch = Batch { signal: Signal::Traces, lane, items: load.items, body, origin: None, claim: None };
    let admission = queue.admit(vec![batch]).map_err(|refusal| anyhow!("the queue refuses: {refusal:?}"))?;
    admission.commit().await.map_err(|refusal| anyhow!("the queue cannot write: {refusal:?}"))
}

//! Looking into a log: what `weir queue records` shows, and what a test counts.
//!
//! Invariant: nothing that lies in the folder is changed, whatever state it was left in.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use weir_model::{Lane, Origin, Seq, Signal};

use crate::disk::{Disk, SystemDisk};
use crate::faults::Faults;
use crate::queue::QueueError;
use crate::recovery::{SEGMENTS, into_io};
use crate::segment::{Fault, Opening, Segment, first_of};

/// Records that are read at once.
const READ_RECORDS_MAX: usize = 256;

/// One record in a log.
#[derive(Debug, Clone)]
pub struct LoggedRecord {
    /// Its place.
    pub seq: Seq,
    /// What its body is.
    pub signal: Signal,
    /// Where its order is kept.
    pub lane: Lane,
    /// Items in it.
    pub items: u32,
    /// The key that it came with, where another Weir has handed it over.
    pub origin: Option<Origin>,
    /// CRC-32C of the body.
    pub crc32c: u32,
    /// One serialised `Export{Traces,Metrics,Logs}ServiceRequest`.
    pub body: Bytes,
}

/// What was found in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoggedRecords {
    /// Records that were handed over.
    pub records: u64,
    /// Records that cannot be read back, or have no sound head.
    pub damaged: u64,
    /// Records of a round that a crash tore or that failed: the next start takes them out of the log.
    pub torn: u64,
    /// Segments that cannot be read, each with why not.
    pub unreadable: Vec<String>,
}

/// Reads every record of the log in `folder` (which has `segments` in it), in order, those that every exporter has had too, as
/// long as their segment is there. The log is closed or its process was killed; what the next start would repair is
/// repaired in memory.
///
/// # Errors
/// [`QueueError::Locked`] where a process has the log open; [`QueueError::Io`] where the folder cannot be read.
pub fn read_log(folder: &Path, mut each: impl FnMut(LoggedRecord)) -> Result<LoggedRecords, QueueError> {
    read_log_on(Arc::new(SystemDisk), folder, &mut each)
}

fn read_log_on(
    disk: Arc<dyn Disk>,
    folder: &Path,
    each: &mut dyn FnMut(LoggedRecord),
) -> Result<LoggedRecords, QueueError> {
    let segments = folder.join(SEGMENTS);
    let failed = |act: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| QueueError::Io { act, path, source }
    };
    // First, so that no lock is made in a folder that is none.
    let names = disk.list(&segments).map_err(failed("list", &segments))?;
    let lock = folder.join("lock");
    let locked = disk.lock(&lock).map_err(failed("lock", &lock))?;
    let _lock = locked.ok_or_else(|| QueueError::Locked { folder: folder.to_owned() })?;
    let mut firsts: Vec<(u64, &String)> =
        names.iter().filter_map(|name| Some((first_of(name)?, name))).collect();
    firsts.sort_unstable();
    let opening =
        Opening { disk, segment_bytes: 0, cache_bytes: 0, incarnation: 0, faults: Faults::default() };
    // The newest that can be read says which places are void.
    let open = |name: &str| Segment::open_frozen(&opening, &segments.join(name));
    let table = firsts.iter().rev().find_map(|(_, name)| open(name).and_then(|it| it.table()).ok());
    let voids = table.map(|table| table.voids).unwrap_or_default();
    let newest = firsts.last().map(|(first, _)| *first);
    let mut found = LoggedRecords::default();
    for (first, name) in firsts {
        let read = open(name).and_then(|segment| {
            // In the others the start looks for torn records only where they were not closed, which shows no more then.
            let closed = Some(first) != newest && Segment::open_clean(&opening, &segments.join(name)).is_ok();
            read_segment(&segment, closed, &voids, &mut found, each)
        });
        match read {
            Ok(()) => {}
            Err(Fault::Io(source)) => return Err(failed("read", &segments.join(name))(source)),
            Err(fault) => found.unreadable.push(format!("{name}: {}", into_io(fault))),
        }
    }
    Ok(found)
}

fn read_segment(
    segment: &Segment,
    closed: bool,
    voids: &[Range<u64>],
    found: &mut LoggedRecords,
    each: &mut dyn FnMut(LoggedRecord),
) -> Result<(), Fault> {
    if !closed {
        let torn = segment.torn(0, voids)?;
        segment.mark_torn(&torn)?;
        found.torn += torn.len() as u64;
    }
    let (heads, damaged) = segment.heads()?;
    found.damaged += damaged;
    let seqs: Vec<u64> = heads.iter().map(|head| head.seq).collect();
    for seqs in seqs.chunks(READ_RECORDS_MAX) {
        for read in segment.read(seqs)? {
            let Ok(stored) = read else {
                found.damaged += 1;
                continue;
            };
            let head = stored.head;
            found.records += 1;
            each(LoggedRecord {
                seq: Seq(head.seq),
                signal: head.signal,
                lane: head.lane,
                items: head.items,
                origin: stored.origin,
                crc32c: head.body_crc,
                body: stored.body,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weir_model::{Batch, Ledger, Log, Receipt, Source};

    use super::*;
    use crate::{DiskQueue, Lease, Leased, MemoryQueue, Pace, Queue, Settings, WhenFull, Wish};

    fn batch(place: u64, key: bool) -> Batch {
        let source = Source { identity: "agent".to_owned(), incarnation: 7, log: "traces".to_owned() };
        let origin = key.then(|| Origin { source: Arc::new(source), epoch: 3, seq: Seq(place) });
        let lane = Lane::new(2).unwrap();
        let body = Bytes::from(format!("body {place} {key}"));
        Batch { signal: Signal::Logs, lane, items: 2, body, origin, claim: None }
    }

    fn manual() -> Settings {
        let mut settings = Settings::new(Ledger::new(64 << 20));
        (settings.segment_bytes, settings.reserve_bytes) = (2 << 20, 64 << 10);
        settings.pace = Pace::Manual;
        settings
    }

    fn ready<T>(future: weir_model::BoxFuture<'_, T>) -> T {
        let mut future = future;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("nobody has work that this waits for"),
        }
    }

    fn append(queue: &DiskQueue, batches: Vec<Batch>) {
        let commit = queue.admit(batches).unwrap().commit();
        while queue.step() {}
        assert!(matches!(ready(commit), Ok(Receipt::Persisted(_))));
    }

    fn read(folder: &Path) -> (Vec<(u64, Option<u64>, String)>, LoggedRecords) {
        let mut all = Vec::new();
        let found = read_log(folder, |record| {
            assert_eq!(record.crc32c, crc32c::crc32c(&record.body));
            assert_eq!((record.signal, record.lane.index(), record.items), (Signal::Logs, 2, 2));
            let place = record.origin.map(|origin| {
                assert_eq!((origin.epoch, origin.source.identity.as_str()), (3, "agent"));
                origin.seq.0
            });
            all.push((record.seq.0, place, String::from_utf8(record.body.to_vec()).unwrap()));
        });
        (all, found.unwrap())
    }

    /// Scenario: records with and without a key, some sent twice, in a log that is open, killed, started again and closed.
    /// Guarantees: while it is open it is refused; then every record is there once, with its key and bytes, and reading changes
    /// nothing; a segment without keys has none of their tables.
    #[test]
    fn a_log_is_read_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DiskQueue::open(folder.path(), manual(), SystemTime::UNIX_EPOCH).unwrap();
        let queue = open();
        // Somebody who has it all to come: or a close would delete it.
        drop(queue.subscribe("zipkin", WhenFull::Refuse).unwrap());
        append(&queue, vec![batch(1, false)]);
        append(&queue, vec![batch(1, true), batch(2, true), batch(2, true)]);
        append(&queue, vec![batch(2, true)]);
        assert!(matches!(read_log(folder.path(), |_| ()), Err(QueueError::Locked { .. })));
        drop(queue);
        let expected = [
            (1, None, "body 1 false".to_owned()),
            (2, Some(1), "body 1 true".to_owned()),
            (3, Some(2), "body 2 true".to_owned()),
        ];
        for _ in 0..2 {
            let (all, found) = read(folder.path());
            assert_eq!(all, expected);
            assert_eq!(found, LoggedRecords { records: 3, ..LoggedRecords::default() });
        }
        let queue = open();
        append(&queue, vec![batch(2, true), batch(3, true)]);
        ready({
            let closed = queue.close();
            while queue.step() {}
            closed
        })
        .unwrap();
        drop(queue);
        let (all, _) = read(folder.path());
        assert_eq!(all[3..], [(4, Some(3), "body 3 true".to_owned())]);
    }

    /// Scenario: the same records to a log in memory, and to one on disk whose bodies are still in memory.
    /// Guarantees: what came before is not stored again, its room is given back, and a lease has the keys.
    #[test]
    fn both_logs_store_a_key_once_and_lease_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskQueue::open(folder.path(), manual(), SystemTime::UNIX_EPOCH).unwrap();
        let queues: [Arc<dyn Queue>; 2] = [Arc::clone(&disk) as Arc<dyn Queue>, MemoryQueue::new(1 << 20)];
        for queue in queues {
            let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
            let mut bytes = 0;
            for _ in 0..3 {
                let commit =
                    queue.admit(vec![batch(1, true), batch(4, true), batch(4, true)]).unwrap().commit();
                while disk.step() {}
                // The last is there already with the one before it; then all that have a key are.
                assert_eq!(ready(commit).unwrap().known(), if bytes == 0 { 1 } else { 3 });
                bytes = if bytes == 0 { queue.status().bytes } else { bytes };
                assert_eq!(queue.status().bytes, bytes);
            }
            assert_eq!(queue.counts().duplicates.of(Signal::Logs).get(), 2 + 2 * 6);
            assert_eq!((queue.status().sources, queue.marks("agent")[0].seq), (1, Seq(4)));
            let wish = Wish { items_max: 100, bytes_max: 1 << 20, linger: std::time::Duration::ZERO };
            let leased = ready(cursor.lease(wish, std::time::Instant::now()));
            let Leased::Lease(lease) = leased else { panic!("nothing to lease: {leased:?}") };
            let places = |lease: &Lease| -> Vec<_> {
                lease.records().iter().map(|record| record.origin.as_ref().map(|it| it.seq.0)).collect()
            };
            assert_eq!(places(&lease), [Some(1), Some(4)]);
        }
    }
}

//! Which records a collector has rejected while their log has not settled past them, over a restart.
//!
//! A rejected record leaves no mark, and later ones of its lane raise the mark above it. Where it comes again after that (the process
//! ended before its dead letter was on disk, or the dead-letter log is full), the collector would take it by its key for one that it
//! has. So its place is on disk before its push is answered, and what comes again from there goes without its key.
//!
//! ```text
//! rejected/LOG   the log's incarnation, 16 bytes · for each range: lane, 1 byte · first place, u64 big-endian · last place, the same
//! ```
//!
//! A place is forgotten once the log has settled past it, for then its record is a dead letter on disk, or delivered; and once the
//! record was taken after all. Both are written now and then: a place too many costs a record that is there twice after a crash,
//! or after a stream that broke before the answer, and no more.
//! The row of a log that is not configured stays, for the log may come back; the file has its own bound.
//!
//! Invariant: a rejection that is not on disk is not answered.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_model::{LANES, Lane, Place, Seq};
use weir_queue::QueueError;

use crate::agent::folder::{FolderError, LogEnd, Rows};
use crate::limits::REJECTED_RANGES_MAX;
use crate::names::from_wire;

const REJECTED: &[u8] = b"rejected/";

/// Bytes of a range in a row.
const RANGE_BYTES: usize = 17;

/// The first and the last place of a range of one lane.
type Span = (u64, u64);

/// The ranges of each lane, rising and apart.
type Lanes = [Vec<Span>; LANES];

/// Places of rejected records, of all logs of an agent.
pub(crate) struct Rejected {
    /// None once the agent has ended. Locked while a commit runs, so on threads that may wait.
    rows: Mutex<Option<Arc<dyn Rows>>>,
    /// In the order of the Hello. Never locked while a commit runs.
    logs: Mutex<Vec<Places>>,
}

/// Those of one log.
struct Places {
    key: Vec<u8>,
    /// The log's own incarnation.
    numbering: u128,
    now: Lanes,
    /// None where the row is of another log of that name.
    on_disk: Option<Lanes>,
}

// === impl Rejected ===

impl Rejected {
    /// What the rows know of these logs. A row of another log of the same name counts for nothing.
    pub(crate) fn open(rows: Arc<dyn Rows>, ends: &[LogEnd]) -> Self {
        let places = |LogEnd { log, numbering, .. }: &LogEnd| {
            let key = [REJECTED, log.as_bytes()].concat();
            let on_disk = match rows.get(&key) {
                None => Some(Lanes::default()),
                Some(row) => read(&row).filter(|(of, _)| of == numbering).map(|(_, lanes)| lanes),
            };
            Places { key, numbering: *numbering, now: on_disk.clone().unwrap_or_default(), on_disk }
        };
        let logs = Mutex::new(ends.iter().map(places).collect());
        Self { rows: Mutex::new(Some(rows)), logs }
    }

    /// Records of a lane in runs of those that were rejected before (`true`) and those that were not. One run without a record for
    /// none.
    pub(crate) fn runs(&self, log: u32, lane: Lane, records: &[Place]) -> Vec<(Range<usize>, bool)> {
        let logs = self.logs();
        let spans =
            at(log).and_then(|at| logs.get(at)).map_or(&[][..], |places| places.now[lane.index()].as_slice());
        let mut runs = vec![(0..0, false)];
        for (number, record) in records.iter().enumerate() {
            let was_rejected = has(spans, record.seq);
            match runs.last_mut() {
                Some((run, kind)) if run.start == run.end || *kind == was_rejected => {
                    (run.end, *kind) = (number + 1, was_rejected);
                }
                _ => runs.push((number..number + 1, was_rejected)),
            }
        }
        runs
    }

    /// Notes a rejected record, durable when this returns; what `settled` is above goes. Blocks for the disk.
    ///
    /// # Errors
    /// [`FolderError::Write`]: nobody may be told that the record is rejected.
    pub(crate) fn note(
        &self,
        log: u32,
        lane: Lane,
        seq: Seq,
        settled: Option<Seq>,
    ) -> Result<(), FolderError> {
        let rows = self.rows();
        let closed = || FolderError::Write(QueueError::Closed);
        let (rows, at) = rows.as_ref().zip(at(log)).ok_or_else(closed)?;
        let noted = |lanes: &mut Lanes| {
            raise(lanes, settled);
            add(&mut lanes[lane.index()], (seq.0, seq.0));
        };
        let (change, lanes) = {
            let logs = self.logs();
            let places = logs.get(at).ok_or_else(closed)?;
            let mut lanes = places.now.clone();
            noted(&mut lanes);
            (places.row(&lanes), lanes)
        };
        rows.commit(vec![change]).map_err(FolderError::Write)?;
        if let Some(places) = self.logs().get_mut(at) {
            // Another lane's may have been forgotten meanwhile: the row says so later.
            noted(&mut places.now);
            places.on_disk = Some(lanes);
        }
        Ok(())
    }

    /// Records of a lane were taken after all, from the first to the last of these places. In memory, until [`Rejected::prune`].
    pub(crate) fn forget(&self, log: u32, lane: Lane, first: Seq, last: Seq) {
        let mut logs = self.logs();
        let places = at(log).and_then(|at| logs.get_mut(at));
        let Some(spans) = places.map(|places| &mut places.now[lane.index()]) else { return };
        let rest = |(from, to): Span| {
            [(from, to.min(first.0.saturating_sub(1))), (from.max(last.0.saturating_add(1)), to)]
        };
        *spans = spans.drain(..).flat_map(rest).filter(|(from, to)| from <= to).collect();
        fit(spans);
    }

    /// Forgets what the logs have settled past, by their order in the Hello, and writes what has changed. Blocks for the disk.
    ///
    /// # Errors
    /// [`FolderError::Write`]: it will be written later.
    pub(crate) fn prune(&self, settled: &[Option<Seq>]) -> Result<(), FolderError> {
        let rows = self.rows();
        let Some(rows) = rows.as_ref() else { return Ok(()) };
        let (mut changes, mut written) = (Vec::new(), Vec::new());
        for (at, (places, settled)) in self.logs().iter_mut().zip(settled).enumerate() {
            raise(&mut places.now, *settled);
            if places.on_disk.as_ref() != Some(&places.now) {
                changes.push(places.row(&places.now));
                written.push((at, places.now.clone()));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        rows.commit(changes).map_err(FolderError::Write)?;
        let mut logs = self.logs();
        for (at, lanes) in written {
            logs[at].on_disk = Some(lanes);
        }
        Ok(())
    }

    /// Nothing is written any more, and nothing keeps the file. Blocks while a commit runs.
    pub(crate) fn close(&self) {
        self.rows().take();
    }

    fn rows(&self) -> MutexGuard<'_, Option<Arc<dyn Rows>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn logs(&self) -> MutexGuard<'_, Vec<Places>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// The row that says this; none where there is nothing to say.
    fn row(&self, lanes: &Lanes) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut value = self.numbering.to_be_bytes().to_vec();
        for (lane, spans) in (0_u8..).zip(lanes) {
            for (first, last) in spans {
                value.push(lane);
                value.extend(first.to_be_bytes());
                value.extend(last.to_be_bytes());
            }
        }
        let is_empty = lanes.iter().all(Vec::is_empty);
        (self.key.clone(), (!is_empty).then_some(value))
    }
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges: usize = self.logs().iter().flat_map(|places| &places.now).map(Vec::len).sum();
        f.debug_struct("Rejected").field("ranges", &ranges).finish_non_exhaustive()
    }
}

fn at(log: u32) -> Option<usize> {
    usize::try_from(log).ok()
}

fn read(row: &[u8]) -> Option<(u128, Lanes)> {
    let (numbering, spans) = row.split_at_checked(16)?;
    let (spans, rest) = spans.as_chunks::<RANGE_BYTES>();
    let mut lanes = Lanes::default();
    for [lane, span @ ..] in spans {
        let (places, _) = span.as_chunks::<8>();
        let [first, last] = places else { return None };
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        let spans = lanes.get_mut(usize::from(*lane)).filter(|_| first <= last)?;
        add(spans, (first, last));
    }
    rest.is_empty().then_some((from_wire(numbering)?, lanes))
}

// === ranges ===

fn has(spans: &[Span], seq: Seq) -> bool {
    spans.iter().any(|(first, last)| (*first..=*last).contains(&seq.0))
}

/// One more range, which may lie in others.
fn add(spans: &mut Vec<Span>, span: Span) {
    spans.push(span);
    spans.sort_unstable();
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, last) in spans.drain(..) {
        match apart.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    *spans = apart;
    fit(spans);
}

/// No more than may be: the nearest become one.
fn fit(spans: &mut Vec<Span>) {
    while spans.len() > REJECTED_RANGES_MAX {
        let gap = |at: &usize| spans[*at + 1].0 - spans[*at].1;
        let Some(nearest) = (0..spans.len() - 1).min_by_key(gap) else { return };
        let (_, last) = spans.remove(nearest + 1);
        spans[nearest].1 = last;
    }
}

/// Everything below `settled` goes.
fn raise(lanes: &mut Lanes, settled: Option<Seq>) {
    let Some(Seq(settled)) = settled else { return };
    for spans in lanes {
        spans.retain(|(_, last)| *last >= settled);
        for (first, _) in spans {
            *first = settled.max(*first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::agent::rejected_tests::Disk;

    fn start(disk: &Arc<Disk>) -> Rejected {
        started(disk, "traces", 5)
    }

    fn started(disk: &Arc<Disk>, log: &str, numbering: u128) -> Rejected {
        let end = LogEnd { log: log.to_owned(), numbering, next: Seq(1) };
        Rejected::open(Arc::clone(disk) as _, &[end])
    }

    fn lane(number: u8) -> Lane {
        Lane::new(number).unwrap()
    }

    /// The places of a lane that go without their key.
    fn found(rejected: &Rejected, number: u8, among: Range<u64>) -> Vec<u64> {
        let records: Vec<_> = among.map(|seq| Place { seq: Seq(seq), items: 1, bytes: 1 }).collect();
        let runs = rejected.runs(0, lane(number), &records);
        let all: Vec<_> = runs.iter().flat_map(|(run, _)| run.clone()).collect();
        assert_eq!(all, (0..records.len()).collect::<Vec<_>>(), "the runs are all of the records, in order");
        assert!(runs.windows(2).all(|pair| pair[0].1 != pair[1].1), "a run ends where the next kind begins");
        let those = runs.iter().filter(|(_, was_rejected)| *was_rejected);
        those.flat_map(|(run, _)| records[run.clone()].iter().map(|record| record.seq.0)).collect()
    }

    /// Scenario: records of two lanes are rejected; the process starts anew; a log that is not configured is not named at one start;
    /// another log of that name takes the place of the first.
    /// Guarantees: exactly these places are known at each start of the same log, and none of them is of another one.
    #[test]
    fn what_was_rejected_is_known_after_a_start() {
        let disk = Arc::new(Disk::default());
        let first = start(&disk);
        for (number, seq) in [(0, 7), (0, 3), (0, 4), (15, 5)] {
            first.note(0, lane(number), Seq(seq), None).unwrap();
        }
        started(&disk, "logs", 5).prune(&[Some(Seq(100))]).unwrap();
        for known in [&first, &start(&disk)] {
            assert_eq!((found(known, 0, 0..10), found(known, 15, 0..10)), (vec![3, 4, 7], vec![5]));
            assert_eq!((found(known, 1, 0..10), found(known, 0, 0..0)), (vec![], vec![]));
        }
        let other = started(&disk, "traces", 6);
        assert_eq!(found(&other, 0, 0..10), Vec::<u64>::new());
        other.prune(&[None]).unwrap();
        assert_eq!(found(&start(&disk), 0, 0..10), Vec::<u64>::new());
    }

    /// Scenario: the log settles past some of the places, without a word of it to the disk and then with one; others are taken after
    /// all; at last it has settled past everything.
    /// Guarantees: what is forgotten is forgotten at once, and on disk with the next write of any kind; in the end there is no row.
    #[test]
    fn what_is_settled_is_forgotten() {
        let disk = Arc::new(Disk::default());
        let rejected = start(&disk);
        for seq in [2, 4, 5, 6, 9] {
            rejected.note(0, lane(0), Seq(seq), None).unwrap();
        }
        rejected.forget(0, lane(0), Seq(5), Seq(5));
        assert_eq!(found(&rejected, 0, 0..12), [2, 4, 6, 9]);
        assert_eq!(found(&start(&disk), 0, 0..12), [2, 4, 5, 6, 9]);
        rejected.prune(&[Some(Seq(4))]).unwrap();
        assert_eq!(found(&start(&disk), 0, 0..12), [4, 6, 9]);
        rejected.note(0, lane(1), Seq(10), Some(Seq(6))).unwrap();
        assert_eq!((found(&start(&disk), 0, 0..12), found(&start(&disk), 1, 0..12)), (vec![6, 9], vec![10]));
        rejected.prune(&[None]).unwrap();
        assert_eq!(found(&rejected, 0, 0..12), [6, 9]);
        rejected.prune(&[Some(Seq(11))]).unwrap();
        assert_eq!((found(&rejected, 0, 0..12), disk.scan(REJECTED)), (vec![], vec![]));
    }

    /// Scenario: the disk is full when a record is rejected, and has room later; the agent ends; another record is rejected.
    /// Guarantees: the first and the last are not noted, and whoever would answer is told; what was noted before stays.
    #[test]
    fn what_is_not_on_disk_is_not_noted() {
        let disk = Arc::new(Disk::default());
        let rejected = start(&disk);
        rejected.note(0, lane(0), Seq(2), None).unwrap();
        disk.is_full.store(true, Ordering::Relaxed);
        rejected.note(0, lane(0), Seq(4), None).unwrap_err();
        rejected.forget(0, lane(0), Seq(2), Seq(2));
        rejected.prune(&[None]).unwrap_err();
        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(found(&rejected, 0, 0..10), Vec::<u64>::new());
        rejected.note(0, lane(0), Seq(6), None).unwrap();
        rejected.close();
        rejected.note(0, lane(0), Seq(8), None).unwrap_err();
        assert_eq!(found(&start(&disk), 0, 0..10), [6]);
    }

    /// Scenario: three times as many places as are remembered, at random, are rejected in a lane whose cursor stands still.
    /// Guarantees: each of them is known, also after a start, in no more ranges than may be: none is ever taken for one that a collector has.
    #[test]
    fn beyond_the_bound_none_is_forgotten() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = Arc::new(Disk::default());
        let rejected = start(&disk);
        let places: Vec<u64> = (0..REJECTED_RANGES_MAX * 3).map(|_| random.u64(1..2_000)).collect();
        for (count, seq) in places.iter().enumerate() {
            rejected.note(0, lane(3), Seq(*seq), None).unwrap();
            assert!(rejected.logs()[0].now[3].len() <= REJECTED_RANGES_MAX, "seed {seed}");
            let known = found(&start(&disk), 3, 0..2_000);
            assert!(places[..=count].iter().all(|seq| known.contains(seq)), "seed {seed}");
        }
    }
}

//! Disks that are full or fail, budgets, and what an operator chose for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use weir_model::{Admission, Log, Reason, Receipt, Refusal, Signal};
use weir_queue::{
    Cursor, DiskQueue, Faults, MemoryQueue, Queue, Settings, SettleError, Settlement, WhenFull, Wish,
};

use crate::model::{append, batch, folder, id_of, lease, open, settings, settle_all, wish};
use crate::sim::SimDisk;

fn reason(result: &Result<Receipt, Refusal>) -> Option<Reason> {
    result.as_ref().err().map(Refusal::reason)
}

fn small() -> Settings {
    Settings { budget_bytes: 16 << 20, dead_letter_bytes: 40_000, ..settings(Faults::default()) }
}

fn with_cursor(disk: &SimDisk, settings: Settings, when_full: WhenFull) -> (Arc<DiskQueue>, Arc<dyn Cursor>) {
    let queue = open(disk, settings);
    let cursor = queue.subscribe("zipkin", when_full).unwrap();
    queue.configured(&["zipkin"], SystemTime::UNIX_EPOCH);
    (queue, cursor)
}

fn drain(queue: &DiskQueue, cursor: &dyn Cursor) -> BTreeSet<u64> {
    let mut now = Instant::now();
    let mut came = BTreeSet::new();
    for _ in 0..100_000 {
        now += Duration::from_secs(2);
        let Some(lease) = lease(cursor, wish(), now) else { break };
        came.extend(lease.records().iter().map(|record| id_of(&record.body).expect("unaltered")));
        assert!(settle_all(queue, lease, Settlement::Delivered, now));
    }
    came
}

/// Scenario: records are appended until the budget is used up, an exporter catches up, and more are appended.
/// Guarantees: the budget is never passed, senders are refused for now, nothing acknowledged is lost, and the log
/// takes records again as soon as there is room.
#[test]
fn the_budget_is_hard_and_room_comes_back() {
    let disk = SimDisk::default();
    let (queue, cursor) = with_cursor(&disk, small(), WhenFull::Refuse);
    let mut acked = BTreeSet::new();
    let mut id = 0;
    for _ in 0..3 {
        loop {
            id += 1;
            let appended = append(&queue, vec![batch(id, (id % 16) as u8, 100_000)]);
            let status = queue.status();
            assert!(status.bytes <= status.budget_bytes, "{} of {}", status.bytes, status.budget_bytes);
            if appended.is_err() {
                assert_eq!(reason(&appended), Some(Reason::QueueFull));
                break;
            }
            acked.insert(id);
        }
        assert!(acked.len() > 60, "a budget of 16 MiB holds more than {} records of 100 kB", acked.len());
        assert_eq!(drain(&queue, cursor.as_ref()), std::mem::take(&mut acked));
        drop(queue.save());
        while queue.step() {}
    }
    let refused = queue.counts().refused.of(Signal::Traces, Reason::QueueFull).get();
    assert_eq!(refused, 3, "each refusal is counted once");
}

/// Scenario: a sender of large batches takes all of the budget that it can get; then a small one sends.
/// Guarantees: the small one's batches are taken, hundreds of them, within the budget.
#[test]
fn a_small_sender_has_room_when_a_large_one_has_none() {
    let disk = SimDisk::default();
    let (queue, _cursor) = with_cursor(&disk, small(), WhenFull::Refuse);
    let large = |id| append(&queue, vec![batch(id, 1, 100_000)]);
    let refused = (1..10_000).map(large).find(Result::is_err).expect("the budget ends");
    assert_eq!(reason(&refused), Some(Reason::QueueFull));
    for id in 10_000..10_300 {
        append(&queue, vec![batch(id, 2, 1_000)]).expect("there is room for small ones");
        let status = queue.status();
        assert!(status.bytes <= status.budget_bytes, "{} of {}", status.bytes, status.budget_bytes);
    }
}

/// Scenario: the same with a queue in memory.
/// Guarantees: the small one's batches are taken.
#[test]
fn a_small_sender_has_room_in_memory_too() {
    let queue = MemoryQueue::new(16 << 20);
    let _cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    let large = (1..10_000).find(|id| queue.admit(vec![batch(*id, 1, 100_000)]).map(commit).is_err());
    assert!(large.is_some(), "the budget ends");
    for id in 10_000..10_300 {
        queue.admit(vec![batch(id, 2, 1_000)]).map(commit).expect("there is room for small ones");
    }
}

fn commit(admission: Box<dyn Admission>) {
    admission.commit().now_or_never().expect("nothing to wait for").expect("it was admitted");
}

/// Appends until a sender is refused; the ids that were taken.
fn fill(queue: &DiskQueue, from: u64) -> std::ops::Range<u64> {
    let refused = (from..).find(|id| append(queue, vec![batch(*id, (*id % 16) as u8, 100_000)]).is_err());
    from..refused.expect("the budget ends")
}

/// Scenario: the part of a log that is full grows, is used up again, and shrinks under what is kept.
/// Guarantees: there is room up to the new part and no more; a part under a log's least is raised to it; what is kept
/// stays and is delivered.
#[test]
fn a_part_of_the_budget_grows_and_shrinks() {
    let disk = SimDisk::default();
    let (queue, cursor) = with_cursor(&disk, small(), WhenFull::Refuse);
    let first = fill(&queue, 1);
    queue.share(32 << 20);
    assert_eq!(queue.status().budget_bytes, 32 << 20);
    let second = fill(&queue, first.end);
    assert!(second.end - second.start > 60, "16 MiB more hold more than {second:?} of 100 kB");
    assert!(queue.status().bytes <= 32 << 20);
    queue.share(1);
    assert_eq!(queue.status().budget_bytes, 16 << 20);
    assert_eq!(reason(&append(&queue, vec![batch(second.end, 0, 1_000)])), Some(Reason::QueueFull));
    assert_eq!(drain(&queue, cursor.as_ref()), (first.start..second.end).collect());

    let queue = MemoryQueue::new(1 << 20);
    let _cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    let takes = || queue.admit(vec![batch(1, 1, 100_000)]).map(commit).is_ok();
    while takes() {}
    queue.share(2 << 20);
    assert!(takes());
    queue.share(1 << 20);
    assert!(!takes());
}

/// Scenario: the disk has no room left, although the budget has; then it has again.
/// Guarantees: senders are refused for now, settlements still work and survive a crash, nothing acknowledged is lost.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::default();
    let (queue, cursor) = with_cursor(&disk, settings(Faults::default()), WhenFull::Refuse);
    let mut acked = BTreeSet::new();
    for id in 1..=10 {
        append(&queue, vec![batch(id, 0, 40_000)]).unwrap();
        acked.insert(id);
    }
    disk.set_capacity(Some(0));
    for id in 11..=20 {
        let appended = append(&queue, vec![batch(id, 0, 40_000)]);
        assert_eq!(reason(&appended), Some(Reason::QueueFull), "{appended:?}");
    }
    let now = Instant::now();
    let first = lease(cursor.as_ref(), Wish { items_max: 4, ..wish() }, now).expect("leases need no disk");
    assert!(settle_all(&queue, first, Settlement::Delivered, now));
    disk.set_capacity(None);
    for id in 21..=30 {
        append(&queue, vec![batch(id, 0, 40_000)]).expect("there is room again");
        acked.insert(id);
    }
    assert_eq!(queue.status().degraded, None, "a full disk that has room again is no trouble");
    disk.kill();
    drop((queue, cursor));
    disk.crash(&mut fastrand::Rng::with_seed(1));
    let (queue, cursor) = with_cursor(&disk, settings(Faults::default()), WhenFull::Refuse);
    let came = drain(&queue, cursor.as_ref());
    assert!(came.is_superset(&(5..=10).chain(21..=30).collect()), "{came:?}");
}

/// Scenario: the n-th `fdatasync` fails once, for each n of a few rounds.
/// Guarantees: the round that failed gets no receipt, the next one gets a new segment, everything acknowledged
/// comes, also after a power cut, and the health page says what happened.
#[test]
fn one_failed_sync_costs_one_round() {
    let mut failures = 0;
    for number in 1..40 {
        let disk = SimDisk::default();
        let faults = Faults::parse(&format!("sync_once={number}")).unwrap();
        let (queue, cursor) = with_cursor(&disk, settings(faults), WhenFull::Refuse);
        let mut acked = BTreeSet::new();
        let mut refused = 0;
        for id in 1..=12 {
            let appended = append(&queue, vec![batch(id, 0, 5_000)]);
            match &appended {
                Ok(_) => {
                    acked.insert(id);
                }
                Err(_) => {
                    refused += 1;
                    assert_eq!(reason(&appended), Some(Reason::QueueFailed), "sync {number}");
                }
            }
        }
        assert!(refused <= 1, "sync {number}: {refused} rounds refused");
        failures += refused;
        if refused == 1 {
            assert!(queue.status().degraded.is_some(), "sync {number}");
        }
        let now = Instant::now();
        let some = lease(cursor.as_ref(), wish(), now).expect("what was acknowledged is read on");
        let came: BTreeSet<u64> = some.records().iter().map(|record| id_of(&record.body).unwrap()).collect();
        assert!(came.is_subset(&acked), "sync {number}: {came:?}");
        drop(some);
        disk.kill();
        drop((queue, cursor));
        disk.crash(&mut fastrand::Rng::with_seed(number));
        let (queue, cursor) = with_cursor(&disk, settings(Faults::default()), WhenFull::Refuse);
        let came = drain(&queue, cursor.as_ref());
        assert!(came.is_superset(&acked), "sync {number}: {acked:?} became {came:?}, {:?}", queue.status());
    }
    assert!(failures >= 12, "only {failures} syncs of rounds failed");
}

/// Scenario: from some point on every `fdatasync` fails.
/// Guarantees: no receipt is given from then on, the queue says that it has stopped, and what was acknowledged
/// before still comes.
#[test]
fn a_disk_that_always_fails_stops_the_receipts() {
    for number in [1, 5, 9, 14, 20] {
        let disk = SimDisk::default();
        let faults = Faults::parse(&format!("sync_from={number}")).unwrap();
        let (queue, cursor) = with_cursor(&disk, settings(faults), WhenFull::Refuse);
        let mut acked = BTreeSet::new();
        let mut failed = false;
        for id in 1..=30 {
            match append(&queue, vec![batch(id, 0, 5_000)]) {
                Ok(_) => {
                    assert!(!failed, "no receipt after the first failure");
                    acked.insert(id);
                }
                Err(refusal) => {
                    failed = true;
                    assert_eq!(refusal.reason(), Reason::QueueFailed);
                }
            }
        }
        assert!(failed);
        let degraded = queue.status().degraded.unwrap_or_default();
        assert!(degraded.contains("nothing is accepted"), "{degraded}");
        assert_eq!(drain(&queue, cursor.as_ref()), acked);
    }
}

/// Scenario: one exporter may skip and one may not, while the log fills up.
/// Guarantees: with one that may not, senders are refused and nobody loses anything; with only such that may, records
/// are taken without end, the oldest go first, and each lost item is counted.
#[test]
fn only_who_may_skip_skips_and_it_is_counted() {
    let disk = SimDisk::default();
    let (queue, careful) = with_cursor(&disk, small(), WhenFull::Refuse);
    let hasty = queue.subscribe("hasty", WhenFull::SkipOldest).unwrap();
    queue.configured(&["zipkin", "hasty"], SystemTime::UNIX_EPOCH);
    let fill = |from: u64, count: u64| -> Vec<u64> {
        (from..from + count).filter(|id| append(&queue, vec![batch(*id, 0, 100_000)]).is_ok()).collect()
    };
    let first = fill(1, 300);
    assert!(first.len() < 200, "{} records in 16 MiB", first.len());
    assert_eq!(queue.counts().skipped.of(Signal::Traces).get(), 0);
    assert_eq!(drain(&queue, careful.as_ref()), first.iter().copied().collect());
    let second = fill(1_000, 300);
    assert!(second.len() < 200);
    assert_eq!(
        drain(&queue, careful.as_ref()),
        second.iter().copied().collect(),
        "the careful one lost nothing"
    );

    careful.pause("not asked any more");
    drop(careful);
    queue.configured(&["hasty"], SystemTime::UNIX_EPOCH);
    let forgotten = queue.forget("zipkin");
    while queue.step() {}
    forgotten.now_or_never().unwrap().unwrap();
    let third = fill(2_000, 600);
    assert!(third.len() >= 550, "only {} of 600 were taken", third.len());
    let came = drain(&queue, hasty.as_ref());
    let skipped = queue.counts().skipped.of(Signal::Traces).get();
    let taken = (first.len() + second.len() + third.len()) as u64;
    assert_eq!(came.len() as u64 + skipped, taken, "what did not come is counted");
    assert!(came.contains(third.last().unwrap()), "the newest are kept");
    assert!(
        came.iter().copied().eq(taken_newest(&[first, second, third], came.len())),
        "the oldest went first"
    );
    assert!(disk.files(&folder()).len() < 20, "segments that were skipped are deleted");
}

/// Scenario: in memory one of two exporters is about to be taken out, with a backlog; more is appended; it delivers a
/// part of what it had, and is taken out.
/// Guarantees: what was appended since is not for it, so that it can come to an end; what it did not deliver is counted;
/// the other one gets everything, and then nothing is kept.
#[test]
fn an_exporter_that_leaves_memory_has_an_end() {
    let queue = MemoryQueue::new(1 << 20);
    let (leaving, staying) =
        (queue.subscribe("leaving", WhenFull::Refuse), queue.subscribe("staying", WhenFull::Refuse));
    let (leaving, staying) = (leaving.unwrap(), staying.unwrap());
    queue.configured(&["leaving", "staying"], SystemTime::UNIX_EPOCH);
    let add = |id: u64, lane: u8| {
        let admission = queue.admit(vec![batch(id, lane, 100)]).unwrap();
        admission.commit().now_or_never().expect("memory does not wait").unwrap();
    };
    add(1, 0);
    add(2, 5);
    queue.leaves("leaving");
    add(3, 0);
    add(4, 5);
    let take = |cursor: &dyn Cursor| {
        let now = Instant::now();
        let lease = lease(cursor, wish(), now)?;
        let ids: Vec<u64> = lease.records().iter().filter_map(|record| id_of(&record.body)).collect();
        lease.settle_all(Settlement::Delivered, now).now_or_never().expect("memory does not wait").unwrap();
        Some(ids)
    };
    assert_eq!(leaving.status().pending_records, 2);
    let first = take(leaving.as_ref()).expect("there is more");
    assert!(first == [1] || first == [2], "{first:?}");
    assert_eq!(leaving.status().pending_records, 1);
    queue.configured(&["staying"], SystemTime::UNIX_EPOCH);
    assert_eq!(queue.counts().removed.of(Signal::Traces).get(), 1);
    assert_eq!(take(leaving.as_ref()), None);

    let mut came = Vec::new();
    while let Some(ids) = take(staying.as_ref()) {
        came.extend(ids);
    }
    came.sort_unstable();
    assert_eq!(came, [1, 2, 3, 4]);
    let status = queue.status();
    assert_eq!((status.records, status.bytes), (0, 0), "nothing is kept");
    assert_eq!(queue.counts().removed.of(Signal::Traces).get(), 1);
}

fn taken_newest(all: &[Vec<u64>], count: usize) -> impl Iterator<Item = u64> {
    let flat: Vec<u64> = all.concat();
    let from = flat.len() - count;
    flat.into_iter().skip(from)
}

/// Scenario: a backend rejects more than the dead-letter log has room for, then an operator drops a letter.
/// Guarantees: the settlement says that the log is full, the record stays and is leased again, and nothing is lost.
#[test]
fn a_full_dead_letter_log_keeps_the_record() {
    let disk = SimDisk::default();
    let (queue, cursor) = with_cursor(&disk, small(), WhenFull::Refuse);
    for id in 1..=10 {
        append(&queue, vec![batch(id, 0, 6_000)]).unwrap();
    }
    let mut now = Instant::now();
    let one = Wish { items_max: 1, ..wish() };
    let mut rejected = 0;
    let full = loop {
        now += Duration::from_secs(2);
        let leased = lease(cursor.as_ref(), one, now).expect("there are more");
        let settled = leased.settle_all(Settlement::Rejected { reason: "400 bad".to_owned() }, now);
        while queue.step() {}
        match settled.now_or_never().unwrap() {
            Ok(()) => rejected += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SettleError::DeadLettersFull { .. }), "{full}");
    let letters = queue.dead_letters(0, 100).unwrap();
    assert_eq!(letters.len(), rejected);
    assert_eq!(letters[0].reason, "400 bad");
    assert_eq!(id_of(&queue.dead_body(letters[0].id).unwrap()), Some(1));
    assert!(queue.status().dead_letter_bytes <= 40_000);
    assert!(lease(cursor.as_ref(), one, now).is_none(), "its lane waits");

    let dropped = queue.drop_dead(letters[0].id);
    while queue.step() {}
    dropped.now_or_never().unwrap().unwrap();
    now += Duration::from_secs(2);
    let again = lease(cursor.as_ref(), one, now).unwrap();
    assert_eq!(id_of(&again.records()[0].body), Some(rejected as u64 + 1), "the record that had no room");
    assert!(settle_all(&queue, again, Settlement::Rejected { reason: "400".to_owned() }, now));
    assert_eq!(queue.status().dead_letters, rejected as u64);
}

/// Scenario: more arrives at once than a quarter of the budget, and admissions that are never committed.
/// Guarantees: what can never fit is refused for good, and room that is not used comes back.
#[test]
fn room_that_is_set_aside_comes_back_and_too_much_is_refused_for_good() {
    let disk = SimDisk::default();
    let (queue, _cursor) = with_cursor(&disk, small(), WhenFull::Refuse);
    let huge = (1..=60).map(|id| batch(id, 0, 100_000)).collect();
    let refusal = queue.admit(huge).err().expect("more than a quarter of the budget");
    assert!(matches!(refusal, Refusal::Permanent { reason: Reason::TooLarge, .. }), "{refusal}");
    let mut held = Vec::new();
    let full = loop {
        match queue.admit(vec![batch(1, 0, 500_000)]) {
            Ok(admission) => held.push(admission),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(full.reason(), Reason::QueueFull);
    held.clear();
    append(&queue, vec![batch(1, 0, 500_000)]).expect("the room came back");
}

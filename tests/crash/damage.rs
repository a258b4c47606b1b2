//! Files that are torn, flipped, missing, empty, foreign or from the future.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use weir_queue::{Cursor, DiskQueue, Faults, Queue, Settlement, WhenFull};

use crate::model::{append, batch, body, folder, id_of, lease, open, settings, settle_all, wish};
use crate::sim::SimDisk;

const RECORDS: u64 = 120;

/// A disk with some segments of records, all acknowledged, none settled; closed, or dead.
fn filled(closed: bool) -> SimDisk {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    queue.configured(&["zipkin"], std::time::SystemTime::UNIX_EPOCH);
    for id in 1..=RECORDS {
        append(&queue, vec![batch(id, (id % 16) as u8, 50_000)]).unwrap();
    }
    // One letter, so that there is a dead-letter log to damage.
    let now = Instant::now();
    let rejected = lease(cursor.as_ref(), weir_queue::Wish { items_max: 1, ..wish() }, now).unwrap();
    assert!(settle_all(&queue, rejected, Settlement::Rejected { reason: "400".to_owned() }, now));
    if closed {
        close(&queue);
    } else {
        let saved = queue.save();
        while queue.step() {}
        saved.now_or_never().unwrap().unwrap();
        disk.kill();
    }
    drop((queue, cursor));
    disk.crash(&mut fastrand::Rng::with_seed(0));
    disk
}

fn close(queue: &DiskQueue) {
    let closed = queue.close();
    while queue.step() {}
    closed.now_or_never().unwrap().unwrap();
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files(&folder().join("segments"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "redb"));
    files.sort();
    files
}

/// Opens, takes everything there is, and appends once more. Returns the ids that came.
fn take_all(disk: &SimDisk) -> (BTreeSet<u64>, Arc<DiskQueue>) {
    let queue = open(disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    queue.configured(&["zipkin"], std::time::SystemTime::UNIX_EPOCH);
    let mut came = drain(&queue, cursor.as_ref());
    append(&queue, vec![batch(RECORDS + 1, 3, 100)]).expect("a damaged past does not stop the present");
    let last = drain(&queue, cursor.as_ref());
    assert_eq!(last, BTreeSet::from([RECORDS + 1]), "the log goes on");
    came.retain(|id| *id <= RECORDS);
    (came, queue)
}

fn drain(queue: &DiskQueue, cursor: &dyn Cursor) -> BTreeSet<u64> {
    let mut now = Instant::now();
    let mut came = BTreeSet::new();
    for _ in 0..10_000 {
        now += Duration::from_secs(2);
        let Some(lease) = lease(cursor, wish(), now) else { break };
        for record in lease.records() {
            came.insert(id_of(&record.body).expect("nothing altered is ever delivered"));
        }
        assert!(settle_all(queue, lease, Settlement::Delivered, now));
    }
    assert_eq!(cursor.status().pending_records, 0, "nothing is left behind: {:?}", cursor.status());
    came
}

/// Scenario: the process dies at each single call to the disk of a round, with what was not synced kept in part,
/// sector by sector, in eight ways each; in four of them all is kept but some sectors of the bodies.
/// Guarantees: the log opens, everything acknowledged before is there unaltered, and nothing is called damaged.
#[test]
fn a_round_that_is_torn_anywhere_harms_nothing_before_it() {
    let base = SimDisk::default();
    let queue = open(&base, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    for id in 1..=8 {
        append(&queue, vec![batch(id, 3, 3_000)]).unwrap();
    }
    base.kill();
    drop((queue, cursor));
    base.crash(&mut fastrand::Rng::with_seed(0));
    let mut survived_all_calls = false;
    let mut torn = 0;
    for call in 0..200 {
        for seed in 0..8 {
            let disk = base.copy();
            let queue = open(&disk, settings(Faults::default()));
            let _cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
            append(&queue, vec![batch(9, 3, 3_000)]).unwrap();
            disk.light_fuse(call);
            let acked = append(&queue, vec![batch(10, 3, 5_000), batch(11, 4, 90_000)]).is_ok();
            survived_all_calls |= acked;
            disk.kill();
            drop((queue, _cursor));
            let mut rng = fastrand::Rng::with_seed(seed);
            if seed % 2 == 0 {
                disk.crash(&mut rng)
            } else {
                disk.crash_at_ends(&mut rng)
            }
            let (came, queue) = take_all_small(&disk);
            let owed: BTreeSet<u64> = (1..=if acked { 11 } else { 9 }).collect();
            assert!(came.is_superset(&owed), "call {call}, seed {seed}: {came:?}");
            assert_eq!(
                queue.status().quarantined,
                0,
                "call {call}, seed {seed}: {:?}",
                queue.status().degraded
            );
            torn += queue.counts().torn.get();
            let damaged = queue.counts().damaged.of(weir_model::Signal::Traces).get();
            assert_eq!(damaged, 0, "call {call}, seed {seed}: torn is not damaged");
        }
        if survived_all_calls {
            assert!(torn >= 4, "only {torn} records were torn: no crash came between bodies and heads");
            return;
        }
    }
    panic!("a round makes more than 200 calls");
}

fn take_all_small(disk: &SimDisk) -> (BTreeSet<u64>, Arc<DiskQueue>) {
    let queue = open(disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    let came = drain(&queue, cursor.as_ref());
    (came, queue)
}

/// Records of a full segment.
const SEGMENT: u64 = 31;

/// Scenario: a segment is cut off at lengths all over it (which no crash does, but a careless person).
/// Guarantees: the log opens; at most that segment's records are missing, it is set aside, and the rest comes.
#[test]
fn a_segment_cut_off_anywhere_costs_no_other() {
    let base = filled(true);
    let victim = segments(&base)[1].clone();
    let length = base.length(&victim) as usize;
    for cut in (0..length).step_by(length / 40 + 1).chain([1, 100, 4_095, length - 1]) {
        let disk = base.copy();
        disk.alter(&victim, |bytes| bytes.truncate(cut));
        let (came, queue) = take_all(&disk);
        assert!(queue.status().quarantined <= 1, "cut at {cut}");
        assert!(came.len() as u64 >= RECORDS - 1 - SEGMENT, "cut at {cut}: only {} came", came.len());
    }
}

/// Scenario: one bit is flipped in a random file, after a clean close and after a crash in turn, 200 times.
/// Guarantees: nothing altered is delivered, at most one segment is set aside, what is missing is counted to the
/// record, and the log goes on.
#[test]
fn a_flipped_bit_costs_at_most_one_segment_and_is_counted() {
    let bases = [filled(true), filled(false)];
    let mut rng = fastrand::Rng::with_seed(7);
    let mut harmed = 0;
    for trial in 0..200 {
        let disk = bases[trial % 2].copy();
        let files: Vec<_> = disk.files(&folder()).into_iter().filter(|path| disk.length(path) > 0).collect();
        let file = files[rng.usize(..files.len())].clone();
        let bit = rng.u64(..disk.length(&file) * 8);
        disk.alter(&file, |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
        let (came, queue) = take_all(&disk);
        let status = queue.status();
        let context = format!("trial {trial}, bit {bit} of {}: {:?}", file.display(), status.degraded);
        let missing = RECORDS - came.len() as u64;
        assert!(status.quarantined <= 1, "{context}");
        assert!(missing <= 1 + SEGMENT, "{missing} missing, {context}");
        // The rejected record is in the dead-letter log, or came again.
        if missing > 1 {
            harmed += 1;
            let at_start = status.quarantined == 1;
            let counted = queue.counts().damaged.of(weir_model::Signal::Traces).get();
            assert!(at_start || counted >= missing - 1, "{counted} of {missing} counted, {context}");
            assert!(status.degraded.is_some(), "{context}");
        }
    }
    println!("{harmed} of 200 flips cost records");
    assert!(harmed >= 40, "only {harmed} of 200 flips met a record");
}

/// What is done to a disk, and what may be lost by it.
type Case = (&'static str, fn(&SimDisk), u64);

/// Scenario: files that are missing, empty, foreign, or written by a later version.
/// Guarantees: the log opens, says what it found, delivers what is sound, deletes nothing, and goes on.
#[test]
fn files_missing_empty_foreign_or_newer_never_stop_the_start() {
    let cases: [Case; 14] = [
        ("meta missing", |disk| disk.lose(&folder().join("meta.redb")), 0),
        ("meta empty", |disk| disk.plant(&folder().join("meta.redb"), b""), 0),
        ("meta foreign", |disk| disk.plant(&folder().join("meta.redb"), &[0x5a; 9_000]), 0),
        ("meta is a segment", |disk| copy(disk, &segments(disk)[0], (disk, &folder().join("meta.redb"))), 0),
        ("oldest segment missing", |disk| disk.lose(&segments(disk)[0]), SEGMENT),
        ("newest segment missing", |disk| disk.lose(segments(disk).last().unwrap()), SEGMENT),
        ("segment empty", |disk| disk.plant(&segments(disk)[1], b""), SEGMENT),
        ("segment foreign", |disk| disk.plant(&segments(disk)[1], &[7; 5_000]), SEGMENT),
        (
            "segment of another log",
            |disk| copy(&filled(true), &segments(disk)[1], (disk, &segments(disk)[1])),
            SEGMENT,
        ),
        ("newest segment newer", |disk| later_version(disk, segments(disk).last().unwrap()), SEGMENT),
        ("files of others", |disk| disk.plant(&folder().join("segments/README"), b"hello"), 0),
        (
            "half-made segment",
            |disk| disk.plant(&folder().join("segments/00000000000000000999.tmp"), &[1; 99]),
            0,
        ),
        ("dead letters foreign", |disk| disk.plant(&folder().join("dead.redb"), &[3; 4_000]), 0),
        (
            "dead letters and reserve missing",
            |disk| {
                disk.lose(&folder().join("dead.redb"));
                disk.lose(&folder().join("reserve"));
            },
            0,
        ),
    ];
    for (name, harm, may_lose) in cases {
        for closed in [true, false] {
            let disk = filled(closed);
            let before = disk.files(&folder().join("segments"));
            harm(&disk);
            let harmed = disk.files(&folder().join("segments"));
            let queue = open(&disk, settings(Faults::default()));
            let kept = disk.files(&folder().join("segments"));
            assert!(kept.len() + 1 >= harmed.len(), "{name}: {before:?} became {kept:?}");
            drop(queue);
            let (came, queue) = take_all(&disk);
            let aside: Vec<_> = disk.files(&folder()).into_iter().filter(|path| is_aside(path)).collect();
            // The rejected one need not come.
            let missing = (RECORDS - 1).saturating_sub(came.len() as u64);
            assert!(
                missing <= may_lose,
                "{name}, closed {closed}: {missing} missing, {:?}",
                queue.status().degraded
            );
            if may_lose > 0 && !name.contains("missing") {
                assert_eq!(aside.len(), 1, "{name}, closed {closed}: set aside are {aside:?}");
            }
        }
    }
}

fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "quarantine")
}

fn copy(from: &SimDisk, file: &Path, to: (&SimDisk, &Path)) {
    let mut content = Vec::new();
    from.alter(file, |bytes| content.clone_from(bytes));
    to.0.plant(to.1, &content);
}

fn later_version(disk: &SimDisk, segment: &Path) {
    disk.alter(segment, |bytes| {
        assert_eq!(bytes[..12], *b"WEIRSEG\n\x02\0\0\0", "the format is where the test looks for it");
        bytes[8] = 3;
    });
}

/// Where the bodies of these ids begin in a file.
fn places(disk: &SimDisk, segment: &Path, ids: impl Iterator<Item = u64>) -> Vec<(u64, usize)> {
    let mut content = Vec::new();
    disk.alter(segment, |bytes| content.clone_from(bytes));
    let wanted: BTreeMap<Vec<u8>, u64> = ids.map(|id| (body(id, 16).to_vec(), id)).collect();
    let found = content.windows(16).enumerate();
    found.filter_map(|(at, window)| wanted.get(window).map(|id| (*id, at))).collect()
}

/// Scenario: one bit is flipped in the body of each record in turn, of a segment that was closed, and of one that was
/// not but has later rounds.
/// Guarantees: that record is called damaged, counted and shown, it alone is missing, and nothing is set aside.
#[test]
fn a_flipped_bit_in_a_body_costs_that_record_and_is_counted() {
    for closed in [true, false] {
        let base = filled(closed);
        let files = segments(&base);
        let mut rng = fastrand::Rng::with_seed(11);
        // Not the first record, which is in the dead-letter log, and not the last round, which a crash may have torn.
        let in_file = |file: &PathBuf| {
            places(&base, file, 2..RECORDS).into_iter().map({
                let file = file.clone();
                move |(id, at)| (file.clone(), id, at)
            })
        };
        let all: Vec<_> = files.iter().flat_map(in_file).collect();
        assert_eq!(all.len() as u64, RECORDS - 2, "every body lies in one piece in some file");
        for (file, id, at) in all.into_iter().step_by(7) {
            let disk = base.copy();
            let bit = rng.usize(..50_000 * 8);
            disk.alter(&file, |bytes| bytes[at + bit / 8] ^= 1 << (bit % 8));
            let (came, queue) = take_all(&disk);
            let missing: Vec<u64> = (2..=RECORDS).filter(|id| !came.contains(id)).collect();
            assert_eq!(missing, [id], "closed {closed}, bit {bit}");
            assert_eq!(queue.status().quarantined, 0);
            assert_eq!(queue.counts().damaged.of(weir_model::Signal::Traces).get(), 1);
            assert!(queue.status().degraded.is_some_and(|why| why.contains("damaged")));
        }
    }
}

/// Scenario: the process dies when the heads of a round are on disk and its bodies are in part: one sector of the last
/// body is not. Then it starts, dies again, and starts again.
/// Guarantees: that record is not delivered, is called torn and not damaged, and stays so; all others come.
#[test]
fn a_body_that_was_not_synced_is_torn_and_never_delivered() {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let _cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    for id in 1..=3 {
        append(&queue, vec![batch(id, 3, 3_000)]).unwrap();
    }
    append(&queue, vec![batch(4, 3, 3_000), batch(5, 3, 3_000), batch(6, 3, 3_000)]).unwrap();
    disk.kill();
    drop((queue, _cursor));
    disk.crash(&mut fastrand::Rng::with_seed(0));
    tear(&disk, 5);
    for start in 0..3 {
        let queue = open(&disk, settings(Faults::default()));
        assert_eq!(queue.counts().torn.get(), u64::from(start == 0), "it is dropped once");
        assert_eq!(queue.status().degraded, None, "a torn round is what a crash does");
        let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
        let lease = lease(cursor.as_ref(), wish(), Instant::now()).unwrap();
        let ids: Vec<u64> = lease.records().iter().map(|record| id_of(&record.body).unwrap()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 6], "start {start}");
        assert_eq!(queue.counts().damaged.of(weir_model::Signal::Traces).get(), 0);
        drop(lease);
        disk.kill();
        drop((queue, cursor));
        disk.crash(&mut fastrand::Rng::with_seed(start));
    }
}

/// Makes a sector of a body what it was before it was written.
fn tear(disk: &SimDisk, id: u64) {
    let segment = segments(disk)[0].clone();
    let (_, at) = places(disk, &segment, id..=id)[0];
    disk.alter(&segment, |bytes| bytes[at + 1_000..at + 1_512].fill(0));
}

/// Scenario: the same sector is lost when the file of cursors has noted that the round had its receipt.
/// Guarantees: the record had a receipt, so it is damaged: counted, and shown.
#[test]
fn a_body_with_a_receipt_is_damaged_and_not_torn() {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    append(&queue, vec![batch(4, 3, 3_000), batch(5, 3, 3_000), batch(6, 3, 3_000)]).unwrap();
    drop(queue.save());
    while queue.step() {}
    disk.kill();
    drop((queue, cursor));
    disk.crash(&mut fastrand::Rng::with_seed(0));
    tear(&disk, 5);
    let queue = open(&disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    assert_eq!(drain(&queue, cursor.as_ref()), BTreeSet::from([4, 6]));
    assert_eq!(queue.counts().torn.get(), 0);
    assert_eq!(queue.counts().damaged.of(weir_model::Signal::Traces).get(), 1);
    assert!(queue.status().degraded.is_some_and(|why| why.contains("record 2 is damaged")));
}

/// Scenario: the bodies of a segment that was closed are cut off.
/// Guarantees: records whose heads point outside of the file are damaged, each counted; the others come.
#[test]
fn a_head_that_points_outside_of_the_file_is_damage() {
    let base = filled(true);
    let segment = segments(&base)[0].clone();
    let in_it = places(&base, &segment, 1..=RECORDS);
    let (victim, at) = in_it[in_it.len() / 2];
    let lost: Vec<u64> = in_it.iter().filter(|(_, start)| *start >= at).map(|(id, _)| *id).collect();
    base.alter(&segment, |bytes| bytes.truncate(at + 10));
    let (came, queue) = take_all(&base);
    let missing: Vec<u64> = (2..=RECORDS).filter(|id| !came.contains(id)).collect();
    assert_eq!(missing, lost, "from {victim} on");
    assert_eq!(queue.counts().damaged.of(weir_model::Signal::Traces).get(), lost.len() as u64);
    assert_eq!(queue.status().quarantined, 0);
}

/// Scenario: many tiny records, until there is more than one segment.
/// Guarantees: a segment whose index is full is sealed although it has hardly any bodies, within the budget; every
/// record comes, also after a crash.
#[test]
fn a_segment_is_sealed_when_its_index_is_full() {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    queue.configured(&["zipkin"], std::time::SystemTime::UNIX_EPOCH);
    let mut last = 0;
    while segments(&disk).len() < 3 {
        assert!(last < 100_000, "the index never fills");
        append(&queue, (last + 1..=last + 500).map(|id| batch(id, (id % 16) as u8, 8)).collect()).unwrap();
        last += 500;
        assert!(queue.status().bytes <= queue.status().budget_bytes);
    }
    assert_eq!(queue.status().degraded, None, "it was sealed before redb wanted more");
    let sizes: Vec<u64> = segments(&disk).iter().map(|path| disk.length(path)).collect();
    assert!(sizes.iter().all(|size| *size < 4 << 20), "{sizes:?}");
    disk.kill();
    drop((queue, cursor));
    disk.crash(&mut fastrand::Rng::with_seed(3));
    let queue = open(&disk, settings(Faults::default()));
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    let came = drain(&queue, cursor.as_ref());
    assert_eq!(came.len() as u64, last);
}

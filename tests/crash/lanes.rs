//! Leases: lanes, order, deferral, joining, linger, keys, cursors that come and go. Both queues keep the same law.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use weir_model::{Batch, Ledger, Log, Receipt, Seq, Signal};
use weir_queue::{
    ABANDONED_WAIT, Cursor, DiskQueue, Faults, Lease, Leased, MemoryQueue, Queue, QueueError, Settings,
    Settlement, WhenFull, Wish,
};

use crate::model::{batch, id_of, lease, open, settings, wish};
use crate::sim::SimDisk;

/// A queue of either kind, and what makes its committer work.
struct Subject {
    name: &'static str,
    queue: Arc<dyn Queue>,
    disk: Option<Arc<DiskQueue>>,
}

impl Subject {
    fn both() -> [Self; 2] {
        let disk = open(&SimDisk::default(), settings(Faults::default()));
        let memory = MemoryQueue::new(64 << 20);
        [
            Self { name: "memory", queue: memory, disk: None },
            Self { name: "disk", queue: Arc::clone(&disk) as Arc<dyn Queue>, disk: Some(disk) },
        ]
    }

    fn work(&self) {
        if let Some(disk) = &self.disk {
            while disk.step() {}
        }
    }

    fn append(&self, batches: Vec<Batch>) -> Receipt {
        let commit = self.queue.admit(batches).unwrap().commit();
        self.work();
        commit.now_or_never().unwrap().unwrap()
    }

    fn settle(&self, lease: Lease, settlement: Settlement, now: Instant) {
        let settled = lease.settle_all(settlement, now);
        self.work();
        settled.now_or_never().unwrap().unwrap();
    }

    fn subscribe(&self, exporter: &str) -> Arc<dyn Cursor> {
        self.queue.subscribe(exporter, WhenFull::Refuse).unwrap()
    }
}

fn ids(lease: &Lease) -> Vec<u64> {
    lease.records().iter().map(|record| id_of(&record.body).expect("unaltered")).collect()
}

const SECOND: Duration = Duration::from_secs(1);

/// Scenario: records of two lanes, leased with a wish for two items.
/// Guarantees: a lease has one lane, in order, joined up to the wish; a lane has one lease out; the receipt is of the
/// right kind and covers the records.
#[test]
fn a_lease_has_one_lane_in_order_and_a_lane_one_lease() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        let receipt = subject.append((1..=6).map(|id| batch(id, (id % 2) as u8, 100)).collect());
        match receipt {
            Receipt::Persisted(proof) if subject.disk.is_some() => assert_eq!(proof.upto(), Seq(6)),
            Receipt::Held(proof) if subject.disk.is_none() => assert_eq!(proof.upto(), Seq(6)),
            other => panic!("{}: {other:?}", subject.name),
        }
        let now = Instant::now();
        let two = Wish { items_max: 2, ..wish() };
        let even = lease(cursor.as_ref(), two, now).unwrap();
        let odd = lease(cursor.as_ref(), two, now).unwrap();
        assert_eq!((ids(&even), ids(&odd)), (vec![2, 4], vec![1, 3]), "{}", subject.name);
        assert!(lease(cursor.as_ref(), two, now).is_none(), "both lanes have a lease out");
        assert_eq!(cursor.status().in_flight, 2);
        subject.settle(even, Settlement::Delivered, now);
        let rest = lease(cursor.as_ref(), two, now).unwrap();
        assert_eq!(ids(&rest), [6]);
        subject.settle(rest, Settlement::Delivered, now);
        subject.settle(odd, Settlement::Delivered, now);
        let last = lease(cursor.as_ref(), two, now).unwrap();
        assert_eq!(ids(&last), [5]);
        subject.settle(last, Settlement::Delivered, now);
        assert_eq!(cursor.status().pending_records, 0);
        assert_eq!(subject.queue.counts().delivered.of(Signal::Traces).get(), 6);
    }
}

/// Scenario: a lease is deferred, more records come for its lane, and its time comes.
/// Guarantees: the lane waits, others go on; then the same records come under the same key, with one attempt more.
#[test]
fn a_deferred_lease_blocks_its_lane_and_comes_again_as_it_was() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        subject.append(vec![batch(1, 0, 100), batch(2, 0, 100)]);
        let now = Instant::now();
        let first = lease(cursor.as_ref(), wish(), now).unwrap();
        let (key, before) = (first.id(), ids(&first));
        assert_eq!(first.attempt(), 1);
        subject.settle(first, Settlement::Deferred { until: now + 5 * SECOND }, now);
        subject.append(vec![batch(3, 0, 100), batch(4, 7, 100)]);
        let other = lease(cursor.as_ref(), wish(), now + SECOND).unwrap();
        assert_eq!(ids(&other), [4], "{}: another lane goes on", subject.name);
        subject.settle(other, Settlement::Delivered, now + SECOND);
        let waits = cursor.lease(wish(), now + 2 * SECOND).now_or_never().unwrap();
        assert!(matches!(waits, Leased::Until(time) if time == now + 5 * SECOND), "{waits:?}");
        let again = lease(cursor.as_ref(), wish(), now + 5 * SECOND).unwrap();
        assert_eq!((again.id(), ids(&again), again.attempt()), (key, before, 2), "{}", subject.name);
        subject.settle(again, Settlement::Delivered, now + 5 * SECOND);
        assert_eq!(ids(&lease(cursor.as_ref(), wish(), now + 6 * SECOND).unwrap()), [3]);
    }
}

/// Scenario: a bisection: of four records one is rejected, one deferred, two delivered; later the rest is delivered.
/// Guarantees: each record has its own fate, the rejected one is in the dead-letter log with its words, and the key of
/// what is left differs from the key of the whole.
#[test]
fn each_record_of_a_lease_has_its_own_fate() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        subject.append((1..=4).map(|id| batch(id, 0, 100)).collect());
        let now = Instant::now();
        let whole = lease(cursor.as_ref(), wish(), now).unwrap();
        let key = whole.id();
        assert_ne!(whole.id_of(&whole.records()[..2]), key);
        assert_ne!(whole.id_of_part(&whole.records()[0], "0"), whole.id_of_part(&whole.records()[0], "1"));
        let settled = whole.settle(
            vec![
                (Seq(1), Settlement::Delivered),
                (Seq(2), Settlement::Rejected { reason: "400: no such trace".to_owned() }),
                (Seq(3), Settlement::Deferred { until: now + SECOND }),
                (Seq(4), Settlement::Delivered),
                (Seq(99), Settlement::Rejected { reason: "not in the lease".to_owned() }),
            ],
            now,
        );
        subject.work();
        settled.now_or_never().unwrap().unwrap();
        let letters = subject.queue.dead_letters(0, 10).unwrap();
        assert_eq!(letters.len(), 1, "{}", subject.name);
        assert_eq!((letters[0].seq, letters[0].reason.as_str()), (2, "400: no such trace"));
        assert_eq!(letters[0].exporter, "zipkin");
        assert_eq!(cursor.status().dead_letters, 1);
        assert_eq!(cursor.status().pending_records, 1);
        let rest = lease(cursor.as_ref(), wish(), now + SECOND).unwrap();
        assert_eq!(ids(&rest), [3]);
        assert_ne!(rest.id(), key);
        subject.settle(rest, Settlement::Delivered, now + SECOND);
        assert_eq!(cursor.status().pending_records, 0);
        let counts = subject.queue.counts();
        let of = |count: &weir_model::count::BySignal| count.of(Signal::Traces).get();
        assert_eq!((of(&counts.delivered), of(&counts.rejected), of(&counts.deferred)), (3, 1, 1));
    }
}

/// Scenario: parts of one record are rejected; the exporter delivered the rest of it.
/// Guarantees: the parts are dead letters, the record is settled, and the items are counted where they went.
#[test]
fn parts_of_a_record_can_be_rejected() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        subject.append(vec![Batch { items: 10, ..batch(1, 0, 100) }]);
        let now = Instant::now();
        let leased = lease(cursor.as_ref(), wish(), now).unwrap();
        let parts = vec![(bytes::Bytes::from_static(b"part"), 3, "bad".to_owned())];
        subject.settle(leased, Settlement::RejectedParts { parts }, now);
        let letters = subject.queue.dead_letters(0, 10).unwrap();
        assert_eq!((letters[0].items, letters[0].bytes), (3, 4), "{}", subject.name);
        assert_eq!(&subject.queue.dead_body(letters[0].id).unwrap()[..], b"part");
        let counts = subject.queue.counts();
        assert_eq!(counts.delivered.of(Signal::Traces).get(), 7);
        assert_eq!(counts.rejected.of(Signal::Traces).get(), 3);
        assert_eq!(cursor.status().pending_records, 0);
    }
}

/// Scenario: a dead letter is requeued, rejected again, requeued again, and delivered.
/// Guarantees: only its own exporter gets it, under the key of the record, and it leaves the log when it is delivered.
#[test]
fn a_requeued_letter_is_tried_again_until_it_is_delivered() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        let other = subject.subscribe("acme");
        subject.append(vec![batch(1, 5, 100)]);
        let now = Instant::now();
        subject.settle(lease(other.as_ref(), wish(), now).unwrap(), Settlement::Delivered, now);
        let leased = lease(cursor.as_ref(), wish(), now).unwrap();
        let key = leased.id();
        subject.settle(leased, Settlement::Rejected { reason: "400".to_owned() }, now);
        let id = subject.queue.dead_letters(0, 1).unwrap()[0].id;
        for (settlement, left) in
            [(Settlement::Rejected { reason: "again".to_owned() }, 1), (Settlement::Delivered, 0)]
        {
            let requeued = subject.queue.requeue(id);
            subject.work();
            requeued.now_or_never().unwrap().unwrap();
            assert!(lease(other.as_ref(), wish(), now).is_none());
            let leased = lease(cursor.as_ref(), wish(), now).unwrap();
            assert_eq!((leased.id(), ids(&leased)), (key.clone(), vec![1]), "{}", subject.name);
            subject.settle(leased, settlement, now);
            assert_eq!(subject.queue.status().dead_letters, left, "{}", subject.name);
            assert!(lease(cursor.as_ref(), wish(), now).is_none());
        }
        let missing = subject.queue.requeue(id);
        subject.work();
        assert!(matches!(missing.now_or_never().unwrap(), Err(QueueError::NotFound { .. })));
    }
}

/// Scenario: an exporter drops its lease.
/// Guarantees: the records are deferred, not delivered, and the drop is counted.
#[test]
fn a_dropped_lease_is_deferred() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        subject.append(vec![batch(1, 0, 100)]);
        let now = Instant::now();
        drop(lease(cursor.as_ref(), wish(), now).unwrap());
        assert!(lease(cursor.as_ref(), wish(), now).is_none(), "{}", subject.name);
        assert!(lease(cursor.as_ref(), wish(), now + ABANDONED_WAIT).is_some());
        assert!(subject.queue.counts().abandoned.get() >= 1);
    }
}

/// Scenario: a wish that lingers, a lane that has too little, then enough; and one that waits to its end.
/// Guarantees: the linger begins when the records are first seen, and ends when there is enough or time is over.
#[test]
fn a_lease_lingers_for_company() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        let lingering = Wish { items_max: 3, linger: Duration::from_millis(200), ..wish() };
        subject.append(vec![batch(1, 0, 100)]);
        let now = Instant::now();
        let waits = cursor.lease(lingering, now).now_or_never().unwrap();
        assert!(matches!(waits, Leased::Until(time) if time == now + lingering.linger), "{waits:?}");
        subject.append(vec![batch(2, 0, 100)]);
        let later = now + Duration::from_millis(150);
        let waits = cursor.lease(lingering, later).now_or_never().unwrap();
        assert!(
            matches!(waits, Leased::Until(time) if time == now + lingering.linger),
            "{}: {waits:?}",
            subject.name
        );
        subject.append(vec![batch(3, 0, 100)]);
        let full = lease(cursor.as_ref(), lingering, later).expect("three are enough");
        assert_eq!(ids(&full), [1, 2, 3]);
        subject.settle(full, Settlement::Delivered, later);
        subject.append(vec![batch(4, 0, 100)]);
        assert!(lease(cursor.as_ref(), lingering, later).is_none());
        assert_eq!(ids(&lease(cursor.as_ref(), lingering, later + lingering.linger).unwrap()), [4]);
    }
}

/// Scenario: a record that is larger than the wish, and records of two signals in one lane.
/// Guarantees: a large record comes alone instead of never; a lease has one signal and order holds across signals.
#[test]
fn large_records_come_alone_and_signals_are_not_joined() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        let logs = |id| Batch { signal: Signal::Logs, ..batch(id, 0, 100) };
        subject.append(vec![batch(1, 0, 700_000), batch(2, 0, 100), logs(3), batch(4, 0, 100)]);
        let now = Instant::now();
        let small = Wish { bytes_max: 1_000, ..wish() };
        let mut came = Vec::new();
        while let Some(leased) = lease(cursor.as_ref(), small, now) {
            came.push((leased.signal(), ids(&leased)));
            subject.settle(leased, Settlement::Delivered, now);
        }
        let traces = |ids: &[u64]| (Signal::Traces, ids.to_vec());
        assert_eq!(
            came,
            [traces(&[1]), traces(&[2]), (Signal::Logs, vec![3]), traces(&[4])],
            "{}",
            subject.name
        );
    }
}

/// Scenario: an exporter waits while records are appended, settled, paused and resumed.
/// Guarantees: a change between the look and the wait ends the wait at once.
#[test]
fn no_wake_up_is_lost() {
    for subject in Subject::both() {
        let cursor = subject.subscribe("zipkin");
        let mut watch = cursor.watch();
        assert!(watch.changed().now_or_never().is_none());
        let now = Instant::now();
        assert!(lease(cursor.as_ref(), wish(), now).is_none());
        subject.append(vec![batch(1, 0, 100)]);
        assert_eq!(watch.changed().now_or_never(), Some(true), "{}", subject.name);
        cursor.pause("401");
        assert!(lease(cursor.as_ref(), wish(), now).is_none());
        assert_eq!(cursor.status().paused.as_deref(), Some("401"));
        cursor.resume();
        assert_eq!(watch.changed().now_or_never(), Some(true));
        let leased = lease(cursor.as_ref(), wish(), now).unwrap();
        subject.settle(leased, Settlement::Delivered, now);
        assert_eq!(watch.changed().now_or_never(), Some(true), "a lane that is free again may have more");
    }
}

/// Scenario: an exporter subscribes late; another subscribes twice; names that cannot be.
/// Guarantees: a new cursor starts at the end, a known one goes on, and bounds hold.
#[test]
fn a_new_cursor_starts_at_the_end() {
    for subject in Subject::both() {
        let early = subject.subscribe("early");
        subject.append(vec![batch(1, 0, 100)]);
        let late = subject.subscribe("late");
        subject.append(vec![batch(2, 0, 100)]);
        let now = Instant::now();
        assert_eq!(ids(&lease(late.as_ref(), wish(), now).unwrap()), [2], "{}", subject.name);
        assert_eq!(ids(&lease(early.as_ref(), wish(), now).unwrap()), [1, 2]);
        assert_eq!(subject.subscribe("early").status().in_flight, 0);
        for name in ["", &"x".repeat(256)] {
            let refused = subject.queue.subscribe(name, WhenFull::Refuse);
            assert!(matches!(refused, Err(QueueError::Name { .. })));
        }
    }
}

/// Scenario: a queue is closed with records to come, and opened again; and once more after a crash.
/// Guarantees: cursors go on where they were, under the same keys; what was settled before the close does not come
/// again; a closed queue takes and gives nothing.
#[test]
fn a_closed_queue_goes_on_where_it_was() {
    let disk = SimDisk::default();
    let mut keys = Vec::new();
    for round in 0..3 {
        let queue = open(&disk, settings(Faults::default()));
        let subject =
            Subject { name: "disk", queue: Arc::clone(&queue) as Arc<dyn Queue>, disk: Some(queue) };
        let cursor = subject.subscribe("zipkin");
        let now = Instant::now();
        if round == 0 {
            subject.append((1..=4).map(|id| batch(id, 0, 100)).collect());
            let one = lease(cursor.as_ref(), Wish { items_max: 1, ..wish() }, now).unwrap();
            subject.settle(one, Settlement::Delivered, now);
        }
        let rest = lease(cursor.as_ref(), wish(), now).unwrap();
        assert_eq!(ids(&rest), [2, 3, 4], "round {round}");
        keys.push(rest.id());
        if round == 0 {
            let closed = subject.queue.close();
            subject.work();
            closed.now_or_never().unwrap().unwrap();
            assert!(subject.queue.admit(vec![batch(9, 0, 10)]).is_err());
            assert!(matches!(cursor.lease(wish(), now).now_or_never().unwrap(), Leased::Empty));
            let settled = rest.settle_all(Settlement::Delivered, now).now_or_never().unwrap();
            assert!(settled.is_err(), "a settlement after the close is not kept, and says so");
        } else {
            drop(rest);
            disk.kill();
        }
        drop((subject, cursor));
        disk.crash(&mut fastrand::Rng::with_seed(round));
    }
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// Scenario: an exporter is taken out of the configuration while records are pending, 23 hours pass, then 2 more;
/// clocks jump in between.
/// Guarantees: its records are kept for 24 hours of running time and no longer, whatever the clock says.
#[test]
fn a_removed_exporter_is_kept_for_a_day() {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let _cursor = queue.subscribe("gone", WhenFull::Refuse).unwrap();
    crate::model::append(&queue, vec![batch(1, 0, 100)]).unwrap();
    let mut wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    queue.configured(&[], wall);
    let known = |queue: &DiskQueue| queue.status().cursors.iter().any(|cursor| cursor.exporter == "gone");
    let mut run = |hours: u64| {
        for _ in 0..hours * 60 {
            wall += Duration::from_secs(60);
            queue.tick(wall);
            while queue.step() {}
        }
    };
    run(23);
    queue.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000_000));
    while queue.step() {}
    assert!(known(&queue), "a jump of the clock is not time that has passed");
    assert!(!queue.status().cursors[0].configured);
    run(2);
    // The clock was set back by the first tick of the run: one minute is not counted.
    assert!(!known(&queue));
}

/// Scenario: two processes want one folder; files of a real disk.
/// Guarantees: the second is refused by name; nobody else may read the files; a clean start takes milliseconds.
#[test]
fn a_real_folder_is_private_and_locked() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("queue");
    let make = || Settings { pace: weir_queue::Pace::Threads, ..Settings::new(Ledger::new(64 << 20)) };
    let queue = DiskQueue::open(&path, make(), SystemTime::UNIX_EPOCH).unwrap();
    let second = DiskQueue::open(&path, make(), SystemTime::UNIX_EPOCH).expect_err("it is in use");
    assert!(matches!(second, QueueError::Locked { .. }), "{second}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    queue.configured(&["zipkin"], SystemTime::UNIX_EPOCH);
    runtime.block_on(async {
        let commits: Vec<_> = (1..=64)
            .map(|id| queue.admit(vec![batch(id, (id % 16) as u8, 20_000)]).unwrap().commit())
            .collect();
        for commit in commits {
            assert!(matches!(commit.await.unwrap(), Receipt::Persisted(_)));
        }
        let rounds = queue.counts().rounds.get();
        assert!(rounds < 64, "64 appends at once took {rounds} rounds");
        let mut came = 0;
        let mut now = Instant::now();
        while came < 32 {
            now += SECOND;
            let Leased::Lease(lease) = cursor.lease(wish(), now).await else { panic!("more to come") };
            came += lease.records().len();
            lease.settle_all(Settlement::Delivered, now).await.unwrap();
        }
        queue.close().await.unwrap();
    });
    drop((queue, cursor));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("meta.redb")), 0o600);

    let started = Instant::now();
    let queue = DiskQueue::open(&path, make(), SystemTime::UNIX_EPOCH).unwrap();
    println!("clean start in {:?}", started.elapsed());
    let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    assert_eq!(cursor.status().pending_records, 32);
    let cold = runtime.block_on(async {
        let Leased::Lease(lease) = cursor.lease(wish(), Instant::now()).await else { panic!("more to come") };
        let cold = ids(&lease);
        lease.settle_all(Settlement::Delivered, Instant::now()).await.unwrap();
        cold
    });
    assert!(!cold.is_empty(), "read from disk by the queue's own thread");
}

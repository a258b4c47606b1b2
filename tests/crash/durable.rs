//! Schedules with a seed against the small durable map: commits, and crashes at any call to the disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use weir_queue::{DurableMap, Opened};

use crate::sim::SimDisk;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Change = (Vec<u8>, Option<Vec<u8>>);

fn open(disk: &SimDisk) -> (DurableMap, Opened) {
    DurableMap::open(Arc::new(disk.clone()), Path::new("/data/link/map.redb")).expect("opens")
}

fn changes(rng: &mut fastrand::Rng) -> Vec<Change> {
    let mut changes = Vec::new();
    for _ in 0..rng.usize(1..12) {
        let key = format!("row/{}", rng.u8(..40)).into_bytes();
        let length = if rng.u8(..10) == 0 { rng.usize(..20_000) } else { rng.usize(..200) };
        let value = (rng.u8(..4) > 0).then(|| (0..length).map(|_| rng.u8(..)).collect());
        changes.push((key, value));
    }
    changes
}

fn applied(rows: &Rows, changes: &[Change]) -> Rows {
    let mut rows = rows.clone();
    for (key, value) in changes {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
    rows
}

fn content(map: &DurableMap) -> Rows {
    map.scan(b"").into_iter().collect()
}

/// Scenario: random commits on one disk, with a full disk now and then and crashes at any call; 300 seeds.
/// Guarantees: after each crash the map is what the last answered commit left, or that with the one that had no answer,
/// whole; it is never called damaged, and while it is open it is what was answered.
#[test]
fn a_crash_shows_a_commit_whole_or_not_at_all() {
    for seed in 1..=300_u64 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let (mut map, _) = open(&disk);
        // What it may be: the first is what was answered.
        let mut may_be = vec![Rows::new()];
        for _ in 0..rng.usize(5..40) {
            if rng.u8(..6) == 0 {
                disk.light_fuse(rng.u64(..25));
            }
            if rng.u8(..8) == 0 {
                disk.set_capacity(rng.bool().then_some(0));
            }
            let changes = changes(&mut rng);
            let after = applied(&may_be[0], &changes);
            match map.commit(changes) {
                Ok(()) => may_be = vec![after],
                Err(_) => may_be.push(after),
            }
            assert_eq!(content(&map), may_be[0], "seed {seed}: open");
            if disk.has_crashed() || rng.u8(..12) == 0 {
                disk.kill();
                drop(map);
                disk.crash(&mut rng);
                disk.set_capacity(None);
                let opened;
                (map, opened) = open(&disk);
                assert!(!matches!(opened, Opened::SetAside(_)), "seed {seed}: {opened:?}");
                let found = content(&map);
                assert!(may_be.contains(&found), "seed {seed}: after a crash");
                may_be = vec![found];
            }
        }
    }
}

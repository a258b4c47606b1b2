//! What the log of a stopped daemon holds, record by record: the last word on "exactly once".
//!
//! The queue's own reader takes the log's lock, so that a daemon which still runs makes it fail, and changes nothing in the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weir_model::Origin;
use weir_queue::read_log;

use crate::ledger::Harvest;

/// What is shown of a long list.
const SHOWN_MAX: usize = 10;

/// A record's key: whose it is, and its place there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The agent.
    pub identity: String,
    /// The life of its log's numbering.
    pub incarnation: u128,
    /// Its log.
    pub log: String,
    /// The lane.
    pub lane: usize,
    /// The place.
    pub seq: u64,
}

/// What one or several logs hold.
#[derive(Debug, Default)]
pub struct Kept {
    /// The spans.
    pub harvest: Harvest,
    records: u64,
    /// How often each key is there.
    keys: BTreeMap<Key, u32>,
    /// Records that came over no link.
    without_key: u64,
    disorder: Vec<String>,
}

/// The folder of a pipeline's log in a data folder.
pub fn log_folder(data_dir: &Path, pipeline: &str) -> PathBuf {
    data_dir.join("queues").join(pipeline)
}

impl Kept {
    /// What this log holds.
    ///
    /// # Panics
    /// Where it cannot be read, or is in use.
    pub fn of(data_dir: &Path, pipeline: &str) -> Self {
        let mut kept = Self::default();
        kept.add(data_dir, pipeline);
        kept
    }

    /// Adds what another log holds.
    ///
    /// # Panics
    /// As [`Kept::of`].
    pub fn add(&mut self, data_dir: &Path, pipeline: &str) {
        let folder = log_folder(data_dir, pipeline);
        let mut newest: BTreeMap<Key, u64> = BTreeMap::new();
        let read = read_log(&folder, |record| {
            self.harvest.add(&record.body);
            self.records += 1;
            match &record.origin {
                Some(origin) => self.count(origin, record.lane.index(), &mut newest),
                None => self.without_key += 1,
            }
        });
        let read = read.unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
        assert_eq!((read.damaged, &read.unreadable), (0, &Vec::new()), "damage in {}", folder.display());
    }

    /// Counts a key, and looks whether it stands where its lane's order wants it in this log.
    fn count(&mut self, origin: &Origin, lane: usize, newest: &mut BTreeMap<Key, u64>) {
        let source = &origin.source;
        let (identity, log) = (source.identity.clone(), source.log.clone());
        let key = Key { identity, incarnation: source.incarnation, log, lane, seq: origin.seq.0 };
        let lane = Key { seq: 0, ..key.clone() };
        let before = newest.insert(lane, key.seq);
        if before.is_some_and(|before| before >= key.seq) {
            self.disorder.push(format!("{key:?} after place {before:?}"));
        }
        *self.keys.entry(key).or_default() += 1;
    }

    /// Records that were read.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records that came over a link, each key counted once.
    pub fn keys(&self) -> u64 {
        self.keys.len() as u64
    }

    /// Keys that are there more than once.
    pub fn twice(&self) -> Vec<&Key> {
        self.keys.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key).collect()
    }

    /// The numberings that records came under, with the records of each.
    pub fn numberings(&self) -> BTreeMap<(&str, u128), u64> {
        let mut found = BTreeMap::new();
        for key in self.keys.keys() {
            *found.entry((key.identity.as_str(), key.incarnation)).or_default() += 1;
        }
        found
    }

    /// Every record came over a link, stands there once, and the order of each lane is kept.
    ///
    /// # Panics
    /// Otherwise, with keys.
    #[track_caller]
    pub fn assert_exactly_once(&self) {
        let twice = self.twice();
        let shown = &twice[..twice.len().min(SHOWN_MAX)];
        assert!(twice.is_empty(), "{} keys are there twice: {shown:?} …", twice.len());
        assert_eq!(self.without_key, 0, "records without a key");
        let shown = &self.disorder[..self.disorder.len().min(SHOWN_MAX)];
        assert!(self.disorder.is_empty(), "{} records out of order: {shown:?} …", self.disorder.len());
    }
}

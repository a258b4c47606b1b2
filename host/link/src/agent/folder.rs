//! What the agent remembers of itself over a restart: who it is, in which life, at which start.
//!
//! ```text
//! identity       text: the name that it gave itself; not used where one is configured
//! incarnation    16 bytes, big-endian
//! epoch          u64 big-endian: starts in this incarnation, this one included
//! boots          16 bytes for each of the last starts in this incarnation, the newest last
//! firsts/LOG     the log's incarnation, 16 bytes · u64 big-endian for each of these starts: the first place that a record could get
//! store          16 bytes: the collector's store that acknowledged last
//! accepted/LOG   numbering, 16 bytes · u64 big-endian: the highest place of the log that this store has taken
//! rejected/LOG   `rejected.rs`
//! ```
//!
//! Incarnation, epoch, boots and first places are on disk, in one transaction, before the first Hello says them: from these a
//! collector tells a copy of the folder from the one that it knows. What was accepted is written now and then: a collector
//! uses it to find out that it has lost records, and a number that is too low only keeps it from noticing the last of them.
//!
//! Invariant: no pair of incarnation and epoch is said by two starts, unless the folder was copied.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_model::{SOURCE_NAME_BYTES_MAX, Seq};
use weir_queue::QueueError;

use crate::limits::STARTS_MAX;
use crate::names::{Boot, Incarnation, StoreId, from_wire, to_wire};

const IDENTITY: &[u8] = b"identity";
const INCARNATION: &[u8] = b"incarnation";
const EPOCH: &[u8] = b"epoch";
const BOOTS: &[u8] = b"boots";
const FIRSTS: &[u8] = b"firsts/";
const STORE: &[u8] = b"store";
const ACCEPTED: &[u8] = b"accepted/";

/// A value, or none where the row goes.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// A small durable map. Blocks for the disk.
pub(crate) trait Rows: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// All that begins so.
    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)>;

    /// Writes all or none; durable when it returns.
    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError>;
}

/// Rows that are forgotten with the process.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

/// Where new numbers come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds {
    /// Milliseconds since the Unix epoch.
    pub(crate) unix_millis: u64,
    /// Random bits.
    pub(crate) random: u128,
}

/// One start of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The process.
    pub(crate) boot: Boot,
    /// Its logs, before anything is appended.
    pub(crate) ends: Vec<LogEnd>,
}

/// Where a log ends at a start.
#[derive(Debug, Clone)]
pub(crate) struct LogEnd {
    pub(crate) log: String,
    /// The log's own incarnation.
    pub(crate) numbering: u128,
    /// The place that the next record will have.
    pub(crate) next: Seq,
}

/// One agent's memory of itself.
pub(crate) struct Folder {
    /// None once the agent has ended. Locked while a commit runs, so on threads that may wait, and before `life`.
    rows: Mutex<Option<Arc<dyn Rows>>>,
    life: Mutex<Life>,
}

/// What it remembers, as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) identity: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: u64,
    pub(crate) store: Option<StoreId>,
    /// The last starts in this incarnation, the newest last: at most [`STARTS_MAX`].
    pub(crate) boots: Vec<Boot>,
    /// By log: its own incarnation, and the first place that a record could get at each of these starts, as far as it was there.
    firsts: BTreeMap<String, (u128, Vec<u64>)>,
    /// By log: the numbering, and the highest place that `store` has taken under it.
    accepted: BTreeMap<String, (u128, Seq)>,
    /// `accepted` is not all on disk.
    is_ahead: bool,
}

/// What keeps an agent from starting.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file could not be used.
    #[error("open the agent's memory of itself, {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: QueueError,
    },
    /// The next start could not be written down.
    #[error("write down that the agent starts")]
    Write(#[source] QueueError),
    /// A configured identity that cannot be one.
    #[error("an identity has 1 to {SOURCE_NAME_BYTES_MAX} bytes, not {0}")]
    Identity(usize),
}

// === impl Folder ===

impl Folder {
    /// Begins a start: the same life where there is one, with the next epoch, durable when this returns.
    ///
    /// # Errors
    /// [`FolderError`]: the agent may not speak.
    pub(crate) fn open(
        rows: Arc<dyn Rows>,
        identity: Option<&str>,
        start: &Start,
        seeds: Seeds,
    ) -> Result<Self, FolderError> {
        let known = rows.get(IDENTITY).and_then(|bytes| String::from_utf8(bytes).ok());
        let own =
            known.unwrap_or_else(|| Incarnation::new(seeds.unix_millis, !seeds.random, None).to_string());
        let identity = identity.unwrap_or(&own).to_owned();
        if identity.is_empty() || identity.len() > SOURCE_NAME_BYTES_MAX {
            return Err(FolderError::Identity(identity.len()));
        }
        // Half of a life is none: a numbering may only go on where all of it is known.
        let (incarnation, epoch) = match (id_of(&*rows, INCARNATION), number_of(&*rows, EPOCH)) {
            (Some(incarnation), Some(epoch)) => (Incarnation(incarnation), epoch.saturating_add(1)),
            (known, _) => (Incarnation::new(seeds.unix_millis, seeds.random, known.map(Incarnation)), 1),
        };
        let store = id_of(&*rows, STORE).map(StoreId);
        let accepted = rows.scan(ACCEPTED).iter().filter_map(accepted_of).collect();
        // Of a life that was given up there is nothing to remember.
        let is_heir = epoch > 1;
        let mut boots = if is_heir { boots_of(&*rows) } else { Vec::new() };
        push(&mut boots, start.boot);
        let mut firsts = BTreeMap::new();
        for LogEnd { log, numbering, next } in &start.ends {
            let known = if is_heir { firsts_of(&*rows, log) } else { None };
            let known = known.filter(|(of, _)| of == numbering).map(|(_, firsts)| firsts);
            let mut places = known.unwrap_or_default();
            push(&mut places, next.0);
            firsts.insert(log.clone(), (*numbering, places));
        }
        let life = Life { identity, incarnation, epoch, store, boots, firsts, accepted, is_ahead: false };
        let mut changes = life.starts(&*rows);
        changes.push((IDENTITY.to_vec(), Some(own.into_bytes())));
        rows.commit(changes).map_err(FolderError::Write)?;
        Ok(Self { rows: Mutex::new(Some(rows)), life: Mutex::new(life) })
    }

    /// What it remembers.
    pub(crate) fn life(&self) -> Life {
        self.locked().clone()
    }

    /// Its life, and the store that acknowledged last.
    pub(crate) fn names(&self) -> (Incarnation, Option<StoreId>) {
        let life = self.locked();
        (life.incarnation, life.store)
    }

    /// Begins a new life, above `known` and its own: epoch 1, nothing accepted. Durable when this returns.
    ///
    /// # Errors
    /// [`FolderError::Write`]: it is still in the old one.
    pub(crate) fn renew(&self, known: Option<Incarnation>, seeds: Seeds) -> Result<Life, FolderError> {
        let rows = self.rows();
        let rows = rows.as_ref().ok_or(FolderError::Write(QueueError::Closed))?;
        let old = self.life();
        let above = known.max(Some(old.incarnation));
        let incarnation = Incarnation::new(seeds.unix_millis, seeds.random, above);
        let boots: Vec<_> = old.boots.last().copied().into_iter().collect();
        // Whatever place a record has, it is sent in the first epoch of this life.
        let begun = |(log, (numbering, _)): (&String, &(u128, _))| (log.clone(), (*numbering, vec![1]));
        let firsts = old.firsts.iter().map(begun).collect();
        let accepted = BTreeMap::new();
        let new = Life { incarnation, epoch: 1, boots, firsts, accepted, is_ahead: false, ..old };
        let mut changes = new.starts(&**rows);
        changes.extend(rows.scan(ACCEPTED).into_iter().map(|(key, _)| (key, None)));
        rows.commit(changes).map_err(FolderError::Write)?;
        *self.locked() = new.clone();
        Ok(new)
    }

    /// Another store acknowledges from now on: what the one before has taken says nothing about it. Durable when this returns.
    ///
    /// # Errors
    /// [`FolderError::Write`]: it still remembers the one before.
    pub(crate) fn acknowledged_by(&self, store: StoreId) -> Result<(), FolderError> {
        let rows = self.rows();
        let rows = rows.as_ref().ok_or(FolderError::Write(QueueError::Closed))?;
        let mut changes = vec![(STORE.to_vec(), Some(to_wire(store.0)))];
        changes.extend(rows.scan(ACCEPTED).into_iter().map(|(key, _)| (key, None)));
        rows.commit(changes).map_err(FolderError::Write)?;
        let mut life = self.locked();
        life.store = Some(store);
        life.accepted.clear();
        life.is_ahead = false;
        Ok(())
    }

    /// The store has taken records of `log` up to this place. In memory, until [`Folder::keep`].
    pub(crate) fn accepted(&self, log: &str, numbering: u128, seq: Seq) {
        let mut life = self.locked();
        let (known, highest) = life.accepted.get(log).copied().unwrap_or((numbering, Seq(0)));
        if known != numbering || seq > highest {
            life.accepted.insert(log.to_owned(), (numbering, seq));
            life.is_ahead = true;
        }
    }

    /// Writes what was accepted, where it is not on disk; rows of logs that are not in `logs` go.
    ///
    /// # Errors
    /// [`FolderError::Write`]: it will be written later.
    pub(crate) fn keep(&self, logs: &[&str]) -> Result<(), FolderError> {
        let rows = self.rows();
        let Some(rows) = rows.as_ref() else { return Ok(()) };
        let accepted = {
            let mut life = self.locked();
            if !std::mem::take(&mut life.is_ahead) {
                return Ok(());
            }
            life.accepted.retain(|log, _| logs.contains(&log.as_str()));
            life.accepted.clone()
        };
        let row = |(log, (numbering, seq)): (&String, &(u128, Seq))| {
            let value = [&numbering.to_be_bytes()[..], &seq.0.to_be_bytes()[..]].concat();
            ([ACCEPTED, log.as_bytes()].concat(), Some(value))
        };
        let mut changes: BTreeMap<_, _> =
            rows.scan(ACCEPTED).into_iter().map(|(key, _)| (key, None)).collect();
        changes.extend(accepted.iter().map(row));
        let written = rows.commit(changes.into_iter().collect()).map_err(FolderError::Write);
        if written.is_err() {
            self.locked().is_ahead = true;
        }
        written
    }

    /// Nothing is written any more, and nothing keeps the file. Blocks while a commit runs.
    pub(crate) fn close(&self) {
        self.rows().take();
    }

    fn rows(&self) -> MutexGuard<'_, Option<Arc<dyn Rows>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("life", &*self.locked()).finish_non_exhaustive()
    }
}

// === impl Life ===

impl Life {
    /// Every place of the log below this one is settled, and not only because somebody else took it: what the collector that has
    /// acknowledged last must have, for it took the highest of them.
    ///
    /// `settled` is where the exporter's cursor is. It is also moved by another store, by dead letters and under another
    /// numbering; of these the collector that hears it has no record.
    pub(crate) fn settled(&self, log: &str, numbering: u128, settled: Seq) -> Seq {
        match self.accepted.get(log) {
            Some((known, highest)) if *known == numbering => settled.min(highest.next()),
            _ => Seq(0),
        }
    }

    /// The first place that a record of the log could get at each of the last starts, the newest last.
    pub(crate) fn firsts(&self, log: &str) -> Vec<u64> {
        self.firsts.get(log).map(|(_, firsts)| firsts.clone()).unwrap_or_default()
    }

    /// The rows of its starts, where `rows` may have those of others: of logs that are gone, of an earlier life.
    fn starts(&self, rows: &dyn Rows) -> Vec<Change> {
        let mut changes: BTreeMap<_, _> = rows.scan(FIRSTS).into_iter().map(|(key, _)| (key, None)).collect();
        for (log, (numbering, firsts)) in &self.firsts {
            let places = firsts.iter().flat_map(|first| first.to_be_bytes());
            let value = numbering.to_be_bytes().into_iter().chain(places).collect();
            changes.insert([FIRSTS, log.as_bytes()].concat(), Some(value));
        }
        let boots = self.boots.iter().flat_map(|boot| boot.0.to_be_bytes()).collect();
        changes.insert(INCARNATION.to_vec(), Some(to_wire(self.incarnation.0)));
        changes.insert(EPOCH.to_vec(), Some(self.epoch.to_be_bytes().to_vec()));
        changes.insert(BOOTS.to_vec(), Some(boots));
        changes.into_iter().collect()
    }
}

/// One more start; the oldest goes where there is no room.
fn push<T>(starts: &mut Vec<T>, one: T) {
    starts.push(one);
    starts.drain(..starts.len().saturating_sub(STARTS_MAX));
}

fn id_of(rows: &dyn Rows, key: &[u8]) -> Option<u128> {
    from_wire(&rows.get(key)?)
}

fn number_of(rows: &dyn Rows, key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(rows.get(key)?.try_into().ok()?))
}

/// Where one is missing, a collector that knows it asks for a new life.
fn boots_of(rows: &dyn Rows) -> Vec<Boot> {
    let bytes = rows.get(BOOTS).unwrap_or_default();
    let (boots, _) = bytes.as_chunks::<16>();
    boots.iter().map(|boot| Boot(u128::from_be_bytes(*boot))).collect()
}

fn firsts_of(rows: &dyn Rows, log: &str) -> Option<(u128, Vec<u64>)> {
    let value = rows.get(&[FIRSTS, log.as_bytes()].concat())?;
    let (numbering, places) = value.split_at_checked(16)?;
    let (places, _) = places.as_chunks::<8>();
    Some((from_wire(numbering)?, places.iter().map(|place| u64::from_be_bytes(*place)).collect()))
}

fn accepted_of((key, value): &(Vec<u8>, Vec<u8>)) -> Option<(String, (u128, Seq))> {
    let log = String::from_utf8(key.strip_prefix(ACCEPTED)?.to_vec()).ok()?;
    let (numbering, seq) = value.split_at_checked(16)?;
    Some((log, (from_wire(numbering)?, Seq(u64::from_be_bytes(seq.try_into().ok()?)))))
}

// === impl Memory ===

impl Rows for Memory {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SEEDS: Seeds = Seeds { unix_millis: 1_790_000_000_000, random: 77 };

    /// Rows that outlive the folder, as a disk does; and a disk that fails.
    #[derive(Clone, Default)]
    struct Kept(Arc<Memory>, Arc<Mutex<bool>>);

    impl Rows for Kept {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.0.get(key)
        }

        fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
            self.0.scan(prefix)
        }

        fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
            if *self.1.lock().unwrap() { Err(QueueError::Closed) } else { self.0.commit(changes) }
        }
    }

    fn start(disk: &Kept) -> Folder {
        started(disk, 0, Seq(1))
    }

    /// A start of the process `boot`, of which the next record has this place.
    fn started(disk: &Kept, boot: u128, next: Seq) -> Folder {
        Folder::open(Arc::new(disk.clone()), None, &begin(boot, next), SEEDS).unwrap()
    }

    fn begin(boot: u128, next: Seq) -> Start {
        Start { boot: Boot(boot), ends: vec![LogEnd { log: "traces".to_owned(), numbering: 5, next }] }
    }

    /// What a life says of its starts.
    fn starts(life: &Life) -> (Vec<u128>, Vec<u64>) {
        (life.boots.iter().map(|boot| boot.0).collect(), life.firsts("traces"))
    }

    /// Scenario: seventy starts, each ten records after the one before; the log is replaced by another of its name; a new life is
    /// asked for; one more start; a start for which the disk fails.
    /// Guarantees: the last 64 are remembered with their first places, over starts, the newest last; another log begins anew; a new
    /// life has this process only; nothing of a start that is not on disk stays.
    #[test]
    fn the_last_starts_of_a_life_are_remembered() {
        let disk = Kept::default();
        for at in 1..70 {
            started(&disk, at, Seq(at as u64 * 10));
        }
        let folder = started(&disk, 70, Seq(700));
        let expected: (Vec<_>, Vec<_>) = ((7..=70).collect(), (7..=70).map(|at| at * 10).collect());
        assert_eq!((starts(&folder.life()), folder.life().epoch), (expected, 70));
        let other = LogEnd { log: "traces".to_owned(), numbering: 6, next: Seq(3) };
        let other = Start { boot: Boot(71), ends: vec![other] };
        let folder = Folder::open(Arc::new(disk.clone()), None, &other, SEEDS).unwrap();
        assert_eq!((folder.life().boots.len(), folder.life().firsts("traces")), (64, vec![3]));
        assert_eq!(starts(&folder.renew(None, SEEDS).unwrap()), (vec![71], vec![1]));
        assert_eq!(starts(&folder.life()), (vec![71], vec![1]));
        *disk.1.lock().unwrap() = true;
        Folder::open(Arc::new(disk.clone()), None, &begin(72, Seq(8)), SEEDS).unwrap_err();
        *disk.1.lock().unwrap() = false;
        let again = Start { boot: Boot(73), ..other };
        let last = Folder::open(Arc::new(disk.clone()), None, &again, SEEDS).unwrap().life();
        assert_eq!((starts(&last), last.epoch), ((vec![71, 73], vec![1, 3]), 2));
        let gone = Start { boot: Boot(74), ends: Vec::new() };
        Folder::open(Arc::new(disk.clone()), None, &gone, SEEDS).unwrap();
        assert_eq!(disk.scan(FIRSTS), []);
    }

    /// Scenario: an agent starts three times, and is told to begin a new life in the third.
    /// Guarantees: the identity stays; the epoch is one more at each start; the new life is above what the collector knows and
    /// begins with 1; the next start goes on in it.
    #[test]
    fn each_start_has_an_epoch_of_its_own() {
        let disk = Kept::default();
        let first = start(&disk).life();
        assert_eq!(first.epoch, 1);
        let second = start(&disk).life();
        assert_eq!((second.epoch, second.incarnation), (2, first.incarnation));
        let third = start(&disk);
        let known = Incarnation::new(SEEDS.unix_millis + 50, 1, None);
        let renewed = third.renew(Some(known), SEEDS).unwrap();
        assert!(renewed.incarnation > known && renewed.incarnation > first.incarnation);
        assert_eq!((renewed.epoch, &renewed.identity), (1, &first.identity));
        let last = start(&disk).life();
        assert_eq!((last.epoch, last.incarnation), (2, renewed.incarnation));
    }

    /// Scenario: the row of the epoch is gone; then a configured identity is used.
    /// Guarantees: a new life begins, above the old one; the configured name counts, and the own one is kept.
    #[test]
    fn half_of_a_life_is_none() {
        let disk = Kept::default();
        let before = start(&disk).life();
        disk.commit(vec![(EPOCH.to_vec(), None)]).unwrap();
        let after = Folder::open(Arc::new(disk.clone()), Some("spiffe://a/agent"), &begin(9, Seq(1)), SEEDS)
            .unwrap()
            .life();
        assert!(after.incarnation > before.incarnation);
        assert_eq!((after.epoch, after.identity.as_str()), (1, "spiffe://a/agent"));
        assert_eq!(start(&disk).life().identity, before.identity);
    }

    /// Scenario: the disk fails at a start, and when a new life is asked for.
    /// Guarantees: the agent does not start, and stays in its old life: no Hello says what is not on disk.
    #[test]
    fn nothing_is_said_that_is_not_on_disk() {
        let disk = Kept::default();
        let folder = start(&disk);
        let before = folder.life();
        *disk.1.lock().unwrap() = true;
        Folder::open(Arc::new(disk.clone()), None, &begin(9, Seq(1)), SEEDS).unwrap_err();
        folder.renew(None, SEEDS).unwrap_err();
        folder.acknowledged_by(StoreId(1)).unwrap_err();
        assert_eq!(folder.life(), before);
    }

    /// Scenario: a store takes records up to 20 while the cursor is at 15, at 30 (ten dead letters), under another numbering,
    /// after a restart, and after another store took over.
    /// Guarantees: the agent never says that more is settled than the collector that it says it to must have.
    #[test]
    fn settled_is_what_the_last_store_must_have() {
        let disk = Kept::default();
        let folder = start(&disk);
        folder.acknowledged_by(StoreId(1)).unwrap();
        folder.accepted("traces", 5, Seq(20));
        folder.accepted("traces", 5, Seq(12));
        let life = folder.life();
        let settled = |numbering, seq| life.settled("traces", numbering, Seq(seq));
        assert_eq!((settled(5, 15), settled(5, 30), settled(6, 15)), (Seq(15), Seq(21), Seq(0)));
        folder.keep(&["traces"]).unwrap();
        let again = start(&disk);
        assert_eq!(again.life().settled("traces", 5, Seq(30)), Seq(21));
        assert_eq!(again.life().store, Some(StoreId(1)));
        again.acknowledged_by(StoreId(2)).unwrap();
        assert_eq!(again.life().settled("traces", 5, Seq(30)), Seq(0));
        let last = start(&disk).life();
        assert_eq!((last.store, last.settled("traces", 5, Seq(30))), (Some(StoreId(2)), Seq(0)));
    }

    /// Rows whose commits, once they are held, tell that they have begun and wait to go on.
    struct Held {
        rows: Memory,
        held: Mutex<Option<(mpsc::SyncSender<()>, mpsc::Receiver<()>)>>,
    }

    impl Rows for Held {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.rows.get(key)
        }

        fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
            self.rows.scan(prefix)
        }

        fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
            if let Some((begun, go_on)) = &*self.held.lock().unwrap() {
                begun.send(()).unwrap();
                go_on.recv().unwrap();
            }
            self.rows.commit(changes)
        }
    }

    /// Scenario: a folder is closed while a write is with the disk, and somebody writes after that.
    /// Guarantees: it is closed when that write is done and not before; then nobody has the rows, and nothing is written any more.
    #[test]
    fn a_folder_is_closed_when_its_last_write_is_done() {
        let rows = Arc::new(Held { rows: Memory::default(), held: Mutex::default() });
        let folder = Folder::open(Arc::clone(&rows) as _, None, &begin(0, Seq(1)), SEEDS).unwrap();
        let (begin, begun) = mpsc::sync_channel(1);
        let (release, go_on) = mpsc::sync_channel(1);
        *rows.held.lock().unwrap() = Some((begin, go_on));
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| folder.acknowledged_by(StoreId(1)));
            begun.recv().unwrap();
            let closing = scope.spawn(|| folder.close());
            for _ in 0..1_000 {
                std::thread::yield_now();
            }
            let is_early = closing.is_finished();
            release.send(()).unwrap();
            closing.join().unwrap();
            writing.join().unwrap().unwrap();
            assert!(!is_early);
        });
        assert_eq!((rows.get(STORE), Arc::strong_count(&rows)), (Some(to_wire(1)), 1));
        let before = folder.life();
        folder.renew(None, SEEDS).unwrap_err();
        folder.acknowledged_by(StoreId(2)).unwrap_err();
        assert_eq!((folder.life(), rows.get(STORE)), (before, Some(to_wire(1))));
        folder.accepted("traces", 5, Seq(20));
        folder.keep(&["traces"]).unwrap();
        assert_eq!(rows.scan(ACCEPTED), []);
    }

    /// Scenario: logs come and go with the configuration.
    /// Guarantees: what was accepted of a log that is gone is not kept for ever.
    #[test]
    fn rows_of_logs_that_are_gone_go() {
        let disk = Kept::default();
        let folder = start(&disk);
        folder.accepted("old", 5, Seq(20));
        folder.keep(&["old"]).unwrap();
        folder.accepted("new", 5, Seq(1));
        folder.keep(&["new"]).unwrap();
        assert_eq!(disk.scan(ACCEPTED).len(), 1);
    }
}

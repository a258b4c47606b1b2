//! `dead.redb`: the dead-letter log: what backends refused for good, until an operator requeues or drops it.
//!
//! ```text
//! table letters   id u64 ▶ JSON of the letter
//! table bodies    (id u64, piece u32) ▶ bytes
//! table requeued  id u64 ▶ ()          letters that are being tried again
//! table totals    exporter ▶ letters u64 · bytes u64
//! ```
//!
//! Letters and totals have a checksum before them (`checked.rs`), bodies have theirs in the letter.
//!
//! Pages of redb are powers of two, so a body is cut into pieces that fill such pages ([`pieces`]).
//!
//! Every transaction is durable when the call returns, and saves redb's allocator, so that a start after a crash need
//! not read the file.
//!
//! Invariant: never larger than its budget (counted in pages of letters); a letter is whole or absent.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::backend::{Backend, BackendFile};
use crate::checked::{seal, unseal};
use crate::disk::Disk;
use crate::meta::set_aside;
use crate::segment::{Fault, fault, guarded};
use crate::status::DeadLetter;

const LETTERS: TableDefinition<u64, &[u8]> = TableDefinition::new("letters");
const BODIES: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("bodies");
const REQUEUED: TableDefinition<u64, ()> = TableDefinition::new("requeued");
const TOTALS: TableDefinition<&str, &[u8]> = TableDefinition::new("totals");

/// Letters and bytes of each exporter.
type Totals = BTreeMap<String, (u64, u64)>;

const FILE: &str = "dead.redb";
const CACHE_BYTES: usize = 256 << 10;
/// Letters that one page of a list shows.
const LIST_MAX: usize = 1_000;
/// A backend's words are cut to this.
const REASON_BYTES_MAX: usize = 4 << 10;
/// A letter's JSON, beside its reason and names.
const LETTER_OVERHEAD: u64 = 512;
/// Page that a large piece fills: larger ones are wasteful to allocate and to keep in redb's cache.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// The smallest page of redb.
const PAGE_BYTES_MIN: usize = 4 << 10;
/// What redb adds to the one value of a leaf: 4 bytes of header, 4 of offset, 12 of key, and some to spare.
const PAGE_OVERHEAD: usize = 64;

/// Why the dead-letter log did not take letters.
#[derive(Debug)]
pub(crate) enum DeadError {
    /// No room.
    Full { used: u64 },
    /// It could not be written.
    Failed(Fault),
}

/// The dead-letter log. Made at the first letter.
#[derive(Debug)]
pub(crate) struct DeadLog {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    budget: u64,
    open: Option<Open>,
    /// A sync failed: nothing is written any more.
    failed: bool,
    totals: BTreeMap<String, (u64, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    db: Database,
    file: Arc<BackendFile>,
}

impl DeadLog {
    /// Opens it, if it is there. The second value says why it cannot be used, or what was
    /// set aside.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        budget: u64,
    ) -> Result<(Self, Option<String>), Fault> {
        let mut log = Self {
            disk: Arc::clone(disk),
            folder: folder.to_owned(),
            budget,
            open: None,
            failed: false,
            totals: BTreeMap::new(),
            next: 1,
        };
        match log.load() {
            Ok(()) => Ok((log, None)),
            Err(fault @ (Fault::Damaged(_) | Fault::Newer(_))) => {
                let file = set_aside(disk.as_ref(), folder, FILE)?;
                log.open = None;
                Ok((log, Some(format!("is {fault}; it was set aside as {file}"))))
            }
            Err(fault @ (Fault::Io(_) | Fault::Full(_))) => {
                // Exporters that reject pause until a start can open it.
                log.failed = true;
                Ok((log, Some(format!("cannot be opened: {fault}"))))
            }
        }
    }

    /// Opens the file, if it is there.
    fn load(&mut self) -> Result<(), Fault> {
        let file = match self.disk.open(&self.folder.join(FILE), false) {
            Ok(file) => BackendFile::new(file, self.budget)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if file.length() == 0 {
            return Err(Fault::Damaged("the file is empty".to_owned()));
        }
        let open = Open::new(file)?;
        let (totals, last) = guarded(|| open.overview())?;
        self.totals = totals;
        self.next = self.next.max(last.saturating_add(1));
        self.open = Some(open);
        Ok(())
    }

    /// Makes the file: whole under its name, durably, or not there.
    fn make(&mut self) -> Result<(), Fault> {
        let making = self.folder.join("dead.tmp");
        match self.disk.remove(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let open = Open::new(BackendFile::new(self.disk.open(&making, true)?, self.budget)?)?;
        let txn = open.begin()?;
        txn.open_table(LETTERS).map_err(fault)?;
        txn.open_table(BODIES).map_err(fault)?;
        txn.open_table(REQUEUED).map_err(fault)?;
        txn.open_table(TOTALS).map_err(fault)?;
        open.commit(txn)?;
        self.disk.rename(&making, &self.folder.join(FILE))?;
        self.disk.sync_folder(&self.folder)?;
        self.open = Some(open);
        Ok(())
    }

    /// Bytes that count against the budget.
    pub(crate) fn used(&self) -> u64 {
        self.totals.values().map(|(_, bytes)| bytes).sum()
    }

    /// Letters of all exporters.
    pub(crate) fn letters(&self) -> u64 {
        self.totals.values().map(|(letters, _)| letters).sum()
    }

    /// Letters of one exporter.
    pub(crate) fn letters_of(&self, exporter: &str) -> u64 {
        self.totals.get(exporter).map_or(0, |(letters, _)| *letters)
    }

    /// Adds letters, all or none, durably. Their ids are given here.
    pub(crate) fn add(&mut self, letters: Vec<(DeadLetter, Bytes)>) -> Result<(), DeadError> {
        if self.failed {
            return Err(DeadError::Failed(Fault::Io(io::Error::other("an earlier sync of it failed"))));
        }
        let size: u64 = letters.iter().map(|(letter, body)| letter_size(letter, body.len())).sum();
        if self.used().saturating_add(size) > self.budget {
            return Err(DeadError::Full { used: self.used() });
        }
        if self.open.is_none() {
            self.make().map_err(DeadError::Failed)?;
        }
        let mut next = self.next;
        let mut totals = self.totals.clone();
        let added = self.change(|txn| {
            let mut table = txn.open_table(LETTERS).map_err(fault)?;
            let mut bodies = txn.open_table(BODIES).map_err(fault)?;
            for (mut letter, body) in letters {
                letter.id = next;
                next += 1;
                cut(&mut letter.reason);
                letter.bytes = body.len() as u64;
                letter.crc32c = crc32c::crc32c(&body);
                let entry = totals.entry(letter.exporter.clone()).or_default();
                entry.0 += 1;
                entry.1 += letter_size(&letter, body.len());
                table.insert(letter.id, encode(&letter)?.as_slice()).map_err(fault)?;
                for (number, piece) in (0_u32..).zip(pieces(body.len())) {
                    bodies.insert((letter.id, number), &body[piece]).map_err(fault)?;
                }
            }
            write_totals(txn, &totals)
        });
        added.map_err(DeadError::Failed)?;
        self.next = next;
        self.totals = totals;
        Ok(())
    }

    /// Letters with ids above `after`.
    pub(crate) fn list(&self, after: u64, max: usize) -> Result<Vec<DeadLetter>, Fault> {
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        guarded(|| {
            let txn = open.db.begin_read().map_err(fault)?;
            let table = txn.open_table(LETTERS).map_err(fault)?;
            let mut letters = Vec::new();
            for entry in table.range(from..).map_err(fault)?.take(max.min(LIST_MAX)) {
                let (id, value) = entry.map_err(fault)?;
                letters.push(decode(id.value(), value.value())?);
            }
            Ok(letters)
        })
    }

    /// One letter and its body; none where there is no such letter.
    pub(crate) fn read(&self, id: u64) -> Result<Option<(DeadLetter, Bytes)>, Fault> {
        let Some(open) = &self.open else { return Ok(None) };
        guarded(|| {
            let txn = open.db.begin_read().map_err(fault)?;
            let table = txn.open_table(LETTERS).map_err(fault)?;
            let Some(letter) = table.get(id).map_err(fault)? else { return Ok(None) };
            let letter = decode(id, letter.value())?;
            let bodies = txn.open_table(BODIES).map_err(fault)?;
            let mut body = BytesMut::new();
            for entry in bodies.range((id, 0)..=(id, u32::MAX)).map_err(fault)? {
                let (_, piece) = entry.map_err(fault)?;
                body.extend_from_slice(piece.value());
            }
            if body.len() as u64 != letter.bytes || crc32c::crc32c(&body) != letter.crc32c {
                return Err(Fault::Damaged(format!(
                    "dead letter {id}: its checksum is not that of its bytes"
                )));
            }
            Ok(Some((letter, body.freeze())))
        })
    }

    /// Deletes a letter, durably. False where there is none.
    pub(crate) fn remove(&mut self, id: u64) -> Result<bool, Fault> {
        let Some(letter) = self.letter(id)? else { return Ok(false) };
        let mut totals = self.totals.clone();
        if let Some(entry) = totals.get_mut(&letter.exporter) {
            entry.0 = entry.0.saturating_sub(1);
            entry.1 = entry.1.saturating_sub(letter_size(&letter, letter.bytes as usize));
        }
        totals.retain(|_, (letters, _)| *letters > 0);
        self.change(|txn| {
            txn.open_table(LETTERS).map_err(fault)?.remove(id).map_err(fault)?;
            txn.open_table(REQUEUED).map_err(fault)?.remove(id).map_err(fault)?;
            let mut bodies = txn.open_table(BODIES).map_err(fault)?;
            bodies.retain_in((id, 0)..=(id, u32::MAX), |_, _| false).map_err(fault)?;
            write_totals(txn, &totals)
        })?;
        self.totals = totals;
        Ok(true)
    }

    /// Marks a letter as being tried again, or (with the new words) as dead again. None where there is none.
    pub(crate) fn mark(
        &mut self,
        id: u64,
        requeued: bool,
        reason: Option<String>,
    ) -> Result<Option<DeadLetter>, Fault> {
        let Some(mut letter) = self.letter(id)? else { return Ok(None) };
        if let Some(reason) = reason {
            // The size that was counted stays: the new words may not take more than the old ones were allowed to.
            letter.reason = reason;
            cut(&mut letter.reason);
        }
        let encoded = encode(&letter)?;
        self.change(|txn| {
            txn.open_table(LETTERS).map_err(fault)?.insert(id, encoded.as_slice()).map_err(fault)?;
            let mut table = txn.open_table(REQUEUED).map_err(fault)?;
            if requeued {
                table.insert(id, ()).map_err(fault)?;
            } else {
                table.remove(id).map_err(fault)?;
            }
            Ok(())
        })?;
        Ok(Some(letter))
    }

    /// Letters that are being tried again.
    pub(crate) fn requeued(&self) -> Result<Vec<DeadLetter>, Fault> {
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        guarded(|| {
            let txn = open.db.begin_read().map_err(fault)?;
            let table = txn.open_table(LETTERS).map_err(fault)?;
            let mut letters = Vec::new();
            for entry in txn.open_table(REQUEUED).map_err(fault)?.iter().map_err(fault)? {
                let (id, ()) = (entry.map_err(fault)?.0.value(), ());
                if let Some(value) = table.get(id).map_err(fault)? {
                    letters.push(decode(id, value.value())?);
                }
            }
            Ok(letters)
        })
    }

    /// Closes it cleanly.
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        match self.open.take() {
            Some(open) => guarded(|| open.db.close().map_err(fault)),
            None => Ok(()),
        }
    }

    fn letter(&self, id: u64) -> Result<Option<DeadLetter>, Fault> {
        let Some(open) = &self.open else { return Ok(None) };
        guarded(|| {
            let txn = open.db.begin_read().map_err(fault)?;
            let table = txn.open_table(LETTERS).map_err(fault)?;
            let value = table.get(id).map_err(fault)?;
            value.map(|value| decode(id, value.value())).transpose()
        })
    }

    fn change(&mut self, act: impl FnOnce(&WriteTransaction) -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(open) = &self.open else {
            return Err(Fault::Io(io::Error::other("the dead-letter log is not open")));
        };
        if self.failed {
            return Err(Fault::Io(io::Error::other("an earlier sync of it failed")));
        }
        let changed = guarded(|| {
            let txn = open.begin()?;
            act(&txn)?;
            open.commit(txn)
        });
        if open.file.is_failed() {
            self.failed = true;
        } else if changed.is_err() {
            // redb wants a database that had an error to be opened again.
            self.open = None;
            self.load()?;
        }
        changed
    }
}

impl Open {
    fn new(file: Arc<BackendFile>) -> Result<Self, Fault> {
        let db = guarded(|| {
            redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(Backend(Arc::clone(&file)))
                .map_err(fault)
        })?;
        Ok(Self { db, file })
    }

    /// Totals for each exporter, and the last id.
    fn overview(&self) -> Result<(Totals, u64), Fault> {
        let txn = self.db.begin_read().map_err(fault)?;
        let mut totals = BTreeMap::new();
        for entry in txn.open_table(TOTALS).map_err(fault)?.iter().map_err(fault)? {
            let (name, value) = entry.map_err(fault)?;
            let value = unseal(name.value().as_bytes(), value.value())?;
            totals.insert(name.value().to_owned(), decode_totals(value)?);
        }
        let last = txn.open_table(LETTERS).map_err(fault)?.last().map_err(fault)?.map(|(id, _)| id.value());
        Ok((totals, last.unwrap_or(0)))
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut txn = self.db.begin_write().map_err(fault)?;
        txn.set_quick_repair(true);
        Ok(txn)
    }

    fn commit(&self, txn: WriteTransaction) -> Result<(), Fault> {
        txn.commit().map_err(fault)
    }
}

fn write_totals(txn: &WriteTransaction, totals: &BTreeMap<String, (u64, u64)>) -> Result<(), Fault> {
    let mut table = txn.open_table(TOTALS).map_err(fault)?;
    table.retain(|name, _| totals.contains_key(name)).map_err(fault)?;
    for (name, value) in totals {
        let content = [value.0.to_le_bytes(), value.1.to_le_bytes()].concat();
        table.insert(name.as_str(), seal(name.as_bytes(), &content).as_slice()).map_err(fault)?;
    }
    Ok(())
}

fn letter_size(letter: &DeadLetter, body: usize) -> u64 {
    footprint(body) + LETTER_OVERHEAD + (letter.exporter.len() + REASON_BYTES_MAX) as u64
}

/// Cuts a body of `length` bytes into pieces that fill pages to three quarters at least, except the last.
fn pieces(length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    let mut empty = length == 0;
    std::iter::from_fn(move || {
        if std::mem::take(&mut empty) {
            return Some(0..0);
        }
        let left = length.checked_sub(at).filter(|left| *left > 0)?;
        let page = (left + PAGE_OVERHEAD).next_power_of_two().clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX);
        let fits = page - PAGE_OVERHEAD;
        // A page that would be filled badly is halved: what is left goes into another, smaller one.
        let take = if left < fits && left < page / 4 * 3 && page > PAGE_BYTES_MIN * 8 {
            page / 2 - PAGE_OVERHEAD
        } else {
            left.min(fits)
        };
        let piece = at..at + take;
        at += take;
        Some(piece)
    })
}

/// Bytes on disk that a body takes, with its head, at the most.
fn footprint(length: usize) -> u64 {
    let pages = pieces(length).map(|piece| (piece.len() + PAGE_OVERHEAD).next_power_of_two().max(256) as u64);
    pages.sum::<u64>() + 128
}

fn cut(reason: &mut String) {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
}

fn encode(letter: &DeadLetter) -> Result<Vec<u8>, Fault> {
    let content = serde_json::to_vec(letter).map_err(|error| Fault::Damaged(error.to_string()))?;
    Ok(seal(&letter.id.to_le_bytes(), &content))
}

fn decode(id: u64, value: &[u8]) -> Result<DeadLetter, Fault> {
    let content = unseal(&id.to_le_bytes(), value)?;
    serde_json::from_slice(content).map_err(|error| Fault::Damaged(format!("dead letter {id}: {error}")))
}

fn decode_totals(content: &[u8]) -> Result<(u64, u64), Fault> {
    match content.split_first_chunk::<8>().map(|(letters, bytes)| (*letters, bytes.try_into())) {
        Some((letters, Ok(bytes))) => Ok((u64::from_le_bytes(letters), u64::from_le_bytes(bytes))),
        Some((_, Err(_))) | None => Err(Fault::Damaged("the totals of letters".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: bodies of every size around the borders of pages.
    /// Guarantees: the pieces are the body in order, each fits into its page, and a body never takes twice its size
    /// (beyond small ones).
    #[test]
    fn pieces_cover_the_body_and_fill_their_pages() {
        let around = |size: usize| size.saturating_sub(70)..size + 70;
        for length in
            around(0).chain(around(4096)).chain(around(98_304)).chain(around(262_144)).chain(around(845_000))
        {
            let mut at = 0;
            for piece in pieces(length) {
                assert_eq!(piece.start, at, "body of {length}");
                assert!(piece.len() + PAGE_OVERHEAD <= PAGE_BYTES_MAX);
                at = piece.end;
            }
            assert_eq!(at, length);
            if length > 64 << 10 {
                assert!(footprint(length) < length as u64 * 3 / 2, "{length} takes {}", footprint(length));
            }
        }
    }
}

//! The keys of records that other Weirs have handed over, and the marks, as they lie in a segment.
//!
//! ```text
//! table facts     "voids" ▶ (from u64 · to u64)…: places in earlier segments of rounds that failed
//! table marks     number u64 ▶ flags u8 · lanes u16 · epoch u64 · used u64 · incarnation u128
//!                              · length u8 · identity · length u8 · log · a place u64 for each bit of `lanes`
//! table origins   seq u64 ▶ number u64 · epoch u64 · place u64 · the mark before it u64
//!
//! flags           1 the source is forgotten; its row is here for the keys that name it
//! ```
//!
//! Each value has a checksum before it (`checked.rs`). A segment without such records has none of these.
//!
//! A segment begins with all marks, in the transaction that makes it, so that the newest segment alone has all of them,
//! whether it has records or not. A round's keys and marks are written in the transaction of its heads.
//!
//! # Why no crash leaves a mark over a record that is not there
//!
//! 1. A round that has a receipt is on disk with its bodies, keys and marks: there was an `fdatasync` after all of them.
//! 2. A crash keeps a round's transaction whole or not at all, but perhaps not all of its bodies. Where one is not what its
//!    head says, nobody in the round has had a receipt. The record is marked as torn, and so are all of its source
//!    and lane that come after it in the round, whole or not: they come again, in order, and may not be there twice. In the
//!    same transaction the mark goes back to what it was before the first of them; its key says what that was.
//! 3. A round that failed without a crash changes no mark in memory. It may be on disk all the same: then, if no other
//!    segment is begun before the end, it is found at the next start, records and marks, and is in the log. If one is, its
//!    records will come again and be stored there. So that one says in its first transaction that these places are void, as do
//!    all that come after it; a start marks them as torn, and takes their marks back.
//! 4. Where the newest segment cannot be read, its records are lost, and the marks are those of the one before, which are
//!    the marks of the moment at which the newest was made.
//!
//! Conversely, what is in the log is covered: its mark was written with it, and a start takes back only what is not.
//!
//! Invariant: a mark that is read was written with the records that it covers, or after them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};
use weir_model::{LANES, Origin, SOURCE_NAME_BYTES_MAX, Seq, Source};

use crate::checked::{seal, unseal};
use crate::marks::{Row, Stamp};
use crate::segment::{Fault, Head, fault};

pub(crate) const MARKS: TableDefinition<u64, &[u8]> = TableDefinition::new("marks");
pub(crate) const ORIGINS: TableDefinition<u64, &[u8; STAMP_BYTES]> = TableDefinition::new("origins");
/// The name of the fact.
pub(crate) const VOIDS: &str = "voids";

/// A sealed [`Stamp`].
const STAMP_BYTES: usize = 4 + 4 * 8;
/// What the key of a record takes of a segment's index, as a head does: with leaves that are half full, and branches.
pub(crate) const STAMP_INDEX_BYTES: u64 = 128;
/// What bytes of rows take of a segment's index: leaves that are half full, and as much again for the pages of the
/// transaction before, since any row may change in any round.
pub(crate) const ROW_INDEX_FACTOR: u64 = 4;
/// The part of a segment that rows may have, one in so many: with the factor a quarter of it.
pub(crate) const ROWS_PART: u64 = 16;

/// The source is forgotten.
const FORGOTTEN: u8 = 1;
/// Key, checksum, and everything of a row but names and places.
const ROW_FIXED_BYTES: usize = 8 + 4 + 1 + 2 + 8 + 8 + 16 + 1 + 1;

/// A row as it lies in a segment: its number and its sealed value.
pub(crate) type Laid = (u64, Vec<u8>);

/// What a round writes beside heads and bodies.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// For each record its key, or none; empty where none has one.
    pub(crate) stamps: Vec<Option<Stamp>>,
    pub(crate) rows: Vec<Laid>,
}

/// What a new segment begins with.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub(crate) rows: Vec<Laid>,
    pub(crate) voids: Vec<Range<u64>>,
}

/// What a start reads of the newest segment.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<(Source, Row)>,
    /// Rows that cannot be read.
    pub(crate) damaged: u64,
    pub(crate) voids: Vec<Range<u64>>,
}

/// Bytes of a row with its key.
pub(crate) fn row_bytes(source: &Source, row: &Row) -> u64 {
    let places = row.places.iter().filter(|place| **place > 0).count();
    (ROW_FIXED_BYTES + source.identity.len() + source.log.len() + 8 * places) as u64
}

/// A row for a segment.
pub(crate) fn lay(source: &Source, row: &Row, forgotten: bool) -> Laid {
    let mut content = Vec::with_capacity(row_bytes(source, row) as usize);
    let used = (0..LANES).filter(|lane| row.places[*lane] > 0);
    let lanes = used.clone().fold(0_u16, |lanes, lane| lanes | 1 << lane);
    content.push(u8::from(forgotten) * FORGOTTEN);
    content.extend_from_slice(&lanes.to_le_bytes());
    content.extend_from_slice(&row.epoch.to_le_bytes());
    content.extend_from_slice(&row.used.to_le_bytes());
    content.extend_from_slice(&source.incarnation.to_le_bytes());
    for name in [&source.identity, &source.log] {
        // The admission has seen that it is no longer.
        let name = &name.as_bytes()[..name.len().min(SOURCE_NAME_BYTES_MAX)];
        content.push(name.len() as u8);
        content.extend_from_slice(name);
    }
    for lane in used {
        content.extend_from_slice(&row.places[lane].to_le_bytes());
    }
    (row.number, seal(&row.number.to_le_bytes(), &content))
}

/// Reads a row. The last is whether the source is forgotten.
pub(crate) fn read_row(number: u64, value: &[u8]) -> Option<(Source, Row, bool)> {
    let mut rest = unseal(&number.to_le_bytes(), value).ok()?;
    let flags = take::<1>(&mut rest)?[0];
    let lanes = u16::from_le_bytes(take(&mut rest)?);
    let epoch = u64::from_le_bytes(take(&mut rest)?);
    let used = u64::from_le_bytes(take(&mut rest)?);
    let incarnation = u128::from_le_bytes(take(&mut rest)?);
    let (identity, log) = (name(&mut rest)?, name(&mut rest)?);
    let mut places = [0; LANES];
    for (lane, place) in places.iter_mut().enumerate() {
        if lanes & 1 << lane != 0 {
            *place = u64::from_le_bytes(take(&mut rest)?);
        }
    }
    let sound = rest.is_empty() && flags & !FORGOTTEN == 0;
    let row = Row { number, places, epoch, used };
    sound.then_some((Source { identity, incarnation, log }, row, flags & FORGOTTEN != 0))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn name(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(take::<1>(rest)?[0]);
    let (name, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(name.to_vec()).ok()
}

/// A key for the record at `seq`.
fn lay_stamp(seq: u64, stamp: &Stamp) -> [u8; STAMP_BYTES] {
    let mut content = [0; STAMP_BYTES - 4];
    let numbers = [stamp.source, stamp.epoch, stamp.place, stamp.before];
    for (part, number) in content.chunks_exact_mut(8).zip(numbers) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    let mut value = [0; STAMP_BYTES];
    value.copy_from_slice(&seal(&seq.to_le_bytes(), &content));
    value
}

fn read_stamp(seq: u64, value: &[u8]) -> Option<Stamp> {
    let mut rest = unseal(&seq.to_le_bytes(), value).ok()?;
    let mut number = || take(&mut rest).map(u64::from_le_bytes);
    Some(Stamp { source: number()?, epoch: number()?, place: number()?, before: number()? })
}

/// The value of the fact.
pub(crate) fn lay_voids(voids: &[Range<u64>]) -> Vec<u8> {
    let numbers = voids.iter().flat_map(|void| [void.start, void.end]);
    let content: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    seal(VOIDS.as_bytes(), &content)
}

pub(crate) fn read_voids(value: &[u8]) -> Result<Vec<Range<u64>>, Fault> {
    let content = unseal(VOIDS.as_bytes(), value)?;
    let (pairs, _) = content.as_chunks::<16>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Ok(pairs.iter().map(|pair| number(&pair[..8])..number(&pair[8..])).collect())
}

/// A table that a segment need not have.
pub(crate) fn if_there<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, Fault> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

/// Writes keys and rows in the transaction of their heads.
pub(crate) fn write(
    txn: &redb::WriteTransaction,
    stamps: impl Iterator<Item = (u64, Stamp)>,
    rows: &[Laid],
) -> Result<(), Fault> {
    let mut stamps = stamps.peekable();
    if stamps.peek().is_some() {
        let mut table = txn.open_table(ORIGINS).map_err(fault)?;
        for (seq, stamp) in stamps {
            table.insert(seq, &lay_stamp(seq, &stamp)).map_err(fault)?;
        }
    }
    if !rows.is_empty() {
        let mut table = txn.open_table(MARKS).map_err(fault)?;
        for (number, row) in rows {
            table.insert(number, row.as_slice()).map_err(fault)?;
        }
    }
    Ok(())
}

/// The keys of records, as far as they are there and sound.
pub(crate) fn stamps<'a>(
    txn: &redb::ReadTransaction,
    heads: impl Iterator<Item = &'a Head>,
) -> Result<BTreeMap<u64, Stamp>, Fault> {
    let mut heads = heads.filter(|head| head.keyed).peekable();
    let mut stamps = BTreeMap::new();
    if heads.peek().is_none() {
        return Ok(stamps);
    }
    let Some(table) = if_there(txn.open_table(ORIGINS))? else { return Ok(stamps) };
    for head in heads {
        let stamp = table.get(head.seq).map_err(fault)?;
        stamps.extend(stamp.and_then(|value| Some((head.seq, read_stamp(head.seq, value.value())?))));
    }
    Ok(stamps)
}

/// The same, with their sources.
pub(crate) fn origins<'a>(
    txn: &redb::ReadTransaction,
    heads: impl Iterator<Item = &'a Head>,
) -> Result<BTreeMap<u64, Origin>, Fault> {
    let stamps = stamps(txn, heads)?;
    let mut origins = BTreeMap::new();
    if stamps.is_empty() {
        return Ok(origins);
    }
    let Some(table) = if_there(txn.open_table(MARKS))? else { return Ok(origins) };
    let mut sources: BTreeMap<u64, Option<Arc<Source>>> = BTreeMap::new();
    for (seq, stamp) in stamps {
        if !sources.contains_key(&stamp.source) {
            let row = table.get(stamp.source).map_err(fault)?;
            let source = row.and_then(|value| read_row(stamp.source, value.value()));
            sources.insert(stamp.source, source.map(|(source, _, _)| Arc::new(source)));
        }
        if let Some(Some(source)) = sources.get(&stamp.source) {
            let origin = Origin { source: Arc::clone(source), epoch: stamp.epoch, seq: Seq(stamp.place) };
            origins.insert(seq, origin);
        }
    }
    Ok(origins)
}

/// All marks that can be read, and how many cannot.
pub(crate) fn rows(txn: &redb::ReadTransaction) -> Result<Table, Fault> {
    let mut found = Table::default();
    let Some(table) = if_there(txn.open_table(MARKS))? else { return Ok(found) };
    for entry in table.iter().map_err(fault)? {
        let (number, value) = entry.map_err(fault)?;
        match read_row(number.value(), value.value()) {
            Some((source, row, false)) => found.rows.push((source, row)),
            Some((_, _, true)) => {}
            None => found.damaged += 1,
        }
    }
    Ok(found)
}

/// Which records of a round must go with those that are torn: what follows them of the same source and lane.
pub(crate) fn followers(
    round: &[Head],
    torn: &std::collections::BTreeSet<u64>,
    stamps: &BTreeMap<u64, Stamp>,
) -> Vec<u64> {
    let lowest = lowest(round.iter().filter(|head| torn.contains(&head.seq)), stamps);
    let goes = |head: &&Head| {
        stamps.get(&head.seq).is_some_and(|stamp| {
            lowest.get(&(stamp.source, head.lane.index())).is_some_and(|lowest| stamp.place > lowest.place)
        })
    };
    round.iter().filter(goes).map(|head| head.seq).collect()
}

/// The rows whose marks go back because these records are not of the log.
pub(crate) fn taken_back(txn: &redb::ReadTransaction, heads: &[Head]) -> Result<Vec<Laid>, Fault> {
    let lowest = lowest(heads.iter(), &stamps(txn, heads.iter())?);
    if lowest.is_empty() {
        return Ok(Vec::new());
    }
    let Some(table) = if_there(txn.open_table(MARKS))? else { return Ok(Vec::new()) };
    let mut rows: BTreeMap<u64, (Source, Row, bool)> = BTreeMap::new();
    for ((number, lane), stamp) in lowest {
        if !rows.contains_key(&number) {
            let row = table.get(number).map_err(fault)?;
            rows.extend(row.and_then(|value| Some((number, read_row(number, value.value())?))));
        }
        if let Some((_, row, _)) = rows.get_mut(&number) {
            row.places[lane] = row.places[lane].min(stamp.before);
        }
    }
    Ok(rows.into_values().map(|(source, row, forgotten)| lay(&source, &row, forgotten)).collect())
}

/// Of each source and lane the first of these records.
fn lowest<'a>(
    heads: impl Iterator<Item = &'a Head>,
    stamps: &BTreeMap<u64, Stamp>,
) -> BTreeMap<(u64, usize), Stamp> {
    let mut lowest: BTreeMap<(u64, usize), Stamp> = BTreeMap::new();
    for head in heads {
        if let Some(stamp) = stamps.get(&head.seq) {
            let first = lowest.entry((stamp.source, head.lane.index())).or_insert(*stamp);
            if stamp.place < first.place {
                *first = *stamp;
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a row and a key with each bit flipped, cut, and under another number.
    /// Guarantees: what is read is what was written, or nothing.
    #[test]
    fn a_row_and_a_key_are_read_as_they_were_written_or_not_at_all() {
        let source =
            Source { identity: "agent".to_owned(), incarnation: u128::MAX - 3, log: "traces".to_owned() };
        let mut row = Row { number: 9, places: [0; LANES], epoch: 7, used: 1 << 40 };
        (row.places[0], row.places[15]) = (5, u64::MAX);
        for forgotten in [false, true] {
            let (number, value) = lay(&source, &row, forgotten);
            assert_eq!(value.len() as u64 + 8, row_bytes(&source, &row));
            assert_eq!(read_row(number, &value), Some((source.clone(), row.clone(), forgotten)));
            assert_eq!(read_row(8, &value), None);
            for bit in 0..value.len() * 8 {
                let mut flipped = value.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read_row(number, &flipped), None, "bit {bit}");
            }
            for length in 0..value.len() - 4 {
                assert_eq!(
                    read_row(9, &seal(&9_u64.to_le_bytes(), &value[4..4 + length])),
                    None,
                    "{length} bytes"
                );
            }
        }
        let stamp = Stamp { source: 9, epoch: 2, place: 6, before: 5 };
        let value = lay_stamp(3, &stamp);
        assert_eq!((read_stamp(3, &value), read_stamp(4, &value)), (Some(stamp), None));
        let voids = [3..9, u64::MAX - 1..u64::MAX];
        assert_eq!(read_voids(&lay_voids(&voids)).unwrap(), voids);
        assert!(read_voids(b"").is_err());
    }
}

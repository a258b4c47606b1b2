//! Which records of other Weirs a log has: for each source and lane the newest place that was stored.
//!
//! A batch that comes with an [`Origin`] is stored where its place is above the mark of its source and lane; else it is a
//! duplicate: the log has it already, or had it once, so it is vouched for and not stored again. Marks change in memory
//! when the transaction is durable that has the records and the new marks (`keys.rs` says how they lie there).
//!
//! The table is bounded. Beyond a bound the source is forgotten whose newest record is the oldest: what it sends again is
//! stored again, which is counted and said, and is what would have happened to all of it without marks.
//!
//! Invariant: no I/O; a mark is never above a record that is neither in the log nor has had a receipt.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::warn;
use weir_model::{Batch, LANES, Mark, Origin, Reason, Refusal, SOURCE_NAME_BYTES_MAX, Seq, Signal, Source};

use crate::keys::row_bytes;

/// Sources that a log knows: ten thousand agents with a log for traces and one for metrics.
pub(crate) const MARKS_MAX: usize = 20_000;

/// What is known of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Names the source in a segment.
    pub(crate) number: u64,
    /// The newest place in each lane; 0 where there was none.
    pub(crate) places: [u64; LANES],
    /// The epoch in which the highest of them was sent, or a later one.
    pub(crate) epoch: u64,
    /// Where its newest record is in our log.
    pub(crate) used: u64,
}

/// The key of a record as a segment keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of its source's row.
    pub(crate) source: u64,
    pub(crate) epoch: u64,
    pub(crate) place: u64,
    /// The mark of its source and lane without it, to which a crash that tears it takes the mark back.
    pub(crate) before: u64,
}

/// What a round does to the marks, once it is durable.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// One for each batch that is stored; empty where none has an origin.
    pub(crate) stamps: Vec<Option<Stamp>>,
    /// Rows that are new or changed.
    pub(crate) rows: BTreeMap<Arc<Source>, Row>,
    /// Rows that make room for them.
    pub(crate) dropped: BTreeMap<Arc<Source>, Row>,
    /// Bytes by which the rows grow in a segment.
    pub(crate) growth: u64,
}

/// What became of the batches of a round.
#[derive(Debug, Default)]
pub(crate) struct Sifted {
    /// Whether each is stored; empty where all are.
    kept: Vec<bool>,
    /// Items of those that are not.
    pub(crate) duplicates: Vec<(Signal, u64)>,
    pub(crate) change: Change,
}

impl Sifted {
    /// How many of each admission's batches are there already, for admissions of so many batches one after another.
    pub(crate) fn known(&self, batches: impl IntoIterator<Item = usize>) -> Vec<u64> {
        let mut kept = self.kept.iter();
        let known = |count: usize| kept.by_ref().take(count).filter(|kept| !**kept).count() as u64;
        batches.into_iter().map(known).collect()
    }

    /// Takes duplicates out of a list that has something for each batch.
    pub(crate) fn retain<T>(&self, list: &mut Vec<T>) {
        let mut kept = self.kept.iter();
        list.retain(|_| kept.next().copied().unwrap_or(true));
    }
}

/// The marks of a log.
#[derive(Debug)]
pub(crate) struct Marks {
    rows: BTreeMap<Arc<Source>, Row>,
    /// By where their newest record is.
    oldest: BTreeMap<(u64, u64), Arc<Source>>,
    next_number: u64,
    bytes: u64,
    bytes_max: u64,
}

impl Marks {
    /// None; they may take so many bytes of a segment, without what its tree adds.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { rows: BTreeMap::new(), oldest: BTreeMap::new(), next_number: 1, bytes: 0, bytes_max }
    }

    /// How many sources are known.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of all rows in a segment.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All rows, in the order of their numbers.
    pub(crate) fn rows(&self) -> Vec<(Arc<Source>, Row)> {
        let mut rows: Vec<_> =
            self.rows.iter().map(|(source, row)| (Arc::clone(source), row.clone())).collect();
        rows.sort_unstable_by_key(|(_, row)| row.number);
        rows
    }

    /// The highest place of each source of an agent.
    pub(crate) fn of(&self, identity: &str) -> Vec<Mark> {
        let first = Source { identity: identity.to_owned(), incarnation: 0, log: String::new() };
        let those =
            self.rows.range::<Source, _>(&first..).take_while(|(source, _)| source.identity == identity);
        let mark = |(source, row): (&Arc<Source>, &Row)| Mark {
            source: Source::clone(source),
            seq: Seq(highest(row)),
            epoch: row.epoch,
        };
        those.filter(|(_, row)| highest(row) > 0).map(mark).collect()
    }

    /// Says which batches of a round are stored, beginning at our place `first`, and what that does to the marks.
    ///
    /// Several batches of a source and lane in rising order are all new. With `store_all` none is a duplicate.
    pub(crate) fn sift(&self, first: u64, batches: &[Batch], store_all: bool) -> Sifted {
        let mut sifted = Sifted::default();
        if batches.iter().all(|batch| batch.origin.is_none()) {
            return sifted;
        }
        let mut seq = first;
        let mut numbers = self.next_number;
        for batch in batches {
            let stamp = match &batch.origin {
                Some(origin) => {
                    let row = self.row_for(&mut sifted.change, origin, &mut numbers);
                    let stamp = raise(row, origin, batch.lane.index(), seq, store_all);
                    if stamp.is_none() {
                        sifted.kept.push(false);
                        sifted.duplicates.push((batch.signal, u64::from(batch.items)));
                        continue;
                    }
                    stamp
                }
                None => None,
            };
            sifted.kept.push(true);
            sifted.change.stamps.push(stamp);
            seq = seq.saturating_add(1);
        }
        // A row that was only looked at is not written.
        sifted.change.rows.retain(|source, row| self.rows.get(source) != Some(row));
        self.make_room(&mut sifted.change);
        sifted
    }

    fn row_for<'a>(&self, change: &'a mut Change, origin: &Origin, numbers: &mut u64) -> &'a mut Row {
        if !change.rows.contains_key(&origin.source) {
            let row = self.rows.get(&origin.source).cloned().unwrap_or_else(|| {
                *numbers += 1;
                Row { number: *numbers - 1, places: [0; LANES], epoch: 0, used: 0 }
            });
            change.rows.insert(Arc::clone(&origin.source), row);
        }
        change.rows.get_mut(&origin.source).expect("it was put there just now")
    }

    /// Finds rows that must go for a change, and counts what it adds.
    fn make_room(&self, change: &mut Change) {
        let (mut rows, mut bytes) = (self.rows.len(), self.bytes);
        for (source, row) in &change.rows {
            let before = self.rows.get(source);
            let growth = row_bytes(source, row) - before.map_or(0, |before| row_bytes(source, before));
            rows += usize::from(before.is_none());
            bytes += growth;
            change.growth += growth;
        }
        for source in self.oldest.values() {
            if rows <= MARKS_MAX && bytes <= self.bytes_max {
                return;
            }
            if let Some(row) = self.rows.get(source).filter(|_| !change.rows.contains_key(source)) {
                rows -= 1;
                bytes -= row_bytes(source, row);
                change.dropped.insert(Arc::clone(source), row.clone());
            }
        }
    }

    /// The round is durable. Returns how many sources were forgotten for it.
    pub(crate) fn apply(&mut self, change: Change) -> u64 {
        for source in change.dropped.keys() {
            self.remove(source);
            warn!(
                identity = source.identity,
                log = source.log,
                "too many sources, the one that was heard of longest ago is forgotten: what it sends again is stored again"
            );
        }
        let forgotten = change.dropped.len() as u64;
        for (source, row) in change.rows {
            self.put(source, row);
        }
        forgotten
    }

    /// Adds or replaces a row.
    pub(crate) fn put(&mut self, source: Arc<Source>, row: Row) {
        self.remove(&source);
        self.bytes += row_bytes(&source, &row);
        self.next_number = self.next_number.max(row.number.saturating_add(1));
        self.oldest.insert((row.used, row.number), Arc::clone(&source));
        self.rows.insert(source, row);
    }

    fn remove(&mut self, source: &Arc<Source>) {
        if let Some(row) = self.rows.remove(source) {
            self.bytes -= row_bytes(source, &row);
            self.oldest.remove(&(row.used, row.number));
        }
    }

    /// Makes sure that a record is covered which is in the log at `used`.
    pub(crate) fn cover(&mut self, origin: &Origin, lane: usize, used: u64) {
        let mut change = Change::default();
        let mut numbers = self.next_number;
        let row = self.row_for(&mut change, origin, &mut numbers);
        let newest = row.used.max(used);
        if raise(row, origin, lane, newest, false).is_some() {
            self.apply(change);
        }
    }
}

/// Raises the mark of a lane, or says that the record is there: none.
fn raise(row: &mut Row, origin: &Origin, lane: usize, used: u64, store_all: bool) -> Option<Stamp> {
    let (place, before) = (origin.seq.0, row.places[lane]);
    if place <= before && !store_all {
        return None;
    }
    if place >= highest(row) {
        row.epoch = origin.epoch;
    }
    row.places[lane] = place.max(before);
    row.used = used;
    Some(Stamp { source: row.number, epoch: origin.epoch, place, before })
}

fn highest(row: &Row) -> u64 {
    row.places.iter().copied().max().unwrap_or(0)
}

/// Refuses batches whose key cannot be one.
pub(crate) fn check(batches: &[Batch]) -> Result<(), Refusal> {
    for origin in batches.iter().filter_map(|batch| batch.origin.as_ref()) {
        let Source { identity, log, .. } = origin.source.as_ref();
        for (what, name) in [("identity", identity), ("log", log)] {
            if name.is_empty() || name.len() > SOURCE_NAME_BYTES_MAX {
                let why = format!(
                    "the {what} that a record comes from has 1 to {SOURCE_NAME_BYTES_MAX} bytes, not {}",
                    name.len()
                );
                return Err(Refusal::permanent(Reason::Malformed, why));
            }
        }
        if origin.seq.0 == 0 {
            return Err(Refusal::permanent(Reason::Malformed, "the places of a log begin at 1, not at 0"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::Lane;

    use super::*;

    fn batch(identity: &str, lane: u8, epoch: u64, place: u64) -> Batch {
        let source = Source { identity: identity.to_owned(), incarnation: 1, log: "traces".to_owned() };
        let origin = Origin { source: Arc::new(source), epoch, seq: Seq(place) };
        let lane = Lane::new(lane).unwrap();
        let body = Bytes::from_static(b"x");
        Batch { signal: Signal::Traces, lane, items: 1, body, origin: Some(origin), claim: None }
    }

    fn places(sifted: &Sifted) -> Vec<(u64, u64)> {
        sifted.change.stamps.iter().flatten().map(|stamp| (stamp.place, stamp.before)).collect()
    }

    /// Scenario: a round with rising places, a repeated one, an older one and another lane; the next round; one that fails.
    /// Guarantees: what is above the mark of its lane is stored, with the mark before it; a round that is not applied
    /// changes nothing; the epoch is that of the highest place.
    #[test]
    fn what_is_above_the_mark_of_its_lane_is_new() {
        let mut marks = Marks::new(u64::MAX);
        let round = [
            batch("a", 0, 1, 4),
            batch("a", 0, 1, 6),
            batch("a", 0, 1, 6),
            batch("a", 1, 1, 5),
            batch("a", 0, 1, 5),
            batch("b", 0, 1, 1),
        ];
        for _ in 0..2 {
            let sifted = marks.sift(100, &round, false);
            assert_eq!(places(&sifted), [(4, 0), (6, 4), (5, 0), (1, 0)]);
            assert_eq!(sifted.duplicates, [(Signal::Traces, 1), (Signal::Traces, 1)]);
            let mut list = vec![0, 1, 2, 3, 4, 5];
            sifted.retain(&mut list);
            assert_eq!(list, [0, 1, 3, 5]);
        }
        let sifted = marks.sift(100, &round, false);
        assert_eq!(marks.apply(sifted.change), 0);
        let sifted = marks.sift(104, &[batch("a", 1, 2, 5), batch("a", 1, 2, 7), batch("a", 0, 2, 7)], false);
        assert_eq!(places(&sifted), [(7, 5), (7, 6)]);
        marks.apply(sifted.change);
        let of_a = marks.of("a");
        assert_eq!(of_a.iter().map(|mark| (mark.seq.0, mark.epoch)).collect::<Vec<_>>(), [(7, 2)]);
        assert_eq!((marks.of("b").len(), marks.of("c").len(), marks.of("").len()), (1, 0, 0));
        assert!(marks.sift(0, &[batch("a", 1, 2, 7)], true).duplicates.is_empty());
    }

    /// Scenario: more sources than the bound, in rounds, with one that is heard of again and again.
    /// Guarantees: the number of rows and their bytes stay within their bounds; the one that is heard of is never forgotten.
    #[test]
    fn the_source_that_was_heard_of_longest_ago_is_forgotten() {
        let mut marks = Marks::new(u64::MAX);
        let (mut seq, mut forgotten) = (1, 0);
        for number in 0..MARKS_MAX as u64 + 500 {
            let round = [batch(&format!("agent-{number}"), 0, 1, 1), batch("busy", 0, 1, number + 1)];
            let sifted = marks.sift(seq, &round, false);
            assert!(sifted.duplicates.is_empty());
            forgotten += marks.apply(sifted.change);
            seq += 2;
        }
        assert_eq!((marks.len(), forgotten), (MARKS_MAX, 501));
        assert_eq!(marks.of("busy")[0].seq.0, MARKS_MAX as u64 + 500);
        assert!(marks.of("agent-0").is_empty());
        let sum: u64 = marks.rows().iter().map(|(source, row)| row_bytes(source, row)).sum();
        assert_eq!(marks.bytes(), sum);

        let mut small = Marks::new(10_000);
        for number in 0..500 {
            let sifted = small.sift(number + 1, &[batch(&format!("agent-{number}"), 0, 1, 1)], false);
            small.apply(sifted.change);
            assert!(small.bytes() <= 10_000);
        }
        assert!(small.len() > 50 && !small.of("agent-499").is_empty());
    }

    /// Scenario: names that are empty or too long, and place 0.
    /// Guarantees: each is refused for good, as malformed.
    #[test]
    fn a_key_that_cannot_be_one_is_refused() {
        let long = "x".repeat(SOURCE_NAME_BYTES_MAX + 1);
        for wrong in [batch("", 0, 1, 1), batch(&long, 0, 1, 1), batch("a", 0, 1, 0)] {
            let refusal = check(&[batch("a", 0, 1, 1), wrong]).unwrap_err();
            assert!(matches!(refusal, Refusal::Permanent { reason: Reason::Malformed, .. }), "{refusal:?}");
        }
        assert!(check(&[batch(&long[1..], 0, 1, u64::MAX)]).is_ok());
    }
}

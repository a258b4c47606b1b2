//! The book: which record lies where, and how far each exporter is. Both queues keep one.
//!
//! ```text
//! segment 1 ─ lanes 0…15: records, items, bytes, last place ─ index (evictable): lane ▶ [place, items, bytes, signal]
//! segment 2 ─ …
//! cursor a  ─ lanes 0…15: floor, settled ahead of it, the lease that is out, when it may go on
//! cursor b  ─ …
//! ```
//!
//! Everything of a lane below its floor is settled; so are the places in `ahead`. A lease always begins at the first
//! record that is not settled, so `ahead` holds no more than one lease's records.
//!
//! Invariant: no I/O, no clock; a record is in at most one lease of a cursor, and a cursor has at most one lease of a
//! lane.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::warn;
use weir_model::{LANES, Lane, Seq, Signal};

use crate::lease::LeaseKey;
use crate::queue::{WhenFull, Wish};
use crate::segment::Head;
use crate::status::{CursorStatus, DeadLetter, QueueCounts};

/// Records that one lease joins at the most.
///
/// A wish for 8,192 items made of single spans is served in two leases; each costs an exporter at most 128 KiB of
/// bookkeeping in a lane.
pub(crate) const LEASE_RECORDS_MAX: usize = 4_096;

/// Bytes of sealed segments' indexes that are kept. A segment of 64 MiB of the smallest records has some 6 MiB.
const INDEX_BYTES_MAX: usize = 12 << 20;

/// Records, with what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.items += other.items;
        self.bytes += other.bytes;
    }

    fn sub(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.items = self.items.saturating_sub(other.items);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What a segment has in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LaneSummary {
    pub(crate) totals: Totals,
    /// The last place of the lane; 0 where it has none.
    pub(crate) last: u64,
}

/// What is known of a segment without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The last place; the one before the first where it is empty.
    pub(crate) last: u64,
    pub(crate) lanes: [LaneSummary; LANES],
}

impl Summary {
    /// A segment that begins with `first` and has nothing yet.
    pub(crate) fn empty(first: u64) -> Self {
        Self { last: first.saturating_sub(1), lanes: Default::default() }
    }

    pub(crate) fn note(&mut self, head: &Head) {
        self.last = self.last.max(head.seq);
        let lane = &mut self.lanes[head.lane.index()];
        lane.totals.add(head_totals(head));
        lane.last = head.seq;
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for lane in &self.lanes {
            sum.add(lane.totals);
        }
        sum
    }
}

fn head_totals(head: &Head) -> Totals {
    Totals { records: 1, items: u64::from(head.items), bytes: u64::from(head.bytes) }
}

/// One record in an index: 16 bytes with its place relative to the segment.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u32,
    items: u32,
    bytes: u32,
    signal: Signal,
}

impl Entry {
    fn totals(&self) -> Totals {
        Totals { records: 1, items: u64::from(self.items), bytes: u64::from(self.bytes) }
    }
}

/// The records of a segment, lane by lane, in order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    lanes: [Vec<Entry>; LANES],
}

impl Index {
    /// The index over the heads of a segment that begins with `first`.
    pub(crate) fn of(first: u64, heads: &[Head]) -> Self {
        let mut index = Self::default();
        for head in heads {
            index.push(first, head);
        }
        index
    }

    fn push(&mut self, first: u64, head: &Head) {
        let Ok(offset) = u32::try_from(head.seq.saturating_sub(first)) else { return };
        self.lanes[head.lane.index()].push(Entry {
            offset,
            items: head.items,
            bytes: head.bytes,
            signal: head.signal,
        });
    }

    fn bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.capacity() * size_of::<Entry>()).sum()
    }
}

#[derive(Debug)]
struct SegmentBook {
    summary: Summary,
    index: Option<Index>,
    /// The segment's index is always there: it is written, or in memory.
    pinned: bool,
    /// When the index was last used, for eviction.
    used: u64,
}

/// A record that is to be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) items: u32,
    pub(crate) bytes: u32,
    pub(crate) attempts: u32,
}

/// What a wish comes to.
#[derive(Debug)]
pub(crate) enum Plan {
    /// These records; the lane is taken from now on.
    Take { key: LeaseKey, records: Vec<Wanted> },
    /// A dead letter that is to be tried again; the lane is taken from now on.
    Letter { key: LeaseKey, id: u64, attempts: u32 },
    /// The index of this segment is needed first.
    Load(u64),
    /// Not before this time.
    Until(Instant),
    /// Nothing.
    Empty,
}

/// A verdict on a leased record, as the book sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Done with; so many of its items were delivered, the others are in the dead-letter log.
    Settled { delivered: u32 },
    /// To be leased again, not before this time.
    Again(Instant),
}

#[derive(Debug)]
struct Flight {
    ticket: u64,
    letter: Option<u64>,
    records: Vec<Wanted>,
    /// What the lane's `lingers_since` was, for a lease that is given back.
    lingered_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct LaneCursor {
    floor: u64,
    ahead: BTreeSet<u64>,
    flight: Option<Flight>,
    deferred_until: Option<Instant>,
    /// The last record of the lease that was deferred: the next lease ends there too, so that it has the same bytes
    /// and the same idempotency key.
    redo: Option<u64>,
    /// Leases so far of records that were deferred; no more than one lease's.
    attempts: BTreeMap<u64, u32>,
    pending: Totals,
    /// When the records that now wait for company were first seen.
    lingers_since: Option<Instant>,
}

impl LaneCursor {
    fn is_settled(&self, seq: u64) -> bool {
        seq < self.floor || self.ahead.contains(&seq)
    }

    /// Marks a record as settled, in whatever order. Returns whether it was not before.
    fn settle(&mut self, seq: u64) -> bool {
        seq >= self.floor && self.ahead.insert(seq)
    }

    /// Moves the floor over what is settled at the front: `leased` are consecutive records of the lane from the floor.
    fn raise(&mut self, leased: &[Wanted]) {
        for record in leased {
            if record.seq >= self.floor {
                if !self.ahead.remove(&record.seq) {
                    break;
                }
                self.floor = record.seq + 1;
            }
        }
        self.attempts = self.attempts.split_off(&self.floor);
        self.ahead = self.ahead.split_off(&self.floor);
    }

    /// Whether the floor, or a place settled ahead of it, lies inside a segment.
    fn is_inside(&self, first: u64, last: u64) -> bool {
        self.floor > first || self.ahead.range(first..=last).next().is_some()
    }
}

/// A dead letter that an operator wants tried again.
#[derive(Debug, Clone)]
pub(crate) struct Requeued {
    pub(crate) lane: Lane,
    pub(crate) signal: Signal,
    pub(crate) not_before: Option<Instant>,
    pub(crate) attempts: u32,
}

impl Requeued {
    /// What a letter says of itself; none where it is not ours.
    pub(crate) fn of(letter: &DeadLetter) -> Option<Self> {
        let signal = Signal::ALL.into_iter().find(|signal| signal.name() == letter.signal)?;
        Some(Self { lane: Lane::new(letter.lane)?, signal, not_before: None, attempts: letter.attempts })
    }
}

/// What a cursor is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SavedCursor {
    pub(crate) floors: [u64; LANES],
    pub(crate) ahead: [Vec<u64>; LANES],
    /// Seconds that the process has run without the configuration naming it; none while it does.
    pub(crate) removed_for: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct CursorBook {
    pub(crate) name: String,
    lanes: [LaneCursor; LANES],
    /// The lane whose turn it is.
    turn: usize,
    tickets: u64,
    paused: Option<String>,
    pub(crate) when_full: WhenFull,
    pub(crate) removed_for: Option<u64>,
    pub(crate) subscribed: bool,
    /// It will be gone: what is appended from now on is not for it.
    pub(crate) is_leaving: bool,
    requeued: BTreeMap<u64, Requeued>,
    pub(crate) dead_letters: u64,
    /// Set by every change that is worth keeping.
    pub(crate) dirty: bool,
}

impl CursorBook {
    fn is_past(&self, summary: &Summary) -> bool {
        self.lanes
            .iter()
            .zip(&summary.lanes)
            .all(|(lane, has)| lane.pending.records == 0 || lane.floor > has.last)
    }
}

/// Segments and cursors.
#[derive(Debug)]
pub(crate) struct Book {
    segments: BTreeMap<u64, SegmentBook>,
    cursors: BTreeMap<u32, CursorBook>,
    /// The place of the next record.
    next: u64,
    next_cursor: u32,
    clock: u64,
    counts: QueueCounts,
}

// === impl Book: segments ===

impl Book {
    pub(crate) fn new(next: u64, counts: QueueCounts) -> Self {
        Self {
            segments: BTreeMap::new(),
            cursors: BTreeMap::new(),
            next: next.max(1),
            next_cursor: 0,
            clock: 0,
            counts,
        }
    }

    /// The place of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Leaves places out: records that may be on disk although their senders were told no.
    pub(crate) fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Adds a segment that was found on disk or was just made.
    pub(crate) fn add_segment(&mut self, first: u64, summary: Summary, index: Option<Index>, pinned: bool) {
        self.next = self.next.max(summary.last.saturating_add(1)).max(first);
        self.clock += 1;
        self.segments.insert(first, SegmentBook { summary, index, pinned, used: self.clock });
    }

    /// The segment will not be written any more: its index may be dropped and loaded again.
    pub(crate) fn unpin(&mut self, first: u64) {
        if let Some(segment) = self.segments.get_mut(&first) {
            segment.pinned = false;
        }
        self.evict(first);
    }

    /// Whether heads that were read are those that were written: the same number, items and bytes in each lane.
    pub(crate) fn adds_up(&self, first: u64, heads: &[Head]) -> bool {
        let mut summary = Summary::empty(first);
        for head in heads {
            summary.note(head);
        }
        self.summary(first).is_none_or(|known| *known == summary)
    }

    /// Takes the index of a segment, and drops others that were not used for long.
    pub(crate) fn load(&mut self, first: u64, index: Index) {
        self.clock += 1;
        if let Some(segment) = self.segments.get_mut(&first) {
            segment.index = Some(index);
            segment.used = self.clock;
        }
        self.evict(first);
    }

    fn evict(&mut self, keep: u64) {
        loop {
            let held = |segment: &SegmentBook| segment.index.as_ref().map_or(0, Index::bytes);
            let sum: usize = self.segments.values().filter(|segment| !segment.pinned).map(held).sum();
            let oldest = self
                .segments
                .iter_mut()
                .filter(|(first, segment)| **first != keep && !segment.pinned && segment.index.is_some())
                .min_by_key(|(_, segment)| segment.used);
            match oldest {
                Some((_, segment)) if sum > INDEX_BYTES_MAX => segment.index = None,
                Some(_) | None => return,
            }
        }
    }

    /// Records that were just written to the end of segment `first`: every cursor has them to come, but those that are
    /// leaving.
    pub(crate) fn append(&mut self, first: u64, heads: &[Head]) {
        let Some(segment) = self.segments.get_mut(&first) else { return };
        for head in heads {
            segment.summary.note(head);
            if let Some(index) = &mut segment.index {
                index.push(first, head);
            }
            self.next = self.next.max(head.seq + 1);
            for cursor in self.cursors.values_mut() {
                let lane = &mut cursor.lanes[head.lane.index()];
                if head.seq < lane.floor {
                    continue;
                }
                match cursor.is_leaving {
                    // Nothing of the lane is owed to it any more.
                    true if lane.pending.records == 0 && lane.flight.is_none() => {
                        lane.floor = head.seq + 1;
                        lane.ahead.clear();
                    }
                    true => drop(lane.ahead.insert(head.seq)),
                    false => lane.pending.add(head_totals(head)),
                }
            }
        }
    }

    /// First places of the segments that every cursor is past, oldest first.
    pub(crate) fn passed(&self) -> Vec<u64> {
        self.segments
            .iter()
            .filter(|(_, segment)| self.cursors.values().all(|cursor| cursor.is_past(&segment.summary)))
            .map(|(first, _)| *first)
            .collect()
    }

    /// Forgets a segment that is deleted.
    pub(crate) fn remove_segment(&mut self, first: u64) {
        self.segments.remove(&first);
    }

    pub(crate) fn segment_count(&self) -> u64 {
        self.segments.len() as u64
    }

    /// First places of the segments that have records at `seq` or after.
    pub(crate) fn segments_from(&self, seq: u64) -> Vec<u64> {
        self.segments
            .iter()
            .filter(|(_, segment)| segment.summary.last >= seq)
            .map(|(first, _)| *first)
            .collect()
    }

    pub(crate) fn oldest_segment(&self) -> Option<u64> {
        self.segments.keys().next().copied()
    }

    pub(crate) fn summary(&self, first: u64) -> Option<&Summary> {
        self.segments.get(&first).map(|segment| &segment.summary)
    }

    pub(crate) fn has_index(&self, first: u64) -> bool {
        self.segments.get(&first).is_some_and(|segment| segment.index.is_some())
    }

    /// The first record that is kept, and what all segments hold.
    pub(crate) fn holding(&self) -> (Option<Seq>, Totals) {
        let mut sum = Totals::default();
        let mut oldest = None;
        for (first, segment) in &self.segments {
            let totals = segment.summary.totals();
            if totals.records > 0 {
                oldest = oldest.or(Some(Seq(*first)));
            }
            sum.add(totals);
        }
        (oldest, sum)
    }
}

// === impl Book: cursors ===

impl Book {
    /// Adds a cursor. Its pending totals are counted by [`Book::count_pending`].
    pub(crate) fn add_cursor(&mut self, name: &str, saved: &SavedCursor) -> u32 {
        let mut lanes: [LaneCursor; LANES] = Default::default();
        for ((lane, floor), ahead) in lanes.iter_mut().zip(saved.floors).zip(&saved.ahead) {
            lane.floor = floor;
            lane.ahead = ahead.iter().copied().filter(|seq| *seq >= floor).collect();
        }
        let id = self.next_cursor;
        self.next_cursor += 1;
        self.cursors.insert(
            id,
            CursorBook {
                name: name.to_owned(),
                lanes,
                turn: 0,
                tickets: 0,
                paused: None,
                when_full: WhenFull::Refuse,
                removed_for: saved.removed_for,
                subscribed: false,
                is_leaving: false,
                requeued: BTreeMap::new(),
                dead_letters: 0,
                dirty: true,
            },
        );
        id
    }

    /// A cursor at the end of the log.
    pub(crate) fn at_end(&self) -> SavedCursor {
        SavedCursor { floors: [self.next; LANES], ..SavedCursor::default() }
    }

    /// Segments whose index is needed to count what `cursor` has to come.
    pub(crate) fn partial_segments(&self, cursor: u32) -> Vec<u64> {
        let Some(cursor) = self.cursors.get(&cursor) else { return Vec::new() };
        self.segments
            .iter()
            .filter(|(first, segment)| {
                cursor.lanes.iter().zip(&segment.summary.lanes).any(|(lane, has)| {
                    has.totals.records > 0 && lane.floor <= has.last && lane.is_inside(**first, has.last)
                })
            })
            .map(|(first, _)| *first)
            .collect()
    }

    /// Counts anew what a cursor has to come. Lanes that begin inside a segment need its index, given by `index`.
    pub(crate) fn count_pending(&mut self, cursor: u32, indexes: &BTreeMap<u64, Index>) {
        let Some(cursor) = self.cursors.get_mut(&cursor) else { return };
        for (number, lane) in cursor.lanes.iter_mut().enumerate() {
            lane.pending = Totals::default();
            for (first, segment) in &self.segments {
                let has = &segment.summary.lanes[number];
                if has.totals.records == 0 || lane.floor > has.last {
                    continue;
                }
                let index = segment.index.as_ref().or_else(|| indexes.get(first));
                match index {
                    Some(index) if lane.is_inside(*first, has.last) => {
                        for entry in &index.lanes[number] {
                            if !lane.is_settled(first + u64::from(entry.offset)) {
                                lane.pending.add(entry.totals());
                            }
                        }
                    }
                    Some(_) | None => lane.pending.add(has.totals),
                }
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.cursors.iter().find(|(_, cursor)| cursor.name == name).map(|(id, _)| *id)
    }

    pub(crate) fn cursor(&self, id: u32) -> Option<&CursorBook> {
        self.cursors.get(&id)
    }

    pub(crate) fn cursor_mut(&mut self, id: u32) -> Option<&mut CursorBook> {
        self.cursors.get_mut(&id)
    }

    pub(crate) fn cursors(&self) -> impl Iterator<Item = (u32, &CursorBook)> {
        self.cursors.iter().map(|(id, cursor)| (*id, cursor))
    }

    pub(crate) fn cursors_mut(&mut self) -> impl Iterator<Item = (u32, &mut CursorBook)> {
        self.cursors.iter_mut().map(|(id, cursor)| (*id, cursor))
    }

    pub(crate) fn remove_cursor(&mut self, id: u32) {
        self.cursors.remove(&id);
    }

    pub(crate) fn cursor_count(&self) -> usize {
        self.cursors.len()
    }

    /// What is to be kept of a cursor.
    pub(crate) fn save(&self, id: u32) -> Option<SavedCursor> {
        let cursor = self.cursors.get(&id)?;
        let mut saved = SavedCursor { removed_for: cursor.removed_for, ..SavedCursor::default() };
        for ((floor, ahead), lane) in saved.floors.iter_mut().zip(&mut saved.ahead).zip(&cursor.lanes) {
            // A lane that is done begins again at the end.
            *floor = if lane.pending.records == 0 { self.next.max(lane.floor) } else { lane.floor };
            ahead.extend(lane.ahead.iter().filter(|seq| **seq >= *floor));
        }
        Some(saved)
    }

    pub(crate) fn pause(&mut self, id: u32, why: Option<String>) {
        if let Some(cursor) = self.cursors.get_mut(&id) {
            cursor.paused = why;
        }
    }

    pub(crate) fn requeue(&mut self, id: u32, letter: u64, requeued: Requeued) {
        if let Some(cursor) = self.cursors.get_mut(&id) {
            cursor.requeued.insert(letter, requeued);
        }
    }

    /// A letter is gone, whoever had it.
    pub(crate) fn drop_requeued(&mut self, letter: u64) {
        for cursor in self.cursors.values_mut() {
            cursor.requeued.remove(&letter);
        }
    }

    /// What those exporters do that are not past a segment, when the log is full.
    pub(crate) fn blocking(&self, first: u64) -> impl Iterator<Item = WhenFull> {
        let segment = self.segments.get(&first);
        self.cursors
            .values()
            .filter(move |cursor| segment.is_some_and(|segment| !cursor.is_past(&segment.summary)))
            .map(|cursor| cursor.when_full)
    }

    /// Whether every cursor has settled this record.
    pub(crate) fn all_settled(&self, lane: Lane, seq: u64) -> bool {
        self.cursors.values().all(|cursor| cursor.lanes[lane.index()].is_settled(seq))
    }

    /// Records in loaded indexes that every cursor has settled.
    pub(crate) fn settled_by_all(&self) -> Vec<u64> {
        let mut settled = Vec::new();
        for (first, segment) in &self.segments {
            for (number, lane) in segment.index.iter().flat_map(|index| index.lanes.iter().enumerate()) {
                let seqs = lane.iter().map(|entry| first + u64::from(entry.offset));
                settled.extend(
                    seqs.filter(|seq| self.cursors.values().all(|it| it.lanes[number].is_settled(*seq))),
                );
            }
        }
        settled
    }

    pub(crate) fn cursor_status(&self, id: u32) -> CursorStatus {
        let Some(cursor) = self.cursors.get(&id) else { return CursorStatus::default() };
        let mut status = CursorStatus {
            exporter: cursor.name.clone(),
            dead_letters: cursor.dead_letters,
            paused: cursor.paused.clone(),
            configured: cursor.removed_for.is_none(),
            skips_oldest: cursor.when_full == WhenFull::SkipOldest,
            ..CursorStatus::default()
        };
        for lane in &cursor.lanes {
            status.pending_records += lane.pending.records;
            status.pending_items += lane.pending.items;
            status.pending_bytes += lane.pending.bytes;
            status.in_flight += usize::from(lane.flight.is_some());
            if lane.pending.records > 0 {
                let floor = Seq(lane.floor);
                status.oldest = Some(status.oldest.map_or(floor, |oldest| oldest.min(floor)));
            }
            if let Some(until) = lane.deferred_until {
                status.deferred_lanes += 1;
                status.deferred_until = status.deferred_until.max(Some(until));
            }
        }
        status
    }
}

// === impl Book: leases ===

impl Book {
    /// Finds what a cursor can lease next, lane after lane in turn, and takes it.
    pub(crate) fn plan(&mut self, id: u32, wish: &Wish, now: Instant) -> Plan {
        self.clock += 1;
        let Some(cursor) = self.cursors.get_mut(&id) else { return Plan::Empty };
        if cursor.paused.is_some() {
            return Plan::Empty;
        }
        if let Some(plan) = plan_letter(id, cursor, now) {
            return plan;
        }
        let mut soonest: Option<Instant> = None;
        for step in 0..LANES {
            let number = (cursor.turn + step) % LANES;
            let lane = &mut cursor.lanes[number];
            match lane_is_ready(lane, wish, now) {
                Ready::Idle => continue,
                Ready::At(time) => {
                    soonest = Some(soonest.map_or(time, |soonest| soonest.min(time)));
                    continue;
                }
                Ready::Now => {}
            }
            match gather(&mut self.segments, lane, number, wish, self.clock) {
                Gathered::Load(segment) => return Plan::Load(segment),
                Gathered::Records(_, records) if records.is_empty() => {
                    // The count was wrong, which only a damaged segment can cause: without this the lane would spin.
                    warn!(exporter = cursor.name, lane = number, "records to come were not found");
                    lane.pending = Totals::default();
                }
                Gathered::Records(signal, records) => {
                    cursor.tickets += 1;
                    cursor.turn = (number + 1) % LANES;
                    let lingered_since = lane.lingers_since.take();
                    lane.deferred_until = None;
                    let lane_name = Lane::new(number as u8).expect("a lane's number is below LANES");
                    let key = LeaseKey { cursor: id, lane: lane_name, ticket: cursor.tickets, signal };
                    lane.flight = Some(Flight {
                        ticket: key.ticket,
                        letter: None,
                        records: records.clone(),
                        lingered_since,
                    });
                    return Plan::Take { key, records };
                }
            }
        }
        let letters =
            cursor.requeued.values().filter_map(|letter| letter.not_before).filter(|time| *time > now);
        match soonest.into_iter().chain(letters).min() {
            Some(time) => Plan::Until(time),
            None => Plan::Empty,
        }
    }

    /// Gives a lease back as if it had not been: its lane may go on at `until`.
    pub(crate) fn give_back(&mut self, key: &LeaseKey, until: Option<Instant>) {
        let Some((cursor, flight)) = self.take_flight(key) else { return };
        let lane = &mut cursor.lanes[key.lane.index()];
        lane.deferred_until = until;
        lane.lingers_since = flight.lingered_since;
        if let Some(letter) = flight.letter.and_then(|id| cursor.requeued.get_mut(&id)) {
            letter.not_before = until;
            letter.attempts = letter.attempts.saturating_sub(1);
        }
    }

    /// Ends a lease. Records without a fate are to be leased again at `now`.
    ///
    /// Returns the records that are settled by this, or none where the lease is not out any more.
    pub(crate) fn settle(
        &mut self,
        key: &LeaseKey,
        fates: &BTreeMap<u64, Fate>,
        now: Instant,
    ) -> Option<Settled> {
        let counts = self.counts.clone();
        let (cursor, flight) = self.take_flight(key)?;
        let mut settled = Settled::default();
        if let Some(id) = flight.letter {
            match fates.values().next().copied().unwrap_or(Fate::Again(now)) {
                Fate::Settled { delivered } => {
                    counts.delivered.of(key.signal).add(u64::from(delivered));
                    cursor.requeued.remove(&id);
                }
                Fate::Again(until) => {
                    if let Some(letter) = cursor.requeued.get_mut(&id) {
                        letter.not_before = Some(until);
                    }
                }
            }
            return Some(settled);
        }
        let lane = &mut cursor.lanes[key.lane.index()];
        let mut until: Option<Instant> = None;
        for record in &flight.records {
            match fates.get(&record.seq).copied().unwrap_or(Fate::Again(now)) {
                Fate::Settled { delivered } => {
                    // A record may have been skipped or lost while it was out; then it is counted already.
                    if lane.settle(record.seq) {
                        let delivered = delivered.min(record.items);
                        counts.delivered.of(key.signal).add(u64::from(delivered));
                        counts.rejected.of(key.signal).add(u64::from(record.items - delivered));
                        lane.pending.sub(wanted_totals(record));
                        settled.records.push(*record);
                    }
                }
                Fate::Again(time) if record.seq >= lane.floor => {
                    counts.deferred.of(key.signal).add(u64::from(record.items));
                    lane.attempts.insert(record.seq, record.attempts);
                    until = Some(until.map_or(time, |until| until.max(time)));
                    lane.redo = Some(record.seq);
                }
                Fate::Again(_) => {}
            }
        }
        lane.raise(&flight.records);
        if until.is_none() {
            lane.redo = None;
        }
        lane.deferred_until = until;
        cursor.dirty |= !settled.records.is_empty();
        Some(settled)
    }

    /// Counts records of a lease as lost before anybody saw them: they cannot be read back.
    pub(crate) fn lose(&mut self, key: &LeaseKey, seqs: &BTreeSet<u64>) {
        let counts = self.counts.clone();
        let Some(cursor) = self.cursors.get_mut(&key.cursor) else { return };
        let lane = &mut cursor.lanes[key.lane.index()];
        let Some(flight) = lane.flight.as_mut().filter(|flight| flight.ticket == key.ticket) else { return };
        let (lost, kept): (Vec<_>, Vec<_>) =
            flight.records.iter().copied().partition(|record| seqs.contains(&record.seq));
        flight.records = kept;
        for record in &lost {
            if lane.settle(record.seq) {
                lane.pending.sub(wanted_totals(record));
                counts.damaged.of(key.signal).add(u64::from(record.items));
            }
        }
        cursor.dirty = true;
        if lane.flight.as_ref().is_some_and(|flight| flight.records.is_empty()) {
            lane.flight = None;
            lane.raise(&lost);
            lane.redo = None;
        }
    }

    /// Lets a cursor go on past a segment. What it had to come there is returned, for the count of losses.
    ///
    /// Where a lane begins inside the segment its index must be loaded, or the whole lane is counted. Where a lane has
    /// something to come of an earlier segment it stays there, so this one must be removed.
    pub(crate) fn skip_segment(&mut self, id: u32, first: u64) -> Vec<(Signal, Totals)> {
        let Some(segment) = self.segments.get(&first) else { return Vec::new() };
        let Some(cursor) = self.cursors.get_mut(&id) else { return Vec::new() };
        let earlier = || self.segments.range(..first).map(|(_, segment)| &segment.summary);
        let mut lost: Vec<(Signal, Totals)> = Vec::new();
        for (number, lane) in cursor.lanes.iter_mut().enumerate() {
            let has = &segment.summary.lanes[number];
            if has.totals.records == 0 || lane.floor > has.last {
                continue;
            }
            match &segment.index {
                Some(index) => {
                    for entry in &index.lanes[number] {
                        if !lane.is_settled(first + u64::from(entry.offset)) {
                            lane.pending.sub(entry.totals());
                            add_loss(&mut lost, entry.signal, entry.totals());
                        }
                    }
                }
                None => {
                    lane.pending.sub(has.totals);
                    add_loss(&mut lost, Signal::Traces, has.totals);
                }
            }
            if earlier().any(|it| it.lanes[number].totals.records > 0 && it.lanes[number].last >= lane.floor)
            {
                // What is before a damaged segment still comes. Only what is out of it must not count twice.
                let out = lane.flight.iter().flat_map(|flight| &flight.records);
                lane.ahead.extend(out.filter(|it| it.segment == first).map(|it| it.seq));
                continue;
            }
            lane.floor = has.last + 1;
            lane.ahead = lane.ahead.split_off(&lane.floor);
            lane.attempts = lane.attempts.split_off(&lane.floor);
            lane.redo = lane.redo.filter(|redo| *redo > has.last);
        }
        cursor.dirty = true;
        lost
    }

    /// The dead letter that a lease is of.
    pub(crate) fn letter_of(&self, key: &LeaseKey) -> Option<u64> {
        let flight = self.cursors.get(&key.cursor)?.lanes[key.lane.index()].flight.as_ref()?;
        flight.letter.filter(|_| flight.ticket == key.ticket)
    }

    fn take_flight(&mut self, key: &LeaseKey) -> Option<(&mut CursorBook, Flight)> {
        let cursor = self.cursors.get_mut(&key.cursor)?;
        let slot = &mut cursor.lanes[key.lane.index()].flight;
        if slot.as_ref().is_none_or(|flight| flight.ticket != key.ticket) {
            return None;
        }
        let flight = slot.take()?;
        Some((cursor, flight))
    }
}

/// What a settlement did.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Records that are done with.
    pub(crate) records: Vec<Wanted>,
}

enum Ready {
    Idle,
    At(Instant),
    Now,
}

fn lane_is_ready(lane: &mut LaneCursor, wish: &Wish, now: Instant) -> Ready {
    if lane.flight.is_some() || lane.pending.records == 0 {
        lane.lingers_since = None;
        return Ready::Idle;
    }
    if let Some(until) = lane.deferred_until.filter(|until| *until > now) {
        return Ready::At(until);
    }
    let full = lane.pending.items >= wish.items_max || lane.pending.bytes >= wish.bytes_max;
    if full || lane.redo.is_some() || wish.linger.is_zero() {
        return Ready::Now;
    }
    let since = *lane.lingers_since.get_or_insert(now);
    match since.checked_add(wish.linger) {
        Some(end) if end > now => Ready::At(end),
        Some(_) | None => Ready::Now,
    }
}

enum Gathered {
    Records(Signal, Vec<Wanted>),
    Load(u64),
}

/// Collects records of one lane and one signal from the lane's floor on.
fn gather(
    segments: &mut BTreeMap<u64, SegmentBook>,
    lane: &LaneCursor,
    number: usize,
    wish: &Wish,
    clock: u64,
) -> Gathered {
    let mut records: Vec<Wanted> = Vec::new();
    let mut signal = Signal::Traces;
    let (mut items, mut bytes) = (0_u64, 0_u64);
    // The segment that the floor is in is the last one that begins at or before it.
    let start = segments.range(..=lane.floor).next_back().map_or(lane.floor, |(first, _)| *first);
    for (first, segment) in segments.range_mut(start..) {
        let has = &segment.summary.lanes[number];
        if has.totals.records == 0 || lane.floor > has.last {
            continue;
        }
        let Some(index) = &segment.index else {
            // What was gathered so far is a lease; the rest comes with the next one.
            return if records.is_empty() {
                Gathered::Load(*first)
            } else {
                Gathered::Records(signal, records)
            };
        };
        segment.used = clock;
        let entries = &index.lanes[number];
        let from = entries.partition_point(|entry| first + u64::from(entry.offset) < lane.floor);
        for entry in &entries[from..] {
            let seq = first + u64::from(entry.offset);
            if lane.redo.is_some_and(|redo| seq > redo) {
                return Gathered::Records(signal, records);
            }
            if lane.ahead.contains(&seq) {
                continue;
            }
            if records.is_empty() {
                signal = entry.signal;
            } else {
                let fits = items.saturating_add(u64::from(entry.items)) <= wish.items_max
                    && bytes.saturating_add(u64::from(entry.bytes)) <= wish.bytes_max;
                if !fits || entry.signal != signal || records.len() == LEASE_RECORDS_MAX {
                    return Gathered::Records(signal, records);
                }
            }
            items = items.saturating_add(u64::from(entry.items));
            bytes = bytes.saturating_add(u64::from(entry.bytes));
            let attempts = lane.attempts.get(&seq).copied().unwrap_or(0).saturating_add(1);
            records.push(Wanted { seq, segment: *first, items: entry.items, bytes: entry.bytes, attempts });
        }
    }
    Gathered::Records(signal, records)
}

fn plan_letter(id: u32, cursor: &mut CursorBook, now: Instant) -> Option<Plan> {
    let lanes = &cursor.lanes;
    let (letter, requeued) = cursor.requeued.iter_mut().find(|(_, letter)| {
        let lane = &lanes[letter.lane.index()];
        lane.flight.is_none()
            && lane.deferred_until.is_none_or(|until| until <= now)
            && letter.not_before.is_none_or(|time| time <= now)
    })?;
    requeued.attempts = requeued.attempts.saturating_add(1);
    cursor.tickets += 1;
    let key = LeaseKey { cursor: id, lane: requeued.lane, ticket: cursor.tickets, signal: requeued.signal };
    let flight =
        Flight { ticket: key.ticket, letter: Some(*letter), records: Vec::new(), lingered_since: None };
    let plan = Plan::Letter { id: *letter, attempts: requeued.attempts, key: key.clone() };
    cursor.lanes[key.lane.index()].flight = Some(flight);
    Some(plan)
}

fn wanted_totals(record: &Wanted) -> Totals {
    Totals { records: 1, items: u64::from(record.items), bytes: u64::from(record.bytes) }
}

fn add_loss(lost: &mut Vec<(Signal, Totals)>, signal: Signal, totals: Totals) {
    match lost.iter_mut().find(|(known, _)| *known == signal) {
        Some((_, sum)) => sum.add(totals),
        None => lost.push((signal, totals)),
    }
}

//! From one refused lease to the record at fault.
//!
//! ```text
//! records 0..8 ──permanent──▶ 0..4, 4..8 ──permanent──▶ … ──▶ record 5 alone: dead letter
//! records 0..8 ──too large──▶ 0..4, 4..8 ──too large──▶ … ──▶ record 5 alone ──▶ its halves, by items
//! records 0..8 ──an end─────▶ as too large, down to one item; that is pushed anew, then set aside under suspicion
//! ```
//!
//! Pieces are pushed one after the other and in order, so that order within a node is kept.
//!
//! Invariant: a record is settled only when each of its pieces is; whatever is undecided is deferred.

use std::ops::Range;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use weir_queue::{Record, Settlement};
use weir_wire::{Signal, WalkLimits, halve, walk};

/// What is pushed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Whole records.
    Records(Range<usize>),
    /// A part of one record.
    Part {
        /// Which record.
        record: usize,
        /// A whole request of its own.
        body: Bytes,
        /// Items in it.
        items: u32,
        /// The way down the halvings: `0`, `1`, `01` …
        path: String,
    },
}

/// What has become of one record.
#[derive(Debug, Clone, Default)]
struct Fate {
    /// Pieces of it that are still to be pushed.
    open: usize,
    /// Why the whole record was refused, if it was.
    rejected: Option<String>,
    /// Parts of it that were refused.
    parts: Vec<(Bytes, u32, String)>,
    /// Items of it that end a plugin's instance each time, each still counted as open.
    suspects: Vec<Suspect>,
}

/// One item, alone in its record or a part of one, that ended a plugin's instance [`ENDS_ALONE_MAX`] times.
#[derive(Debug, Clone)]
struct Suspect {
    /// Nothing: the whole record.
    part: Option<Bytes>,
    items: u32,
    why: String,
}

/// How often one item alone may end a plugin's instance before it is set aside.
///
/// One end may be another's fault: an instance that a larger batch left full, a machine that was short of time.
pub const ENDS_ALONE_MAX: u32 = 3;

/// Items that are set aside in a row before the search is given up: then it is the plugin rather than they.
const SUSPECTS_IN_A_ROW_MAX: u32 = 3;

/// The work on one lease.
#[derive(Debug)]
pub struct Bisection {
    signal: Signal,
    todo: Vec<Piece>,
    fates: Vec<Fate>,
    /// Ends by the piece at hand.
    ends_alone: u32,
    /// Suspects since something was taken.
    suspects_in_a_row: u32,
    /// An end was searched for: that pieces end from here on is no news.
    searching: bool,
}

impl Bisection {
    /// All records in one piece.
    pub fn new(signal: Signal, records: usize) -> Self {
        let fates = vec![Fate { open: 1, ..Fate::default() }; records];
        let todo = vec![Piece::Records(0..records)];
        Self { signal, todo, fates, ends_alone: 0, suspects_in_a_row: 0, searching: false }
    }

    /// The piece to push now; nothing when all is decided.
    pub fn next(&self) -> Option<&Piece> {
        self.todo.last()
    }

    /// The piece was taken.
    pub fn taken(&mut self) {
        self.suspects_in_a_row = 0;
        match self.todo.pop() {
            Some(Piece::Records(range)) => range.for_each(|record| self.fates[record].open -= 1),
            Some(Piece::Part { record, .. }) => self.fates[record].open -= 1,
            None => (),
        }
    }

    /// The piece will never be taken: halve it down to the record at fault.
    pub fn refused(&mut self, why: &str) {
        match self.todo.pop() {
            Some(Piece::Records(range)) if range.len() > 1 => self.halve_records(range),
            Some(Piece::Records(range)) => {
                for record in range {
                    self.fates[record].open -= 1;
                    self.fates[record].rejected = Some(why.to_owned());
                }
            }
            Some(Piece::Part { record, body, items, .. }) => {
                self.fates[record].open -= 1;
                self.fates[record].parts.push((body, items, why.to_owned()));
            }
            None => (),
        }
    }

    /// The piece is too large for the backend: halve it, below the record too.
    pub fn too_large(&mut self, records: &[Record]) {
        if self.halve(records) {
            return;
        }
        let why = "too large for the backend, and one item alone".to_owned();
        match self.todo.pop() {
            Some(Piece::Records(range)) => {
                self.fates[range.start].open -= 1;
                self.fates[range.start].rejected = Some(why);
            }
            Some(Piece::Part { record, body, items, .. }) => {
                self.fates[record].open -= 1;
                self.fates[record].parts.push((body, items, why));
            }
            None => (),
        }
    }

    /// A plugin's instance ended at the piece: halve it; one item alone is pushed anew and at last set aside.
    /// False: too many were set aside in a row, stop.
    pub fn ended(&mut self, records: &[Record], why: &str) -> bool {
        self.searching = true;
        if self.halve(records) {
            self.ends_alone = 0;
            return true;
        }
        self.ends_alone += 1;
        if self.ends_alone < ENDS_ALONE_MAX {
            return true;
        }
        self.ends_alone = 0;
        self.suspects_in_a_row += 1;
        let why = why.to_owned();
        match self.todo.pop() {
            Some(Piece::Records(range)) => {
                let items = records[range.start].items;
                self.fates[range.start].suspects.push(Suspect { part: None, items, why });
            }
            Some(Piece::Part { record, body, items, .. }) => {
                self.fates[record].suspects.push(Suspect { part: Some(body), items, why });
            }
            None => (),
        }
        self.suspects_in_a_row < SUSPECTS_IN_A_ROW_MAX
    }

    /// Whether the piece at hand is part of a search for what ends a plugin's instances.
    pub fn is_searching(&self) -> bool {
        self.searching
    }

    /// Items that were set aside, and why the last of them was; nothing where there are none.
    pub fn suspicion(&self) -> Option<(u32, String)> {
        let suspects = || self.fates.iter().flat_map(|fate| &fate.suspects);
        let last = suspects().last()?;
        Some((suspects().fold(0, |sum: u32, one| sum.saturating_add(one.items)), last.why.clone()))
    }

    /// It was they and not the plugin: what was set aside is refused. Without this call it is deferred.
    pub fn condemn(&mut self) {
        for fate in &mut self.fates {
            for Suspect { part, items, why } in std::mem::take(&mut fate.suspects) {
                fate.open -= 1;
                match part {
                    Some(body) => fate.parts.push((body, items, why)),
                    None => fate.rejected = Some(why),
                }
            }
        }
    }

    /// Whether every record's fate is known.
    pub fn is_decided(&self) -> bool {
        self.fates.iter().all(|fate| fate.open == 0)
    }

    /// What each record is settled with now; undecided ones wait until `until`.
    pub fn settlements(self, until: Instant) -> Vec<Settlement> {
        let settle = |fate: Fate| match fate {
            Fate { open: 1.., .. } => Settlement::Deferred { until },
            Fate { rejected: Some(reason), .. } => Settlement::Rejected { reason },
            Fate { parts, .. } if !parts.is_empty() => Settlement::RejectedParts { parts },
            Fate { .. } => Settlement::Delivered,
        };
        self.fates.into_iter().map(settle).collect()
    }

    /// Halves the piece at hand, below the record too. False, and nothing done: it is one item alone.
    fn halve(&mut self, records: &[Record]) -> bool {
        match self.todo.pop() {
            Some(Piece::Records(range)) if range.len() > 1 => self.halve_records(range),
            Some(Piece::Records(range)) => {
                let record = range.start;
                if self.halves(record, &records[record].body, "").is_none() {
                    self.todo.push(Piece::Records(range));
                    return false;
                }
                self.fates[record].open += 1;
            }
            Some(Piece::Part { record, body, items, path }) => {
                if self.halves(record, &body, &path).is_none() {
                    self.todo.push(Piece::Part { record, body, items, path });
                    return false;
                }
                self.fates[record].open += 1;
            }
            None => (),
        }
        true
    }

    fn halve_records(&mut self, range: Range<usize>) {
        let middle = range.start + range.len() / 2;
        // The stack's top goes first.
        self.todo.push(Piece::Records(middle..range.end));
        self.todo.push(Piece::Records(range.start..middle));
    }

    fn halves(&mut self, record: usize, body: &[u8], path: &str) -> Option<()> {
        let (first, second) = halve(self.signal, body)?;
        for (half, step) in [(second, '1'), (first, '0')] {
            let items = items_of(self.signal, &half);
            self.todo.push(Piece::Part {
                record,
                body: Bytes::from(half),
                items,
                path: format!("{path}{step}"),
            });
        }
        Some(())
    }
}

/// The bytes of whole records as one request: shared where it is one record, joined by concatenation else.
pub fn join(records: &[Record]) -> Bytes {
    if let [one] = records {
        return one.body.clone();
    }
    let mut joined = BytesMut::with_capacity(records.iter().map(|record| record.body.len()).sum());
    for record in records {
        joined.extend_from_slice(&record.body);
    }
    joined.freeze()
}

fn items_of(signal: Signal, body: &[u8]) -> u32 {
    let limits = WalkLimits { items_max: usize::MAX, attributes_max: usize::MAX, resources_max: usize::MAX };
    walk(signal, body, &limits).map_or(0, |walked| u32::try_from(walked.items).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::Seq;
    use weir_wire::Encoder;

    fn request(spans: u8) -> Bytes {
        let mut out = Encoder::new();
        out.message(1, |group| {
            group.message(2, |scope| {
                for number in 1..=spans {
                    scope.message(2, |span| {
                        span.bytes(1, [1; 16]);
                        span.bytes(2, [number; 8]);
                    });
                }
            });
        });
        Bytes::from(out.into_bytes())
    }

    fn records(count: u64, spans: u8) -> Vec<Record> {
        (1..=count)
            .map(|seq| Record {
                seq: Seq(seq),
                items: u32::from(spans),
                body: request(spans),
                attempts: 1,
                origin: None,
            })
            .collect()
    }

    /// Scenario: one record of a hundred is poison, wherever it stands.
    /// Guarantees: it alone is rejected, the others are delivered, each once, in order, within 2 log n + 1 pushes.
    #[test]
    fn the_record_at_fault_is_found_alone() {
        for poison in 0..100 {
            let mut work = Bisection::new(Signal::Traces, 100);
            let (mut pushes, mut delivered) = (0, Vec::new());
            while let Some(piece) = work.next().cloned() {
                pushes += 1;
                let Piece::Records(range) = piece else { panic!("nothing was too large") };
                if range.contains(&poison) {
                    work.refused("bad");
                } else {
                    delivered.extend(range);
                    work.taken();
                }
            }
            let expected: Vec<usize> = (0..100).filter(|record| *record != poison).collect();
            assert_eq!(delivered, expected);
            assert!(pushes <= 15, "{pushes} pushes");
            let settled = work.settlements(Instant::now());
            let rejected = settled.iter().filter(|s| matches!(s, Settlement::Rejected { .. })).count();
            assert_eq!(rejected, 1);
            assert!(matches!(settled[poison], Settlement::Rejected { .. }));
        }
    }

    /// Scenario: a backend takes three spans at a time, and the record has eight; one span alone is refused for good.
    /// Guarantees: the halves go out in order, all spans but the refused part arrive, that part is a dead letter.
    #[test]
    fn halves_of_a_record_arrive() {
        let records = records(1, 8);
        let mut work = Bisection::new(Signal::Traces, 1);
        let mut pushed = Vec::new();
        while let Some(piece) = work.next().cloned() {
            match piece {
                Piece::Records(_) => work.too_large(&records),
                Piece::Part { items: 4.., .. } => work.too_large(&records),
                Piece::Part { path, .. } if path == "01" => work.refused("bad"),
                Piece::Part { path, items, .. } => {
                    pushed.push((path, items));
                    work.taken();
                }
            }
        }
        let paths: Vec<&str> = pushed.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["00", "10", "11"]);
        assert_eq!(pushed.iter().map(|(_, items)| items).sum::<u32>(), 6);
        let Settlement::RejectedParts { parts } = &work.settlements(Instant::now())[0] else {
            panic!("not in parts")
        };
        assert_eq!(parts.iter().map(|(_, items, _)| items).sum::<u32>(), 2);
    }

    /// Scenario: the backend goes away in the middle of a bisection.
    /// Guarantees: what was taken is settled, what is open is deferred, nothing is rejected on suspicion.
    #[test]
    fn what_is_undecided_is_deferred() {
        let mut work = Bisection::new(Signal::Traces, 4);
        work.refused("bad");
        work.taken();
        let settled = work.settlements(Instant::now());
        assert_eq!(settled[..2], [Settlement::Delivered, Settlement::Delivered]);
        assert!(settled[2..].iter().all(|s| matches!(s, Settlement::Deferred { .. })));
    }

    /// Scenario: one span that no backend takes because of its size.
    /// Guarantees: it becomes a dead letter instead of an endless halving.
    #[test]
    fn one_item_that_is_too_large_is_a_dead_letter() {
        let records = records(1, 1);
        let mut work = Bisection::new(Signal::Traces, 1);
        work.too_large(&records);
        assert_eq!(work.next(), None);
        assert!(matches!(work.settlements(Instant::now())[0], Settlement::Rejected { .. }));
    }

    /// Pushes everything to a plugin that ends at each piece for which `ends` says so; counts its ends.
    fn run_to_end(work: &mut Bisection, records: &[Record], ends: impl Fn(&Piece) -> bool) -> u32 {
        let mut ended = 0;
        while let Some(piece) = work.next().cloned() {
            assert_eq!(work.is_searching(), ended > 0);
            if !ends(&piece) {
                work.taken();
                continue;
            }
            ended += 1;
            if !work.ended(records, "memory_limit") {
                break;
            }
        }
        ended
    }

    /// Scenario: a plugin's instance ends at one span of eight records with four spans each.
    /// Guarantees: that span alone is suspected after three ends, deferred until it is condemned, then it alone is refused.
    #[test]
    fn the_item_that_ends_instances_is_found_alone() {
        let records = records(8, 4);
        for condemned in [false, true] {
            let mut work = Bisection::new(Signal::Traces, 8);
            let at_fault = |piece: &Piece| match piece {
                Piece::Records(range) => range.contains(&5),
                Piece::Part { path, .. } => "10".starts_with(path.as_str()),
            };
            assert_eq!(run_to_end(&mut work, &records, at_fault), 3 + 2 + ENDS_ALONE_MAX);
            assert_eq!(work.suspicion(), Some((1, "memory_limit".to_owned())));
            if condemned {
                work.condemn();
            }
            assert_eq!(work.is_decided(), condemned);
            for (number, settlement) in work.settlements(Instant::now()).into_iter().enumerate() {
                match settlement {
                    Settlement::Delivered => assert_ne!(number, 5),
                    Settlement::Deferred { .. } => assert_eq!((number, condemned), (5, false)),
                    Settlement::RejectedParts { parts } => {
                        assert_eq!((number, condemned, parts.len()), (5, true, 1));
                    }
                    Settlement::Rejected { .. } => panic!("three spans of record {number} were delivered"),
                }
            }
        }
    }

    /// Scenario: a plugin that ends at whatever it is given.
    /// Guarantees: the search stops after a few ends and nothing is refused.
    #[test]
    fn a_broken_plugin_is_not_tried_with_every_record() {
        let records = records(64, 1);
        let mut work = Bisection::new(Signal::Traces, 64);
        assert_eq!(run_to_end(&mut work, &records, |_| true), 6 + 1 + 3 * ENDS_ALONE_MAX);
        let settled = work.settlements(Instant::now());
        assert!(settled.iter().all(|settlement| matches!(settlement, Settlement::Deferred { .. })));
    }
}

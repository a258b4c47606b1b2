//! From one refused lease to the record at fault.
//!
//! ```text
//! records 0..8 ──permanent──▶ 0..4, 4..8 ──permanent──▶ … ──▶ record 5 alone: dead letter
//! records 0..8 ──too large──▶ 0..4, 4..8 ──too large──▶ … ──▶ record 5 alone ──▶ its halves, by items
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
}

/// The work on one lease.
#[derive(Debug)]
pub struct Bisection {
    signal: Signal,
    todo: Vec<Piece>,
    fates: Vec<Fate>,
}

impl Bisection {
    /// All records in one piece.
    pub fn new(signal: Signal, records: usize) -> Self {
        let fates = vec![Fate { open: 1, ..Fate::default() }; records];
        Self { signal, todo: vec![Piece::Records(0..records)], fates }
    }

    /// The piece to push now; nothing when all is decided.
    pub fn next(&self) -> Option<&Piece> {
        self.todo.last()
    }

    /// The piece was taken.
    pub fn taken(&mut self) {
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
        match self.todo.pop() {
            Some(Piece::Records(range)) if range.len() > 1 => self.halve_records(range),
            Some(Piece::Records(range)) => {
                let record = range.start;
                match self.halves(record, &records[record].body, "") {
                    Some(()) => self.fates[record].open += 1,
                    None => {
                        self.fates[record].open -= 1;
                        self.fates[record].rejected =
                            Some("too large for the backend, and one item alone".to_owned());
                    }
                }
            }
            Some(Piece::Part { record, body, items, path }) => match self.halves(record, &body, &path) {
                Some(()) => self.fates[record].open += 1,
                None => {
                    self.fates[record].open -= 1;
                    let why = "too large for the backend, and one item alone".to_owned();
                    self.fates[record].parts.push((body, items, why));
                }
            },
            None => (),
        }
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
            .map(|seq| Record { seq: Seq(seq), items: u32::from(spans), body: request(spans), attempts: 1 })
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
}

//! From an exporter's verdicts to what the book and the dead-letter log have to do.

use std::collections::BTreeMap;

use bytes::Bytes;
use weir_model::Seq;

use crate::book::Fate;
use crate::lease::{LeaseKey, Record, Settlement};
use crate::status::DeadLetter;

/// What becomes of a lease.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    /// Of each record that has a verdict.
    pub(crate) fates: BTreeMap<u64, Fate>,
    /// To be written first, each with the record that is settled by it.
    pub(crate) letters: Vec<(u64, DeadLetter, Bytes)>,
    /// The lease was of this letter, and the letter has an end.
    pub(crate) letter: Option<(u64, LetterEnd)>,
}

/// What becomes of a letter that was tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LetterEnd {
    /// It is deleted.
    Gone,
    /// It stays, with the backend's new words.
    DeadAgain(String),
}

impl Digest {
    /// Whether something is written before the lease is settled.
    pub(crate) fn needs_disk(&self) -> bool {
        !self.letters.is_empty() || self.letter.is_some()
    }
}

/// Reads verdicts. Those on records that are not in the lease mean nothing.
pub(crate) fn digest(
    key: &LeaseKey,
    exporter: &str,
    wall: u64,
    letter: Option<u64>,
    records: &[Record],
    verdicts: Vec<(Seq, Settlement)>,
) -> Digest {
    let leased: BTreeMap<Seq, &Record> = records.iter().map(|record| (record.seq, record)).collect();
    let mut digest = Digest::default();
    let dead = |record: &Record, items: u32, reason: String, body: Bytes| {
        let letter = DeadLetter {
            id: 0,
            exporter: exporter.to_owned(),
            seq: record.seq.0,
            signal: key.signal.name().to_owned(),
            lane: key.lane.index() as u8,
            items,
            bytes: body.len() as u64,
            reason,
            attempts: record.attempts,
            unix_seconds: wall,
            crc32c: 0,
        };
        (record.seq.0, letter, body)
    };
    for (seq, settlement) in verdicts {
        let Some(record) = leased.get(&seq) else { continue };
        let (fate, end) = match settlement {
            Settlement::Delivered => (Fate::Settled { delivered: record.items }, Some(LetterEnd::Gone)),
            Settlement::Deferred { until } => (Fate::Again(until), None),
            Settlement::Rejected { reason } if letter.is_some() => {
                (Fate::Settled { delivered: 0 }, Some(LetterEnd::DeadAgain(reason)))
            }
            Settlement::Rejected { reason } => {
                digest.letters.push(dead(record, record.items, reason, record.body.clone()));
                (Fate::Settled { delivered: 0 }, None)
            }
            Settlement::RejectedParts { parts } => {
                let rejected = parts.iter().fold(0_u32, |sum, (_, items, _)| sum.saturating_add(*items));
                digest
                    .letters
                    .extend(parts.into_iter().map(|(body, items, reason)| dead(record, items, reason, body)));
                (Fate::Settled { delivered: record.items.saturating_sub(rejected) }, Some(LetterEnd::Gone))
            }
        };
        digest.fates.insert(seq.0, fate);
        digest.letter = letter.zip(end);
    }
    digest
}

//! A bundle's head, checked, and its body held against it.

use std::sync::Arc;

use weir_model::{Bundle, Lane, Place, Seq, Signal, Source};
use weir_proto::weir::link::v1::BundleHead;
use weir_wire::{WalkLimits, walk};

use super::Violation;
use crate::limits::BUNDLE_RECORDS_MAX;

/// How much longer than its body a packed body may be: zstd adds less to what cannot be packed (RFC 8878, 3.1.1.2).
const PACKED_SURPLUS: u64 = 1024;

/// A head that can be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its number on the stream.
    pub ordinal: u64,
    /// Its log's place in the Hello.
    pub log: usize,
    /// Its lane.
    pub lane: Lane,
    /// What its bytes are.
    pub signal: Signal,
    /// Its records: at least one, rising.
    pub records: Vec<Place>,
    /// Items of all of them.
    pub items: u32,
    /// Bytes of all parts as they are sent.
    pub sent_bytes: u64,
    /// Bytes of the body.
    pub bytes: u64,
    /// CRC-32C of the body.
    pub crc: u32,
    /// The records are stored without a look at the marks.
    pub again: bool,
}

impl Head {
    /// Reads a head on a stream with `logs` logs, packed where `is_packed`.
    ///
    /// # Errors
    /// [`Violation`] that names the bundle and what is wrong with it.
    pub fn read(head: &BundleHead, logs: usize, bytes_max: u64, is_packed: bool) -> Result<Self, Violation> {
        let ordinal = head.ordinal;
        let wrong = |what: String| Violation(format!("bundle {ordinal}: {what}"));
        let log = head.log as usize;
        if log >= logs {
            return Err(wrong(format!("log {log} of {logs} that the hello has")));
        }
        let lane = u8::try_from(head.lane).ok().and_then(Lane::new);
        let lane = lane.ok_or_else(|| wrong(format!("lane {}; expected 0 to 15", head.lane)))?;
        let signal = match head.signal {
            1 => Signal::Traces,
            2 => Signal::Metrics,
            3 => Signal::Logs,
            other => return Err(wrong(format!("signal {other}; expected 1, 2 or 3"))),
        };
        let (seqs, counts, lengths) = (head.seqs.len(), head.items.len(), head.lengths.len());
        if seqs != counts || seqs != lengths || seqs == 0 || seqs > BUNDLE_RECORDS_MAX {
            return Err(wrong(format!(
                "{seqs} places, {counts} counts of items, {lengths} lengths; expected as many of each, 1 to \
                 {BUNDLE_RECORDS_MAX}"
            )));
        }
        let sum: u64 = head.lengths.iter().copied().map(u64::from).sum();
        if sum != head.bytes || sum > bytes_max {
            let said = head.bytes;
            return Err(wrong(format!(
                "records of {sum} bytes in a body of {said}; expected the same, at most {bytes_max}"
            )));
        }
        let most = if is_packed { sum + sum / 128 + PACKED_SURPLUS } else { sum };
        let sent = head.sent_bytes;
        if sent > most || (sent < sum && !is_packed) || (sent == 0 && sum > 0) {
            return Err(wrong(format!("{sent} bytes are sent for a body of {sum}; expected at most {most}")));
        }
        let rises = head.seqs[0] > 0 && head.seqs.is_sorted_by(|a, b| a < b);
        if !rises {
            return Err(wrong("the places of its records do not rise".to_owned()));
        }
        let items: u64 = head.items.iter().copied().map(u64::from).sum();
        let items = u32::try_from(items).map_err(|_| wrong(format!("{items} items")))?;
        let places = head.seqs.iter().zip(&head.items).zip(&head.lengths);
        let records =
            places.map(|((seq, items), bytes)| Place { seq: Seq(*seq), items: *items, bytes: *bytes });
        let records = records.collect();
        let (sent_bytes, bytes, crc, again) = (sent, sum, head.crc, head.again);
        Ok(Self { ordinal, log, lane, signal, records, items, sent_bytes, bytes, crc, again })
    }

    /// The place of its last record.
    pub fn last(&self) -> u64 {
        self.records.last().map_or(0, |record| record.seq.0)
    }

    /// Whether `body` is the one that was meant.
    pub fn is_of(&self, body: &[u8]) -> bool {
        body.len() as u64 == self.bytes && crc32c::crc32c(body) == self.crc
    }

    /// As the pipelines take it.
    pub fn bundle(self, source: Arc<Source>, epoch: u64) -> Bundle {
        Bundle { source, epoch, lane: self.lane, records: self.records, again: self.again }
    }
}

/// Walks one record as a door walks a request, and holds its items against the head.
///
/// # Errors
/// Why it is not taken, for a person at the agent.
pub(super) fn check(signal: Signal, place: Place, record: &[u8], limits: &WalkLimits) -> Result<(), String> {
    let Place { seq, items, .. } = place;
    let walked = walk(signal, record, limits).map_err(|error| format!("record {seq}: {error}"))?;
    if let Some(invalid) = walked.invalid.first() {
        let (count, item) = (walked.invalid.len(), signal.item_name());
        return Err(format!(
            "record {seq}: {count} {item}s are not valid, the first with {}",
            invalid.reason
        ));
    }
    if walked.items != items as usize {
        return Err(format!("record {seq}: {} items; its head says {items}", walked.items));
    }
    Ok(())
}

//! A bundle on its way: what is kept until it is acknowledged, and how it is cut.

use std::time::Instant;

use bytes::Bytes;
use weir_model::{Lane, Place, Seq, Signal};
use weir_proto::weir::link::v1::BundleHead;

use crate::limits::BUNDLE_RECORDS_MAX;

/// The level of zstd: a fifth of gzip's cost for the same size, as the exporter of OTLP has it.
const ZSTD_LEVEL: i32 = 1;

/// How bodies go over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As they are.
    #[default]
    None,
    /// Each body one zstd frame.
    Zstd,
}

/// Records of one lane, joined, as they were offered.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Its log's place in the Hello.
    pub log: u32,
    /// Its lane.
    pub lane: Lane,
    /// What the body is.
    pub signal: Signal,
    /// Records of it were rejected before: the collector stores them without a look at its marks.
    pub again: bool,
    /// One after another in the body, with rising places; at least one.
    records: Vec<Place>,
    body: Bytes,
    /// CRC-32C of the body.
    crc: u32,
    /// The body as zstd, once somebody wanted it.
    packed: Option<Bytes>,
}

/// Why records cannot be a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// None, or more than a collector takes.
    #[error("{0} records in one bundle: from 1 to {BUNDLE_RECORDS_MAX} may be")]
    Records(usize),
    /// The places are not those of the body.
    #[error("places for {places} bytes of a body that has {body}")]
    Bytes {
        /// By the places.
        places: u64,
        /// By the body.
        body: u64,
    },
    /// The places do not rise.
    #[error("place {0} is not above the one before it")]
    Order(u64),
}

// === impl Encoding ===

impl Encoding {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::None => "",
            Encoding::Zstd => "zstd",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Encoding::None, Encoding::Zstd].into_iter().find(|encoding| encoding.name() == name)
    }
}

// === impl Parcel ===

impl Parcel {
    /// Takes a body and the places of its records. Reads the body once, for its checksum.
    ///
    /// # Errors
    /// [`Unfit`]: no collector would take it.
    pub fn new(
        log: u32,
        lane: Lane,
        signal: Signal,
        records: Vec<Place>,
        body: Bytes,
    ) -> Result<Self, Unfit> {
        if records.is_empty() || records.len() > BUNDLE_RECORDS_MAX {
            return Err(Unfit::Records(records.len()));
        }
        let places = records.iter().map(|record| u64::from(record.bytes)).sum();
        if places != body.len() as u64 {
            return Err(Unfit::Bytes { places, body: body.len() as u64 });
        }
        if let Some(pair) = records.windows(2).find(|pair| pair[1].seq <= pair[0].seq) {
            return Err(Unfit::Order(pair[1].seq.0));
        }
        let crc = crc32c::crc32c(&body);
        Ok(Self { log, lane, signal, again: false, records, body, crc, packed: None })
    }

    /// Bytes of its body, uncompressed.
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.records.len() as u64
    }

    /// The place of its first record.
    pub fn first(&self) -> Seq {
        self.records.first().map_or(Seq(0), |record| record.seq)
    }

    /// The place of its last record.
    pub fn last(&self) -> Seq {
        self.records.last().map_or(Seq(0), |record| record.seq)
    }

    /// Makes the body as it will be sent, so that it need not be made while others wait.
    pub fn pack(&mut self, encoding: Encoding) {
        if encoding == Encoding::Zstd && self.packed.is_none() {
            let packed = zstd::bulk::compress(&self.body, ZSTD_LEVEL);
            self.packed = Some(packed.expect("zstd packs any bytes into the room that it asks for").into());
        }
    }

    /// The body as it is sent.
    pub(crate) fn sent(&mut self, encoding: Encoding) -> Bytes {
        self.pack(encoding);
        match encoding {
            Encoding::None => self.body.clone(),
            Encoding::Zstd => self.packed.clone().unwrap_or_default(),
        }
    }

    /// What goes before the body.
    pub(crate) fn head(&self, ordinal: u64, sent_bytes: u64) -> BundleHead {
        BundleHead {
            ordinal,
            log: self.log,
            lane: u32::try_from(self.lane.index()).unwrap_or(u32::MAX),
            signal: match self.signal {
                Signal::Traces => 1,
                Signal::Metrics => 2,
                Signal::Logs => 3,
            },
            seqs: self.records.iter().map(|record| record.seq.0).collect(),
            items: self.records.iter().map(|record| record.items).collect(),
            lengths: self.records.iter().map(|record| record.bytes).collect(),
            sent_bytes,
            bytes: self.bytes(),
            crc: self.crc,
            again: self.again,
        }
    }
}

/// A parcel and since when it is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) parcel: Parcel,
    pub(crate) since: Instant,
    /// It was begun on an earlier stream.
    pub(crate) was_sent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: records without a place, too many, with places for other bytes, and out of order.
    /// Guarantees: none of them becomes a bundle, and the reason says what is wrong.
    #[test]
    fn what_no_collector_would_take_is_no_parcel() {
        let lane = Lane::new(3).unwrap();
        let place = |seq, bytes| Place { seq: Seq(seq), items: 1, bytes };
        let of = |records| Parcel::new(0, lane, Signal::Logs, records, Bytes::from_static(b"abcd"));
        assert_eq!(of(vec![]).unwrap_err(), Unfit::Records(0));
        assert_eq!(of(vec![place(1, 1); BUNDLE_RECORDS_MAX + 1]).unwrap_err(), Unfit::Records(8_193));
        assert_eq!(of(vec![place(1, 3)]).unwrap_err(), Unfit::Bytes { places: 3, body: 4 });
        assert_eq!(of(vec![place(2, 2), place(2, 2)]).unwrap_err(), Unfit::Order(2));
        assert_eq!(of(vec![place(2, 2), place(9, 2)]).unwrap().last(), Seq(9));
    }
}

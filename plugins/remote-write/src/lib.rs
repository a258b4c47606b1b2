//! Prometheus remote write on the wire: `prometheus.WriteRequest` (1.0) and `io.prometheus.write.v2.Request` (2.0), both in the
//! block format of snappy.
//!
//! ```text
//! 1.0   timeseries 1 { labels 1 { name 1, value 2 }, samples 2, exemplars 3, histograms 4 } · metadata 3
//! 2.0   symbols 4 · timeseries 5 { label refs 1, samples 2, histograms 3, exemplars 4, metadata 5 }
//! ```
//!
//! Both are one [`Series`] here: a series is looked at where it lies, one after the other, and what is wrong with a single one is
//! said of it ([`Series::fault`]) while its neighbours are read.
//!
//! Invariant: knows no HTTP and no OTLP, keeps nothing between requests, and is total: no input makes it panic or allocate more
//! than a small multiple of the input.
//!
//! | file | what it is |
//! |---|---|
//! | `series.rs` | [`Series`]: labels, samples, native histograms, exemplars, and the rules for labels |
//! | `snappy.rs` | the block format, checked before anything is allocated |
//! | `read.rs` | [`Request`]: a message of either version |
//! | `histogram.rs` | native histograms on the wire |
//! | `write.rs` | [`Writer`]: a message of either version |

mod histogram;
pub mod read;
pub mod series;
pub mod snappy;
pub mod write;

use std::fmt;

pub use read::{Metadata, Request};
pub use series::{Buckets, Count, Exemplar, Histogram, Sample, Series, Span};
pub use write::Writer;

/// Which message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `prometheus.WriteRequest`.
    #[default]
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

impl Version {
    /// The full name of the message, as it stands in content types and configurations.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::V1 => "prometheus.WriteRequest",
            Self::V2 => "io.prometheus.write.v2.Request",
        }
    }

    /// What a sender writes into `content-type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::V1 => "application/x-protobuf",
            Self::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    /// What a sender writes into `x-prometheus-remote-write-version`.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::V1 => "0.1.0",
            Self::V2 => "2.0.0",
        }
    }
}

/// A request that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// As over HTTP: 400, or 413 for what is beyond a limit.
    pub status: u16,
    /// For the sender's log.
    pub text: String,
}

impl Fault {
    /// What cannot be read.
    #[must_use]
    pub fn unreadable(text: impl Into<String>) -> Self {
        Self { status: 400, text: text.into() }
    }

    /// What is beyond a limit.
    #[must_use]
    pub fn beyond(text: impl Into<String>) -> Self {
        Self { status: 413, text: text.into() }
    }
}

impl From<weir_wire::Malformed> for Fault {
    fn from(malformed: weir_wire::Malformed) -> Self {
        Self::unreadable(malformed.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

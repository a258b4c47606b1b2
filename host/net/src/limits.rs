//! The limits of everything that listens: named defaults with their reasons, and what a user may set.
//!
//! | what | default | why |
//! |---|---|---|
//! | gRPC message, decoded | 4 MiB | what gRPC servers take unless told otherwise |
//! | HTTP body, decoded | 20 MiB | the OpenTelemetry Collector's |
//! | decoded : encoded | 100 : 1 | telemetry compresses 4 to 20 times, bombs a thousand times |
//! | whole request | 60 s | six times the time after which a library gives up |
//! | body, after 10 s | 1 KiB/s | slower than any line that telemetry travels on |
//! | items of a request | 65,536 | eight of the largest batches that libraries make |
//! | attributes of an item | 256 | twice what libraries let through |

use std::time::Duration;

use serde::{Deserialize, Serialize};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes of a gRPC message after decompression (the default of gRPC servers).
pub const GRPC_MESSAGE_BYTES_MAX: usize = 4 * MIB;

/// Bytes of an HTTP body after decompression (the default of the OpenTelemetry Collector).
pub const HTTP_BODY_BYTES_MAX: usize = 20 * MIB;

/// How many decoded bytes one encoded byte may become.
pub const RATIO_MAX: u32 = 100;

/// How long one request, or one message of a stream, may take to arrive.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// Bytes a second that a body must bring on average once [`RATE_GRACE`] has passed.
pub const RATE_BYTES_MIN: u64 = 1024;

/// How long a body may take before its rate matters.
pub const RATE_GRACE: Duration = Duration::from_secs(10);

/// Spans, data points or log records in a request.
pub const ITEMS_MAX: u32 = 64 * 1024;

/// Attributes of one item.
pub const ATTRIBUTES_MAX: u32 = 256;

/// Connections that a listener holds at once; further ones wait in the kernel's backlog.
///
/// A stalled connection costs some 12 kB for ten seconds at most, so a flood of them stays under 100 MB.
pub const CONNECTIONS_MAX: usize = 8192;

/// Streams at once on one HTTP/2 connection: the number that most servers offer.
pub const STREAMS_MAX: u32 = 128;

/// Bytes that the peer may send on one HTTP/2 stream before we have read any (DESIGN 1.3).
pub const STREAM_WINDOW_BYTES: u32 = 256 * KIB as u32;

/// Bytes that the peer may send on one HTTP/2 connection before we have read any.
///
/// DESIGN 1.3 says 4 MiB; sixty-four connections of a crowd could then put 256 MiB into buffers that no ledger sees.
/// Four streams' windows keep a connection busy all the same.
pub const CONNECTION_WINDOW_BYTES: u32 = MIB as u32;

/// The same for all connections of a listener: once half of this is lent, a new connection gets a part of the rest.
pub const WINDOWS_BYTES_MAX: u32 = 32 * MIB as u32;

/// No connection gets less: what HTTP/2 lets a peer send before anything is said about it (RFC 9113, 6.9.2).
pub const CONNECTION_WINDOW_BYTES_MIN: u32 = 65_535;

/// Bytes of one HTTP/2 frame: fewer wake-ups than with the protocol's 16 KiB, and four still fit a stream's window.
pub const FRAME_BYTES_MAX: u32 = 64 * KIB as u32;

/// Bytes of a request's headers.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * KIB as u32;

/// Bytes that an HTTP/1 connection reads at once: grows with what comes, and is not on the ledger.
pub const READ_BUFFER_BYTES_MAX: usize = 128 * KIB;

/// How long the first bytes of a connection, and an HTTP/1 request's headers, may take.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long an HTTP/1 connection may wait between two requests.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// How often an HTTP/2 peer is asked whether it lives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long an HTTP/2 peer may take to say that it lives.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How old a connection may become: balances load behind a balancer and renews certificates.
pub const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long what is under way may take after [`AGE_MAX`] before the connection is cut.
pub const AGE_GRACE: Duration = Duration::from_secs(60);

/// What one body or one message may be, however it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes, before and after decompression.
    pub bytes_max: usize,
    /// Decoded bytes for each encoded one, once there are more than a few (see `decompress.rs`).
    pub ratio_max: u32,
    /// How long it may take to arrive.
    pub time_max: Duration,
    /// Bytes a second on average, once `rate_grace` has passed.
    pub rate_bytes_min: u64,
    /// How long it may take before its rate matters.
    pub rate_grace: Duration,
}

impl BodyLimits {
    /// The defaults with this size.
    pub fn of_bytes(bytes_max: usize) -> Self {
        ListenLimits::default().of_body(bytes_max)
    }
}

/// Limits of a listener, its connections and its requests, as a user writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenLimits {
    /// Connections held at once; further ones wait until one ends.
    pub connections_max: usize,
    /// Streams at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// How old a connection may become before it is asked to end, as `30m`.
    #[serde(with = "crate::duration")]
    pub age_max: Duration,
    /// How long what is under way may take after that, as `60s`.
    #[serde(with = "crate::duration")]
    pub age_grace: Duration,
    /// How long an HTTP/1 request's headers may take, as `10s`.
    #[serde(with = "crate::duration")]
    pub header_timeout: Duration,
    /// How long an HTTP/1 connection may wait between two requests, as `60s`.
    #[serde(with = "crate::duration")]
    pub idle_timeout: Duration,
    /// How long one request, or one message of a stream, may take to arrive, as `60s`.
    #[serde(with = "crate::duration")]
    pub request_timeout: Duration,
    /// Bytes a second that a body must bring on average after its first ten seconds.
    pub rate_bytes_min: u64,
    /// How many decoded bytes one encoded byte may become.
    pub ratio_max: u32,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            streams_max: STREAMS_MAX,
            age_max: AGE_MAX,
            age_grace: AGE_GRACE,
            header_timeout: HEADER_TIME_MAX,
            idle_timeout: IDLE_TIME_MAX,
            request_timeout: REQUEST_TIME_MAX,
            rate_bytes_min: RATE_BYTES_MIN,
            ratio_max: RATIO_MAX,
        }
    }
}

impl ListenLimits {
    /// The limits of one body or message of at most `bytes_max`.
    pub fn of_body(&self, bytes_max: usize) -> BodyLimits {
        BodyLimits {
            bytes_max,
            ratio_max: self.ratio_max,
            time_max: self.request_timeout,
            rate_bytes_min: self.rate_bytes_min,
            rate_grace: RATE_GRACE,
        }
    }
}

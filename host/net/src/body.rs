//! An HTTP body becomes one piece of bytes: paid for before it is buffered, within a limit, in time.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use weir_model::{Claim, Exhausted, Ledger};

use crate::budget;
use crate::decompress::{DecompressError, Encoding, decompress};
use crate::limits::BodyLimits;
use crate::pace::{Pace, Slow};

/// The first step of a body whose length is not known.
const STEP_BYTES_MIN: usize = 16 * 1024;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than the limit, as its length says, as it came, or after decompression.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// There is no memory for it now.
    #[error("no memory for the body")]
    Exhausted(#[from] Exhausted),
    /// It comes too slowly.
    #[error("the body comes too slowly")]
    Slow(#[from] Slow),
    /// It ended before its end.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Its encoding is none that we know.
    #[error("content-encoding {0:?} is not known; expected one of {known}", known = Encoding::ACCEPTED_HTTP)]
    UnknownEncoding(String),
    /// It is not what its encoding says, or a bomb.
    #[error("the body cannot be decompressed")]
    Decompress(#[source] DecompressError),
}

impl From<DecompressError> for BodyError {
    fn from(error: DecompressError) -> Self {
        match error {
            DecompressError::TooLarge { limit } => Self::TooLarge { limit },
            DecompressError::Exhausted(exhausted) => Self::Exhausted(exhausted),
            DecompressError::Bomb { .. } | DecompressError::Malformed { .. } => Self::Decompress(error),
        }
    }
}

/// Reads a body whole and decodes it by its `content-encoding`; the claim pays for what is returned.
///
/// # Errors
/// [`BodyError`]; everything claimed here is given back.
///
/// # Cancel safety
/// Safe to drop; what was read is gone.
///
/// After an error the rest of `body` can be given to [`discard`].
pub async fn read_decoded<B>(
    headers: &HeaderMap,
    body: &mut B,
    limits: &BodyLimits,
    ledger: &Arc<Ledger>,
) -> Result<(Bytes, Claim), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let encoding = encoding_of(headers)?;
    let (bytes, claim) = read(headers, body, limits, ledger).await?;
    if encoding == Encoding::Identity {
        return Ok((bytes, claim));
    }
    let (decoded, paid) = decompress(encoding, &bytes, limits, ledger).await?;
    Ok((Bytes::from(decoded), paid))
}

/// Reads a body whole, as it is.
///
/// # Errors
/// [`BodyError`]; everything claimed here is given back.
///
/// # Cancel safety
/// Safe to drop; what was read is gone.
pub async fn read<B>(
    headers: &HeaderMap,
    body: &mut B,
    limits: &BodyLimits,
    ledger: &Arc<Ledger>,
) -> Result<(Bytes, Claim), BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let limit = limits.bytes_max;
    let announced = announced(headers)?.unwrap_or(0);
    if announced > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    let mut claim = budget::claim(ledger, announced.min(budget::ANNOUNCED_BYTES_MAX))?;
    // At most the limit, so it fits a length.
    let mut buffer = BytesMut::with_capacity((announced as usize).min(budget::ALLOCATED_BYTES_MAX));
    let expected = if announced > 0 { announced as usize } else { limit };
    let mut pace = Pace::start();
    while let Some(frame) = pace.wait(limits, body.frame()).await? {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        pace.add(data.len());
        let length = buffer.len() + data.len();
        if length > limit {
            return Err(BodyError::TooLarge { limit });
        }
        let step = length.max(STEP_BYTES_MIN.min(expected)) as u64;
        budget::grow_to(ledger, &mut claim, step, expected as u64)?;
        if length > buffer.capacity() {
            let target = length.max(buffer.capacity() * 2).max(STEP_BYTES_MIN).min(expected.max(length));
            buffer.reserve(target - buffer.len());
        }
        buffer.extend_from_slice(&data);
    }
    if announced > 0 && (buffer.len() as u64) < announced {
        return Err(BodyError::Broken(format!("{} of {announced} bytes came", buffer.len())));
    }
    if buffer.capacity() - buffer.len() > buffer.len() / 8 {
        buffer = BytesMut::from(buffer.as_ref());
    }
    claim.shrink_to(buffer.len() as u64);
    Ok((buffer.freeze(), claim))
}

/// Reads a body to its end and drops it, up to `bytes_max`, so that a peer which still sends gets to read its answer
/// instead of a reset. Does nothing where the peer asked first (`expect`): its body will not come.
pub async fn discard<B>(headers: &HeaderMap, body: &mut B, bytes_max: usize, limits: &BodyLimits)
where
    B: Body<Data = Bytes> + Unpin,
{
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut pace = Pace::start();
    let mut dropped = 0_usize;
    while let Ok(Some(Ok(frame))) = pace.wait(limits, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        pace.add(length);
        dropped = dropped.saturating_add(length);
        if dropped > bytes_max {
            return;
        }
    }
}

/// The body's encoding, as its header says.
///
/// # Errors
/// [`BodyError::UnknownEncoding`], also for several encodings one over the other.
pub fn encoding_of(headers: &HeaderMap) -> Result<Encoding, BodyError> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(name) = named.next() else {
        return Ok(Encoding::Identity);
    };
    let text = String::from_utf8_lossy(name.as_bytes());
    match (Encoding::named(&text), named.next()) {
        (Some(encoding), None) => Ok(encoding),
        (Some(_), Some(second)) => {
            Err(BodyError::UnknownEncoding(format!("{text}, {}", String::from_utf8_lossy(second.as_bytes()))))
        }
        (None, _) => Err(BodyError::UnknownEncoding(text.into_owned())),
    }
}

/// The length that the headers announce, where they do.
fn announced(headers: &HeaderMap) -> Result<Option<u64>, BodyError> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| BodyError::Broken(format!("content-length {value:?} is no number")))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn chunks(count: usize, length: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames = (0..count).map(move |_| Ok(Frame::data(Bytes::from(vec![7; length]))));
        StreamBody::new(stream::iter(frames))
    }

    fn with_length(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(length))])
    }

    /// Scenario: bodies with and without a length, of one chunk and of many.
    /// Guarantees: they arrive whole, and the claim is for just what is held.
    #[test]
    fn a_body_arrives_whole_and_paid() {
        for (count, length) in [(0, 0), (1, 10), (50, 10_000), (7, 100_000)] {
            for headers in [HeaderMap::new(), with_length(count * length)] {
                let ledger = Ledger::new(16 << 20);
                let limits = BodyLimits::of_bytes(1 << 20);
                let (bytes, claim) =
                    block_on(read(&headers, &mut chunks(count, length), &limits, &ledger)).unwrap();
                assert_eq!(bytes.len(), count * length);
                assert_eq!(claim.bytes(), bytes.len() as u64);
                assert!(ledger.peak() <= 3 * (1 << 20));
            }
        }
    }

    /// Scenario: a length over the limit; a body over it that announces nothing; one that is longer than it said.
    /// Guarantees: the first is refused before a byte is read or claimed, the others when they pass it.
    #[test]
    fn a_body_over_the_limit_is_refused() {
        let ledger = Ledger::new(16 << 20);
        let limits = BodyLimits::of_bytes(1000);
        let refused = block_on(read(
            &with_length(1001),
            &mut StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()),
            &limits,
            &ledger,
        ));
        assert!(matches!(refused, Err(BodyError::TooLarge { limit: 1000 })));
        assert_eq!(ledger.peak(), 0);
        for headers in [HeaderMap::new(), with_length(10)] {
            let refused = block_on(read(&headers, &mut chunks(11, 100), &limits, &ledger));
            assert!(matches!(refused, Err(BodyError::TooLarge { limit: 1000 })));
        }
        assert_eq!(ledger.used(), 0);
    }

    /// Scenario: a length of a megabyte is announced, and nothing comes.
    /// Guarantees: it claims little, so that silence costs nobody else's memory.
    #[test]
    fn an_announced_length_claims_little() {
        let ledger = Ledger::new(16 << 20);
        let limits = BodyLimits::of_bytes(4 << 20);
        let headers = with_length(1 << 20);
        let mut body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        block_on(async {
            let mut reading = Box::pin(read(&headers, &mut body, &limits, &ledger));
            assert!(futures_util::poll!(&mut reading).is_pending());
            assert!((1..=64 << 10).contains(&ledger.used()), "{}", ledger.used());
        });
    }

    /// Scenario: a body that ends before the length that it announced.
    /// Guarantees: it is not taken for the whole.
    #[test]
    fn a_short_body_is_broken() {
        let ledger = Ledger::new(16 << 20);
        let limits = BodyLimits::of_bytes(1000);
        let refused = block_on(read(&with_length(900), &mut chunks(1, 899), &limits, &ledger));
        assert!(matches!(refused, Err(BodyError::Broken(_))));
    }

    /// Scenario: a sender that brings a byte and then nothing, under limits of milliseconds.
    /// Guarantees: it is cut off by its rate long before its time is over, and its memory comes back.
    #[test]
    fn a_body_that_drips_is_cut_off() {
        let ledger = Ledger::new(16 << 20);
        let limits = BodyLimits {
            time_max: Duration::from_secs(3600),
            rate_grace: Duration::from_millis(20),
            ..BodyLimits::of_bytes(1000)
        };
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))]);
        let mut body = StreamBody::new(first.chain(stream::pending()));
        let refused = block_on(read(&with_length(900), &mut body, &limits, &ledger));
        assert!(matches!(refused, Err(BodyError::Slow(Slow { bytes: 1, .. }))), "{refused:?}");
        assert_eq!(ledger.used(), 0);
    }

    /// Scenario: encodings that we know, that we do not know, and two at once.
    /// Guarantees: one known encoding is decoded, everything else is refused by name.
    #[test]
    fn only_one_known_encoding_is_taken() {
        let headers = |values: &[&'static str]| {
            HeaderMap::from_iter(
                values.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_static(value))),
            )
        };
        assert_eq!(encoding_of(&headers(&[])).unwrap(), Encoding::Identity);
        assert_eq!(encoding_of(&headers(&["GZIP"])).unwrap(), Encoding::Gzip);
        for wrong in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["snappy"]] {
            assert!(
                matches!(encoding_of(&headers(wrong)), Err(BodyError::UnknownEncoding(_))),
                "{wrong:?} was taken"
            );
        }
    }

    /// Scenario: a ledger that is full for large bodies, and a small and a large one.
    /// Guarantees: the small one is read, the large one is refused before its first byte.
    #[test]
    fn a_small_body_is_read_while_large_ones_are_refused() {
        let ledger = Ledger::new(8 << 20);
        let _rest = ledger.claim(7 << 20).unwrap();
        let limits = BodyLimits::of_bytes(4 << 20);
        let small = block_on(read(
            &with_length(16_000),
            &mut Full::new(Bytes::from(vec![1; 16_000])),
            &limits,
            &ledger,
        ));
        assert!(small.is_ok());
        let large = block_on(read(
            &with_length(17_000),
            &mut Full::new(Bytes::from(vec![1; 17_000])),
            &limits,
            &ledger,
        ));
        assert!(matches!(large, Err(BodyError::Exhausted(_))));
    }
}

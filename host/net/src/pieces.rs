//! A reply's body that is there in several pieces: sent as they are, or packed by gzip while they go.
//!
//! ```text
//! pieces ─▶ frames of at most 64 KiB ─────────────────────────────▶ peer
//!       └─▶ steps of 128 KiB ─▶ a blocking thread's gzip ─▶ frames ─▶ peer
//! ```
//!
//! Nothing is copied together. Packing goes on only when what was packed before has been taken, so a peer that reads
//! slowly costs no more memory than one that reads fast.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use weir_model::{Claim, Exhausted, Ledger};

use crate::budget;

/// Bytes of one frame: what a connection may still hold when all frames are handed over.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are packed at once: half a millisecond of work, so that a thread is not hopped to for less.
const STEP_BYTES: usize = 128 * 1024;

/// A body of at most so many bytes is packed where it is: less work than a hop to another thread and back.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// What packing needs: the encoder's window and tables (some 300 KiB), and the output of one step.
const PACKING_BYTES: u64 = 512 * 1024;

/// Items of an `accept-encoding` that are looked at; browsers send five.
const ACCEPTED_MAX: usize = 32;

/// A body in pieces.
pub struct Pieces(State);

enum State {
    Plain(Rest),
    Packing(Option<Worker>),
}

/// What is left of the pieces.
struct Rest {
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

/// Where the packer is.
enum Worker {
    Here(Box<Packer>),
    Away(JoinHandle<(Box<Packer>, Bytes)>),
}

struct Packer {
    rest: Rest,
    encoder: GzEncoder<Vec<u8>>,
    is_small: bool,
    is_done: bool,
    _claim: Claim,
}

// === impl Pieces ===

impl Pieces {
    /// These pieces, one after the other.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self(State::Plain(Rest { pieces, bytes }))
    }

    /// The same, packed while it goes; the work is paid for from `ledger`.
    ///
    /// # Errors
    /// [`Exhausted`] with the body as it was: it can go unpacked.
    pub fn packed(self, ledger: &Arc<Ledger>) -> Result<Self, (Self, Exhausted)> {
        let rest = match self.0 {
            State::Plain(rest) => rest,
            State::Packing(_) => return Ok(self),
        };
        match budget::claim(ledger, PACKING_BYTES) {
            Ok(claim) => Ok(Self(State::Packing(Some(Worker::Here(Box::new(Packer::new(rest, claim))))))),
            Err(exhausted) => Err((Self(State::Plain(rest)), exhausted)),
        }
    }

    /// Bytes that are left; none where that is known only at the end.
    pub fn bytes(&self) -> Option<u64> {
        match &self.0 {
            State::Plain(rest) => Some(rest.bytes),
            State::Packing(_) => None,
        }
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut self.0 {
            State::Plain(rest) => rest.next(FRAME_BYTES_MAX),
            State::Packing(worker) => ready!(poll_packed(worker, cx)),
        };
        Poll::Ready(frame.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Plain(rest) => rest.bytes == 0,
            State::Packing(worker) => worker.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The next packed bytes; none at the end.
fn poll_packed(worker: &mut Option<Worker>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
    loop {
        let (packer, packed) = match worker.take() {
            None => return Poll::Ready(None),
            Some(Worker::Here(packer)) if packer.is_small => packer.step(),
            Some(Worker::Here(packer)) => {
                *worker = Some(Worker::Away(tokio::task::spawn_blocking(move || packer.step())));
                continue;
            }
            Some(Worker::Away(mut working)) => match Pin::new(&mut working).poll(cx) {
                Poll::Ready(Ok(stepped)) => stepped,
                // The runtime ends. The peer sees that the stream has no end: gzip's checksum is missing.
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    *worker = Some(Worker::Away(working));
                    return Poll::Pending;
                }
            },
        };
        if !packer.is_done {
            *worker = Some(Worker::Here(packer));
        }
        if !packed.is_empty() {
            return Poll::Ready(Some(packed));
        }
    }
}

impl Rest {
    /// The next bytes, at most `bytes_max`, of one piece.
    fn next(&mut self, bytes_max: usize) -> Option<Bytes> {
        let first = self.pieces.front_mut()?;
        let next = first.split_to(first.len().min(bytes_max));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        self.bytes -= next.len() as u64;
        Some(next)
    }
}

// === impl Packer ===

impl Packer {
    fn new(rest: Rest, claim: Claim) -> Self {
        let is_small = rest.bytes <= INLINE_BYTES_MAX as u64;
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self { rest, encoder, is_small, is_done: false, _claim: claim }
    }

    /// Packs the next step; what came out of it, which may be nothing yet.
    fn step(mut self: Box<Self>) -> (Box<Self>, Bytes) {
        let mut left = STEP_BYTES;
        while left > 0 && !self.is_done {
            match self.rest.next(left) {
                Some(next) => {
                    self.encoder.write_all(&next).expect("a vector takes all");
                    left -= next.len();
                }
                None => {
                    self.encoder.try_finish().expect("a vector takes all");
                    self.is_done = true;
                }
            }
        }
        let packed = std::mem::take(self.encoder.get_mut());
        (self, packed.into())
    }
}

/// Whether a peer takes gzip, as its `accept-encoding` says (RFC 9110, 12.5.3).
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let (mut named, mut any) = (None, None);
    for item in values.flat_map(|value| value.split(',')).take(ACCEPTED_MAX) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_wanted =
            weight.is_none_or(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            named = Some(is_wanted);
        } else if name == "*" {
            any = Some(is_wanted);
        }
    }
    named.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http::HeaderValue;
    use http_body_util::BodyExt as _;

    use super::*;

    /// Numbered lines, so that what is missing or out of order is seen.
    fn lines(bytes: usize) -> Vec<u8> {
        let mut text: Vec<u8> =
            (0..).flat_map(|number| format!("line {number}\n").into_bytes()).take(bytes).collect();
        text.truncate(bytes);
        text
    }

    fn cut(text: &[u8], bytes: usize) -> Vec<Bytes> {
        let mut pieces = vec![Bytes::new()];
        pieces.extend(text.chunks(bytes).map(Bytes::copy_from_slice));
        pieces
    }

    /// Scenario: bodies of no piece, of one, of many uneven ones, sent as they are.
    /// Guarantees: the same bytes in the same order, in frames of a bounded size; the length is known from the start.
    #[tokio::test]
    async fn pieces_go_in_order_and_in_small_frames() {
        for (bytes, piece) in [(0, 1), (10, 100), (1_000_000, 300_001), (300_000, 7)] {
            let text = lines(bytes);
            let mut body = Pieces::new(cut(&text, piece));
            assert_eq!(body.size_hint().exact(), Some(bytes as u64));
            let mut came = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().unwrap();
                assert!(!data.is_empty() && data.len() <= FRAME_BYTES_MAX);
                came.extend_from_slice(&data);
                assert_eq!(body.size_hint().exact(), Some((bytes - came.len()) as u64));
            }
            assert!(came == text && body.is_end_stream());
        }
    }

    /// Scenario: bodies around each border, packed.
    /// Guarantees: unpacked they are the same bytes; what packing held comes back.
    #[tokio::test]
    async fn packed_pieces_unpack_to_the_same() {
        let ledger = Ledger::new(64 << 20);
        for bytes in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, STEP_BYTES, STEP_BYTES + 1, 3_000_000] {
            let text = lines(bytes);
            let body = Pieces::new(cut(&text, 100_000)).packed(&ledger).unwrap();
            assert_eq!(body.size_hint().exact(), None);
            assert!(ledger.used() > 0);
            let packed = body.collect().await.unwrap().to_bytes();
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(packed.as_ref()).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == text, "{bytes} bytes became {}", unpacked.len());
            assert!(bytes < 1000 || packed.len() < bytes / 2);
            assert_eq!(ledger.used(), 0);
        }
    }

    /// Scenario: a body is to be packed while the budget has no room for that.
    /// Guarantees: it is given back as it was.
    #[test]
    fn without_memory_for_packing_the_body_stays_as_it_is() {
        let ledger = Ledger::new(1 << 20);
        let _rest = ledger.claim((1 << 20) - 10).unwrap();
        let (body, _) = Pieces::new([Bytes::from_static(b"abc")]).packed(&ledger).unwrap_err();
        assert_eq!(body.bytes(), Some(3));
    }

    /// Scenario: peers that name gzip, refuse it, name others, say "any", say nonsense.
    /// Guarantees: gzip is chosen only where it is wanted; naming it counts more than "any".
    #[test]
    fn gzip_is_for_those_who_want_it() {
        let cases = [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("x-gzip", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("*", true),
            ("*;q=0", false),
            ("br, zstd, identity", false),
            ("gzip;q=much", false),
            ("", false),
        ];
        for (said, wanted) in cases {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(said))]);
            assert_eq!(takes_gzip(&headers), wanted, "{said:?}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}

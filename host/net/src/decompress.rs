//! The one way from encoded bytes to decoded ones.
//!
//! The output grows in steps. Before each step its bytes are claimed on the ledger, and the limits of size and of
//! ratio are checked, so a bomb is refused after the first step over a limit and never holds more than that.
//!
//! Invariant: no other code in the host decompresses what came from the network.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use weir_model::{Claim, Exhausted, Ledger};

use crate::budget;
use crate::limits::BodyLimits;

/// Output is not held against its ratio below this: small texts of one letter are no bombs.
const RATIO_FREE_BYTES: usize = 256 * 1024;

/// The first guess of the output, as a multiple of the input: telemetry compresses four to five times.
const GUESS_RATIO: usize = 5;

/// The smallest step in which the output grows.
const STEP_BYTES_MIN: usize = 8 * 1024;

/// Decoded bytes after which other tasks of the thread get their turn: some 200 µs of work.
const TURN_BYTES: usize = 256 * 1024;

/// The largest window that a zstd frame may ask for, unless bodies may be larger: RFC 8878, 3.1.1.1.2, recommends to
/// support so much.
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How a body or a message is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, of one or more members.
    Gzip,
    /// RFC 1950, or RFC 1951 from those who read the name literally.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// What may stand in `accept-encoding` of an HTTP answer.
    pub const ACCEPTED_HTTP: &str = "gzip, zstd, deflate, identity";

    /// What may stand in `grpc-accept-encoding` of an answer.
    pub const ACCEPTED_GRPC: &str = "identity,gzip,deflate,zstd";

    /// The encoding of this name, if we know it. Several at once are not known.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if name.is_empty() || is("identity") {
            Some(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("deflate") || is("zlib") {
            Some(Self::Deflate)
        } else if is("zstd") {
            Some(Self::Zstd)
        } else {
            None
        }
    }
}

/// Why bytes were not decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// More than the limit came out.
    #[error("the body has more than {limit} bytes after decompression")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Each byte in became more bytes out than telemetry ever does.
    #[error("the body grows more than {limit} times when it is decompressed")]
    Bomb {
        /// The limit of the ratio.
        limit: u32,
    },
    /// There is no memory for it now.
    #[error("no memory for the decompressed body")]
    Exhausted(#[from] Exhausted),
    /// It is not what its encoding says.
    #[error("the body is not valid {encoding:?}")]
    Malformed {
        /// The encoding that it claimed to be in.
        encoding: Encoding,
        /// What the decoder said.
        #[source]
        cause: io::Error,
    },
}

/// Decodes `input`, within `limits` and paid on `ledger`; the claim is for what is returned.
///
/// `input` stays paid for by its own claim.
///
/// # Errors
/// [`DecompressError`]; everything claimed here is given back.
///
/// # Cancel safety
/// Safe to drop: nothing is kept.
pub async fn decompress(
    encoding: Encoding,
    input: &[u8],
    limits: &BodyLimits,
    ledger: &Arc<Ledger>,
) -> Result<(Vec<u8>, Claim), DecompressError> {
    if input.is_empty() {
        // Some libraries name an encoding and send nothing at all.
        return Ok((Vec::new(), budget::claim(ledger, 0)?));
    }
    let malformed = |cause| DecompressError::Malformed { encoding, cause };
    let mut window_bytes = 0;
    let mut decoder: Box<dyn Read + Send> = match encoding {
        Encoding::Identity => Box::new(input),
        Encoding::Gzip => Box::new(MultiGzDecoder::new(input)),
        Encoding::Deflate if is_zlib(input) => Box::new(ZlibDecoder::new(input)),
        Encoding::Deflate => Box::new(DeflateDecoder::new(input)),
        Encoding::Zstd => {
            let window_max = (limits.bytes_max as u64).max(ZSTD_WINDOW_BYTES_MAX).next_power_of_two();
            // A frame to skip has no window, and what is no frame at all is the decoder's to say.
            if zstd_window_bytes(input).is_ok_and(|asked| asked > window_max) {
                return Err(DecompressError::TooLarge { limit: limits.bytes_max });
            }
            // A later frame may ask for more than the first one; what it uses is no more than what has come out.
            window_bytes = window_max;
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(malformed)?;
            decoder.window_log_max(window_max.ilog2()).map_err(malformed)?;
            Box::new(decoder)
        }
    };
    let mut output = Output::new(input.len(), window_bytes, limits, ledger)?;
    let mut turn_ends = TURN_BYTES;
    loop {
        let room = output.room(encoding)?;
        let count = match decoder.read(room) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(malformed(cause)),
        };
        output.length += count;
        if output.length >= turn_ends {
            turn_ends = output.length + TURN_BYTES;
            tokio::task::yield_now().await;
        }
    }
    Ok(output.finish())
}

/// The output while it grows.
struct Output<'a> {
    bytes: Vec<u8>,
    length: usize,
    claim: Claim,
    /// Bytes that may come out at most, of the limits of size and ratio the lower one.
    length_max: usize,
    /// The decoder's window. It keeps the newest output once more, so only so much of it is real as has come out.
    window_bytes: u64,
    limits: &'a BodyLimits,
    ledger: &'a Arc<Ledger>,
}

impl<'a> Output<'a> {
    fn new(
        input_length: usize,
        window_bytes: u64,
        limits: &'a BodyLimits,
        ledger: &'a Arc<Ledger>,
    ) -> Result<Self, Exhausted> {
        let by_ratio = input_length.saturating_mul(limits.ratio_max as usize).max(RATIO_FREE_BYTES);
        let length_max = limits.bytes_max.min(by_ratio);
        let guess =
            input_length.saturating_mul(GUESS_RATIO).clamp(STEP_BYTES_MIN, length_max.max(STEP_BYTES_MIN));
        let claim = budget::claim(ledger, cost(guess, window_bytes))?;
        Ok(Self { bytes: vec![0; guess], length: 0, claim, length_max, window_bytes, limits, ledger })
    }

    /// Room for at least one byte more, claimed.
    fn room(&mut self, encoding: Encoding) -> Result<&mut [u8], DecompressError> {
        if self.length > self.length_max {
            return Err(if self.length > self.limits.bytes_max || encoding == Encoding::Identity {
                DecompressError::TooLarge { limit: self.limits.bytes_max }
            } else {
                DecompressError::Bomb { limit: self.limits.ratio_max }
            });
        }
        if self.length == self.bytes.len() {
            // One byte over the limit tells an output that is too large from one that just fits.
            let target =
                self.length.saturating_mul(2).min(self.length_max.saturating_add(1)).max(self.length + 1);
            let more = cost(target, self.window_bytes).saturating_sub(self.claim.bytes());
            budget::grow(self.ledger, &mut self.claim, more)?;
            self.bytes.reserve_exact(target - self.length);
            self.bytes.resize(target, 0);
        }
        Ok(&mut self.bytes[self.length..])
    }

    fn finish(mut self) -> (Vec<u8>, Claim) {
        self.bytes.truncate(self.length);
        // A guess that was far too high would hold memory that nobody pays for.
        if self.bytes.capacity() - self.length > self.length / 8 {
            self.bytes.shrink_to_fit();
        }
        self.claim.shrink_to(self.bytes.capacity() as u64);
        (self.bytes, self.claim)
    }
}

/// What `length` bytes of output cost while a decoder with this window makes them.
fn cost(length: usize, window_bytes: u64) -> u64 {
    length as u64 + window_bytes.min(length as u64)
}

/// Whether a `deflate` body has the two bytes of RFC 1950 in front.
fn is_zlib(input: &[u8]) -> bool {
    matches!(input, [method, check, ..]
        if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*check)) % 31 == 0)
}

/// The window that the first frame of a zstd body asks for (RFC 8878, 3.1.1.1): memory that the decoder takes
/// besides the output.
///
/// ```text
/// magic u32 · descriptor u8 · [window u8] · [dictionary 0..4] · [content size 0..8]
/// descriptor: content size flag 7..6 · single segment 5 · … · dictionary flag 1..0
/// ```
fn zstd_window_bytes(input: &[u8]) -> io::Result<u64> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no zstd frame header");
    let rest = input.strip_prefix(&0xfd2f_b528_u32.to_le_bytes()).ok_or_else(invalid)?;
    let (descriptor, rest) = rest.split_first().ok_or_else(invalid)?;
    if descriptor & 0x20 == 0 {
        let window = rest.first().ok_or_else(invalid)?;
        let base = 1_u64 << (10 + (window >> 3));
        return Ok(base + base / 8 * u64::from(window & 7));
    }
    let dictionary_length = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let size = rest.get(dictionary_length..dictionary_length + size_length).ok_or_else(invalid)?;
    let mut bytes = [0; 8];
    bytes[..size_length].copy_from_slice(size);
    let offset = if size_length == 2 { 256 } else { 0 };
    u64::from_le_bytes(bytes).checked_add(offset).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn raw_deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_whole(data: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(data, 3).unwrap()
    }

    /// As a streaming sender writes it: no content size in the header.
    fn zstd_streamed(data: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(data, 3).unwrap()
    }

    fn all_encodings(data: &[u8]) -> Vec<(&'static str, Encoding, Vec<u8>)> {
        vec![
            ("gzip", Encoding::Gzip, gzip(data)),
            ("zlib", Encoding::Deflate, zlib(data)),
            ("raw deflate", Encoding::Deflate, raw_deflate(data)),
            ("zstd", Encoding::Zstd, zstd_whole(data)),
            ("streamed zstd", Encoding::Zstd, zstd_streamed(data)),
        ]
    }

    fn run(
        encoding: Encoding,
        input: &[u8],
        bytes_max: usize,
        ledger: &Arc<Ledger>,
    ) -> Result<(Vec<u8>, Claim), DecompressError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(decompress(encoding, input, &BodyLimits::of_bytes(bytes_max), ledger))
    }

    /// Bytes that compress a little, the same on each run.
    fn telemetry(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(b'a'..b'q')).take(length).collect()
    }

    /// Scenario: bodies of several sizes in each encoding.
    /// Guarantees: what comes out is what went in, and the claim is for what is held.
    #[test]
    fn every_encoding_gives_back_what_went_in() {
        for length in [0, 1, 1000, 300_000, 3 * MIB] {
            let data = telemetry(length);
            for (name, encoding, input) in all_encodings(&data) {
                let ledger = Ledger::new(64 * MIB as u64);
                let (output, claim) = run(encoding, &input, 4 * MIB, &ledger).unwrap();
                assert!(output == data, "{name} of {length} bytes came out different");
                assert!(claim.bytes() >= output.capacity() as u64);
                assert!(
                    claim.bytes() <= 16 + length as u64 * 9 / 8,
                    "{name}: {} for {length}",
                    claim.bytes()
                );
                drop(claim);
                assert_eq!(ledger.used(), 0);
            }
        }
    }

    /// Scenario: several gzip members and several zstd frames one after another (RFC 1952, 2.2; RFC 8878, 3).
    /// Guarantees: they are read as one body.
    #[test]
    fn members_one_after_another_are_one_body() {
        let ledger = Ledger::new(64 * 1024);
        for (encoding, pack) in [
            (Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Encoding::Zstd, zstd_whole),
            (Encoding::Zstd, zstd_streamed),
        ] {
            let input = [pack(b"one "), pack(b"two")].concat();
            assert_eq!(run(encoding, &input, MIB, &ledger).unwrap().0, b"one two");
        }
    }

    /// Scenario: a body that is exactly at the limit, and one byte longer.
    /// Guarantees: the first is taken, the second is too large.
    #[test]
    fn the_limit_is_exact() {
        let data = telemetry(100_001);
        let ledger = Ledger::new(64 * MIB as u64);
        for (name, encoding, input) in all_encodings(&data) {
            assert!(run(encoding, &input, 100_001, &ledger).is_ok(), "{name} at the limit");
            let over = run(encoding, &input, 100_000, &ledger);
            assert!(
                matches!(over, Err(DecompressError::TooLarge { limit: 100_000 })),
                "{name} over it: {over:?}"
            );
            assert_eq!(ledger.used(), 0);
        }
    }

    /// Scenario: a gibibyte of zeros, compressed a thousand times and more.
    /// Guarantees: refused long before it is a gibibyte, and what it cost was claimed and comes back.
    #[test]
    fn a_bomb_is_refused_while_it_is_small() {
        let zeros = vec![0; 64 * MIB];
        for (name, encoding, input) in all_encodings(&zeros) {
            let input: Vec<u8> = match encoding {
                Encoding::Gzip | Encoding::Zstd => input.repeat(16),
                Encoding::Deflate | Encoding::Identity => input,
            };
            let ledger = Ledger::new(64 * MIB as u64);
            let refused = run(encoding, &input, 20 * MIB, &ledger);
            let is_bomb =
                matches!(refused, Err(DecompressError::Bomb { .. } | DecompressError::TooLarge { .. }));
            assert!(is_bomb, "{name} gave {refused:?}");
            assert!(ledger.peak() <= 45 * MIB as u64, "{name} held {} bytes", ledger.peak());
            assert_eq!(ledger.used(), 0);
        }
    }

    /// Scenario: a small bomb, below every limit of size, that grows a thousand times.
    /// Guarantees: the ratio alone refuses it.
    #[test]
    fn the_ratio_alone_refuses() {
        let ledger = Ledger::new(64 * MIB as u64);
        let input = gzip(&vec![0; 2 * MIB]);
        let refused = run(Encoding::Gzip, &input, 20 * MIB, &ledger);
        assert!(matches!(refused, Err(DecompressError::Bomb { limit: 100 })), "{refused:?}");
        assert!(ledger.peak() < MIB as u64);
    }

    /// Scenario: a bomb inside a bomb, as a body has them that names its encoding twice.
    /// Guarantees: only the outer layer is opened; the inner one stays as small as it is.
    #[test]
    fn one_layer_is_opened() {
        let ledger = Ledger::new(64 * MIB as u64);
        let inner = gzip(&vec![0; 8 * MIB]);
        let (output, _claim) = run(Encoding::Gzip, &gzip(&inner), MIB, &ledger).unwrap();
        assert_eq!(output, inner);
    }

    /// Scenario: a zstd frame of twelve bytes that asks for a window of 1 GiB, and one that claims so much content.
    /// Guarantees: refused by its header, with nothing claimed.
    #[test]
    fn a_window_is_refused_by_its_header() {
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00];
        let single = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0x00, 0x00, 0x00, 0x40, 0x01, 0x00, 0x00];
        for input in [wide, single] {
            let ledger = Ledger::new(4096 * MIB as u64);
            let refused = run(Encoding::Zstd, &input, 20 * MIB, &ledger);
            assert!(matches!(refused, Err(DecompressError::TooLarge { .. })), "{refused:?}");
            assert_eq!(ledger.peak(), 0);
        }
    }

    /// Scenario: a frame to skip and one with a small window, then one with a large window, then one that asks for
    /// 1 GiB.
    /// Guarantees: the first three are one body, paid for; the last one gets no such window.
    #[test]
    fn later_frames_have_windows_of_their_own_up_to_the_limit() {
        let ledger = Ledger::new(64 * MIB as u64);
        let text = telemetry(3 * MIB);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let input = [&skipped[..], &zstd_whole(b"small"), &zstd_streamed(&text)].concat();
        let (output, claim) = run(Encoding::Zstd, &input, 20 * MIB, &ledger).unwrap();
        assert_eq!(output.len(), 5 + text.len());
        assert!(claim.bytes() >= output.len() as u64);
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00];
        let refused = run(Encoding::Zstd, &[&input[..], &wide].concat(), 20 * MIB, &ledger);
        assert!(matches!(refused, Err(DecompressError::Malformed { .. })));
    }

    /// Scenario: a ledger with less room than the output needs.
    /// Guarantees: refused for now, and all that was claimed comes back.
    #[test]
    fn no_memory_is_said_and_given_back() {
        let data = telemetry(MIB);
        for (name, encoding, input) in all_encodings(&data) {
            let ledger = Ledger::new(MIB as u64 / 2);
            let refused = run(encoding, &input, 4 * MIB, &ledger);
            assert!(matches!(refused, Err(DecompressError::Exhausted(_))), "{name} gave {refused:?}");
            assert_eq!(ledger.used(), 0);
        }
    }

    /// Scenario: each encoding cut short at every length, and with one byte changed at every place.
    /// Guarantees: an error or the right bytes, never a panic, never a wrong length unnoticed at a cut.
    #[test]
    fn damage_is_noticed() {
        let data = telemetry(600);
        let ledger = Ledger::new(64 * MIB as u64);
        for (name, encoding, input) in all_encodings(&data) {
            for end in 1..input.len() {
                if let Ok((output, _)) = run(encoding, &input[..end], MIB, &ledger) {
                    assert!(output == data, "{name} cut at {end} of {} was taken", input.len());
                }
                let mut changed = input.clone();
                changed[end] ^= 0x55;
                drop(run(encoding, &changed, MIB, &ledger));
            }
            assert_eq!(ledger.used(), 0);
        }
    }
}

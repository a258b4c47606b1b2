//! Every function on bytes that somebody has damaged. None may panic, and what comes out must be whole.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message;
use weir_wire::json::{JsonLimits, Lexer, Token, to_json, to_protobuf};
use weir_wire::{Addition, Signal, WalkError, WalkLimits, augment, cut, group, halve, walk};

use crate::invent::Choices;
use crate::through_views;

/// How long each fuzzer runs as a plain test.
const FUZZ_TIME: Duration = Duration::from_secs(1);

const LIMITS: WalkLimits = WalkLimits { items_max: 1000, attributes_max: 2, resources_max: 100 };

/// A small generator of random numbers (splitmix64), so that a printed seed is all that a failure needs.
struct Random(u64);

impl Random {
    /// Seeded from the clock, or from `WEIR_SEED` to see a failure again.
    fn seeded(test: &str) -> Self {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        eprintln!("{test}: WEIR_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// An invented request.
    fn request(&mut self, signal: Signal) -> Vec<u8> {
        let choices: Vec<u8> = (0..self.below(600)).map(|_| self.next() as u8).collect();
        match signal {
            Signal::Traces => Choices::new(&choices).traces().encode_to_vec(),
            Signal::Metrics => Choices::new(&choices).metrics().encode_to_vec(),
            Signal::Logs => Choices::new(&choices).logs().encode_to_vec(),
        }
    }

    /// Up to four damages: a byte changed, put in, taken out, a piece copied elsewhere, the end cut off.
    fn damage(&mut self, bytes: &mut Vec<u8>, favourites: &[u8]) {
        for _ in 0..self.below(5) {
            let at = self.below(bytes.len());
            let byte =
                if self.below(2) == 0 { self.next() as u8 } else { favourites[self.below(favourites.len())] };
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                3 => {
                    let end = (at + self.below(30)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => bytes.truncate(bytes.len() - self.below(8).min(bytes.len())),
            }
        }
    }
}

/// Everything that takes protobuf. What comes out of a request that was taken must be taken again.
fn poke_protobuf(signal: Signal, body: &[u8]) {
    let views = match signal {
        Signal::Traces => through_views::traces(body).map(|request| request.encode_to_vec()),
        Signal::Metrics => through_views::metrics(body).map(|request| request.encode_to_vec()),
        Signal::Logs => through_views::logs(body).map(|request| request.encode_to_vec()),
    };
    let additions = [Addition::string("a", "b"), Addition::int("service.name", 1)];
    let augmented = [augment(body, &additions, false), augment(body, &additions, true)];
    let halves = halve(signal, body);
    let mut json = Vec::new();
    let json_written = to_json(signal, body, &mut json);
    if views.is_ok() && json_written.is_ok() {
        check_json(signal, &json);
    }
    let walked = match walk(signal, body, &LIMITS) {
        Ok(walked) => walked,
        Err(WalkError::TooMany { .. }) => return,
        Err(WalkError::Malformed(malformed)) => {
            assert!(malformed.at <= body.len(), "{malformed}");
            return;
        }
    };
    let again = |body: &[u8]| walk(signal, body, &LIMITS).expect("what comes out is a request");
    for augmented in augmented {
        // The walk does not look into the resource's attributes; augmenting does.
        let Ok(augmented) = augmented else { continue };
        let again = again(&augmented);
        assert_eq!((again.items, again.invalid.len()), (walked.items, walked.invalid.len()));
    }
    let cut = cut(body, &walked).expect("the body that was walked");
    assert_eq!((again(&cut).items, again(&cut).invalid.len()), (walked.valid_items(), 0));
    match halves {
        Some((first, second)) => {
            assert_eq!(again(&first).items, walked.items / 2);
            assert_eq!(again(&second).items, walked.items - walked.items / 2);
        }
        None => assert!(walked.items < 2),
    }
    let group_of: Vec<_> = (0..walked.resources.len()).map(|index| index % 2).collect();
    let items: usize =
        group(body, &walked.resources, &group_of, 2).iter().map(|body| again(body).items).sum();
    assert_eq!(items, walked.items);
}

/// JSON that was written must be JSON, and understood.
fn check_json(signal: Signal, json: &[u8]) {
    let text = || String::from_utf8_lossy(json).into_owned();
    assert!(lexes(json), "{}", text());
    let limits = JsonLimits { string_bytes_max: usize::MAX };
    let body = to_protobuf(signal, json, &limits).unwrap_or_else(|error| panic!("{error}: {}", text()));
    let mut again = Vec::new();
    to_json(signal, &body, &mut again).expect("what was just made");
    assert_eq!(String::from_utf8_lossy(&again), text());
}

fn lexes(json: &[u8]) -> bool {
    let mut lexer = Lexer::new(json);
    loop {
        match lexer.next() {
            Ok(Token::End) => return true,
            Ok(Token::Key(text) | Token::String(text)) => {
                assert!(text.bytes().len() <= text.raw().len());
                assert!(core::str::from_utf8(&text.bytes()).is_ok());
            }
            Ok(Token::Number(number)) => {
                let _ = (number.as_f64(), number.as_i64(), number.as_u64());
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.line > 0 && error.column > 0);
                return false;
            }
        }
    }
}

/// Scenario: a request of each signal, cut off behind every byte.
/// Guarantees: no function panics, and none takes more than it was given.
#[test]
fn a_request_cut_off_anywhere_is_survived() {
    let mut random = Random(7);
    for signal in Signal::ALL {
        for _ in 0..20 {
            let body = random.request(signal);
            for end in 0..=body.len() {
                poke_protobuf(signal, &body[..end]);
            }
            let mut json = Vec::new();
            to_json(signal, &body, &mut json).expect("a request");
            for end in 0..json.len() {
                let cut_off = to_protobuf(signal, &json[..end], &JsonLimits::default());
                assert!(cut_off.is_err(), "{}", String::from_utf8_lossy(&json[..end]));
            }
        }
    }
}

/// Scenario: invented requests with random damages, for a second.
/// Guarantees: no function panics; what a walk takes can be cut, halved, grouped and augmented into what a
/// walk takes.
#[test]
fn damaged_protobuf_is_survived() {
    let mut random = Random::seeded("damaged_protobuf_is_survived");
    let end = Instant::now() + FUZZ_TIME;
    while Instant::now() < end {
        for signal in Signal::ALL {
            let mut body = random.request(signal);
            random.damage(&mut body, &[0, 1, 0x0a, 0x12, 0x1a, 0x2a, 0x7f, 0x80, 0xff]);
            poke_protobuf(signal, &body);
        }
    }
}

/// Scenario: the JSON of invented requests with random damages, for a second.
/// Guarantees: lexer and reader don't panic; what the reader takes, the lexer took; what it makes of it is a
/// request.
#[test]
fn damaged_json_is_survived() {
    let mut random = Random::seeded("damaged_json_is_survived");
    let end = Instant::now() + FUZZ_TIME;
    while Instant::now() < end {
        for signal in Signal::ALL {
            let body = random.request(signal);
            let mut json = Vec::new();
            to_json(signal, &body, &mut json).expect("a request");
            random.damage(&mut json, b"{}[]\",:\\u0123456789eE+-. ntf\n");
            let lexed = lexes(&json);
            if let Ok(body) = to_protobuf(signal, &json, &JsonLimits::default()) {
                assert!(lexed, "{}", String::from_utf8_lossy(&json));
                let mut out = Vec::new();
                to_json(signal, &body, &mut out).expect("what was just made");
                assert!(body.len() <= 4 * json.len());
                poke_protobuf(signal, &body);
            }
        }
    }
}

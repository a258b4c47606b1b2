//! What an OTLP backend took of what was sent.
//!
//! A 200 may say in its body that some items were not taken and never will be: `Export*ServiceResponse.partial_success`, in
//! the encoding of the request.

use serde::Deserialize;
use weir_wire::{Reader, Value};

use crate::{Encoding, HttpError, Outcome, PartialSuccess, Response, delivery};

/// Bytes of a backend's message that are passed on.
const MESSAGE_BYTES_MAX: usize = 512;

/// What an answer means: as [`delivery::outcome`], and items that were refused within a 2xx are counted. `encoding` is the
/// request's.
#[must_use]
pub fn outcome(answer: Result<Response, HttpError>, encoding: Encoding) -> Outcome {
    if let Ok(response) = &answer
        && (200..300).contains(&response.status)
    {
        return match refused(&response.body, encoding) {
            Some(PartialSuccess { rejected: 0, .. }) | None => Outcome::Accepted,
            Some(partial) => Outcome::Partial(partial),
        };
    }
    delivery::outcome(answer)
}

/// The partial success, where the body has one. A body that is none of ours says nothing: the status has said enough.
fn refused(body: &[u8], encoding: Encoding) -> Option<PartialSuccess> {
    let (rejected, message) = match encoding {
        Encoding::Protobuf => of_protobuf(body)?,
        Encoding::Json => of_json(body)?,
    };
    let message = message.chars().map(|char| if char.is_control() { ' ' } else { char });
    let mut message: String = message.collect();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    Some(PartialSuccess { rejected: u32::try_from(rejected.max(0)).unwrap_or(u32::MAX), message })
}

fn of_protobuf(body: &[u8]) -> Option<(i64, String)> {
    let (mut rejected, mut message) = (0, String::new());
    let mut fields = Reader::new(body);
    let mut seen = false;
    while let Some(field) = fields.next().ok()? {
        let (1, Value::Bytes(partial)) = (field.number, field.value) else { continue };
        seen = true;
        let mut fields = Reader::new(partial);
        while let Some(field) = fields.next().ok()? {
            match (field.number, field.value) {
                (1, Value::Varint(count)) => rejected = count.cast_signed(),
                (2, Value::Bytes(text)) => message = String::from_utf8_lossy(text).into_owned(),
                _ => {} // unknown
            }
        }
    }
    seen.then_some((rejected, message))
}

fn of_json(body: &[u8]) -> Option<(i64, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        partial_success: Option<Partial>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Partial {
        #[serde(alias = "rejectedDataPoints", alias = "rejectedLogRecords")]
        rejected_spans: Count,
        error_message: Option<String>,
    }
    /// A 64-bit number: text, or a number.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(i64),
        Text(String),
    }
    impl Default for Count {
        fn default() -> Self {
            Self::Number(0)
        }
    }
    let partial = serde_json::from_slice::<Answer>(body).ok()?.partial_success?;
    let rejected = match partial.rejected_spans {
        Count::Number(count) => count,
        Count::Text(text) => text.parse().ok()?,
    };
    Some((rejected, partial.error_message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn of(body: &[u8], encoding: Encoding) -> Outcome {
        outcome(Ok(Response { status: 200, headers: Vec::new(), body: body.to_vec() }), encoding)
    }

    /// Scenario: answers with everything taken, with items refused, with a warning, and with something else, in both
    /// encodings.
    /// Guarantees: what was refused is counted with the backend's words; all else is accepted.
    #[test]
    fn a_partial_success_is_counted() {
        for (body, encoding) in [
            (&b""[..], Encoding::Protobuf),
            (b"\x0a\x00", Encoding::Protobuf),
            (b"\x0a\x06\x12\x04warn", Encoding::Protobuf),
            (b"<html>", Encoding::Protobuf),
            (b"", Encoding::Json),
            (b"{}", Encoding::Json),
            (br#"{"partialSuccess":{}}"#, Encoding::Json),
            (br#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":"warn"}}"#, Encoding::Json),
            (b"ok", Encoding::Json),
        ] {
            assert_eq!(of(body, encoding), Outcome::Accepted, "{}", String::from_utf8_lossy(body));
        }
        for (body, encoding) in [
            (&b"\x0a\x07\x08\x03\x12\x03why"[..], Encoding::Protobuf),
            (br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}"#, Encoding::Json),
            (br#"{"partialSuccess":{"rejectedDataPoints":3,"errorMessage":"why"}}"#, Encoding::Json),
            (br#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"why"}}"#, Encoding::Json),
        ] {
            let partial = PartialSuccess { rejected: 3, message: "why".into() };
            assert_eq!(of(body, encoding), Outcome::Partial(partial), "{}", String::from_utf8_lossy(body));
        }
    }

    /// Scenario: a second of random answers in both encodings: good ones with bytes changed, cut or doubled; and, once, an answer
    /// that claims a length of 2^63, one that is nested a hundred thousand deep, one with a hundred thousand parts, and one whose
    /// message is a megabyte.
    /// Guarantees: no panic, no error; a message is short.
    #[test]
    fn random_answers_do_no_harm() {
        let claims = [&b"\x0a"[..], &[0xff; 8], b"\x7f\x12\x03why"].concat();
        assert_eq!(of(&claims, Encoding::Protobuf), Outcome::Accepted);
        let deep = format!("{{\"partialSuccess\":{}", "[".repeat(100_000));
        assert_eq!(of(deep.as_bytes(), Encoding::Json), Outcome::Accepted);
        let many = b"\x0a\x02\x08\x03".repeat(100_000);
        assert!(matches!(of(&many, Encoding::Protobuf), Outcome::Partial(partial) if partial.rejected == 3));
        let long =
            format!(r#"{{"partialSuccess":{{"rejectedSpans":1,"errorMessage":"{}"}}}}"#, "ä".repeat(1 << 19));
        let Outcome::Partial(partial) = of(long.as_bytes(), Encoding::Json) else { panic!("not partial") };
        assert!(partial.message.len() <= MESSAGE_BYTES_MAX);

        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let good = [
            (&b"\x0a\x07\x08\x03\x12\x03why"[..], Encoding::Protobuf),
            (br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}"#, Encoding::Json),
        ];
        let (mut partial, mut accepted) = (0, 0);
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let (body, encoding) = good[random.usize(..2)];
            let mut body = body.to_vec();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..body.len());
                match random.u8(..4) {
                    0 => body.truncate(at.max(1)),
                    1 => body.insert(at, random.u8(..)),
                    2 => body.extend_from_within(at..),
                    _ => body[at] = random.u8(..),
                }
            }
            match of(&body, encoding) {
                Outcome::Accepted => accepted += 1,
                Outcome::Partial(PartialSuccess { rejected, message }) => {
                    assert!(rejected > 0 && message.len() <= MESSAGE_BYTES_MAX, "seed {seed}");
                    partial += 1;
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(partial > 100 && accepted > 100);
    }
}

//! What a backend took of what was sent.
//!
//! A 200 may say in its body that some items were not taken and never will be: `Export*ServiceResponse.partial_success`, in
//! the encoding of the request.

use serde::Deserialize;
use weir_guest::wire::{Reader, reader};
use weir_guest::{HttpError, Outcome, PartialSuccess, Response, delivery};

use crate::Spelling;

/// Bytes of a backend's message that are passed on.
const MESSAGE_BYTES_MAX: usize = 512;

/// What an answer means.
pub(crate) fn outcome(answer: Result<Response, HttpError>, spelling: Spelling) -> Outcome {
    if let Ok(response) = &answer
        && (200..300).contains(&response.status)
    {
        return match refused(&response.body, spelling) {
            Some(PartialSuccess { rejected: 0, .. }) | None => Outcome::Accepted,
            Some(partial) => Outcome::Partial(partial),
        };
    }
    delivery::outcome(answer)
}

/// The partial success, where the body has one. A body that is none of ours says nothing: the status has said enough.
fn refused(body: &[u8], spelling: Spelling) -> Option<PartialSuccess> {
    let (rejected, message) = match spelling {
        Spelling::Proto => of_protobuf(body)?,
        Spelling::Json => of_json(body)?,
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
        let (1, reader::Value::Bytes(partial)) = (field.number, field.value) else { continue };
        seen = true;
        let mut fields = Reader::new(partial);
        while let Some(field) = fields.next().ok()? {
            match (field.number, field.value) {
                (1, reader::Value::Varint(count)) => rejected = count.cast_signed(),
                (2, reader::Value::Bytes(text)) => message = String::from_utf8_lossy(text).into_owned(),
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
    use super::*;

    fn of(body: &[u8], spelling: Spelling) -> Outcome {
        outcome(Ok(Response { status: 200, headers: Vec::new(), body: body.to_vec() }), spelling)
    }

    /// Scenario: answers with everything taken, with items refused, with a warning, and with something else, in both
    /// encodings.
    /// Guarantees: what was refused is counted with the backend's words; all else is accepted.
    #[test]
    fn a_partial_success_is_counted() {
        for (body, spelling) in [
            (&b""[..], Spelling::Proto),
            (b"\x0a\x00", Spelling::Proto),
            (b"\x0a\x06\x12\x04warn", Spelling::Proto),
            (b"<html>", Spelling::Proto),
            (b"", Spelling::Json),
            (b"{}", Spelling::Json),
            (br#"{"partialSuccess":{}}"#, Spelling::Json),
            (br#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":"warn"}}"#, Spelling::Json),
            (b"ok", Spelling::Json),
        ] {
            assert_eq!(of(body, spelling), Outcome::Accepted, "{}", String::from_utf8_lossy(body));
        }
        for (body, spelling) in [
            (&b"\x0a\x07\x08\x03\x12\x03why"[..], Spelling::Proto),
            (br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}"#, Spelling::Json),
            (br#"{"partialSuccess":{"rejectedDataPoints":3,"errorMessage":"why"}}"#, Spelling::Json),
            (br#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"why"}}"#, Spelling::Json),
        ] {
            let partial = PartialSuccess { rejected: 3, message: "why".into() };
            assert_eq!(of(body, spelling), Outcome::Partial(partial), "{}", String::from_utf8_lossy(body));
        }
    }
}

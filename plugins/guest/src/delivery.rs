//! From an HTTP answer to an outcome.
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | accepted |
//! | 408, 429, 5xx; reset, timeout | retryable, with the backend's own wish in `Retry-After` |
//! | 413 | too large: the host halves the batch |
//! | 401, 403; not granted | stopped: nothing will be taken until an operator acts |
//! | other 4xx, 3xx | permanent: the same bytes would fail in the same way |
//!
//! A backend that means something else by a status looks at it before it calls [`outcome`].

use crate::{HttpError, Outcome, Response, Retry, host, http_date};

/// Bytes of an error answer that go into the message; backends explain themselves in the first line.
const EXPLANATION_BYTES_MAX: usize = 256;

/// What an answer means for the batch that was sent.
#[must_use]
pub fn outcome(answer: Result<Response, HttpError>) -> Outcome {
    outcome_explained(answer, EXPLANATION_BYTES_MAX)
}

/// As [`outcome`], with up to `bytes_max` bytes of an error answer in the message.
#[must_use]
pub fn outcome_explained(answer: Result<Response, HttpError>, bytes_max: usize) -> Outcome {
    match answer {
        Ok(response) if (200..300).contains(&response.status) => Outcome::Accepted,
        Ok(response) => refused(&response, host::now() / 1_000_000_000, bytes_max),
        Err(error) => unanswered(error),
    }
}

/// The value of a header, whatever the case of its name.
#[must_use]
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn refused(response: &Response, now_seconds: u64, bytes_max: usize) -> Outcome {
    let message = explanation(response, bytes_max);
    match response.status {
        401 | 403 => Outcome::Stopped(message),
        413 => Outcome::TooLarge,
        408 | 429 | 500.. => Outcome::Retryable(Retry {
            message,
            after_ms: header(&response.headers, "retry-after").and_then(|value| wait_ms(value, now_seconds)),
        }),
        _ => Outcome::Permanent(message),
    }
}

fn unanswered(error: HttpError) -> Outcome {
    let message = match error {
        HttpError::Denied(reason) => return Outcome::Stopped(format!("not granted: {reason}")),
        HttpError::Transport(reason) => format!("no answer: {reason}"),
        HttpError::Timeout => "no answer in time".into(),
        // Whether the backend took the batch is unknown, so it is sent again.
        HttpError::ResponseTooLarge => "the answer is too large".into(),
        HttpError::Other(reason) => reason,
    };
    Outcome::Retryable(Retry { message, after_ms: None })
}

/// `Retry-After` in milliseconds: seconds, or the time until a date. A date that has passed is no wait at
/// all.
fn wait_ms(value: &str, now_seconds: u64) -> Option<u32> {
    let value = value.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => http_date::parse(value)?.saturating_sub(now_seconds),
    };
    Some(u32::try_from(seconds.saturating_mul(1_000)).unwrap_or(u32::MAX))
}

/// The status and the beginning of the body on one line.
fn explanation(response: &Response, bytes_max: usize) -> String {
    let body = &response.body[..response.body.len().min(bytes_max)];
    let text = String::from_utf8_lossy(body);
    let text: String =
        text.trim().chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if text.is_empty() {
        format!("the backend answers {}", response.status)
    } else {
        format!("the backend answers {}: {text}", response.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, headers: &[(&str, &str)], body: &str) -> Outcome {
        let headers = headers.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        refused(&Response { status, headers, body: body.into() }, 784_111_700, EXPLANATION_BYTES_MAX)
    }

    fn after_ms(outcome: Outcome) -> Option<u32> {
        match outcome {
            Outcome::Retryable(retry) => retry.after_ms,
            other => panic!("{other:?} is not retryable"),
        }
    }

    /// Scenario: statuses of the 2xx, with and without a body.
    /// Guarantees: accepted.
    #[test]
    fn every_2xx_is_accepted() {
        for status in [200, 202, 204, 299] {
            let response = Response { status, headers: Vec::new(), body: b"x".to_vec() };
            assert_eq!(outcome(Ok(response)), Outcome::Accepted);
        }
    }

    /// Scenario: one answer of each class.
    /// Guarantees: the outcome is the one that the table in the module's head names, with the backend's words
    /// in it.
    #[test]
    fn each_status_has_its_outcome() {
        assert_eq!(of(413, &[], ""), Outcome::TooLarge);
        assert_eq!(of(401, &[], "who?"), Outcome::Stopped("the backend answers 401: who?".into()));
        assert_eq!(of(403, &[], ""), Outcome::Stopped("the backend answers 403".into()));
        assert_eq!(
            of(400, &[], "bad\r\nspan\n"),
            Outcome::Permanent("the backend answers 400: bad  span".into())
        );
        assert_eq!(of(404, &[], ""), Outcome::Permanent("the backend answers 404".into()));
        assert_eq!(of(301, &[], ""), Outcome::Permanent("the backend answers 301".into()));
        for status in [408, 429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(after_ms(of(status, &[], "")), None, "{status}");
        }
    }

    /// Scenario: the backend says when to come back: in seconds, at a date, at a date that has passed, in
    /// nonsense, for ever.
    /// Guarantees: milliseconds from now, or nothing.
    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after_ms(of(503, &[("Retry-After", "7")], "")), Some(7_000));
        assert_eq!(after_ms(of(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], "")), Some(77_000));
        assert_eq!(after_ms(of(503, &[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], "")), Some(0));
        assert_eq!(after_ms(of(503, &[("retry-after", "soon")], "")), None);
        assert_eq!(after_ms(of(503, &[("retry-after", "18446744073709551615")], "")), Some(u32::MAX));
    }

    /// Scenario: no answer at all.
    /// Guarantees: only what an operator forbade stops the exporter.
    #[test]
    fn without_an_answer_it_is_worth_another_try_unless_denied() {
        assert_eq!(
            outcome(Err(HttpError::Denied("host x".into()))),
            Outcome::Stopped("not granted: host x".into())
        );
        for error in [
            HttpError::Transport("reset".into()),
            HttpError::Timeout,
            HttpError::ResponseTooLarge,
            HttpError::Other("?".into()),
        ] {
            assert!(matches!(outcome(Err(error)), Outcome::Retryable(_)));
        }
    }

    /// Scenario: an error page longer than the message may be, cut inside a character.
    /// Guarantees: the message is short and the cut does no harm.
    #[test]
    fn a_long_explanation_is_cut() {
        let Outcome::Permanent(message) = of(400, &[], &"ä".repeat(1_000)) else { panic!("not permanent") };
        assert!(message.len() < 2 * EXPLANATION_BYTES_MAX);
    }
}

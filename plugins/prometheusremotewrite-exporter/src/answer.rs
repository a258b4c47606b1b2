//! What an answer means.
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | accepted |
//! | 2xx to 2.0 that does not say how much was written | stopped: the receiver has not understood (2.0, "Required Written Response Headers") |
//! | 415 | stopped: the other version is needed |
//! | 429, 5xx, 408; no answer | retryable, with `Retry-After` |
//! | 413 | too large |
//! | 401, 403 | stopped |
//! | 400 and the rest | permanent; what was good in the request has been taken |

use weir_guest::{HttpError, Outcome, Response, delivery};
use weir_remote_write::Version;

/// Bytes of an answer that a person is shown: what Prometheus logs.
const EXPLANATION_BYTES_MAX: usize = 1024;

/// One of these stands in each answer to 2.0.
const WRITTEN: [&str; 3] = [
    "x-prometheus-remote-write-samples-written",
    "x-prometheus-remote-write-histograms-written",
    "x-prometheus-remote-write-exemplars-written",
];

pub(crate) fn outcome(answer: Result<Response, HttpError>, version: Version) -> Outcome {
    match &answer {
        Ok(response) if response.status == 415 => {
            Outcome::Stopped(other_version(version, "the backend answers 415"))
        }
        Ok(response) if (200..300).contains(&response.status) && version == Version::V2 => {
            match WRITTEN.iter().any(|name| delivery::header(&response.headers, name).is_some()) {
                true => Outcome::Accepted,
                false => {
                    let what = "the backend does not say what it has written, as one that knows only 1.0";
                    Outcome::Stopped(other_version(version, what))
                }
            }
        }
        Ok(_) | Err(_) => delivery::outcome_explained(answer, EXPLANATION_BYTES_MAX),
    }
}

fn other_version(version: Version, what: &str) -> String {
    let other = match version {
        Version::V1 => Version::V2,
        Version::V2 => Version::V1,
    };
    format!("{what}: set `protobuf_message` to {}, or write to another endpoint", other.message())
}

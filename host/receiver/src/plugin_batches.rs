//! What a plugin made of one request, on its way to the pipelines. It is not trusted: its batches are walked like anybody's.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tracing::{debug, warn};
use weir_model::{Claim, Exhausted, Reason, Receipt, Refusal, Signal};
use weir_net::budget;
use weir_net::grpc::Code;
use weir_wire::split::join;

use crate::intake::{Checked, Intake, Partial, Verdict};
use crate::reply::Failure;

/// Why what a plugin made is not handed on. Nothing of it is.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The budget has no room for it.
    Memory(Exhausted),
    /// There is more in it than one request may hold.
    TooLarge(Refusal),
    /// It is no OTLP: the plugin's fault, not the sender's.
    Garbage { signal: Signal, explained: String },
}

impl Fault {
    /// For counters.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Memory(_) => Reason::MemoryFull,
            Self::TooLarge(refusal) => refusal.reason(),
            Self::Garbage { .. } => Reason::Malformed,
        }
    }

    /// For a sender.
    pub(crate) fn failure(&self, intake: &Intake) -> Failure {
        match self {
            Self::Memory(error) => Failure::for_now(error.to_string(), None),
            Self::TooLarge(refusal) => Failure::of_refusal(refusal),
            Self::Garbage { signal, explained } => Failure {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: Code::Internal,
                message: format!(
                    "the plugin of {} made {signal} that cannot be read: {explained}",
                    intake.settings().id
                ),
                retry_after: None,
            },
        }
    }
}

/// One signal of what a plugin made: walked, and paid for.
pub(crate) struct Part {
    pub(crate) signal: Signal,
    pub(crate) checked: Checked,
    pub(crate) claim: Claim,
}

/// What became of all signals of a request.
pub(crate) enum Taken {
    /// All that was to be kept is kept.
    All(Receipt),
    /// There was nothing in it to be kept, so nothing was promised.
    Nothing,
    /// Not taken.
    Refused(Refusal),
}

/// Bytes of this length, paid for.
pub(crate) fn claim(intake: &Intake, bytes: usize) -> Result<Claim, Fault> {
    budget::claim(&intake.settings().ledger, bytes as u64).map_err(Fault::Memory)
}

/// All batches of each signal as one body, walked.
///
/// # Errors
/// [`Fault`]; nothing was handed on.
pub(crate) fn parts(intake: &Intake, batches: &[(Signal, Bytes)]) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::with_capacity(Signal::ALL.len());
    for signal in Signal::ALL {
        if let Some((body, claim)) = joined(intake, signal, batches)? {
            parts.push(Part { signal, checked: check(intake, signal, body)?, claim });
        }
    }
    Ok(parts)
}

/// Hands on what a plugin found, all signals of it, for a sender that is told what became of it and sends again what is
/// refused.
///
/// # Errors
/// [`Fault`]; nothing was handed on.
pub(crate) async fn take(
    intake: &Intake,
    batches: Vec<(Signal, Bytes)>,
    rejected: u32,
) -> Result<Taken, Fault> {
    let left_out = rejected.min(weir_net::limits::ITEMS_MAX);
    let first_signal = batches.first().map_or(Signal::Traces, |(signal, _)| *signal);
    let parts = parts(intake, &batches)?;
    drop(batches);
    let mut proof: Option<Receipt> = None;
    for Part { signal, checked, claim } in parts {
        match intake.hand_on(signal, checked, Arc::new(claim), None).await {
            Verdict::Taken { proof: next, .. } => {
                proof = Some(match proof {
                    Some(proof) => proof.and(next),
                    None => next,
                });
            }
            Verdict::Nothing { .. } => (),
            Verdict::Refused(refusal) => return Ok(Taken::Refused(refusal)),
        }
    }
    intake.settings().counts.dropped.of(first_signal, Reason::InvalidItem).add(u64::from(left_out));
    Ok(proof.map_or(Taken::Nothing, Taken::All))
}

/// All batches of one signal as one body, paid for.
fn joined(
    intake: &Intake,
    signal: Signal,
    batches: &[(Signal, Bytes)],
) -> Result<Option<(Bytes, Claim)>, Fault> {
    let parts: Vec<&Bytes> = batches.iter().filter(|(of, _)| *of == signal).map(|(_, body)| body).collect();
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let claim = claim(intake, length)?;
    Ok(match parts.as_slice() {
        [] => None,
        [only] => Some(((*only).clone(), claim)),
        several => {
            let slices: Vec<&[u8]> = several.iter().map(|part| part.as_ref()).collect();
            Some((Bytes::from(join(&slices)), claim))
        }
    })
}

/// Walks what the plugin made.
fn check(intake: &Intake, signal: Signal, body: Bytes) -> Result<Checked, Fault> {
    let id = &intake.settings().id;
    match intake.check(signal, body) {
        Ok(checked) => {
            let Partial { rejected, message } = &checked.partial;
            if *rejected > 0 {
                debug!(receiver = %id, %signal, message, "plugin made invalid items");
            }
            Ok(checked)
        }
        Err(refusal) if refusal.reason() == Reason::TooLarge => Err(Fault::TooLarge(refusal)),
        Err(refusal) => {
            let explained = refusal.explain();
            warn!(receiver = %id, %signal, error = explained, "plugin made bytes that are no OTLP");
            Err(Fault::Garbage { signal, explained })
        }
    }
}

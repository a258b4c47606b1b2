//! Messages of an agent, read under bounds: what is to be repeated is counted before anything is allocated for it.
//!
//! A message of two bytes for each entry would become some fifty times its size otherwise, and only the message is paid for.

use bytes::Bytes;
use prost::Message as _;
use weir_proto::weir::link::v1::AgentMessage;
use weir_proto::weir::link::v1::agent_message::Message;
use weir_wire::{Malformed, Reader, Value};

use super::Violation;
use crate::limits::{
    BUNDLE_RECORDS_MAX, COUNTERS_MAX, ENCODINGS_MAX, HEAD_BYTES_MAX, INVENTORY_KEYS_MAX, LOGS_MAX,
    MESSAGE_BYTES_MAX, PART_BYTES_MAX, STARTS_MAX,
};

/// Numbers of `AgentMessage`.
const HELLO: u32 = 1;
const DATA: u32 = 2;
const STATE: u32 = 3;
const HEARTBEAT: u32 = 4;

/// Reads a message. The body of a data part is a slice of `bytes`.
///
/// # Errors
/// [`Violation`]: it is none of this protocol, or over a bound.
pub(super) fn decode(bytes: Bytes) -> Result<Message, Violation> {
    measure(&bytes)?;
    let message = AgentMessage::decode(bytes)
        .map_err(|error| Violation(format!("a message cannot be read: {error}")))?;
    message.message.ok_or_else(|| Violation("a message of a kind that version 1 does not have".to_owned()))
}

impl From<Malformed> for Violation {
    fn from(error: Malformed) -> Self {
        Self(format!("a message cannot be read: {error}"))
    }
}

/// Whether what a message repeats is within its bounds.
fn measure(message: &[u8]) -> Result<(), Violation> {
    let mut reader = Reader::new(message);
    let Some(field) = reader.next()? else { return Err(Violation("an empty message".to_owned())) };
    let Value::Bytes(inner) = field.value else {
        return Err(Violation("a message that has no body".to_owned()));
    };
    if reader.next()?.is_some() {
        return Err(Violation("two messages in one".to_owned()));
    }
    if field.number != DATA && message.len() > MESSAGE_BYTES_MAX {
        let length = message.len();
        return Err(Violation(format!("a message of {length} bytes; expected at most {MESSAGE_BYTES_MAX}")));
    }
    match field.number {
        HELLO => hello(inner),
        DATA => part(inner),
        STATE => state(inner),
        HEARTBEAT => repeated(inner, &[(4, COUNTERS_MAX, "counters")]),
        _ => Ok(()),
    }
}

/// Whether each of these fields is there at most so many times.
fn repeated(message: &[u8], bounds: &[(u32, usize, &str)]) -> Result<(), Violation> {
    let mut counts = vec![0; bounds.len()];
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        let Some(at) = bounds.iter().position(|(number, _, _)| *number == field.number) else { continue };
        counts[at] += 1;
        let (_, most, what) = bounds[at];
        if counts[at] > most {
            return Err(Violation(format!("more than {most} {what} in one message")));
        }
    }
    Ok(())
}

/// Whether a Hello, and each of its logs, repeats no more than it may.
fn hello(message: &[u8]) -> Result<(), Violation> {
    const LOGS: u32 = 7;
    /// `firsts` of a log.
    const FIRSTS: u32 = 6;
    let most = [(LOGS, LOGS_MAX, "logs"), (11, ENCODINGS_MAX, "encodings"), (12, STARTS_MAX, "boots")];
    repeated(message, &most)?;
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        let Value::Bytes(log) = field.value else { continue };
        if field.number == LOGS {
            numbers(log, FIRSTS, [STARTS_MAX], "starts of a log")?;
        }
    }
    Ok(())
}

fn part(message: &[u8]) -> Result<(), Violation> {
    const ONCE: &[(u32, usize, &str)] = &[(1, 1, "head"), (2, 1, "body")];
    repeated(message, ONCE)?;
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        let Value::Bytes(value) = field.value else { continue };
        let (most, what) =
            if field.number == 1 { (HEAD_BYTES_MAX, "head") } else { (PART_BYTES_MAX, "part") };
        if value.len() > most {
            let length = value.len();
            return Err(Violation(format!("a bundle's {what} of {length} bytes; expected at most {most}")));
        }
        if field.number == 1 {
            // `seqs`, `items`, `lengths`.
            numbers(value, 5, [BUNDLE_RECORDS_MAX; 3], "records in a bundle")?;
        }
    }
    Ok(())
}

/// Whether the lists of numbers from field `first` on have no more than `most` each.
fn numbers<const N: usize>(
    message: &[u8],
    first: u32,
    most: [usize; N],
    what: &str,
) -> Result<(), Violation> {
    let mut counts = [0_usize; N];
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next()? {
        let Some(at) = field.number.checked_sub(first).map(|at| at as usize).filter(|at| *at < N) else {
            continue;
        };
        counts[at] += match field.value {
            // A varint ends with the byte that has no high bit.
            Value::Bytes(packed) => packed.iter().filter(|byte| **byte < 0x80).count(),
            _ => 1,
        };
        if counts[at] > most[at] {
            return Err(Violation(format!("more than {} {what}", most[at])));
        }
    }
    Ok(())
}

fn state(message: &[u8]) -> Result<(), Violation> {
    const INVENTORY: u32 = 2;
    let mut reader = Reader::new(message);
    let Some(field) = reader.next()? else { return Ok(()) };
    if reader.next()?.is_some() {
        return Err(Violation("two states in one message".to_owned()));
    }
    match field.value {
        Value::Bytes(value) if field.number == INVENTORY => {
            repeated(value, &[(2, INVENTORY_KEYS_MAX, "keys of an inventory")])
        }
        _ => Ok(()),
    }
}

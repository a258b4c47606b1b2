//! The way from a request down to its items, the same for reading, cutting and halving.
//!
//! ```text
//! traces, logs   request ─1▶ resource group ─2▶ scope group ─2▶ item
//! metrics        request ─1▶ resource group ─2▶ scope group ─2▶ metric ─5|7|9|10|11▶ data ─1▶ item
//! ```
//!
//! A resource group is a `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`, a scope group a `ScopeSpans`
//! and so on; the field numbers are the same in all three signals (`opentelemetry-proto` 1.11).

use core::ops::Range;

use crate::encode::Encoder;
use crate::reader::{Malformed, Reader, Value};
use crate::signal::Signal;

/// Field of a resource group, and of a scope group, that holds who speaks: `Resource`,
/// `InstrumentationScope`.
pub(crate) const OWNER: u32 = 1;
/// Field of a resource group that holds scope groups, and of a scope group that holds spans, metrics or log
/// records.
pub(crate) const MEMBERS: u32 = 2;

/// A message on the way from the request to its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Request,
    ResourceGroup,
    ScopeGroup,
    Metric,
    Data,
}

/// What a field on the way leads to.
pub(crate) enum Step {
    /// One level further down.
    Down(Level),
    /// An item.
    Item,
    /// Off the way: it belongs to the message itself.
    Aside,
}

impl Level {
    pub(crate) const fn step(self, signal: Signal, number: u32) -> Step {
        match (self, number) {
            (Self::Request, 1) => Step::Down(Self::ResourceGroup),
            (Self::ResourceGroup, MEMBERS) => Step::Down(Self::ScopeGroup),
            (Self::ScopeGroup, MEMBERS) => match signal {
                Signal::Traces | Signal::Logs => Step::Item,
                Signal::Metrics => Step::Down(Self::Metric),
            },
            (Self::Metric, 5 | 7 | 9 | 10 | 11) => Step::Down(Self::Data),
            (Self::Data, 1) => Step::Item,
            (Self::Request | Self::ResourceGroup | Self::ScopeGroup | Self::Metric | Self::Data, _) => {
                Step::Aside
            }
        }
    }
}

/// Calls `visit` with the place of every item's record (key, length, message) in `body`, in order.
pub(crate) fn each_item(
    signal: Signal,
    body: &[u8],
    visit: &mut impl FnMut(Range<usize>),
) -> Result<(), Malformed> {
    descend(signal, Level::Request, body, 0, visit)
}

/// The recursion is as deep as [`Level`] has variants.
fn descend(
    signal: Signal,
    level: Level,
    message: &[u8],
    base: usize,
    visit: &mut impl FnMut(Range<usize>),
) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next().map_err(|error| error.shifted(base))? {
        let Value::Bytes(bytes) = field.value else {
            continue;
        };
        match level.step(signal, field.number) {
            Step::Down(next) => descend(signal, next, bytes, base + field.end - bytes.len(), visit)?,
            Step::Item => visit(base + field.start..base + field.end),
            Step::Aside => {}
        }
    }
    Ok(())
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays, byte for byte.
    Keep,
    /// It goes.
    Drop,
    /// Some of what is in it stays.
    Part,
}

/// Copies `body` without what `verdict` drops. Groups of which nothing is left go too; whatever stands aside
/// in a group of which something is left stays, and the lengths around are made to fit.
pub(crate) fn select(
    signal: Signal,
    body: &[u8],
    verdict: &impl Fn(&Range<usize>) -> Verdict,
) -> Result<Vec<u8>, Malformed> {
    // The result is never longer than the body: lengths only shrink.
    let mut out = Encoder::with_capacity(body.len());
    select_level(signal, Level::Request, body, 0, verdict, &mut out)?;
    Ok(out.into_bytes())
}

/// Says whether anything further down was kept.
fn select_level(
    signal: Signal,
    level: Level,
    message: &[u8],
    base: usize,
    verdict: &impl Fn(&Range<usize>) -> Verdict,
    out: &mut Encoder,
) -> Result<bool, Malformed> {
    let mut kept = false;
    let mut reader = Reader::new(message);
    while let Some(field) = reader.next().map_err(|error| error.shifted(base))? {
        let record = &message[field.start..field.end];
        let step = level.step(signal, field.number);
        let (Value::Bytes(bytes), Step::Down(_) | Step::Item) = (field.value, &step) else {
            out.raw(record);
            continue;
        };
        match (verdict(&(base + field.start..base + field.end)), step) {
            (Verdict::Drop, _) => {}
            (Verdict::Part, Step::Down(next)) => {
                let start = out.len();
                let open = out.open_for(field.number, bytes.len());
                if select_level(signal, next, bytes, base + field.end - bytes.len(), verdict, out)? {
                    out.close_exact(open);
                    kept = true;
                } else {
                    out.truncate(start);
                }
            }
            // A part of an item is no item: it stays whole.
            (Verdict::Keep, _) | (Verdict::Part, Step::Item | Step::Aside) => {
                out.raw(record);
                kept = true;
            }
        }
    }
    Ok(kept)
}

//! From a request's bytes to an arrival in its pipeline: count, check, cut, hand on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_model::{Arrival, Claim, NodeId, Reason, Receipt, Refusal, Signal};
use weir_net::limits::{ATTRIBUTES_MAX, ITEMS_MAX};
use weir_wire::{Walk, WalkLimits, cut, walk};

use crate::door::Settings;

/// What one request may hold, as a user writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CountLimits {
    /// Spans, data points or log records; a request with more is refused whole.
    pub items_max: u32,
    /// Attributes of one item; an item with more is left out and reported.
    pub attributes_max: u32,
}

impl Default for CountLimits {
    fn default() -> Self {
        Self { items_max: ITEMS_MAX, attributes_max: ATTRIBUTES_MAX }
    }
}

impl CountLimits {
    fn of_walk(self) -> WalkLimits {
        WalkLimits {
            items_max: self.items_max as usize,
            attributes_max: self.attributes_max as usize,
            resources_max: self.items_max as usize,
        }
    }
}

/// Items that were left out of a request that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partial {
    /// How many.
    pub rejected: u32,
    /// Why, for a person.
    pub message: String,
}

impl Partial {
    /// Whether the request was taken whole.
    pub fn is_none(&self) -> bool {
        self.rejected == 0 && self.message.is_empty()
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Taken: the sender is owed success.
    Taken {
        /// What success is made of.
        proof: Receipt,
        /// What was left out.
        partial: Partial,
    },
    /// There was nothing in it to be kept, so nothing was promised.
    Nothing {
        /// What was left out.
        partial: Partial,
    },
    /// Not taken.
    Refused(Refusal),
}

/// Bytes that have been walked.
#[derive(Clone)]
pub(crate) struct Checked {
    /// Without the invalid items.
    pub(crate) body: Bytes,
    /// Items in `body`.
    pub(crate) items: u32,
    /// What was left out.
    pub(crate) partial: Partial,
}

/// The way from a door to its pipelines.
pub(crate) struct Intake {
    settings: Settings,
    limits: WalkLimits,
}

impl Intake {
    pub(crate) fn new(settings: Settings, limits: CountLimits) -> Self {
        Self { settings, limits: limits.of_walk() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether any pipeline takes this signal.
    ///
    /// # Errors
    /// A permanent refusal that says what to do.
    pub(crate) fn admits(&self, signal: Signal) -> Result<(), Refusal> {
        match self.settings.pipelines.of(signal) {
            Some(_) => Ok(()),
            None => Err(self.nobody(signal)),
        }
    }

    fn nobody(&self, signal: Signal) -> Refusal {
        let id = &self.settings.id;
        Refusal::permanent(
            Reason::NoPipeline,
            format!("no pipeline takes {signal} from {id}; add {id} to the receivers of a {signal} pipeline"),
        )
    }

    /// Takes one request: checks it, hands it on, counts what became of it.
    pub(crate) async fn take(&self, signal: Signal, body: Bytes, claim: Claim) -> Verdict {
        match self.check(signal, body) {
            Ok(checked) => self.hand_on(signal, checked, Arc::new(claim), None).await,
            Err(refusal) => {
                self.settings.counts.requests_refused.add(1);
                Verdict::Refused(refusal)
            }
        }
    }

    /// Walks a body and cuts the invalid items out of it.
    ///
    /// # Errors
    /// A permanent refusal of the whole body.
    pub(crate) fn check(&self, signal: Signal, body: Bytes) -> Result<Checked, Refusal> {
        let walked = walk(signal, &body, &self.limits).map_err(|error| {
            let reason = match error {
                weir_wire::WalkError::Malformed(_) => Reason::Malformed,
                weir_wire::WalkError::TooMany { .. } => Reason::TooLarge,
            };
            Refusal::permanent(reason, error)
        })?;
        let items = u32::try_from(walked.valid_items()).expect("the walk stops at a limit that is a u32");
        if walked.invalid.is_empty() {
            return Ok(Checked { body, items, partial: Partial::default() });
        }
        let partial = describe(&walked);
        let valid = match cut(&body, &walked) {
            Ok(Cow::Owned(valid)) => Bytes::from(valid),
            Ok(Cow::Borrowed(_)) => body.clone(),
            Err(error) => return Err(Refusal::permanent(Reason::Malformed, error)),
        };
        Ok(Checked { body: valid, items, partial })
    }

    /// Hands a checked body to its pipeline and counts what became of it.
    pub(crate) async fn hand_on(
        &self,
        signal: Signal,
        checked: Checked,
        claim: Arc<Claim>,
        node: Option<NodeId>,
    ) -> Verdict {
        let all = u64::from(checked.items) + u64::from(checked.partial.rejected);
        let verdict = self.offer(signal, checked, claim, node).await;
        if let Verdict::Refused(refusal) = &verdict {
            // The sender keeps the invalid ones too, and will hear of them when it sends again.
            self.settings.counts.refused.of(signal, refusal.reason()).add(all);
        }
        verdict
    }

    /// The same, but a refusal is not counted: for whoever offers the body again, and counts it when it is lost.
    pub(crate) async fn offer(
        &self,
        signal: Signal,
        checked: Checked,
        claim: Arc<Claim>,
        node: Option<NodeId>,
    ) -> Verdict {
        let Checked { body, items, partial } = checked;
        let counts = &self.settings.counts;
        let rejected = u64::from(partial.rejected);
        // Asked once: pipelines may be exchanged between two questions.
        let Some(consumer) = self.settings.pipelines.of(signal) else {
            return Verdict::Refused(self.nobody(signal));
        };
        if items == 0 {
            counts.dropped.of(signal, Reason::InvalidItem).add(rejected);
            return Verdict::Nothing { partial };
        }
        let receiver = Arc::clone(&self.settings.id);
        let arrival = Arrival { signal, body, items, receiver, node, bundle: None, claim: Some(claim) };
        match consumer.consume(arrival).await {
            Ok(proof) => {
                counts.accepted.of(signal).add(u64::from(items));
                counts.dropped.of(signal, Reason::InvalidItem).add(rejected);
                Verdict::Taken { proof, partial }
            }
            Err(refusal) => Verdict::Refused(refusal),
        }
    }
}

/// What was left out, in words: how many for each reason.
fn describe(walked: &Walk) -> Partial {
    let mut reasons = BTreeMap::new();
    for invalid in &walked.invalid {
        let (count, _) = reasons.entry(invalid.reason.to_string()).or_insert((0_u32, invalid.range.start));
        *count += 1;
    }
    let rejected = u32::try_from(walked.invalid.len()).expect("the walk stops at a limit that is a u32");
    let mut message = format!("{rejected} of {} {}s left out", walked.items, walked.signal.item_name());
    for (index, (reason, (count, at))) in reasons.iter().enumerate() {
        let mark = if index == 0 { ':' } else { ',' };
        write!(message, "{mark} {count} with {reason} (first at byte {at})").expect("a text takes all");
    }
    Partial { rejected, message }
}

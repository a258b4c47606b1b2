//! One stream after its Welcome: what is heard is held against the protocol, and what is to be said goes by lanes.
//!
//! ```text
//! head ─▶ parts ─▶ whole ─▶ under way ─consumed─▶ done ─▶ in an Ack: below `upto`, or in `also` before others are done
//! ```
//!
//! Pure: messages and time go in, messages and what is to be done come out. The bodies of bundles pass through; who keeps
//! them pays for them (`assembly.rs`).
//!
//! Invariant: an Ack names a bundle for which `consumed` was given a `Receipt`, or says that it is rejected.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_model::{LANES, Receipt, Source};
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{
    Ack, BundleHead, Credit, DataPart, Goodbye, Heartbeat, Rejected, StateDown, StateUp,
};

use super::bundle::Head;
use super::hello::Facts;
use super::{Violation, farewell};
use crate::limits::{
    BUNDLE_GRACE, BUNDLE_RATE_BYTES_MIN, DEAD_AFTER_TENTHS, DRAIN_MAX, REASON_BYTES_MAX,
    STATES_UNDER_WAY_MAX, STATES_WAITING_MAX,
};

/// What a stream was promised by its Welcome.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The interval of heartbeats; zero where none are sent or awaited.
    pub heartbeat: Duration,
    /// Bytes of data that may come beyond what was taken.
    pub credit_bytes: u64,
    /// Bytes of the largest body.
    pub bundle_bytes_max: u64,
    /// Whether bodies may be packed.
    pub is_packed: bool,
}

/// What a message asks for.
#[derive(Debug)]
pub enum Heard {
    /// The next part of a bundle.
    Part(Part),
    /// Something about states: for the lane of states.
    State(StateUp),
    /// The agent lives, and says how much waits.
    Heartbeat(Heartbeat),
    /// The agent ends in an orderly way.
    Leaving,
}

/// A part of a bundle that is in its place.
#[derive(Debug)]
pub struct Part {
    /// The bundle, with its first part.
    pub head: Option<Head>,
    /// Its bytes.
    pub body: Bytes,
    /// Whether the body is whole with it.
    pub is_last: bool,
}

/// A stream after its Welcome.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    logs: Vec<LogOut>,
    epoch: u64,
    /// Bundles that were begun.
    begun: u64,
    /// The one whose parts come now.
    coming: Option<Coming>,
    /// Those that are not done, by ordinal: of each lane one.
    out: BTreeMap<u64, Out>,
    /// Those that are done and for the next Ack, which frees their lanes: not before it is on its way, so that an agent that does
    /// not read can have no more done than it has lanes.
    done: BTreeMap<u64, Out>,
    rejected: Vec<Rejected>,
    /// Bytes that may still come.
    credit: u64,
    /// Bytes that are to be granted.
    credit_owed: u64,
    states: VecDeque<StateDown>,
    heard: Instant,
    said: Instant,
    draining: Option<Instant>,
    goodbye: Option<Goodbye>,
    is_over: bool,
}

/// A log of the agent.
#[derive(Debug)]
struct LogOut {
    source: Arc<Source>,
    /// Whether a bundle of the lane is not in an Ack yet.
    is_out: [bool; LANES],
}

#[derive(Debug)]
struct Coming {
    ordinal: u64,
    left: u64,
    since: Instant,
    came: u64,
}

#[derive(Debug)]
struct Out {
    log: usize,
    lane: usize,
    sent_bytes: u64,
}

impl Session {
    /// A stream that is welcomed under `terms`.
    pub fn new(facts: &Facts, terms: Terms, now: Instant) -> Self {
        let log = |source: &Arc<Source>| LogOut { source: Arc::clone(source), is_out: [false; LANES] };
        Self {
            terms,
            logs: facts.logs.iter().map(|said| log(&said.source)).collect(),
            epoch: facts.epoch,
            begun: 0,
            coming: None,
            out: BTreeMap::new(),
            done: BTreeMap::new(),
            rejected: Vec::new(),
            credit: terms.credit_bytes,
            credit_owed: 0,
            states: VecDeque::new(),
            heard: now,
            said: now,
            draining: None,
            goodbye: None,
            is_over: false,
        }
    }

    /// Bytes that a session with so many logs keeps, beside names: each lane has one bundle out or done.
    pub fn bytes(logs: usize) -> u64 {
        (logs * (size_of::<LogOut>() + LANES * size_of::<Out>())) as u64
    }

    // === what comes ===

    /// Takes a message; none where it breaks the protocol (a Goodbye follows) or nothing counts any more.
    pub fn received(&mut self, message: Up, now: Instant) -> Option<Heard> {
        if self.is_ending() {
            return None;
        }
        self.heard = now;
        let heard = match message {
            Up::Hello(_) => Err(Violation("a second hello on one stream".to_owned())),
            Up::Data(part) => self.part(part, now).map(Heard::Part),
            Up::State(state) if state.message.is_none() => {
                Err(Violation("a state that says nothing".to_owned()))
            }
            Up::State(state) => Ok(Heard::State(state)),
            Up::Heartbeat(heartbeat) => Ok(Heard::Heartbeat(heartbeat)),
            Up::Leaving(_) => {
                // Whoever leaves at once leaves within a bundle too: it was never whole, and is sent again on the next stream.
                if let Some(coming) = self.coming.take() {
                    self.out.remove(&coming.ordinal);
                    self.begun = coming.ordinal - 1;
                }
                Ok(Heard::Leaving)
            }
        };
        heard.map_err(|violation| self.misbehaved(&violation)).ok()
    }

    fn part(&mut self, part: DataPart, now: Instant) -> Result<Part, Violation> {
        let DataPart { head, body } = part;
        let head = match (head, &self.coming) {
            (Some(head), None) => Some(self.begin(&head, now)?),
            (Some(head), Some(coming)) => {
                let (ordinal, within, left) = (head.ordinal, coming.ordinal, coming.left);
                return Err(Violation(format!(
                    "bundle {ordinal} begins within bundle {within}, of which {left} bytes are missing"
                )));
            }
            (None, _) => None,
        };
        let Some(coming) = &mut self.coming else {
            return Err(Violation("a part without a head, and no bundle was begun".to_owned()));
        };
        let (ordinal, came) = (coming.ordinal, body.len() as u64);
        if came > coming.left {
            let left = coming.left;
            return Err(Violation(format!(
                "bundle {ordinal}: a part of {came} bytes, and {left} are missing"
            )));
        }
        if came == 0 && coming.left > 0 && head.is_none() {
            return Err(Violation(format!("bundle {ordinal}: a part without bytes")));
        }
        if came > self.credit {
            let credit = self.credit;
            return Err(Violation(format!("bundle {ordinal}: {came} bytes with a credit of {credit}")));
        }
        self.credit -= came;
        coming.left -= came;
        coming.came += came;
        let is_last = coming.left == 0;
        if is_last {
            self.coming = None;
        }
        Ok(Part { head, body, is_last })
    }

    /// Takes the head of the next bundle.
    fn begin(&mut self, head: &BundleHead, now: Instant) -> Result<Head, Violation> {
        let next = self.begun + 1;
        if head.ordinal != next {
            return Err(Violation(format!("bundle {} came; expected {next}", head.ordinal)));
        }
        let head = Head::read(head, self.logs.len(), self.terms.bundle_bytes_max, self.terms.is_packed)?;
        let (log, lane) = (&mut self.logs[head.log], head.lane.index());
        if std::mem::replace(&mut log.is_out[lane], true) {
            let name = &log.source.log;
            return Err(Violation(format!(
                "bundle {next}: another one of the log {name:?}, lane {lane}, is not acknowledged yet"
            )));
        }
        // Places that were acknowledged on this very stream may come again: whoever leases them anew at the agent does not
        // know of it. The log that has them tells.
        self.begun = next;
        self.coming = Some(Coming { ordinal: next, left: head.sent_bytes, since: now, came: 0 });
        self.out.insert(next, Out { log: head.log, lane, sent_bytes: head.sent_bytes });
        Ok(head)
    }

    /// The log with this place in the Hello, and the epoch, for a bundle's key.
    pub fn source(&self, log: usize) -> (Arc<Source>, u64) {
        (Arc::clone(&self.logs[log].source), self.epoch)
    }

    /// The collector itself reads nothing now: what is silent meanwhile is not the agent's fault.
    pub fn paused(&mut self, now: Instant) {
        self.heard = now;
        self.measure_anew(now);
    }

    /// How slowly the bundle comes that comes now is measured from here on.
    fn measure_anew(&mut self, now: Instant) {
        if let Some(coming) = &mut self.coming {
            (coming.since, coming.came) = (now, 0);
        }
    }

    /// Whether there is room for more states of this agent among those with the store and those that wait for it.
    pub fn has_room_for_states(&self) -> bool {
        self.states.len() < STATES_WAITING_MAX + STATES_UNDER_WAY_MAX
    }

    // === what was done ===

    /// A bundle was taken, for which there is a proof, or is rejected for good, for this reason. Anything else is not said
    /// here: what is refused for now is tried again.
    pub fn consumed(&mut self, ordinal: u64, result: Result<Receipt, String>) {
        let Some(out) = self.out.remove(&ordinal) else { return };
        self.credit_owed += out.sent_bytes;
        // The proof is used up here: it is what the Ack will say.
        if let Err(reason) = result.map(|_proof| ()) {
            self.rejected.push(Rejected { ordinal, reason: cut(reason) });
        }
        self.done.insert(ordinal, out);
    }

    /// The next Ack; what it names may come again.
    fn ack(&mut self) -> Ack {
        let done = std::mem::take(&mut self.done);
        for out in done.values() {
            self.logs[out.log].is_out[out.lane] = false;
        }
        let upto = self.out.first_key_value().map_or(self.begun, |(first, _)| first - 1);
        let also = done.into_keys().filter(|ordinal| *ordinal > upto).collect();
        Ack { upto, rejected: std::mem::take(&mut self.rejected), also }
    }

    /// What the store answers.
    pub fn answered(&mut self, states: Vec<StateDown>) {
        self.states.extend(states);
    }

    // === how it ends ===

    /// Ends the stream with this word, unless it ends already.
    pub fn end(&mut self, goodbye: Goodbye) {
        if !self.is_ending() {
            self.goodbye = Some(goodbye);
        }
    }

    /// A message broke the protocol.
    pub fn misbehaved(&mut self, violation: &Violation) {
        self.end(farewell(Reason::Misbehaviour, violation.0.clone()));
    }

    /// The collector ends: a Goodbye follows when everything under way is acknowledged, or after [`DRAIN_MAX`].
    pub fn drain(&mut self, now: Instant) {
        self.draining.get_or_insert(now);
        self.tick(now);
    }

    /// Whether the collector ends.
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether a Goodbye was said, or is to be said next.
    pub fn is_ending(&self) -> bool {
        self.is_over || self.goodbye.is_some()
    }

    /// Whether the Goodbye was said.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Nobody is there any more: nothing is said.
    pub fn abandon(&mut self) {
        self.is_over = true;
    }

    /// Whether bundles that came whole are not acknowledged, or an Ack was not said.
    pub fn owes(&self) -> bool {
        !self.done.is_empty() || self.out.len() > usize::from(self.coming.is_some())
    }

    // === time, and what is said ===

    /// Looks at the clock.
    pub fn tick(&mut self, now: Instant) {
        if self.is_ending() {
            return;
        }
        if self.draining.is_some_and(|since| !self.owes() || now >= since + DRAIN_MAX) {
            self.end(farewell(Reason::Draining, "this collector stops or restarts; come again"));
        } else if self.dead_at().is_some_and(|at| now >= at) {
            let heartbeat = self.terms.heartbeat.as_secs_f64();
            let text = format!("nothing was heard for two and a half intervals of {heartbeat} s");
            self.end(farewell(Reason::Silent, text));
        } else if let Some(coming) = &self.coming
            && self.slow_at().is_some_and(|at| now >= at)
        {
            let Coming { ordinal, left, .. } = coming;
            let text = format!("bundle {ordinal} comes too slowly: {left} bytes are missing");
            self.end(farewell(Reason::Silent, text));
        }
    }

    fn dead_at(&self) -> Option<Instant> {
        let heartbeat = self.terms.heartbeat;
        (!heartbeat.is_zero()).then(|| self.heard + heartbeat * DEAD_AFTER_TENTHS / 10)
    }

    fn speak_at(&self) -> Option<Instant> {
        let heartbeat = self.terms.heartbeat;
        (!heartbeat.is_zero()).then(|| self.said + heartbeat)
    }

    /// When a bundle has come too slowly, unless more of it comes before. One that stands still for want of credit waits for
    /// us.
    fn slow_at(&self) -> Option<Instant> {
        let coming = self.coming.as_ref().filter(|_| self.credit > 0)?;
        let grace = BUNDLE_GRACE.max(Duration::from_secs(coming.came / BUNDLE_RATE_BYTES_MIN));
        Some(coming.since + grace)
    }

    /// When [`Session::tick`] has something to do although nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let draining = self.draining.map(|since| since + DRAIN_MAX);
        [self.dead_at(), draining, self.slow_at()].into_iter().flatten().min()
    }

    /// When [`Session::tick`] or [`Session::next`] has something to do although nothing comes.
    pub fn wake(&self) -> Option<Instant> {
        [self.deadline(), self.speak_at()].into_iter().flatten().min()
    }

    /// The next message, of the highest lane that has one.
    pub fn next(&mut self, now: Instant) -> Option<Down> {
        if self.is_over {
            return None;
        }
        let next = if let Some(goodbye) = self.goodbye.take() {
            self.is_over = true;
            Some(Down::Goodbye(goodbye))
        } else if !self.done.is_empty() {
            Some(Down::Ack(self.ack()))
        } else if self.credit_owed > 0 {
            let bytes = std::mem::take(&mut self.credit_owed);
            if self.credit == 0 {
                self.measure_anew(now);
            }
            self.credit += bytes;
            Some(Down::Credit(Credit { bytes }))
        } else if self.speak_at().is_some_and(|at| now >= at) {
            Some(Down::Heartbeat(Heartbeat::default()))
        } else {
            self.states.pop_front().map(Down::State)
        };
        if next.is_some() {
            self.said = now;
        }
        next
    }
}

/// A reason that an Ack has room for.
fn cut(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
    }
    reason
}

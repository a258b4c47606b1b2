//! What the two sides say to each other, as the session has it: names, verdicts, ends, and what is checked of a Welcome.

use std::time::Duration;

use weir_model::Seq;
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{
    AgentMessage, DataPart, Goodbye, Heartbeat, Hello, Leaving, StateUp, Welcome,
};

use crate::agent::parcel::Encoding;
use crate::limits::{GOODBYE_WAIT_MAX, HELLO_TIMEOUT, KINDS_MAX, LOGS_MAX, SHOWN_BYTES_MAX, VERSION};
use crate::names::{Boot, Incarnation, StoreId, from_wire};

/// Who the agent is, as it says in each Hello.
#[derive(Debug, Clone)]
pub struct Names {
    /// Who it is; empty where the transport says it.
    pub identity: String,
    /// The life of its folder.
    pub incarnation: Incarnation,
    /// The start in it.
    pub epoch: u64,
    /// This process.
    pub boot: Boot,
    /// The last starts in this incarnation, the newest last: that is `boot`.
    pub boots: Vec<Boot>,
    /// The store that acknowledged last.
    pub store: Option<StoreId>,
    /// For people.
    pub host: String,
    /// For people.
    pub program: String,
    /// How data may be compressed, the preferred first.
    pub encodings: Vec<Encoding>,
}

/// Names a parcel; a later one is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParcelId(pub u64);

/// What became of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is persisted.
    Taken,
    /// The collector will never take it as it is.
    Rejected(String),
    /// It was not sent: the collector takes no such large one.
    TooLarge {
        /// Bytes of its body.
        bytes: u64,
        /// What the collector takes.
        bytes_max: u64,
    },
}

/// What follows from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A stream is up.
    Welcomed {
        /// The collector's store.
        store: StoreId,
        /// Names the stream, for people.
        session: u64,
        /// Whether what it acknowledges is on disk.
        durable: bool,
    },
    /// The session keeps this parcel no longer.
    Settled {
        /// Which.
        id: ParcelId,
        /// What became of it.
        verdict: Verdict,
        /// Its log's place in the Hello.
        log: u32,
        /// The place of its last record.
        last: Seq,
        /// Its records were rejected before: they leave no mark.
        again: bool,
    },
}

/// Something to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// The first of a stream.
    Hello(Box<Hello>),
    /// Nothing else was sent for an interval. Its numbers are not the session's to know.
    Heartbeat,
    /// Of the lane of states.
    State(StateUp),
    /// Of a bundle.
    Part(DataPart),
    /// The last of a stream.
    Leaving,
}

/// Why a stream is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The collector did not answer the Hello.
    #[error("no Welcome within {} s: is it a Weir that listens there?", HELLO_TIMEOUT.as_secs())]
    NoWelcome,
    /// Nothing was heard for two and a half intervals.
    #[error("nothing was heard for {} ms, two and a half intervals of heartbeats", .0.as_millis())]
    Silent(Duration),
    /// The collector did what the protocol does not allow.
    #[error("the collector broke the protocol: {0}")]
    Violation(String),
    /// The collector ended it.
    #[error("the collector ended the stream: {0}")]
    Goodbye(Farewell),
}

/// What the collector said at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Why.
    pub reason: Reason,
    /// For people.
    pub text: String,
    /// How long to stay away; at most [`GOODBYE_WAIT_MAX`].
    pub wait: Duration,
    /// The highest incarnation that is known of this agent.
    pub incarnation: Option<Incarnation>,
}

// === impl Farewell ===

impl Farewell {
    pub(crate) fn of(goodbye: Goodbye) -> Self {
        Self {
            reason: goodbye.reason(),
            wait: Duration::from_millis(goodbye.wait_ms.into()).min(GOODBYE_WAIT_MAX),
            incarnation: from_wire(&goodbye.incarnation).map(Incarnation),
            text: cut(goodbye.text),
        }
    }
}

impl std::fmt::Display for Farewell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.reason {
            Reason::Unspecified => "it gave no reason",
            Reason::Draining => "it stops or restarts",
            Reason::Fenced => "a newer process has this identity: stop one of the two",
            Reason::NewIncarnation => "another copy of the agent's folder has been here",
            Reason::Identity => "the identity is not the one of the certificate",
            Reason::Misbehaviour => "it did not understand us",
            Reason::TooMany => "it has as many agents as it takes",
            Reason::Version => "it speaks another version of the protocol: update one of the two",
            Reason::Silent => "it heard nothing for too long",
            Reason::Credential => {
                "the certificate has expired or was revoked: issue a new one with `weir cert issue`"
            }
        };
        f.write_str(why)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// The message, with what a heartbeat says. For all but parts, whose bodies are not copied.
    pub(crate) fn message(self, heartbeat: impl FnOnce() -> Heartbeat) -> AgentMessage {
        let message = match self {
            Outgoing::Hello(hello) => Up::Hello(*hello),
            Outgoing::Heartbeat => Up::Heartbeat(heartbeat()),
            Outgoing::State(state) => Up::State(state),
            Outgoing::Part(part) => Up::Data(part),
            Outgoing::Leaving => Up::Leaving(Leaving {}),
        };
        AgentMessage { message: Some(message) }
    }
}

// === what is checked ===

pub(crate) fn check(welcome: &Welcome, offered: &[Encoding]) -> Result<(StoreId, Encoding), Ended> {
    if welcome.version != VERSION {
        let text = format!("it chose version {} of the protocol, and was offered {VERSION}", welcome.version);
        return Err(violation(&text));
    }
    let Some(store) = from_wire(&welcome.store) else {
        return Err(violation(&format!("a store of {} bytes, not 16", welcome.store.len())));
    };
    let encoding = Encoding::of(&welcome.encoding);
    let Some(encoding) = encoding.filter(|one| *one == Encoding::None || offered.contains(one)) else {
        let text =
            format!("it chose the encoding `{}`, which was not offered", cut(welcome.encoding.clone()));
        return Err(violation(&text));
    };
    if let Some(mark) = welcome.marks.iter().find(|mark| from_wire(&mark.incarnation).is_none()) {
        return Err(violation(&format!(
            "a mark of an incarnation of {} bytes, not 16",
            mark.incarnation.len()
        )));
    }
    if welcome.marks.len() > LOGS_MAX {
        return Err(violation(&format!("{} marks: {LOGS_MAX} may be", welcome.marks.len())));
    }
    if welcome.states.len() > KINDS_MAX {
        return Err(violation(&format!("{} kinds of states: {KINDS_MAX} may be", welcome.states.len())));
    }
    Ok((StoreId(store), encoding))
}

pub(crate) fn violation(text: &str) -> Ended {
    Ended::Violation(text.to_owned())
}

/// A peer's text, as long as is kept.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    text
}

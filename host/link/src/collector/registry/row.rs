//! What is known of one agent: a durable part, and what is only shown.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use weir_model::{Reason as Cause, Source};
use weir_proto::weir::link::v1::Goodbye;
use weir_proto::weir::link::v1::goodbye::Reason;

use super::{End, Note, RejectedBundle};
use crate::collector::fleet::{FleetRow, FleetState, Waiting};
use crate::collector::hello::{Facts, shown};
use crate::collector::seconds;
use crate::limits::{INCARNATIONS_MAX, REJECTED_LOGS_MAX};
use crate::names::{Boot, Incarnation};

/// One agent.
#[derive(Debug, Default)]
pub(super) struct Row {
    durable: Durable,
    /// The one stream that speaks for it.
    pub(super) live: Option<Live>,
    /// How the last one ended; none where nothing was heard since the start.
    end: Option<End>,
    /// When it was heard last.
    pub(super) heard: Option<Instant>,
    /// Since when it has no live stream; none while it has one.
    pub(super) gone: Option<Instant>,
    /// What its last heartbeat said.
    pub(super) waiting: Waiting,
    /// Bundles, records and bytes for which there were receipts, since the start.
    pub(super) bundles: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Of the records, those that had come before.
    pub(super) duplicates: u64,
    rejected: HashMap<Cause, u64>,
    turned_away: u64,
    host: String,
    program: String,
    event: Option<(String, Instant)>,
}

/// A live stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) session: u64,
    pub(super) incarnation: Incarnation,
    pub(super) epoch: u64,
    pub(super) since: Instant,
}

/// What outlives the process, as JSON. Ids are 128 bits, which JSON's numbers are not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Durable {
    /// Its place in the order in which agents came.
    stamp: u64,
    /// Days of this collector's running since then.
    days_away: u32,
    /// By incarnation the highest epoch, and the process that was at it. The highest [`INCARNATIONS_MAX`].
    #[serde(with = "hexed")]
    known: BTreeMap<u128, (u64, u128)>,
    /// By log and numbering the highest place that was refused for good, since a mark does not say it.
    rejected: Vec<RejectedUpto>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RejectedUpto {
    log: String,
    incarnation: String,
    upto: u64,
}

impl Row {
    /// A row as it was written; none where it cannot be read.
    pub(super) fn read(bytes: &[u8], now: Instant) -> Option<Self> {
        let durable = serde_json::from_slice(bytes).ok()?;
        Some(Self { durable, gone: Some(now), ..Self::default() })
    }

    /// The durable part.
    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(&self.durable).expect("numbers and texts are always JSON")
    }

    pub(super) fn stamp(&self) -> u64 {
        self.durable.stamp
    }

    pub(super) fn days_away(&self) -> u32 {
        self.durable.days_away
    }

    /// The highest epoch of an incarnation, and who was at it.
    pub(super) fn known(&self, incarnation: Incarnation) -> Option<(u64, Boot)> {
        self.durable.known.get(&incarnation.0).map(|(epoch, boot)| (*epoch, Boot(*boot)))
    }

    /// The highest incarnation that was ever welcome.
    pub(super) fn highest(&self) -> Option<Incarnation> {
        self.durable.known.last_key_value().map(|(incarnation, _)| Incarnation(*incarnation))
    }

    /// The highest place of a log that was refused for good; 0 for none.
    pub(super) fn rejected_upto(&self, source: &Source) -> u64 {
        let incarnation = format!("{:032x}", source.incarnation);
        let found =
            self.durable.rejected.iter().find(|at| at.log == source.log && at.incarnation == incarnation);
        found.map_or(0, |at| at.upto)
    }

    /// Takes over what a welcome Hello says; tells whether the durable part has changed.
    pub(super) fn knows(&mut self, facts: &Facts, stamp: u64) -> bool {
        let said = (facts.epoch, facts.boot.0);
        let before = self.durable.known.insert(facts.incarnation.0, said);
        while self.durable.known.len() > INCARNATIONS_MAX {
            self.durable.known.pop_first();
        }
        let is_new = before != Some(said) || self.durable.days_away > 0;
        // A stream that comes back to the same process is no news worth a sync: the order among agents may be that much off.
        self.durable.stamp = stamp;
        self.durable.days_away = 0;
        is_new
    }

    /// A stream was welcomed.
    pub(super) fn welcomed(&mut self, facts: &Facts, notes: &[Note], now: Instant) {
        self.host.clone_from(&facts.host);
        self.program.clone_from(&facts.program);
        (self.heard, self.gone, self.end) = (Some(now), None, None);
        match notes.iter().map(|note| note.text.as_str()).collect::<Vec<_>>() {
            notes if notes.is_empty() => self.say("connected", now),
            notes => self.say(&notes.join("; "), now),
        }
    }

    /// A Hello was not welcome.
    pub(super) fn turned_away(&mut self, goodbye: &Goodbye, now: Instant) {
        self.turned_away += 1;
        if self.live.is_none() && matches!(goodbye.reason(), Reason::Fenced | Reason::NewIncarnation) {
            (self.end, self.gone) = (Some(End::Fenced), Some(now));
        }
        self.say(&goodbye.text, now);
    }

    /// Its stream has ended.
    pub(super) fn ended(&mut self, end: End, why: &str, now: Instant) {
        (self.end, self.gone) = (Some(end), Some(now));
        self.say(why, now);
    }

    /// A bundle was rejected; tells whether the durable part has changed.
    pub(super) fn reject(&mut self, rejected: &RejectedBundle<'_>, now: Instant) -> bool {
        *self.rejected.entry(rejected.cause).or_default() += rejected.records;
        self.say(rejected.text, now);
        let incarnation = format!("{:032x}", rejected.source.incarnation);
        let list = &mut self.durable.rejected;
        match list.iter_mut().find(|at| at.log == rejected.source.log && at.incarnation == incarnation) {
            Some(at) if at.upto >= rejected.last => return false,
            Some(at) => at.upto = rejected.last,
            None => {
                // The oldest is of a numbering that is hardly in use any more.
                if list.len() >= REJECTED_LOGS_MAX {
                    list.remove(0);
                }
                let log = rejected.source.log.clone();
                list.push(RejectedUpto { log, incarnation, upto: rejected.last });
            }
        }
        true
    }

    /// The last event, for those who look.
    pub(super) fn say(&mut self, text: &str, now: Instant) {
        let text = text.chars().take(EVENT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.event = Some((text, now));
    }

    /// A day has passed; tells whether the durable part has changed.
    pub(super) fn day_passed(&mut self) -> bool {
        let before = self.durable.days_away;
        self.durable.days_away = if self.live.is_some() { 0 } else { before.saturating_add(1) };
        self.durable.days_away != before
    }

    pub(super) fn show(&self, identity: &str, now: Instant) -> FleetRow {
        let live = self.live.as_ref();
        let state = match (live, self.end) {
            (Some(_), _) => FleetState::Live,
            (None, Some(End::Orderly) | None) => FleetState::Idle,
            (None, Some(End::Dead)) => FleetState::Dead,
            (None, Some(End::Fenced)) => FleetState::Fenced,
        };
        let highest = self.durable.known.last_key_value().map(|(id, (epoch, _))| (Incarnation(*id), *epoch));
        let current = live.map(|live| (live.incarnation, live.epoch)).or(highest);
        let mut rejected: Vec<_> =
            self.rejected.iter().map(|(why, n)| (why.as_str().to_owned(), *n)).collect();
        rejected.sort();
        FleetRow {
            identity: shown(identity),
            host: self.host.clone(),
            program: self.program.clone(),
            state,
            connected_seconds: live.map(|live| seconds(Some(live.since), now)),
            heard_seconds: self.heard.map(|heard| seconds(Some(heard), now)),
            incarnation: current.map(|(incarnation, _)| incarnation.to_string()),
            epoch: current.map(|(_, epoch)| epoch),
            session: live.map(|live| live.session),
            waiting: self.waiting,
            bundles: self.bundles,
            records: self.records,
            bytes: self.bytes,
            duplicates: self.duplicates,
            rejected,
            turned_away: self.turned_away,
            event: self.event.as_ref().map_or_else(|| UNHEARD.to_owned(), |(text, _)| text.clone()),
            event_seconds: self.event.as_ref().map(|(_, at)| seconds(Some(*at), now)),
        }
    }
}

/// Characters of an event that are shown.
const EVENT_CHARS_MAX: usize = 1024;

/// What is shown of an agent that is known from an earlier run.
const UNHEARD: &str = "not heard since this collector started";

/// Ids of 128 bits in JSON.
mod hexed {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Known = BTreeMap<u128, (u64, u128)>;

    pub(super) fn serialize<S: Serializer>(known: &Known, serializer: S) -> Result<S::Ok, S::Error> {
        let rows =
            known.iter().map(|(id, (epoch, boot))| (format!("{id:032x}"), *epoch, format!("{boot:032x}")));
        rows.collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Known, D::Error> {
        let rows = Vec::<(String, u64, String)>::deserialize(deserializer)?;
        let id = |text: &str| u128::from_str_radix(text, 16).map_err(D::Error::custom);
        rows.iter().map(|(of, epoch, boot)| Ok((id(of)?, (*epoch, id(boot)?)))).collect()
    }
}

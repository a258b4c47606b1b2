//! One configured id that is made of a plugin: the code that serves it now, and how other code takes its place.
//!
//! ```text
//!                  a good file: new calls go to the new code, running calls finish on the old
//!                ┌───┐
//!                ▼   │
//!             Serving ──the file is gone, and no bundled plugin has its name──▶ Absent
//!                ▲                                                                │
//!                └──────────────────── the file is back ──────────────────────────┘
//! ```
//!
//! A file that is no good changes nothing but what is told of it.
//!
//! Invariant: what an id counts, its settings, grants and limits outlive the code; instances never do.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, info};
use weir_model::Signal;

use crate::counts::PluginCounts;
use crate::describe::{ListenKind, SettingsError};
use crate::host::{Part, PartError};
use crate::inspect::chain;
use crate::load::{Digest, LoadError, Loaded, Source};
use crate::meter::Meter;
use crate::pool::{NoTurn, Pool, Turn};
use crate::quarantine::Quarantined;
use crate::watch::{Look, Trust};

/// After so long a file is tried again whose refusal lay with the machine (no memory left, no answer in time).
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Findings about settings that a reason names; the others are counted.
const FINDINGS_SHOWN_MAX: usize = 3;

/// What a configured id wants of its plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// Pushes to a backend.
    Exporter,
    /// Requests of senders.
    HttpReceiver,
}

impl Wanted {
    /// The interface of the contract that it must export.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Exporter => "exporter",
            Self::HttpReceiver => "http-receiver",
        }
    }

    /// What a configuration calls it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Exporter => "exporter",
            Self::HttpReceiver => "receiver",
        }
    }
}

/// One configured id, as an operator sees it.
#[derive(Debug, Clone)]
pub struct SlotView {
    /// The configured id, `type[/name]`.
    pub id: String,
    /// What it is.
    pub wanted: Wanted,
    /// The plugin's name.
    pub plugin: String,
    /// 1 for the code of the start, one more for each code after it.
    pub generation: u64,
    /// The version of the code that serves, or that served last, as it says itself.
    pub version: String,
    /// Its SHA-256.
    pub digest: Digest,
    /// Where it came from.
    pub source: Source,
    /// Whether its file stands in front of a bundled plugin.
    pub shadows: bool,
    /// Whether it serves.
    pub state: SlotState,
    /// Why the file that lies there now does not serve: what was wrong with it.
    pub refused: Option<String>,
    /// What it counts.
    pub counts: PluginCounts,
}

/// Whether an id has code that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// It has.
    Serving,
    /// It has, and is kept from work because its instances end too often.
    Quarantined(Quarantined),
    /// It has none; why, and what to do.
    Absent(String),
}

/// Code with its instances.
pub(crate) struct Generation {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) pool: Arc<Pool>,
}

/// The id has no code now: why, and what to do.
#[derive(Debug, Clone)]
pub(crate) struct Absent(Arc<str>);

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why no call can be made now.
#[derive(Debug, Clone)]
pub(crate) enum Away {
    /// There is no code.
    Absent(Absent),
    /// It is in quarantine.
    Kept {
        /// Plugin, id and why.
        why: String,
        /// When to come again.
        after: Duration,
    },
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(absent) => absent.fmt(f),
            Self::Kept { why, .. } => f.write_str(why),
        }
    }
}

/// See the module.
pub(crate) struct Slot {
    wanted: Wanted,
    part: Part,
    plugin: String,
    pinned: Option<String>,
    promised: Promised,
    instances_max: usize,
    counts: PluginCounts,
    meter: Meter,
    now: RwLock<Now>,
}

/// What the code of the start was joined to the others by, and what later code must do as well: pipelines are joined,
/// and sockets bound, by whoever has the configuration.
struct Promised {
    /// What it takes.
    signals: Vec<Signal>,
    /// Names and addresses that it serves, in order.
    listeners: Vec<(String, String)>,
}

struct Now {
    serving: Result<Arc<Generation>, Absent>,
    number: u64,
    /// Of the code that serves, or that served last.
    last: Told,
    /// What was dealt with last; anything else under the plugin's name is news.
    tried: Look,
    refused: Option<Refused>,
}

/// What is told of code.
#[derive(Clone)]
struct Told {
    version: String,
    digest: Digest,
    source: Source,
    shadows: bool,
}

impl Told {
    fn of(loaded: &Loaded) -> Self {
        Self {
            version: loaded.descriptor.version.clone(),
            digest: loaded.digest,
            source: loaded.source.clone(),
            shadows: loaded.shadows,
        }
    }
}

/// What lies under the plugin's name does not serve.
struct Refused {
    reason: String,
    /// Since when, where the same file may be good later.
    passing: Option<Instant>,
}

impl Now {
    /// Whether what lies there is to be tried.
    fn wants(&self, look: Look, now: Instant, trust: Trust) -> bool {
        if look != self.tried {
            return true;
        }
        let passing = self.refused.as_ref().and_then(|refused| refused.passing);
        let is_due = passing.is_some_and(|since| now.saturating_duration_since(since) >= TRY_AGAIN);
        let is_well = self.refused.is_none() && self.serving.is_ok();
        is_due || (trust == Trust::FirstLook && !is_well)
    }
}

impl Slot {
    /// The slot of an id that `loaded` serves first.
    ///
    /// # Errors
    /// [`PartError`].
    pub(crate) fn new(loaded: Arc<Loaded>, wanted: Wanted, part: Part) -> Result<Arc<Self>, PartError> {
        loaded.must_have(wanted.interface())?;
        let (counts, meter) = (PluginCounts::default(), Meter::default());
        let pool = loaded.pool(part.clone(), counts.clone(), meter.clone())?;
        let (plugin, pinned) = (loaded.name.clone(), loaded.pinned.clone());
        let promised =
            Promised { signals: loaded.descriptor.signals.clone(), listeners: listeners(&loaded, &part) };
        let (last, tried) = (Told::of(&loaded), loaded.look);
        let instances_max = pool.instances_max();
        let serving = Ok(Arc::new(Generation { loaded, pool }));
        let now = RwLock::new(Now { serving, number: 1, last, tried, refused: None });
        Ok(Arc::new(Self { wanted, part, plugin, pinned, promised, instances_max, counts, meter, now }))
    }

    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    pub(crate) fn pinned(&self) -> Option<&str> {
        self.pinned.as_deref()
    }

    pub(crate) fn counts(&self) -> &PluginCounts {
        &self.counts
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn is(&self, wanted: Wanted, id: &str) -> bool {
        self.wanted == wanted && self.part.id == id
    }

    /// Calls that may be under way at once, whatever code serves.
    pub(crate) fn instances_max(&self) -> usize {
        self.instances_max
    }

    /// Changes with the code.
    pub(crate) fn generation(&self) -> u64 {
        self.read().number
    }

    /// The code that serves.
    ///
    /// # Errors
    /// [`Absent`].
    pub(crate) fn serving(&self) -> Result<Arc<Generation>, Absent> {
        self.read().serving.clone()
    }

    /// Waits until the code that serves has room for one more call; `searching` as in [`weir_model::Push`].
    ///
    /// # Errors
    /// [`Away`].
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn enter(&self, searching: bool) -> Result<(Arc<Generation>, Turn), Away> {
        loop {
            let generation = self.serving().map_err(Away::Absent)?;
            let turn = generation.pool.turn(searching).await;
            // A call that waited while the code was swapped is a new call, and goes to the new code.
            if !self.serving().is_ok_and(|now| Arc::ptr_eq(&now, &generation)) {
                continue;
            }
            return match turn {
                Ok(turn) => Ok((generation, turn)),
                Err(NoTurn::Retired) => continue,
                Err(NoTurn::Kept(kept)) => {
                    Err(Away::Kept { why: generation.pool.refusal(&kept), after: kept.retry_after() })
                }
            };
        }
    }

    /// The quarantine that the id is in.
    pub(crate) fn quarantine(&self) -> Option<Quarantined> {
        self.serving().ok().and_then(|generation| generation.pool.quarantine())
    }

    /// Bytes of guest memory in its idle instances.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.serving().map_or(0, |generation| generation.pool.idle_bytes())
    }

    pub(crate) fn view(&self) -> SlotView {
        let now = self.read();
        let state = match &now.serving {
            Ok(generation) => match generation.pool.quarantine() {
                Some(quarantined) => SlotState::Quarantined(quarantined),
                None => SlotState::Serving,
            },
            Err(absent) => SlotState::Absent(absent.to_string()),
        };
        let Told { version, digest, source, shadows } = now.last.clone();
        SlotView {
            id: self.part.id.clone(),
            wanted: self.wanted,
            plugin: self.plugin.clone(),
            generation: now.number,
            version,
            digest,
            source,
            shadows,
            state,
            refused: now.refused.as_ref().map(|refused| refused.reason.clone()),
            counts: self.counts.clone(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === other code ===

impl Slot {
    pub(crate) fn wants(&self, look: Look, now: Instant, trust: Trust) -> bool {
        self.read().wants(look, now, trust)
    }

    /// Whether this very code serves already.
    pub(crate) fn serves(&self, digest: Digest) -> bool {
        let now = self.read();
        now.serving.is_ok() && now.last.digest == digest
    }

    /// What lies there now is what serves already: whatever was refused meanwhile is gone.
    pub(crate) fn confirm(&self, look: Look, source: &Source, shadows: bool) {
        let mut now = self.write();
        now.tried = look;
        let was_refused = now.refused.take().is_some();
        let moved = now.last.source != *source;
        now.last.source = source.clone();
        now.last.shadows = shadows;
        drop(now);
        if was_refused || moved {
            info!(plugin = self.plugin, id = self.part.id, %source, "plugin goes on as it is: there is the same code again");
        }
    }

    /// Judges other code, and lets it serve if it is good. Whatever comes of it, the code that serves goes on until then.
    pub(crate) async fn offer(&self, loaded: &Arc<Loaded>) {
        let look = loaded.look;
        let made = match self.judge(loaded).await {
            Ok(()) => loaded
                .pool(self.part.clone(), self.counts.clone(), self.meter.clone())
                .map_err(|error| chain(&error)),
            Err(reason) => Err(reason),
        };
        match made {
            Ok(pool) => self.swap(look, Arc::new(Generation { loaded: Arc::clone(loaded), pool })),
            Err(reason) => self.refuse(look, &loaded.source, reason, false),
        }
    }

    fn swap(&self, look: Look, generation: Arc<Generation>) {
        let told = Told::of(&generation.loaded);
        let mut now = self.write();
        let before = std::mem::replace(&mut now.serving, Ok(generation));
        let last = std::mem::replace(&mut now.last, told.clone());
        now.number += 1;
        now.tried = look;
        now.refused = None;
        let number = now.number;
        drop(now);
        // What was held against the old code says nothing about the new.
        if let Ok(before) = &before {
            before.pool.retire();
        }
        // Idle instances end here; those in calls end with their calls. Nobody waits for the lock meanwhile.
        drop(before);
        info!(
            plugin = self.plugin, id = self.part.id, generation = number, from = last.version,
            version = told.version, sha256 = %told.digest, source = %told.source,
            "plugin swapped: new calls go to the new code"
        );
    }

    /// What lies there does not serve.
    pub(crate) fn turn_down(&self, look: Look, error: &LoadError) {
        let source = match look {
            Look::Nothing => Source::Bundled,
            Look::File(_) | Look::Unreadable(_) => Source::File(error.place.clone().into()),
        };
        self.refuse(look, &source, chain(&error.flaw), error.flaw.passes());
    }

    /// A bad file leaves the code from before in its place; a file that was removed does not go on serving because what
    /// is bundled behind it is no good.
    fn refuse(&self, look: Look, source: &Source, reason: String, passes: bool) {
        let mut now = self.write();
        let is_gone = look == Look::Nothing && matches!(now.last.source, Source::File(_));
        if is_gone {
            drop(now);
            return self
                .vacate(look, &format!("; the bundled plugin of that name cannot take its place: {reason}"));
        }
        let is_same = |refused: &Refused| refused.reason == reason;
        let is_news = now.tried != look || !now.refused.as_ref().is_some_and(is_same);
        now.tried = look;
        now.refused = Some(Refused { reason: reason.clone(), passing: passes.then(Instant::now) });
        let (serves, version) = (now.serving.is_ok(), now.last.version.clone());
        drop(now);
        if !is_news {
            return;
        }
        let (plugin, id) = (&self.plugin, &self.part.id);
        if serves {
            error!(
                plugin, id, %source, reason, serving = version,
                "plugin file refused, the code from before goes on serving: replace the file by a good one"
            );
        } else {
            error!(plugin, id, %source, reason, "plugin file refused, the id has no plugin: replace the file by a good one");
        }
    }

    /// There is nothing under the plugin's name any more.
    pub(crate) fn vacate(&self, look: Look, why_not_bundled: &str) {
        let mut now = self.write();
        let reason = match &now.last.source {
            Source::File(path) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                let folder = path.parent().unwrap_or(path).display();
                format!("its plugin file {file} was removed from {folder}; put it back{why_not_bundled}")
            }
            Source::Bundled => format!("there is no plugin {} any more", self.plugin),
        };
        let before = std::mem::replace(&mut now.serving, Err(Absent(reason.as_str().into())));
        now.tried = look;
        now.refused = None;
        drop(now);
        if before.is_ok() {
            error!(
                plugin = self.plugin,
                id = self.part.id,
                reason,
                "the id has no plugin: what it gets has to wait"
            );
        }
        if let Ok(before) = &before {
            before.pool.retire();
        }
        drop(before);
    }

    /// Fresh instances of the same code, of which nobody holds anything against them. `false`: there is no code.
    pub(crate) fn release(&self) -> bool {
        let Ok(before) = self.serving() else { return false };
        let pool = before.loaded.pool(self.part.clone(), self.counts.clone(), self.meter.clone());
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                error!(plugin = self.plugin, id = self.part.id, %error, "fresh instances could not be had");
                return false;
            }
        };
        let fresh = Arc::new(Generation { loaded: Arc::clone(&before.loaded), pool });
        let mut now = self.write();
        // Code that came meanwhile has fresh instances as well.
        if now.serving.as_ref().is_ok_and(|serving| Arc::ptr_eq(serving, &before)) {
            now.serving = Ok(fresh);
        }
        drop(now);
        before.pool.retire();
        info!(plugin = self.plugin, id = self.part.id, "plugin released: it goes on with fresh instances");
        true
    }

    /// Whether other code can be what the id needs, without a restart.
    async fn judge(&self, loaded: &Arc<Loaded>) -> Result<(), String> {
        loaded.must_have(self.wanted.interface()).map_err(|error| error.to_string())?;
        let found = loaded.check_settings(&self.part.settings).await;
        if !found.is_empty() {
            return Err(unsettled(&self.part.id, &found));
        }
        match self.wanted {
            Wanted::Exporter => self.promised.takes(&loaded.descriptor.signals),
            Wanted::HttpReceiver => self.promised.listens(&listeners(loaded, &self.part)),
        }
    }
}

impl Promised {
    fn takes(&self, taken: &[Signal]) -> Result<(), String> {
        let lost = self.signals.iter().filter(|signal| !taken.contains(signal));
        let lost: Vec<&str> = lost.map(|signal| signal.name()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!("it takes no {} any more: restart weir if that is meant", lost.join(" and no ")))
    }

    fn listens(&self, wanted: &[(String, String)]) -> Result<(), String> {
        if self.listeners == wanted {
            return Ok(());
        }
        let shown = |named: &[(String, String)]| {
            let each: Vec<String> =
                named.iter().map(|(name, address)| format!("{address} ({name})")).collect();
            if each.is_empty() { "nowhere".to_owned() } else { format!("on {}", each.join(", ")) }
        };
        Err(format!(
            "it listens {}, the sockets are bound {}: that needs a reload of the configuration, or a restart",
            shown(wanted),
            shown(&self.listeners)
        ))
    }
}

/// Names and addresses that the host binds for a plugin, in order.
fn listeners(loaded: &Loaded, part: &Part) -> Vec<(String, String)> {
    let listeners = loaded.listeners(&part.settings).into_iter();
    let http = listeners.filter(|listener| listener.kind == ListenKind::Http);
    let mut named: Vec<(String, String)> = http.map(|listener| (listener.name, listener.address)).collect();
    named.sort();
    named
}

fn unsettled(id: &str, found: &[SettingsError]) -> String {
    let shown = found.iter().take(FINDINGS_SHOWN_MAX);
    let shown: Vec<String> = shown
        .map(|error| {
            let at = if error.pointer.is_empty() { "/" } else { error.pointer.as_str() };
            format!("{at}: {}", error.message)
        })
        .collect();
    let more = found.len().saturating_sub(FINDINGS_SHOWN_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("it does not take the settings of {id}: {}{more}", shown.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: other code takes a signal less, or one more; listens under another name, at another address, nowhere.
    /// Guarantees: what pipelines and sockets were made for stays; the reason says what is missing and what to do.
    #[test]
    fn other_code_keeps_what_the_first_was_joined_by() {
        let listeners = vec![("main".to_owned(), "127.0.0.1:9411".to_owned())];
        let promised = Promised { signals: vec![Signal::Traces, Signal::Logs], listeners: listeners.clone() };
        assert_eq!(promised.takes(&[Signal::Logs, Signal::Metrics, Signal::Traces]), Ok(()));
        let lost = promised.takes(&[Signal::Traces]).unwrap_err();
        assert!(lost.contains("no logs any more"), "{lost}");
        assert_eq!(promised.listens(&listeners), Ok(()));
        for other in [
            vec![("main".to_owned(), "127.0.0.1:9412".to_owned())],
            vec![("other".to_owned(), "127.0.0.1:9411".to_owned())],
            Vec::new(),
        ] {
            let why = promised.listens(&other).unwrap_err();
            assert!(why.contains("on 127.0.0.1:9411 (main)") && why.contains("a restart"), "{why}");
        }
    }
}

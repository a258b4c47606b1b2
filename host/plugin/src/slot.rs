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

use tracing::{error, info, warn};

use crate::counts::PluginCounts;
use crate::host::{Part, PartError};
use crate::limits::Limits;
use crate::load::{Digest, LoadError, Loaded, Source};
use crate::meter::Meter;
use crate::pool::{NoTurn, Pool, Turn};
use crate::promise::{Promised, unsettled};
use crate::quarantine::Quarantined;
use crate::wanted::Wanted;
use crate::watch::{Look, Trust};
use weir_model::explain;

/// After so long a file is tried again first whose refusal may lie with the machine (no memory left, no answer in time);
/// then after twice as long each time. A short squeeze for memory is over by then.
const TRY_AGAIN_FIRST: Duration = Duration::from_secs(10);

/// The longest pause between such tries: a plugin that costs a call deadline each time then costs a few percent of one core.
const TRY_AGAIN_LONGEST: Duration = Duration::from_secs(600);

/// What is added to the reason of a refusal that may pass.
const TRIED_AGAIN: &str = " (it is tried again by itself, ever more seldom; a reload tries it at once)";

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

/// What a release has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Released {
    /// There is no such id, or it has no code.
    Nothing,
    /// It was at work, and goes on with fresh instances.
    Working,
    /// It was in quarantine, and is not any more.
    Kept,
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

struct Now {
    serving: Result<Arc<Generation>, Absent>,
    number: u64,
    /// Of the code that serves, or that served last.
    last: Told,
    /// What was dealt with last; anything else under the plugin's name is news.
    tried: Look,
    refused: Option<String>,
    /// When what was tried last is tried again, where it may be good later.
    again: Option<Again>,
}

#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    pause: Duration,
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

/// Why other code does not serve.
#[derive(Debug)]
struct Refusal {
    reason: String,
    /// Whether the same code may be good later.
    passes: bool,
}

impl From<String> for Refusal {
    /// Of code that stays as it is.
    fn from(reason: String) -> Self {
        Self { reason, passes: false }
    }
}

impl Now {
    /// What lies there was dealt with.
    fn settle(&mut self, look: Look) {
        self.tried = look;
        self.refused = None;
        self.again = None;
    }

    /// What lies there does not serve, for a reason that passes or does not.
    fn put_off(&mut self, look: Look, passes: bool, now: Instant) {
        let before = self.again.filter(|_| self.tried == look);
        let pause = before.map_or(TRY_AGAIN_FIRST, |again| again.pause.saturating_mul(2));
        let pause = pause.min(TRY_AGAIN_LONGEST);
        self.tried = look;
        self.again = passes.then_some(Again { at: now + pause, pause });
    }

    /// Whether what lies there is to be tried.
    fn wants(&self, look: Look, now: Instant, trust: Trust) -> bool {
        if look != self.tried {
            return true;
        }
        let is_due = self.again.is_some_and(|again| now >= again.at);
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
        wanted.is_served_by(&loaded, &part)?;
        let (counts, meter) = (PluginCounts::default(), Meter::default());
        let pool = loaded.pool(wanted, part.clone(), counts.clone(), meter.clone())?;
        let (plugin, pinned) = (loaded.name.clone(), loaded.pinned.clone());
        let promised = Promised::of(wanted, &loaded, &part)?;
        promised.tell(&loaded, &part);
        wanted.tell_unused(&part);
        let (last, tried) = (Told::of(&loaded), loaded.look);
        let instances_max = pool.instances_max();
        let serving = Ok(Arc::new(Generation { loaded, pool }));
        let now = RwLock::new(Now { serving, number: 1, last, tried, refused: None, again: None });
        Ok(Arc::new(Self { wanted, part, plugin, pinned, promised, instances_max, counts, meter, now }))
    }

    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    pub(crate) fn pinned(&self) -> Option<&str> {
        self.pinned.as_deref()
    }

    /// Of each instance.
    pub(crate) fn limits(&self) -> &Limits {
        &self.part.limits
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

    /// The record was found that ended instances: a call that comes now may try whether the quarantine is over.
    pub(crate) fn try_now(&self) {
        if let Ok(generation) = self.serving() {
            generation.pool.try_now();
        }
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
            refused: now.refused.clone(),
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
        let was_refused = now.refused.is_some();
        now.settle(look);
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
                .pool(self.wanted, self.part.clone(), self.counts.clone(), self.meter.clone())
                .map_err(|error| Refusal { reason: explain(&error), passes: error.passes() }),
            Err(refusal) => Err(refusal),
        };
        match made {
            Ok(pool) => self.swap(look, Arc::new(Generation { loaded: Arc::clone(loaded), pool })),
            Err(refusal) => self.refuse(look, &loaded.source, refusal),
        }
    }

    fn swap(&self, look: Look, generation: Arc<Generation>) {
        let told = Told::of(&generation.loaded);
        let mut now = self.write();
        let before = std::mem::replace(&mut now.serving, Ok(generation));
        let last = std::mem::replace(&mut now.last, told.clone());
        now.number += 1;
        now.settle(look);
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
        self.tell_empty();
    }

    /// What an instance remembered went with it, where it is one that remembers.
    fn tell_empty(&self) {
        if self.wanted.is_pinned() {
            warn!(plugin = self.plugin, id = self.part.id, "plugin starts empty: what it remembered is gone");
        }
    }

    /// What lies there does not serve.
    pub(crate) fn turn_down(&self, look: Look, error: &LoadError) {
        let source = match look {
            Look::Nothing => Source::Bundled,
            Look::File(_) | Look::Unreadable(_) => Source::File(error.place.clone().into()),
        };
        self.refuse(look, &source, Refusal { reason: explain(&error.flaw), passes: error.flaw.passes() });
    }

    /// A bad file leaves the code from before in its place; a file that was removed does not go on serving because what
    /// is bundled behind it is no good.
    fn refuse(&self, look: Look, source: &Source, refusal: Refusal) {
        let Refusal { mut reason, passes } = refusal;
        if passes {
            reason.push_str(TRIED_AGAIN);
        }
        let mut now = self.write();
        let is_gone = look == Look::Nothing && matches!(now.last.source, Source::File(_));
        if is_gone {
            drop(now);
            let why = format!("; the bundled plugin of that name cannot take its place: {reason}");
            return self.leave(look, &why, passes);
        }
        let is_news = now.tried != look || now.refused.as_ref() != Some(&reason);
        now.put_off(look, passes, Instant::now());
        now.refused = Some(reason.clone());
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
    pub(crate) fn vacate(&self, look: Look) {
        self.leave(look, "", false);
    }

    /// The id has no code from now on; `passes`: what is there may be good later.
    fn leave(&self, look: Look, why_not_bundled: &str, passes: bool) {
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
        now.put_off(look, passes, Instant::now());
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

    /// Fresh instances of the same code, of which nobody holds anything against them.
    pub(crate) fn release(&self) -> Released {
        let Ok(before) = self.serving() else { return Released::Nothing };
        let pool =
            before.loaded.pool(self.wanted, self.part.clone(), self.counts.clone(), self.meter.clone());
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                error!(plugin = self.plugin, id = self.part.id, %error, "fresh instances could not be had");
                return Released::Nothing;
            }
        };
        let was_kept = before.pool.quarantine().is_some();
        let fresh = Arc::new(Generation { loaded: Arc::clone(&before.loaded), pool });
        let mut now = self.write();
        // Code that came meanwhile has fresh instances as well.
        if now.serving.as_ref().is_ok_and(|serving| Arc::ptr_eq(serving, &before)) {
            now.serving = Ok(fresh);
        }
        drop(now);
        before.pool.retire();
        info!(
            plugin = self.plugin,
            id = self.part.id,
            was_kept,
            "plugin released: it goes on with fresh instances"
        );
        self.tell_empty();
        if was_kept { Released::Kept } else { Released::Working }
    }

    /// Whether other code can be what the id needs, without a restart.
    async fn judge(&self, loaded: &Arc<Loaded>) -> Result<(), Refusal> {
        let Part { id, settings, limits, .. } = &self.part;
        let failed = |error: PartError| Refusal { reason: explain(&error), passes: error.passes() };
        self.wanted.is_served_by(loaded, &self.part).map_err(failed)?;
        // First: code that would see a secret is not even asked about settings.
        let other = Promised::of(self.wanted, loaded, &self.part).map_err(failed)?;
        self.promised.holds(self.wanted, &other).map_err(|reason| {
            let digest = loaded.digest;
            format!("{reason}: if that is meant, restart weir, or write sha256: {digest} for {id} and reload")
        })?;
        let found = loaded.settle(settings, limits).await.map_err(|error| Refusal {
            reason: format!("it could not check the settings of {id}: {error}"),
            passes: error.passes(),
        })?;
        if found.is_empty() { Ok(()) } else { Err(unsettled(id, &found).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a removed file whose bundled plugin found no memory, again and again; then something else lies there.
    /// Guarantees: an id without code is tried again by itself, after pauses that grow up to a bound; what does not pass
    /// waits for another file; another file is tried at once, and begins with a short pause.
    #[test]
    fn what_may_pass_is_tried_again_ever_more_seldom() {
        let last =
            Told { version: String::new(), digest: Digest::of(b""), source: Source::Bundled, shadows: false };
        let serving = Err(Absent("removed".into()));
        let mut now = Now { serving, number: 1, last, tried: Look::Nothing, refused: None, again: None };
        let mut at = Instant::now();
        let wants = |now: &Now, at| now.wants(Look::Nothing, at, Trust::SecondLook);
        for pause in [10, 20, 40, 80, 160, 320, 600, 600].map(Duration::from_secs) {
            now.put_off(Look::Nothing, true, at);
            assert!(!wants(&now, at + pause - Duration::from_millis(1)), "{pause:?}");
            at += pause;
            assert!(wants(&now, at), "{pause:?}");
        }
        assert!(now.wants(Look::Nothing, at, Trust::FirstLook), "who says that all is well is believed");
        let other = Look::Unreadable(std::io::ErrorKind::PermissionDenied);
        assert!(now.wants(other, at, Trust::SecondLook));
        now.put_off(other, true, at);
        assert!(now.wants(other, at + TRY_AGAIN_FIRST, Trust::SecondLook));
        now.put_off(other, false, at);
        assert!(!now.wants(other, at + 2 * TRY_AGAIN_LONGEST, Trust::SecondLook));
    }
}

//! Plugins whose instances end too often are kept from work for a while.
//!
//! ```text
//! at work ──ends_max ends within window──▶ kept ──its time is over: one call goes through──▶ probed
//!    ▲                                      ▲ ▲                                               │ │ │
//!    │                                      │ └─────── it ended: kept twice as long ──────────┘ │ │
//!    │                                      └───────── it was cut: another one may try ─────────┘ │
//!    └────────────── it was answered; or an operator released the id ────────────────────────────┘
//! ```
//!
//! A search for the record that ends instances goes on in quarantine, and its ends do not count: they are expected, few,
//! and the search is how such a record is found and refused. When it delivers something, the plugin works and is released.
//!
//! Invariant: for an id in quarantine no call begins but one probe and those of a search.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::counts::PluginCounts;
use crate::words::cut;

/// Ends that are remembered for counting those within the window; a higher `ends_max` means as much.
const ENDS_REMEMBERED_MAX: u32 = 1_000;

/// Bytes of the last end's text that are kept: each refused call shows it again.
const WHY_BYTES_MAX: usize = 512;

/// When a call may be tried again that came while another one was the probe.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// When a configured id is kept from work, and for how long (`quarantine:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineSettings {
    /// Ends of instances within [`QuarantineSettings::window`] that are enough; 0 for never.
    pub ends_max: u32,
    /// See [`QuarantineSettings::ends_max`].
    pub window: Duration,
    /// How long the first quarantine lasts; each one after it lasts twice as long as the one before.
    pub first: Duration,
    /// How long one lasts at most.
    pub longest: Duration,
}

impl Default for QuarantineSettings {
    /// 5 ends in a minute; a minute at first, an hour at most.
    fn default() -> Self {
        Self {
            ends_max: 5,
            window: Duration::from_secs(60),
            first: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
        }
    }
}

/// An id that is kept from work, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Seconds since it was last at work.
    pub since_secs: u64,
    /// Ends of instances that led to it.
    pub ends: u32,
    /// Within how long they fell, seconds.
    #[serde(rename = "window_secs", serialize_with = "seconds")]
    pub window: Duration,
    /// Calls that were let through since to try it, and ended.
    pub tries: u32,
    /// How long it is kept from work from now on; then one call is let through. Zero: that one is awaited, or under way.
    #[serde(rename = "left_secs", serialize_with = "seconds")]
    pub left: Duration,
    /// How the last instance ended.
    pub why: String,
}

impl Quarantined {
    /// When a call that was refused may come again.
    pub fn retry_after(&self) -> Duration {
        self.left.max(PROBE_WAIT)
    }
}

/// "in quarantine for another 57 s: 5 instances ended within 60 s, the last: …"
impl std::fmt::Display for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { since_secs: _, ends, window, tries, left, why } = self;
        if left.is_zero() {
            f.write_str("in quarantine until a call that tries it is answered: ")?;
        } else {
            write!(f, "in quarantine for another {} s: ", rounded(*left))?;
        }
        write!(f, "{ends} instances ended within {} s", rounded(*window))?;
        if *tries > 0 {
            write!(f, ", {tries} more when tried since")?;
        }
        write!(f, ", the last: {why}")
    }
}

/// Whole seconds, begun ones counted.
fn rounded(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(rounded(*time))
}

/// The quarantine of one configured id.
pub(crate) struct Quarantine {
    settings: QuarantineSettings,
    counts: PluginCounts,
    /// Whether `state.kept` is something: all that a call looks at while nothing is wrong.
    keeps: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When instances ended, within the window: at most [`ENDS_REMEMBERED_MAX`].
    recent: VecDeque<Instant>,
    kept: Option<Kept>,
    /// Quarantines so far, so that a late probe of one does not decide about the next.
    number: u64,
}

struct Kept {
    since: Instant,
    until: Instant,
    length: Duration,
    ends: u32,
    tries: u32,
    probing: bool,
    why: String,
}

/// Leave to make one call, and the duty to say what became of it.
#[must_use]
pub(crate) struct Admission {
    quarantine: Arc<Quarantine>,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ordinary,
    /// Of a search for the record that ends instances.
    Search,
    /// Tries whether the quarantine of this number is over.
    Probe(u64),
    /// What became of the call was said.
    Settled,
}

// === impl Quarantine ===

impl Quarantine {
    pub(crate) fn new(settings: QuarantineSettings, counts: PluginCounts) -> Arc<Self> {
        Arc::new(Self { settings, counts, keeps: AtomicBool::new(false), state: Mutex::default() })
    }

    /// Leave for a call that begins now; `searching` as [`weir_model::Push::searching`].
    ///
    /// # Errors
    /// The id is kept from work.
    pub(crate) fn admit(self: &Arc<Self>, searching: bool, now: Instant) -> Result<Admission, Quarantined> {
        let role = if searching { Role::Search } else { Role::Ordinary };
        let admission = |role| Admission { quarantine: Arc::clone(self), role };
        if searching || !self.keeps.load(Ordering::Acquire) {
            return Ok(admission(role));
        }
        let mut state = self.state();
        let number = state.number;
        match &mut state.kept {
            None => Ok(admission(role)),
            Some(kept) if kept.probing || now < kept.until => Err(kept.told(&self.settings, now)),
            Some(kept) => {
                kept.probing = true;
                Ok(admission(Role::Probe(number)))
            }
        }
    }

    /// The quarantine that the id is in.
    pub(crate) fn kept(&self, now: Instant) -> Option<Quarantined> {
        if !self.keeps.load(Ordering::Acquire) {
            return None;
        }
        self.state().kept.as_ref().map(|kept| kept.told(&self.settings, now))
    }

    /// Ends the quarantine and forgets what led to it. `false`: there was none.
    pub(crate) fn release(&self) -> bool {
        self.free(&mut self.state())
    }

    fn free(&self, state: &mut State) -> bool {
        state.recent.clear();
        self.keeps.store(false, Ordering::Release);
        self.counts.quarantined.set(0);
        state.kept.take().is_some()
    }

    /// An instance has ended in a call of this role; returns the quarantine that this begins or makes longer.
    fn ended(&self, role: Role, why: &str, now: Instant) -> Option<Quarantined> {
        let QuarantineSettings { ends_max, window, first, longest } = self.settings;
        let mut state = self.state();
        let State { recent, kept, number } = &mut *state;
        let kept = match (role, kept) {
            (Role::Search | Role::Settled, _) => return None,
            (Role::Probe(of), Some(kept)) if of == *number => {
                kept.length = kept.length.saturating_mul(2).min(longest.max(first));
                kept.tries = kept.tries.saturating_add(1);
                kept.probing = false;
                kept
            }
            // It began before the quarantine, and says nothing new.
            (Role::Ordinary | Role::Probe(_), Some(_)) => return None,
            (Role::Ordinary | Role::Probe(_), None) if ends_max == 0 => return None,
            (Role::Ordinary | Role::Probe(_), kept @ None) => {
                recent.retain(|end| now.saturating_duration_since(*end) < window);
                recent.push_back(now);
                let ends = u32::try_from(recent.len()).unwrap_or(u32::MAX);
                if ends < ends_max.min(ENDS_REMEMBERED_MAX) {
                    return None;
                }
                recent.clear();
                *number += 1;
                let (length, why) = (first.min(longest), String::new());
                kept.insert(Kept { since: now, until: now, length, ends, tries: 0, probing: false, why })
            }
        };
        kept.until = now.checked_add(kept.length).unwrap_or(now);
        kept.why = cut(why, WHY_BYTES_MAX).to_owned();
        let told = kept.told(&self.settings, now);
        self.keeps.store(true, Ordering::Release);
        self.counts.quarantines.add(1);
        self.counts.quarantined.set(1);
        Some(told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Quarantine {
    /// What was replaced is kept from nothing any more.
    fn drop(&mut self) {
        self.release();
    }
}

impl Kept {
    fn told(&self, settings: &QuarantineSettings, now: Instant) -> Quarantined {
        Quarantined {
            since_secs: now.saturating_duration_since(self.since).as_secs(),
            ends: self.ends,
            window: settings.window,
            tries: self.tries,
            left: self.until.saturating_duration_since(now),
            why: self.why.clone(),
        }
    }
}

// === impl Admission ===

impl Admission {
    /// The guest has answered. `true`: the id was in quarantine, and is not any more.
    pub(crate) fn answered(mut self) -> bool {
        let role = std::mem::replace(&mut self.role, Role::Settled);
        if role == Role::Ordinary || !self.quarantine.keeps.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.quarantine.state();
        match role {
            Role::Probe(of) if of != state.number => false,
            Role::Probe(_) | Role::Search => self.quarantine.free(&mut state),
            Role::Ordinary | Role::Settled => false,
        }
    }

    /// The instance has ended; returns the quarantine that this begins or makes longer.
    pub(crate) fn ended(mut self, why: &str, now: Instant) -> Option<Quarantined> {
        let role = std::mem::replace(&mut self.role, Role::Settled);
        self.quarantine.ended(role, why, now)
    }
}

impl Drop for Admission {
    /// A probe that was not decided leaves its place to another one.
    fn drop(&mut self) {
        let Role::Probe(of) = self.role else { return };
        let mut state = self.quarantine.state();
        let number = state.number;
        if let Some(kept) = state.kept.as_mut().filter(|_| of == number) {
            kept.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// 3 ends in 10 s; 60 s, then longer up to 150 s.
    fn quarantine() -> Arc<Quarantine> {
        let settings = QuarantineSettings {
            ends_max: 3,
            window: 10 * SECOND,
            first: 60 * SECOND,
            longest: 150 * SECOND,
        };
        Quarantine::new(settings, PluginCounts::default())
    }

    /// One call that ends.
    fn end(of: &Arc<Quarantine>, now: Instant) -> Option<Quarantined> {
        of.admit(false, now).unwrap_or_else(|kept| panic!("{kept}")).ended("trap", now)
    }

    fn is_refused(of: &Arc<Quarantine>, now: Instant) -> bool {
        of.admit(false, now).is_err()
    }

    /// Scenario: ends that are far apart, many searches that end, and three ends within the window.
    /// Guarantees: only the last put the id into quarantine, and the refusal says how long, how many and why.
    #[test]
    fn only_ends_close_together_keep_an_id_from_work() {
        let (id, start) = (quarantine(), Instant::now());
        for n in 0..20 {
            assert_eq!(end(&id, start + n * 5 * SECOND), None);
            assert_eq!(id.admit(true, start).unwrap().ended("trap", start), None);
        }
        let now = start + 1000 * SECOND;
        assert_eq!([0, 4, 9].map(|n| end(&id, now + n * SECOND).is_some()), [false, false, true]);
        let told = id.admit(false, now + 12 * SECOND).err().unwrap();
        assert_eq!(
            told.to_string(),
            "in quarantine for another 57 s: 3 instances ended within 10 s, the last: trap"
        );
        assert_eq!((told.since_secs, told.retry_after()), (3, 57 * SECOND));
        let shown = serde_json::to_value(&told).unwrap();
        assert_eq!((&shown["left_secs"], &shown["window_secs"]), (&57.into(), &10.into()));
        assert_eq!(id.kept(now + 12 * SECOND), Some(told));
        assert_eq!((id.counts.quarantines.get(), id.counts.quarantined.get()), (1, 1));
    }

    /// Scenario: the time is over again and again; each time one call is let through, and ends; at last one is answered.
    /// Guarantees: one call at a time tries, each end doubles the time up to the longest, success begins anew.
    #[test]
    fn a_probe_decides() {
        let (id, mut now) = (quarantine(), Instant::now());
        assert!((0..3).filter_map(|_| end(&id, now)).count() == 1);
        for (length, tries) in [(60, 1), (120, 2), (150, 3), (150, 4)] {
            assert!(is_refused(&id, now + (length - 1) * SECOND));
            now += length * SECOND;
            let probe = id.admit(false, now).unwrap();
            let waiting = id.admit(false, now).err().unwrap();
            assert_eq!((waiting.left, waiting.retry_after()), (Duration::ZERO, PROBE_WAIT));
            assert_eq!(probe.ended("exit", now).unwrap().tries, tries);
        }
        assert!(id.kept(now).unwrap().to_string().contains(", 4 more when tried since, the last: exit"));
        now += 150 * SECOND;
        drop(id.admit(false, now).unwrap());
        assert!(id.admit(false, now).unwrap().answered(), "a probe that was cut leaves its place");
        assert_eq!((id.kept(now), id.counts.quarantined.get()), (None, 0));
        assert_eq!([(); 3].map(|()| end(&id, now).map(|kept| kept.left)), [None, None, Some(60 * SECOND)]);
    }

    /// Scenario: calls that began before the quarantine, a search in it, a probe that outlives an operator's release.
    /// Guarantees: what began before decides nothing, a search goes on and its success releases, an old probe is void.
    #[test]
    fn only_what_was_let_through_decides() {
        let (id, now) = (quarantine(), Instant::now());
        let (good, bad) = (id.admit(false, now).unwrap(), id.admit(false, now).unwrap());
        (0..3).for_each(|_| drop(end(&id, now)));
        assert!(!good.answered());
        assert_eq!(bad.ended("trap", now), None);
        assert!(is_refused(&id, now));
        assert_eq!(id.admit(true, now).unwrap().ended("trap", now), None);
        assert!(id.admit(true, now).unwrap().answered());
        assert!(!is_refused(&id, now));

        (0..3).for_each(|_| drop(end(&id, now)));
        let later = now + 60 * SECOND;
        let probe = id.admit(false, later).unwrap();
        assert!(id.release() && !id.release());
        (0..3).for_each(|_| drop(end(&id, later)));
        assert!(!probe.answered());
        assert!(is_refused(&id, later));
    }

    /// Scenario: an operator wants no quarantine.
    /// Guarantees: there is none, and what is remembered stays bounded.
    #[test]
    fn zero_means_never() {
        let settings = QuarantineSettings { ends_max: 0, ..QuarantineSettings::default() };
        let (id, now) = (Quarantine::new(settings, PluginCounts::default()), Instant::now());
        assert!((0..3000).all(|_| end(&id, now).is_none()));
        assert_eq!(id.state().recent.len(), 0);
    }
}

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
//! Kept is who has ended `ends_max` times within the window **and** more often than it has answered in that time: an id
//! that answers is worth its ends, and what one sender or one record does to it must not shut it for all others. Ten times
//! as many ends are looked at by themselves (more of them than answers since the oldest?), so that an id that breaks in
//! full flight is noticed before the window is over. No number of ends is enough alone: each costs a fresh instance, some
//! ten calls, so they never cost more than some tens of the calls answered beside them; and where they take the instances
//! away from all other calls there are no answers.
//!
//! A search for the record that ends instances goes on in quarantine, and its ends do not count: they are expected, few,
//! and the search is how such a record is found and refused. When it delivers something, the plugin works and is released;
//! when a record was found and refused, the next call may be the probe at once.
//!
//! Where other code or fresh instances take over, the old quarantine retires: late ends of old calls begin nothing.
//!
//! Invariant: for an id in quarantine no call begins but one probe and those of a search.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::counts::PluginCounts;
use crate::words::cut;

/// The most that `ends_max` means; a higher one means as much.
const ENDS_MAX: u32 = 1_000;

/// So many times `ends_max` ends are remembered; where there are more, only the time of these is looked at.
///
/// Fewer, and the failing requests of one sender that come at once between others' would be all that is seen; many more,
/// and an id that was busy a moment ago would end as often before it is kept from work.
const REMEMBERED: u32 = 10;

/// Into so many parts the window is divided for counting answers: it is thus up to a quarter longer for these.
const MARKS: u32 = 4;

/// Bytes of the last end's text that are kept: each refused call shows it again.
const WHY_BYTES_MAX: usize = 512;

/// When a call may be tried again that came while another one was the probe.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// When a configured id is kept from work, and for how long (`quarantine:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineSettings {
    /// Ends of instances within [`QuarantineSettings::window`] that are enough, if it answered fewer calls in that time; 0
    /// for never.
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
    born: Instant,
    /// Until so many milliseconds after `born` a call need not look into `state`: all that it looks at while nothing is
    /// wrong. 0 while the id is kept from work, else when the next mark is due.
    quiet_until: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Instances that ended within the window: at most [`REMEMBERED`] times `ends_max`.
    recent: VecDeque<Mark>,
    /// One for each part of the window in which calls began, and one before it.
    marks: VecDeque<Mark>,
    kept: Option<Kept>,
    /// Quarantines so far, so that a late probe of one does not decide about the next.
    number: u64,
    /// Other code or fresh instances have the id's calls now.
    is_retired: bool,
}

/// What had been answered at a time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    /// [`PluginCounts::answered`].
    answered: u64,
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
        Self::born(settings, counts, Instant::now())
    }

    fn born(settings: QuarantineSettings, counts: PluginCounts, born: Instant) -> Arc<Self> {
        // With it the first call sets the first mark.
        let quiet_until = AtomicU64::new(0);
        let marks = VecDeque::from([Mark { at: born, answered: counts.answered() }]);
        let recent = VecDeque::new();
        let state = Mutex::new(State { recent, marks, kept: None, number: 0, is_retired: false });
        Arc::new(Self { settings, counts, born, quiet_until, state })
    }

    /// Leave for a call that begins now; `searching` as [`weir_model::Push::searching`].
    ///
    /// # Errors
    /// The id is kept from work.
    pub(crate) fn admit(self: &Arc<Self>, searching: bool, now: Instant) -> Result<Admission, Quarantined> {
        let role = if searching { Role::Search } else { Role::Ordinary };
        let admission = |role| Admission { quarantine: Arc::clone(self), role };
        if searching || self.millis(now) < self.quiet_until.load(Ordering::Acquire) {
            return Ok(admission(role));
        }
        let mut state = self.state();
        self.mark(&mut state, now);
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
        self.state().kept.as_ref().map(|kept| kept.told(&self.settings, now))
    }

    /// The record was found that ended instances: whether it works without may be tried at once.
    pub(crate) fn try_now(&self, now: Instant) {
        if let Some(kept) = &mut self.state().kept {
            kept.until = kept.until.min(now);
        }
    }

    /// Other code or fresh instances have the id's calls now: what becomes of those that are under way says nothing.
    pub(crate) fn retire(&self) {
        let mut state = self.state();
        state.is_retired = true;
        self.free(&mut state);
    }

    fn free(&self, state: &mut State) -> bool {
        state.recent.clear();
        let was_kept = state.kept.take().is_some();
        if was_kept {
            // The gauge is shared with whoever takes over: each takes back what it added.
            self.counts.quarantined.sub(1);
        }
        was_kept
    }

    /// An instance has ended in a call of this role; returns the quarantine that this begins or makes longer.
    fn ended(&self, role: Role, why: &str, now: Instant) -> Option<Quarantined> {
        let QuarantineSettings { first, longest, .. } = self.settings;
        let mut state = self.state();
        if state.is_retired {
            return None;
        }
        let number = state.number;
        match (role, &mut state.kept) {
            (Role::Search | Role::Settled, _) => return None,
            (Role::Probe(of), Some(kept)) if of == number => {
                kept.length = kept.length.saturating_mul(2).min(longest.max(first));
                kept.tries = kept.tries.saturating_add(1);
                kept.probing = false;
            }
            // It began before the quarantine, and says nothing new.
            (Role::Ordinary | Role::Probe(_), Some(_)) => return None,
            (Role::Ordinary | Role::Probe(_), None) => {
                let ends = self.too_many(&mut state, now)?;
                state.recent.clear();
                state.number += 1;
                let (length, why) = (first.min(longest), String::new());
                state.kept =
                    Some(Kept { since: now, until: now, length, ends, tries: 0, probing: false, why });
                self.counts.quarantined.add(1);
            }
        }
        let kept = state.kept.as_mut()?;
        kept.until = now.checked_add(kept.length).unwrap_or(now);
        kept.why = cut(why, WHY_BYTES_MAX).to_owned();
        let told = kept.told(&self.settings, now);
        self.quiet_until.store(0, Ordering::Release);
        self.counts.quarantines.add(1);
        Some(told)
    }

    /// Notes one end more; returns the ends within the window if they are too many.
    fn too_many(&self, state: &mut State, now: Instant) -> Option<u32> {
        let QuarantineSettings { ends_max, window, .. } = self.settings;
        if ends_max == 0 {
            return None;
        }
        let ends_max = ends_max.min(ENDS_MAX);
        let is_within = |mark: &Mark| now.saturating_duration_since(mark.at) < window;
        let answered = self.counts.answered();
        let recent = &mut state.recent;
        while recent.front().is_some_and(|oldest| !is_within(oldest)) {
            recent.pop_front();
        }
        recent.push_back(Mark { at: now, answered });
        let ends = u32::try_from(recent.len()).unwrap_or(u32::MAX);
        if ends < ends_max {
            return None;
        }
        let since = if ends < ends_max * REMEMBERED {
            // The last mark from before the window, if there was anything before.
            let before = state.marks.iter().rev().find(|mark| !is_within(mark));
            before.or(state.marks.front()).copied()
        } else {
            recent.pop_front()
        };
        let answers = answered.saturating_sub(since.map_or(0, |since| since.answered));
        (recent.len() as u64 > answers).then_some(ends)
    }

    /// Notes what was answered so far if that is due, and says when it is again.
    fn mark(&self, state: &mut State, now: Instant) {
        let window = self.settings.window;
        let part = window / MARKS;
        let age = |mark: &Mark| now.saturating_duration_since(mark.at);
        if state.marks.back().is_none_or(|last| age(last) >= part) {
            if state.marks.back().is_some_and(|last| age(last) >= window) {
                // Nothing began meanwhile: what was answered soon after that mark is as old as it is.
                state.marks.clear();
            }
            while state.marks.get(1).is_some_and(|second| age(second) >= window) {
                state.marks.pop_front();
            }
            state.marks.push_back(Mark { at: now, answered: self.counts.answered() });
        }
        if state.kept.is_none() {
            let next = state.marks.back().and_then(|last| last.at.checked_add(part)).unwrap_or(now);
            self.quiet_until.store(self.millis(next), Ordering::Release);
        }
    }

    /// Milliseconds since it was made.
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Quarantine {
    /// Who is gone is kept from nothing any more.
    fn drop(&mut self) {
        self.retire();
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
        if role == Role::Ordinary {
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
    use crate::end::EndKind;

    const SECOND: Duration = Duration::from_secs(1);

    /// 3 ends in 10 s; 60 s, then longer up to 150 s.
    fn quarantine() -> Arc<Quarantine> {
        beside(&PluginCounts::default(), Instant::now())
    }

    /// The same, of an id that counts already.
    fn beside(counts: &PluginCounts, born: Instant) -> Arc<Quarantine> {
        let settings = QuarantineSettings {
            ends_max: 3,
            window: 10 * SECOND,
            first: 60 * SECOND,
            longest: 150 * SECOND,
        };
        Quarantine::born(settings, counts.clone(), born)
    }

    /// One call that ends.
    fn end(of: &Arc<Quarantine>, now: Instant) -> Option<Quarantined> {
        let admission = of.admit(false, now).unwrap_or_else(|kept| panic!("{kept}"));
        end_late(of, admission, now)
    }

    fn end_late(of: &Arc<Quarantine>, admission: Admission, now: Instant) -> Option<Quarantined> {
        of.counts.called(Duration::ZERO);
        of.counts.ends.of(EndKind::Trap).add(1);
        admission.ended("trap", now)
    }

    /// One call that is answered.
    fn answer(of: &Arc<Quarantine>, now: Instant) {
        let admission = of.admit(false, now).unwrap_or_else(|kept| panic!("{kept}"));
        of.counts.called(Duration::ZERO);
        admission.answered();
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

    /// Scenario: calls that began before the quarantine, a search in it, a probe that outlives the release by a search.
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
        assert!(id.admit(true, later).unwrap().answered());
        (0..3).for_each(|_| drop(end(&id, later)));
        assert!(!probe.answered());
        assert!(is_refused(&id, later));
    }

    /// Scenario: one of many senders, or of many records, ends instances; at last more calls end than are answered.
    /// Guarantees: while the others are answered the id stays at work, however often and fast that one comes; when half
    /// of the calls are lost it does not.
    #[test]
    fn an_id_that_answers_others_stays_at_work() {
        let (id, start) = (quarantine(), Instant::now());
        (0..10).for_each(|_| answer(&id, start));
        assert!((0..10).all(|_| end(&id, start + SECOND).is_none()));
        assert_eq!(end(&id, start + SECOND).unwrap().ends, 11);

        let (id, mut now) = (quarantine(), Instant::now());
        for _ in 0..10_000 {
            now += SECOND / 100;
            answer(&id, now);
            assert_eq!(end(&id, now), None);
        }
        assert!(id.state().recent.len() <= 3 * REMEMBERED as usize);
    }

    /// Scenario: an id answers a call a second, or a thousand, or did so an hour ago; then all its calls end.
    /// Guarantees: it is kept from work before the window is over; and after as many ends as are remembered, however much
    /// it answered before; what is older than the window does not count.
    #[test]
    fn an_id_that_breaks_in_full_flight_is_kept_soon() {
        let (id, start) = (quarantine(), Instant::now());
        (0..60).for_each(|second| answer(&id, start + second * SECOND));
        let ends = (60..80).find_map(|second| end(&id, start + second * SECOND)).unwrap().ends;
        assert!((5..=7).contains(&ends), "{ends} ends");

        let (id, start) = (quarantine(), Instant::now());
        (0..1_000).for_each(|_| answer(&id, start));
        let ends = (0..100).find_map(|_| end(&id, start + SECOND)).unwrap().ends;
        assert_eq!(ends, 3 * REMEMBERED);

        let (id, start) = (quarantine(), Instant::now());
        (0..1_000).for_each(|_| answer(&id, start));
        let later = start + 3600 * SECOND;
        assert_eq!([(); 3].map(|()| end(&id, later).is_some()), [false, false, true]);
    }

    /// Scenario: an id in quarantine is released or gets other code, which ends as often; then calls of the old one end,
    /// and it goes.
    /// Guarantees: the gauge tells of the new one alone, and what becomes of old calls begins nothing and is not counted.
    #[test]
    fn what_was_replaced_says_nothing_any_more() {
        let counts = PluginCounts::default();
        let now = Instant::now();
        let old = beside(&counts, now);
        let late = [(); 6].map(|()| old.admit(false, now).unwrap());
        (0..3).for_each(|_| drop(end(&old, now)));
        let new = beside(&counts, now);
        assert_eq!(counts.quarantined.get(), 1);
        old.retire();
        assert_eq!((old.kept(now), counts.quarantined.get()), (None, 0));
        (0..3).for_each(|_| drop(end(&new, now)));
        assert!(late.into_iter().all(|admission| end_late(&old, admission, now).is_none()));
        assert_eq!((counts.quarantines.get(), counts.quarantined.get()), (2, 1));
        drop(old);
        assert_eq!(counts.quarantined.get(), 1);
        drop(new);
        assert_eq!(counts.quarantined.get(), 0);
    }

    /// Scenario: in quarantine the record is found that ended instances, and the next call ends all the same; then one
    /// more is found, and the next call is answered.
    /// Guarantees: the next call is the probe at once; it alone decides, and a failed one makes the quarantine longer.
    #[test]
    fn when_the_culprit_is_found_one_call_may_try_at_once() {
        let (id, now) = (quarantine(), Instant::now());
        id.try_now(now);
        (0..3).for_each(|_| drop(end(&id, now)));
        id.try_now(now);
        assert_eq!(end(&id, now).unwrap().left, 120 * SECOND);
        assert!(is_refused(&id, now));
        id.try_now(now);
        let probe = id.admit(false, now).unwrap();
        assert!(is_refused(&id, now));
        assert!(probe.answered() && id.kept(now).is_none());
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

//! Whether an exporter may try at all: shut, open, probing, paused.
//!
//! Lanes fail one by one, a backend fails as a whole: when one push is refused for now, no other lane needs to
//! find that out for itself.
//!
//! ```text
//! Shut ──refused──▶ Open ──its time has come──▶ Probing ──taken──▶ Shut
//!                    ▲                            │
//!                    └──────────refused───────────┘
//! any ──stopped──▶ Paused ──PAUSE_PROBE has passed──▶ Probing
//! ```
//!
//! Why an operator has to act is carried through Open and Probing until something is taken, and a refusal that comes
//! late does not shorten a pause.

use std::time::{Duration, Instant};

use crate::backoff::{Retry, delay};

/// How often a paused exporter tries whether an operator has acted at the backend.
///
/// A minute is seldom enough not to annoy a backend that says 401, and soon enough that nobody restarts us for it.
pub const PAUSE_PROBE: Duration = Duration::from_secs(60);

/// Where the breaker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Shut,
    Open { until: Instant, paused: Option<String> },
    Paused { until: Instant, why: String },
    Probing { paused: Option<String> },
}

/// The breaker of one exporter.
#[derive(Debug)]
pub struct Breaker {
    retry: Retry,
    state: State,
    refusals: u32,
}

/// What the breaker says about one more push now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Go,
    /// Go on, alone: the outcome decides for all.
    Probe,
    /// Not before this time.
    NotBefore(Instant),
    /// A probe is under way: wait for its outcome.
    Wait,
}

impl Breaker {
    /// A shut breaker.
    pub fn new(retry: Retry) -> Self {
        Self { retry, state: State::Shut, refusals: 0 }
    }

    /// May one more push begin?
    pub fn permit(&self, now: Instant) -> Permit {
        match &self.state {
            State::Shut => Permit::Go,
            State::Open { until, .. } | State::Paused { until, .. } if *until > now => {
                Permit::NotBefore(*until)
            }
            State::Open { .. } | State::Paused { .. } => Permit::Probe,
            State::Probing { .. } => Permit::Wait,
        }
    }

    /// A probe begins.
    pub fn probe(&mut self) {
        self.state = State::Probing { paused: self.why_paused().map(str::to_owned) };
    }

    /// The probe ended without a word from the backend (it was cut, or nothing was there to send).
    pub fn unprobe(&mut self, now: Instant) {
        if let State::Probing { paused } = &self.state {
            self.state = State::Open { until: now, paused: paused.clone() };
        }
    }

    /// The backend took something.
    pub fn taken(&mut self) {
        self.refusals = 0;
        self.state = State::Shut;
    }

    /// The backend refused for now: what was refused is not tried before the time that this returns.
    pub fn refused(&mut self, wish: Option<Duration>, now: Instant, jitter: f64) -> Instant {
        match &self.state {
            // Pushes that were under way when the breaker opened say nothing new.
            State::Open { until, .. } if *until > now => return *until,
            // Nor does one that was under way when the pause began; its lane need not wait for the pause's probe.
            State::Paused { until, .. } if *until > now => {
                return (now + delay(self.retry, 1, wish, jitter)).min(*until);
            }
            State::Shut | State::Open { .. } | State::Paused { .. } | State::Probing { .. } => (),
        }
        self.refusals = self.refusals.saturating_add(1);
        let until = now + delay(self.retry, self.refusals, wish, jitter);
        self.state = State::Open { until, paused: self.why_paused().map(str::to_owned) };
        until
    }

    /// The backend will take nothing until an operator acts. True when that is news.
    pub fn paused(&mut self, why: &str, now: Instant) -> bool {
        let news = self.why_paused() != Some(why);
        self.state = State::Paused { until: now + PAUSE_PROBE, why: why.to_owned() };
        news
    }

    /// Why the exporter is paused, if it is.
    pub fn why_paused(&self) -> Option<&str> {
        match &self.state {
            State::Paused { why, .. } => Some(why),
            State::Open { paused, .. } | State::Probing { paused } => paused.as_deref(),
            State::Shut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        let retry = Retry { initial: Duration::from_secs(1), max: Duration::from_secs(8) };
        (Breaker::new(retry), Instant::now())
    }

    /// Scenario: sixteen pushes were under way when the backend died; all of them fail.
    /// Guarantees: that counts as one refusal, then one probe goes out alone, and its success shuts the breaker.
    #[test]
    fn a_dead_backend_is_probed_by_one() {
        let (mut breaker, now) = breaker();
        let until = breaker.refused(None, now, 1.0);
        for _ in 0..15 {
            assert_eq!(breaker.refused(None, now, 1.0), until);
        }
        assert_eq!(breaker.permit(now), Permit::NotBefore(until));
        assert_eq!(breaker.permit(until), Permit::Probe);
        breaker.probe();
        assert_eq!(breaker.permit(until), Permit::Wait);
        breaker.taken();
        assert_eq!(breaker.permit(until), Permit::Go);
    }

    /// Scenario: 401, a minute later 401 again, then the operator acts.
    /// Guarantees: the reason is news once, stays readable while we probe, and goes with the first success.
    #[test]
    fn a_pause_is_told_once_and_probed() {
        let (mut breaker, now) = breaker();
        assert!(breaker.paused("401", now));
        let later = now + PAUSE_PROBE;
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.probe();
        assert_eq!(breaker.why_paused(), Some("401"));
        assert!(!breaker.paused("401", later));
        breaker.probe();
        breaker.taken();
        assert_eq!(breaker.why_paused(), None);
    }

    /// Scenario: 401; a minute later the probe finds nobody listening; then the backend takes something.
    /// Guarantees: the reason is carried through the back-off and the next probe, is no news, and goes with the success.
    #[test]
    fn a_pause_is_remembered_through_a_refused_probe() {
        let (mut breaker, now) = breaker();
        breaker.paused("401", now);
        breaker.probe();
        let later = now + PAUSE_PROBE;
        let until = breaker.refused(None, later, 1.0);
        assert_eq!(until, later + Duration::from_secs(1));
        assert_eq!(breaker.why_paused(), Some("401"));
        assert_eq!(breaker.permit(until), Permit::Probe);
        breaker.probe();
        assert_eq!(breaker.why_paused(), Some("401"));
        breaker.unprobe(until);
        assert_eq!(breaker.why_paused(), Some("401"));
        assert!(!breaker.paused("401", until));
        breaker.taken();
        assert_eq!((breaker.why_paused(), breaker.permit(until)), (None, Permit::Go));
    }

    /// Scenario: of three pushes under way one gets 401, then one 503, then one 200.
    /// Guarantees: the 503 neither shortens the pause nor forgets its reason, its lane waits no longer than a back-off,
    /// and the 200 ends the pause.
    #[test]
    fn a_late_refusal_does_not_shorten_a_pause() {
        let (mut breaker, now) = breaker();
        breaker.paused("401", now);
        assert_eq!(breaker.refused(None, now, 1.0), now + Duration::from_secs(1));
        assert_eq!(breaker.permit(now), Permit::NotBefore(now + PAUSE_PROBE));
        assert_eq!(breaker.why_paused(), Some("401"));
        breaker.taken();
        assert_eq!((breaker.why_paused(), breaker.permit(now)), (None, Permit::Go));
    }
}

//! A limit on lines of one kind: a peer that is refused ten thousand times a second does not fill a disk with our log.
//!
//! A kind is a place in the code and the configured id of whom it speaks, so that one loud plugin hides no other. Each may say [`BURST`] lines at once and [`LINES_A_SECOND`] for good; the line that
//! comes after some were held back is preceded by one that says how many. What an operator turned on by `debug` or
//! `trace` is not limited.
//!
//! Invariant: a kind that was silent for [`BURST`] / [`LINES_A_SECOND`] seconds is heard at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one kind at once: what a person reads of a sudden trouble, and more.
const BURST: u32 = 100;

/// Lines of one kind for good: under 100 MB a day.
const LINES_A_SECOND: u32 = 5;

/// Kinds that are told apart: some hundred places in the code, most of which speak of a few ids. Beyond, those of one
/// place are one kind.
const KINDS_MAX: usize = 4096;

/// Fields that hold a configured id, never what a peer or a guest says.
const ID_FIELDS: [&str; 4] = ["id", "exporter", "receiver", "pipeline"];

/// The limit, as a layer over whatever writes the lines.
#[derive(Debug, Default)]
pub(super) struct Flood {
    kinds: Mutex<HashMap<(Identifier, Whom), Kind>>,
}

/// Of whom a line speaks: a hash of the id, or 0 for nobody. Two that collide share a limit, no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Whom(u64);

impl Visit for Whom {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if ID_FIELDS.contains(&field.name()) {
            let mut hasher = DefaultHasher::new();
            (self.0, format!("{value:?}")).hash(&mut hasher);
            self.0 = hasher.finish();
        }
    }
}

#[derive(Debug)]
struct Kind {
    left: u32,
    since: Instant,
    held: u64,
}

impl Kind {
    fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, held: 0 }
    }

    /// Whether a line may pass, and how many were held back before it.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        let each = Duration::from_secs(1) / LINES_A_SECOND;
        let earned = now.saturating_duration_since(self.since).as_nanos() / each.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.held))
            }
            None => {
                self.held += 1;
                None
            }
        }
    }
}

impl Flood {
    fn pass(&self, place: Identifier, whom: Whom, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.len() < KINDS_MAX || kinds.contains_key(&(place.clone(), whom));
        let whom = if known { whom } else { Whom::default() };
        kinds.entry((place, whom)).or_insert_with(|| Kind::new(now)).pass(now)
    }
}

impl<S: Subscriber> Layer<S> for Flood {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return true;
        }
        let mut whom = Whom::default();
        event.record(&mut whom);
        match self.pass(metadata.callsite(), whom, Instant::now()) {
            None => false,
            Some(0) => true,
            Some(held) => {
                warn!(held, "lines like the next one were held back");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Scenario: one place warns ten thousand times of one id and then once of another, another place warns once, and
    /// debug lines were asked for.
    /// Guarantees: the first is cut after its burst (and what it earns meanwhile), the others are whole.
    #[test]
    fn one_kind_of_line_cannot_drown_another() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish()
            .with(Flood::default());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..=10_000 {
                let id = if n < 10_000 { "loud" } else { "quiet" };
                warn!(%id, n, "flood");
            }
            warn!("the other");
            for _ in 0..200 {
                tracing::debug!("asked for");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert!((BURST as usize..5_000).contains(&count("flood id=loud")), "{}", count("flood id=loud"));
        assert_eq!((count("flood id=quiet"), count("the other"), count("asked for")), (1, 1, 200));
    }

    /// Scenario: a burst and more, then a second, then a long silence.
    /// Guarantees: what passes next knows how many were held back, and silence gives the burst back.
    #[test]
    fn what_was_held_back_is_told() {
        let start = Instant::now();
        let mut kind = Kind::new(start);
        assert_eq!((0..BURST + 7).filter_map(|_| kind.pass(start)).count(), BURST as usize);
        let later = start + Duration::from_secs(1);
        assert_eq!(kind.pass(later), Some(7));
        assert_eq!((0..100).filter_map(|_| kind.pass(later)).count(), LINES_A_SECOND as usize - 1);
        let much_later = later + Duration::from_secs(60);
        assert_eq!((0..1_000).filter_map(|_| kind.pass(much_later)).count(), BURST as usize);
    }
}

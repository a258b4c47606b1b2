//! A wire between an agent and the collector: messages in order, late, or not at all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;

/// The longest that a message is on its way while nothing goes wrong.
const LATE_MAX: Duration = Duration::from_millis(800);

/// One direction.
#[derive(Debug)]
pub(super) struct Way<T> {
    coming: VecDeque<(Instant, T)>,
    /// Nothing arrives before.
    stands_until: Option<Instant>,
    /// Nothing arrives any more, and nobody is told.
    is_severed: bool,
    /// Whoever speaks has closed it; what is under way arrives before the listener hears of that.
    is_closed: bool,
}

/// Both.
#[derive(Debug)]
pub(super) struct Wire {
    /// Whose.
    pub(super) agent: usize,
    pub(super) opened: Instant,
    pub(super) up: Way<Up>,
    pub(super) down: Way<Down>,
    /// Whether the end still holds it: an agent that has given it up does not read what comes.
    pub(super) agent_holds: bool,
    pub(super) collector_holds: bool,
}

/// What a listener finds.
#[derive(Debug)]
pub(super) enum Found<T> {
    Message(T),
    Nothing,
    /// It was closed, or cut.
    End,
}

impl<T> Way<T> {
    fn new() -> Self {
        Self { coming: VecDeque::new(), stands_until: None, is_severed: false, is_closed: false }
    }

    pub(super) fn say(&mut self, message: T, now: Instant, random: &mut fastrand::Rng) {
        if self.is_closed || self.is_severed {
            return;
        }
        let late = Duration::from_millis(random.u64(1..LATE_MAX.as_millis() as u64));
        // A wire has an order.
        let last = self.coming.back().map_or(now, |(due, _)| *due);
        self.coming.push_back((last.max(now + late), message));
    }

    pub(super) fn find(&mut self, now: Instant) -> Found<T> {
        if self.is_severed || self.stands_until.is_some_and(|until| now < until) {
            return Found::Nothing;
        }
        match self.coming.front() {
            Some((due, _)) if *due <= now => {
                Found::Message(self.coming.pop_front().expect("it was just seen").1)
            }
            Some(_) => Found::Nothing,
            None if self.is_closed => Found::End,
            None => Found::Nothing,
        }
    }

    pub(super) fn is_severed(&self) -> bool {
        self.is_severed
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Stands still until then. What is said meanwhile arrives afterwards, as TCP has it.
    pub(super) fn stand(&mut self, until: Instant) {
        self.stands_until = self.stands_until.max(Some(until));
    }

    pub(super) fn flow(&mut self) {
        self.stands_until = None;
    }

    /// What is under way is gone, and the listener hears of the end at once; or never.
    pub(super) fn cut(&mut self, is_told: bool) {
        self.coming.clear();
        (self.is_closed, self.is_severed) = (is_told, !is_told);
    }
}

impl Wire {
    pub(super) fn new(agent: usize, now: Instant) -> Self {
        let (up, down) = (Way::new(), Way::new());
        Self { agent, opened: now, up, down, agent_holds: true, collector_holds: true }
    }
}

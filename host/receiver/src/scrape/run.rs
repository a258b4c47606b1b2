//! The one task that begins turns. What waits costs an entry of a heap; what is under way has a task of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};
use weir_net::Drain;
use weir_net::client::FETCHES_MAX;

use super::counts::{LateKind, ScrapeCounts};
use super::discovery::{Discovery, LOOK_INTERVAL, Roster};
use super::job::Job;
use super::legacy::{Left, Legacy};
use super::round::{Ended, Means, Reading, Turn};
use super::schedule::{Due, Schedule, first_turn, next_turn};
use super::slots::{Doing, Pace, Slots, Step};

/// Of the fetches under way, those of targets that have not shown yet that they answer in time, dead ones included: a quarter of
/// the room is for those that have, whatever else there is.
const UNPROVEN_FETCHES_MAX: usize = FETCHES_MAX / 4 * 3;

/// Of these, those of targets that failed and took long when they were last asked: dead ones, of which there may be any number,
/// leave room for whoever is new.
const SLOW_FETCHES_MAX: usize = FETCHES_MAX / 2;

/// How long the last of a target is offered to the pipeline.
const FORGET_WITHIN: Duration = Duration::from_secs(30);

/// Targets that are forgotten at once when a receiver leaves: the plugin has one instance, and the queue takes them together.
const FORGETS_MAX: usize = 64;

/// A receiver's schedule.
pub(super) struct Runner {
    jobs: Arc<[Job]>,
    means: Arc<Means>,
    legacy: Legacy,
}

impl Runner {
    pub(super) fn new(jobs: Arc<[Job]>, means: Means, legacy: Legacy) -> Self {
        Self { jobs, means: Arc::new(means), legacy }
    }

    pub(super) async fn run(self, drain: Drain) {
        let Self { jobs, means, legacy } = self;
        let (sender, mut rosters) = mpsc::channel(1);
        // Ends with this future, however that ends.
        let mut looking = JoinSet::new();
        looking.spawn(look(Discovery::new(jobs), means.counts.clone(), sender));
        let mut work = Work::new(means, drain.clone());
        loop {
            tokio::select! {
                biased;
                () = drain.signaled() => break,
                () = until(work.schedule.next_at()) => work.begin_due(),
                Some(ended) = work.turns.join_next_with_id(), if !work.turns.is_empty() => work.note(ended),
                Some(roster) = rosters.recv() => work.follow(roster),
                () = legacy.came(), if work.has_roster => work.inherit(legacy.take()),
            }
        }
        looking.shutdown().await;
        work.finish(&legacy).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Looks at files of targets again and again, and says what there is whenever it is something else.
async fn look(mut discovery: Discovery, counts: ScrapeCounts, rosters: mpsc::Sender<Roster>) {
    let mut is_first = true;
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let changed = discovery.look(std::time::Instant::now()) || is_first;
            let roster = changed.then(|| discovery.roster());
            (discovery, roster)
        });
        let Ok((back, roster)) = looked.await else {
            error!(
                "the look at files of targets broke off, the targets stay as they are until the next reload"
            );
            return;
        };
        discovery = back;
        is_first = false;
        counts.complain(&discovery.complaints());
        if let Some(roster) = roster {
            counts.left_out.set(roster.left_out as u64);
            if rosters.send(roster).await.is_err() {
                return;
            }
        }
        if discovery.is_fixed() {
            return;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// What a task has done.
enum Done {
    Turn(Ended),
    Forgot,
    /// For a run before this one.
    Stranger,
}

/// The targets, and what is under way for them.
struct Work {
    means: Arc<Means>,
    drain: Drain,
    slots: Slots,
    schedule: Schedule,
    turns: JoinSet<Done>,
    /// Whose each task is; none for targets of a run before this one.
    whose: HashMap<Id, Option<usize>>,
    fetches: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    has_roster: bool,
}

impl Work {
    fn new(means: Arc<Means>, drain: Drain) -> Self {
        Self {
            means,
            drain,
            slots: Slots::default(),
            schedule: Schedule::default(),
            turns: JoinSet::new(),
            whose: HashMap::new(),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            unproven: Arc::new(Semaphore::new(UNPROVEN_FETCHES_MAX)),
            slow: Arc::new(Semaphore::new(SLOW_FETCHES_MAX)),
            has_roster: false,
        }
    }

    fn follow(&mut self, roster: Roster) {
        let targets = roster.found.len();
        let steps = self.slots.follow(roster.found);
        self.means.fetch.reach(self.slots.origins());
        self.means.counts.targets.set(targets as u64);
        self.has_roster = true;
        let left_out = roster.left_out;
        info!(receiver = %self.means.intake.settings().id, targets, left_out, "targets to scrape");
        let now = (Instant::now(), self.means.clock.unix_nanos());
        steps.into_iter().for_each(|step| self.take(step, now));
    }

    /// Does what is to be done; `now` on both clocks.
    fn take(&mut self, step: Step, (now, unix_nanos): (Instant, u64)) {
        match step {
            Step::Plan(index) => {
                let Some(slot) = self.slots.get_mut(index) else { return };
                let wait = first_turn(unix_nanos, slot.found.interval, slot.found.hash());
                self.schedule.plan(Due { at: now + wait, slot: index, number: slot.number });
            }
            Step::Forget(index) => {
                let Some(slot) = self.slots.get_mut(index) else { return };
                let (means, target) = (Arc::clone(&self.means), Arc::clone(&slot.found.target));
                let drain = self.drain.clone();
                let task = self.turns.spawn(async move {
                    means.forget(&*means.scraper, &target, now + FORGET_WITHIN, &drain).await;
                    Done::Forgot
                });
                self.whose.insert(task.id(), Some(index));
            }
        }
    }

    /// Begins every turn that is due.
    fn begin_due(&mut self) {
        let (now, generation) = (Instant::now(), self.means.scraper.generation());
        while let Some(due) = self.schedule.take(now) {
            let Some(slot) = self.slots.numbered(due.slot, due.number) else { continue };
            if slot.doing == Doing::Forgetting {
                continue;
            }
            let interval = slot.found.interval;
            let (next, missed) = next_turn(due.at, interval, now);
            self.schedule.plan(Due { at: next, ..due });
            self.means.counts.late(LateKind::Behind).add(missed);
            let (is_waiting, pace) = (slot.doing == Doing::Waiting, slot.pace);
            let is_held = is_waiting && slot.hold.take(generation);
            let room = match (is_waiting, is_held) {
                (true, false) => self.room(pace),
                // Nothing is fetched.
                (true, true) => Some(Vec::new()),
                (false, _) => None,
            };
            match room {
                Some(room) => self.begin(due, (next, interval, now), is_held, room),
                None if is_waiting => self.means.counts.late(LateKind::NoRoom).add(1),
                None => self.means.counts.late(LateKind::Running).add(1),
            }
        }
    }

    /// Room for one fetch, if there is any.
    fn room(&self, pace: Pace) -> Option<Vec<OwnedSemaphorePermit>> {
        let all = [&self.fetches, &self.unproven, &self.slow];
        let taken = match pace {
            Pace::Prompt => &all[..1],
            Pace::Unknown => &all[..2],
            Pace::Slow => &all[..],
        };
        taken.iter().map(|room| Arc::clone(room).try_acquire_owned().ok()).collect()
    }

    fn begin(
        &mut self,
        due: Due,
        (next, interval, now): (Instant, Duration, Instant),
        is_held: bool,
        room: Vec<OwnedSemaphorePermit>,
    ) {
        let Some(slot) = self.slots.get_mut(due.slot) else { return };
        slot.doing = Doing::Turn;
        if is_held {
            self.means.counts.late(LateKind::PluginEnded).add(1);
        }
        let late = now.saturating_duration_since(next - interval);
        let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        let turn = Turn {
            found: Arc::clone(&slot.found),
            prepared: slot.prepared.take(),
            at: self.means.clock.unix_nanos().saturating_sub(late),
            next,
            keeping: slot.keeping,
            is_held,
            room,
        };
        let (means, drain) = (Arc::clone(&self.means), self.drain.clone());
        let task = self.turns.spawn(async move { Done::Turn(means.turn(turn, &drain).await) });
        self.whose.insert(task.id(), Some(due.slot));
    }

    /// Notes that a task has ended.
    fn note(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (id, done) = match ended {
            Ok((id, done)) => (id, Some(done)),
            Err(panic) => {
                error!(receiver = %self.means.intake.settings().id, error = %panic, "a scrape broke off");
                (panic.id(), None)
            }
        };
        let Some(index) = self.whose.remove(&id).flatten() else { return };
        let is_forgetting = self.slots.get_mut(index).is_some_and(|slot| slot.doing == Doing::Forgetting);
        let step = match done {
            Some(Done::Turn(ended)) => {
                let is_fatal = matches!(ended.reading, Reading::Ended(_));
                let step = self.slots.turn_ended(index, Some(ended));
                if is_fatal {
                    self.tell_held(index);
                }
                step
            }
            None if !is_forgetting => self.slots.turn_ended(index, None),
            Some(Done::Forgot | Done::Stranger) | None => self.slots.forgotten(index),
        };
        if let Some(step) = step {
            self.take(step, (Instant::now(), self.means.clock.unix_nanos()));
        }
    }

    fn tell_held(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let target = &slot.found.target;
        let instance = target.labels.iter().find(|(name, _)| name == "instance").map(|(_, value)| value);
        let (receiver, turns) = (&self.means.intake.settings().id, slot.hold.left);
        warn!(%receiver, job = target.job, instance, turns, "the plugin ended on what this target answered: it is not fetched for so many turns");
    }

    /// Has what a run before this one fetched, and this one does not, forgotten by the plugin that knows it.
    fn inherit(&mut self, all: Vec<Left>) {
        for Left { scraper, targets } in all {
            // What stays is known as it was; another instance knows nothing of it.
            if std::ptr::addr_eq(Arc::as_ptr(&scraper), Arc::as_ptr(&self.means.scraper)) {
                self.slots.know(&targets);
            }
            let gone = targets.into_iter().filter(|target| !self.slots.has(target)).collect::<Vec<_>>();
            if gone.is_empty() {
                continue;
            }
            let (means, drain) = (Arc::clone(&self.means), self.drain.clone());
            let task = self.turns.spawn(async move {
                let until = Instant::now() + FORGET_WITHIN;
                let forget = |target| {
                    let (means, scraper, drain) = (&means, &scraper, &drain);
                    async move { means.forget(&**scraper, &target, until, drain).await }
                };
                stream::iter(gone).for_each_concurrent(FORGETS_MAX, forget).await;
                Done::Stranger
            });
            self.whose.insert(task.id(), None);
        }
    }

    /// Waits for what is under way, and leaves the targets to the next run; or forgets them where there will be none.
    async fn finish(mut self, legacy: &Legacy) {
        while let Some(ended) = self.turns.join_next_with_id().await {
            if let Ok((id, Done::Turn(ended))) = ended
                && let Some(index) = self.whose.remove(&id).flatten()
            {
                // A target that was to be forgotten after this turn is told of below, or by the next run.
                let _ = self.slots.turn_ended(index, Some(ended));
            }
        }
        let targets = self.slots.known();
        // The next run, which may have begun, has set how many targets there are.
        if !legacy.is_farewell() {
            legacy.leave(Left { scraper: Arc::clone(&self.means.scraper), targets });
            return;
        }
        self.means.counts.targets.set(0);
        let (until, never) = (Instant::now() + FORGET_WITHIN, Drain::new());
        let forget = |target| {
            let (means, never) = (&self.means, &never);
            async move { means.forget(&*means.scraper, &target, until, never).await }
        };
        stream::iter(targets).for_each_concurrent(FORGETS_MAX, forget).await;
    }
}

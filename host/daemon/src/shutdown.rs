//! The order of death, and the life before it.
//!
//! Stop listening and let streams finish; settle what is under way; empty queues that would die with us; close the
//! files cleanly. One deadline stands over all, and one line says how it ended.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant as Deadline, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{error, warn};
use weir_net::Drain;

use crate::assembly::{Daemon, NamedQueue};
use crate::telemetry::pages::Health;

/// How often queues hear the time, for the dates of dead letters and the age of removed exporters.
const TICK: Duration = Duration::from_secs(10);

/// How often a draining process looks whether its queues in memory are empty.
const EMPTY_LOOK: Duration = Duration::from_millis(20);

/// What is left of the deadline for closing files when everything else has used its part.
const CLOSE_RESERVE: Duration = Duration::from_secs(2);

/// How a process ended.
#[derive(Debug)]
pub enum Ended {
    /// Everything that was under way was finished.
    Clean {
        /// How long the drain took.
        took: Duration,
    },
    /// Something was not, and was cut.
    Cut {
        /// What.
        what: String,
    },
}

/// What the process is told by signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens. Before it, a signal ends the process at once, as the system's default is.
    ///
    /// # Errors
    /// Where signals cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the process is asked to end, with the name of the signal. SIGHUP is answered in the log.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    warn!(signal = "SIGHUP", "reload comes in a later version; restart to take a new configuration");
                }
            }
        }
    }
}

/// How a life ends: `begin` starts the drain, `cut` takes away what is left of its time.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop listening, and finish.
    pub begin: Drain,
    /// Do not wait for what does not finish by itself.
    pub cut: Drain,
}

impl Stop {
    /// Waits for `work` until `deadline`, or until the drain is cut; whether it was done.
    async fn gives(&self, deadline: Deadline, work: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = work => true,
            () = sleep_until(deadline) => false,
            () = self.cut.signaled() => false,
        }
    }

    /// The deadline for what was told to end at once.
    fn last(&self, deadline: Deadline) -> Deadline {
        match self.cut.is_signaled() {
            true => deadline.min(Deadline::now() + CLOSE_RESERVE),
            false => deadline,
        }
    }
}

/// Tasks that live as long as the process, with names for the log.
#[derive(Default)]
struct Tasks {
    set: JoinSet<io::Result<()>>,
    names: HashMap<Id, String>,
}

impl Tasks {
    fn spawn(&mut self, name: String, task: impl Future<Output = io::Result<()>> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// The next that ends, and how, where it did not end well; pending for ever where none is left.
    async fn next(&mut self) -> (String, Option<String>) {
        let (id, why) = match self.set.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, Ok(())))) => (id, None),
            Some(Ok((id, Err(error)))) => (id, Some(error.to_string())),
            Some(Err(error)) => (error.id(), Some(format!("it panicked: {error}"))),
        };
        (self.names.remove(&id).unwrap_or_default(), why)
    }

    async fn join(&mut self) {
        while !self.set.is_empty() {
            if let (part, Some(error)) = self.next().await {
                error!(part, error, "a part failed");
            }
        }
    }
}

/// Serves until `stop`, then drains.
pub(crate) async fn live_and_die(daemon: Daemon, stop: Stop) -> Ended {
    let Daemon { doors, pages, deliveries, queues, admin, host, drain_timeout, in_memory, health, lock } =
        daemon;
    let (doors_drain, pages_drain, exports) = (Drain::new(), Drain::new(), weir_exporter::Stop::default());
    let mut serving = Tasks::default();
    for (id, door) in doors {
        serving.spawn(format!("receiver {id}"), door.serve(doors_drain.clone()));
    }
    let mut exporting = Tasks::default();
    for (name, delivery) in deliveries {
        let exports = exports.clone();
        exporting.spawn(name, async move {
            delivery.run(exports).await;
            Ok(())
        });
    }
    let mut watching = Tasks::default();
    for page in pages {
        let drain = pages_drain.clone();
        watching.spawn("a page".to_owned(), async move { page.bound.serve(page.handler, drain).await });
    }
    if let Some(admin) = admin {
        watching.spawn("the admin socket".to_owned(), admin.serve(pages_drain.clone()));
    }

    let (plugins, drain) = (host.clone(), doors_drain.clone());
    watching.spawn("the watch over the plugin folder".to_owned(), async move {
        tokio::select! {
            () = plugins.watch() => (),
            () = drain.signaled() => (),
        }
        Ok(())
    });

    live(&queues, [&mut serving, &mut exporting, &mut watching], &health, &stop.begin).await;

    let began = Instant::now();
    let deadline = Deadline::from_std(began + drain_timeout);
    let work_deadline = deadline.checked_sub(CLOSE_RESERVE.min(drain_timeout / 2)).unwrap_or(deadline);
    let mut cut = Vec::new();
    health.drain.signal();

    doors_drain.signal();
    if !stop.gives(work_deadline, serving.join()).await {
        cut.push("senders were still connected".to_owned());
    }
    // What is dropped here was not answered: its senders will send again.
    serving.set.shutdown().await;
    queues.iter().for_each(|named| named.queue.drain());
    if in_memory && !stop.gives(work_deadline, emptied(&queues)).await {
        let of = |named: &NamedQueue| {
            named.queue.status().cursors.iter().map(|cursor| cursor.pending_items).sum::<u64>()
        };
        let items: u64 = queues.iter().map(of).sum();
        cut.push(format!("{items} items in memory were not delivered and are lost"));
    }
    exports.drain.cancel();
    if !stop.gives(work_deadline, exporting.join()).await {
        // The leases are deferred and delivered again after the next start.
        exports.cut.cancel();
        if timeout_at(stop.last(deadline), exporting.join()).await.is_err() {
            cut.push("a push to a backend did not end".to_owned());
        }
    }
    if timeout_at(stop.last(deadline), host.drain()).await.is_err() {
        cut.push("a plugin's call did not end".to_owned());
    }
    close(&queues, deadline, &mut cut).await;
    pages_drain.signal();
    if timeout_at(stop.last(deadline + CLOSE_RESERVE), watching.join()).await.is_err() {
        watching.set.shutdown().await;
    }
    // The folder is ours until nothing of us is in it.
    drop(lock);
    match cut.is_empty() {
        true => Ended::Clean { took: began.elapsed() },
        false => Ended::Cut { what: cut.join("; ") },
    }
}

/// Until `stop`. A part that ends before is told: the process goes on with the others, and its health page says so.
async fn live(queues: &[NamedQueue], parts: [&mut Tasks; 3], health: &Health, stop: &Drain) {
    let [serving, exporting, watching] = parts;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let (part, why) = tokio::select! {
            _ = ticks.tick() => {
                let wall = std::time::SystemTime::now();
                queues.iter().for_each(|named| named.queue.tick(wall));
                health.look(Instant::now());
                continue;
            }
            () = stop.signaled() => return,
            ended = serving.next() => ended,
            ended = exporting.next() => ended,
            ended = watching.next() => ended,
        };
        let error = why.unwrap_or_else(|| "it ended by itself".to_owned());
        error!(part, error, "a part is gone until weir is restarted");
        health.lost(part, format!("gone until weir is restarted: {error}"));
    }
}

async fn emptied(queues: &[NamedQueue]) {
    let mut looks = interval(EMPTY_LOOK);
    let pending =
        |named: &NamedQueue| named.queue.status().cursors.iter().any(|cursor| cursor.pending_records > 0);
    while queues.iter().any(pending) {
        looks.tick().await;
    }
}

async fn close(queues: &[NamedQueue], deadline: Deadline, cut: &mut Vec<String>) {
    for NamedQueue { pipeline, queue } in queues {
        match timeout_at(deadline + CLOSE_RESERVE, queue.close()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => {
                warn!(pipeline, %error, "queue not closed cleanly, the next start repairs it");
                cut.push(format!("the queue of pipeline {pipeline} was not closed cleanly: {error}"));
            }
            Err(_) => cut.push(format!("the queue of pipeline {pipeline} did not close in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: one part panics, one fails, one ends well, all before the process is asked to end.
    /// Guarantees: life goes on until it is, and the health page names all three.
    #[tokio::test]
    async fn a_part_that_ends_early_is_told() {
        let health = Health::new(Vec::new(), Vec::new());
        let stop = Drain::new();
        let (mut serving, mut exporting, mut watching) =
            (Tasks::default(), Tasks::default(), Tasks::default());
        serving.spawn("receiver otlp".to_owned(), async { Err(io::Error::other("the socket is gone")) });
        exporting.spawn("exporter otlp".to_owned(), async { panic!("on purpose") });
        watching.spawn("a page".to_owned(), async { Ok(()) });
        let parts = [&mut serving, &mut exporting, &mut watching];
        {
            let mut life = std::pin::pin!(live(&[], parts, &health, &stop));
            while health.lasting() < 3 {
                tokio::select! {
                    () = &mut life => panic!("nobody has asked for the end"),
                    () = tokio::task::yield_now() => (),
                }
            }
            stop.signal();
            life.await;
        }
        assert_eq!(health.lasting(), 3);
        assert!(serving.set.is_empty() && exporting.set.is_empty() && watching.set.is_empty());
    }
}

//! The order of death, and the life before it.
//!
//! Stop listening and let streams finish; empty queues that would die with us; shut the pages; settle what is under way;
//! close the files cleanly. One deadline stands over all, and one line says how it ended.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant as Deadline, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{error, warn};
use weir_net::Drain;

use crate::assembly::{Daemon, NamedQueue, Parts, Tasks, Triggers, Views, emptied, own, reload};
use crate::config::Storage;
use crate::telemetry::pages::Health;

/// How often queues hear the time, for the dates of dead letters and the age of removed exporters.
const TICK: Duration = Duration::from_secs(10);

/// What is left of the deadline for closing files when everything else has used its part.
const CLOSE_RESERVE: Duration = Duration::from_secs(2);

/// How long readers of pages may take to finish: nothing is lost with a page that is cut, so nobody waits long for it.
const PAGES_RESERVE: Duration = Duration::from_secs(2);

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

/// What ends the process: SIGTERM, SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens. Before it, a signal ends the process at once, as the system's default is.
    ///
    /// # Errors
    /// Where signals cannot be listened for.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the process is asked to end, with the name of the signal.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
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

/// Serves until `stop`, then drains.
pub(crate) async fn live_and_die(mut daemon: Daemon, stop: Stop, mut triggers: Triggers) -> Ended {
    let pages_drain = Drain::new();
    let mut watching = Tasks::default();
    daemon.parts.start();
    for page in std::mem::take(&mut daemon.pages) {
        let drain = pages_drain.clone();
        watching.spawn("a page".to_owned(), async move { page.bound.serve(page.handler, drain).await });
    }
    if let Some(admin) = daemon.admin.take() {
        watching.spawn("the admin socket".to_owned(), admin.serve(pages_drain.clone()));
    }
    watching.spawn("the clock".to_owned(), tick(daemon.views.clone(), pages_drain.clone()));
    let (plugins, drain) = (daemon.foundation.plugins.host().clone(), daemon.parts.doors_drain.clone());
    let own = own::report(daemon.views.clone(), daemon.nodes(), plugins, drain);
    watching.spawn("the report of this process's own states".to_owned(), own);

    let (plugins, drain) = (daemon.foundation.plugins.host().clone(), daemon.parts.doors_drain.clone());
    watching.spawn("the watch over the plugin folder".to_owned(), async move {
        tokio::select! {
            () = plugins.watch() => (),
            () = drain.signaled() => (),
        }
        Ok(())
    });

    loop {
        let Parts { serving, exporting, pages, .. } = &mut daemon.parts;
        let tasks = [serving, exporting, &mut pages.serving, &mut watching];
        tokio::select! {
            biased;
            () = live(tasks, &daemon.views.health, &stop.begin) => break,
            cause = triggers.next() => reload(&mut daemon, &mut triggers, cause, &stop.begin).await,
        }
    }
    die(daemon, watching, pages_drain, stop).await
}

/// The order of death.
async fn die(daemon: Daemon, mut watching: Tasks, pages_drain: Drain, stop: Stop) -> Ended {
    let Daemon { config, foundation, mut parts, views, lock, .. } = daemon;
    let (drain_timeout, in_memory) =
        (config.service.drain_timeout, config.service.queue.storage == Storage::Memory);
    let queues = parts.queues();
    let began = Instant::now();
    let deadline = Deadline::from_std(began + drain_timeout);
    let work_deadline = deadline.checked_sub(CLOSE_RESERVE.min(drain_timeout / 2)).unwrap_or(deadline);
    let mut cut = Vec::new();
    views.health.drain.signal();

    parts.doors_drain.signal();
    if !stop.gives(work_deadline, parts.serving.join()).await {
        cut.push("senders were still connected".to_owned());
    }
    // What is dropped here was not answered: its senders will send again.
    parts.serving.shutdown().await;
    queues.iter().for_each(|named| named.queue.drain());
    if in_memory {
        stop.gives(work_deadline, emptied(&parts.owed(|_| true))).await;
        let items: u64 = queues.iter().map(pending_items).sum();
        if items > 0 {
            cut.push(format!("{items} items in memory were not delivered and are lost"));
        }
    }
    // What was delivered to a page is read until here. A reader that has not got all of it comes again.
    parts.pages.drain.signal();
    stop.gives(work_deadline.min(Deadline::now() + PAGES_RESERVE), parts.pages.serving.join()).await;
    parts.pages.serving.shutdown().await;
    parts.exports.drain.cancel();
    let links = parts.links();
    links.iter().for_each(|link| link.leave());
    if !stop.gives(work_deadline, parts.exporting.join()).await {
        // The leases are deferred and delivered again after the next start.
        parts.exports.cut.cancel();
        if timeout_at(stop.last(deadline), parts.exporting.join()).await.is_err() {
            cut.push("a push to a backend did not end".to_owned());
        }
    }
    // Who reports holds an agent's outbox, and who watches the states of agents.
    if timeout_at(stop.last(deadline), parts.events.end()).await.is_err() {
        cut.push("programs still reported or watched states".to_owned());
    }
    let taken = futures_util::future::join_all(links.iter().map(|link| link.end()));
    if timeout_at(stop.last(deadline), taken).await.is_err() {
        cut.push("a collector was not taken leave of".to_owned());
    }
    if timeout_at(stop.last(deadline), foundation.plugins.host().drain()).await.is_err() {
        cut.push("a plugin's call did not end".to_owned());
    }
    close(&queues, deadline, &mut cut).await;
    // The doors hold the states of agents.
    drop(parts);
    views.forget_agents();
    if timeout_at(stop.last(deadline + CLOSE_RESERVE), foundation.states.close()).await.is_err() {
        cut.push("the states of agents were not closed in time".to_owned());
    }
    pages_drain.signal();
    if timeout_at(stop.last(deadline + CLOSE_RESERVE), watching.join()).await.is_err() {
        watching.shutdown().await;
    }
    // The folder is ours until nothing of us is in it.
    drop(lock);
    match cut.is_empty() {
        true => Ended::Clean { took: began.elapsed() },
        false => Ended::Cut { what: cut.join("; ") },
    }
}

/// Until `stop`. A part that ends before is told: the process goes on with the others, and its health page says so.
///
/// # Cancel safety
/// Safe to drop and to call again.
async fn live(tasks: [&mut Tasks; 4], health: &Health, stop: &Drain) {
    let [serving, exporting, fetched, watching] = tasks;
    loop {
        let (part, why) = tokio::select! {
            () = stop.signaled() => return,
            ended = serving.next() => ended,
            ended = exporting.next() => ended,
            ended = fetched.next() => ended,
            ended = watching.next() => ended,
        };
        let error = why.unwrap_or_else(|| "it ended by itself".to_owned());
        error!(
            part,
            error,
            "a part is gone until weir is restarted, or its section of the configuration changed and read again"
        );
        health.lost(part, format!("gone until weir is restarted or its section changed: {error}"));
    }
}

/// Tells queues the time, and the health page to look, until `drain`.
async fn tick(views: Views, drain: Drain) -> io::Result<()> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => (),
            () = drain.signaled() => return Ok(()),
        }
        let wall = std::time::SystemTime::now();
        views.queues.now().iter().for_each(|named| named.queue.tick(wall));
        views.health.look(Instant::now());
    }
}

/// Items that exporters have not settled.
pub(crate) fn pending_items(named: &NamedQueue) -> u64 {
    named.queue.status().cursors.iter().map(|cursor| cursor.pending_items).sum()
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
        let health = Health::default();
        let stop = Drain::new();
        let (mut serving, mut exporting, mut watching) =
            (Tasks::default(), Tasks::default(), Tasks::default());
        let mut fetched = Tasks::default();
        serving.spawn("receiver otlp".to_owned(), async { Err(io::Error::other("the socket is gone")) });
        exporting.spawn("exporter otlp".to_owned(), async { panic!("on purpose") });
        watching.spawn("a page".to_owned(), async { Ok(()) });
        let parts = [&mut serving, &mut exporting, &mut fetched, &mut watching];
        {
            let mut life = std::pin::pin!(live(parts, &health, &stop));
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
        assert!(serving.is_empty() && exporting.is_empty() && watching.is_empty());
    }
}

//! The order of death, and the life before it.
//!
//! Stop listening and let streams finish; settle what is under way; empty queues that would die with us; close the
//! files cleanly. One deadline stands over all, and one line says how it ended.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout_at};
use tracing::{error, warn};
use weir_exporter::Stop;
use weir_net::Drain;

use crate::assembly::{Daemon, NamedQueue};

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

/// Returns when the process is asked to end, with the name of the signal.
///
/// # Errors
/// Where signals cannot be listened for.
///
/// # Cancel safety
/// A signal that comes while nobody listens ends the process at once, as the system's default is.
pub async fn signaled() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Serves until `stop`, then drains.
pub(crate) async fn live_and_die(daemon: Daemon, stop: Drain) -> Ended {
    let Daemon { doors, pages, deliveries, queues, admin, host, drain_timeout, in_memory, draining } = daemon;
    let (doors_drain, pages_drain, exports) = (Drain::new(), Drain::new(), Stop::default());
    let mut serving = JoinSet::new();
    for (id, door) in doors {
        let drain = doors_drain.clone();
        serving.spawn(async move { door.serve(drain).await.map_err(|error| (id, error)) });
    }
    let mut exporting = JoinSet::new();
    for delivery in deliveries {
        exporting.spawn(delivery.run(exports.clone()));
    }
    let mut watching = JoinSet::new();
    for page in pages {
        let drain = pages_drain.clone();
        watching.spawn(async move { page.bound.serve(page.handler, drain).await });
    }
    if let Some(admin) = admin {
        watching.spawn(admin.serve(pages_drain.clone()));
    }

    tick_until(&queues, &stop).await;

    let began = Instant::now();
    let deadline = tokio::time::Instant::from_std(began + drain_timeout);
    let work_deadline = deadline.checked_sub(CLOSE_RESERVE.min(drain_timeout / 2)).unwrap_or(deadline);
    let mut cut = Vec::new();
    draining.signal();

    doors_drain.signal();
    if timeout_at(work_deadline, join_doors(&mut serving)).await.is_err() {
        cut.push("senders were still connected".to_owned());
    }
    // What is dropped here was not answered: its senders will send again.
    serving.shutdown().await;
    queues.iter().for_each(|named| named.queue.drain());
    if in_memory && timeout_at(work_deadline, emptied(&queues)).await.is_err() {
        let of = |named: &NamedQueue| {
            named.queue.status().cursors.iter().map(|cursor| cursor.pending_items).sum::<u64>()
        };
        let items: u64 = queues.iter().map(of).sum();
        cut.push(format!("{items} items in memory were not delivered and are lost"));
    }
    exports.drain.cancel();
    if timeout_at(work_deadline, join_all(&mut exporting)).await.is_err() {
        // The leases are deferred and delivered again after the next start.
        exports.cut.cancel();
        if timeout_at(deadline, join_all(&mut exporting)).await.is_err() {
            cut.push("a push to a backend did not end".to_owned());
        }
    }
    if timeout_at(deadline, host.drain()).await.is_err() {
        cut.push("a plugin's call did not end".to_owned());
    }
    close(&queues, deadline, &mut cut).await;
    pages_drain.signal();
    if timeout_at(deadline + CLOSE_RESERVE, join_all(&mut watching)).await.is_err() {
        watching.shutdown().await;
    }
    match cut.is_empty() {
        true => Ended::Clean { took: began.elapsed() },
        false => Ended::Cut { what: cut.join("; ") },
    }
}

async fn tick_until(queues: &[NamedQueue], stop: &Drain) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let wall = std::time::SystemTime::now();
                queues.iter().for_each(|named| named.queue.tick(wall));
            }
            () = stop.signaled() => return,
        }
    }
}

async fn join_doors(serving: &mut JoinSet<Result<(), (String, io::Error)>>) {
    while let Some(ended) = serving.join_next().await {
        match ended {
            Ok(Ok(())) => (),
            Ok(Err((receiver, error))) => error!(receiver, %error, "receiver failed"),
            Err(error) => error!(%error, "receiver panicked"),
        }
    }
}

async fn join_all<T: 'static>(tasks: &mut JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            error!(%error, "a part panicked");
        }
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

async fn close(queues: &[NamedQueue], deadline: tokio::time::Instant, cut: &mut Vec<String>) {
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

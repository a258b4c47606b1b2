//! From the configuration that runs to another, while data flows: only what changed is restarted.
//!
//! ```text
//! read, check ─▶ build ─▶ add ─▶ exchange ─▶ doors ─▶ deliveries ─▶ remove ─▶ tell
//! └── may fail, nothing is touched ──┘       └── what is ending has `drain_timeout`, then it is cut
//! ```
//!
//! Invariant: what comes before "add" has changed nothing. Where the process is told to end meanwhile, every part is in
//! its place, and the shutdown ends it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{Instant as Deadline, sleep, timeout, timeout_at};
use tracing::{error, info, warn};
use weir_net::Drain;

use super::diff::{self, Plan};
use super::exporters::{self, Built, Post};
use super::parts::{name_of_door, name_of_route};
use super::pipelines::{self, Line, Site};
use super::receivers::{self, Door, Standing};
use super::tasks::Running;
use super::triggers::{Cause, Triggers};
use super::{Daemon, NamedQueue, Plugins};
use crate::command::Failure;
use crate::config::{self, Config, Id, PipelineId, Storage};
use crate::shutdown::{emptied, pending_items};
use crate::telemetry::logs;
use crate::validate;

/// What health calls the file.
const CONFIGURATION: &str = "configuration";

/// How long an address that another door of ours had may take to be free: a listener closes at once when it is told.
const FREED_WITHIN: Duration = Duration::from_secs(2);

/// How often it is tried.
const FREED_LOOK: Duration = Duration::from_millis(10);

/// How long what was cut may take to note it: dropped pushes give their leases back.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// Why a reload did not come to its end.
enum Refused {
    /// The process was told to end.
    Stopped,
    /// The running configuration goes on; what is wrong with the new one, a line each.
    Wrong(Vec<String>),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Wrong(vec![text_of(failure)])
    }
}

/// Reads the configuration again, and makes of the running one what it says.
pub(crate) async fn reload(daemon: &mut Daemon, triggers: &mut Triggers, cause: Cause, stop: &Drain) {
    let began = Instant::now();
    if cause == Cause::Hangup {
        // The file that is read next may name what lies in the folder now.
        daemon.foundation.plugins.rescan().await;
    }
    triggers.reads();
    let Some(file) = triggers.file() else {
        info!(%cause, "there is no configuration file to read again");
        return;
    };
    info!(%cause, file = %file.display(), "reload begins");
    let read = async {
        let wanted = tokio::select! {
            wanted = read(file, &daemon.foundation.plugins) => wanted?,
            () = stop.signaled() => return Err(Refused::Stopped),
        };
        daemon.turn_into(wanted, stop).await
    };
    let done = read.await;
    // Ids hold the code that serves them; what was only looked at is not kept.
    daemon.foundation.plugins.forget();
    match done {
        Ok(done) => done.tell(daemon, began.elapsed()),
        Err(Refused::Stopped) => info!("the reload ends with the process"),
        Err(Refused::Wrong(lines)) => {
            for line in &lines {
                error!(error = line, "reload refused, the running configuration goes on");
            }
            let more = match lines.len() {
                0 | 1 => String::new(),
                errors => format!(" (and {} more, see the log)", errors - 1),
            };
            let first = lines.first().map(String::as_str).unwrap_or_default();
            let health = &daemon.views.health;
            health.settle(CONFIGURATION);
            health.note(CONFIGURATION.to_owned(), format!("the file is not what runs: {first}{more}"));
        }
    }
}

/// Reads and checks a file as a start does. Plugins that it names newly are compiled, so this takes a thread of its own.
async fn read(file: &Path, plugins: &Plugins) -> Result<Config, Refused> {
    let (file, plugins) = (file.to_owned(), plugins.clone());
    let read = tokio::task::spawn_blocking(move || {
        let draft = config::load(&file)?;
        validate::check(draft, &plugins)
    });
    let checked = match read.await {
        Ok(checked) => checked.map_err(|report| Refused::Wrong(report.lines()))?,
        Err(panic) => return Err(Refused::Wrong(vec![format!("the check of the file panicked: {panic}")])),
    };
    for warning in &checked.warnings {
        warn!("{}", warning.line());
    }
    Ok(checked.config)
}

/// What is ready before anything is touched.
struct Staged {
    exporters: BTreeMap<Id, Built>,
    queues: Vec<(PipelineId, NamedQueue)>,
    doors: BTreeMap<Id, Door>,
    /// Doors whose address is another's that will end.
    waiting: Vec<Id>,
}

/// What a reload did.
struct Done {
    plan: Plan,
    /// Keys that hold from the next start.
    later: Vec<&'static str>,
    /// Parts that could not be started after all.
    failed: Vec<String>,
}

impl Done {
    fn tell(self, daemon: &Daemon, took: Duration) {
        let Self { plan, later, failed } = self;
        let health = &daemon.views.health;
        health.settle(CONFIGURATION);
        if !later.is_empty() {
            let keys = later.join(", ");
            warn!(keys, "changed in the file, takes effect at the next start");
            health.note(CONFIGURATION.to_owned(), format!("takes effect at the next start: {keys}"));
        }
        let told = plan.told();
        let names = |names: std::collections::BTreeSet<String>| match names.is_empty() {
            true => "nothing".to_owned(),
            false => names.into_iter().collect::<Vec<_>>().join(", "),
        };
        let (restarted, added, removed) = (names(told.changed), names(told.added), names(told.removed));
        let (kept, failed) = (told.kept.len(), failed.len());
        info!(?took, restarted, added, removed, kept, failed, "configuration reloaded");
    }
}

impl Daemon {
    /// Makes of what runs what `wanted` says.
    async fn turn_into(&mut self, wanted: Config, stop: &Drain) -> Result<Done, Refused> {
        let (config, later) = diff::applicable(&self.config, wanted);
        let mut plan = Plan::between(&self.config, &config);
        let parts = &self.parts;
        let runs = |running: Option<&Running>| running.is_some_and(|running| !running.has_ended());
        plan.receivers.mend(
            |id| parts.doors.contains_key(id),
            |id| runs(parts.doors.get(id).and_then(|door| door.running.as_ref())),
        );
        plan.deliveries.mend(
            |route| parts.deliveries.contains_key(route),
            |route| runs(parts.deliveries.get(route).and_then(|post| post.running.as_ref())),
        );
        let staged = self.stage(&config, &plan).await?;
        let level = config.service.telemetry.logs.level;
        if level != self.config.service.telemetry.logs.level {
            logs::set_level(level.name());
        }
        self.config = config;
        let mut failed = Vec::new();
        let leaving = self.bring_in(&plan, staged, &mut failed).await;
        self.views.follow(&self.parts);
        let deadline = Deadline::now() + self.config.service.drain_timeout;
        let ended = self.renew(&plan, deadline, stop, &mut failed).await
            && see_off(leaving, deadline, stop).await
            && self.take_out(&plan, stop).await;
        self.views.follow(&self.parts);
        if !ended {
            return Err(Refused::Stopped);
        }
        self.tidy_up(&plan).await;
        Ok(Done { plan, later, failed })
    }

    /// Builds what can be built beside what runs.
    async fn stage(&self, config: &Config, plan: &Plan) -> Result<Staged, Refused> {
        let mut bench = self.foundation.bench(config);
        let (mut built, mut doors, mut waiting) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for id in plan.exporters.starting() {
            built.insert(id.clone(), exporters::build(&mut bench, id).await?);
        }
        for id in plan.receivers.starting() {
            let standing = self.parts.doors.get(id).map(|door| door.standing.clone()).unwrap_or_default();
            match receivers::open(&mut bench, id, standing, self.parts.doors_drain.child()).await {
                Ok(door) => drop(doors.insert(id.clone(), door)),
                Err(failure) if is_in_use(&failure) && plan.receivers.ending().next().is_some() => {
                    waiting.push(id.clone());
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        let queues = self.open_logs(config, plan).await?;
        Ok(Staged { exporters: built, queues, doors, waiting })
    }

    /// Opens the logs of pipelines that are new.
    async fn open_logs(
        &self,
        config: &Config,
        plan: &Plan,
    ) -> Result<Vec<(PipelineId, NamedQueue)>, Refused> {
        let mut queues: Vec<(PipelineId, NamedQueue)> = Vec::new();
        if plan.pipelines.added.is_empty() {
            return Ok(queues);
        }
        let site = Site::of(config, &self.foundation.ledger)?;
        for id in plan.pipelines.added.iter().cloned() {
            let (site, of) = (site.clone(), id.clone());
            let opened = tokio::task::spawn_blocking(move || site.open(&of)).await;
            let wrong = match opened {
                Ok(Ok(named)) => {
                    queues.push((id, named));
                    continue;
                }
                Ok(Err(failure)) => text_of(failure),
                Err(panic) => format!("open the queue of pipeline {id}: {panic}"),
            };
            for (id, named) in queues {
                close(&id, &named).await;
            }
            return Err(Refused::Wrong(vec![wrong]));
        }
        Ok(queues)
    }

    /// Adds what is new, has doors hand to it, and ends doors that changed or are not wanted; these are given back.
    ///
    /// Exporters join a log before its first record: a new cursor begins at the end.
    async fn bring_in(&mut self, plan: &Plan, staged: Staged, failed: &mut Vec<String>) -> Vec<Running> {
        let Staged { exporters, queues, doors, waiting } = staged;
        let Self { config, foundation, parts, .. } = self;
        parts.exporters.extend(exporters);
        for (id, named) in queues {
            let line = Line::new(config, foundation, &id, named, Default::default());
            parts.pipelines.insert(id, line);
        }
        for id in &plan.pipelines.changed {
            if let Some(line) = parts.pipelines.get(id) {
                let (named, counts) = (line.named.clone(), line.pipeline.counts.clone());
                let line = Line::new(config, foundation, id, named, counts);
                parts.pipelines.insert(id.clone(), line);
            }
        }
        for route in &plan.deliveries.added {
            let name = name_of_route(route);
            self.views.health.settle(&name);
            if let Err(failure) = parts.join(config, route, Default::default()) {
                not_started(&self.views.health, name, &text_of(failure), failed);
            }
        }
        plan.pipelines.added.iter().for_each(|id| parts.configured(config, id));
        if plan.pipelines.added.len() != plan.pipelines.removed.len() {
            parts.share(config);
        }
        parts.start();
        let mut leaving = Vec::new();
        let mut standings = BTreeMap::new();
        for id in plan.receivers.ending() {
            let Some(door) = parts.doors.remove(id) else { continue };
            if let Some(running) = door.running {
                parts.serving.leaves(&running);
                leaving.push(running);
            }
            door.drain.signal();
            // What it was feeding goes on: what it has under way is taken by those that it was read for.
            if plan.receivers.changed.contains(id) {
                standings.insert(id.clone(), door.standing);
            }
        }
        parts.doors.extend(doors);
        for id in waiting {
            let standing = standings.remove(&id).unwrap_or_default();
            self.open_when_free(id, standing, failed).await;
        }
        let Self { config, parts, .. } = self;
        for (id, door) in &parts.doors {
            door.standing.behind.exchange(receivers::fed(config, &parts.pipelines, id));
        }
        parts.start();
        leaving
    }

    /// Binds a door as soon as another has let its address go.
    async fn open_when_free(&mut self, id: Id, standing: Standing, failed: &mut Vec<String>) {
        let name = name_of_door(&id);
        self.views.health.settle(&name);
        let deadline = Instant::now() + FREED_WITHIN;
        let mut bench = self.foundation.bench(&self.config);
        loop {
            let drain = self.parts.doors_drain.child();
            match receivers::open(&mut bench, &id, standing.clone(), drain).await {
                Ok(door) => return drop(self.parts.doors.insert(id, door)),
                Err(failure) if is_in_use(&failure) && Instant::now() < deadline => sleep(FREED_LOOK).await,
                Err(failure) => {
                    return not_started(&self.views.health, name, &text_of(failure), failed);
                }
            }
        }
    }

    /// Ends deliveries that changed or are not wanted, and starts the changed ones anew where they were: each when its
    /// own end has come. False where the process is told to end meanwhile.
    async fn renew(
        &mut self,
        plan: &Plan,
        deadline: Deadline,
        stop: &Drain,
        failed: &mut Vec<String>,
    ) -> bool {
        let mut ending = JoinSet::new();
        for route in
            plan.deliveries.ending().filter(|(pipeline, _)| !plan.pipelines.removed.contains(pipeline))
        {
            let Some(Post { stop, running: Some(running), .. }) = self.parts.deliveries.get(route) else {
                continue;
            };
            self.parts.exporting.leaves(running);
            let (route, stop, running) = (route.clone(), stop.clone(), running.clone());
            ending.spawn(async move {
                wind_down(&running, &stop, deadline).await;
                route
            });
        }
        loop {
            let route = tokio::select! {
                ended = ending.join_next() => match ended {
                    Some(Ok(route)) => route,
                    Some(Err(panic)) => {
                        error!(error = %panic, "waiting for an exporter's end failed");
                        continue;
                    }
                    None => return true,
                },
                () = stop.signaled() => return false,
            };
            let Some(Post { counts, .. }) = self.parts.deliveries.remove(&route) else { continue };
            let name = name_of_route(&route);
            self.views.health.settle(&name);
            if !plan.deliveries.changed.contains(&route) {
                continue;
            }
            // Why the one before had stopped may not hold for this one.
            counts.note_paused(None);
            if let Err(failure) = self.parts.join(&self.config, &route, counts) {
                not_started(&self.views.health, name, &text_of(failure), failed);
            }
            self.parts.start();
        }
    }

    /// Ends pipelines that are not wanted; what is in their logs on disk waits. False where the process is told to end
    /// meanwhile.
    async fn take_out(&mut self, plan: &Plan, stop: &Drain) -> bool {
        let deadline = Deadline::now() + self.config.service.drain_timeout;
        for id in &plan.pipelines.removed {
            let Some(line) = self.parts.pipelines.get(id) else { continue };
            let named = line.named.clone();
            // Requests that were under way when doors were told of others are refused for now, and come again.
            named.queue.drain();
            if self.config.service.queue.storage == Storage::Memory {
                tokio::select! {
                    emptied = timeout_at(deadline, emptied(std::slice::from_ref(&named))) => if emptied.is_err() {
                        let items = pending_items(&named);
                        warn!(pipeline = %id, items, "pipeline removed with items in memory that were not delivered: lost");
                    },
                    () = stop.signaled() => return false,
                }
            }
            let routes: Vec<_> =
                self.parts.deliveries.keys().filter(|(pipeline, _)| pipeline == id).cloned().collect();
            for route in routes {
                let Some(Post { stop: end, running: Some(running), .. }) = self.parts.deliveries.get(&route)
                else {
                    continue;
                };
                self.parts.exporting.leaves(running);
                tokio::select! {
                    () = wind_down(running, end, deadline) => (),
                    () = stop.signaled() => return false,
                }
                self.parts.deliveries.remove(&route);
                self.views.health.settle(&name_of_route(&route));
            }
            close(id, &named).await;
            self.parts.pipelines.remove(id);
        }
        true
    }

    /// What follows from the changes: who has a cursor, what waits, certificates, exporters that nobody uses.
    async fn tidy_up(&mut self, plan: &Plan) {
        let Self { config, parts, views, .. } = self;
        config.pipelines.keys().filter(|id| parts.pipelines.contains_key(id)).for_each(|id| {
            parts.configured(config, id);
        });
        plan.exporters.removed.iter().for_each(|id| drop(parts.exporters.remove(id)));
        plan.receivers.removed.iter().for_each(|id| views.health.settle(&name_of_door(id)));
        for (id, door) in &parts.doors {
            let name = name_of_door(id);
            if plan.receivers.starting().any(|started| started == id) {
                views.health.settle(&name);
            }
            for error in door.read_certificates() {
                warn!(receiver = %id, error, "certificates not read again, the ones before are used");
            }
        }
        let has_moved = !plan.pipelines.added.is_empty() || !plan.pipelines.removed.is_empty();
        if has_moved && config.service.queue.storage == Storage::Disk {
            views.show_waiting(pipelines::waiting(config).await);
        }
        views.follow(parts);
    }
}

/// Waits for doors that were told to end; cuts them at the deadline. False where the process is told to end meanwhile.
async fn see_off(leaving: Vec<Running>, deadline: Deadline, stop: &Drain) -> bool {
    for running in leaving {
        tokio::select! {
            ended = timeout_at(deadline, running.ended()) => if ended.is_err() {
                warn!("senders were still connected to a receiver that was ended, and are cut");
                running.cut();
                running.ended().await;
            },
            () = stop.signaled() => return false,
        }
    }
    true
}

/// Ends a delivery: what is under way may end until the deadline, then its leases are given back.
async fn wind_down(running: &Running, end: &weir_exporter::Stop, deadline: Deadline) {
    end.drain.cancel();
    if timeout_at(deadline, running.ended()).await.is_ok() {
        return;
    }
    end.cut.cancel();
    if timeout(CUT_WITHIN, running.ended()).await.is_err() {
        running.cut();
        running.ended().await;
    }
}

async fn close(id: &PipelineId, named: &NamedQueue) {
    if let Err(error) = named.queue.close().await {
        warn!(pipeline = %id, %error, "queue not closed cleanly, the next start repairs it");
    }
}

/// A part that should run and does not: the others go on.
fn not_started(
    health: &crate::telemetry::pages::Health,
    name: String,
    error: &str,
    failed: &mut Vec<String>,
) {
    error!(part = name, error, "a part was not started, the next reload tries again");
    health.note(name.clone(), format!("not started: {error}"));
    failed.push(name);
}

/// Whether an address was somebody else's.
fn is_in_use(failure: &Failure) -> bool {
    let is = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    match failure {
        Failure::Config(_) => false,
        Failure::Other(error) => error.chain().any(is),
    }
}

fn text_of(failure: Failure) -> String {
    match failure {
        Failure::Config(text) => text,
        Failure::Other(error) => format!("{error:#}"),
    }
}

//! From the configuration that runs to another, while data flows: only what changed is restarted.
//!
//! ```text
//! read, check ─▶ build ─▶ add ─▶ exchange ─▶ doors ─▶ deliveries ─▶ remove ─▶ tell
//! └── may fail, nothing is touched ──┘       └── what is ending has `drain_timeout`, then it is cut
//! ```
//!
//! Invariant: what comes before "add" has changed nothing. Where the process is told to end meanwhile, every part is in
//! its place, and the shutdown ends it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{Instant as Deadline, sleep, timeout, timeout_at};
use tracing::{error, info, warn};
use weir_net::Drain;

use super::collector::is_used;
use super::diff::{self, Plan};
use super::events::{self, Whose};
use super::exporters::Post;
use super::owed::{Owed, emptied};
use super::pages::{self, name_of_page};
use super::parts::{Parts, Route, name_of_door, name_of_link, name_of_route};
use super::pipelines::{self, Line};
use super::receivers;
use super::staging::{Refused, Staged, Waiting, close, heeding, is_in_use, text_of};
use super::tasks::Running;
use super::triggers::{Cause, Triggers};
use super::{Daemon, Plugins};
use crate::command::Failure;
use crate::config::{self, Config, Id, Kind, ServiceConfig, Storage};
use crate::shutdown::pending_items;
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

/// How long an agent may take at least to let its folder go when the deliveries have used the time: without that the one that takes its
/// place cannot begin. It waits for a few seconds in all, whatever its collector does.
const LEFT_WITHIN: Duration = Duration::from_secs(10);

/// Reads the configuration again, and makes of the running one what it says.
pub(crate) async fn reload(daemon: &mut Daemon, triggers: &mut Triggers, cause: Cause, stop: &Drain) {
    let began = Instant::now();
    if cause == Cause::Hangup {
        // The file that is read next may name what lies in the folder now.
        if heeding(stop, daemon.foundation.plugins.rescan()).await.is_err() {
            return;
        }
    }
    triggers.reads();
    let Some(file) = triggers.file() else {
        info!(%cause, "there is no configuration file to read again");
        return;
    };
    info!(%cause, file = %file.display(), "reload begins");
    let read = async {
        let wanted = heeding(stop, read(file, &daemon.foundation.plugins, &daemon.config.service)).await??;
        daemon.turn_into(wanted, stop).await
    };
    let done = read.await;
    // Ids hold the code that serves them; what was only looked at is not kept.
    daemon.foundation.plugins.forget();
    match done {
        Ok(done) => done.tell(daemon, began.elapsed()),
        Err(Refused::Stopped) => info!("the reload ends with the process"),
        Err(Refused::Wrong(lines)) => {
            let more = match lines.len() {
                0 | 1 => String::new(),
                errors => format!(" (and {} more, see the log)", errors - 1),
            };
            let first = lines.first().map(String::as_str).unwrap_or_default();
            let health = &daemon.views.health;
            health.settle(CONFIGURATION);
            health.note(CONFIGURATION.to_owned(), format!("the file is not what runs: {first}{more}"));
            // Who has read the log finds it on the page too.
            for line in &lines {
                error!(error = line, "reload refused, the running configuration goes on");
            }
        }
    }
}

/// Reads and checks a file as a start does, and that it fits what `running` holds until the next one. Plugins that it names newly are compiled, so this takes a thread of its own.
async fn read(file: &Path, plugins: &Plugins, running: &ServiceConfig) -> Result<Config, Refused> {
    let (file, plugins, running) = (file.to_owned(), plugins.clone(), running.clone());
    let read = tokio::task::spawn_blocking(move || {
        let draft = config::load(&file)?;
        validate::check_beside(draft, &plugins, Some(&running))
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
            health.note(CONFIGURATION.to_owned(), format!("takes effect at the next start: {keys}"));
            warn!(keys, "changed in the file, takes effect at the next start");
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
        plan.rebuild(|id| {
            parts.exporters.get(id).is_some_and(|built| built.is_outdated(&config.exporters[id].value))
        });
        plan.receivers.outdate(|id| {
            parts.doors.get(id).is_some_and(|door| door.is_outdated(&config.receivers[id].value))
        });
        plan.receivers.mend(
            |id| parts.doors.contains_key(id),
            |id| runs(parts.doors.get(id).and_then(|door| door.running.as_ref())),
        );
        plan.deliveries.mend(
            |route| parts.deliveries.contains_key(route),
            |route| runs(parts.deliveries.get(route).and_then(|post| post.running.as_ref())),
        );
        let staged = self.stage(&config, &plan, stop).await?;
        let level = config.service.telemetry.logs.level;
        if level != self.config.service.telemetry.logs.level {
            logs::set_level(level.name());
        }
        self.config = config;
        self.views.config.exchange(super::config_hash(&self.config));
        let mut failed = Vec::new();
        let leaving = self.bring_in(&plan, staged, stop, &mut failed).await;
        self.views.follow(&self.parts);
        let deadline = Deadline::now() + self.config.service.drain_timeout;
        if self.config.service.queue.storage == Storage::Disk {
            // In memory a link that is not wanted may first deliver what waits for it.
            let unwanted =
                plan.exporters.removed.iter().filter_map(|id| self.parts.exporters.get(id)?.link());
            unwanted.for_each(|link| link.leave());
        }
        let ended = self.renew(&plan, deadline, stop, &mut failed).await
            && self.relink(deadline, stop, &mut failed).await
            && see_off(leaving, deadline, stop).await
            && self.take_out(&plan, stop).await;
        self.views.follow(&self.parts);
        if !ended {
            return Err(Refused::Stopped);
        }
        self.tidy_up(&plan).await;
        Ok(Done { plan, later, failed })
    }

    /// Adds what is new, has doors hand to it, and ends doors that changed or are not wanted; these are given back.
    ///
    /// Exporters join a log before its first record: a new cursor begins at the end.
    async fn bring_in(
        &mut self,
        plan: &Plan,
        staged: Staged,
        stop: &Drain,
        failed: &mut Vec<String>,
    ) -> Vec<Running> {
        let Staged { exporters, queues, doors, pages, events, waiting } = staged;
        let Self { config, foundation, parts, .. } = self;
        exporters.into_iter().for_each(|(id, built)| parts.exchange(id, built));
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
        for id in plan.receivers.ending() {
            let Some(door) = parts.doors.remove(id) else { continue };
            if let Some(running) = door.running {
                parts.serving.leaves(&running);
                leaving.push(running);
            }
            if plan.receivers.removed.contains(id) {
                door.standing.scraping.legacy.bid_farewell();
            }
            door.drain.signal();
            // What it was feeding goes on: what it has under way is taken by those that it was read for.
            if plan.receivers.changed.contains(id) {
                parts.shut.insert(id.clone(), door.standing);
            }
        }
        leaving.extend(parts.pages.end(&plan.exporters));
        parts.doors.extend(doors);
        parts.pages.doors.extend(pages);
        parts.events.leave(events::wanted_at(config)).await;
        if let Some(door) = events {
            parts.events.take(door);
        }
        for door in waiting {
            self.open_when_free(door, stop, failed).await;
        }
        let Self { config, parts, .. } = self;
        let Parts { doors, shut, pages, exporters, .. } = &mut *parts;
        let is_page = |id: &Id| exporters.get(id).is_some_and(|built| built.page.is_some());
        pages.settle(|id| config.uses(Kind::Exporter, id) && is_page(id));
        shut.retain(|id, _| !doors.contains_key(id) && config.uses(Kind::Receiver, id));
        for (id, door) in &parts.doors {
            door.standing.feeds(config, &parts.pipelines, id);
        }
        parts.start();
        leaving
    }

    /// Binds a door as soon as another has let its address go, or not at all where the process is told to end before.
    async fn open_when_free(&mut self, door: Waiting, stop: &Drain, failed: &mut Vec<String>) {
        let name = match &door {
            Waiting::Receiver(id) => name_of_door(id),
            Waiting::Page(id) => name_of_page(id),
        };
        self.views.health.settle(&name);
        let deadline = Instant::now() + FREED_WITHIN;
        loop {
            match self.try_open(&door).await {
                Ok(()) => return,
                Err(failure) if is_in_use(&failure) && Instant::now() < deadline => {
                    if heeding(stop, sleep(FREED_LOOK)).await.is_err() {
                        return;
                    }
                }
                Err(failure) => {
                    // What it has counted goes on with its next door.
                    if let Waiting::Receiver(id) = door {
                        self.parts.shut.entry(id).or_default();
                    }
                    return not_started(&self.views.health, name, &text_of(failure), failed);
                }
            }
        }
    }

    async fn try_open(&mut self, door: &Waiting) -> Result<(), Failure> {
        let Self { config, foundation, parts, .. } = self;
        let bench = foundation.bench(config);
        match door {
            Waiting::Receiver(id) => {
                let (standing, drain) =
                    (parts.shut.get(id).cloned().unwrap_or_default(), parts.doors_drain.child());
                let door = receivers::open(&bench, id, standing, drain).await?;
                parts.doors.insert(id.clone(), door);
            }
            Waiting::Page(id) => {
                let (standing, drain) = (parts.pages.standing(id), parts.pages.drain.child());
                let Some(built) = parts.exporters.get(id) else { return Ok(()) };
                let door = pages::open(&bench, id, built, standing, drain)?;
                parts.pages.doors.extend(door.map(|door| (id.clone(), door)));
            }
        }
        Ok(())
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
        let in_memory = self.config.service.queue.storage == Storage::Memory;
        let mut ending = JoinSet::new();
        for route in
            plan.deliveries.ending().filter(|(pipeline, _)| !plan.pipelines.removed.contains(pipeline))
        {
            let Some(Post { stop, running: Some(running), .. }) = self.parts.deliveries.get(route) else {
                continue;
            };
            self.parts.exporting.leaves(running);
            let (route, stop, running) = (route.clone(), stop.clone(), running.clone());
            // In memory its backlog ends with its place in the log, so it may first deliver that.
            let is_last = in_memory && plan.deliveries.removed.contains(&route);
            let owed = if is_last { self.parts.owed(|of| *of == route) } else { Vec::new() };
            owed.iter().for_each(Owed::is_all);
            if !is_last {
                stop.drain.cancel();
            }
            ending.spawn(async move {
                // What is left at the deadline is told when the exporter has ended.
                drop(timeout_at(deadline, emptied(&owed)).await);
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
                () = stop.signaled() => break,
            };
            self.replace(plan, &route, failed);
        }
        ending.shutdown().await;
        if in_memory {
            self.resume(plan, failed).await;
        }
        false
    }

    /// Ends links that changed or are not wanted, whose deliveries have ended, and begins those that are new. False where the
    /// process is told to end meanwhile.
    async fn relink(&mut self, deadline: Deadline, stop: &Drain, failed: &mut Vec<String>) -> bool {
        let Self { config, foundation, parts, .. } = self;
        // Who reports holds the outbox, which is the next agent's to open.
        let whose = Whose::wanted(config, parts, foundation);
        parts.events.let_go(whose.as_ref()).await;
        while let Some(link) = self.parts.retired.last().map(Arc::clone) {
            let deadline = deadline.max(Deadline::now() + LEFT_WITHIN);
            let ended = heeding(stop, timeout_at(deadline, link.end())).await;
            match ended {
                Ok(Ok(())) => (),
                Ok(Err(_)) => warn!(exporter = link.id, "the collector was not taken leave of in time"),
                Err(_) => {
                    if self.config.service.queue.storage == Storage::Memory {
                        self.link_now(failed).await;
                    }
                    return false;
                }
            }
            self.parts.retired.pop();
        }
        self.begin_links(failed).await;
        self.serve_events(whose, stop, failed).await
    }

    async fn begin_links(&mut self, failed: &mut Vec<String>) {
        let Self { config, parts, views, .. } = self;
        for (name, failure) in parts.begin_links(config).await {
            views.health.settle(&name);
            not_started(&views.health, name, &text_of(failure), failed);
        }
    }

    /// Begins links whose turn it was when the process was told to end: what is in memory can be handed over only now.
    async fn link_now(&mut self, failed: &mut Vec<String>) {
        for link in std::mem::take(&mut self.parts.retired) {
            if timeout(CUT_WITHIN, link.end()).await.is_err() {
                warn!(exporter = link.id, "the collector was not taken leave of in time");
            }
        }
        self.begin_links(failed).await;
    }

    /// Begins the events service where it is to be; it waits for an address that one of our doors is letting go. False where the
    /// process is told to end meanwhile.
    async fn serve_events(&mut self, whose: Option<Whose>, stop: &Drain, failed: &mut Vec<String>) -> bool {
        let Self { config, parts, views, .. } = self;
        views.health.settle(events::NAME);
        let wanted = events::wanted_at(config);
        let by = Instant::now() + FREED_WITHIN;
        while let Some(address) = wanted.filter(|_| !parts.events.is_at(wanted)) {
            match events::Door::bind(address).map_err(Failure::from) {
                Ok(door) => parts.events.take(door),
                Err(failure) if is_in_use(&failure) && Instant::now() < by => {
                    if heeding(stop, sleep(FREED_LOOK)).await.is_err() {
                        return false;
                    }
                }
                Err(failure) => {
                    not_started(&views.health, events::NAME.to_owned(), &text_of(failure), failed);
                    return true;
                }
            }
        }
        if let Err(error) = parts.events.serve(whose) {
            not_started(&views.health, events::NAME.to_owned(), &text_of(error.into()), failed);
        }
        true
    }

    /// Has an exporter that has ended leave its place, or the changed one take it.
    fn replace(&mut self, plan: &Plan, route: &Route, failed: &mut Vec<String>) {
        let Some(Post { counts, .. }) = self.parts.deliveries.remove(route) else { return };
        let (name, (pipeline, exporter)) = (name_of_route(route), route);
        self.views.health.settle(&name);
        if !plan.deliveries.changed.contains(route) {
            let items = self.parts.pending_items(route);
            if items > 0 && self.config.service.queue.storage == Storage::Memory {
                let lost = "exporter removed with items in memory that were not delivered: lost";
                warn!(%pipeline, %exporter, items, "{lost}");
            }
            self.parts.configured(&self.config, pipeline);
            return;
        }
        // Why the one before had stopped may not hold for this one.
        counts.note_paused(None);
        if let Err(failure) = self.parts.join(&self.config, route, counts) {
            not_started(&self.views.health, name, &text_of(failure), failed);
        }
        self.parts.start();
    }

    /// Starts changed exporters whose end was waited for when the process was told to end: what is in memory can be
    /// delivered only now. A push that is cut for it is made again.
    async fn resume(&mut self, plan: &Plan, failed: &mut Vec<String>) {
        let is_ending = |route: &&Route| {
            self.parts.deliveries.get(*route).is_some_and(|post| post.stop.drain.is_cancelled())
        };
        let ending: Vec<Route> = plan.deliveries.changed.iter().filter(is_ending).cloned().collect();
        for post in ending.iter().filter_map(|route| self.parts.deliveries.get(route)) {
            post.stop.cut.cancel();
        }
        for route in ending {
            if let Some(Post { stop, running: Some(running), .. }) = self.parts.deliveries.get(&route) {
                wind_down(running, stop, Deadline::now()).await;
            }
            self.replace(plan, &route, failed);
        }
        self.link_now(failed).await;
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
                let owed = self.parts.owed(|(pipeline, _)| pipeline == id);
                if heeding(stop, timeout_at(deadline, emptied(&owed))).await.is_err() {
                    return false;
                }
                let items = pending_items(&named);
                if items > 0 {
                    warn!(pipeline = %id, items, "pipeline removed with items in memory that were not delivered: lost");
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
        let Self { config, foundation, parts, views, .. } = self;
        config.pipelines.keys().filter(|id| parts.pipelines.contains_key(id)).for_each(|id| {
            parts.configured(config, id);
        });
        for id in &plan.exporters.removed {
            parts.retire(id);
            drop(parts.exporters.remove(id));
        }
        for link in std::mem::take(&mut parts.retired) {
            drop(timeout(CUT_WITHIN, link.end()).await);
        }
        for id in parts.exporters.iter().filter(|(_, built)| built.link().is_some_and(|link| !link.is_idle()))
        {
            views.health.settle(&name_of_link(id.0));
        }
        let doors = plan.receivers.removed.iter().chain(&plan.receivers.gone);
        doors.for_each(|id| views.health.settle(&name_of_door(id)));
        plan.exporters.removed.iter().for_each(|id| views.health.settle(&name_of_page(id)));
        for (id, door) in &parts.pages.doors {
            views.health.settle(&name_of_page(id));
            for error in door.read_certificates() {
                warn!(exporter = %id, error, "certificates not read again, the ones before are used");
            }
        }
        plan.deliveries.gone.iter().for_each(|route| views.health.settle(&name_of_route(route)));
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
        if !is_used(config) {
            // Nobody shows agents any more.
            if timeout(CUT_WITHIN, foundation.states.close_unused()).await.is_err() {
                warn!("the store of states did not close in time; its file may be in use for a while yet");
            }
        }
    }
}

/// Waits for doors that were told to end; cuts them at the deadline. False where the process is told to end meanwhile.
async fn see_off(leaving: Vec<Running>, deadline: Deadline, stop: &Drain) -> bool {
    for running in leaving {
        tokio::select! {
            ended = timeout_at(deadline, running.ended()) => if ended.is_err() {
                warn!("somebody was still connected to a receiver or a page that was ended, and is cut");
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

/// A part that should run and does not: the others go on.
fn not_started(
    health: &crate::telemetry::pages::Health,
    name: String,
    error: &str,
    failed: &mut Vec<String>,
) {
    health.note(name.clone(), format!("not started: {error}"));
    error!(part = name, error, "a part was not started, the next reload tries again");
    failed.push(name);
}

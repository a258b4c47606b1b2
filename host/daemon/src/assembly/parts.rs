//! The living parts: doors, pipelines with their logs, exporters on their cursors. Each can be ended alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;
use weir_model::count::TlsCounts;
use weir_net::Drain;

use super::events::{self, Events, Whose};
use super::exporters::{self, Built, Post};
use super::link::{Link, LinkLog};
use super::owed::Owed;
use super::pages::Pages;
use super::pipelines::{Line, Site};
use super::receivers::{self, Door, Standing};
use super::tasks::Tasks;
use super::{Bench, Current, Foundation, NamedQueue, agent, diff};
use crate::admin::QueueView;
use crate::command::Failure;
use crate::config::{Config, Id, Kind, PipelineId};
use crate::fleet::Fleet;
use crate::telemetry::metrics::{ExporterSource, PipelineSource, Sources};
use crate::telemetry::pages::Health;

/// One exporter of one pipeline.
pub(crate) type Route = (PipelineId, Id);

/// All of them.
pub(crate) struct Parts {
    /// Pipelines with their logs.
    pub(crate) pipelines: BTreeMap<PipelineId, Line>,
    /// Exporters that some pipeline names.
    pub(crate) exporters: BTreeMap<Id, Built>,
    /// Links whose place another has, or nobody.
    pub(crate) retired: Vec<Arc<Link>>,
    /// Exporters on their cursors.
    pub(crate) deliveries: BTreeMap<Route, Post>,
    /// Receivers that some pipeline names.
    pub(crate) doors: BTreeMap<Id, Door>,
    /// What is kept of receivers that should have a door and have none, because it could not be opened.
    pub(crate) shut: BTreeMap<Id, Standing>,
    /// Pages of exporters that are fetched from.
    pub(crate) pages: Pages,
    /// What programs report states to, or watch them at.
    pub(crate) events: Events,
    /// Doors that have started.
    pub(crate) serving: Tasks,
    /// Deliveries that have started.
    pub(crate) exporting: Tasks,
    /// Ends all doors.
    pub(crate) doors_drain: Drain,
    /// Ends all deliveries.
    pub(crate) exports: weir_exporter::Stop,
}

/// What a receiver is called in the log and on the health page.
pub(crate) fn name_of_door(id: &Id) -> String {
    format!("receiver {id}")
}

/// What an exporter is called there.
pub(crate) fn name_of_route((pipeline, id): &Route) -> String {
    format!("exporter {id} of pipeline {pipeline}")
}

/// What the agent's end of a link is called there.
pub(crate) fn name_of_link(id: &Id) -> String {
    format!("link {id}")
}

/// What a pipeline is called there.
pub(crate) fn name_of_pipeline(id: &PipelineId) -> String {
    format!("pipeline {id}")
}

impl Parts {
    /// Opens logs, builds exporters, binds addresses; nobody is served yet.
    ///
    /// # Errors
    /// What could not be had, with its name.
    pub(crate) async fn assemble(config: &Config, foundation: &Foundation) -> Result<Self, Failure> {
        let mut parts = Self {
            pipelines: BTreeMap::new(),
            exporters: BTreeMap::new(),
            retired: Vec::new(),
            deliveries: BTreeMap::new(),
            doors: BTreeMap::new(),
            shut: BTreeMap::new(),
            pages: Pages::default(),
            events: Events::default(),
            serving: Tasks::default(),
            exporting: Tasks::default(),
            doors_drain: Drain::new(),
            exports: weir_exporter::Stop::default(),
        };
        let bench = foundation.bench(config);
        let site = Site::of(config, &foundation.ledger)?;
        for id in config.pipelines.keys() {
            let line = Line::new(config, foundation, id, site.open(id)?, Default::default());
            parts.pipelines.insert(id.clone(), line);
        }
        for id in used(config, Kind::Exporter) {
            let built = exporters::build(&bench, id, None).await?;
            parts.pages.open(&bench, id, &built)?;
            parts.exporters.insert(id.clone(), built);
        }
        for route in routes(config) {
            parts.join(config, &route, Default::default())?;
        }
        config.pipelines.keys().for_each(|id| parts.configured(config, id));
        // Before an agent dials: what a later step cannot have ends the start.
        if let Some(address) = events::wanted_at(config) {
            parts.events.take(events::Door::bind(address)?);
        }
        if let Some((_, failure)) = parts.begin_links(config).await.pop() {
            return Err(failure);
        }
        for id in used(config, Kind::Receiver) {
            parts.open(&bench, id).await?;
        }
        let whose = Whose::wanted(config, &parts, foundation);
        parts.events.serve(whose)?;
        Ok(parts)
    }

    /// Has an exporter take the place of the one before it, if there is one. A link that was there is told to end, and is among
    /// those that are not followed any more.
    pub(crate) fn exchange(&mut self, id: Id, built: Built) {
        self.retire(&id);
        if self.exporters.get(&id).is_some_and(|before| built.starts_empty(before)) {
            warn!(exporter = %id, "page starts empty: what its plugin was built with has changed");
        }
        self.exporters.insert(id, built);
    }

    /// Tells the link of an exporter to end, if it is one.
    pub(crate) fn retire(&mut self, id: &Id) {
        if let Some(link) = self.exporters.get(id).and_then(Built::link) {
            link.leave();
            self.retired.push(Arc::clone(link));
        }
    }

    /// Begins links that have not begun: each when its log's cursors are there, and the one before it has ended.
    ///
    /// # Errors
    /// Of each that could not begin, its name and why.
    pub(crate) async fn begin_links(&self, config: &Config) -> Vec<(String, Failure)> {
        let mut failures = Vec::new();
        for (id, built) in &self.exporters {
            let Some(link) = built.link().filter(|link| link.is_idle()) else { continue };
            if !config.exporters.contains_key(id) {
                continue;
            }
            let log = |pipeline: &PipelineId| {
                let NamedQueue { pipeline, queue } = self.pipelines.get(pipeline)?.named.clone();
                Some(LinkLog { name: pipeline, queue })
            };
            let logs = diff::carried(config, id).iter().filter_map(log).collect();
            match agent::start(config, id, built.tls.clone(), logs).await {
                Ok(carrier) => link.begin(carrier),
                Err(failure) => failures.push((name_of_link(id), failure)),
            }
        }
        failures
    }

    /// Links that run, and those that are on their way out.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let current = self.exporters.values().filter_map(Built::link);
        current.chain(&self.retired).map(Arc::clone).collect()
    }

    /// Joins an exporter to its cursor; it starts with the others.
    ///
    /// # Errors
    /// Where the log has no room for another exporter.
    pub(crate) fn join(
        &mut self,
        config: &Config,
        route: &Route,
        counts: weir_exporter::ExporterCounts,
    ) -> Result<(), Failure> {
        let (pipeline, id) = route;
        let (named, built) = (&self.pipelines[pipeline].named, &self.exporters[id]);
        let delivery = exporters::delivery(config, pipeline, id, built, named, &counts)?;
        self.deliveries.insert(route.clone(), Post::new(delivery, counts, &self.exports));
        Ok(())
    }

    /// Says to a pipeline's log which exporters it has: those that are wanted, and those that have not ended yet.
    pub(crate) fn configured(&self, config: &Config, id: &PipelineId) {
        let wanted = config.pipelines[id].exporters.iter().map(|exporter| &exporter.value);
        let ending = self.deliveries.keys().filter(|(pipeline, _)| pipeline == id).map(|(_, id)| id);
        let names: BTreeSet<String> = wanted.chain(ending).map(Id::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.pipelines[id].named.queue.configured(&names, std::time::SystemTime::now());
    }

    /// What exporters at work on these routes have to come.
    pub(crate) fn owed(&self, is_asked: impl Fn(&Route) -> bool) -> Vec<Owed> {
        let owed = |(route, post): (&Route, &Post)| {
            let (pipeline, exporter) = route;
            let (line, running) = (self.pipelines.get(pipeline)?, post.running.clone()?);
            Some(Owed { queue: Arc::clone(&line.named.queue), exporter: exporter.to_string(), running })
        };
        self.deliveries.iter().filter(|(route, _)| is_asked(route)).filter_map(owed).collect()
    }

    /// Items that the cursor of this route has not settled, whether somebody serves it or not.
    pub(crate) fn pending_items(&self, (pipeline, exporter): &Route) -> u64 {
        let (line, exporter) = (self.pipelines.get(pipeline), exporter.to_string());
        let cursors = line.map(|line| line.named.queue.status().cursors).unwrap_or_default();
        cursors.iter().filter(|cursor| cursor.exporter == exporter).map(|cursor| cursor.pending_items).sum()
    }

    /// Gives each log an equal part of the budget. Dead letters keep the part that their log was opened with: what an
    /// exporter could not deliver is not taken away to make room.
    pub(crate) fn share(&self, config: &Config) {
        let part = config.service.queue.budget_bytes / config.pipelines.len().max(1) as u64;
        let wanted = config.pipelines.keys().filter_map(|id| self.pipelines.get(id));
        wanted.for_each(|line| line.named.queue.share(part));
    }

    async fn open(&mut self, bench: &Bench<'_>, id: &Id) -> Result<(), Failure> {
        let standing = Standing::default();
        standing.feeds(bench.config, &self.pipelines, id);
        let door = receivers::open(bench, id, standing, self.doors_drain.child()).await?;
        self.doors.insert(id.clone(), door);
        Ok(())
    }

    /// Starts what has not been started. Exporters first, so that nothing comes in before somebody takes it out.
    pub(crate) fn start(&mut self) {
        for (route, post) in &mut self.deliveries {
            post.start(name_of_route(route), &mut self.exporting);
        }
        self.pages.start();
        for (id, door) in &mut self.doors {
            door.start(name_of_door(id), &mut self.serving);
        }
    }

    /// The logs, by the order of their pipelines.
    pub(crate) fn queues(&self) -> Vec<NamedQueue> {
        self.pipelines.values().map(|line| line.named.clone()).collect()
    }

    /// What the TLS of each door counts that has some, with the kind and the id of whose door it is.
    pub(crate) fn tls_counts(&self) -> Vec<(&'static str, String, TlsCounts)> {
        let of = |kind: &'static str| {
            move |(id, door): (&Id, &Door)| (kind, id.to_string(), door.standing.tls.clone())
        };
        let doors = self.doors.iter().filter(|(_, door)| door.has_tls()).map(of("receiver"));
        let pages = self.pages.doors.iter().filter(|(_, door)| door.has_tls()).map(of("exporter"));
        doors.chain(pages).collect()
    }

    fn sources(&self) -> Sources {
        let name = |id: &Id| id.to_string();
        let translating = self.doors.iter().filter(|(_, door)| door.translates);
        let fetching = self.doors.iter().filter(|(_, door)| door.fetches);
        let pipeline = |Line { named, pipeline }: &Line| PipelineSource {
            pipeline: named.pipeline.clone(),
            counts: pipeline.counts.clone(),
            queue: Arc::clone(&named.queue),
            queue_counts: named.queue.counts(),
        };
        let exporter = |((pipeline, id), post): (&Route, &Post)| ExporterSource {
            exporter: name(id),
            pipeline: pipeline.to_string(),
            counts: post.counts.clone(),
        };
        let open = self.doors.iter().map(|(id, door)| (id, &door.standing));
        let of_exporters = self.exporters.values().flat_map(|built| &built.figures);
        let of_doors = self.doors.values().flat_map(|door| &door.figures);
        Sources {
            receivers: open.chain(&self.shut).map(|(id, it)| (name(id), it.counts.clone())).collect(),
            translations: translating.map(|(id, door)| (name(id), door.standing.losses.clone())).collect(),
            pipelines: self.pipelines.values().map(pipeline).collect(),
            exporters: self.deliveries.iter().map(exporter).collect(),
            scrapes: fetching.map(|(id, door)| (name(id), door.standing.scraping.counts.clone())).collect(),
            pages: self.pages.counts(),
            tls: self.tls_counts(),
            plugins: of_exporters.chain(of_doors).cloned().collect(),
            collectors: self.doors.values().filter_map(|door| door.roster.clone()).collect(),
            links: self.exporters.values().filter_map(Built::link).map(Arc::clone).collect(),
        }
    }
}

/// Ids of one kind that some pipeline names, in their order.
pub(crate) fn used(config: &Config, kind: Kind) -> Vec<&Id> {
    let ids: Vec<&Id> = match kind {
        Kind::Receiver => config.receivers.keys().collect(),
        Kind::Processor => config.processors.keys().collect(),
        Kind::Exporter => config.exporters.keys().collect(),
    };
    ids.into_iter().filter(|id| config.uses(kind, id)).collect()
}

/// Every exporter of every pipeline.
pub(crate) fn routes(config: &Config) -> Vec<Route> {
    let of = |(id, pipeline): (&PipelineId, &crate::config::PipelineConfig)| {
        let exporters = pipeline.exporters.iter();
        exporters.map(|exporter| (id.clone(), exporter.value.clone())).collect::<Vec<_>>()
    };
    config.pipelines.iter().flat_map(of).collect()
}

/// Who looks at the parts from outside: lists that follow them.
#[derive(Clone, Default)]
pub(crate) struct Views {
    /// For `/metrics`.
    pub(crate) sources: Current<Sources>,
    /// The hash of the configuration that runs.
    pub(crate) config: Current<String>,
    /// For `/fleet`.
    pub(crate) fleet: Fleet,
    /// For whoever asks over the socket, and for the clock.
    pub(crate) queues: Current<Vec<NamedQueue>>,
    /// Logs whose pipelines are not configured, as far as they can be looked into.
    pub(crate) waiting: Current<Vec<QueueView>>,
    /// The names of all of these, which health has notes of.
    strays: Current<Vec<String>>,
    /// For `/health`.
    pub(crate) health: Arc<Health>,
}

impl Views {
    /// Shows the parts as they are now.
    pub(crate) fn follow(&self, parts: &Parts) {
        let (sources, queues) = (parts.sources(), parts.queues());
        self.health.follow(&queues, &sources.exporters);
        self.health.follow_scrapes(&sources.scrapes);
        self.health.follow_links(&sources.links);
        self.fleet.exchange(sources.collectors.clone());
        self.sources.exchange(sources);
        self.queues.exchange(queues);
    }

    /// Lets go of receivers that agents come to, so that what these keep can be closed.
    pub(crate) fn forget_agents(&self) {
        self.fleet.exchange(Vec::new());
        let mut sources = Sources::clone(&self.sources.now());
        sources.collectors.clear();
        self.sources.exchange(sources);
    }

    /// Shows logs that nobody reads, instead of those that were shown before.
    pub(crate) fn show_waiting(&self, waiting: Vec<super::pipelines::Waiting>) {
        self.strays.now().iter().for_each(|name| self.health.settle(name));
        let (mut views, mut names) = (Vec::new(), Vec::new());
        for stray in waiting {
            let name = format!("pipeline {}", stray.pipeline);
            self.health.note(name.clone(), stray.what);
            names.push(name);
            views.extend(stray.view);
        }
        self.waiting.exchange(views);
        self.strays.exchange(names);
    }
}

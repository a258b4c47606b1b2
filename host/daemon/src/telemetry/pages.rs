//! The pages for machines: `/metrics` and `/fleet` on 8888, `/health` on 13133.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use weir_exporter::ExporterCounts;
use weir_model::count::BySignal;
use weir_model::{BoxFuture, Reason, Signal};
use weir_net::ReplyBody;
use weir_net::listen::{Handler, Peer};
use weir_net::reply::{text, typed};
use weir_plugin::{Host, SlotState, SlotView};
use weir_queue::{Queue, Status};
use weir_receiver::scrape::counts::ScrapeCounts;

use crate::assembly::{Link, NamedQueue};
use crate::fleet::{self, AgentView, Fleet};
use crate::telemetry::metrics::{CONTENT_TYPE, ExporterSource, Metrics};

/// Serves `/metrics`, and who sends to a collector.
pub struct MetricsPage {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Receivers that agents come to.
    pub fleet: Fleet,
}

impl MetricsPage {
    /// The agents, as `show` writes them; nothing is there where nobody could come.
    fn agents(&self, media: &'static str, show: impl Fn(&[AgentView]) -> Vec<u8>) -> Response<ReplyBody> {
        match &self.fleet.now()[..] {
            [] => text(
                StatusCode::NOT_FOUND,
                "no pipeline here has a receiver of type weir, which agents come to\n",
            ),
            rosters => typed(StatusCode::OK, media, show(&fleet::agents(rosters))),
        }
    }
}

impl Handler for MetricsPage {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let response = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => match self.metrics.render() {
                Ok(page) => typed(StatusCode::OK, CONTENT_TYPE, page),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            (&Method::GET, "/fleet") => self
                .agents("application/json", |agents| serde_json::to_vec_pretty(agents).unwrap_or_default()),
            (&Method::GET, "/debug/fleet") => {
                self.agents("text/plain; charset=utf-8", |agents| fleet::table(agents).into_bytes())
            }
            (_, "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET /metrics\n"),
            _ => text(StatusCode::NOT_FOUND, "expected GET /metrics\n"),
        };
        Box::pin(std::future::ready(response))
    }
}

/// How long senders are said to be refused after they last were: a prober that looks every few seconds sees it.
const REFUSING_FOR: Duration = Duration::from_secs(30);

/// How long an exporter may have had no success while it has what to deliver, before it is told.
const NO_SUCCESS_FOR: Duration = Duration::from_secs(60);

/// Problems that stay until they are settled; there are as many as parts and folders, which a person has made.
const LASTING_MAX: usize = 256;

/// Characters shown of what a backend or a file system said.
const WORDS_MAX: usize = 240;

/// What the health page looks at.
#[derive(Default)]
pub struct Health {
    /// Whose ids may have no plugin, or a file that was refused.
    plugins: OnceLock<Host>,
    /// Signaled when the process drains.
    pub drain: weir_net::Drain,
    seen: Mutex<Seen>,
}

/// Who is watched, and what was seen at the last look.
#[derive(Default)]
struct Seen {
    pipelines: Vec<WatchedPipeline>,
    exporters: Vec<WatchedExporter>,
    /// Receivers that fetch.
    scrapes: Vec<(String, ScrapeCounts)>,
    links: Vec<Arc<Link>>,
    lasting: Vec<Lasting>,
}

/// A pipeline with its log.
struct WatchedPipeline {
    name: String,
    queue: Arc<dyn Queue>,
    /// Items refused for want of room, and when that last grew.
    refused: (u64, Option<Instant>),
}

struct WatchedExporter {
    pipeline: String,
    id: String,
    counts: ExporterCounts,
    progress: Progress,
}

/// How far an exporter was, when it last got on.
#[derive(Clone, Copy)]
struct Progress {
    settled: u64,
    failed: u64,
    at: Instant,
}

/// A problem that stays until it is settled.
struct Lasting {
    problem: Problem,
    /// Whether a part ended that should not have.
    is_loss: bool,
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Problem {
    part: String,
    what: String,
}

impl Health {
    /// Looks at these pipelines with their logs, and these exporters, from now on; what is known of those that were
    /// looked at before stays known.
    pub(crate) fn follow(&self, queues: &[NamedQueue], exporters: &[ExporterSource]) {
        let mut seen = self.seen();
        let before = std::mem::take(&mut seen.pipelines);
        let pipeline = |NamedQueue { pipeline, queue }: &NamedQueue| {
            let known = before.iter().find(|known| Arc::ptr_eq(&known.queue, queue));
            let refused = known.map_or((0, None), |known| known.refused);
            WatchedPipeline { name: pipeline.clone(), queue: Arc::clone(queue), refused }
        };
        seen.pipelines = queues.iter().map(pipeline).collect();
        let before = std::mem::take(&mut seen.exporters);
        let exporter = |source: &ExporterSource| {
            let ExporterSource { exporter, pipeline, counts } = source.clone();
            let known = before.iter().find(|known| known.id == exporter && known.pipeline == pipeline);
            let begin = Progress { settled: 0, failed: 0, at: Instant::now() };
            let progress = known.map_or(begin, |known| known.progress);
            WatchedExporter { pipeline, id: exporter, counts, progress }
        };
        seen.exporters = exporters.iter().map(exporter).collect();
    }

    /// Looks at these receivers that fetch from now on.
    pub(crate) fn follow_scrapes(&self, scrapes: &[(String, ScrapeCounts)]) {
        self.seen().scrapes = scrapes.to_vec();
    }

    /// Looks at these links from now on.
    pub(crate) fn follow_links(&self, links: &[Arc<Link>]) {
        self.seen().links = links.to_vec();
    }

    /// Looks at the plugins of this host from now on.
    pub(crate) fn watch_plugins(&self, plugins: Host) {
        // A process has one host of plugins.
        drop(self.plugins.set(plugins));
    }

    /// A problem that stays until it is settled.
    pub(crate) fn note(&self, part: String, what: String) {
        self.last(Lasting { problem: Problem { part, what: shortened(&what) }, is_loss: false });
    }

    /// A part of the process is gone; a start mends it, so the page asks for one.
    pub(crate) fn lost(&self, part: String, what: String) {
        self.last(Lasting { problem: Problem { part, what: shortened(&what) }, is_loss: true });
    }

    fn last(&self, lasting: Lasting) {
        let mut seen = self.seen();
        if seen.lasting.len() < LASTING_MAX {
            seen.lasting.push(lasting);
        }
    }

    /// Nothing that was noted of this part holds any more.
    pub(crate) fn settle(&self, part: &str) {
        self.seen().lasting.retain(|lasting| lasting.problem.part != part);
    }

    /// How many problems stay until they are settled.
    #[cfg(test)]
    pub(crate) fn lasting(&self) -> usize {
        self.seen().lasting.len()
    }

    /// What is wrong now: the part, and what.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let (_, report) = self.report(Instant::now());
        report.problems.into_iter().map(|problem| (problem.part, problem.what)).collect()
    }

    /// Notes who has got on and who was refused. Called often, so that the page knows since when.
    pub(crate) fn look(&self, now: Instant) {
        self.seen().look(now);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong now.
    ///
    /// A paused exporter, a queue that is full or degraded are told, but the process is healthy as long as it keeps
    /// what it has taken: a restart by a supervisor would mend none of them. It would mend a part that is gone.
    fn report(&self, now: Instant) -> (StatusCode, Report) {
        let mut seen = self.seen();
        let stati = seen.look(now);
        let mut problems: Vec<Problem> = seen.lasting.iter().map(|lasting| lasting.problem.clone()).collect();
        for (WatchedPipeline { name, refused: (_, refused), .. }, status) in seen.pipelines.iter().zip(&stati)
        {
            let mut tell = |what: &str| {
                problems.push(Problem { part: format!("pipeline {name}"), what: shortened(what) });
            };
            if let Some(why) = &status.degraded {
                tell(why);
            }
            if refused.is_some_and(|at| now.saturating_duration_since(at) < REFUSING_FOR) {
                let Status { bytes, budget_bytes, .. } = status;
                tell(&format!(
                    "senders are refused: the queue is full ({bytes} of {budget_bytes} bytes) until exporters deliver"
                ));
            }
        }
        for WatchedExporter { pipeline, id, counts, progress } in &seen.exporters {
            let pending = pending(&seen.pipelines, &stati, pipeline, id);
            if let Some(what) = trouble(counts, *progress, pending, now) {
                let part = format!("exporter {id} of pipeline {pipeline}");
                problems.push(Problem { part, what: shortened(&what) });
            }
        }
        let complaining = seen.scrapes.iter().filter_map(|(id, counts)| Some((id, counts.complaint()?)));
        problems.extend(
            complaining.map(|(id, what)| Problem { part: format!("receiver {id}"), what: shortened(&what) }),
        );
        problems.extend(seen.links.iter().filter_map(|link| of_link(link, now)));
        problems.extend(self.plugins.get().into_iter().flat_map(Host::slots).filter_map(of_plugin));
        if self.drain.is_signaled() {
            return (StatusCode::SERVICE_UNAVAILABLE, Report { status: "draining", problems });
        }
        if seen.lasting.iter().any(|lasting| lasting.is_loss) {
            return (StatusCode::SERVICE_UNAVAILABLE, Report { status: "broken", problems });
        }
        let status = if problems.is_empty() { "ok" } else { "degraded" };
        (StatusCode::OK, Report { status, problems })
    }
}

/// What is wrong with a link: its collector is away.
fn of_link(link: &Link, now: Instant) -> Option<Problem> {
    let (status, begun) = link.status()?;
    let away = now.saturating_duration_since(status.away_since.unwrap_or(begun));
    if status.connected.is_some() || away < NO_SUCCESS_FOR {
        return None;
    }
    let what = format!("no stream to the collector for {} s: {}", away.as_secs(), status.why_not);
    Some(Problem { part: format!("link {}", link.id), what: shortened(&what) })
}

/// What is wrong with the plugin of an id. A restart would not mend it: it might not even start.
fn of_plugin(slot: SlotView) -> Option<Problem> {
    let what = match (slot.state, slot.refused) {
        (SlotState::Serving, None) => return None,
        (SlotState::Serving, Some(reason)) => {
            format!("its plugin file is refused, version {} from before serves: {reason}", slot.version)
        }
        (SlotState::Quarantined(quarantined), None) => quarantined.to_string(),
        (SlotState::Quarantined(quarantined), Some(reason)) => {
            format!("{quarantined}; the plugin file that is there is refused: {reason}")
        }
        (SlotState::Absent(why), None) => format!("no plugin: {why}"),
        (SlotState::Absent(_), Some(reason)) => {
            format!("no plugin: the file that is there is refused: {reason}")
        }
    };
    Some(Problem { part: format!("{} {}", slot.wanted.noun(), slot.id), what: shortened(&what) })
}

impl Seen {
    /// Notes who has got on and who was refused; what each pipeline's log says of itself.
    fn look(&mut self, now: Instant) -> Vec<Status> {
        let stati: Vec<Status> = self.pipelines.iter().map(|watched| watched.queue.status()).collect();
        for WatchedPipeline { queue, refused: (refused, since), .. } in &mut self.pipelines {
            let counts = queue.counts();
            let of = |signal: &Signal| counts.refused.of(*signal, Reason::QueueFull).get();
            let total = Signal::ALL.iter().map(of).sum();
            if total > *refused {
                *since = Some(now);
            }
            *refused = total;
        }
        for WatchedExporter { pipeline, id, counts, progress } in &mut self.exporters {
            let sum = |of: &BySignal| Signal::ALL.iter().map(|signal| of.of(*signal).get()).sum::<u64>();
            let settled = sum(&counts.sent) + sum(&counts.rejected) + sum(&counts.dead_lettered);
            if settled != progress.settled || pending(&self.pipelines, &stati, pipeline, id) == 0 {
                *progress = Progress { settled, failed: sum(&counts.send_failed), at: now };
            }
        }
        // Asked often, a link knows since when it has none.
        self.links.iter().for_each(|link| drop(link.status()));
        stati
    }
}

/// Records that the exporter has not settled.
fn pending(pipelines: &[WatchedPipeline], stati: &[Status], pipeline: &str, exporter: &str) -> u64 {
    let of = pipelines.iter().zip(stati).find(|(watched, _)| watched.name == pipeline);
    let cursor = of.and_then(|(_, status)| status.cursors.iter().find(|cursor| cursor.exporter == exporter));
    cursor.map_or(0, |cursor| cursor.pending_records)
}

/// What is wrong with an exporter.
fn trouble(counts: &ExporterCounts, progress: Progress, pending: u64, now: Instant) -> Option<String> {
    let state = counts.state();
    if let Some(why) = state.paused {
        return Some(format!("paused until an operator acts: {why}"));
    }
    let silent = now.saturating_duration_since(progress.at);
    let failed = Signal::ALL.iter().map(|signal| counts.send_failed.of(*signal).get()).sum::<u64>();
    // One that waits for its batch to fill tries nothing, and is well.
    let tries = failed > progress.failed || counts.in_flight.get() > 0;
    if pending == 0 || silent < NO_SUCCESS_FOR || !tries {
        return None;
    }
    let seconds = silent.as_secs();
    let said = match state.last_error {
        Some(error) if failed > progress.failed => format!("the last error is: {error}"),
        Some(_) | None => "a push is under way and has no answer".to_owned(),
    };
    Some(format!("no success for {seconds} s, {pending} records wait; {said}"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Handler for Health {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let response = match request.uri().path() {
            "/" | "/health" | "/livez" | "/readyz" => {
                let (status, report) = self.report(Instant::now());
                let body = serde_json::to_vec_pretty(&report).unwrap_or_default();
                typed(status, "application/json", body)
            }
            _ => text(StatusCode::NOT_FOUND, "expected GET /health\n"),
        };
        Box::pin(std::future::ready(response))
    }
}

#[cfg(test)]
mod tests {
    use weir_model::{Batch, Lane, Log as _};
    use weir_queue::{MemoryQueue, WhenFull};

    use super::*;

    fn batch(bytes: usize) -> Vec<Batch> {
        let body = vec![0; bytes].into();
        vec![Batch {
            signal: Signal::Traces,
            lane: Lane::default(),
            items: 1,
            body,
            origin: None,
            claim: None,
        }]
    }

    struct Watched {
        queue: Arc<MemoryQueue>,
        counts: ExporterCounts,
        health: Health,
    }

    fn watched() -> Watched {
        let queue = MemoryQueue::new(64 << 10);
        let counts = ExporterCounts::default();
        drop(queue.subscribe("otlp", WhenFull::Refuse).expect("room for one exporter"));
        let health = Health::default();
        let named = NamedQueue { pipeline: "traces".to_owned(), queue: Arc::clone(&queue) as Arc<dyn Queue> };
        let (pipeline, exporter) = ("traces".to_owned(), "otlp".to_owned());
        health.follow(&[named], &[ExporterSource { exporter, pipeline, counts: counts.clone() }]);
        Watched { queue, counts, health }
    }

    fn said(health: &Health, now: Instant) -> (u16, &'static str, String) {
        let (status, report) = health.report(now);
        let words: Vec<String> = report
            .problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.part, problem.what))
            .collect();
        (status.as_u16(), report.status, words.join("\n"))
    }

    /// Scenario: a queue without room refuses a sender; half a minute passes without another.
    /// Guarantees: the page says so while it lasts, and no longer.
    #[tokio::test]
    async fn a_queue_that_refuses_senders_is_told() {
        let Watched { queue, health, .. } = watched();
        let now = Instant::now();
        assert_eq!(said(&health, now).1, "ok");
        let mut taken = 0;
        while let Ok(admission) = queue.admit(batch(8 << 10)) {
            drop(admission.commit().await.expect("memory takes what it admitted"));
            taken += 1;
        }
        assert!(taken > 0, "an empty queue has room");
        let (status, word, words) = said(&health, now);
        assert_eq!((status, word), (200, "degraded"));
        assert!(words.contains("pipeline traces: senders are refused"), "{words}");
        assert_eq!(said(&health, now + REFUSING_FOR).1, "ok");
    }

    /// Scenario: an exporter fails for a minute with a record to come; fails with very many words; then succeeds.
    /// Guarantees: it is told after the minute and not before, with the last error, cut; success ends it.
    #[tokio::test]
    async fn an_exporter_without_success_is_told_with_its_last_error() {
        let Watched { queue, counts, health } = watched();
        let now = Instant::now();
        let admission = queue.admit(batch(100)).expect("there is room");
        drop(admission.commit().await.expect("memory takes what it admitted"));
        health.look(now);
        assert_eq!(
            said(&health, now + NO_SUCCESS_FOR * 2).1,
            "ok",
            "it waits for a batch to fill, and tries nothing"
        );
        counts.send_failed.of(Signal::Traces).add(1);
        counts.note_error(&"no route to host ".repeat(30));
        assert_eq!(said(&health, now + NO_SUCCESS_FOR / 2).1, "ok");
        let (status, word, words) = said(&health, now + NO_SUCCESS_FOR * 2);
        assert_eq!((status, word), (200, "degraded"));
        assert!(words.contains("exporter otlp of pipeline traces: no success for 1"), "{words}");
        assert!(words.contains("1 records wait; the last error is: no route to host"), "{words}");
        assert!(words.chars().count() < WORDS_MAX + 60, "{words}");
        counts.sent.of(Signal::Traces).add(1);
        assert_eq!(said(&health, now + NO_SUCCESS_FOR * 2).1, "ok");
    }

    /// Scenario: a part of the process is gone.
    /// Guarantees: the page asks for a restart.
    #[test]
    fn a_part_that_is_gone_is_no_health() {
        let Watched { health, .. } = watched();
        health.lost("receiver otlp".to_owned(), "gone until weir is restarted: it panicked".to_owned());
        let (status, word, words) = said(&health, Instant::now());
        assert_eq!((status, word), (503, "broken"));
        assert!(words.contains("receiver otlp: gone"), "{words}");
    }
}

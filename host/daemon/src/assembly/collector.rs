//! The collector behind a receiver of type `weir`.
//!
//! What it knows of its agents lies in one file, which has one owner: so a receiver whose door is made anew goes on with what the
//! one before it knew.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};
use weir_link::collector::{Bound, Collector, CollectorSettings, FleetRow, LinkCounts, Marks};
use weir_model::{Mark, Signal};
use weir_net::Drain;
use weir_net::tls::ServerTls;
use weir_queue::Queue;
use weir_receiver::door::Settings;
use weir_wire::WalkLimits;

use super::pipelines::{Line, folder_name};
use super::{Bench, make_private_dir, receivers};
use crate::command::Failure;
use crate::config::{Config, Id, Kind, LinkReceiver, Located, PipelineId, ReceiverConfig, Storage};
use crate::fleet::Roster;

/// The folder of both ends of links in the data folder.
pub(super) const LINKS: &str = "link";

/// How often it is looked whom nobody has seen for long.
const SWEEP: Duration = Duration::from_secs(60);

/// What one record may hold: the most that any agent can be told to take. It has counted for its senders.
const WALK: WalkLimits = WalkLimits { items_max: 1 << 24, attributes_max: 1 << 16, resources_max: 1 << 24 };

/// Where links keep what they must not forget; nowhere where the process keeps nothing.
///
/// # Errors
/// Where the folder cannot be made.
pub(super) fn link_folder(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    if config.service.queue.storage == Storage::Memory {
        return Ok(None);
    }
    let folder = config.service.data_dir.join(LINKS);
    make_private_dir(&folder)?;
    Ok(Some(folder))
}

/// Where one collector does: each receiver has agents of its own.
fn folder(config: &Config, id: &Id) -> anyhow::Result<Option<PathBuf>> {
    let Some(links) = link_folder(config)? else { return Ok(None) };
    let folder = links.join(folder_name(&id.to_string()));
    make_private_dir(&folder)?;
    Ok(Some(folder))
}

/// What a collector keeps when its door is made anew.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    /// The logs that it feeds.
    pub(super) fed: Fed,
    counts: LinkCounts,
    kept: Arc<Mutex<Option<Arc<Collector>>>>,
}

impl Standing {
    /// A door has taken its place: what it knows is gone on with.
    pub(super) fn keep(&self, collector: Option<Arc<Collector>>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = collector;
    }

    fn kept(&self) -> Option<Arc<Collector>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The logs that a collector feeds. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Fed(Arc<RwLock<Vec<Arc<dyn Queue>>>>);

impl Fed {
    /// From now on it feeds the logs of these pipelines.
    pub(crate) fn exchange(&self, config: &Config, lines: &BTreeMap<PipelineId, Line>, receiver: &Id) {
        let feeds = |pipeline: &PipelineId| {
            let wanted = config.pipelines.get(pipeline);
            wanted.is_some_and(|wanted| wanted.receivers.iter().any(|fed| fed.value == *receiver))
        };
        let logs = lines.iter().filter(|(pipeline, _)| feeds(pipeline));
        let logs = logs.map(|(_, line)| Arc::clone(&line.named.queue)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = logs;
    }

    fn now(&self) -> Vec<Arc<dyn Queue>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Marks for Fed {
    fn marks(&self, identity: &str) -> Vec<Mark> {
        // All of them: the registry wants the highest where it looks for a copy, and the lowest for what is persisted.
        self.now().iter().flat_map(|log| log.marks(identity)).collect()
    }
}

/// A collector with its address.
pub(crate) struct Ready {
    /// It.
    pub(super) collector: Arc<Collector>,
    bound: Bound,
}

impl Ready {
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.bound.local_addr()
    }

    pub(super) fn certificates(&self) -> Option<Arc<ServerTls>> {
        self.bound.tls()
    }

    /// Serves until `drain` is signaled and every agent has been told.
    ///
    /// # Errors
    /// Where the socket cannot be handed to the runtime.
    pub(super) async fn serve(self, drain: Drain) -> io::Result<()> {
        let Self { collector, bound } = self;
        tokio::select! {
            served = bound.serve(drain) => served,
            never = sweep(&collector) => match never {},
        }
    }
}

async fn sweep(collector: &Collector) -> Infallible {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        collector.sweep().await;
    }
}

/// Binds the receiver's address; nobody is served yet. Blocks for its file.
///
/// # Errors
/// An address, a certificate or a folder that cannot be used.
pub(super) fn open(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &LinkReceiver,
    standing: &Standing,
    settings: Settings,
) -> Result<Ready, Failure> {
    let LinkReceiver { listen, heartbeat, credit_bytes, limits } = receiver;
    let doing = || format!("start receiver {id}");
    let behind = settings.pipelines;
    let settings = CollectorSettings {
        id: settings.id,
        folder: folder(bench.config, id).with_context(doing)?,
        pipelines: Arc::new(move |signal: Signal| behind.of(signal)),
        logs: Arc::new(standing.fed.clone()),
        heartbeat: *heartbeat,
        credit_bytes: *credit_bytes,
        bundle_bytes_max: limits.request_bytes_max,
        walk: WALK,
        limits: receivers::listen_limits(limits),
        states: bench.states.of_collector(bench.config, &bench.ledger).with_context(doing)?,
        peer_name: Arc::new(|peer| peer.identity.as_ref()?.name.clone()),
        ledger: settings.ledger,
        counts: settings.counts,
        link_counts: standing.counts.clone(),
    };
    let collector = match standing.kept() {
        Some(kept) => kept.renewed(settings),
        None => Collector::open(settings).with_context(doing)?,
    };
    let tls = receivers::tls(&listen.tls).map(ServerTls::load).transpose().with_context(doing)?;
    let bound = collector.bind(&listen.endpoint.value.to_string(), tls).with_context(doing)?;
    Ok(Ready { collector, bound })
}

/// Whether agents come to this process.
pub(super) fn is_used(config: &Config) -> bool {
    let is_one = |(id, part): (&Id, &Located<ReceiverConfig>)| {
        matches!(part.value, ReceiverConfig::Link(_)) && config.uses(Kind::Receiver, id)
    };
    config.receivers.iter().any(is_one)
}

/// A collector as it is shown.
pub(super) struct Shown {
    id: String,
    collector: Arc<Collector>,
    counts: LinkCounts,
}

impl Shown {
    pub(super) fn of(id: &Id, collector: &Arc<Collector>, standing: &Standing) -> Arc<dyn Roster> {
        let (id, counts) = (id.to_string(), standing.counts.clone());
        Arc::new(Self { id, collector: Arc::clone(collector), counts })
    }
}

impl Roster for Shown {
    fn receiver(&self) -> &str {
        &self.id
    }

    fn agents(&self) -> Vec<FleetRow> {
        self.collector.fleet()
    }

    fn counts(&self) -> LinkCounts {
        self.counts.clone()
    }
}

//! Who is connected to whom.
//!
//! ```text
//! receivers ──▶ fanout ──▶ pipelines ──▶ queues ◀── deliveries ──▶ exporters
//!     (doors)              (augment, group)  │        (lease, settle)  (native, plugins)
//!                                            └── admin socket, /metrics, /health look in
//! ```
//!
//! | file | what it is |
//! | --- | --- |
//! | `parts.rs` | the living parts: started together, ended together or one by one |
//! | `pipelines.rs`, `exporters.rs`, `pages.rs`, `receivers.rs`, `scrape.rs`, `plugins.rs` | how each kind is made from the configuration |
//! | `link.rs`, `agent.rs`, `collector.rs` | the two ends of links |
//! | `states.rs`, `events.rs`, `own.rs` | what is said of resources over them: by whom it is kept, by programs, by the process itself |
//! | `tasks.rs` | tasks with names, whose end is news unless they were told to |
//! | `triggers.rs`, `diff.rs`, `staging.rs`, `reload.rs` | another configuration while data flows: who asks, what differs, what is ready before anything is touched, what is done |
//! | `current.rs` | lists that follow the parts |
//!
//! Everything that can fail at a start happens here, before the first sender is let in.

mod agent;
mod collector;
mod current;
mod diff;
mod events;
mod exporters;
mod link;
mod owed;
pub(crate) mod own;
mod pages;
mod parts;
mod pipelines;
mod plugins;
mod receivers;
mod reload;
mod scrape;
mod staging;
mod states;
mod tasks;
mod triggers;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tracing::info;
use weir_model::{Ledger, NodeRegistry};
use weir_net::client::{Client, ClientSettings};
use weir_net::listen;
use weir_queue::{Disk, FolderLock, Queue, SystemDisk};

use crate::admin::Admin;
use crate::command::Failure;
use crate::config::{Config, Id, Storage};
use crate::fleet::Fleet;
use crate::shutdown::{self, Ended, Stop};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pages::{Health, MetricsPage};

pub use current::Current;
pub(crate) use link::Link;
pub(crate) use owed::emptied;
pub(crate) use parts::{Parts, Views};
pub(crate) use pipelines::queue_folders;
pub use plugins::{CompiledCode, Plugins};
pub(crate) use plugins::{cache_dir, grants, hex};
pub(crate) use reload::reload;
pub(crate) use states::States;
pub(crate) use tasks::Tasks;
pub use triggers::Triggers;

/// What a part is made with.
pub(crate) struct Bench<'a> {
    pub(crate) config: &'a Config,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) nodes: Arc<NodeRegistry>,
    pub(crate) client: Client,
    pub(crate) plugins: Plugins,
    pub(crate) states: States,
}

/// A page of our own, bound.
pub(crate) struct Page {
    pub(crate) bound: listen::Bound,
    pub(crate) handler: Arc<dyn listen::Handler>,
}

/// One pipeline's log, by the pipeline's name.
#[derive(Clone)]
pub struct NamedQueue {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its log.
    pub queue: Arc<dyn Queue>,
}

/// The process, assembled and bound; nobody is served yet.
pub struct Daemon {
    /// What runs: the file as it was last taken, with what of it holds only from the next start as it was at this one.
    pub(crate) config: Config,
    pub(crate) foundation: Foundation,
    pub(crate) parts: Parts,
    pub(crate) views: Views,
    pub(crate) pages: Vec<Page>,
    pub(crate) admin: Option<Admin>,
    /// Proof that no other daemon has the data folder; none where there is none.
    pub(crate) lock: Option<FolderLock>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// What stands before the configuration is complete: plugins are asked about their settings.
#[derive(Clone)]
pub struct Foundation {
    ledger: Arc<Ledger>,
    nodes: Arc<NodeRegistry>,
    client: Client,
    /// What agents have said of resources; of a collector alone.
    pub(crate) states: States,
    /// The plugins.
    pub plugins: Plugins,
}

impl Foundation {
    /// Lays it for this configuration; nothing is bound, and no folder but the plugins' cache is made, if `code` says
    /// so.
    ///
    /// # Errors
    /// Where the machine cannot run guests.
    pub fn lay(config: &Config, runtime: Handle, code: CompiledCode) -> Result<Self, Failure> {
        let ledger = Ledger::new(config.service.memory.limit_bytes);
        let client = Client::new(ClientSettings::new(Arc::clone(&ledger)));
        let plugins = Plugins::new(config, Arc::clone(&ledger), client.clone(), runtime, code)?;
        Ok(Self { ledger, nodes: Arc::default(), client, states: States::default(), plugins })
    }

    /// What parts of this configuration are made with.
    pub(crate) fn bench<'a>(&self, config: &'a Config) -> Bench<'a> {
        let Self { ledger, nodes, client, states, plugins } = self.clone();
        Bench { config, ledger, nodes, client, plugins, states }
    }
}

impl Daemon {
    /// Builds every part and binds every address.
    ///
    /// # Errors
    /// [`Failure`]: what could not be had, with its name.
    pub async fn assemble(config: Config, foundation: Foundation) -> Result<Self, Failure> {
        let in_memory = config.service.queue.storage == Storage::Memory;
        let lock = match in_memory {
            true => None,
            false => Some(lock(&config.service.data_dir)?),
        };
        let parts = Parts::assemble(&config, &foundation).await?;
        foundation.plugins.forget();
        let views = Views::default();
        views.health.watch_plugins(foundation.plugins.host().clone());
        views.follow(&parts);
        views.config.exchange(config_hash(&config));
        views.show_waiting(pipelines::waiting(&config).await);
        let (ledger, nodes) = (Arc::clone(&foundation.ledger), Arc::clone(&foundation.nodes));
        let metrics = Metrics::new(views.sources.clone(), ledger, nodes);
        let pages = own_pages(&config, metrics, views.fleet.clone(), Arc::clone(&views.health))?;
        let admin = match in_memory {
            true => None,
            false => {
                let (plugins, ledger) = (foundation.plugins.host().clone(), Arc::clone(&foundation.ledger));
                let bound = Admin::bind(&config.service.data_dir, &views, plugins, ledger);
                Some(bound.context("bind the admin socket")?)
            }
        };
        Ok(Self { config, foundation, parts, views, pages, admin, lock })
    }

    /// Who speaks to this process.
    pub(crate) fn nodes(&self) -> Arc<NodeRegistry> {
        Arc::clone(&self.foundation.nodes)
    }

    /// Receiver, protocol and address of every door.
    pub fn addresses(&self) -> Vec<(String, &'static str, SocketAddr)> {
        addresses(&self.parts.doors)
    }

    /// The same of every page: exporter, protocol and address.
    pub fn page_addresses(&self) -> Vec<(String, &'static str, SocketAddr)> {
        addresses(&self.parts.pages.doors)
    }

    /// Serves until `stop`, then drains; says how that ended. `triggers` reload the configuration meanwhile.
    pub async fn run(self, stop: Stop, triggers: Triggers) -> Ended {
        for (receiver, protocol, address) in self.addresses() {
            info!(receiver, protocol, %address, "listening");
        }
        for (exporter, protocol, address) in self.page_addresses() {
            info!(exporter, protocol, %address, "listening");
        }
        shutdown::live_and_die(self, stop, triggers).await
    }
}

fn addresses(doors: &BTreeMap<Id, receivers::Door>) -> Vec<(String, &'static str, SocketAddr)> {
    let of = |(id, door): (&Id, &receivers::Door)| {
        let id = id.to_string();
        let addresses = door.addresses.clone();
        addresses.into_iter().map(move |(protocol, address)| (id.clone(), protocol, address))
    };
    doors.iter().flat_map(of).collect()
}

fn own_pages(
    config: &Config,
    metrics: Metrics,
    fleet: Fleet,
    health: Arc<Health>,
) -> Result<Vec<Page>, Failure> {
    let mut pages = Vec::new();
    let mut add = |listen: &crate::config::Listen, what, handler| -> Result<(), Failure> {
        let endpoint = listen.endpoint.value.to_string();
        let bound = listen::Bound::bind(&endpoint, listen::Settings::default())
            .with_context(|| format!("serve {what}"))?;
        info!(address = %bound.local_addr(), "{what} page");
        pages.push(Page { bound, handler });
        Ok(())
    };
    if let Some(listen) = &config.service.telemetry.metrics {
        let page = MetricsPage { metrics: Arc::new(metrics), fleet };
        add(listen, "metrics", Arc::new(page) as Arc<dyn listen::Handler>)?;
    }
    if let Some(listen) = &config.service.health {
        add(listen, "health", health as Arc<dyn listen::Handler>)?;
    }
    Ok(pages)
}

/// Of the text that runs: tells two configurations apart, and nothing of what is in them.
pub(crate) fn config_hash(config: &Config) -> String {
    hex(&Sha256::digest(config.source.text.as_bytes()))
}

/// The lock's name in the data folder.
const LOCK: &str = "lock";

/// Makes the data folder and takes it: two daemons in it would have each other's socket, whatever their pipelines are.
fn lock(data_dir: &Path) -> anyhow::Result<FolderLock> {
    make_private_dir(data_dir)?;
    let path = data_dir.join(LOCK);
    let taken = SystemDisk.lock(&path).with_context(|| format!("lock {}", path.display()))?;
    taken.with_context(|| {
        format!(
            "another weir has the data folder {}: stop it, or set `service: {{data_dir: …}}` to a folder of \
             this one's own",
            data_dir.display()
        )
    })
}

/// Makes a folder that only this user can look into, with the folders around it.
fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| {
        format!(
            "make the data folder {}: set `service: {{data_dir: …}}` to a folder that this user may write",
            path.display()
        )
    })
}

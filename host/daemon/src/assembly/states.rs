//! What is said of resources over links, and kept of those who say it: an agent's outbox, a collector's store.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::task::JoinHandle;
use tracing::warn;
use weir_link::lanes::CollectorStates;
use weir_link::state::{Keep, Outbox, OutboxHandle, Store, Volatile};
use weir_queue::{DurableMap, Opened, SystemDisk};

use super::collector::link_folder;
use super::pipelines::folder_name;
use crate::config::{Config, Id};

/// The collector's file in the folder of links.
const STORE: &str = "states.redb";

/// Opens the file of an outbox or a store, or a map in memory; whether nothing was ever kept there.
fn keep(folder: Option<&Path>, name: &str) -> anyhow::Result<(Arc<dyn Keep>, bool)> {
    let Some(folder) = folder else { return Ok((Arc::<Volatile>::default(), true)) };
    let path = folder.join(name);
    let (map, opened) = DurableMap::open(Arc::new(SystemDisk), &path)
        .with_context(|| format!("open the states in {}", path.display()))?;
    let is_new = match opened {
        Opened::New => true,
        Opened::Kept => false,
        Opened::SetAside(aside) => {
            warn!(file = %path.display(), set_aside = %aside, "states could not be read, they are said again");
            false
        }
    };
    Ok((Arc::new(map), is_new))
}

// === at an agent ===

/// An agent's outbox, as it is reported into.
pub(super) struct Reporting {
    handle: OutboxHandle,
    task: JoinHandle<()>,
}

/// Opens the outbox of an exporter's agent. Blocks for its file, which is free again when the outbox and what is given back are
/// dropped.
///
/// # Errors
/// A file that cannot be used.
pub(super) fn of_agent(config: &Config, id: &Id) -> anyhow::Result<(Outbox, Reporting)> {
    let (name, folder) = (format!("outbox-{}.redb", folder_name(&id.to_string())), link_folder(config)?);
    let (keep, is_new) = keep(folder.as_deref(), &name)?;
    let (outbox, handle, task) = Outbox::open(keep, is_new);
    Ok((outbox, Reporting { handle, task }))
}

impl Reporting {
    /// What the process, and its programs, report states through.
    pub(super) fn handle(&self) -> OutboxHandle {
        self.handle.clone()
    }

    /// What is left of it ends with the outbox and its handles.
    pub(super) fn end(self) -> JoinHandle<()> {
        self.task
    }
}

// === at a collector ===

/// The states of all agents that come to this process. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct States(Arc<Mutex<Option<Kept>>>);

struct Kept {
    store: Arc<Store>,
    task: JoinHandle<()>,
}

impl States {
    /// The store, opened when it is first asked for. Blocks for its file then.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn of_collector(&self, config: &Config) -> anyhow::Result<Arc<dyn CollectorStates>> {
        let mut kept = self.kept();
        if let Some(kept) = &*kept {
            return Ok(Arc::clone(&kept.store) as Arc<dyn CollectorStates>);
        }
        let folder = link_folder(config)?;
        let (keep, _) = keep(folder.as_deref(), STORE)?;
        let (store, task) = Store::open(keep).context("open the store of states")?;
        *kept = Some(Kept { store: Arc::clone(&store), task });
        Ok(store)
    }

    /// The store, where it is open.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.kept().as_ref().map(|kept| Arc::clone(&kept.store))
    }

    /// Writes what is taken. Everybody else has let go of the store.
    pub(crate) async fn close(&self) {
        let kept = self.kept().take();
        close(kept).await;
    }

    /// The same where nobody else has it, for a process that is no collector any more; else it stays, for whoever has it and for the
    /// next collector.
    pub(super) async fn close_unused(&self) {
        let unused = self.kept().take_if(|kept| Arc::strong_count(&kept.store) == 1);
        close(unused).await;
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn close(kept: Option<Kept>) {
    let Some(Kept { store, task }) = kept else { return };
    drop(store);
    if let Err(error) = task.await {
        warn!(%error, "the store of states did not end by itself");
    }
}

//! What a reload makes ready beside what runs, before anything is touched.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use anyhow::Context;
use tracing::warn;
use weir_net::{Drain, datagrams, listen};

use super::diff::Plan;
use super::exporters::{self, Built};
use super::pipelines::Site;
use super::receivers::{self, Door};
use super::{Bench, Daemon, NamedQueue, events, pages};
use crate::command::Failure;
use crate::config::{Config, Id, PipelineId};
use crate::validate::{Transport, clash};

/// Why a reload did not come to its end.
#[derive(Debug)]
pub(super) enum Refused {
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

/// What `work` comes to, which is dropped where the process is told to end before.
///
/// # Errors
/// [`Refused::Stopped`].
pub(super) async fn heeding<T>(stop: &Drain, work: impl Future<Output = T>) -> Result<T, Refused> {
    tokio::select! {
        biased;
        () = stop.signaled() => Err(Refused::Stopped),
        done = work => Ok(done),
    }
}

/// What is ready before anything is touched.
pub(super) struct Staged {
    pub(super) exporters: BTreeMap<Id, Built>,
    pub(super) queues: Vec<(PipelineId, NamedQueue)>,
    pub(super) doors: BTreeMap<Id, Door>,
    /// Doors of exporters that are fetched from.
    pub(super) pages: BTreeMap<Id, Door>,
    /// Where the events service is to move to, if it is.
    pub(super) events: Option<events::Door>,
    /// Doors whose address is another's that will end.
    pub(super) waiting: Vec<Waiting>,
}

/// A door that waits for its address.
pub(super) enum Waiting {
    /// A receiver's.
    Receiver(Id),
    /// An exporter's page.
    Page(Id),
}

impl Daemon {
    /// Builds what can be built beside what runs.
    ///
    /// # Errors
    /// [`Refused`]; nothing of what was made is left.
    pub(super) async fn stage(&self, config: &Config, plan: &Plan, stop: &Drain) -> Result<Staged, Refused> {
        let mut staged = heeding(stop, self.build(config, plan)).await??;
        staged.queues = self.open_logs(config, plan, stop).await?;
        Ok(staged)
    }

    async fn build(&self, config: &Config, plan: &Plan) -> Result<Staged, Refused> {
        let bench = self.foundation.bench(config);
        let (mut built, mut doors, mut waiting) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for id in plan.exporters.starting() {
            built.insert(id.clone(), exporters::build(&bench, id, self.parts.exporters.get(id)).await?);
        }
        let let_go = self.let_go(config, plan);
        let events = self.bind_events(config, &let_go)?;
        for id in plan.receivers.starting() {
            let standing = self.parts.doors.get(id).map(|door| &door.standing).or(self.parts.shut.get(id));
            let (standing, drain) = (standing.cloned().unwrap_or_default(), self.parts.doors_drain.child());
            match receivers::open(&bench, id, standing, drain).await {
                Ok(door) => drop(doors.insert(id.clone(), door)),
                Err(failure) if is_in_use(&failure) => {
                    let wanted = receivers::wanted(&bench, id).await?;
                    will_be_free(&format!("start receiver {id}"), wanted, &let_go, failure)?;
                    waiting.push(Waiting::Receiver(id.clone()));
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        let (queues, pages) = (Vec::new(), BTreeMap::new());
        let mut staged = Staged { exporters: built, queues, doors, pages, events, waiting };
        self.bind_pages(&bench, plan, &let_go, &mut staged)?;
        Ok(staged)
    }

    /// Binds the pages of exporters that are new, and of those that go on and whose door has failed.
    fn bind_pages(
        &self,
        bench: &Bench<'_>,
        plan: &Plan,
        let_go: &[(Transport, SocketAddr)],
        staged: &mut Staged,
    ) -> Result<(), Refused> {
        let pages = &self.parts.pages;
        let stays = |id: &&Id| pages.doors.get(*id).is_some_and(Door::is_serving);
        let kept = plan.exporters.kept.iter().filter(|id| !stays(id));
        let kept = kept.filter_map(|id| Some((id, self.parts.exporters.get(id)?)));
        for (id, built) in staged.exporters.iter().chain(kept) {
            match pages::open(bench, id, built, pages.standing(id), pages.drain.child()) {
                Ok(door) => staged.pages.extend(door.map(|door| (id.clone(), door))),
                Err(failure) if is_in_use(&failure) => {
                    let wanted = pages::wanted(id, built)?;
                    will_be_free(&pages::name_of_page(id), wanted, let_go, failure)?;
                    staged.waiting.push(Waiting::Page(id.clone()));
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    /// Binds the address that the events service is to move to, if it is. One that a door of ours has, which will end, is bound later.
    fn bind_events(
        &self,
        config: &Config,
        let_go: &[(Transport, SocketAddr)],
    ) -> Result<Option<events::Door>, Refused> {
        let wanted = events::wanted_at(config);
        let Some(address) = wanted.filter(|_| !self.parts.events.is_at(wanted)) else { return Ok(None) };
        match events::Door::bind(address).map_err(Failure::from) {
            Ok(door) => Ok(Some(door)),
            Err(failure) if is_in_use(&failure) => {
                will_be_free(events::NAME, vec![(Transport::Tcp, address)], let_go, failure)?;
                Ok(None)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// The addresses of doors that will end.
    fn let_go(&self, config: &Config, plan: &Plan) -> Vec<(Transport, SocketAddr)> {
        let ending = plan.receivers.ending().filter_map(|id| self.parts.doors.get(id));
        let ending = ending.chain(self.parts.pages.ending(&plan.exporters).map(|(_, door)| door));
        let ending = ending.filter(|door| door.running.as_ref().is_none_or(|running| !running.has_ended()));
        let addresses = ending.flat_map(|door| door.addresses.iter());
        let events = &self.parts.events;
        let events = events.address().filter(|_| !events.is_at(events::wanted_at(config)));
        let events = events.map(|address| (Transport::Tcp, address));
        addresses
            .map(|(protocol, address)| (receivers::transport(protocol), *address))
            .chain(events)
            .collect()
    }

    /// Opens the logs of pipelines that are new.
    async fn open_logs(
        &self,
        config: &Config,
        plan: &Plan,
        stop: &Drain,
    ) -> Result<Vec<(PipelineId, NamedQueue)>, Refused> {
        let mut queues: Vec<(PipelineId, NamedQueue)> = Vec::new();
        if plan.pipelines.added.is_empty() {
            return Ok(queues);
        }
        let site = Site::of(config, &self.foundation.ledger)?;
        let mut refused = None;
        for id in plan.pipelines.added.iter().cloned() {
            let (site, of) = (site.clone(), id.clone());
            // A log that is half open is waited for, so that it is closed and not left to be repaired.
            let opened = tokio::task::spawn_blocking(move || site.open(&of)).await;
            match opened {
                Ok(Ok(named)) => queues.push((id, named)),
                Ok(Err(failure)) => refused = Some(Refused::from(failure)),
                Err(panic) => {
                    refused = Some(Refused::Wrong(vec![format!("open the queue of pipeline {id}: {panic}")]));
                }
            }
            if stop.is_signaled() {
                refused = Some(Refused::Stopped);
            }
            if refused.is_some() {
                break;
            }
        }
        let Some(refused) = refused else { return Ok(queues) };
        for (id, named) in queues {
            close(&id, &named).await;
        }
        Err(refused)
    }
}

/// Whether a door that found an address in use can be bound once our own doors have let theirs go: what it wants
/// beside these must be free now, and an address that a stranger has is refused before anything is touched.
///
/// # Errors
/// Why not.
fn will_be_free(
    doing: &str,
    wanted: Vec<(Transport, SocketAddr)>,
    let_go: &[(Transport, SocketAddr)],
    failure: Failure,
) -> Result<(), Failure> {
    let is_ours = |(transport, wanted): &(Transport, SocketAddr)| {
        let_go.iter().any(|(had_by, had)| had_by == transport && clash(*had, *wanted))
    };
    let (ours, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_ours);
    if ours.is_empty() {
        return Err(failure);
    }
    for (transport, address) in others {
        let address = address.to_string();
        let bound = match transport {
            Transport::Tcp => listen::Bound::bind(&address, listen::Settings::default()).map(drop),
            Transport::Udp => datagrams::Bound::bind(&address).map(drop),
        };
        bound.with_context(|| doing.to_owned())?;
    }
    Ok(())
}

/// Closes a log that is not wanted.
pub(super) async fn close(id: &PipelineId, named: &NamedQueue) {
    if let Err(error) = named.queue.close().await {
        warn!(pipeline = %id, %error, "queue not closed cleanly, the next start repairs it");
    }
}

/// Whether an address was somebody else's.
pub(super) fn is_in_use(failure: &Failure) -> bool {
    let is = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    match failure {
        Failure::Config(_) => false,
        Failure::Other(error) => error.chain().any(is),
    }
}

/// A failure with its causes, in one line.
pub(super) fn text_of(failure: Failure) -> String {
    match failure {
        Failure::Config(text) => text,
        Failure::Other(error) => format!("{error:#}"),
    }
}

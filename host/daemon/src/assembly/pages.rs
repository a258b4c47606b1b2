//! Pages of exporters that are fetched from, and their doors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use weir_model::count::PageCounts;
use weir_net::Drain;
use weir_receiver::page;

use super::Bench;
use super::diff::Changes;
use super::exporters::Built;
use super::receivers::{self, Door, Entrance, Standing};
use super::tasks::{Running, Tasks};
use crate::command::Failure;
use crate::config::{ExporterKind, Id};
use crate::validate::Transport;

/// All of them.
#[derive(Default)]
pub(crate) struct Pages {
    /// Doors of exporters that some pipeline names.
    pub(crate) doors: BTreeMap<Id, Door>,
    /// What is kept of pages that should have a door and have none, because it could not be opened.
    pub(crate) shut: BTreeMap<Id, Standing>,
    /// Doors that have started.
    pub(crate) serving: Tasks,
    /// Ends all doors.
    pub(crate) drain: Drain,
}

/// What a page is called in the log and on the health page.
pub(crate) fn name_of_page(id: &Id) -> String {
    format!("page of exporter {id}")
}

/// Binds the page of an exporter; nobody is served yet. Nothing where it has none.
///
/// # Errors
/// An address or a file that cannot be used.
pub(crate) fn open(
    bench: &Bench<'_>,
    id: &Id,
    built: &Built,
    standing: Standing,
    drain: Drain,
) -> Result<Option<Door>, Failure> {
    let (Some(page), ExporterKind::Plugin(plugin)) = (&built.page, &bench.config.exporters[id].value.kind)
    else {
        return Ok(None);
    };
    let (tls, limits) = (receivers::tls(&plugin.server_tls()), receivers::listen_limits(&plugin.page.limits));
    let configs = page.listeners.iter().map(|listener| page::Config {
        endpoint: listener.address.clone(),
        tls: tls.clone(),
        limits: limits.clone(),
    });
    let settings = page::Settings {
        id: id.to_string().into(),
        ledger: Arc::clone(&bench.ledger),
        counts: standing.page.clone(),
    };
    let bound = page::bind(configs, &page.server, &settings).with_context(|| doing(id))?;
    Ok(Some(Door::new(Entrance::Requests(bound), standing, drain)))
}

fn doing(id: &Id) -> String {
    format!("serve the page of exporter {id}")
}

/// The addresses that an exporter's page wants.
///
/// # Errors
/// One that was not given as `host:port` (which the check of the file has told).
pub(crate) fn wanted(id: &Id, built: &Built) -> Result<Vec<(Transport, SocketAddr)>, Failure> {
    let listeners = built.page.as_ref().map(|page| page.listeners.as_slice()).unwrap_or_default();
    receivers::addresses(&doing(id), listeners)
}

impl Pages {
    /// What a page has counted goes on with its next door.
    pub(crate) fn standing(&self, id: &Id) -> Standing {
        let standing = self.doors.get(id).map(|door| &door.standing).or(self.shut.get(id));
        standing.cloned().unwrap_or_default()
    }

    /// Binds the page of an exporter of a start, if it has one.
    ///
    /// # Errors
    /// As [`open`].
    pub(crate) fn open(&mut self, bench: &Bench<'_>, id: &Id, built: &Built) -> Result<(), Failure> {
        let door = open(bench, id, built, Standing::default(), self.drain.child())?;
        self.doors.extend(door.map(|door| (id.clone(), door)));
        Ok(())
    }

    /// Starts what has not been started.
    pub(crate) fn start(&mut self) {
        for (id, door) in &mut self.doors {
            door.start(name_of_page(id), &mut self.serving);
        }
    }

    /// Doors that a reload ends: of exporters that are built anew or not wanted, and those that have failed.
    pub(crate) fn ending<'s>(
        &'s self,
        exporters: &'s Changes<Id>,
    ) -> impl Iterator<Item = (&'s Id, &'s Door)> {
        let ends = |id: &Id| exporters.changed.contains(id) || exporters.removed.contains(id);
        self.doors.iter().filter(move |(id, door)| ends(id) || !door.is_serving())
    }

    /// Ends these doors; those that were serving are given back.
    pub(crate) fn end(&mut self, exporters: &Changes<Id>) -> Vec<Running> {
        let ids: Vec<Id> = self.ending(exporters).map(|(id, _)| id.clone()).collect();
        let mut leaving = Vec::new();
        for id in ids {
            let Some(door) = self.doors.remove(&id) else { continue };
            if let Some(running) = door.running {
                self.serving.leaves(&running);
                leaving.push(running);
            }
            door.drain.signal();
            self.shut.insert(id, door.standing);
        }
        leaving
    }

    /// Forgets what nobody goes on with: pages that have a door, and exporters that have no page any more.
    pub(crate) fn settle(&mut self, is_page: impl Fn(&Id) -> bool) {
        let Self { doors, shut, .. } = self;
        shut.retain(|id, _| !doors.contains_key(id) && is_page(id));
    }

    /// What each page counts.
    pub(crate) fn counts(&self) -> Vec<(String, PageCounts)> {
        let open = self.doors.iter().map(|(id, door)| (id, &door.standing));
        open.chain(&self.shut).map(|(id, standing)| (id.to_string(), standing.page.clone())).collect()
    }
}

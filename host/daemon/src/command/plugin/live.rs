//! `weir plugin list` and `weir plugin release`: what a running daemon has loaded, asked over its socket.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{Where, say};
use crate::admin::{self, PluginView, Reply, Request};
use crate::command::{Failure, complain};
use crate::config::{self, Config, Storage};

/// Digits of a digest that a person sees: enough to tell files of one folder apart.
const DIGITS_SHOWN: usize = 12;

/// What is listed.
#[derive(Debug, Args)]
pub(in crate::command) struct List {
    #[command(flatten)]
    pub(super) place: Where,
    /// The data folder of the daemon that is asked, where `--config` does not name it.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

/// What is released.
#[derive(Debug, Args)]
pub(in crate::command) struct Release {
    /// The configured id; `exporters/ID` or `receivers/ID` where both have it.
    id: String,
    /// The daemon's configuration, whose `service: {data_dir: …}` has its socket.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder itself.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

/// Where a daemon's socket lies.
struct Daemon {
    data_dir: PathBuf,
    /// Its queues are on disk: in memory there is no data folder, and no socket in it.
    is_reachable: bool,
}

impl Daemon {
    fn of(config: Option<&PathBuf>, data_dir: Option<&PathBuf>) -> Result<Option<Self>, Failure> {
        let of_config = |config: &Config| Self {
            data_dir: config.service.data_dir.clone(),
            is_reachable: config.service.queue.storage == Storage::Disk,
        };
        match (config, data_dir) {
            (Some(file), _) => {
                let draft = config::load(file).map_err(|report| Failure::Config(report.to_string()))?;
                Ok(Some(of_config(draft.config())))
            }
            (None, Some(folder)) => Ok(Some(Self { data_dir: folder.clone(), is_reachable: true })),
            (None, None) => Ok(None),
        }
    }
}

/// What `--json` shows, with a daemon and without.
#[derive(Serialize)]
pub(super) struct Listed<'a, T> {
    /// Whether these are what a running daemon has loaded; else they are what the program and the plugin folder have.
    pub(super) running: bool,
    /// The plugins.
    pub(super) plugins: &'a [T],
}

impl<T: Serialize> Listed<'_, T> {
    pub(super) fn say(&self) -> anyhow::Result<()> {
        say(&serde_json::to_string_pretty(self).context("write JSON")?);
        Ok(())
    }
}

/// Says that the list is not a daemon's.
fn note(why: &str) {
    complain(&format!("note: {why}; this is what the program and the plugin folder have"));
}

/// Shows what the daemon has loaded; `false` where none answers, which is told.
pub(super) fn list(list: &List, runtime: &Runtime) -> Result<bool, Failure> {
    let Some(daemon) = Daemon::of(list.place.config.as_ref(), list.data_dir.as_ref())? else {
        note("no daemon was asked (--config FILE or --data-dir DIR says which)");
        return Ok(false);
    };
    if !daemon.is_reachable {
        note("the queue of this configuration is in memory, so its daemon has no socket to be asked by");
        return Ok(false);
    }
    let asked = runtime.block_on(admin::ask(&daemon.data_dir, &Request::Plugins));
    match asked.context("ask the running daemon")? {
        None => {
            note(&format!("no daemon has the data folder {}", daemon.data_dir.display()));
            Ok(false)
        }
        Some(Reply::Plugins(plugins)) if list.place.json => {
            Listed { running: true, plugins: &plugins }.say()?;
            Ok(true)
        }
        Some(Reply::Plugins(plugins)) => {
            if plugins.is_empty() {
                say("no part of the running daemon is made of a plugin");
            }
            plugins.iter().for_each(show);
            Ok(true)
        }
        Some(reply) => Err(unexpected(reply).into()),
    }
}

/// Ends a quarantine.
pub(super) fn release(release: Release, runtime: &Runtime) -> Result<ExitCode, Failure> {
    let Release { id, config, data_dir } = release;
    let Some(daemon) = Daemon::of(config.as_ref(), data_dir.as_ref())? else {
        complain("error: expected --config FILE or --data-dir DIR");
        return Ok(ExitCode::from(64));
    };
    Ok(runtime.block_on(end_quarantine(&daemon, id))?)
}

async fn end_quarantine(daemon: &Daemon, id: String) -> anyhow::Result<ExitCode> {
    if !daemon.is_reachable {
        bail!(
            "the queue of this configuration is in memory, so its daemon has no socket to be told by: wait for the \
             end of the quarantine, or restart the daemon"
        );
    }
    let asked = admin::ask(&daemon.data_dir, &Request::ReleasePlugin { id: id.clone() }).await;
    match asked.context("ask the running daemon")? {
        Some(Reply::Done) => {
            say("released");
            Ok(ExitCode::SUCCESS)
        }
        Some(Reply::Refreshed) => {
            say(&format!("{id} was not in quarantine; it goes on with fresh instances"));
            Ok(ExitCode::SUCCESS)
        }
        Some(reply) => Err(unexpected(reply)),
        None => bail!(
            "no daemon has the data folder {}: a quarantine ends with its daemon (and one whose queue is in memory has \
             no socket to be told by)",
            daemon.data_dir.display()
        ),
    }
}

fn unexpected(reply: Reply) -> anyhow::Error {
    match reply {
        Reply::Refused(why) => anyhow!(why),
        Reply::Queues(_)
        | Reply::DeadLetters(_)
        | Reply::Body { .. }
        | Reply::Plugins(_)
        | Reply::Done
        | Reply::Refreshed => anyhow!("the daemon answered something else: it is of another version"),
    }
}

fn show(plugin: &PluginView) {
    let PluginView { kind, id, plugin: name, version, digest, source, shadows, generation, .. } = plugin;
    let shadows = if *shadows { ", in front of the bundled one" } else { "" };
    let short = digest.get(..DIGITS_SHOWN).unwrap_or(digest);
    say(&format!(
        "{:32} {name} {version}  sha256 {short}…  generation {generation} ({source}{shadows})",
        format!("{kind} {id}"),
    ));
    let PluginView { state, reason, refused, calls, ends, denials, .. } = plugin;
    let why = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    say(&format!("  {calls} calls, {ends} ends, {denials} denials  {state}{why}"));
    if let Some(why) = refused {
        say(&format!("  the file that is there now is refused: {why}"));
    }
}

//! `weir plugin`: looks at plugins, and prepares them.

mod inspect;
mod precompile;

mod live;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use tokio::runtime::Runtime;
use weir_plugin::Inspection;

use super::{Failure, say};
use crate::assembly::{CompiledCode, Foundation};
use crate::config::{self, Config};

/// Looks at plugins, and prepares them.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Lists what a running daemon has loaded; where none runs, the plugins of the program and of the plugin folder.
    List(live::List),
    /// Ends the quarantine of a plugin in the running daemon.
    Release(live::Release),
    /// Shows what a plugin is, what it may do, and its settings.
    Inspect {
        /// A plugin's name, or the path of a `.wasm` file.
        plugin: String,
        #[command(flatten)]
        place: Where,
    },
    /// Compiles plugins into the data folder, so that the next start needs no compiler.
    Precompile(precompile::Precompile),
}

/// Where plugins lie.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// The configuration, whose `service: {plugin_dir: …}` is looked into.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The plugin folder itself.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    plugin_dir: Option<PathBuf>,
    /// Answers in JSON.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) fn plugin(command: Plugin) -> Result<ExitCode, Failure> {
    let runtime = Runtime::new().context("start the runtime")?;
    match command {
        Plugin::Release(release) => live::release(release, &runtime),
        Plugin::List(list) => {
            if live::list(&list, &runtime)? {
                return Ok(ExitCode::SUCCESS);
            }
            let host = foundation(&list.place, &runtime)?;
            let all =
                runtime.block_on(host.plugins.host().inspect_all()).context("read the plugin folder")?;
            match list.place.json {
                true => live::Listed { running: false, plugins: &all }.say()?,
                false => all.iter().for_each(show_line),
            }
            Ok(ExitCode::SUCCESS)
        }
        Plugin::Precompile(asked) => precompile::precompile(asked, &runtime),
        Plugin::Inspect { plugin, place } => {
            let host = foundation(&place, &runtime)?;
            let one = runtime.block_on(host.plugins.host().inspect(&plugin));
            let config = place.config.as_ref().map(|_| place.read()).transpose()?;
            inspect::show(&one, config.as_ref(), place.json).context("write JSON")?;
            let Some(why) = &one.error else { return Ok(ExitCode::SUCCESS) };
            Err(anyhow!(why.clone()).into())
        }
    }
}

impl Where {
    /// The configuration, as far as it can be understood; what runs without one where none is named.
    fn read(&self) -> Result<Config, Failure> {
        match &self.config {
            Some(file) => {
                let draft = config::load(file).map_err(|report| Failure::Config(report.to_string()))?;
                Ok(draft.config().clone())
            }
            None => Ok(Config::default_run(false)),
        }
    }
}

fn foundation(place: &Where, runtime: &Runtime) -> Result<Foundation, Failure> {
    let mut config = place.read()?;
    if let Some(folder) = &place.plugin_dir {
        config.service.plugin_dir = Some(config::Located::default_of(folder.clone()));
    }
    Foundation::lay(&config, runtime.handle().clone(), CompiledCode::KeptIfThere)
}

fn show_line(plugin: &Inspection) {
    let shadows = if plugin.shadows { ", in front of the bundled one" } else { "" };
    match (&plugin.details, &plugin.error) {
        (Some(details), _) => say(&format!(
            "{:24} {:10} {} ({}{shadows})",
            plugin.name,
            details.descriptor.version,
            details.scan.exports.join(", "),
            plugin.source,
        )),
        (None, error) => say(&format!(
            "{:24} cannot be used: {} ({}{shadows})",
            plugin.name,
            error.as_deref().unwrap_or("no reason known"),
            plugin.source,
        )),
    }
}

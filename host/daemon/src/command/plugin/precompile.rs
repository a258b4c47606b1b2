//! `weir plugin precompile`: compiles now what a first start would compile.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::runtime::Runtime;
use weir_plugin::{Host, Precompiled};

use crate::assembly::{CompiledCode, Foundation, cache_dir, hex};
use crate::command::{Failure, complain, say};
use crate::config::{self, Config};

/// What to compile.
#[derive(Debug, Args)]
pub(in crate::command) struct Precompile {
    /// Plugins by name; without any, those that the configuration uses.
    #[arg(value_name = "NAME")]
    plugins: Vec<String>,
    /// The configuration, whose data folder keeps the compiled code.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Every plugin of the program and of the plugin folder.
    #[arg(long, conflicts_with = "plugins")]
    all: bool,
    /// Answers in JSON.
    #[arg(long)]
    json: bool,
}

/// Compiles them.
pub(super) fn precompile(asked: Precompile, runtime: &Runtime) -> Result<ExitCode, Failure> {
    let Precompile { plugins, config, all, json } = asked;
    let draft = config::load(&config).map_err(|report| Failure::Config(report.to_string()))?;
    let config = draft.config();
    let folder = cache_dir(config).with_context(|| {
        "there is nowhere to keep compiled code: with `service: {queue: {storage: memory}}` nothing is kept on disk"
    })?;
    is_ours(&config.service.data_dir)?;
    is_ours(&folder)?;
    let kept = weir_plugin::cache::prove(&folder);
    kept.with_context(|| format!("keep compiled plugins in {}", folder.display()))?;
    let foundation = Foundation::lay(config, runtime.handle().clone(), CompiledCode::Kept)?;
    let host = foundation.plugins.host();
    let wanted = wanted(config, host, plugins, all)?;
    let mut done = Vec::new();
    let mut failed = false;
    for (name, pin) in wanted {
        match runtime.block_on(host.precompile(&name, pin.as_deref())) {
            Ok(plugin) if plugin.compiled_bytes.is_none() => {
                failed = true;
                complain(&format!(
                    "error: the compiled code of {name} could not be kept in {}",
                    folder.display()
                ));
            }
            Ok(plugin) => {
                if !json {
                    say(&line(&plugin));
                }
                done.push(plugin);
            }
            Err(error) => {
                failed = true;
                complain(&format!("error: {:#}", anyhow!(error)));
            }
        }
    }
    if json {
        say(&serde_json::to_string_pretty(&done).context("write JSON")?);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Names with their pins.
fn wanted(
    config: &Config,
    host: &Host,
    plugins: Vec<String>,
    all: bool,
) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let configured = config.plugins().into_iter();
    let configured: BTreeMap<String, Option<String>> = configured
        .map(|(_, _, plugin)| {
            (plugin.plugin.value.clone(), plugin.sha256.as_ref().map(|digest| hex(&digest.value)))
        })
        .collect();
    let pinned = |name: String| {
        let pin = configured.get(&name).cloned().flatten();
        (name, pin)
    };
    if all {
        let found = host.list().context("read the plugin folder")?;
        return Ok(found.into_iter().map(|found| pinned(found.name)).collect());
    }
    if plugins.is_empty() {
        return Ok(configured);
    }
    Ok(plugins.into_iter().map(pinned).collect())
}

fn line(plugin: &Precompiled) -> String {
    let Precompiled { name, bytes, compiled_bytes, compiled_now, took, .. } = plugin;
    let compiled = compiled_bytes.unwrap_or_default();
    match compiled_now {
        true => format!("{name:24} compiled in {took:.1?}, {bytes} bytes to {compiled}"),
        false => format!("{name:24} was there, {bytes} bytes to {compiled}, ready in {took:.1?}"),
    }
}

/// A folder of another user's would take nothing from us, and one of ours would keep the daemon out of its own.
fn is_ours(folder: &Path) -> anyhow::Result<()> {
    let Ok(found) = fs::metadata(folder) else { return Ok(()) };
    let own = rustix::process::getuid().as_raw();
    let owner = found.uid();
    if owner == own {
        return Ok(());
    }
    Err(anyhow!(
        "{} belongs to user {owner}, and this is user {own}: run it as the daemon's user, as in `sudo -u '#{owner}' weir \
         plugin precompile …`",
        folder.display()
    ))
}

//! `weir queue`: looks into queues, with the daemon running or not, and mends them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use tokio::runtime::Runtime;
use weir_model::{Ledger, Signal};
use weir_queue::{DiskQueue, LoggedRecord, Settings};

use super::{Failure, complain, say};
use crate::admin::{self, QueueView, Reply, Request};
use crate::assembly::{self, NamedQueue};
use crate::config::{self, Config};

/// Looks into queues.
#[derive(Debug, Args)]
pub(super) struct Queue {
    /// The configuration, whose `service: {data_dir: …}` is looked into.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The data folder itself.
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    data_dir: Option<PathBuf>,
    /// Answers in JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Lists queues and their exporters, or the dead letters of one pipeline.
    Ls {
        /// The pipeline whose dead letters are listed.
        pipeline: Option<String>,
        /// Only letters with a greater number.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Lists every record that lies in the log of one pipeline, a line of JSON for each. No daemon may have it open.
    Records {
        /// The pipeline.
        pipeline: String,
    },
    /// Writes a dead letter to standard output, as OTLP/JSON or as it lies there.
    Dump {
        /// The pipeline.
        pipeline: String,
        /// The letter's number.
        id: u64,
        /// The OTLP protobuf bytes instead of JSON.
        #[arg(long)]
        raw: bool,
    },
    /// Gives a dead letter to its exporter again.
    Requeue {
        /// The pipeline.
        pipeline: String,
        /// The letter's number.
        id: u64,
    },
    /// Deletes a dead letter for good.
    Drop {
        /// The pipeline.
        pipeline: String,
        /// The letter's number.
        id: u64,
    },
    /// Deletes the cursor of an exporter that is not configured any more, and what only it was still to get.
    Forget {
        /// The pipeline.
        pipeline: String,
        /// The exporter's id.
        exporter: String,
    },
}

/// Does it.
pub(super) fn queue(command: Queue) -> Result<ExitCode, Failure> {
    let Queue { config, data_dir, json, act } = command;
    let draft = match config {
        Some(file) => Some(config::load(&file).map_err(|report| Failure::Config(report.to_string()))?),
        None => None,
    };
    let config = draft.as_ref().map(|draft| draft.config());
    let Some(data_dir) = data_dir.or_else(|| config.map(|config| config.service.data_dir.clone())) else {
        complain("error: expected --config FILE or --data-dir DIR");
        return Ok(ExitCode::from(64));
    };
    if let Act::Records { pipeline } = &act {
        return Ok(records(&data_dir, pipeline)?);
    }
    let raw = matches!(act, Act::Dump { raw: true, .. });
    let all = matches!(act, Act::Ls { pipeline: None, .. });
    let runtime = Runtime::new().context("start the runtime")?;
    let Some(request) = request(act) else { return Ok(ExitCode::from(64)) };
    let (reply, failures) = runtime.block_on(ask(&data_dir, config, request))?;
    failures.iter().for_each(|failure| complain(&format!("error: {failure}")));
    show(reply, json, raw)?;
    Ok(if all && !failures.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a daemon can be asked; none where only files are read.
fn request(act: Act) -> Option<Request> {
    Some(match act {
        Act::Records { .. } => return None,
        Act::Ls { pipeline: None, .. } => Request::Ls,
        Act::Ls { pipeline: Some(pipeline), after } => Request::DeadLetters { pipeline, after },
        Act::Dump { pipeline, id, .. } => Request::Dump { pipeline, id },
        Act::Requeue { pipeline, id } => Request::Requeue { pipeline, id },
        Act::Drop { pipeline, id } => Request::Drop { pipeline, id },
        Act::Forget { pipeline, exporter } => Request::Forget { pipeline, exporter },
    })
}

/// Writes what lies in a log to standard output. Fails where some of it cannot be read.
fn records(data_dir: &Path, pipeline: &str) -> anyhow::Result<ExitCode> {
    let folders = assembly::queue_folders(data_dir)?;
    let Some((_, folder)) = folders.iter().find(|(name, _)| name == pipeline) else {
        let names: Vec<&str> = folders.iter().map(|(name, _)| name.as_str()).collect();
        bail!("no queue of pipeline `{pipeline}` in {}: there are {}", data_dir.display(), names.join(", "));
    };
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    let found = weir_queue::read_log(folder, |record| {
        if written.is_ok() {
            written = writeln!(out, "{}", line_of(&record));
        }
    })?;
    written.context("write to standard output")?;
    if found.torn > 0 {
        complain(&format!(
            "{} records of a round that was not finished, no receipt is known for them",
            found.torn
        ));
    }
    found.unreadable.iter().for_each(|segment| complain(&format!("error: segment {segment}")));
    if found.damaged > 0 {
        complain(&format!("error: {} records cannot be read back", found.damaged));
    }
    let whole = found.damaged == 0 && found.unreadable.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line_of(record: &LoggedRecord) -> serde_json::Value {
    let origin = record.origin.as_ref().map(|origin| {
        serde_json::json!({
            "identity": origin.source.identity,
            "incarnation": format!("{:032x}", origin.source.incarnation),
            "log": origin.source.log,
            "epoch": origin.epoch,
            "seq": origin.seq.0,
        })
    });
    serde_json::json!({
        "seq": record.seq.0,
        "lane": record.lane.index(),
        "signal": record.signal.name(),
        "items": record.items,
        "bytes": record.body.len(),
        "crc32c": format!("{:08x}", record.crc32c),
        "origin": origin,
    })
}

/// Asks the daemon that has the folder, or opens the files where none does.
///
/// With the reply come the queues that could not be opened.
async fn ask(
    data_dir: &Path,
    config: Option<&Config>,
    request: Request,
) -> anyhow::Result<(Reply, Vec<String>)> {
    if let Some(reply) = admin::ask(data_dir, &request).await.context("ask the running daemon")? {
        return Ok((reply, Vec::new()));
    }
    if let Request::Forget { pipeline, exporter } = &request {
        may_forget(config, pipeline, exporter)?;
    }
    let Opened { queues, failures } = open(data_dir)?;
    let mut reply = admin::perform(&queues, &[], request).await;
    if let Reply::Queues(queues) = &mut reply {
        // Nobody has subscribed in this process: what is configured stands in the file, if anywhere.
        for QueueView { pipeline, exporters, .. } in queues {
            for cursor in exporters {
                cursor.configured = config.map(|config| names(config, pipeline, &cursor.exporter));
            }
        }
    }
    for NamedQueue { pipeline, queue } in &queues {
        queue.close().await.with_context(|| format!("close the queue of pipeline {pipeline}"))?;
    }
    Ok((reply, failures))
}

/// The files alone cannot tell an exporter that is gone from one whose daemon is stopped.
fn may_forget(config: Option<&Config>, pipeline: &str, exporter: &str) -> anyhow::Result<()> {
    match config {
        None => bail!(
            "no daemon runs: expected --config FILE, which tells whether `{exporter}` is still configured"
        ),
        Some(config) if names(config, pipeline, exporter) => {
            bail!("exporter `{exporter}` is configured: take it out of pipeline `{pipeline}` first")
        }
        Some(_) => Ok(()),
    }
}

/// Whether the configuration names this exporter in this pipeline.
fn names(config: &Config, pipeline: &str, exporter: &str) -> bool {
    let found = config.pipelines.iter().find(|(id, _)| id.to_string() == pipeline);
    found.is_some_and(|(_, of)| of.exporters.iter().any(|id| id.value.to_string() == exporter))
}

/// Opens every queue that can be opened; of the others, why not.
fn open(data_dir: &Path) -> anyhow::Result<Opened> {
    let mut opened = Opened::default();
    for (pipeline, folder) in assembly::queue_folders(data_dir)? {
        let settings = Settings::new(Ledger::new(weir_model::ledger::LEDGER_BYTES_DEFAULT));
        match DiskQueue::open(&folder, settings, SystemTime::now()) {
            Ok(queue) => {
                opened.queues.push(NamedQueue { pipeline, queue: queue as Arc<dyn weir_queue::Queue> });
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                opened.failures.push(format!("open the queue of pipeline {pipeline}: {error:#}"));
            }
        }
    }
    Ok(opened)
}

/// Queues on disk without their daemon.
#[derive(Default)]
struct Opened {
    queues: Vec<NamedQueue>,
    failures: Vec<String>,
}

fn show(reply: Reply, json: bool, raw: bool) -> anyhow::Result<()> {
    match reply {
        Reply::Refused(why) => bail!(why),
        Reply::Body { signal, hex } => dump(&signal, &hex, raw),
        reply if json => {
            say(&serde_json::to_string_pretty(&reply)?);
            Ok(())
        }
        Reply::Plugins(_) | Reply::Refreshed => {
            bail!("the daemon answered about plugins: it is of another version")
        }
        Reply::Done => {
            say("done");
            Ok(())
        }
        Reply::Queues(queues) => {
            queues.iter().for_each(show_queue);
            Ok(())
        }
        Reply::DeadLetters(letters) => {
            if letters.is_empty() {
                say("no dead letters");
            }
            for letter in letters {
                say(&format!(
                    "{:>6}  {}  {} {} ({} bytes)  record {}, after {} attempts  {}",
                    letter.id,
                    letter.exporter,
                    letter.items,
                    letter.signal,
                    letter.bytes,
                    letter.seq,
                    letter.attempts,
                    letter.reason,
                ));
            }
            Ok(())
        }
    }
}

fn show_queue(queue: &QueueView) {
    let percent = queue.bytes.saturating_mul(100) / queue.budget_bytes.max(1);
    say(&format!(
        "{}  {} records, {} items, {} bytes in {} segments ({percent} % of the budget), {} dead letters",
        queue.pipeline, queue.records, queue.items, queue.bytes, queue.segments, queue.dead_letters,
    ));
    if queue.sources > 0 {
        say(&format!(
            "  from other Weirs: {} logs, {} items came again and are there once",
            queue.sources, queue.duplicates,
        ));
    }
    if let Some(why) = &queue.degraded {
        say(&format!("  degraded: {why}"));
    }
    for cursor in &queue.exporters {
        let state = match (&cursor.paused, cursor.configured) {
            (Some(why), _) => format!("paused until an operator acts: {why}"),
            (None, Some(true)) => "ok".to_owned(),
            (None, None) => "no daemon runs".to_owned(),
            (None, Some(false)) => {
                "not configured any more: kept 24 h, or until `weir queue forget`".to_owned()
            }
        };
        say(&format!(
            "  {}  {} records, {} items to come, {} leases out, {} dead letters  {state}",
            cursor.exporter, cursor.records, cursor.items, cursor.in_flight, cursor.dead_letters,
        ));
    }
}

fn dump(signal: &str, hex: &str, raw: bool) -> anyhow::Result<()> {
    let body = unhex(hex).context("the daemon's answer is not in hex")?;
    let mut out = std::io::stdout().lock();
    if raw {
        return out.write_all(&body).context("write to standard output");
    }
    let signal: Signal = signal.parse().map_err(|_| anyhow!("an unknown signal {signal:?}"))?;
    let mut json = Vec::new();
    weir_wire::json::to_json(signal, &body, &mut json)
        .map_err(|error| anyhow!("the letter is not OTLP: {error}"))?;
    json.push(b'\n');
    out.write_all(&json).context("write to standard output")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

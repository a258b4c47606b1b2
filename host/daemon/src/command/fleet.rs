//! `weir fleet`: the agents of a running collector, asked over its page of metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::shorthand::COLLECTOR_PAGE_PORT;
use super::{Failure, say};
use crate::config;
use crate::config::receiver::loopback;
use crate::fleet::{AgentView, table};

/// How long a collector may take to answer: what it says lies in its memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of an answer: ten thousand agents with the longest names.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where a collector with a file shows its metrics, unless the file says otherwise.
const PAGE_PORT: u16 = 8_888;

/// Lists the agents of a collector: who lives, what waits at them, what happened last.
#[derive(Debug, Args)]
pub(super) struct Fleet {
    /// The collector's page of metrics. Where `weir run --collect` and where a file has it by default, unless told.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// The collector's configuration, whose `service: {telemetry: {metrics: …}}` is asked.
    #[arg(long, short, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Answers in JSON.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(super) fn fleet(command: Fleet) -> Result<ExitCode, Failure> {
    let Fleet { admin, config, json } = command;
    let text = match (admin, config) {
        (Some(address), _) => ask(address).with_context(|| told(address))?,
        (None, Some(file)) => {
            let draft = config::load(&file).map_err(|report| Failure::Config(report.to_string()))?;
            let metrics = draft.config().service.telemetry.metrics.as_ref();
            let page = metrics.map(|listen| listen.endpoint.value).with_context(|| {
                format!(
                    "{} has no page of metrics, which is what is asked: set `enabled: true`",
                    file.display()
                )
            })?;
            ask(page).with_context(|| told(page))?
        }
        (None, None) => anybody()?,
    };
    if json {
        say(&text);
        return Ok(ExitCode::SUCCESS);
    }
    let agents: Vec<AgentView> = serde_json::from_str(&text).context("the answer is none of this version")?;
    match agents.is_empty() {
        true => say("no agent has come yet"),
        false => say(&table(&agents)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks where a collector is by default.
fn anybody() -> anyhow::Result<String> {
    let addresses = [loopback(COLLECTOR_PAGE_PORT), loopback(PAGE_PORT)];
    let mut failures = Vec::new();
    for address in addresses {
        match ask(address) {
            Ok(text) => return Ok(text),
            Err(error) => failures.push(format!("{address}: {error:#}")),
        }
    }
    bail!(
        "no collector answers here ({}): expected --admin IP:PORT, the address of its page of metrics",
        failures.join("; ")
    )
}

fn told(address: SocketAddr) -> String {
    format!("ask the collector at {address}")
}

/// The answer of one page: one request, one connection.
fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    write!(stream, "GET /fleet HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow!("the answer is no text"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("this is no answer of HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("404") if body.is_empty() || !body.contains("receiver") => {
            bail!("it is no page of a collector ({status})")
        }
        Some(_) => bail!("{}", body.trim()),
        None => bail!("this is no answer of HTTP"),
    }
}

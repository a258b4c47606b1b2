//! What an agent says of itself over its links: who it is, who speaks to it, how its parts are.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;
use weir_link::state::{AgentFacts, ComponentFacts, NodeFacts, OutboxHandle, PluginFacts, ReportError};
use weir_model::NodeRegistry;
use weir_net::Drain;
use weir_plugin::Host;

use super::Views;
use super::agent::host;

/// How often it is looked whether something has changed: what is as it was costs nothing.
const LOOK: Duration = Duration::from_secs(5);

/// Reports until `drain`.
///
/// # Errors
/// None.
pub(crate) async fn report(
    views: Views,
    nodes: Arc<NodeRegistry>,
    plugins: Host,
    drain: Drain,
) -> io::Result<()> {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => (),
            () = drain.signaled() => return Ok(()),
        }
        let handles: Vec<OutboxHandle> =
            views.sources.now().links.iter().filter_map(|link| link.outbox()).collect();
        if handles.is_empty() {
            continue;
        }
        let facts = Facts::now(&views, &nodes, &plugins);
        for handle in handles {
            // An outbox that is closing says so; its link is gone at the next look.
            if let Err(error) = facts.say(&handle).await {
                debug!(%error, "the agent's own states are not reported, trying on");
            }
        }
    }
}

struct Facts {
    agent: AgentFacts,
    config: String,
    components: Vec<ComponentFacts>,
    plugins: Vec<PluginFacts>,
    nodes: Vec<NodeFacts>,
}

impl Facts {
    fn now(views: &Views, nodes: &NodeRegistry, plugins: &Host) -> Self {
        let uname = rustix::system::uname();
        let os = format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
        let agent = AgentFacts { host: host(), version: env!("CARGO_PKG_VERSION").to_owned(), os };
        let config = String::clone(&views.config.now());
        let node = |row: weir_model::registry::Row| NodeFacts {
            id: row.node.id.to_string(),
            host: row.node.host,
            pid: row.node.pid,
            service: row.node.service,
            instance: row.node.instance,
            library: row.node.library,
        };
        let nodes = nodes.list(Instant::now()).into_iter().map(node).collect();
        // Of two ids with one plugin that have different code, the later one is said.
        let loaded: BTreeMap<String, PluginFacts> = plugins
            .slots()
            .into_iter()
            .map(|slot| {
                let (name, version, digest) = (slot.plugin, slot.version, slot.digest.to_string());
                (name.clone(), PluginFacts { name, version, digest })
            })
            .collect();
        Self { agent, config, components: components(views), plugins: loaded.into_values().collect(), nodes }
    }

    async fn say(&self, outbox: &OutboxHandle) -> Result<(), ReportError> {
        outbox.describe_agent(&self.agent).await?;
        outbox.describe_config(&self.config).await?;
        outbox.describe_components(&self.components).await?;
        outbox.describe_plugins(&self.plugins).await?;
        let left_out = outbox.describe_nodes(&self.nodes).await?;
        if left_out > 0 {
            debug!(left_out, "more nodes speak to this agent than its states have room for");
        }
        Ok(())
    }
}

/// A sentence with `n` for each number: what counts seconds or records would be another state, and another write on both disks,
/// at each look. Counts ride on heartbeats.
fn without_counts(sentence: &str) -> String {
    let mut out = String::with_capacity(sentence.len());
    let mut in_number = false;
    for c in sentence.chars() {
        let is_digit = c.is_ascii_digit();
        if !is_digit {
            out.push(c);
        } else if !in_number {
            out.push('n');
        }
        in_number = is_digit;
    }
    out
}

/// Every part with what the health page says of it.
fn components(views: &Views) -> Vec<ComponentFacts> {
    let sources = views.sources.now();
    let problems = views.health.problems();
    let of = |id: String, names: &[String]| {
        let is_its =
            |part: &str| names.iter().any(|name| part == name || part.starts_with(&format!("{name} of ")));
        let problem = problems.iter().find(|(part, _)| is_its(part));
        let status = problem.map(|(_, what)| without_counts(what)).unwrap_or_default();
        ComponentFacts { id, healthy: problem.is_none(), status }
    };
    let receivers =
        sources.receivers.iter().map(|(id, _)| of(format!("receivers/{id}"), &[format!("receiver {id}")]));
    let pipelines = sources.pipelines.iter().map(|source| {
        let id = &source.pipeline;
        of(format!("pipelines/{id}"), &[format!("pipeline {id}")])
    });
    let mut ids: Vec<&String> = sources.exporters.iter().map(|source| &source.exporter).collect();
    ids.sort_unstable();
    ids.dedup();
    let exporters = ids.into_iter().map(|id| {
        let names = ["exporter", "link", "page of exporter"].map(|noun| format!("{noun} {id}"));
        of(format!("exporters/{id}"), &names)
    });
    receivers.chain(pipelines).chain(exporters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the health page's sentence about an exporter, a second apart.
    /// Guarantees: what is stored of it is the same.
    #[test]
    fn a_count_that_moves_is_no_other_state() {
        let at = |seconds: u32| {
            without_counts(&format!("no success for {seconds} s, {} records wait", seconds * 7))
        };
        assert_eq!(at(9), "no success for n s, n records wait");
        assert_eq!(at(9), at(1_000));
    }
}

//! What an agent says of itself: facts, as JSON. Counters, depths and last-seen ride on heartbeats (DESIGN 1.5).
//!
//! | kind | key | value |
//! | --- | --- | --- |
//! | `weir.agent` | `agent` | host, version, operating system |
//! | `weir.node` | the node's id | who speaks to this agent |
//! | `weir.component` | the component's id | whether it is well |
//! | `weir.plugin` | the plugin's name | version, digest |
//! | `weir.config` | `config` | the hash of what is in force |
//!
//! Each is said whole: what is not among them any more is gone, and what is as it was costs nothing.

use serde::Serialize;

use crate::limits::STATES_MAX;

use super::outbox::{OutboxHandle, ReportError};

/// Nodes that are said: the rest of an agent's states is for its parts and its programs.
const NODES_MAX: usize = STATES_MAX / 2;

/// The process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentFacts {
    /// The machine's name.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// The operating system, and its version where known.
    pub os: String,
}

/// A process that speaks to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeFacts {
    /// Hash over what identifies it, as text.
    #[serde(skip)]
    pub id: String,
    /// Host name, or empty.
    pub host: String,
    /// Process id, or 0.
    pub pid: u32,
    /// Service name, or empty.
    pub service: String,
    /// Service instance, or empty.
    pub instance: String,
    /// The library that speaks, or empty.
    pub library: String,
}

/// A receiver, exporter or pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentFacts {
    /// As in the configuration: `receivers/otlp`.
    #[serde(skip)]
    pub id: String,
    /// Whether it does what it is there for.
    pub healthy: bool,
    /// For people: why not.
    pub status: String,
}

/// A plugin that is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginFacts {
    /// As in the configuration.
    #[serde(skip)]
    pub name: String,
    /// As the plugin says.
    pub version: String,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
}

#[derive(Serialize)]
struct ConfigFacts<'a> {
    hash: &'a str,
}

impl OutboxHandle {
    /// Says what the agent is.
    ///
    /// # Errors
    /// As [`OutboxHandle::replace`].
    pub async fn describe_agent(&self, facts: &AgentFacts) -> Result<(), ReportError> {
        self.replace("weir.agent", vec![("agent".to_owned(), json(facts)?)]).await
    }

    /// Says which configuration is in force, by its hash.
    ///
    /// # Errors
    /// As [`OutboxHandle::replace`].
    pub async fn describe_config(&self, hash: &str) -> Result<(), ReportError> {
        self.replace("weir.config", vec![("config".to_owned(), json(&ConfigFacts { hash })?)]).await
    }

    /// Says who speaks to the agent: the first of them, as many as may be. Returns how many were left out.
    ///
    /// # Errors
    /// As [`OutboxHandle::replace`].
    pub async fn describe_nodes(&self, nodes: &[NodeFacts]) -> Result<usize, ReportError> {
        let said = &nodes[..nodes.len().min(NODES_MAX)];
        self.say("weir.node", said, |node| &node.id).await?;
        Ok(nodes.len() - said.len())
    }

    /// Says which parts there are, and how they are.
    ///
    /// # Errors
    /// As [`OutboxHandle::replace`].
    pub async fn describe_components(&self, components: &[ComponentFacts]) -> Result<(), ReportError> {
        self.say("weir.component", components, |component| &component.id).await
    }

    /// Says which plugins are loaded.
    ///
    /// # Errors
    /// As [`OutboxHandle::replace`].
    pub async fn describe_plugins(&self, plugins: &[PluginFacts]) -> Result<(), ReportError> {
        self.say("weir.plugin", plugins, |plugin| &plugin.name).await
    }

    async fn say<T: Serialize>(
        &self,
        kind: &str,
        facts: &[T],
        key: impl Fn(&T) -> &String,
    ) -> Result<(), ReportError> {
        let states: Result<Vec<_>, _> =
            facts.iter().map(|fact| json(fact).map(|value| (key(fact).clone(), value))).collect();
        self.replace(kind, states?).await
    }
}

fn json(facts: &impl Serialize) -> Result<Vec<u8>, ReportError> {
    serde_json::to_vec(facts).map_err(|error| ReportError::Invalid(format!("facts are no JSON: {error}")))
}

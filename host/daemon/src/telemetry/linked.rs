//! What both ends of links show.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::DescriptorEncoder;
use weir_link::agent::AgentCounts;
use weir_link::collector::LinkCounts;
use weir_model::Counter;

use super::metrics::{counter, gauge};
use crate::assembly::Link;
use crate::fleet::Roster;

/// A family without a further label: name without `_total`, help, and which it is.
type LinkCounter = (&'static str, &'static str, fn(&LinkCounts) -> &Counter);

/// Each line makes a family.
const COUNTERS: [LinkCounter; 10] = [
    ("weir_link_welcomed", "Streams of agents that were welcomed", |counts| &counts.welcomed),
    ("weir_link_broken_off", "Streams that broke off without a word", |counts| &counts.broken_off),
    ("weir_link_bundles", "Bundles that were persisted and acknowledged", |counts| &counts.bundles),
    ("weir_link_records", "Records in them", |counts| &counts.records),
    (
        "weir_link_duplicate_records",
        "Records that had come before: vouched for, and not stored again",
        |counts| &counts.duplicates,
    ),
    ("weir_link_bytes", "Bytes of their bodies", |counts| &counts.bytes),
    ("weir_link_sent_bytes", "Bytes that these had on the wire", |counts| &counts.sent_bytes),
    ("weir_link_bundles_rejected", "Bundles that will never be taken as they are", |counts| {
        &counts.bundles_rejected
    }),
    (
        "weir_link_credit_waits",
        "Tries of bundles that were refused for now: their agents wait for credit",
        |counts| &counts.refused_for_now,
    ),
    ("weir_link_forgotten", "Agents that were forgotten, for room or for their age", |counts| {
        &counts.forgotten
    }),
];

/// The same of agents.
type AgentCounter = (&'static str, &'static str, fn(&AgentCounts) -> &Counter);

/// Each line makes a family.
const AGENT_COUNTERS: [AgentCounter; 4] = [
    ("weir_link_connects", "Streams that the collector welcomed", |counts| &counts.welcomes),
    ("weir_link_failures", "Tries to connect that failed, and streams that broke", |counts| &counts.failures),
    ("weir_link_acknowledged_bundles", "Bundles that the collector has persisted", |counts| {
        &counts.acknowledged
    }),
    ("weir_link_rejected_bundles", "Bundles that the collector will not take", |counts| &counts.rejected),
];

/// Writes the families of collectors, by the receivers' ids.
pub(super) fn of_collectors(encoder: &mut DescriptorEncoder<'_>, all: &[Arc<dyn Roster>]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let label = |roster: &Arc<dyn Roster>| vec![("receiver", roster.receiver().to_owned())];
    let rows = all.iter().map(|roster| (label(roster), roster.counts().agents.get()));
    gauge(encoder, "weir_link_agents", "Agents that are connected now", rows)?;
    for (name, help, pick) in COUNTERS {
        let rows = all.iter().map(|roster| (label(roster), pick(&roster.counts()).get()));
        counter(encoder, name, help, rows)?;
    }
    let by_reason = |pick: fn(&LinkCounts) -> &weir_link::collector::ByGoodbye| {
        let mut rows = Vec::new();
        for roster in all {
            for (reason, value) in pick(&roster.counts()).list().filter(|(_, value)| *value > 0) {
                let mut labels = label(roster);
                labels.push(("reason", reason.to_owned()));
                rows.push((labels, value));
            }
        }
        rows
    };
    let help = "Streams of agents that were not welcome";
    counter(encoder, "weir_link_refused", help, by_reason(|counts| &counts.refused))?;
    let help = "Streams that the collector ended after it had welcomed them";
    counter(encoder, "weir_link_goodbyes", help, by_reason(|counts| &counts.goodbyes))
}

/// Writes the families of agents, by the exporters' ids.
pub(super) fn of_agents(encoder: &mut DescriptorEncoder<'_>, all: &[Arc<Link>]) -> fmt::Result {
    let known: Vec<_> = all.iter().filter_map(|link| Some((link, link.status()?.0))).collect();
    if known.is_empty() {
        return Ok(());
    }
    let label = |link: &Link| vec![("exporter", link.id.clone())];
    let rows = known.iter().map(|(link, status)| (label(link), u64::from(status.connected.is_some())));
    gauge(encoder, "weir_link_connected", "1 while the agent has a stream to its collector", rows)?;
    let rows = known.iter().map(|(link, status)| (label(link), status.unacknowledged));
    gauge(
        encoder,
        "weir_link_unacknowledged",
        "Records that are handed to the link and not acknowledged",
        rows,
    )?;
    let rows = known.iter().map(|(link, status)| (label(link), status.resent));
    counter(encoder, "weir_link_resent_bundles", "Bundles that were begun on more than one stream", rows)?;
    for (name, help, pick) in AGENT_COUNTERS {
        let rows = known.iter().map(|(link, status)| (label(link), pick(&status.counts).get()));
        counter(encoder, name, help, rows)?;
    }
    Ok(())
}

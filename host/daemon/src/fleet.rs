//! The agents of a collector, as an operator sees them: `weir fleet`, `/fleet`.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assembly::Current;

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// The receiver that it comes to.
    pub receiver: String,
    /// Its name: what its certificate says, else what it says.
    pub identity: String,
    /// The name of its machine, as it says.
    pub host: String,
    /// Its program, as it says.
    pub program: String,
    /// `live`, `idle`, `gone` or `fenced`.
    pub state: String,
    /// Milliseconds since anything was heard of it; none where that was before this start of the collector.
    pub heard_ms: Option<u64>,
    /// The life of its folder.
    pub incarnation: String,
    /// Its start in that life.
    pub epoch: u64,
    /// Its stream; none where it has none.
    pub session: Option<u64>,
    /// Records that wait at it, as it said last.
    pub waiting_records: u64,
    /// Bytes of them.
    pub waiting_bytes: u64,
    /// Milliseconds that the oldest of them had waited.
    pub oldest_ms: u64,
    /// Records that were acknowledged, since the start of the collector.
    pub acknowledged_records: u64,
    /// Records of it that were there already, since the start of the collector.
    pub duplicate_records: u64,
    /// What happened last: it came, it left, it was refused.
    pub last_event: String,
}

/// What a collector counts over all its agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FleetCounts {
    /// Agents that are connected.
    pub connected: u64,
    /// Acknowledgements sent.
    pub acknowledgements: u64,
    /// Records that were acknowledged.
    pub acknowledged_records: u64,
    /// Records that were there already, and were not kept again.
    pub duplicate_records: u64,
    /// Times that an agent was not given its credit back at once.
    pub credit_waits: u64,
}

/// Who knows agents: a receiver of type `weir`.
pub trait Roster: Send + Sync {
    /// Its configured id.
    fn receiver(&self) -> &str;

    /// The agents, in the order of their names.
    fn agents(&self) -> Vec<AgentView>;

    /// What it counts.
    fn counts(&self) -> FleetCounts;
}

/// All of them. Clones are one.
pub type Fleet = Current<Vec<Arc<dyn Roster>>>;

/// The agents of all receivers.
pub fn agents(fleet: &[Arc<dyn Roster>]) -> Vec<AgentView> {
    let mut agents: Vec<AgentView> = fleet.iter().flat_map(|roster| roster.agents()).collect();
    agents.sort_by(|a, b| (&a.identity, &a.receiver).cmp(&(&b.identity, &b.receiver)));
    agents
}

/// Characters of a cell: an agent chooses its names, and the table stays one.
const CELL_CHARS_MAX: usize = 40;

/// The agents as a table for a person.
pub fn table(agents: &[AgentView]) -> String {
    let heads = ["AGENT", "HOST", "STATE", "HEARD", "LIFE", "START", "WAITING", "ACKNOWLEDGED", "LAST EVENT"];
    let mut rows: Vec<[String; 9]> = vec![heads.map(str::to_owned)];
    rows.extend(agents.iter().map(row));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // A string takes all that is written to it.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

fn row(agent: &AgentView) -> [String; 9] {
    let AgentView { identity, host, state, heard_ms, incarnation, epoch, .. } = agent;
    let waiting = match agent.waiting_records {
        0 => "0".to_owned(),
        records => format!("{records} ({} KiB, {} s)", agent.waiting_bytes >> 10, agent.oldest_ms / 1000),
    };
    let heard = heard_ms.map_or_else(|| "-".to_owned(), |ms| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100));
    // The first letters of a UUIDv7 are its time, the last its own.
    let life = incarnation.get(incarnation.len().saturating_sub(8)..).unwrap_or(incarnation);
    [
        cell(identity, CELL_CHARS_MAX),
        cell(host, CELL_CHARS_MAX),
        cell(state, CELL_CHARS_MAX),
        heard,
        cell(life, CELL_CHARS_MAX),
        epoch.to_string(),
        waiting,
        agent.acknowledged_records.to_string(),
        cell(&agent.last_event, CELL_CHARS_MAX * 3),
    ]
}

/// What somebody else wrote, so that it moves no cursor and fills no screen.
fn cell(text: &str, chars_max: usize) -> String {
    let mut shown: String =
        text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    if shown.is_empty() { "-".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an agent whose host name has an escape sequence and a thousand letters, beside an ordinary one.
    /// Guarantees: a line each, columns under their heads, no control character, nothing endless.
    #[test]
    fn an_agent_does_not_choose_what_a_terminal_does() {
        let plain = AgentView { identity: "edge-1".into(), state: "live".into(), ..AgentView::default() };
        let hostile = AgentView {
            identity: "edge-2".into(),
            host: format!("\u{1b}[2J\n{}", "x".repeat(1000)),
            state: "gone".into(),
            heard_ms: Some(1250),
            ..AgentView::default()
        };
        let table = table(&[plain, hostile]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
        assert!(lines[2].chars().count() < 300 && lines[2].contains("1.2 s ago"), "{}", lines[2]);
        let state = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
        assert_eq!(state(lines[0], "STATE"), state(lines[1], "live"));
        assert_eq!(state(lines[0], "STATE"), state(lines[2], "gone"));
    }
}

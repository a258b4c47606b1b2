//! The agents of a collector, as an operator sees them: `weir fleet`, `/fleet`.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_link::collector::{FleetRow, FleetState, LinkCounts};

use crate::assembly::Current;

/// One agent, as a receiver of type `weir` knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// The receiver that it comes to.
    pub receiver: String,
    /// What is known of it.
    #[serde(flatten)]
    pub row: FleetRow,
}

/// Who knows agents: a receiver of type `weir`.
pub trait Roster: Send + Sync {
    /// Its configured id.
    fn receiver(&self) -> &str;

    /// The agents, in the order of their names.
    fn agents(&self) -> Vec<FleetRow>;

    /// What it counts.
    fn counts(&self) -> LinkCounts;
}

/// All of them. Clones are one.
pub type Fleet = Current<Vec<Arc<dyn Roster>>>;

/// The agents of all receivers.
pub fn agents(fleet: &[Arc<dyn Roster>]) -> Vec<AgentView> {
    let of = |roster: &Arc<dyn Roster>| {
        let receiver = roster.receiver().to_owned();
        let view = move |row| AgentView { receiver: receiver.clone(), row };
        roster.agents().into_iter().map(view).collect::<Vec<_>>()
    };
    let mut agents: Vec<AgentView> = fleet.iter().flat_map(of).collect();
    agents.sort_by(|a, b| (&a.row.identity, &a.receiver).cmp(&(&b.row.identity, &b.receiver)));
    agents
}

/// Characters of a cell: an agent chooses its names, and the table stays one.
const CELL_CHARS_MAX: usize = 40;

/// Characters of an incarnation that a person sees.
const LIFE_CHARS: usize = 8;

/// The columns; of what is acknowledged, duplicates had come before.
const HEADS: [&str; 10] = [
    "AGENT",
    "HOST",
    "STATE",
    "HEARD",
    "LIFE",
    "START",
    "WAITING",
    "ACKNOWLEDGED",
    "DUPLICATES",
    "LAST EVENT",
];

/// The agents as a table for a person.
pub fn table(agents: &[AgentView]) -> String {
    let mut rows: Vec<[String; HEADS.len()]> = vec![HEADS.map(str::to_owned)];
    rows.extend(agents.iter().map(row));
    let mut widths = [0; HEADS.len()];
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
            write!(line, "{cell:width$}  ").ok();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

fn row(AgentView { row, .. }: &AgentView) -> [String; HEADS.len()] {
    let waiting = match row.waiting.records {
        0 => "0".to_owned(),
        records => format!("{records} ({} KiB, {} s)", row.waiting.bytes >> 10, row.waiting.oldest_ms / 1000),
    };
    let ago = |seconds: Option<f64>| {
        seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s ago"))
    };
    let state = match row.state {
        FleetState::Live => "live",
        FleetState::Idle => "idle",
        FleetState::Dead => "dead",
        FleetState::Fenced => "fenced",
    };
    let life = row.incarnation.as_deref().unwrap_or_default();
    // A UUIDv7 begins with its time, and ends with what is its own.
    let life = life.get(life.len().saturating_sub(LIFE_CHARS)..).unwrap_or(life);
    [
        cell(&row.identity, CELL_CHARS_MAX),
        cell(&row.host, CELL_CHARS_MAX),
        state.to_owned(),
        ago(row.heard_seconds),
        cell(life, CELL_CHARS_MAX),
        row.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
        waiting,
        row.records.to_string(),
        row.duplicates.to_string(),
        cell(&row.event, CELL_CHARS_MAX * 3),
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
    use weir_link::collector::Waiting;

    use super::*;

    /// Scenario: an agent whose host name has an escape sequence and a thousand letters, beside an ordinary one.
    /// Guarantees: a line each, columns under their heads, no control character, nothing endless.
    #[test]
    fn an_agent_does_not_choose_what_a_terminal_does() {
        let agent = |identity: &str, host: String, state, heard_seconds| AgentView {
            receiver: "weir".to_owned(),
            row: FleetRow {
                identity: identity.to_owned(),
                host,
                program: String::new(),
                state,
                connected_seconds: None,
                heard_seconds,
                incarnation: Some("01a0c450-6c00-7fff-bfff-ffffffffffff".to_owned()),
                epoch: Some(1),
                session: None,
                waiting: Waiting::default(),
                bundles: 0,
                records: 0,
                bytes: 0,
                duplicates: 0,
                rejected: Vec::new(),
                turned_away: 0,
                event: String::new(),
                event_seconds: None,
            },
        };
        let plain = agent("edge-1", String::new(), FleetState::Live, None);
        let hostile =
            agent("edge-2", format!("\u{1b}[2J\n{}", "x".repeat(1000)), FleetState::Dead, Some(1.25));
        let table = table(&[plain, hostile]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
        assert!(lines[2].chars().count() < 300 && lines[2].contains("1.2 s ago"), "{}", lines[2]);
        let state = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
        assert_eq!(state(lines[0], "STATE"), state(lines[1], "live"));
        assert_eq!(state(lines[0], "STATE"), state(lines[2], "dead"));
    }
}

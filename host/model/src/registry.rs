//! The bounded table of nodes heard.
//!
//! Time comes in as an argument. A row lives while its node has a stream, and 15 minutes more (DESIGN 1.2).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Node, NodeId};

/// Rows at most: a fleet of ten thousand processes behind one collector, some 5 MB.
pub const NODES_MAX: usize = 10_000;

/// How long a row outlives its node's last word.
pub const NODE_IDLE_MAX: Duration = Duration::from_secs(15 * 60);

/// Rows that make room at once when the table is full, so that a flood of names pays one scan for each hundred.
const ROWS_EVICTED_AT_ONCE: usize = 100;

/// Bytes kept of a library's configuration.
const CONFIG_BYTES_MAX: usize = 1024;

/// What the table knows of one node.
#[derive(Debug, Clone)]
pub struct Row {
    /// Who it is.
    pub node: Node,
    /// When it was first heard.
    pub first_seen: Instant,
    /// When it was last heard.
    pub last_seen: Instant,
    /// Streams that are its own now.
    pub streams: u32,
    /// Batches taken.
    pub batches: u64,
    /// Items taken.
    pub items: u64,
    /// Requests or messages refused.
    pub refusals: u64,
    /// What an OpenCensus library said of its configuration, as text.
    pub config: Option<String>,
}

/// The nodes heard, bounded; least recently heard out first.
#[derive(Debug, Default)]
pub struct NodeRegistry {
    rows: Mutex<HashMap<NodeId, Row>>,
}

impl NodeRegistry {
    /// A node spoke, and `items` of it were taken in one batch.
    pub fn took(&self, node: &Node, items: u64, now: Instant) {
        self.touch(node, now, |row| {
            row.batches += 1;
            row.items += items;
        });
    }

    /// The same for a node that is known by its id; false where the table has no row of it.
    pub fn took_known(&self, id: NodeId, items: u64, now: Instant) -> bool {
        match self.rows().get_mut(&id) {
            Some(row) => {
                row.last_seen = now;
                row.batches += 1;
                row.items += items;
                true
            }
            None => false,
        }
    }

    /// A request of a known node was refused.
    pub fn refused(&self, id: NodeId, now: Instant) {
        if let Some(row) = self.rows().get_mut(&id) {
            row.last_seen = now;
            row.refusals += 1;
        }
    }

    /// A stream became this node's.
    pub fn stream_opened(&self, node: &Node, now: Instant) {
        self.touch(node, now, |row| row.streams = row.streams.saturating_add(1));
    }

    /// A stream of this node ended, or became another's.
    pub fn stream_closed(&self, id: NodeId, now: Instant) {
        if let Some(row) = self.rows().get_mut(&id) {
            row.last_seen = now;
            row.streams = row.streams.saturating_sub(1);
        }
    }

    /// An OpenCensus library said what its configuration is now.
    pub fn configured(&self, node: &Node, config: &str, now: Instant) {
        let mut end = config.len().min(CONFIG_BYTES_MAX);
        while !config.is_char_boundary(end) {
            end -= 1;
        }
        self.touch(node, now, |row| row.config = Some(config[..end].to_owned()));
    }

    /// Every row, most recently heard first; rows idle for too long are gone.
    pub fn list(&self, now: Instant) -> Vec<Row> {
        let mut rows = self.rows();
        rows.retain(|_, row| row.streams > 0 || now.saturating_duration_since(row.last_seen) < NODE_IDLE_MAX);
        let mut list: Vec<Row> = rows.values().cloned().collect();
        drop(rows);
        list.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then(a.node.id.cmp(&b.node.id)));
        list
    }

    fn touch(&self, node: &Node, now: Instant, change: impl FnOnce(&mut Row)) {
        let mut rows = self.rows();
        if rows.len() >= NODES_MAX && !rows.contains_key(&node.id) {
            make_room(&mut rows);
        }
        let row = rows.entry(node.id).or_insert_with(|| Row {
            node: node.clone(),
            first_seen: now,
            last_seen: now,
            streams: 0,
            batches: 0,
            items: 0,
            refusals: 0,
            config: None,
        });
        row.last_seen = now;
        change(row);
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<NodeId, Row>> {
        // A panic elsewhere leaves at worst a row with an old count, which is no reason to stop telemetry.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(rows: &mut HashMap<NodeId, Row>) {
    let mut ages: Vec<(bool, Instant, NodeId)> =
        rows.values().map(|row| (row.streams > 0, row.last_seen, row.node.id)).collect();
    let evicted = ROWS_EVICTED_AT_ONCE.min(ages.len());
    if evicted < ages.len() {
        ages.select_nth_unstable(evicted);
    }
    for (_, _, id) in ages.iter().take(evicted) {
        rows.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: usize) -> Node {
        Node::of_resource(&name.to_string(), "", "")
    }

    /// Scenario: three times as many nodes speak as the table has rows, one of them on an open stream.
    /// Guarantees: the table stays within its bound, keeps the stream's row and the newest.
    #[test]
    fn a_flood_of_names_stays_within_the_bound() {
        let registry = NodeRegistry::default();
        let start = Instant::now();
        registry.stream_opened(&node(0), start);
        for name in 1..3 * NODES_MAX {
            registry.took(&node(name), 1, start + Duration::from_millis(name as u64));
        }
        let rows = registry.list(start + Duration::from_secs(31));
        assert!(rows.len() <= NODES_MAX);
        assert!(rows.iter().any(|row| row.node == node(0)));
        assert_eq!(rows[0].node, node(3 * NODES_MAX - 1));
    }

    /// Scenario: a stream ends; fifteen minutes pass.
    /// Guarantees: the row is idle for that long, then gone.
    #[test]
    fn a_row_outlives_its_stream_by_fifteen_minutes() {
        let registry = NodeRegistry::default();
        let start = Instant::now();
        registry.stream_opened(&node(1), start);
        let ended = start + 2 * NODE_IDLE_MAX;
        registry.stream_closed(node(1).id, ended);
        assert_eq!(registry.list(ended + NODE_IDLE_MAX - Duration::from_secs(1)).len(), 1);
        assert_eq!(registry.list(ended + NODE_IDLE_MAX).len(), 0);
    }
}

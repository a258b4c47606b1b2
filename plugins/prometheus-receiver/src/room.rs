//! How much memory the plugin may take, and what things cost.
//!
//! The plugin can't know how much its host gives it (`limits.memory_mib`); beyond that the instance ends, with what it remembers of
//! all targets. So every scrape is held against bounds that follow from a setting, and fails before.
//!
//! Costs are of a 32-bit address space: lists and tables have up to twice the room that they need, and what grows is copied.

/// MiB of what is remembered, unless `state_mib` says otherwise: half of the 64 MiB that an instance has.
pub(crate) const STATE_MIB_DEFAULT: usize = 32;

/// The most that `state_mib` may be: half of the 4096 MiB that an instance can have.
pub(crate) const STATE_MIB_MAX: usize = 2_048;

/// A series: its place in a table. Its attributes cost twice their bytes.
pub(crate) const SERIES_COST: usize = 96;

/// A metric: its place in a list and a table, what stands around its texts.
pub(crate) const METRIC_COST: usize = 224;

/// A home, with its resource and both places in a table.
pub(crate) const HOME_COST: usize = 256;

/// A layout of buckets, or a label of a resource, without what is in it.
pub(crate) const ITEM_COST: usize = 48;

/// A target without its series, with the text of its fault.
pub(crate) const TARGET_COST: usize = 768;

/// What a new target must find room for beside: its own home, the metrics that report on it.
pub(crate) const REPORTS_COST: usize = 4_096;

/// A family of a scrape.
pub(crate) const FAMILY_COST: usize = 160;

/// A name that was resolved; it is written three times.
pub(crate) const RESOLVED_COST: usize = 240;

/// A point that is held.
pub(crate) const POINT_COST: usize = 288;

/// A bucket or quantile of it.
pub(crate) const PART_COST: usize = 40;

/// A native histogram without its buckets.
pub(crate) const NATIVE_COST: usize = 128;

/// A series with a time.
pub(crate) const TIMED_COST: usize = 32;

/// The list of a metric's points.
pub(crate) const LIST_COST: usize = 64;

/// Bytes that there are for a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// For what is remembered of it.
    pub(crate) state: usize,
    /// For that and its scrape.
    pub(crate) all: usize,
}

impl Room {
    /// Of an instance that remembers `state` bytes at most, and `others` of other targets. Together with a scrape it may be twice
    /// that, but for an eighth: the code's own memory and what is between things.
    pub(crate) fn of(state: usize, others: usize) -> Self {
        let all = state * 2 - state / 8;
        Self { state: state.saturating_sub(others), all: all.saturating_sub(others) }
    }
}

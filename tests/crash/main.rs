//! Schedules with a seed against a model of the queue: appends, leases, settlements, kills, cuts, damage.
//!
//! The property is two lines: no answered receipt is ever lost, and nothing is delivered that was not appended,
//! byte for byte.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    unused_must_use,
    reason = "helpers of tests fail by panicking, and a schedule throws receipts away that it has counted"
)]

mod damage;
mod durable;
mod full;
mod lanes;
mod model;
mod origins;
mod sim;

//! What the process says about itself: its log, its metrics, its health.

mod flood;
mod linked;
pub mod logs;
pub mod metrics;
pub mod pages;
mod scraped;
mod secured;

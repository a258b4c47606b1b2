//! Prometheus targets as OTLP metrics.
//!
//! The host finds targets, fetches them and says when one is gone; this plugin says what to ask them for and makes metrics of what
//! they answer, the wrong answers too: `up`.
//!
//! Invariant: keeps of a target only which series it had, for the markers of those that are gone.
//!
//! | file | what it is |
//! |---|---|
//! | `scraper.rs` | the plugin: one fetch after the other |
//! | `settings.rs` | what an operator writes |
//! | `ask.rs` | what a target is asked for, and what the type of its answer says |
//! | `read.rs` | a body, sample by sample |
//! | `intake.rs` | one scrape: samples in, points out |
//! | `relabel.rs`, `md5.rs` | rules that change or drop series |
//! | `limits.rs` | what a series may be |
//! | `room.rs` | how much memory there is, and what things cost |
//! | `families.rs` | which family a sample is of |
//! | `held.rs` | points that are made of several samples |
//! | `sheet.rs` | points by metric, and the batches that they become |
//! | `series.rs` | which series a target had |

mod ask;
mod families;
mod held;
mod intake;
mod limits;
mod md5;
mod read;
mod relabel;
mod room;
mod scraper;
mod series;
mod settings;
mod sheet;

pub use relabel::RuleSettings;
pub use scraper::PrometheusReceiver;
pub use settings::{Config, Global, ScrapeConfig, Settings};

weir_guest::export!(PrometheusReceiver: scraper);

//! The receiver that fetches: targets, when each is due, requests, and what a plugin makes of the answers.
//!
//! | file | what it is |
//! |---|---|
//! | `scrape/job.rs` | what an operator writes, checked: one scrape configuration |
//! | `scrape/relabel.rs`, `scrape/md5.rs` | rules that make labels of labels, and let targets go |
//! | `scrape/target.rs`, `scrape/duration.rs` | from an address with labels to a target |
//! | `scrape/discovery.rs` | which targets there are: the configuration's, and those of files |
//! | `scrape/schedule.rs` | when each is due |
//! | `scrape/fetch.rs` | one request and its answer |
//! | `scrape/round.rs` | one target's turn: ask, fetch, read, hand on |
//! | `scrape/slots.rs` | the targets, what each is doing, who comes and who goes |
//! | `scrape/run.rs` | the one task that begins turns |
//! | `scrape/legacy.rs` | what one run leaves to the next |
//! | `scrape/counts.rs` | what is counted |
//!
//! Prometheus' behaviour is the model (`facts/formats.md` 3.3). Two things are not as there: redirects are not followed, for they
//! lead where no operator has granted, and a target whose last fetch is still under way is passed over, and counted.

pub mod counts;
mod discovery;
pub mod duration;
pub mod fetch;
pub mod job;
mod legacy;
mod md5;
pub mod relabel;
mod round;
mod run;
mod schedule;
mod slots;
pub mod target;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use weir_model::Scraper;
use weir_net::Drain;
use weir_net::client::Client;

use self::counts::ScrapeCounts;
use self::fetch::{Access, Fetch, HttpFetch};
use self::run::Runner;
use crate::door::Settings;
use crate::intake::{CountLimits, Intake};

pub use discovery::TARGETS_MAX;
pub use job::{Group, Job, TargetFiles};
pub use legacy::Legacy;

/// Data points that one answer may hold: what [`job::BODY_BYTES_MAX_DEFAULT`] has room for, at sixteen bytes a line. A sender could
/// send less at a time, a target cannot.
pub const ITEMS_MAX: u32 = 1024 * 1024;

/// What time it is. Only the schedule's beginning and the times that a plugin is told come from here.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the Unix epoch.
    fn unix_nanos(&self) -> u64;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_nanos(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What one receiver fetches.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its jobs, each with how its targets are reached.
    pub jobs: Vec<(Job, Access)>,
    /// What one batch may hold.
    pub counts: CountLimits,
}

/// Why a receiver that fetches does not start.
#[derive(Debug, thiserror::Error)]
#[error("set up tls of job {job}")]
pub struct StartError {
    /// Whose.
    job: String,
    /// The file and why not.
    #[source]
    cause: weir_net::roots::RootsError,
}

/// A receiver that fetches; nothing is fetched yet.
pub struct Ready {
    runner: Runner,
}

impl Config {
    /// Makes the receiver. `legacy` is what the one before it has left, and takes what this one leaves.
    ///
    /// # Errors
    /// [`StartError`] where files of TLS cannot be used.
    pub fn ready(
        self,
        scraper: Arc<dyn Scraper>,
        client: &Client,
        settings: Settings,
        counts: ScrapeCounts,
        legacy: Legacy,
    ) -> Result<Ready, StartError> {
        let (jobs, accesses): (Vec<Job>, Vec<Access>) = self.jobs.into_iter().unzip();
        let limits: Vec<usize> = jobs.iter().map(|job| job.body_bytes_max).collect();
        let fetch = HttpFetch::new(client, accesses, limits, Arc::clone(&settings.ledger));
        let fetch = fetch.map_err(|(index, cause)| StartError { job: jobs[index].name.clone(), cause })?;
        Ok(Ready::with(
            jobs,
            scraper,
            Arc::new(fetch),
            Arc::new(SystemClock),
            Intake::new(settings, self.counts),
            counts,
            legacy,
        ))
    }
}

impl Ready {
    fn with(
        jobs: Vec<Job>,
        scraper: Arc<dyn Scraper>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        intake: Intake,
        counts: ScrapeCounts,
        legacy: Legacy,
    ) -> Self {
        Self {
            runner: Runner::new(jobs.into(), round::Means { scraper, fetch, clock, intake, counts }, legacy),
        }
    }

    /// Fetches until `drain` is signaled. Fetches under way end then, what was fetched is handed on, and nothing is forgotten: the
    /// next start goes on with the same targets.
    ///
    /// # Errors
    /// Never now; the signature is that of every door.
    ///
    /// # Cancel safety
    /// A dropped future cuts what is under way.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        self.runner.run(drain).await;
        Ok(())
    }
}

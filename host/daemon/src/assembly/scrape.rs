//! Receivers that fetch: a plugin that reads, and what the host needs to know of targets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use weir_model::Scraper;
use weir_plugin::PluginScraper;
use weir_receiver::door::Settings;
use weir_receiver::intake::CountLimits;
use weir_receiver::scrape::counts::ScrapeCounts;
use weir_receiver::scrape::fetch::Access;
use weir_receiver::scrape::{Config, ITEMS_MAX, Legacy, Ready};

use super::exporters::{credential, trust};
use super::triggers::Print;
use super::{Bench, plugins};
use crate::command::Failure;
use crate::config::{Id, PluginConfig, PluginReceiver, PoolConfig, ScrapeConfig, ScrapeJob};
use crate::telemetry::metrics::PluginSource;

/// What a receiver that fetches keeps when it is made anew.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    /// What it counts.
    pub(crate) counts: ScrapeCounts,
    /// Targets that the one before it knew.
    pub(crate) legacy: Legacy,
    /// Its plugin, which remembers series of targets: one with the same settings goes on with them. Of what runs, not of what a
    /// reload only makes ready.
    kept: Arc<Mutex<Option<Kept>>>,
}

impl Standing {
    /// A door has taken its place: what it reads with is kept from now on, or nothing where it does not fetch.
    pub(super) fn keep(&self, kept: Option<Kept>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// What the running door reads with.
    pub(super) fn kept(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A reader, and what it was built with.
#[derive(Clone)]
pub(super) struct Kept {
    plugin: PluginConfig,
    pool: PoolConfig,
    unsaid: BTreeSet<String>,
    pub(super) scraper: Arc<PluginScraper>,
    pub(super) shown: PluginSource,
}

/// A receiver that fetches, built.
pub(super) struct Opened {
    pub(super) ready: Ready,
    /// What it reads with.
    pub(super) kept: Kept,
    /// The TLS files of its jobs as they were before they were read.
    pub(super) files: Vec<Option<Print>>,
}

/// The states of the jobs' TLS files.
pub(super) fn prints(config: &ScrapeConfig) -> Vec<Option<Print>> {
    config.jobs.iter().flat_map(|job| job.tls.files()).map(|file| Print::of(&file.value)).collect()
}

/// Builds a receiver that fetches; nothing is fetched yet.
///
/// # Errors
/// A plugin that cannot be built, a file of TLS or of a credential that cannot be used.
pub(crate) async fn open(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
    config: &ScrapeConfig,
    standing: &Standing,
    settings: Settings,
) -> Result<Opened, Failure> {
    let files = prints(config);
    let kept = scraper(bench, id, receiver, config.unsaid(), standing).await?;
    let access = |job: &ScrapeJob| -> anyhow::Result<Access> {
        let auth = job.auth.as_ref().map(|auth| credential(id, &auth.value));
        let credential = auth.transpose().with_context(|| format!("job {}", job.job.name))?;
        Ok(Access { credential, trust: trust(&job.tls) })
    };
    let jobs = config.jobs.iter().map(|job| Ok((job.job.clone(), access(job)?)));
    let jobs = jobs.collect::<anyhow::Result<_>>().with_context(|| format!("start receiver {id}"))?;
    // A user's own word holds; what nobody wrote is meant for what senders send.
    let usual = CountLimits::default();
    let items_max = match receiver.limits.items_max {
        written if written != usual.items_max => written,
        _ => ITEMS_MAX,
    };
    let counts = CountLimits { items_max, attributes_max: receiver.limits.attributes_max };
    let ready = Config { jobs, counts }.ready(
        Arc::clone(&kept.scraper) as Arc<dyn Scraper>,
        &bench.client,
        settings,
        standing.counts.clone(),
        standing.legacy.clone(),
    );
    Ok(Opened { ready: ready.with_context(|| format!("start receiver {id}"))?, kept, files })
}

/// The plugin as it is, where it was built with the same settings and hides as much as it should; else another.
async fn scraper(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
    unsaid: BTreeSet<String>,
    standing: &Standing,
) -> Result<Kept, Failure> {
    let PluginReceiver { plugin, pool, .. } = receiver;
    let fits = |kept: &Kept| kept.plugin == *plugin && kept.pool == *pool && kept.unsaid.is_superset(&unsaid);
    if let Some(kept) = standing.kept().filter(fits) {
        return Ok(kept);
    }
    let texts = unsaid.iter().cloned().collect();
    let (scraper, shown) = plugins::scraper(bench, id, receiver, texts).await?;
    Ok(Kept { plugin: plugin.clone(), pool: *pool, unsaid, scraper, shown })
}

//! Receivers that fetch: a plugin that reads, and what the host needs to know of targets.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use weir_plugin::PluginScraper;
use weir_receiver::door::Settings;
use weir_receiver::intake::CountLimits;
use weir_receiver::scrape::counts::ScrapeCounts;
use weir_receiver::scrape::fetch::Access;
use weir_receiver::scrape::{Config, ITEMS_MAX, Legacy, Ready};

use super::exporters::{credential, trust};
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
    /// Its plugin, which remembers series of targets: one with the same settings goes on with them.
    kept: Arc<Mutex<Option<Kept>>>,
}

#[derive(Clone)]
struct Kept {
    plugin: PluginConfig,
    pool: PoolConfig,
    scraper: Arc<PluginScraper>,
    shown: PluginSource,
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
) -> Result<(Ready, PluginSource), Failure> {
    let (scraper, shown) = scraper(bench, id, receiver, standing).await?;
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
        scraper,
        &bench.client,
        settings,
        standing.counts.clone(),
        standing.legacy.clone(),
    );
    Ok((ready.with_context(|| format!("start receiver {id}"))?, shown))
}

/// The plugin as it is, where it was built with the same settings; else another.
async fn scraper(
    bench: &Bench<'_>,
    id: &Id,
    receiver: &PluginReceiver,
    standing: &Standing,
) -> Result<(Arc<PluginScraper>, PluginSource), Failure> {
    let kept = || standing.kept.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept().clone().filter(|kept| kept.plugin == receiver.plugin && kept.pool == receiver.pool);
    if let Some(Kept { scraper, shown, .. }) = known {
        return Ok((scraper, shown));
    }
    let (scraper, shown) = plugins::scraper(bench, id, receiver).await?;
    let (plugin, pool) = (receiver.plugin.clone(), receiver.pool);
    *kept() = Some(Kept { plugin, pool, scraper: Arc::clone(&scraper), shown: shown.clone() });
    Ok((scraper, shown))
}

//! Exporters and their deliveries.

use std::sync::Arc;

use anyhow::Context;
use weir_exporter::debug::{Debug, Verbosity as DebugVerbosity};
use weir_exporter::delivery::Settings;
use weir_exporter::otlp::{Compression as OtlpCompression, Config as OtlpConfig, Otlp, Protocol};
use weir_exporter::{Delivery, ExporterCounts, Retry, Stop};
use weir_model::{BoxFuture, Exporter, Outcome, Push};
use weir_net::client_tls;
use weir_net::credential::Credential;
use weir_net::roots::Trust;
use weir_queue::{WhenFull, Wish};

use super::link::Link;
use super::plugins::{self, BuiltPage};
use super::tasks::{Running, Tasks};
use super::triggers::Print;
use super::{Bench, NamedQueue, agent};
use crate::command::Failure;
use crate::config::{
    self, Auth, ClientTls, Compression, Config, ExporterConfig, ExporterKind, Id, Kept, OtlpExporter,
    OtlpProtocol, PipelineId, PluginConfig, PoolConfig, Verbosity,
};
use crate::telemetry::metrics::PluginSource;

/// An exporter, built; the pipelines that name it share it.
#[derive(Clone)]
pub(crate) struct Built {
    way: Way,
    /// What its plugin counts.
    pub(crate) figures: Option<PluginSource>,
    /// Where it is fetched from, if it is.
    pub(crate) page: Option<BuiltPage>,
    /// The TLS files of its requests as they were before they were read.
    files: Vec<Option<Print>>,
    /// What its plugin was built with, if it is one.
    made_of: Option<(PluginConfig, PoolConfig)>,
    /// What a link dials with, where that is TLS.
    pub(crate) tls: Option<client_tls::ClientTls>,
}

/// What its deliveries push to.
#[derive(Clone)]
enum Way {
    /// The same for all pipelines.
    One(Arc<dyn Exporter>),
    /// One for each pipeline's log, over the same link.
    Link(Arc<Link>),
}

impl Built {
    /// The link, where it is one.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        match &self.way {
            Way::One(_) => None,
            Way::Link(link) => Some(link),
        }
    }

    /// Where it is a page whose plugin has the same settings, limits and powers still: all of it, with what is on the page. Its
    /// door, its delivery and their TLS files are others' work.
    fn kept(&self, made_of: &(PluginConfig, PoolConfig)) -> Option<Self> {
        (self.page.is_some() && self.made_of.as_ref() == Some(made_of)).then(|| self.clone())
    }

    /// Whether this one takes the place of `before`, a page, without what is on it.
    pub(crate) fn starts_empty(&self, before: &Self) -> bool {
        let pages = before.page.as_ref().zip(self.page.as_ref());
        pages.is_some_and(|(before, now)| !Arc::ptr_eq(&before.server, &now.server))
    }

    /// Whether its TLS files are others than those that it was built with. Those of a page are its door's, which reads them
    /// again: what is on the page stays. A link that could not begin is tried again.
    pub(crate) fn is_outdated(&self, config: &ExporterConfig) -> bool {
        if self.link().is_some_and(|link| link.is_idle()) {
            return true;
        }
        self.page.is_none() && self.files != prints(config)
    }
}

/// The states of an exporter's TLS files.
fn prints(config: &ExporterConfig) -> Vec<Option<Print>> {
    let files = config.tls().into_iter().flat_map(ClientTls::files);
    files.map(|file| Print::of(&file.value)).collect()
}

/// One exporter of one pipeline at work on its cursor.
pub(crate) struct Post {
    /// What it counts, for as long as the configuration names it.
    pub(crate) counts: ExporterCounts,
    /// Ends it alone, or with all others.
    pub(crate) stop: Stop,
    /// Until it starts.
    pub(crate) idle: Option<Delivery>,
    /// Since it has started.
    pub(crate) running: Option<Running>,
}

impl Post {
    /// A delivery that begins with [`Post::start`].
    pub(crate) fn new(delivery: Delivery, counts: ExporterCounts, exports: &Stop) -> Self {
        let stop = Stop { drain: exports.drain.child_token(), cut: exports.cut.child_token() };
        Self { counts, stop, idle: Some(delivery), running: None }
    }

    pub(crate) fn start(&mut self, name: String, tasks: &mut Tasks) {
        if let Some(delivery) = self.idle.take() {
            let stop = self.stop.clone();
            self.running = Some(tasks.spawn(name, async move {
                delivery.run(stop).await;
                Ok(())
            }));
        }
    }
}

/// Joins an exporter to its cursor, which begins at the end of the log where it is new.
///
/// # Errors
/// Where the log has no room for another exporter.
pub(crate) fn delivery(
    config: &Config,
    pipeline: &PipelineId,
    id: &Id,
    built: &Built,
    named: &NamedQueue,
    counts: &ExporterCounts,
) -> Result<Delivery, Failure> {
    let of = &config.exporters[id].value.delivery;
    let when_full = match of.when_full {
        config::WhenFull::Refuse => WhenFull::Refuse,
        config::WhenFull::SkipOldest => WhenFull::SkipOldest,
    };
    let name = id.to_string();
    let subscribed = named.queue.subscribe(&name, when_full);
    let cursor =
        subscribed.with_context(|| format!("subscribe exporter {id} to the queue of pipeline {pipeline}"))?;
    let batch = config.batch(pipeline, id);
    let settings = Settings {
        id: name.into(),
        wish: Wish { items_max: batch.items.into(), bytes_max: batch.bytes, linger: batch.timeout },
        retry: Retry { initial: of.retry.initial_interval, max: of.retry.max_interval },
        record_ends_max: of.retry.record_ends,
        counts: counts.clone(),
    };
    let exporter = match &built.way {
        Way::One(exporter) => Arc::clone(exporter),
        Way::Link(link) => link.lane(&named.pipeline),
    };
    let exporter: Arc<dyn Exporter> = match of.pool.instances {
        Some(in_flight_max) => Arc::new(Pooled { exporter, in_flight_max }),
        None => exporter,
    };
    Ok(Delivery::new(settings, cursor, exporter))
}

/// Builds an exporter. Of the one that runs under its id, `before`, a page is kept where that can be.
///
/// # Errors
/// What it needs and is not there: a file, a plugin.
pub(crate) async fn build(bench: &Bench<'_>, id: &Id, before: Option<&Built>) -> Result<Built, Failure> {
    let config = &bench.config.exporters[id].value;
    let files = prints(config);
    let ExporterConfig { delivery, kind } = config;
    let (mut figures, mut page, mut made_of) = (None, None, None);
    let exporter: Arc<dyn Exporter> = match kind {
        ExporterKind::Otlp(otlp) => {
            let config = otlp_config(id, otlp, delivery.timeout)?;
            let built = Otlp::new(config, &bench.client).with_context(|| format!("build exporter {id}"))?;
            Arc::new(built)
        }
        ExporterKind::Debug(debug) => {
            let verbosity = match debug.verbosity {
                Verbosity::Basic => DebugVerbosity::Basic,
                Verbosity::Detailed => DebugVerbosity::Detailed,
            };
            Arc::new(Debug { id: id.to_string(), verbosity })
        }
        // It begins when it is joined to its logs, and the one before it has ended, which is too late for what cannot serve.
        ExporterKind::Link(link) => {
            let tls = agent::tls(bench.config, id, link).await?;
            let way = Way::Link(Link::new(id.to_string()));
            return Ok(Built { way, figures, page, files, made_of, tls });
        }
        ExporterKind::Plugin(plugin) => {
            // The guest's requests end with its call, so one deadline is enough for both.
            let mut plugin = plugin.clone();
            let deadline = &mut plugin.plugin.limits.call_deadline;
            *deadline = delivery.timeout.min(*deadline);
            let of_plugin = (plugin.plugin.clone(), delivery.pool);
            if let Some(kept) = before.and_then(|before| before.kept(&of_plugin)) {
                return Ok(kept);
            }
            let built = plugins::exporter(bench, id, &plugin, delivery.pool).await?;
            (figures, page, made_of) = (Some(built.figures), built.page, Some(of_plugin));
            built.exporter
        }
    };
    Ok(Built { way: Way::One(exporter), figures, page, files, made_of, tls: None })
}

fn otlp_config(id: &Id, otlp: &OtlpExporter, timeout: std::time::Duration) -> anyhow::Result<OtlpConfig> {
    let headers =
        otlp.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    Ok(OtlpConfig {
        endpoint: otlp.endpoint.value.clone(),
        protocol: match otlp.protocol {
            OtlpProtocol::Grpc => Protocol::Grpc,
            OtlpProtocol::Http => Protocol::Http,
        },
        compression: match otlp.compression {
            Compression::None => OtlpCompression::None,
            Compression::Gzip => OtlpCompression::Gzip,
            Compression::Zstd => OtlpCompression::Zstd,
        },
        headers,
        credential: otlp.auth.as_ref().map(|auth| credential(id, auth)).transpose()?,
        trust: trust(&otlp.tls),
        timeout,
    })
}

/// Whom an exporter's requests trust, and what they show.
pub(crate) fn trust(tls: &ClientTls) -> Trust {
    let path =
        |file: &Option<config::Located<std::path::PathBuf>>| file.as_ref().map(|file| file.value.clone());
    Trust {
        ca_file: path(&tls.ca_file),
        identity: path(&tls.cert_file).zip(path(&tls.key_file)),
        crl_file: path(&tls.crl_file),
    }
}

/// The `authorization` header of an exporter's requests (`auth:`).
pub(crate) fn credential(id: &Id, auth: &Auth) -> anyhow::Result<Credential> {
    let made = match auth {
        Auth::Bearer(Kept::Here(token)) => Credential::bearer(token.expose()),
        Auth::Bearer(Kept::File(file)) => Credential::bearer_file(&file.value),
        Auth::Basic { username, password: Kept::Here(password) } => {
            Credential::basic(username, password.expose())
        }
        Auth::Basic { username, password: Kept::File(file) } => Credential::basic_file(username, &file.value),
    };
    made.with_context(|| format!("auth of {id}"))
}

/// An exporter with fewer pushes at once than it could have.
struct Pooled {
    exporter: Arc<dyn Exporter>,
    in_flight_max: usize,
}

impl Exporter for Pooled {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        self.exporter.push(push)
    }

    fn in_flight_max(&self) -> usize {
        self.in_flight_max.min(self.exporter.in_flight_max())
    }

    fn generation(&self) -> u64 {
        self.exporter.generation()
    }

    fn found_at_fault(&self) {
        self.exporter.found_at_fault();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it was told of a record at fault.
    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Exporter for Told {
        fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(async { Outcome::Accepted })
        }

        fn in_flight_max(&self) -> usize {
            4
        }

        fn generation(&self) -> u64 {
            7
        }

        fn found_at_fault(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Scenario: an exporter with `pool: {instances: 2}`; its code is the seventh, and a record of it was found at fault.
    /// Guarantees: it has no more pushes at once than that, and hears of all else.
    #[test]
    fn an_exporter_with_a_pool_hears_what_any_other_hears() {
        let told = Arc::new(Told::default());
        let pooled = Pooled { exporter: Arc::clone(&told) as Arc<dyn Exporter>, in_flight_max: 2 };
        assert_eq!((pooled.in_flight_max(), pooled.generation()), (2, 7));
        pooled.found_at_fault();
        assert_eq!(told.0.load(Ordering::Relaxed), 1);
    }
}

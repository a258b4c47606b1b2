//! Pipelines and their logs.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tracing::{info, warn};
use weir_model::{Ledger, Signal};
use weir_pipeline::{Augment, Pipeline, PipelineCounts};
use weir_queue::{DiskQueue, Faults, MemoryQueue, Queue, Settings};
use weir_wire::Addition;

use super::{Foundation, NamedQueue};
use crate::admin::QueueView;
use crate::command::Failure;
use crate::config::{AttributeValue, Config, Detect, PipelineId, ResourceConfig, Storage};

/// The folder of queues in the data folder.
fn queues_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("queues")
}

/// The variable that switches faults on in tests; never set it otherwise.
const FAULTS_VARIABLE: &str = "WEIR_TEST_FAULTS";

/// The folder of a pipeline's log: its name, with the one character that no file name may have written otherwise.
pub(super) fn folder_name(pipeline: &str) -> String {
    pipeline.replace('%', "%25").replace('/', "%2F")
}

/// The pipeline's name out of the name of its folder.
fn pipeline_name(folder: &str) -> String {
    folder.replace("%2F", "/").replace("%25", "%")
}

/// Every folder that a log was ever made in, with its pipeline's name, in the order of names; anything else that lies
/// there is none of ours.
///
/// # Errors
/// Where the folder of queues cannot be read.
pub(crate) fn queue_folders(data_dir: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let folder = queues_dir(data_dir);
    let entries = std::fs::read_dir(&folder).with_context(|| {
        format!("look into {}: is this the data folder of a daemon that has run?", folder.display())
    })?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("look into {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(pipeline_name);
        if let Some(name) = name.filter(|_| path.join(SEGMENTS).is_dir()) {
            folders.push((name, path));
        }
    }
    folders.sort();
    Ok(folders)
}

/// What every log's folder has in it.
const SEGMENTS: &str = "segments";

/// A log whose pipeline is not configured, and that is not empty.
pub(crate) struct Waiting {
    pub(crate) pipeline: String,
    /// For the health page.
    pub(crate) what: String,
    /// For `weir queue ls`; none where the log cannot be read.
    pub(crate) view: Option<QueueView>,
}

/// Logs that nobody reads: their pipelines were renamed or taken out, or the storage is memory now. What was
/// acknowledged into them waits, and that is told.
pub(crate) async fn waiting(config: &Config) -> Vec<Waiting> {
    let in_use = |pipeline: &str| {
        config.service.queue.storage == Storage::Disk
            && config.pipelines.keys().any(|id| id.to_string() == pipeline)
    };
    // A process with its queues in memory has not taken the folder: it looks only where nobody else is at work.
    let (data_dir, storage) = (&config.service.data_dir, config.service.queue.storage);
    let lock =
        (storage == Storage::Memory && is_ours(data_dir)).then(|| super::lock(data_dir).ok()).flatten();
    if storage == Storage::Memory && lock.is_none() {
        return Vec::new();
    }
    // Where nothing was ever kept nothing waits.
    let folders = queue_folders(data_dir).unwrap_or_default();
    let mut found = Vec::new();
    for (pipeline, folder) in folders.into_iter().filter(|(pipeline, _)| !in_use(pipeline)) {
        match look_into(&pipeline, &folder).await {
            Ok(None) => (),
            Ok(Some((view, records))) => {
                let (items, letters) = (view.items, view.dead_letters);
                warn!(
                    pipeline,
                    records,
                    items,
                    dead_letters = letters,
                    "what was acknowledged waits, and no pipeline on disk has this name: configure it again to \
                     deliver it, or delete {} to lose it",
                    folder.display()
                );
                let what = format!(
                    "records of pipeline {pipeline} wait ({records}, with {letters} dead letters), no pipeline on disk \
                     of that name is configured"
                );
                found.push(Waiting { pipeline, what, view: Some(view) });
            }
            Err(error) => {
                let error = format!("{error:#}");
                let path = folder.display();
                warn!(pipeline, %path, error, "a queue whose pipeline is not configured cannot be looked into");
                let what = format!(
                    "no pipeline of that name is configured, and its queue cannot be looked into: {error}"
                );
                found.push(Waiting { pipeline, what, view: None });
            }
        }
    }
    found
}

/// Whether this is a folder of the user that runs this process.
pub(super) fn is_ours(folder: &Path) -> bool {
    let found = std::fs::symlink_metadata(folder);
    found.is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

/// What is in a log, and the records in it that some exporter was still to get; nothing where it is empty.
async fn look_into(pipeline: &str, folder: &Path) -> anyhow::Result<Option<(QueueView, u64)>> {
    // Its own budget: what is looked at and closed again takes nothing from the process.
    let settings = Settings::new(Ledger::new(weir_model::ledger::LEDGER_BYTES_DEFAULT));
    let queue = DiskQueue::open(folder, settings, SystemTime::now())?;
    let status = queue.status();
    queue.close().await?;
    let records = status.cursors.iter().map(|cursor| cursor.pending_records).max().unwrap_or(status.records);
    if records == 0 && status.dead_letters == 0 {
        return Ok(None);
    }
    let mut view = QueueView::of(pipeline, status);
    view.degraded = Some("no pipeline on disk of that name is configured: what is in it waits".to_owned());
    for cursor in &mut view.exporters {
        cursor.paused = Some("its pipeline is not configured".to_owned());
    }
    Ok(Some((view, records)))
}

/// Where logs are opened, and how.
#[derive(Clone)]
pub(crate) struct Site {
    storage: Storage,
    folder: PathBuf,
    settings: Settings,
}

impl Site {
    /// The site of a configuration.
    ///
    /// # Errors
    /// Where faults were asked for that do not exist.
    pub(crate) fn of(config: &Config, ledger: &Arc<Ledger>) -> Result<Self, Failure> {
        let queue = config.service.queue;
        // The budgets are for all pipelines together; each has an equal part, so that one cannot starve another.
        let parts = config.pipelines.len().max(1) as u64;
        let mut settings = Settings::new(Arc::clone(ledger));
        settings.budget_bytes = queue.budget_bytes / parts;
        settings.segment_bytes = queue.segment_bytes;
        settings.dead_letter_bytes = queue.dead_letter_bytes / parts;
        settings.faults = faults()?;
        Ok(Self { storage: queue.storage, folder: queues_dir(&config.service.data_dir), settings })
    }

    /// Opens the log of a pipeline. Blocks for the disk.
    ///
    /// # Errors
    /// Where its folder cannot be used.
    pub(crate) fn open(&self, id: &PipelineId) -> Result<NamedQueue, Failure> {
        let pipeline = id.to_string();
        let queue: Arc<dyn Queue> = match self.storage {
            Storage::Disk => {
                let folder = self.folder.join(folder_name(&pipeline));
                super::make_private_dir(&folder)?;
                let open = DiskQueue::open(&folder, self.settings.clone(), SystemTime::now());
                open.with_context(|| format!("open the queue of pipeline {pipeline}"))?
            }
            Storage::Memory => {
                warn!(
                    pipeline,
                    "this pipeline acknowledges from memory: what is queued is lost with the process"
                );
                MemoryQueue::new(self.settings.budget_bytes)
            }
        };
        Ok(NamedQueue { pipeline, queue })
    }
}

fn faults() -> Result<Faults, Failure> {
    let Ok(text) = std::env::var(FAULTS_VARIABLE) else { return Ok(Faults::default()) };
    warn!(faults = text, "faults are switched on: this process breaks its promises on purpose");
    let parsed = Faults::parse(&text);
    Ok(parsed.map_err(|error| anyhow::anyhow!("{FAULTS_VARIABLE}={text}: {error}"))?)
}

/// A pipeline with its log.
pub(crate) struct Line {
    /// Its log.
    pub(crate) named: NamedQueue,
    /// What doors hand to.
    pub(crate) pipeline: Arc<Pipeline>,
}

impl Line {
    /// A pipeline in front of its log; what it adds to resources is in the configuration.
    pub(crate) fn new(
        config: &Config,
        foundation: &Foundation,
        id: &PipelineId,
        named: NamedQueue,
        counts: PipelineCounts,
    ) -> Self {
        let built = Pipeline {
            name: named.pipeline.clone(),
            augments: augments(config, id),
            log: Arc::clone(&named.queue) as Arc<dyn weir_model::Log>,
            nodes: Arc::clone(&foundation.nodes),
            ledger: Arc::clone(&foundation.ledger),
            counts,
        };
        info!(pipeline = named.pipeline, acknowledges = %config.service.queue.storage, "pipeline ready");
        Self { named, pipeline: Arc::new(built) }
    }
}

fn augments(config: &Config, id: &PipelineId) -> Vec<Augment> {
    config.resources(id).into_iter().map(augment).collect()
}

fn augment(resource: &ResourceConfig) -> Augment {
    let detected = resource.detect.iter().map(|detect| match detect {
        Detect::HostName => {
            let name = rustix::system::uname();
            Addition::string("host.name", &name.nodename().to_string_lossy())
        }
        Detect::OsType => Addition::string("os.type", os_type()),
    });
    let written = resource.attributes.iter().map(|(key, value)| match value {
        AttributeValue::Text(text) => Addition::string(key, text),
        AttributeValue::Bool(value) => Addition::bool(key, *value),
        AttributeValue::Int(value) => Addition::int(key, *value),
        AttributeValue::Double(value) => Addition::double(key, *value),
    });
    // What was written comes first: of two additions with one key the first holds.
    Augment { additions: written.chain(detected).collect(), overwrite: resource.overwrite }
}

/// The semantic conventions' name of this operating system.
fn os_type() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The pipelines that one receiver feeds with one signal.
pub(crate) fn fed_by(
    config: &Config,
    lines: &BTreeMap<PipelineId, Line>,
    receiver: &crate::config::Id,
    signal: Signal,
) -> Vec<Arc<Pipeline>> {
    let feeds = |(id, _): &(&PipelineId, &Line)| {
        let wanted = config.pipelines.get(*id);
        id.signal == signal
            && wanted.is_some_and(|wanted| wanted.receivers.iter().any(|fed| fed.value == *receiver))
    };
    lines.iter().filter(feeds).map(|(_, line)| Arc::clone(&line.pipeline)).collect()
}

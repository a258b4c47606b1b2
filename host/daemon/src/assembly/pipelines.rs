//! Pipelines and their logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tracing::{info, warn};
use weir_model::Signal;
use weir_pipeline::{Augment, Pipeline, PipelineCounts};
use weir_queue::{DiskQueue, Faults, MemoryQueue, Queue, Settings};
use weir_wire::Addition;

use super::{Bench, NamedQueue};
use crate::command::Failure;
use crate::config::{AttributeValue, Config, Detect, PipelineId, ResourceConfig, Storage};
use crate::telemetry::metrics::PipelineSource;

/// The folder of queues in the data folder.
pub(crate) fn queues_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("queues")
}

/// The variable that switches faults on in tests; never set it otherwise.
const FAULTS_VARIABLE: &str = "WEIR_TEST_FAULTS";

/// The folder of a pipeline's log: its name, with the one character that no file name may have written otherwise.
pub(crate) fn folder_name(pipeline: &str) -> String {
    pipeline.replace('%', "%25").replace('/', "%2F")
}

/// The pipeline's name out of the name of its folder.
pub(crate) fn pipeline_name(folder: &str) -> String {
    folder.replace("%2F", "/").replace("%25", "%")
}

/// Opens the log of every pipeline.
pub(crate) fn queues(bench: &mut Bench<'_>) -> Result<Vec<NamedQueue>, Failure> {
    let config = bench.config;
    let settings = settings(bench)?;
    let folder = queues_dir(&config.service.data_dir);
    let mut queues = Vec::new();
    for id in config.pipelines.keys() {
        let pipeline = id.to_string();
        let queue: Arc<dyn Queue> = match config.service.queue.storage {
            Storage::Disk => {
                let folder = folder.join(folder_name(&pipeline));
                super::make_private_dir(&folder)?;
                let open = DiskQueue::open(&folder, settings.clone(), SystemTime::now());
                open.with_context(|| format!("open the queue of pipeline {pipeline}"))?
            }
            Storage::Memory => {
                warn!(
                    pipeline,
                    "this pipeline acknowledges from memory: what is queued is lost with the process"
                );
                MemoryQueue::new(settings.budget_bytes)
            }
        };
        queues.push(NamedQueue { pipeline, queue });
    }
    Ok(queues)
}

fn settings(bench: &Bench<'_>) -> Result<Settings, Failure> {
    let queue = bench.config.service.queue;
    // The budgets are for all pipelines together; each has an equal part, so that one cannot starve another.
    let parts = bench.config.pipelines.len().max(1) as u64;
    let mut settings = Settings::new(Arc::clone(&bench.ledger));
    settings.budget_bytes = queue.budget_bytes / parts;
    settings.segment_bytes = queue.segment_bytes;
    settings.dead_letter_bytes = queue.dead_letter_bytes / parts;
    settings.faults = faults()?;
    Ok(settings)
}

fn faults() -> Result<Faults, Failure> {
    let Ok(text) = std::env::var(FAULTS_VARIABLE) else { return Ok(Faults::default()) };
    warn!(faults = text, "faults are switched on: this process breaks its promises on purpose");
    let parsed = Faults::parse(&text);
    Ok(parsed.map_err(|error| anyhow::anyhow!("{FAULTS_VARIABLE}={text}: {error}"))?)
}

/// Builds the pipelines, by id.
pub(crate) fn pipelines(bench: &mut Bench<'_>, queues: &[NamedQueue]) -> BTreeMap<PipelineId, Arc<Pipeline>> {
    let config = bench.config;
    let mut pipelines = BTreeMap::new();
    for (id, NamedQueue { pipeline, queue }) in config.pipelines.keys().zip(queues) {
        let counts = PipelineCounts::default();
        bench.sources.pipelines.push(PipelineSource {
            pipeline: pipeline.clone(),
            counts: counts.clone(),
            queue: Arc::clone(queue),
            queue_counts: queue.counts(),
        });
        let built = Pipeline {
            name: pipeline.clone(),
            augments: augments(config, id),
            log: Arc::clone(queue) as Arc<dyn weir_model::Log>,
            nodes: Arc::clone(&bench.nodes),
            ledger: Arc::clone(&bench.ledger),
            counts,
        };
        info!(pipeline, acknowledges = %config.service.queue.storage, "pipeline ready");
        pipelines.insert(id.clone(), Arc::new(built));
    }
    pipelines
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
pub(crate) fn fed_by<'p>(
    config: &'p Config,
    pipelines: &'p BTreeMap<PipelineId, Arc<Pipeline>>,
    receiver: &'p crate::config::Id,
    signal: Signal,
) -> Vec<Arc<Pipeline>> {
    let feeds = |id: &&PipelineId| {
        id.signal == signal && config.pipelines[*id].receivers.iter().any(|fed| fed.value == *receiver)
    };
    pipelines.keys().filter(feeds).map(|id| Arc::clone(&pipelines[id])).collect()
}

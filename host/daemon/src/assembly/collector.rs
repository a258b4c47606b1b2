//! The collector behind a receiver of type `weir`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use weir_queue::Queue;

use super::pipelines::Line;
use crate::config::{Config, Id, PipelineId};

/// The logs that a collector feeds. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Fed(Arc<RwLock<Vec<Arc<dyn Queue>>>>);

impl Fed {
    /// From now on it feeds the logs of these pipelines.
    pub(crate) fn exchange(&self, config: &Config, lines: &BTreeMap<PipelineId, Line>, receiver: &Id) {
        let feeds = |pipeline: &&PipelineId| {
            let wanted = config.pipelines.get(*pipeline);
            wanted.is_some_and(|wanted| wanted.receivers.iter().any(|fed| fed.value == *receiver))
        };
        let logs = lines.iter().filter(|(pipeline, _)| feeds(pipeline));
        let logs = logs.map(|(_, line)| Arc::clone(&line.named.queue)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = logs;
    }

    /// Them.
    pub(crate) fn now(&self) -> Vec<Arc<dyn Queue>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

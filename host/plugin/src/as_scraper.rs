//! A plugin seen as the reader of what targets answer: one instance for each id, one call at a time.

use std::sync::Arc;

use bytes::Bytes;
use weir_model::scrape::{Fetched, Target};
use weir_model::{BoxFuture, Refusal, Scraper, Signal, http};

use crate::ask::{Asking, Unfit};
use crate::end::{DIGEST, FORGET, PREPARE};
use crate::slot::Slot;
use crate::wanted::shows_its_slot;

/// One configured id whose targets are read by a plugin.
pub struct PluginScraper {
    pub(crate) slot: Arc<Slot>,
}

shows_its_slot!(PluginScraper);

impl PluginScraper {
    /// The calls of all targets wait for each other: as long as one may take.
    fn asking(&self, call: &'static str) -> Asking {
        Asking { what: "scraper", call, wait_max: self.slot.limits().call_deadline }
    }
}

impl Scraper for PluginScraper {
    fn prepare(&self, target: Arc<Target>) -> BoxFuture<'_, Result<http::Request, Refusal>> {
        Box::pin(self.slot.ask(self.asking(PREPARE), move |instance| {
            Box::pin(async move { Ok(instance.prepare(&target).await?.map_err(Unfit::from)) })
        }))
    }

    fn digest(
        &self,
        target: Arc<Target>,
        fetched: Fetched,
    ) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>> {
        Box::pin(self.slot.ask(self.asking(DIGEST), move |instance| {
            Box::pin(async move { Ok(instance.digest(&target, &fetched).await?.map_err(Unfit::from)) })
        }))
    }

    fn forget(&self, target: Arc<Target>, at: u64) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>> {
        Box::pin(self.slot.ask(self.asking(FORGET), move |instance| {
            Box::pin(async move { Ok(instance.forget(&target, at).await?.map_err(Unfit::from)) })
        }))
    }

    fn generation(&self) -> u64 {
        self.slot.generation()
    }
}

//! What is said of resources over links, and kept of those who say it.

use std::sync::Arc;
use std::time::Instant;

use weir_link::lanes::{AgentStates, CollectorStates};
use weir_model::BoxFuture;
use weir_proto::weir::link::v1::{KindDigest, StateDown, StateUp};

use super::Bench;
use crate::config::Id;

struct Silent;
impl AgentStates for Silent {
    fn welcomed(&mut self, _: &[KindDigest], _: bool, _: Instant) {}
    fn received(&mut self, _: StateDown, _: Instant) {}
    fn next(&mut self, _: Instant) -> Option<StateUp> {
        None
    }
    fn wake(&self) -> Option<Instant> {
        None
    }
    fn broken(&mut self) {}
}

struct Deaf;
impl CollectorStates for Deaf {
    fn known(&self, _: &str) -> Vec<KindDigest> {
        Vec::new()
    }
    fn received<'a>(&'a self, _: &'a str, _: (u128, u64), _: StateUp) -> BoxFuture<'a, Vec<StateDown>> {
        Box::pin(async { Vec::new() })
    }
}

pub(super) fn of_agent(_: &Bench<'_>, _: &Id) -> anyhow::Result<Box<dyn AgentStates>> {
    Ok(Box::new(Silent))
}

pub(super) fn of_collector(_: &Bench<'_>) -> anyhow::Result<Arc<dyn CollectorStates>> {
    Ok(Arc::new(Deaf))
}

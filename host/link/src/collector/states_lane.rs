//! States of one agent on their way to the store: several values at once, so that they share a sync; an inventory alone, after
//! everything that came before it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use weir_model::{BoxFuture, Claim};
use weir_proto::weir::link::v1::{StateDown, StateUp, state_up};

use crate::lanes::CollectorStates;
use crate::limits::{STATES_UNDER_WAY_MAX, STATES_WAITING_MAX};

/// The lane of one stream.
pub(super) struct StatesLane {
    store: Arc<dyn CollectorStates>,
    identity: Arc<str>,
    /// Incarnation and epoch of the stream.
    epoch: (u128, u64),
    waiting: VecDeque<(StateUp, Claim)>,
    under_way: FuturesUnordered<BoxFuture<'static, Vec<StateDown>>>,
    /// Whether an inventory is with the store.
    is_alone: bool,
}

impl StatesLane {
    pub(super) fn new(store: Arc<dyn CollectorStates>, identity: Arc<str>, epoch: (u128, u64)) -> Self {
        let under_way = FuturesUnordered::new();
        Self { store, identity, epoch, waiting: VecDeque::new(), under_way, is_alone: false }
    }

    /// Whether one more may come.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < STATES_WAITING_MAX
    }

    /// Whether the store has something to answer.
    pub(super) fn is_busy(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Takes a message; `claim` pays for it.
    pub(super) fn push(&mut self, state: StateUp, claim: Claim) {
        self.waiting.push_back((state, claim));
        self.go_on();
    }

    /// The next answers of the store; never ready where it has nothing.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> Vec<StateDown> {
        let Some(answers) = self.under_way.next().await else { return std::future::pending().await };
        self.is_alone &= !self.under_way.is_empty();
        self.go_on();
        answers
    }

    /// Hands on what may go now.
    fn go_on(&mut self) {
        while let Some((state, _)) = self.waiting.front() {
            let is_value = matches!(state.message, Some(state_up::Message::Value(_)));
            let most = if is_value { STATES_UNDER_WAY_MAX } else { 1 };
            if self.is_alone || self.under_way.len() >= most {
                return;
            }
            let Some((state, claim)) = self.waiting.pop_front() else { return };
            self.is_alone = !is_value;
            let (store, identity, epoch) = (Arc::clone(&self.store), Arc::clone(&self.identity), self.epoch);
            self.under_way.push(Box::pin(async move {
                let answers = store.received(&identity, epoch, state).await;
                drop(claim);
                answers
            }));
        }
    }
}

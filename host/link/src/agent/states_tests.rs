//! The lane of states of an agent that has nothing else to say.

use std::sync::Arc;
use std::time::Duration;

use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::state_up::Message as Said;

use super::link_tests::{Collector, Opened, log, settings, until};
use crate::agent::{Agent, AgentSettings};
use crate::state::{Outbox, Volatile};

/// Long on a busy machine, and far below the interval of heartbeats that the collector asks for, 30 seconds.
const AT_ONCE: Duration = Duration::from_secs(10);

impl Opened {
    /// The key of the next state; nothing else is said before but inventories.
    async fn state(&mut self) -> String {
        loop {
            match self.heard().await {
                Some(Up::State(state)) => match state.message {
                    Some(Said::Value(state)) => return state.key,
                    _ => continue,
                },
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Scenario: programs report five states, one after the other, through an agent that is connected and has nothing else to say.
/// Guarantees: the collector hears each of them at once, and not with the next heartbeat.
#[tokio::test]
async fn a_report_does_not_wait_for_a_heartbeat() {
    let mut collector = Collector::new();
    collector.start();
    let (outbox, handle, _task) = Outbox::open(Arc::<Volatile>::default(), true);
    let settings =
        AgentSettings { states: Box::new(outbox), ..settings(&collector.address.to_string(), None) };
    let agent = Agent::start(settings, vec![log(0).await]).unwrap();
    let (mut stream, _) = collector.welcome().await;
    until("the stream is up", || agent.status().connected.is_some()).await;
    for key in ["a", "b", "c", "d", "e"] {
        let _reported = handle.report("app", key, b"1".to_vec(), Duration::ZERO).await.unwrap();
        let heard = tokio::time::timeout(AT_ONCE, stream.state()).await;
        assert_eq!(heard.expect("a state long before the next heartbeat"), key);
    }
}

//! An agent in a network that is parted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use weir_model::Outcome;
use weir_proto::weir::link::v1::Welcome;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;

use super::link_tests::{Collector, PATIENCE, log, outcome, push, settings, until, welcome};
use crate::agent::Agent;

/// What lies between agent and collector. Who comes while it is parted is let in and never hears of anybody.
struct Network {
    address: SocketAddr,
    is_parted: Arc<AtomicBool>,
    /// One for each connection of the parted network that its agent has given up.
    given_up: mpsc::Receiver<()>,
}

impl Network {
    async fn before(collector: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_parted = Arc::new(AtomicBool::new(false));
        let (give_up, given_up) = mpsc::channel(64);
        let parted = Arc::clone(&is_parted);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (parted, give_up) = (parted.load(Ordering::SeqCst), give_up.clone());
                tokio::spawn(async move {
                    if parted {
                        let mut all = Vec::new();
                        // How it ends is the agent's to say, and nobody may wait for it any more.
                        near.read_to_end(&mut all).await.ok();
                        give_up.send(()).await.ok();
                        return;
                    }
                    let mut far = TcpStream::connect(collector).await.unwrap();
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        });
        Self { address, is_parted, given_up }
    }
}

/// Scenario: a stream with short heartbeats ends, and the next dials are let in by a network that is parted, and hear nothing; it heals
/// for connections that are made then. A push waits all the time.
/// Guarantees: the agent gives each of these dials up by itself, after the interval of heartbeats that it knows, and says why; the
/// first dial after that brings the push through.
#[tokio::test]
async fn a_dial_into_a_parted_network_does_not_outlast_the_parting() {
    let mut collector = Collector::new();
    collector.start();
    let mut network = Network::before(collector.address).await;
    let agent = Agent::start(settings(&network.address.to_string(), None), vec![log(0).await]).unwrap();
    let mut stream = collector.stream().await;
    stream.hello().await;
    stream.say(Down::Welcome(Welcome { heartbeat_ms: 1_000, ..welcome() })).await;
    let pushing = push(&agent, 1, 0);
    stream.bundle().await;
    network.is_parted.store(true, Ordering::SeqCst);
    stream.goodbye(Reason::Draining, 0).await;
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, network.given_up.recv()).await.expect("it is given up").unwrap();
    }
    let no_sign = format!("no sign of http://{0} at {0} within 2s", network.address);
    until("the reason is shown", || agent.status().why_away.as_ref() == Some(&no_sign)).await;
    network.is_parted.store(false, Ordering::SeqCst);
    let (mut stream, _) = collector.welcome().await;
    assert_eq!(stream.bundle().await.0.seqs, [1]);
    stream.ack(1).await;
    assert_eq!(outcome(pushing).await, Outcome::Accepted);
}

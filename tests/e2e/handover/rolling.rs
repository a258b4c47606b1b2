//! Many agents that are restarted one after another, as an upgrade of a fleet does it.

use std::time::{Duration, Instant};

use weir_tests::wait::until;
use weir_tests::{Protocol, Proxy, Shape, Weir};

use super::pair::{Between, Collector, agent, drained};
use crate::load::{Book, Load, Worker, door};
use crate::record::{Line, record};
use crate::run::{DELIVERY_DEADLINE, alone, figure, random};

const AGENTS: u32 = 20;

/// How often each sender sends; there is one for each agent.
const PACE: Duration = Duration::from_millis(100);

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// Scenario: twenty agents under load are restarted in turn, orderly or by `kill -9`, at times while all old streams stay open at the
/// collector's side and nobody is at their other end.
/// Guarantees: each new process is welcome, in the place of the old one; no identity is there twice, none is left behind; nothing that was
/// acknowledged is lost, nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_restarted_in_turn_loses_nothing() {
    let _alone = alone().await;
    let mut random = random("rolling");
    let (seed, rounds): (u64, usize) = (random.get_seed(), figure("WEIR_ROUNDS", 1));
    let mut collector = Collector::start(Between::Link).await;
    let (proxy, book) = (Proxy::start(collector.address()).await, Book::default());
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        agents.push(agent(Between::Link, proxy.address(), &identity(number), None).await);
    }
    let worker = |(sender, agent): (u32, &Weir)| {
        let protocol = Protocol::OtlpGrpc;
        Worker { sender, protocol, address: agent.address(door(protocol)), next: 0 }
    };
    let start = |crew: Vec<Worker>| Load::start(crew, SHAPE, Some(PACE), &book);
    let mut loads: Vec<Load> = (0..AGENTS).zip(&agents).map(|one| start(vec![worker(one)])).collect();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        for ((number, agent), load) in (0..AGENTS).zip(&mut agents).zip(&mut loads) {
            book.reaches(book.ledger.batches() + random.usize(1..60)).await;
            let before = epoch(&collector, number).await;
            match random.u8(..3) {
                0 => drop(agent.terminate().await),
                1 => agent.kill().await,
                _ => {
                    proxy.abandon();
                    agent.kill().await;
                }
            }
            agent.restart().await;
            let since = Instant::now();
            // A sender whose connection broke has stopped.
            let stopped = std::mem::replace(load, start(Vec::new())).stop().await;
            *load = start(stopped);
            let comes =
                until(DELIVERY_DEADLINE, async || (epoch(&collector, number).await > before).then_some(()));
            assert!(comes.await.is_some(), "agent {number} is not welcome:\n{}", agent.log().tail());
            longest = longest.max(since.elapsed());
        }
    }
    for load in loads {
        load.stop().await;
    }
    for agent in &agents {
        drained(agent).await;
    }
    let fleet = collector.fleet().await;
    assert_eq!(fleet.len(), AGENTS as usize, "{fleet:#?}");
    assert!(fleet.iter().all(|row| row["state"] == "live"), "{fleet:#?}");
    // Old streams that nobody has told the collector of have ended too.
    for gauge in ["weir_link_agents", "weir_receiver_streams"] {
        let of = [("receiver", "weir")];
        collector.weir.metric_becomes(DELIVERY_DEADLINE, gauge, &of, f64::from(AGENTS)).await;
    }
    for agent in &mut agents {
        agent.terminate().await;
    }
    collector.weir.terminate().await;
    let kept = collector.kept();
    kept.harvest.assert_keeps(&book.ledger);
    kept.assert_exactly_once();
    book.assert_no_permanent_refusal();
    assert_eq!(kept.harvest.repeated(), 0, "spans are there twice, under keys that differ");
    let figures = format!(
        "{AGENTS} agents; {} batches acknowledged, {} records kept, 0 missing, 0 twice; welcome {:.1} s after a start at the latest",
        book.ledger.batches(),
        kept.records(),
        longest.as_secs_f64(),
    );
    let restarts = rounds * AGENTS as usize;
    eprintln!("rolling: {restarts} restarts, {figures}");
    record(&Line { rows: "15", story: "agents restarted in turn", cycles: restarts, figures, seed });
}

fn identity(number: u32) -> String {
    format!("edge-{number}")
}

/// The start of this agent that the collector has welcomed last; 0 where there was none.
async fn epoch(collector: &Collector, number: u32) -> u64 {
    let fleet = collector.fleet().await;
    let row = fleet.iter().find(|row| row["identity"] == identity(number).as_str());
    row.and_then(|row| row["epoch"].as_u64()).unwrap_or_default()
}

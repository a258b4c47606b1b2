//! Packets that are lost at random, and partitions, in a network of the story's own.
//!
//! ```text
//! a thread with a network namespace: loopback, and nothing else
//!   senders ─▶ agent ── TCP over loopback, filtered by nft ──▶ collector
//! ```
//!
//! It is loopback and no pair of cables, because what speaks in plaintext may leave a machine no more than its users want it to;
//! to TCP a packet that a filter takes away is as lost as one that fell off a cable.

use std::future::Future;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;
use weir_tests::wait::until;
use weir_tests::{Protocol, Shape, Weir};

use super::pair::{Between, Collector, IDENTITY, agent, drained};
use crate::load::{Book, Load, crew};
use crate::record::{Line, record};
use crate::run::{DELIVERY_DEADLINE, PENDING, alone, figure, random};

/// Packets of a hundred that are lost, in turn.
const LOSSES: [u32; 2] = [5, 30];

/// All of them: a partition.
const ALL: u32 = 100;

/// How often each sender sends.
const PACE: Duration = Duration::from_millis(40);

const SENDERS_EACH: u32 = 2;

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// Scenario: 5 % and 30 % of the packets between agent and collector are lost, in turn; again and again there is a partition, in
/// which one of the two is killed at times.
/// Guarantees: after each partition records pass again without anybody's help; in the end everything that was acknowledged is in
/// the collector's log, once.
#[test]
fn packets_that_are_lost_lose_no_record() {
    if may_filter("packets_that_are_lost_lose_no_record") {
        apart(|| story(Between::Link));
    }
}

/// Scenario: the same with OTLP in place of the link.
/// Guarantees: nothing acknowledged is lost either.
#[test]
fn packets_that_are_lost_lose_no_record_over_otlp() {
    if may_filter("packets_that_are_lost_lose_no_record_over_otlp") {
        apart(|| story(Between::Otlp));
    }
}

async fn story(between: Between) {
    let _alone = alone().await;
    let mut random = random("packets");
    let (seed, partitions) = (random.get_seed(), figure("WEIR_PARTITIONS", 4));
    let mut collector = Collector::start(between).await;
    let mut agent = agent(between, collector.address(), IDENTITY, None).await;
    let (filter, book) = (Filter { port: collector.address().port() }, Book::default());
    let mut crew = crew(&agent, &Protocol::ALL, SENDERS_EACH);
    let mut longest = Duration::ZERO;
    for loss in LOSSES.into_iter().cycle().take(partitions) {
        filter.loses(loss);
        let load = Load::start(crew, SHAPE, Some(PACE), &book);
        let later = |random: &mut fastrand::Rng| book.ledger.batches() + random.usize(20..300);
        book.reaches(later(&mut random)).await;
        filter.loses(ALL);
        book.reaches(later(&mut random)).await;
        match random.u8(..3) {
            0 => agent.kill().await,
            1 => collector.weir.kill().await,
            _ => {}
        }
        restarted(&mut agent).await;
        restarted(&mut collector.weir).await;
        filter.loses(loss);
        let healed = Instant::now();
        becomes_less(&agent).await;
        longest = longest.max(healed.elapsed());
        crew = load.stop().await;
    }
    filter.loses(0);
    drained(&agent).await;
    let acknowledged = book.ledger.batches();
    agent.terminate().await;
    collector.weir.terminate().await;
    let kept = collector.kept();
    kept.harvest.assert_keeps(&book.ledger);
    book.assert_no_permanent_refusal();
    let figures = format!(
        "{LOSSES:?} % of packets lost: {acknowledged} batches acknowledged, {} records kept; records pass {:.1} s after a partition \
         at the latest",
        kept.records(),
        longest.as_secs_f64(),
    );
    eprintln!("packets, {between:?}: {partitions} partitions, {figures}");
    if between == Between::Link {
        kept.assert_exactly_once();
        assert_eq!(kept.harvest.repeated(), 0, "spans are there twice, under keys that differ");
        record(&Line { rows: "14", story: "packets lost, partitions", cycles: partitions, figures, seed });
    }
}

/// Waits until something has been handed over: the senders go on, so what waits grows until then.
async fn becomes_less(agent: &Weir) {
    let waiting = async || agent.metrics().await.value(PENDING, &[]).unwrap_or_default();
    let mut most = waiting().await;
    let less = until(DELIVERY_DEADLINE, async || {
        let now = waiting().await;
        most = most.max(now);
        (now < most || now == 0.0).then_some(())
    });
    assert!(less.await.is_some(), "nothing passes after a partition:\n{}", agent.log().tail());
}

async fn restarted(weir: &mut Weir) {
    if !weir.runs() {
        weir.restart().await;
    }
}

/// Whether this process may have networks and filters of its own. Says aloud which stories do not run where it may not.
fn may_filter(story: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has_nft = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_root || !has_nft {
        eprintln!(
            "NOT RUN: {story}: a network of its own needs root, and nft (Debian: nftables) to lose packets in it."
        );
    }
    is_root && has_nft
}

/// Runs a story in a thread with a network of its own. What it starts is in it too; the network ends with the last of them.
fn apart<F: Future<Output = ()>>(story: impl FnOnce() -> F + Send + 'static) {
    // Compiled where there is a network, in case it must be.
    weir_tests::binary::weir(weir_tests::Profile::Same);
    let thread = std::thread::spawn(|| {
        #[expect(
            unsafe_code,
            reason = "only the network is parted from, and no descriptor of this process is used across it"
        )]
        let parted = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        parted.expect("root may have a network of its own");
        run("ip", &["link", "set", "lo", "up"], "");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(story());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The filter of this thread's network.
struct Filter {
    /// The collector's.
    port: u16,
}

impl Filter {
    /// So many of a hundred packets do not arrive, each way.
    fn loses(&self, percent: u32) {
        let port = self.port;
        let chance =
            if percent == ALL { String::new() } else { format!("numgen random mod {ALL} < {percent} ") };
        let rule = |side| format!("tcp {side} {port} {chance}drop;");
        let rules = if percent == 0 { String::new() } else { rule("dport") + " " + &rule("sport") };
        // The first two lines make it whether it is there or not; all four are one transaction.
        let script = format!(
            "table inet weir\ndelete table inet weir\ntable inet weir {{\n chain in {{ type filter hook input priority 0; {rules} }}\n}}\n"
        );
        run("nft", &["-f", "-"], &script);
    }
}

fn run(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "{program} {input}: {}", String::from_utf8_lossy(&output.stderr));
}

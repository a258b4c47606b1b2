//! Thousands of streams that come and go, thousands of names that come once.

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use weir_proto::weir::link::v1::collector_message::Message;
use weir_tests::{BareAgent, BatchId, Protocol, Shape};

use super::pair::{Between, Collector};
use crate::memory::MIB;
use crate::record::{Line, record};
use crate::run::{alone, figure};

/// Agents that come again and again.
const AGENTS: u64 = 20;

/// Streams that are opened at once.
const AT_ONCE: usize = 8;

/// The part of the reconnects after which the resident set is what it will be.
const WARM: u64 = 5;

/// By how much it may grow then, in a hundred, and what is lost in the noise of a small process.
const GROWTH_PERCENT_MAX: u64 = 10;
const NOISE: u64 = 4 * MIB;

/// Names after which it is.
const NAMES_WARM: u64 = 1_000;

/// What the first names may cost beside that, once.
const FIRST_NAMES_MAX: u64 = 12 * MIB;

/// What a name may cost that came once, in bytes: two names of 255 bytes, a few words, twice for the tables' room.
const NAME_BYTES_MAX: u64 = 4 << 10;

const SHAPE: Shape = Shape { spans: 2, attributes: 1, value_bytes: 4 };

/// Scenario: a few agents connect and break off again and again; then many come once, each under a name of its own.
/// Guarantees: all are welcomed; memory does not grow with streams, and with names within what a name may cost; a record is taken as
/// before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_come_and_go_leave_nothing_behind() {
    let _alone = alone().await;
    let reconnects: u64 = figure("WEIR_RECONNECTS", 500);
    let identities: u64 = figure("WEIR_IDENTITIES", 200);
    let collector = Collector::start(Between::Link).await;
    let address = collector.address();
    let resident = || collector.weir.usage().rss_bytes;

    come((0..reconnects / WARM).map(|number| number % AGENTS), address).await;
    let warm = resident();
    come((0..reconnects).map(|number| number % AGENTS), address).await;
    let after_streams = resident();
    // The first new names cost what their table's file and the threads that write it take once: some hundred of them.
    let first = AGENTS + identities.max(NAMES_WARM);
    come(AGENTS..first, address).await;
    let before_names = resident();
    come(first..first + identities, address).await;
    let after_names = resident();

    let mut agent = BareAgent::new(AGENTS);
    let mut stream = agent.open(address).await.expect("it is welcome");
    let id = BatchId { sender: 1, number: 1 };
    let bundle = agent.bundle(&mut stream, id.encode(SHAPE, Protocol::OtlpGrpc), SHAPE.spans.into());
    assert!(stream.send(bundle).await, "the stream is open");
    let acknowledged = loop {
        match stream.receive().await.expect("an answer") {
            Message::Ack(ack) => break ack,
            _ => continue,
        }
    };
    assert!(acknowledged.upto == 1 && acknowledged.rejected.is_empty(), "{acknowledged:?}");
    let figures = format!(
        "{} MiB resident, {} after {reconnects} streams; {} with {first} names, {} after {identities} more",
        warm / MIB,
        after_streams / MIB,
        before_names / MIB,
        after_names / MIB,
    );
    eprintln!("churn: {figures}");
    assert!(after_streams <= warm + warm * GROWTH_PERCENT_MAX / 100 + NOISE, "{figures}");
    assert!(before_names <= after_streams + first * NAME_BYTES_MAX + FIRST_NAMES_MAX, "{figures}");
    assert!(after_names <= before_names + identities * NAME_BYTES_MAX + NOISE, "{figures}");
    let cycles = usize::try_from(reconnects + identities).expect("a count of streams");
    record(&Line { rows: "16", story: "streams and names that come and go", cycles, figures, seed: 0 });
}

/// Each of these agents connects, is welcomed, and breaks off.
async fn come(numbers: impl Iterator<Item = u64>, address: SocketAddr) {
    let visits = numbers.map(async |number| {
        let welcomed = BareAgent::new(number).open(address).await;
        welcomed.unwrap_or_else(|why| panic!("agent {number}: {why}"));
    });
    // One round of all agents after another: where two streams of one name overlap, the older is fenced, not welcomed.
    let mut rounds = visits.collect::<Vec<_>>();
    while !rounds.is_empty() {
        let rest = rounds.split_off(rounds.len().min(AGENTS as usize));
        stream::iter(rounds).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        rounds = rest;
    }
}

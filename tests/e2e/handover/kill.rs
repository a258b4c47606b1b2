//! `kill -9` of both ends at random moments, over a wire that is slow, cut, stalled and silent at random.

use std::time::Duration;

use tokio::time::timeout;
use weir_tests::wait::until;
use weir_tests::{Cut, Kept, Protocol, Shape, Weather, Weir};

use super::pair::{Between, Pair};
use crate::load::{Book, Load, Worker, crew};
use crate::record::{Line, record};
use crate::run::{alone, figure, random};

/// Kills until a negative control must have shown its fault.
const CONTROL_CYCLES_MAX: usize = 60;

/// Kills between two looks into the collector's log, in a negative control: to look, everything must be delivered.
const CONTROL_CYCLES_EACH: usize = 3;

/// Connections of each protocol.
const SENDERS_EACH: u32 = 2;

/// How often each sends: enough for a lease in most lanes at most moments, and a log that can be read in the end.
const PACE: Duration = Duration::from_millis(40);

/// How long a cycle waits for bytes to pass: in some weather none do.
const PASSING: Duration = Duration::from_secs(3);

/// Bytes that pass before a kill: up to some hundred records.
const PASSING_BYTES_MAX: u64 = 200_000;

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// Scenario: four protocols send to the agent; the wire is bad at random; agent, collector or both are killed at random, at times
/// again while they start; in the end the faults stop and both logs come to rest.
/// Guarantees: everything that a sender was told is safe stands in the collector's log unaltered, every record of the agent's log
/// exactly once, in the order of its lane; the agent has nothing left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_a_bad_wire_lose_nothing_and_repeat_nothing() {
    let _alone = alone().await;
    let mut random = random("link");
    let seed = random.get_seed();
    let cycles: usize = figure("WEIR_LINK_CYCLES", figure("WEIR_CYCLES", 12));
    let mut story = Story::begin(Between::Link).await;
    for _ in 0..cycles {
        story.cycle(&mut random).await;
    }
    let kept = story.settle().await;
    story.tell("link", cycles, &kept);
    kept.harvest.assert_keeps(&story.book.ledger);
    kept.assert_exactly_once();
    // A sender of this story never sends a batch again, so that a span which is there twice was made so on the way.
    assert_eq!(kept.harvest.repeated(), 0, "spans are there twice, under keys that differ");
    story.book.assert_no_permanent_refusal();
    let figures = format!(
        "{} kills of the agent, {} of the collector, {} batches acknowledged, {} records kept; 0 missing, 0 altered, 0 twice",
        story.kills[0],
        story.kills[1],
        story.book.ledger.batches(),
        kept.records(),
    );
    record(&Line { rows: "2, 3, 14", story: "kill -9 over a bad wire", cycles, figures, seed });
}

/// Scenario: the same with OTLP in place of the link.
/// Guarantees: nothing is lost either, but spans are there twice: the faults are such that only the link's keys stand between them
/// and a repetition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_faults_make_otlp_repeat() {
    let _alone = alone().await;
    let mut random = random("link, OTLP in its place");
    let mut story = Story::begin(Between::Otlp).await;
    let cycles = story
        .until_red(&mut random, |story, kept| {
            kept.harvest.assert_keeps(&story.book.ledger);
            kept.harvest.repeated() > 0
        })
        .await;
    eprintln!("link, OTLP in its place: spans are there twice after {cycles} kills");
}

/// Scenario: the same with a collector that does not look whether it has a record.
/// Guarantees: the check above sees keys twice: a suite that cannot be red proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_deduplicate_is_seen() {
    let _alone = alone().await;
    let mut random = random("link, negative control: no_dedup");
    let mut story = Story::begin(Between::Link).await;
    story.has_fault("no_dedup").await;
    let cycles = story.until_red(&mut random, |_, kept| !kept.twice().is_empty()).await;
    eprintln!("link, negative control: a key is there twice after {cycles} kills");
}

/// Scenario: the same with a collector that keeps its marks in another transaction than the records.
/// Guarantees: the check above sees what a kill between the two makes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_marks_apart_is_seen() {
    let _alone = alone().await;
    let mut random = random("link, negative control: mark_apart");
    let mut story = Story::begin(Between::Link).await;
    story.has_fault("mark_apart").await;
    let red = |story: &Story, kept: &Kept| {
        !kept.twice().is_empty() || !kept.harvest.missing(&story.book.ledger).is_empty()
    };
    let cycles = story.until_red(&mut random, red).await;
    eprintln!("link, negative control: a record is missing or there twice after {cycles} kills");
}

struct Story {
    pair: Pair,
    crew: Vec<Worker>,
    book: Book,
    /// Kills of the agent and of the collector.
    kills: [u32; 2],
}

impl Story {
    async fn begin(between: Between) -> Self {
        let pair = Pair::start(between).await;
        let crew = crew(&pair.agent, &Protocol::ALL, SENDERS_EACH);
        Self { pair, crew, book: Book::default(), kills: [0; 2] }
    }

    /// The collector starts anew, with a fault.
    async fn has_fault(&mut self, fault: &str) {
        let collector = &mut self.pair.collector.weir;
        collector.log().announce("faults are switched on");
        collector.environment("WEIR_TEST_FAULTS", fault);
        collector.terminate().await;
        collector.restart().await;
    }

    /// Some weather, load, bytes that pass, something that happens to the wire, a kill of one or both, a start.
    async fn cycle(&mut self, random: &mut fastrand::Rng) {
        if random.bool() {
            // What was let in in silence would else wait for its peer's timeouts, and most kills would find no stream.
            self.pair.proxy.heal();
        }
        self.pair.proxy.set(Weather::drawn(random));
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, Some(PACE), &self.book);
        self.book.reaches(self.book.ledger.batches() + random.usize(1..80)).await;
        match random.u8(..6) {
            0 => self.pair.proxy.cut(Cut::Reset),
            1 => self.pair.proxy.cut(Cut::Close),
            2 => self.pair.proxy.abandon(),
            _ => {}
        }
        self.bytes_pass(random.u64(1..PASSING_BYTES_MAX)).await;
        let victims: [bool; 2] = match random.u8(..5) {
            0 => [true, false],
            1..4 => [false, true],
            _ => [true, true],
        };
        let Pair { agent, collector, .. } = &mut self.pair;
        tokio::join!(kill(agent, victims[0]), kill(&mut collector.weir, victims[1]));
        if random.u8(..4) == 0 {
            // Killed again somewhere in its recovery, or shortly after.
            let moments = [(); 2].map(|()| Duration::from_micros(random.u64(..300_000)));
            tokio::join!(
                killed_at_start(agent, victims[0], moments[0]),
                killed_at_start(&mut collector.weir, victims[1], moments[1]),
            );
        }
        // One may find the other still away.
        tokio::join!(start(agent, victims[0]), start(&mut collector.weir, victims[1]));
        self.crew = load.stop().await;
        for (kills, is_victim) in self.kills.iter_mut().zip(victims) {
            *kills += u32::from(is_victim);
        }
    }

    async fn bytes_pass(&self, bytes: u64) {
        let before = self.pair.proxy.carried().bytes_up;
        // In some weather nothing passes, and that is a state to be killed in as well.
        until(PASSING, async || (self.pair.proxy.carried().bytes_up >= before + bytes).then_some(())).await;
    }

    /// Faults stop; a fresh batch passes, everything is handed over, both stop; what the collector's log holds then.
    async fn settle(&mut self) -> Kept {
        self.pair.proxy.heal();
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, Some(PACE), &self.book);
        self.book.reaches(self.book.ledger.batches() + 1).await;
        self.crew = load.stop().await;
        self.pair.settle().await;
        self.pair.collector.kept()
    }

    /// Cycles until the check is red; how many that took.
    async fn until_red(
        &mut self,
        random: &mut fastrand::Rng,
        is_red: impl Fn(&Self, &Kept) -> bool,
    ) -> usize {
        for cycle in (CONTROL_CYCLES_EACH..=CONTROL_CYCLES_MAX).step_by(CONTROL_CYCLES_EACH) {
            for _ in 0..CONTROL_CYCLES_EACH {
                self.cycle(random).await;
            }
            let kept = self.settle().await;
            if is_red(self, &kept) {
                return cycle;
            }
            self.pair.collector.weir.restart().await;
            self.pair.agent.restart().await;
        }
        panic!("{CONTROL_CYCLES_MAX} kills, and the check saw nothing");
    }

    fn tell(&self, story: &str, cycles: usize, kept: &Kept) {
        eprintln!(
            "{story}: {cycles} cycles, {} kills of the agent, {} of the collector, {:?}; {} batches acknowledged, {} refused \
             for now; {} records, {} keys under {} numberings",
            self.kills[0],
            self.kills[1],
            self.pair.proxy.carried(),
            self.book.ledger.batches(),
            self.book.later(),
            kept.records(),
            kept.keys(),
            kept.numberings().len(),
        );
    }
}

async fn kill(weir: &mut Weir, is_victim: bool) {
    if is_victim {
        weir.kill().await;
    }
}

async fn killed_at_start(weir: &mut Weir, is_victim: bool, moment: Duration) {
    if is_victim {
        timeout(moment, weir.restart()).await.ok();
        weir.kill().await;
    }
}

async fn start(weir: &mut Weir, is_victim: bool) {
    if is_victim {
        weir.restart().await;
    }
}

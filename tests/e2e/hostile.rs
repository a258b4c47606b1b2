//! Plugins that do harm, built from source, in a real daemon: what the operator reads, and what the others feel.
//!
//! | file | what it is |
//! |---|---|
//! | `cases.rs` | the table: what a plugin does, what the operator must read |
//! | `neighbour.rs` | an innocent pipeline in the same daemon, and how long its senders wait |
//! | `stage.rs` | guests, folders, names, backends, configurations |
//! | `kept.rs` | a plugin in quarantine, and its release |
//! | `refused.rs` | plugins that do not get as far as running |
//!
//! A change runs all at once in one daemon, less those that use up what others need: the texts, the counters, that
//! nothing is lost. A release gives each a daemon of its own and holds the neighbour's 99th percentile against that
//! of a daemon without the plugin:
//!
//! ```text
//! round   quiet daemon  ▕███▏            ▕███▏
//!         hostile one          ▕███▏            ▕███▏   stopped (SIGSTOP) while the other is measured
//! ```
//!
//! `WEIR_HOSTILE_ROUNDS` says how many rounds, `WEIR_HOSTILE_SECONDS` how long each is measured, `WEIR_HOSTILE_ONLY` which
//! cases (`loop,grow`); without the first, all are in one daemon and the bar is not held against them.

mod cases;
mod kept;
mod neighbour;
mod refused;
mod stage;

use std::time::Duration;

use weir_tests::Weir;
use weir_tests::scrape::Page;
use weir_tests::wait::until;

use self::cases::{CASES, Case};
use self::neighbour::Waits;
pub(crate) use self::stage::wasm;
use self::stage::{Feed, Stage};
use crate::memory::MIB;
use crate::run::{alone, deadline, figure};

/// How soon the operator reads what a plugin did.
const READS: Duration = Duration::from_secs(6);

/// The most that a plugin may add to the time in which others are answered: a factor or a time, whichever is more.
const SLOWER_MAX: u32 = 2;

/// See [`SLOWER_MAX`].
const LONGER_MAX: Duration = Duration::from_millis(20);

/// Between two batches for a plugin, where each has a daemon of its own.
const FED: Duration = Duration::from_millis(50);

/// Between two batches where all plugins are in one daemon, whose log says each thing a few times a second.
const TRICKLE: Duration = Duration::from_millis(500);

/// What an id of a plugin counts; the one place that knows how its figures are called on the page.
fn counted(page: &Page, id: &str, figure: &str, kind: &str) -> f64 {
    let (section, id) = id.split_once('/').unwrap_or(("exporters", id));
    let of = match figure {
        "ends" => "end",
        "items" | "pushes" => "outcome",
        _ => "",
    };
    let mut labels = vec![("kind", section.trim_end_matches('s')), ("id", id)];
    labels.extend((!of.is_empty()).then_some((of, kind)));
    let name = format!("weir_plugin_{figure}");
    page.value(&format!("{name}_total"), &labels).or_else(|| page.value(&name, &labels)).unwrap_or_default()
}

/// Scenario: hostile plugins at once beside an innocent pipeline; with `WEIR_HOSTILE_ROUNDS` one after the other.
/// Guarantees: each thing is told in words that name plugin, version, id, call and limit, and is counted; of the
/// innocent pipeline nothing is lost, refused or (one after the other) slow; the daemon stops cleanly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_plugins_harm_nobody() {
    let _alone = alone().await;
    let stage = Stage::set().await;
    let rounds: usize = figure("WEIR_HOSTILE_ROUNDS", 0);
    let mut failures = Vec::new();
    if rounds == 0 {
        all_at_once(&stage, &mut failures).await;
    } else {
        one_after_the_other(&stage, rounds, &mut failures).await;
    }
    stage.assert_nobody_came();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

async fn all_at_once(stage: &Stage, failures: &mut Vec<String>) {
    let (alone, together): (Vec<&Case>, Vec<&Case>) = known(stage).partition(|case| case.alone);
    let mut crowds = vec![together];
    crowds.extend(alone.into_iter().map(|case| vec![case]));
    for cases in crowds {
        let mut neighbour = stage.daemon(&cases).await;
        let feed = Feed::start(&neighbour.weir, &cases, TRICKLE);
        let waits = neighbour.steady(Duration::from_secs(figure("WEIR_HOSTILE_SECONDS", 2))).await;
        eprintln!("hostile: beside {} plugins at once an innocent sender waits {waits}", cases.len());
        for case in &cases {
            assert_told(case, &neighbour.weir, &feed, failures).await;
        }
        feed.stop().await;
        neighbour.assert_kept(failures).await;
    }
}

/// The cases that can be told here.
fn known(stage: &Stage) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| stage.has_names() || !case.by_name)
}

async fn one_after_the_other(stage: &Stage, rounds: usize, failures: &mut Vec<String>) {
    let window = Duration::from_secs(figure("WEIR_HOSTILE_SECONDS", 2));
    let only: String = figure("WEIR_HOSTILE_ONLY", String::new());
    let mut quiet = stage.daemon(&[]).await;
    let mut table = Vec::new();
    for case in known(stage).filter(|case| only.is_empty() || only.split(',').any(|name| name == case.name)) {
        let mut hostile = stage.daemon(&[case]).await;
        let feed = Feed::start(&hostile.weir, &[case], FED);
        assert_told(case, &hostile.weir, &feed, failures).await;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            hostile.pause();
            without.push(quiet.steady(window).await);
            hostile.resume();
            with.push(hostile.steady(window).await);
        }
        let (without, with) = (Waits::median(without), Waits::median(with));
        let bar = (without.p99 * SLOWER_MAX).max(without.p99 + LONGER_MAX);
        let resident = hostile.weir.usage().rss_peak_bytes / MIB;
        let row = format!(
            "{:<22} p99 {:>7.1?} without, {:>7.1?} with, bar {:>7.1?}, at most {:>7.1?}; {resident} MiB resident at most",
            case.name, without.p99, with.p99, bar, with.longest
        );
        eprintln!("hostile: {row}");
        if with.p99 > bar {
            failures.push(format!("{}: p99 {:?}, bar {bar:?}", case.name, with.p99));
        }
        table.push(row);
        feed.stop().await;
        hostile.assert_kept(failures).await;
    }
    quiet.assert_kept(failures).await;
    eprintln!("\nhostile: median of {rounds} rounds of {window:?}\n{}", table.join("\n"));
}

/// Waits for what the operator must read and for what must be counted, and prints it.
async fn assert_told(case: &Case, weir: &Weir, feed: &Feed, failures: &mut Vec<String>) {
    eprintln!("--- {} {{{}}}", case.id(), case.settings);
    for words in case.reads {
        let has = |line: &str| {
            line.contains(&case.id()) && words.iter().all(|word| word.split('|').any(|w| line.contains(w)))
        };
        let found = until(deadline(READS), async || weir.log().lines().into_iter().find(|line| has(line)));
        match found.await {
            Some(line) => eprintln!("    log      {}", shown(&line)),
            None => failures.push(format!(
                "{}: the log has no line with {words:?}\n{}",
                case.name,
                about(case, weir)
            )),
        }
    }
    for (figure, kind) in case.counts {
        let reached = until(deadline(READS), async || {
            let value = counted(&weir.metrics().await, &case.section(), figure, kind);
            (value > 0.0).then_some(value)
        });
        match reached.await {
            Some(value) => eprintln!("    metrics  {figure} {kind} = {value}"),
            None => failures.push(format!("{}: {figure} {kind} is not counted", case.name)),
        }
    }
    if let Some(expected) = case.answers {
        let answer = until(deadline(READS), async || feed.answer(case.name)).await;
        match answer {
            Some((status, text)) if status == expected => eprintln!("    sender   {status} {}", shown(&text)),
            other => failures.push(format!("{}: the sender reads {other:?}, expected {expected}", case.name)),
        }
    }
}

/// A line as a person reads it in a table.
fn shown(line: &str) -> String {
    line.chars().take(600).collect()
}

/// What the log does say of a case.
fn about(case: &Case, weir: &Weir) -> String {
    let lines = weir.log().lines();
    let about = lines.iter().filter(|line| line.contains(&case.id())).take(5);
    about.map(|line| format!("    {}\n", shown(line))).collect()
}

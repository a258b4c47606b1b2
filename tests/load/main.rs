//! The load harness: every bar of the design beside what this build reaches.
//!
//! ```text
//! core 0                                     core 1
//! senders ──────── acknowledged? ──────────▶ weir (or the Collector), a process of its own
//!  sink  ◀──── everything acknowledged ─────   │
//!    counts by walking                         └─ CPU time, RSS: from /proc
//! ```
//!
//! `cargo bench -p weir-tests --bench load -- [--quick] [--rounds N] [--collector] [ROW…]`: rows are chosen by the
//! beginning of their names. The figure that is judged is items for each CPU-second of the daemon, because senders
//! and sink together need about as much as it does and would else be what is measured. Exits 1 where a median
//! misses its bar, or a run fails; a run fails where one span more or less arrives than was acknowledged.
//!
//! Invariant: figures of one run are compared with figures of the same run only; rounds are interleaved.
//!
//! | file | what it is |
//! |---|---|
//! | `rows.rs` | the rows and their bars |
//! | `measure.rs` | one run, closed loop or open loop |
//! | `send.rs`, `sink.rs`, `corpus.rs`, `formats.rs` | senders, backends, the bytes |
//! | `chain.rs` | an agent before a collector: the link beside OTLP |
//! | `fleet.rs` | a thousand agents on one collector |
//! | `targets.rs` | ten thousand targets that are scraped, and the page on which they stand then |
//! | `tally.rs` | what was acknowledged, what arrived, how long it took |
//! | `process.rs`, `subject.rs` | daemons, their configurations, what `/proc` says about them |
//! | `append.rs` | the queue alone, beside the raw disk |
//! | `report.rs` | the table |
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod append;
mod chain;
mod corpus;
mod fleet;
mod formats;
mod measure;
mod process;
mod report;
mod rows;
mod send;
mod sink;
mod subject;
mod tally;
mod targets;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::measure::Times;
use crate::report::Report;
use crate::rows::{Bench, OTHERS, ROWS};
use crate::subject::{Binaries, Storage};

/// Rounds of a whole run.
const ROUNDS: usize = 5;

const TIMES: Times = Times {
    warm: Duration::from_millis(1500),
    window: Duration::from_secs(5),
    open: Duration::from_secs(4),
    overload: Duration::from_secs(60),
};

/// For whoever changes something and looks whether it helped.
const QUICK: Times = Times {
    warm: Duration::from_millis(700),
    window: Duration::from_millis(1500),
    open: Duration::from_millis(1500),
    overload: Duration::from_secs(8),
};

#[derive(Debug, Default)]
struct Arguments {
    quick: bool,
    collector: bool,
    rounds: Option<usize>,
    rows: Vec<String>,
}

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut arguments = Self::default();
        while let Some(argument) = given.next() {
            match argument.as_str() {
                // cargo adds it.
                "--bench" => {}
                "--quick" => arguments.quick = true,
                "--collector" => arguments.collector = true,
                "--rounds" => {
                    let count = given.next().context("--rounds needs a number")?;
                    arguments.rounds = Some(count.parse().with_context(|| format!("--rounds {count}"))?);
                }
                row if known().any(|name| name.starts_with(row)) => arguments.rows.push(argument),
                other => {
                    let names: Vec<_> = known().collect();
                    bail!("no row is called {other}: there are {}", names.join(", "));
                }
            }
        }
        Ok(arguments)
    }

    fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| name.starts_with(row.as_str()))
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name).chain(OTHERS)
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::read(std::env::args().skip(1))?;
    let binaries = Binaries::find(arguments.collector)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let mut machine = report::machine();
    machine.extend(binaries.versions());
    process::pin_ourselves()?;
    println!("{}", machine.join("\n"));
    let times = if arguments.quick { QUICK } else { TIMES };
    let mut bench = Bench { binaries, times, report: Report::default() };
    let run = runtime.block_on(run(&mut bench, &arguments));
    let (table, missed) = bench.report.table();
    println!("\n{table}");
    let raw = bench.binaries.root().join("target/load/report.json");
    bench.report.save(&raw, &machine)?;
    println!("every round's values: {}", raw.display());
    run?;
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(bench: &mut Bench, arguments: &Arguments) -> anyhow::Result<()> {
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { ROUNDS });
    // One run that fails says nothing about the others: all are tried, and the whole fails in the end.
    let mut failures = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for row in ROWS.iter().filter(|row| arguments.wants(row.name)) {
            failures.extend(bench.way(row).await.err());
        }
        if arguments.wants("append") {
            failures.extend(bench.append().await.context("append").err());
        }
        if arguments.wants("idle") {
            failures.extend(bench.idle().await.context("idle").err());
        }
        if arguments.wants("start") {
            failures.extend(bench.start().await.context("start").err());
        }
        if arguments.wants("link") {
            failures.extend(bench.link().await.context("link").err());
        }
    }
    // Minutes long, and a bound on memory rather than a rate: once is enough.
    if arguments.wants("overload") {
        for storage in [Storage::Memory, Storage::Disk] {
            failures.extend(
                bench.overload(storage).await.with_context(|| format!("overload {}", storage.name())).err(),
            );
        }
    }
    if arguments.wants("targets") {
        failures.extend(bench.targets().await.context("targets").err());
    }
    if arguments.wants("fleet") {
        failures.extend(bench.fleet().await.context("fleet").err());
    }
    if failures.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = failures.iter().map(|failure| format!("{failure:#}")).collect();
    bail!("{} runs failed:\n{}", told.len(), told.join("\n---\n"))
}

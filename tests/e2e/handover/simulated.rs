//! The sessions of agents and of a collector as they are, on wires and in a time that are not: ten minutes of faults in a moment,
//! the same ones again under the same seed.
//!
//! ```text
//! three agents, each a log, leases and its session ──▶ wires: late, standing still, cut, half open ──▶ registry, sessions, one log with its marks
//! ```
//!
//! Whoever dies keeps what the daemon has on disk then, and nothing else. `WEIR_SEED` says with which seed to begin, `WEIR_SEEDS` how
//! many are run; a failure names its seed.

use std::time::Duration;

use weir_link::limits::FENCED_WAIT;

use self::world::{Rules, World};
use crate::record::{Line, record};
use crate::run::figure;

mod agent;
mod collector;
mod wire;
mod world;

const SEEDS: usize = 200;

/// How long things go wrong, in the time of the simulation.
const LASTS: Duration = Duration::from_secs(600);

/// Once everybody is welcome again, everything is delivered within this (`facts/reliability.md` 4.3).
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// What was seen over all seeds.
#[derive(Debug, Default)]
struct Totals {
    deaths: [u64; 2],
    faults: u64,
    records: u64,
    again: u64,
    longest: Duration,
}

/// Scenario: for each seed ten minutes in which three agents are given records, some of which are never taken, and some not always; wires are late, stand
/// still in one direction or both, are cut, or for one end only; pushes are dropped; agents and collector stop or die, with what they
/// had not written. Then all is well.
/// Guarantees: what an agent holds for acknowledged is in the collector's log at that moment; in the end every record that can be taken
/// is there once, what cannot was refused alone; nobody takes a new life, as no folder was copied; whoever was cut off is welcome again
/// within two and a half heartbeats and a fenced one's wait, everything is delivered two minutes later.
#[test]
fn under_every_seed_each_record_is_there_once() {
    let (first, seeds): (u64, usize) = (figure("WEIR_SEED", 1), figure("WEIR_SEEDS", SEEDS));
    let mut totals = Totals::default();
    for seed in first..first + seeds as u64 {
        let run = std::panic::catch_unwind(|| run(seed, Rules::default()));
        let Ok(world) = run else {
            panic!("seed {seed} (WEIR_SEED={seed} WEIR_SEEDS=1): what it says stands above")
        };
        world.add_to(&mut totals);
    }
    let Totals { deaths: [agents, collectors], faults, records, again, longest } = totals;
    let figures = format!(
        "{agents} deaths of agents, {collectors} of the collector, {faults} faults of wires, {records} records, {again} of them came again; 0 \
         missing, 0 twice; welcome {:.1} s after the last fault at the latest",
        longest.as_secs_f64(),
    );
    eprintln!("simulated: {seeds} seeds from {first}, {figures}");
    record(&Line {
        rows: "6",
        story: "simulated: three agents, one collector",
        cycles: seeds,
        figures,
        seed: first,
    });
}

/// Scenario: the same with a collector that does not look at its marks; with one that writes its marks after it has said so; with
/// one that acknowledges before it has stored, or forgets what it has refused; with agents that forget what was refused.
/// Guarantees: each of them is found out within the seeds that run at every change.
#[test]
fn whoever_breaks_a_rule_is_found_out() {
    let controls = [
        Rules { deduplicates: false, ..Rules::default() },
        Rules { marks_at_once: false, ..Rules::default() },
        Rules { stores_first: false, ..Rules::default() },
        Rules { remembers_rejections: false, ..Rules::default() },
        Rules { agents_remember: false, ..Rules::default() },
    ];
    for rules in controls {
        let found = (1..=SEEDS as u64).find(|seed| std::panic::catch_unwind(|| run(*seed, rules)).is_err());
        let seed = found.unwrap_or_else(|| panic!("{rules:?} was not found out by {SEEDS} seeds"));
        eprintln!("simulated, negative control: {rules:?} is found out by seed {seed}");
    }
}

fn run(seed: u64, rules: Rules) -> World {
    let mut world = World::new(seed, rules);
    let end = world.now + LASTS;
    while world.now < end {
        world.something_happens();
        world.step();
    }
    world.heal();
    let healed = world.now;
    let welcome_within = world.heartbeat * 5 / 2 + FENCED_WAIT + Duration::from_secs(5);
    while !(world.all_welcome() && world.is_drained()) {
        world.step();
        let (since, all_welcome) = (world.now - healed, world.all_welcome());
        assert!(
            since < world.longest + DRAINED_WITHIN,
            "not everything is delivered after {since:?}: {world:?}"
        );
        assert!(all_welcome || since < welcome_within, "not everybody is welcome after {since:?}: {world:?}");
        if !all_welcome {
            world.longest = since;
        }
    }
    world.assert_exactly_once();
    world
}

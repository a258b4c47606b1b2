//! How long an instance lives, and on which threads its calls run.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use weir_model::{Exporter as _, Outcome};
use weir_plugin::counts::Retirement;
use weir_plugin::{Limits, PluginExporter};

use super::powers::backend;
use super::{Fixture, ended, mode, push, short};

/// The calls that its instance has made, as the guest counts them.
async fn count(counting: &PluginExporter) -> u32 {
    match counting.push(push("one")).await {
        Outcome::Partial { rejected, .. } => rejected,
        other => panic!("no partial but {other:?}"),
    }
}

/// Scenario: instances with a bound on their calls, with one on their age, and with both far away.
/// Guarantees: each is retired after the call that meets its bound, and counted under it; without one it is kept.
#[tokio::test]
async fn an_instance_is_retired_at_its_bounds() {
    let fixture = Fixture::new();
    let few = fixture.hostile_part(mode("count"), |part| part.pool.calls_max = 2).await;
    let short = fixture.hostile_part(mode("count"), |part| part.pool.age_max = Duration::ZERO).await;
    let long = fixture.hostile_part(mode("count"), |_| ()).await;
    for (exporter, counted, retired, made) in
        [(few, [1, 2, 1, 2, 1], (2, 0), 3), (short, [1; 5], (0, 5), 5), (long, [1, 2, 3, 4, 5], (0, 0), 1)]
    {
        for expected in counted {
            assert_eq!(count(&exporter).await, expected);
        }
        let of = |why| exporter.counts().retired.of(why).get();
        assert_eq!((of(Retirement::Calls), of(Retirement::Age)), retired);
        assert_eq!((of(Retirement::Memory), of(Retirement::Idle)), (0, 0));
        assert_eq!(exporter.counts().instances.get(), made);
    }
}

/// Scenario: a guest that computes until its deadline, again and again, on a runtime with one thread.
/// Guarantees: each of its calls leaves that thread, whether it begins there or not, and ends as it would have there.
#[tokio::test]
async fn a_call_that_computes_for_long_runs_elsewhere() {
    let fixture = Fixture::new();
    let looping = fixture
        .hostile_part(mode("loop"), |part| {
            part.limits = Limits { cpu_deadline: Duration::from_millis(50), ..short() };
            part.quarantine.ends_max = 0;
        })
        .await;
    for calls in 1..=4 {
        assert_eq!(ended(looping.push(push("one")).await).0, "cpu_deadline");
        assert_eq!(looping.counts().moved.get(), calls);
    }
    fixture.host.drain().await;
    drop(looping);
    assert_eq!(fixture.ledger.used(), 0);
}

/// Scenario: a guest computes for 50 ms and then sends, three times; another one of the same backend sends at once.
/// Guarantees: requests leave from either place, and their connections serve both.
#[tokio::test]
async fn a_call_that_was_moved_can_send() {
    let mut tasks = JoinSet::new();
    let (origin, seen) = backend(&mut tasks).await;
    let fixture = Fixture::new();
    let settings = |mode: &str| json!({"mode": mode, "endpoint": origin});
    let computing = fixture.hostile(settings("compute-and-send"), Limits::default()).await;
    let quick = fixture.hostile(settings("send"), Limits::default()).await;
    for _ in 0..3 {
        assert_eq!(computing.push(push("one")).await, Outcome::Accepted);
        assert_eq!(quick.push(push("one")).await, Outcome::Accepted);
    }
    // Each, but for one whose thread the system had put aside for the whole of its time.
    assert!(computing.counts().moved.get() > 0);
    assert_eq!(seen.lock().unwrap().len(), 6);
}

//! Ends of instances: what the operator reads, and that the next call finds a fresh instance.

use weir_model::{Exporter as _, Outcome};
use weir_plugin::{EndKind, Limits};

use super::{Fixture, ended, mode, push, short};

/// Runs one mode to its end and checks kind, text and counter.
async fn check_end(name: &str, limits: Limits, kind: EndKind, words: &[&str]) {
    let fixture = Fixture::new();
    let exporter = fixture.hostile(mode(name), limits).await;
    let (found, message) = ended(exporter.push(push("one")).await);
    assert_eq!(found, kind.name(), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(exporter.counts().ends.of(kind).get(), 1);
    assert_eq!(exporter.idle_bytes(), 0);
    drop(exporter);
    fixture.host.drain().await;
    assert_eq!(fixture.ledger.used(), 0, "an ended instance still holds memory");
}

/// Scenario: a guest loops for ever.
/// Guarantees: it ends at its CPU deadline; the error names plugin, version, id, call, delivery and limit; a runtime with
/// one thread goes on meanwhile, for the guest has left that thread.
#[tokio::test]
async fn an_endless_loop_ends_at_the_cpu_deadline() {
    let fixture = Fixture::new();
    let looping = fixture.hostile(mode("loop"), short()).await;
    let other = fixture.hostile(mode("accept"), short()).await;
    let (ended_with, served) = tokio::join!(looping.push(push("one")), async {
        let mut served = 0;
        for n in 0..5 {
            assert_eq!(other.push(push(&n.to_string())).await, Outcome::Accepted);
            served += 1;
        }
        served
    });
    let (kind, message) = ended(ended_with);
    assert_eq!((kind, served), ("cpu_deadline", 5), "{message}");
    assert_eq!(looping.counts().moved.get(), 1);
    for word in [
        "plugin hostile 6.6.6 (hostile/test)",
        "exporter.push of delivery one",
        "computed for longer than cpu_deadline 200ms",
        "endless",
    ] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// Scenario: recursion without end, a panic, an answer of 40 MiB.
/// Guarantees: each is a trap with its cause and the guest's frames.
#[tokio::test]
async fn a_trap_says_what_and_where() {
    check_end("recurse", short(), EndKind::Trap, &["call stack exhausted", "recurse"]).await;
    check_end("panic", short(), EndKind::Trap, &["unreachable", "unreachable_by_design"]).await;
    check_end("long-answer", short(), EndKind::Trap, &["exporter.push"]).await;
}

/// Scenario: a guest allocates until it is refused, against its own limit and against what guests together have of the
/// process's budget.
/// Guarantees: the text says which limit and how much was asked for, and the memory comes back.
#[tokio::test]
async fn memory_ends_at_the_limit() {
    let limits = Limits { memory_bytes: 16 << 20, ..short() };
    check_end("grow", limits, EndKind::MemoryLimit, &["memory limit 16 MiB reached, asked for 17 MiB"]).await;
    // Touching so much memory takes longer than a short deadline on a busy machine.
    let limits = Limits { memory_bytes: 1 << 30, ..Limits::default() };
    let expected =
        ["memory budget of the process (192 MiB) used up", "half of the plugins' part of it (96 MiB)"];
    check_end("grow", limits, EndKind::MemoryLimit, &expected).await;
}

/// Whether an outcome is an end of this kind that may be the records' doing.
fn blames(outcome: &Outcome, expected: EndKind) -> bool {
    match outcome {
        Outcome::Ended { kind, blames_records, .. } if *kind == expected.name() => *blames_records,
        other => panic!("expected {}, found {other:?}", expected.name()),
    }
}

/// Scenario: a push panics; one takes more than half of the memory that plugins have; an instance traps while it is
/// configured; the process has no memory left for a new instance.
/// Guarantees: only the first two may be the records' doing; a shortage of the process puts no id into quarantine, and is
/// counted.
#[tokio::test]
async fn an_end_says_whether_it_may_be_the_records_doing() {
    let fixture = Fixture::new();
    let panics = fixture.hostile(mode("panic"), short()).await;
    assert!(blames(&panics.push(push("one")).await, EndKind::Trap));
    let settings = serde_json::json!({"mode": "trap-at-work", "endpoint": "http://127.0.0.1:9/"});
    let never_works = fixture.hostile(settings, short()).await;
    assert!(!blames(&never_works.push(push("one")).await, EndKind::Trap));

    let accepts = fixture.hostile_part(mode("accept"), |part| part.quarantine.ends_max = 1).await;
    let limits = Limits { memory_bytes: 1 << 30, ..Limits::default() };
    let grow = |part: &mut weir_plugin::Part| part.limits = limits;
    let grows = fixture.hostile_part(mode("grow"), grow).await;
    assert!(blames(&grows.push(push("one")).await, EndKind::MemoryLimit));
    let others = fixture.ledger.claim(fixture.ledger.limit() - fixture.ledger.used()).unwrap();
    for _ in 0..3 {
        assert!(!blames(&accepts.push(push("one")).await, EndKind::MemoryBudget));
    }
    drop(others);
    assert_eq!(accepts.push(push("one")).await, Outcome::Accepted);
    assert_eq!((accepts.quarantine(), accepts.counts().quarantines.get()), (None, 0));
    assert_eq!(accepts.counts().ends.of(EndKind::MemoryBudget).get(), 3);
}

/// Scenario: a guest that loops through host calls which are denied at once.
/// Guarantees: waiting in the host is not charged, but working between the calls is: it ends at the CPU deadline.
#[tokio::test]
async fn host_calls_do_not_prolong_a_guests_life() {
    let limits = Limits { host_calls: u64::MAX, ..short() };
    check_end("send-for-ever", limits, EndKind::CpuDeadline, &["cpu_deadline"]).await;
}

/// Scenario: a guest that makes no end of cheap host calls, one that makes few with long texts, and one that makes as many as it
/// may in each of its calls.
/// Guarantees: the first two end at their limit, long before their deadlines; the last goes on.
#[tokio::test]
async fn host_calls_are_limited_in_each_call() {
    let limits = Limits { host_calls: 1000, ..Limits::default() };
    let words =
        ["exporter.push of delivery one: made more than 1000 host calls (limits.host_calls)", "; in "];
    check_end("clock-for-ever", limits, EndKind::HostCalls, &words).await;
    let limits = Limits { host_calls: 10_000, ..Limits::default() };
    check_end("label-bomb", limits, EndKind::HostCalls, &["made more than 10000 host calls"]).await;
    let fixture = Fixture::new();
    let counting = fixture.hostile(mode("count"), Limits { host_calls: 1, ..Limits::default() }).await;
    for _ in 0..3 {
        assert!(matches!(counting.push(push("one")).await, Outcome::Partial { .. }));
    }
    let counting = fixture.hostile(mode("count"), Limits { host_calls: 0, ..Limits::default() }).await;
    assert_eq!(ended(counting.push(push("one")).await).0, "host_calls");
}

/// Scenario: a plugin ends twenty times in a row, at deliveries with an id that would write lines.
/// Guarantees: the first ten tell its frames, later ones about one each six seconds and else that they do not; all of
/// them tell the delivery, tamed.
#[tokio::test]
async fn frames_are_told_within_a_rate() {
    let fixture = Fixture::new();
    let panics = fixture.hostile_part(mode("panic"), |part| part.quarantine.ends_max = 0).await;
    let started = std::time::Instant::now();
    let mut told = 0;
    for n in 0..20 {
        let (_, message) = ended(panics.push(push("two\nlines")).await);
        assert!(message.contains("of delivery two\\u{a}lines: "), "{message}");
        let tells = message.contains("unreachable_by_design");
        assert!(tells || (n >= 10 && message.contains("frames are left out")), "{message}");
        told += u64::from(tells);
    }
    let earned = started.elapsed().as_secs() / 6;
    assert!((10..=10 + earned).contains(&told), "{told} of 20 told their frames");
}

/// Scenario: a guest counts its calls; another traps at the first attempt.
/// Guarantees: an instance that behaves is used again; after an end the next call has a fresh one.
#[tokio::test]
async fn after_an_end_the_instance_is_fresh() {
    let fixture = Fixture::new();
    let counting = fixture.hostile(mode("count"), short()).await;
    for expected in 1..=3 {
        let Outcome::Partial { rejected, message } = counting.push(push("id-1")).await else {
            panic!("no partial")
        };
        assert_eq!(rejected, expected);
        assert!(message.starts_with("id-1 "), "{message}");
    }
    assert_eq!(counting.counts().instances.get(), 1);
    let trapping = fixture.hostile(mode("trap-once"), short()).await;
    assert_eq!(ended(trapping.push(push("one")).await).0, "trap");
    let second = weir_model::Push { attempt: 2, ..push("one") };
    assert_eq!(trapping.push(second).await, Outcome::Accepted);
    assert_eq!(trapping.counts().instances.get(), 2);
    assert_eq!(trapping.counts().calls.get(), 2);
    let counted: Vec<_> =
        trapping.counts().outcomes.iter().filter(|(_, pushes, _)| pushes.get() > 0).collect();
    let counted: Vec<_> =
        counted.iter().map(|(name, pushes, items)| (*name, pushes.get(), items.get())).collect();
    assert_eq!(counted, [("accepted", 1, 7), ("ended", 1, 7)]);
}

/// Scenario: instances have more than half of the memory that they may have.
/// Guarantees: each is retired after its call, so that a guest's memory, which never shrinks, comes back.
#[tokio::test]
async fn a_grown_instance_is_not_kept() {
    let fixture = Fixture::new();
    let limits = Limits { memory_bytes: 2 << 20, ..short() };
    let counting = fixture.hostile(mode("count"), limits).await;
    for _ in 0..3 {
        let Outcome::Partial { rejected, .. } = counting.push(push("one")).await else {
            panic!("no partial")
        };
        assert_eq!((rejected, counting.idle_bytes()), (1, 0));
    }
    assert_eq!(counting.counts().instances.get(), 3);
    assert_eq!(fixture.ledger.used(), 0);
}

/// Scenario: a caller stops waiting for a guest that is in the middle of its call.
/// Guarantees: the call is cut long before its deadlines, and its memory comes back.
#[tokio::test]
async fn a_push_that_nobody_waits_for_is_cut() {
    let fixture = Fixture::new();
    let hour = std::time::Duration::from_secs(3600);
    let limits = Limits { cpu_deadline: hour, call_deadline: hour, ..Limits::default() };
    let looping = fixture.hostile(mode("loop"), limits).await;
    let left = tokio::time::timeout(std::time::Duration::from_millis(20), looping.push(push("one"))).await;
    assert!(left.is_err());
    fixture.host.drain().await;
    assert_eq!(looping.counts().ends.of(EndKind::Cut).get(), 1);
    drop(looping);
    assert_eq!(fixture.ledger.used(), 0);
}

/// Scenario: a backend has told a guest the secret of its id, and the guest says it wherever it can.
/// Guarantees: what an operator reads has no secret in it.
#[tokio::test]
async fn what_a_guest_says_has_no_secret_in_it() {
    let fixture = Fixture::new();
    let settings = serde_json::json!({"mode": "say", "key": "hunter2", "target": "401 for hunter2"});
    let says = fixture.hostile(settings, Limits::default()).await;
    assert_eq!(says.push(push("one")).await, Outcome::Permanent("401 for [secret]".into()));
    let series = says.meter().read();
    assert_eq!(series[0].0.labels, [("what".to_owned(), "401 for [secret]".to_owned())]);
}

/// Scenario: an answer full of escapes; floods of log lines and of label sets.
/// Guarantees: what reaches the log and the meter is tame and bounded, and what is left out is counted.
#[tokio::test]
async fn what_a_guest_says_is_tamed() {
    let fixture = Fixture::new();
    let odd = fixture.hostile(mode("odd-answer"), short()).await;
    let Outcome::Permanent(text) = odd.push(push("one")).await else { panic!("not permanent") };
    assert!(text.len() < 8 * 1024 && !text.contains('\u{1b}') && !text.contains('\n'), "{text:?}");
    let long = Limits::default();
    let logging = fixture.hostile(mode("log-flood"), long.clone()).await;
    assert_eq!(logging.push(push("one")).await, Outcome::Accepted);
    assert!(logging.counts().log_lines_suppressed.get() > 9_000);
    let metering = fixture.hostile(mode("label-flood"), long).await;
    assert_eq!(metering.push(push("one")).await, Outcome::Accepted);
    assert_eq!(metering.meter().read().len(), 500);
    assert_eq!(metering.counts().meter_suppressed.get(), 9_500);
}

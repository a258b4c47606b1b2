//! An id whose instances end too often: what its callers are told, and how it comes back.

use std::time::Duration;

use weir_model::{Exporter as _, HttpReceiver as _, Outcome, Push, Reason, Refusal, http};
use weir_plugin::{Part, QuarantineSettings};

use super::{Fixture, ended, mode, push};

/// Two ends within an hour.
fn quarantine(first: Duration) -> QuarantineSettings {
    let hour = Duration::from_secs(3600);
    QuarantineSettings { ends_max: 2, window: hour, first, longest: first }
}

/// Scenario: an exporter's instances end twice, pushes come in quarantine, one of them in a search; then an operator
/// releases it.
/// Guarantees: a push in quarantine costs no instance and says why and for how long; a search goes on; after the release
/// the next push is tried.
#[tokio::test]
async fn pushes_in_quarantine_wait() {
    let fixture = Fixture::new();
    let minute = Duration::from_secs(60);
    let panics = fixture.hostile_part(mode("panic"), |part| part.quarantine = quarantine(minute)).await;
    let searching = Push { searching: true, ..push("one") };
    for push in [searching.clone(), push("one"), searching.clone(), push("one")] {
        assert_eq!(panics.quarantine(), None);
        ended(panics.push(push).await);
    }
    for _ in 0..3 {
        let Outcome::Retryable { message, after } = panics.push(push("one")).await else {
            panic!("it was pushed")
        };
        for words in [
            "plugin hostile of id hostile/test is in quarantine for another",
            "2 instances ended",
            "by_design",
        ] {
            assert!(message.contains(words), "{words:?} is not in {message:?}");
        }
        assert!(after.unwrap() <= minute, "{after:?}");
    }
    assert_eq!(panics.counts().instances.get(), 4);
    ended(panics.push(searching).await);
    assert_eq!(panics.counts().quarantines.get(), 1);
    assert_eq!(panics.counts().quarantined.get(), 1);
    assert!(panics.release());
    assert_eq!((panics.quarantine(), panics.counts().quarantined.get()), (None, 0));
    ended(panics.push(push("one")).await);
}

/// Scenario: the quarantine's time is over; the first push that tries ends, the second one is answered.
/// Guarantees: the first makes it longer, the second ends it.
#[tokio::test]
async fn an_answer_ends_the_quarantine() {
    let fixture = Fixture::new();
    let trapping =
        fixture.hostile_part(mode("trap-once"), |part| part.quarantine = quarantine(Duration::ZERO)).await;
    for quarantines in [0, 1, 2] {
        ended(trapping.push(push("one")).await);
        assert_eq!(trapping.counts().quarantines.get(), quarantines);
    }
    assert_eq!(trapping.quarantine().unwrap().tries, 1);
    assert_eq!(trapping.push(Push { attempt: 2, ..push("one") }).await, Outcome::Accepted);
    assert_eq!(trapping.quarantine(), None);
}

/// Scenario: a receiver's instances end twice, then a request comes.
/// Guarantees: the sender is told to come again when the quarantine is over, and no instance is made.
#[tokio::test]
async fn senders_are_told_to_come_again() {
    let fixture = Fixture::new();
    let quarantine = quarantine(Duration::from_secs(60));
    let part = Part { quarantine, ..Part::new("hostile", mode("panic")) };
    let receiver = fixture.load("hostile").await.receiver(part).unwrap();
    let request =
        || http::Request { method: "POST".into(), target: "/".into(), headers: vec![], body: "x".into() };
    for expected in [1..=1, 1..=1, 2..=60] {
        let Err(Refusal::Transient { retry_after, reason, .. }) = receiver.receive("main", request()).await
        else {
            panic!("not refused for now")
        };
        assert!(expected.contains(&retry_after.unwrap().as_millis().div_ceil(1000)), "{retry_after:?}");
        assert_eq!(reason, Reason::PluginEnded);
    }
    assert_eq!(receiver.counts().instances.get(), 2);
    assert!(receiver.quarantine().is_some() && receiver.release());
}

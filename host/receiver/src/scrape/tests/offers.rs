//! What becomes of batches that the pipeline refuses, and of targets whose answers end the plugin.

use super::*;

/// A span that is valid, and one without ids.
fn spans() -> Bytes {
    let valid = [&[0x0a, 16][..], &[1; 16], &[0x12, 8], &[2; 8]].concat();
    let of = |span: &[u8]| {
        let mut body = span.to_vec();
        for tag in [0x12, 0x12, 0x0a] {
            body = [&[tag, body.len() as u8][..], &body].concat();
        }
        body
    };
    Bytes::from([of(&valid), of(&[])].concat())
}

impl Site {
    fn making(makes: Vec<(Signal, Bytes)>) -> Self {
        let site = Self::serve(vec![one("live")], Reader::making(makes), Arc::default(), Legacy::default());
        *site.pipe.is_full.lock().unwrap() = true;
        site
    }

    /// Lets time go on until the pipeline has been asked so many times.
    async fn asked(&self, times: usize) {
        while *self.pipe.asked.lock().unwrap() < times {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn dropped(&self, signal: Signal, reason: Reason) -> u64 {
        self.of_receiver.dropped.of(signal, reason).get()
    }
}

/// Scenario: the pipeline is full, and the plugin has made two batches; then there is no room in memory for what waits, and then for
/// nothing at all.
/// Guarantees: both are paid for while the first waits, and until they are taken; what cannot be paid for does not wait, and is
/// counted with that reason; the room of small requests is not for what waits.
#[tokio::test(start_paused = true)]
async fn what_waits_is_paid_for() {
    let site = Site::making(vec![(Signal::Metrics, gauge()), (Signal::Metrics, gauge())]);
    site.asked(3).await;
    assert_eq!(site.ledger.used(), 2 * gauge().len() as u64);
    *site.pipe.is_full.lock().unwrap() = false;
    site.asked(5).await;
    site.pipe.taken.lock().unwrap().clear();
    assert_eq!(site.ledger.used(), 0);

    let large = site.ledger.claim(weir_net::budget::large_bytes_max(site.ledger.limit())).unwrap();
    site.asked(7).await;
    site.pipe.taken.lock().unwrap().clear();
    *site.pipe.is_full.lock().unwrap() = true;
    site.asked(9).await;
    pass(2).await;
    assert_eq!(*site.pipe.asked.lock().unwrap(), 9, "they are not offered again");
    assert_eq!(site.dropped(Signal::Metrics, Reason::MemoryFull), 2);
    assert_eq!(site.ledger.used(), large.bytes());

    let all = site.ledger.claim(site.ledger.limit() - large.bytes()).unwrap();
    sleep(INTERVAL).await;
    assert_eq!(*site.pipe.asked.lock().unwrap(), 9);
    assert_eq!(site.dropped(Signal::Metrics, Reason::MemoryFull), 4);
    drop((large, all));
    site.end().await;
}

/// Scenario: a batch with a valid and an invalid span is refused until its target's next turn, again and again.
/// Guarantees: each item is counted once, as lost, however often it was offered; nobody's request is counted as refused.
#[tokio::test(start_paused = true)]
async fn each_item_of_a_batch_is_counted_once() {
    let site = Site::making(vec![(Signal::Traces, spans())]);
    sleep(3 * INTERVAL + Duration::from_secs(1)).await;
    let lost = site.dropped(Signal::Traces, Reason::QueueFull);
    assert!((2..=3).contains(&lost), "{lost}");
    assert_eq!(site.dropped(Signal::Traces, Reason::InvalidItem), lost);
    assert!(*site.pipe.asked.lock().unwrap() as u64 > 3 * lost);
    let refused = &site.of_receiver.refused;
    assert!(Reason::ALL.iter().all(|reason| refused.of(Signal::Traces, *reason).get() == 0));
    site.end().await;
}

/// Scenario: a run ends while a batch waits, and there is room two seconds later; another ends and there is none; another is cut.
/// Guarantees: the first batch is taken; the others are lost soon, and counted.
#[tokio::test(start_paused = true)]
async fn a_run_that_ends_offers_what_waits_a_little_longer() {
    let gauges = || vec![(Signal::Metrics, gauge())];
    let site = Site::making(gauges());
    site.asked(2).await;
    site.drain.signal();
    pass(2).await;
    *site.pipe.is_full.lock().unwrap() = false;
    let (pipe, counts) = (Arc::clone(&site.pipe), site.of_receiver.clone());
    site.end().await;
    assert_eq!(pipe.taken.lock().unwrap().len(), 1);
    assert_eq!(counts.dropped.of(Signal::Metrics, Reason::QueueFull).get(), 0);

    let site = Site::making(gauges());
    site.asked(2).await;
    let (counts, began) = (site.of_receiver.clone(), Instant::now());
    site.end().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(counts.dropped.of(Signal::Metrics, Reason::QueueFull).get(), 1);

    let site = Site::making(gauges());
    site.asked(2).await;
    site.serving.abort();
    pass(1).await;
    assert_eq!(site.dropped(Signal::Metrics, Reason::Draining), 1);
}

/// Scenario: the answer of one target ends the plugin each time it is read, that of another does not; then the plugin's code is
/// replaced.
/// Guarantees: the first is fetched ever more seldom, and meanwhile the plugin is told that there is no answer; the other is read in
/// every turn; other code reads the first in the next turn.
#[tokio::test(start_paused = true)]
async fn a_target_that_ends_the_plugin_is_held_back() {
    let site = Site::of(vec![job(vec!["fatal:1".to_owned(), "live:1".to_owned()])]);
    let fetched = |host: &str| {
        let begun = site.fetch.begun.lock().unwrap();
        begun.iter().filter(|(target, _)| target.contains(host)).count() as u64
    };
    while site.reader.told("fatal").len() < 10 {
        sleep(INTERVAL / 15).await;
    }
    // Held back for one, two, four turns, and in the next time of eight.
    assert_eq!(fetched("fatal"), 4);
    assert!(site.reader.told("fatal").iter().all(|told| matches!(told, Told::Read { is_up: false, .. })));
    assert_eq!(site.counts.failed(FailureKind::Plugin).get(), 4);
    assert_eq!(site.counts.late(LateKind::PluginEnded).get(), 10);
    let live = site.reader.told("live");
    assert!(live.len() >= 13 && live.len() as u64 == fetched("live"), "{}", live.len());
    *site.reader.generation.lock().unwrap() = 1;
    sleep(INTERVAL).await;
    assert_eq!(fetched("fatal"), 5);
    site.end().await;
}

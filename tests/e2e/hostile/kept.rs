//! A plugin that ends again and again is kept from work, and an operator lets it work again.

use std::time::Duration;

use weir_tests::{Answer, BatchId, OtlpSink, Profile, Protocol, Sender, Shape, Verdict, Weir, wait_until};

use super::counted;
use super::stage::Stage;
use crate::run::{PENDING, command, deadline};

/// A quarantine that does not end within this story by itself.
const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  hostile/kept:
    plugin: hostile
    settings: {mode: send-or-panic, endpoint: 'http://<shaky>/v1/traces'}
    quarantine: {ends: 3, window: 1m, first: 1h, longest: 1h}
    retry: {initial_interval: 50ms, max_interval: 200ms}
  otlp: {endpoint: 'http://<steady>'}
service:
  plugin_dir: FOLDER
  pipelines:
    traces: {receivers: [otlp], exporters: [hostile/kept, otlp]}
";

const SHAPE: Shape = Shape { spans: 5, attributes: 1, value_bytes: 8 };

const BATCHES: u64 = 40;

/// Everything that was sent, each span once.
fn has_all(sink: &OtlpSink) -> Option<()> {
    (sink.spans().len() == BATCHES as usize * usize::from(SHAPE.spans)).then_some(())
}

/// Scenario: a plugin panics at whatever it is given, beside an exporter that does not; then its backend is mended, and an
/// operator releases it.
/// Guarantees: after some ends it is kept from work, and log, list, health and figures say so, why, and what to do; the
/// exporter beside it gets everything; nothing is given up for it. Released, it delivers all that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_ends_again_and_again_is_kept_from_work_until_it_is_released() {
    let stage = Stage::set().await;
    let (shaky, steady) = (OtlpSink::start().await, OtlpSink::start().await);
    shaky.answer(|_| Answer::Later { retry_after: None });
    let config = CONFIG.replace("FOLDER", &stage.plugins().display().to_string());
    let known = [("shaky", shaky.address()), ("steady", steady.address())];
    let weir = Weir::start_within(Profile::Same, &[], &config, &known).await;
    for announced in
        ["plugin instance ended", "plugin in quarantine", "backend refuses for now", "id=hostile/kept"]
    {
        weir.log().announce(announced);
    }
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    for number in 0..BATCHES {
        assert_eq!(sender.send(BatchId { sender: 1, number }, SHAPE).await, Verdict::Taken);
    }

    let soon = deadline(Duration::from_secs(10));
    let words =
        ["ERROR plugin in quarantine", "id=hostile/kept", "ends=3", "weir plugin release hostile/kept"];
    wait_until(soon, "the plugin is kept from work", || weir.log().find(&words)).await;
    wait_until(soon, "the other exporter delivers", || has_all(&steady)).await;
    let line = weir.log().find(&words).expect("it was found above");
    eprintln!("--- log\n{line}");
    assert!(line.contains("unreachable_by_design") && line.contains("hostile 6.6.6"), "{line}");
    let (binary, data) = (weir.binary().to_owned(), weir.data_dir());
    let data = data.to_str().expect("a path of ours");
    let listed = command(&binary, &["plugin", "list", "--data-dir", data]).await.well().text();
    eprintln!("--- weir plugin list\n{listed}");
    for word in ["exporter hostile/kept", "in quarantine for another", "3 instances ended within 60 s"] {
        assert!(listed.contains(word), "no {word:?} in {listed}");
    }
    let (status, health) = weir.health().await;
    eprintln!("--- health {status}\n{health:#}");
    assert!(health.to_string().contains("in quarantine for another"), "{health:#}");
    let page = weir.metrics().await;
    let figure = |page, name, kind| counted(page, "exporters/hostile/kept", name, kind);
    let ends = figure(&page, "ends", "trap");
    assert!(ends >= 3.0 && figure(&page, "quarantined", "") == 1.0, "{ends} ends");

    shaky.answer(|_| Answer::Take);
    let released = command(&binary, &["plugin", "release", "hostile/kept", "--data-dir", data]).await;
    assert_eq!(released.well().text(), "released\n");
    wait_until(soon, "what was kept back is delivered", || has_all(&shaky)).await;
    weir.metric_becomes(soon, PENDING, &[], 0.0).await;
    let page = weir.metrics().await;
    assert_eq!((figure(&page, "ends", "trap"), figure(&page, "quarantined", "")), (ends, 0.0));
    let listed = command(&binary, &["plugin", "list", "--data-dir", data]).await.well().text();
    assert!(listed.contains("serving") && !listed.contains("quarantine"), "{listed}");
    weir.stop().await;
}

//! One exporter in trouble beside another that is not.

use std::time::Duration;

use weir_tests::{Answer, Harvest, OtlpSink, Protocol, Shape, Weir, wait_until};

use crate::load::{Book, Load, crew};
use crate::run::{DELIVERY_DEADLINE, deadline};

const SHAPE: Shape = Shape { spans: 10, attributes: 2, value_bytes: 10 };

const BATCHES: usize = 300;

/// How soon everything is at a backend that is not in trouble.
const FLOWS: Duration = Duration::from_secs(10);

const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}, http: {endpoint: <otlp-http>}}}
exporters:
  otlp/well: {endpoint: 'http://<well>', retry: {initial_interval: 10ms, max_interval: 100ms}}
  otlp/ill: {endpoint: 'http://<ill>', timeout: 1s, retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp/well, otlp/ill]}
";

/// Scenario: one of two backends hangs, refuses for now, answers slowly, in turn.
/// Guarantees: the other gets everything meanwhile; the first gets everything in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_does_not_hold_up_another() {
    let hour = Duration::from_secs(3600);
    let troubles = [
        ("hangs", Answer::After(hour, Box::new(Answer::Take))),
        ("refuses", Answer::Later { retry_after: None }),
        ("is slow", Answer::After(Duration::from_millis(500), Box::new(Answer::Take))),
    ];
    let (well, ill) = (OtlpSink::start().await, OtlpSink::start().await);
    let weir = Weir::start(CONFIG, &[("well", well.address()), ("ill", ill.address())]).await;
    weir.log().announce("backend refuses for now");
    let book = Book::default();
    let mut crew = crew(&weir, &[Protocol::OtlpGrpc, Protocol::OtlpHttp], 2);
    let (mut at_well, mut at_ill) = (Harvest::default(), Harvest::default());
    for (what, answer) in troubles {
        ill.answer(move |_| answer.clone());
        let load = Load::start(crew, SHAPE, None, &book);
        book.reaches(book.ledger.batches() + BATCHES).await;
        crew = load.stop().await;
        wait_until(deadline(FLOWS), &format!("everything is at the other while one {what}"), || {
            gather(&well, &mut at_well);
            at_well.missing(&book.ledger).is_empty().then_some(())
        })
        .await;
    }
    ill.answer(|_| Answer::Take);
    wait_until(DELIVERY_DEADLINE, "everything is at the one that was in trouble", || {
        gather(&ill, &mut at_ill);
        at_ill.missing(&book.ledger).is_empty().then_some(())
    })
    .await;
    at_well.assert_keeps(&book.ledger);
    at_ill.assert_keeps(&book.ledger);
    assert_eq!(at_well.repeated(), 0, "nothing in trouble, nothing twice");
    weir.stop().await;
}

fn gather(sink: &OtlpSink, harvest: &mut Harvest) {
    sink.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
}

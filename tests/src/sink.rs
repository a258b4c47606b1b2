//! Backends, with answers as a test says.

mod answer;
mod backend;
mod lines;
mod otlp;
mod requests;
mod zipkin;

pub use answer::{Answer, Transport};
pub use lines::{LineAnswer, LineArrival, LineSink};
pub use otlp::{Arrival, OtlpSink, SeenLog, SeenMetric, SeenSpan, grpc_path};
pub use requests::{RequestArrival, RequestSink};
pub use zipkin::{ZipkinArrival, ZipkinSink};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message;
    use weir_proto::google::rpc;
    use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceResponse;
    use weir_wire::Signal;

    use super::{Answer, OtlpSink, ZipkinSink, grpc_path};
    use crate::client::{Grpc, HttpClient};
    use crate::{BatchId, Protocol, Sender, Shape, Verdict};

    const ID: BatchId = BatchId { sender: 1, number: 1 };
    const SHAPE: Shape = Shape { spans: 2, attributes: 1, value_bytes: 1 };

    /// Scenario: a backend gives each of its answers, over gRPC and over HTTP.
    /// Guarantees: each is what the protocol has for it, and only what is taken counts as seen.
    #[tokio::test]
    async fn a_backend_answers_as_it_is_told() {
        let sink = OtlpSink::start().await;
        let body = ID.encode(SHAPE, Protocol::OtlpGrpc);
        let mut grpc = Grpc::connect(sink.address()).await.expect("it listens");
        let http = HttpClient::default();
        let wait = Some(Duration::from_secs(7));
        let partly = Answer::TakePartly { rejected: 1, why: "one is bad".to_owned() };
        let slow = Answer::After(Duration::from_millis(1), Box::new(Answer::Take));
        for (answer, code, status) in [
            (Answer::Take, 0, 200),
            (slow, 0, 200),
            (partly, 0, 200),
            (Answer::Later { retry_after: wait }, 14, 503),
            (Answer::Never("no".to_owned()), 3, 400),
            (Answer::TooLarge, 8, 413),
            (Answer::Unauthorized, 16, 401),
        ] {
            let told = answer.clone();
            sink.answer(move |_| told.clone());
            let outcome = grpc.call(grpc_path(Signal::Traces), &body).await.expect("it answers");
            let post = http.post(sink.address(), "/v1/traces", "application/x-protobuf", body.clone());
            let response = post.await.expect("it answers");
            assert_eq!((outcome.status.code, response.status().as_u16()), (code, status), "{answer:?}");
            if let Answer::TakePartly { .. } = answer {
                let over_grpc =
                    ExportTraceServiceResponse::decode(outcome.replies[0].clone()).expect("an answer");
                let over_http = ExportTraceServiceResponse::decode(response.into_body()).expect("an answer");
                assert_eq!(over_grpc, over_http);
                assert_eq!(over_grpc.partial_success.map(|partial| partial.rejected_spans), Some(1));
            } else if let Answer::Later { .. } = answer {
                assert_eq!(response.headers()["retry-after"], "7");
                let details = rpc::Status::decode(outcome.status.details).expect("a status").details;
                let info = rpc::RetryInfo::decode(&*details[0].value).expect("a retry info");
                assert_eq!(info.retry_delay.map(|delay| delay.seconds), Some(7));
            }
        }
        assert_eq!(sink.arrivals().len(), 14);
        assert_eq!(sink.spans().len(), 2 * 6);
    }

    /// Scenario: a backend goes away and comes back; a sender tries before, between and after.
    /// Guarantees: the sender meets silence and nothing else, under one and the same address.
    #[tokio::test]
    async fn a_backend_goes_away_and_comes_back() {
        let sink = OtlpSink::start().await;
        for protocol in [Protocol::OtlpGrpc, Protocol::OtlpHttp] {
            let mut sender = Sender::new(protocol, sink.address());
            assert_eq!(sender.send(ID, SHAPE).await, Verdict::Taken);
            sink.down().await;
            let verdict = sender.send(ID, SHAPE).await;
            assert!(matches!(verdict, Verdict::Silence(_)), "{verdict:?}");
            sink.up().await;
            assert_eq!(sender.send(ID, SHAPE).await, Verdict::Taken);
        }
    }

    /// Scenario: Zipkin spans that are right, and one that no Zipkin takes.
    /// Guarantees: the first are taken, the other is refused and complained of.
    #[tokio::test]
    async fn a_zipkin_backend_is_as_strict_as_the_real_one() {
        let sink = ZipkinSink::start().await;
        let mut sender = Sender::new(Protocol::Zipkin, sink.address());
        assert_eq!(sender.send(ID, SHAPE).await, Verdict::Taken);
        assert_eq!(sink.spans().len(), 2);
        let upper = r#"[{"traceId":"48485A3953BB6124","id":"48485a3953bb6124"}]"#;
        let verdict = sender.send_encoded(upper.into()).await;
        assert!(matches!(verdict, Verdict::Never(_)), "{verdict:?}");
        assert_eq!(sink.complaints().len(), 1);
    }
}

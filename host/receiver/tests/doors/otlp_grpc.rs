//! Port 4317 beyond the contract: partial success, limits, compression, what is not OTLP.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status};
use weir_model::{Reason, Signal};
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::collector::trace::v1::trace_service_client::TraceServiceClient;
use weir_receiver::{Behind, Pipelines};

use crate::harness::{Say, Scripted, Served, config, eventually, post, serve_otlp, traces};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Sends and receives bytes as they are.
#[derive(Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

async fn channel(served: &Served) -> Channel {
    Channel::from_shared(format!("http://{}", served.addr("otlp/grpc"))).unwrap().connect().await.unwrap()
}

/// Sends one message and gives the answer, both as bytes.
pub(crate) async fn call(
    served: &Served,
    path: &'static str,
    body: impl Into<Bytes>,
    encoding: Option<CompressionEncoding>,
) -> Result<Bytes, Status> {
    let mut client = Grpc::new(channel(served).await);
    if let Some(encoding) = encoding {
        client = client.send_compressed(encoding);
    }
    client.ready().await.unwrap();
    let request = tonic::Request::new(body.into());
    client.unary(request, PathAndQuery::from_static(path), Raw).await.map(tonic::Response::into_inner)
}

fn serve_all(consumer: &std::sync::Arc<Scripted>) -> Served {
    serve_otlp(config(), Pipelines::all(std::sync::Arc::clone(consumer) as _), 64 << 20)
}

/// Scenario: five spans, two of them with a trace id of zeros.
/// Guarantees: three go on, byte for byte; the sender hears how many did not and why; the two are counted as dropped.
#[tokio::test]
async fn invalid_spans_are_left_out_and_reported() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let mut client = TraceServiceClient::new(channel(&served).await);
    let partial = client.export(traces(3, 2)).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    let expected = "2 of 5 spans left out: 2 with trace id is not 16 bytes or is all zeros (first at byte ";
    assert!(partial.error_message.starts_with(expected), "{}", partial.error_message);
    let arrivals = consumer.taken();
    assert_eq!(ExportTraceServiceRequest::decode(&*arrivals[0].body).unwrap(), traces(3, 0));
    assert_eq!(arrivals[0].items, 3);
    assert_eq!(served.counts.accepted.of(Signal::Traces).get(), 3);
    assert_eq!(served.counts.dropped.of(Signal::Traces, Reason::InvalidItem).get(), 2);
}

/// Scenario: a request without spans, and one of which no span is valid.
/// Guarantees: both are a success (OTLP, "empty request"), the second with the number left out; the pipeline is not
/// asked, because nothing is promised.
#[tokio::test]
async fn nothing_to_keep_is_a_success() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let mut client = TraceServiceClient::new(channel(&served).await);
    let empty = client.export(ExportTraceServiceRequest::default()).await.unwrap().into_inner();
    assert_eq!(empty.partial_success, None);
    let none_valid = client.export(traces(0, 4)).await.unwrap().into_inner();
    assert_eq!(none_valid.partial_success.unwrap().rejected_spans, 4);
    assert_eq!(consumer.arrivals_seen(), 0);
    assert_eq!(served.counts.dropped.of(Signal::Traces, Reason::InvalidItem).get(), 4);
}

/// Scenario: the same request plain, in gzip and in zstd.
/// Guarantees: the same bytes reach the pipeline.
#[tokio::test]
async fn compressed_requests_are_the_same_requests() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let body = traces(200, 0).encode_to_vec();
    for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let answer = call(&served, TRACES, body.clone(), encoding).await.unwrap();
        assert_eq!(answer, Bytes::new());
    }
    let arrivals = consumer.taken();
    assert_eq!(arrivals.len(), 3);
    assert!(arrivals.iter().all(|arrival| arrival.body == body));
}

/// Scenario: a message over the limit of one MiB, plain and as a bomb of a few kilobytes in gzip and zstd; more spans
/// than a request may have.
/// Guarantees: RESOURCE_EXHAUSTED without a delay each time, so that senders do not try again; memory stays bounded.
#[tokio::test]
async fn what_is_too_large_is_not_worth_a_second_try() {
    let consumer = Scripted::saying([]);
    let mut config = config();
    config.limits.items_max = 100;
    let served = serve_otlp(config, Pipelines::all(std::sync::Arc::clone(&consumer) as _), 64 << 20);
    let large = vec![0; (1 << 20) + 1];
    for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let refused = call(&served, TRACES, large.clone(), encoding).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{encoding:?}: {}", refused.message());
        assert!(refused.details().is_empty());
        assert!(refused.message().starts_with("grpc: "), "{}", refused.message());
    }
    assert!(served.ledger.peak() < 4 << 20);
    let refused = call(&served, TRACES, traces(101, 0).encode_to_vec(), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("100"), "{}", refused.message());
    assert_eq!(consumer.arrivals_seen(), 0);
    assert_eq!(served.counts.requests_refused.get(), 4);
    assert_eq!(served.ledger.used(), 0);
}

/// Scenario: bytes that are no request, a request cut in the middle, a method that does not exist, a signal without a
/// pipeline, and HTTP that is no gRPC.
/// Guarantees: each gets the status that tells the sender what it did.
#[tokio::test]
async fn what_is_not_otlp_is_refused_by_its_status() {
    let consumer = Scripted::saying([]);
    let pipelines = Pipelines { traces: Some(std::sync::Arc::clone(&consumer) as _), ..Pipelines::default() };
    let served = serve_otlp(config(), pipelines, 64 << 20);
    let whole = traces(10, 0).encode_to_vec();
    for broken in [&b"\xff\xff\xff"[..], &whole[..whole.len() - 1], &[0x0a, 0x7f, 0x00]] {
        let refused = call(&served, TRACES, broken.to_vec(), None).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{}", refused.message());
        assert!(refused.message().contains("byte"), "{}", refused.message());
    }
    let refused =
        call(&served, "/opentelemetry.proto.collector.trace.v1.TraceService/Import", whole.clone(), None)
            .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let refused = call(&served, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", vec![], None)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(
        refused.message(),
        "no pipeline takes logs from otlp/test; add otlp/test to the receivers of a logs pipeline"
    );
    let answer =
        post(served.addr("otlp/grpc"), TRACES, &[("content-type", "application/x-protobuf")], whole).await;
    assert_eq!(answer.status, 415);
    assert_eq!(consumer.arrivals_seen(), 0);
}

/// Scenario: many requests at once on one connection.
/// Guarantees: every one is answered, and none is lost or doubled.
#[tokio::test]
async fn requests_on_one_connection_do_not_disturb_each_other() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let channel = channel(&served).await;
    let requests: Vec<_> = (1..=100)
        .map(|count| {
            let mut client = TraceServiceClient::new(channel.clone());
            tokio::spawn(async move { client.export(traces(count, 0)).await })
        })
        .collect();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    let mut items: Vec<u32> = consumer.taken().iter().map(|arrival| arrival.items).collect();
    items.sort_unstable();
    assert_eq!(items, (1..=100).collect::<Vec<u32>>());
}

/// Scenario: a request is under way when what is behind its door is exchanged; the next comes over the same connection;
/// then nothing is behind the door any more.
/// Guarantees: the first ends with what it was given, the second goes to the new pipeline, the third is refused for good,
/// and the connection is one.
#[tokio::test]
async fn what_is_behind_an_open_door_can_be_exchanged() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let old = Scripted::saying([Say::Hold(std::sync::Arc::clone(&gate))]);
    let new = Scripted::saying([]);
    let behind = Behind::from(Pipelines::all(std::sync::Arc::clone(&old) as _));
    let served = serve_otlp(config(), behind.clone(), 64 << 20);
    let client = TraceServiceClient::new(channel(&served).await);
    let first = tokio::spawn({
        let mut client = client.clone();
        async move { client.export(traces(1, 0)).await }
    });
    eventually("the first request is under way", || old.arrivals_seen() == 1).await;
    behind.exchange(Pipelines::all(std::sync::Arc::clone(&new) as _));
    client.clone().export(traces(1, 0)).await.unwrap();
    assert_eq!((old.arrivals_seen(), new.arrivals_seen()), (1, 1));
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    behind.exchange(Pipelines::default());
    let refused = client.clone().export(traces(1, 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{}", refused.message());
    assert_eq!(served.counts.streams.get(), 1, "one connection");
    assert_eq!(served.counts.accepted.of(Signal::Traces).get(), 2);
}

//! What a stream promises: who speaks, in which order, and how it ends.

use std::time::Instant;

use tokio::sync::Semaphore;
use tonic::Code;
use weir_model::Signal;
use weir_proto::opencensus::proto::agent::metrics::v1::metrics_service_client::MetricsServiceClient;
use weir_proto::opencensus::proto::agent::trace::v1::CurrentLibraryConfig;
use weir_proto::opencensus::proto::trace::v1::trace_config::Sampler;
use weir_proto::opencensus::proto::trace::v1::{ProbabilitySampler, TraceConfig};
use weir_proto::opentelemetry::proto::collector::trace::v1::trace_service_client;

use super::*;

const VIOLATION: &str = "protocol violation: Export's first message must have a Node";

/// Scenario: a proxy sends for several nodes on one stream: an initiating node, spans without, node 1, spans without,
/// node 2, spans without, twice (`TestExportMultiplexing`).
/// Guarantees: each span belongs to the node that was said last, and each node has its row, its lane and its count.
#[tokio::test]
async fn spans_belong_to_the_node_that_was_said_last() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("initiating"), ..OcTraces::default() }).await;
    stream.send(spans(&["i"])).await;
    stream.send(OcTraces { node: node("one"), ..spans(&["1a"]) }).await;
    stream.send(spans(&["1b", "1c"])).await;
    stream.send(OcTraces { node: node("two"), ..spans(&["2a"]) }).await;
    stream.send(spans(&["2b", "2c"])).await;
    stream.send(spans(&["2d", "2e"])).await;
    stream.finish().await.unwrap();
    let mut told = std::collections::BTreeMap::<_, (Vec<String>, Vec<_>)>::new();
    for (arrival, group) in consumer.arrivals().iter().zip(consumer.groups()) {
        let of_node = told.entry(attribute(&group, "service.name").unwrap()).or_default();
        of_node.0.extend(group.scope_spans[0].spans.iter().map(|span| span.name.clone()));
        of_node.1.push(arrival.node.unwrap());
    }
    let names: Vec<_> =
        told.iter().map(|(node, (names, _))| format!("{node}: {}", names.join(" "))).collect();
    assert_eq!(names, ["initiating: i", "one: 1a 1b 1c", "two: 2a 2b 2c 2d 2e"]);
    for (name, (_, ids)) in &told {
        assert!(ids.iter().all(|id| *id == weir_model::Node::of_process(name, 7, 0, name, "").id));
    }
    assert_eq!((served.accepted(), served.nodes.list(Instant::now()).len()), (9, 3));
    served.end().await;
}

/// Scenario: the first message has spans and no node (`TestExportProtocolViolations_nodelessFirstMessage`).
/// Guarantees: the stream ends at once with the reference server's status and text, nothing is taken, the spans are
/// counted, and a later message finds no stream.
#[tokio::test]
async fn a_first_message_without_a_node_ends_the_stream() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(spans(&["a", "b"])).await;
    let status = stream.ended().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, VIOLATION));
    let sender = stream.sender.take().unwrap();
    eventually("the client sees that the stream is gone", || sender.is_closed()).await;
    let refused = served.counts.refused.of(Signal::Traces, Reason::NoNode).get();
    assert_eq!((refused, consumer.seen(), served.counts.requests_refused.get()), (2, 0, 0));
    let mut client = MetricsServiceClient::new(served.channel().await);
    let mut replies = client.export(stream::iter([gauge(1)])).await.unwrap().into_inner();
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, VIOLATION));
    drop((stream, client, replies));
    served.end().await;
}

/// Scenario: the first message has an empty node; one has a node alone; one has node and spans; one nothing at all.
/// Guarantees: an empty node is a node, spans of a first message are taken, and messages without items are none.
#[tokio::test]
async fn an_empty_node_is_a_node_and_an_empty_message_is_nothing() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: Some(Node::default()), ..spans(&["first"]) }).await;
    stream.send(OcTraces { node: node("a"), ..OcTraces::default() }).await;
    stream.send(OcTraces::default()).await;
    stream.send(spans(&["last"])).await;
    stream.finish().await.unwrap();
    assert_eq!(consumer.names(), ["first", "last"]);
    assert_eq!((served.accepted(), served.counts.requests.get()), (2, 4));
    let mut nodes_alone = served.export().await;
    nodes_alone.send(OcTraces { node: node("a"), ..OcTraces::default() }).await;
    nodes_alone.finish().await.unwrap();
    drop((stream, nodes_alone));
    served.end().await;
}

/// Scenario: a node with three attributes more than a resource may have, said alone (Go, Java); then two messages of spans.
/// Guarantees: what was cut of it is counted, once.
#[tokio::test]
async fn what_is_cut_of_a_node_is_counted_once_when_it_is_said() {
    let mut config = config();
    config.items.attributes_max = 4;
    let served = serve_with(config, Pipelines::all(Scripted::saying([])));
    let mut stream = served.export().await;
    let attributes = (0..7).map(|number| (number.to_string(), String::new())).collect();
    let node = Some(Node { attributes, ..Node::default() });
    stream.send(OcTraces { node, ..OcTraces::default() }).await;
    for _ in 0..2 {
        stream.send(spans(&["s"])).await;
    }
    stream.finish().await.unwrap();
    assert_eq!((served.accepted(), served.losses.attributes_cut.get()), (2, 3));
    drop(stream);
    served.end().await;
}

/// Scenario: a client opens a stream and ends it without a word.
/// Guarantees: it hears what the reference server says.
#[tokio::test]
async fn a_stream_without_a_message_ends_as_the_reference_server_ends_it() {
    let served = serve(&Scripted::saying([]));
    let mut stream = served.export().await;
    let status = stream.finish().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "EOF"));
    drop(stream);
    served.end().await;
}

/// Scenario: two nodes take turns on one stream, a resource is said once, then another, then an empty one.
/// Guarantees: the resource carries over from message to message and from node to node.
#[tokio::test]
async fn the_resource_carries_over() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    let message = |node, resource| OcTraces { node, resource, ..spans(&["s"]) };
    stream.send(message(node("a"), resource("1"))).await;
    stream.send(message(node("b"), None)).await;
    stream.send(message(None, resource("2"))).await;
    stream.send(message(node("a"), None)).await;
    stream.send(message(None, Some(Resource::default()))).await;
    stream.finish().await.unwrap();
    let told: Vec<_> = consumer
        .groups()
        .iter()
        .map(|group| {
            let text = |key| attribute(group, key).unwrap_or_default();
            format!("{} {}", text("service.name"), text("label"))
        })
        .collect();
    assert_eq!(told, ["a 1", "b 1", "b 2", "a 2", "a "]);
    drop(stream);
    served.end().await;
}

/// Scenario: a batch is on its way to the disk when the client ends its side.
/// Guarantees: the stream ends with OK only after the receipt, and not before.
#[tokio::test]
async fn ok_is_said_only_after_the_receipt() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["s"]) }).await;
    stream.sender = None;
    eventually("the batch reaches the pipeline", || consumer.seen() == 1).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(
            futures_util::poll!(Box::pin(stream.replies.message())).is_pending(),
            "ended without a receipt"
        );
    }
    assert_eq!(served.accepted(), 0);
    gate.add_permits(1);
    stream.ended().await.unwrap();
    assert_eq!(served.accepted(), 1);
    drop(stream);
    served.end().await;
}

/// Scenario: the disk is slow while a library sends message after message.
/// Guarantees: a bounded number is under way, the rest waits with the sender, and all arrive in their order.
#[tokio::test]
async fn a_slow_disk_is_felt_as_flow_control_and_order_is_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::always(Say::Hold(Arc::clone(&gate)));
    let served = serve(&consumer);
    let mut stream = served.export().await;
    let names: Vec<String> = (0..40).map(|number| format!("span {number}")).collect();
    for name in &names {
        stream.send(OcTraces { node: node("a"), ..spans(&[name]) }).await;
    }
    eventually("the bound is reached", || consumer.seen() == 8).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(consumer.seen(), 8, "more is under way than the bound allows");
    gate.add_permits(names.len());
    stream.finish().await.unwrap();
    assert_eq!(consumer.names(), names);
    drop(stream);
    served.end().await;
}

/// Scenario: the queue is full for a moment.
/// Guarantees: the message is tried again and taken, the messages behind it wait, and the library notices nothing.
#[tokio::test]
async fn a_refusal_for_a_moment_is_waited_out() {
    let consumer = Scripted::saying([Say::Take, Say::ForNow, Say::ForNow, Say::Take]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["1"]) }).await;
    stream.send(spans(&["2"])).await;
    stream.send(spans(&["3"])).await;
    stream.finish().await.unwrap();
    assert_eq!(consumer.names(), ["1", "2", "2", "2", "3"]);
    assert_eq!((served.accepted(), served.refused(Reason::QueueFull)), (3, 0));
    drop(stream);
    served.end().await;
}

/// Scenario: the queue stays full for longer than a library should wait.
/// Guarantees: the stream ends with UNAVAILABLE after three seconds, nothing behind the message was read, and what
/// was refused is counted.
#[tokio::test]
async fn a_lasting_refusal_ends_the_stream_with_unavailable() {
    let consumer = Scripted::always(Say::ForNow);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    let started = Instant::now();
    stream.send(OcTraces { node: node("a"), ..spans(&["1", "2"]) }).await;
    stream.send(spans(&["3"])).await;
    let status = stream.ended().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the queue is full"));
    let waited = started.elapsed();
    assert!(
        (Duration::from_millis(2900)..Duration::from_secs(10)).contains(&waited),
        "ended after {waited:?}"
    );
    assert!(consumer.names().iter().all(|name| name != "3"), "read on while the queue was full");
    assert_eq!((served.refused(Reason::QueueFull), served.accepted()), (2, 0));
    assert_eq!(served.nodes.list(Instant::now())[0].refusals, 1);
    drop(stream);
    served.end().await;
}

/// Scenario: a batch is on its way when the queue becomes full and stays so; the next one is read meanwhile.
/// Guarantees: the stream ends with UNAVAILABLE, and the items of both are counted, although the pipeline saw one only.
#[tokio::test]
async fn a_message_behind_a_lasting_refusal_is_counted_with_it() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::always(Say::ForNow);
    consumer.script.lock().unwrap().push_back(Say::HoldThenRefuse(Arc::clone(&gate)));
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["1"]) }).await;
    eventually("the first is on its way", || consumer.seen() == 1).await;
    gate.add_permits(1);
    stream.send(spans(&["2", "2"])).await;
    eventually("the second is read", || served.counts.requests.get() == 2).await;
    let status = stream.ended().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the queue is full"));
    assert!(consumer.names().iter().all(|name| name == "1"), "the second overtook the first");
    assert_eq!((served.refused(Reason::QueueFull), served.accepted()), (3, 0));
    assert_eq!((served.counts.requests_refused.get(), served.nodes.list(Instant::now())[0].refusals), (0, 2));
    drop(stream);
    served.end().await;
}

/// Scenario: the memory budget is used up for longer than a library should wait.
/// Guarantees: the stream ends with UNAVAILABLE, and the items that could not be translated are counted.
#[tokio::test]
async fn a_message_without_memory_for_its_translation_is_counted() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["first"]) }).await;
    eventually("the first is taken", || served.accepted() == 1).await;
    // Room for the message as it comes, and not for what it becomes.
    let message = spans(&["2", "2"]);
    let room = message.encoded_len() as u64 + 32;
    let kept = served.ledger.used();
    let hog = served.ledger.claim(served.ledger.limit() - kept - room).unwrap();
    stream.send(message).await;
    assert_eq!(stream.ended().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!((served.refused(Reason::MemoryFull), served.counts.requests_refused.get()), (2, 0));
    drop((stream, hog));
    served.end().await;
}

/// Scenario: a client opens streams of both kinds and says nothing on them, until it gets no more.
/// Guarantees: each is paid for while it lives, all of them together take a quarter of the budget at most, those that are
/// refused are told to come back, and one that ends makes room for another.
#[tokio::test]
async fn a_silent_stream_is_paid_for_and_does_not_take_what_messages_need() {
    const EACH: u64 = 4096;
    let pipelines = Pipelines::all(Scripted::saying([]));
    let served = serve_paid(config(), pipelines, 16 * EACH);
    let channel = served.channel().await;
    let mut exports = vec![export_on(channel.clone()).await, export_on(channel.clone()).await];
    let mut configs = vec![configure(&served, []).await, configure(&served, []).await];
    assert_eq!(served.ledger.used(), 4 * EACH);
    let mut client = TraceServiceClient::new(channel.clone());
    let refused = client.export(stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let refused = client.config(stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    drop((exports.pop(), configs.pop()));
    eventually("two are gone", || served.ledger.used() == 2 * EACH).await;
    exports.push(export_on(channel.clone()).await);
    exports[1].send(OcTraces { node: node("a"), ..spans(&["s"]) }).await;
    eventually("its message is taken", || served.accepted() == 1).await;
    let hog = served.ledger.claim(served.ledger.limit() - served.ledger.used()).unwrap();
    let refused = client.export(stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    drop((exports, configs, client, channel, hog));
    served.end().await;
}

/// Scenario: the pipeline takes a batch, refuses the next for good, takes the third
/// (`TestOCReceiverTrace_HandleNextConsumerResponse`).
/// Guarantees: the stream is read on, the two are taken, the one is counted, and the end says UNKNOWN with the reason.
#[tokio::test]
async fn a_refusal_for_good_is_told_at_the_end() {
    let consumer = Scripted::saying([Say::Take, Say::ForGood, Say::Take]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["1"]) }).await;
    stream.send(spans(&["2", "2"])).await;
    stream.send(spans(&["3"])).await;
    let status = stream.finish().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "never this"));
    assert_eq!((served.accepted(), served.refused(Reason::Rejected)), (2, 2));
    drop(stream);
    served.end().await;
}

/// Scenario: spans without ids among good ones; a metric that OTLP cannot say.
/// Guarantees: the good ones are taken, the others are counted as dropped, and the stream ends with OK.
#[tokio::test]
async fn what_otlp_cannot_say_is_left_out_and_counted() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    let useless = Span { span_id: Vec::new(), ..span("no id") };
    let mixed = OcTraces { node: node("a"), spans: vec![span("good"), useless.clone()], resource: None };
    stream.send(mixed).await;
    stream.send(OcTraces { spans: vec![useless], ..OcTraces::default() }).await;
    stream.finish().await.unwrap();
    assert_eq!(consumer.names(), ["good"]);
    let dropped = |signal| served.counts.dropped.of(signal, Reason::InvalidItem).get();
    assert_eq!((served.accepted(), dropped(Signal::Traces)), (1, 2));
    let mut odd = gauge(1);
    odd.node = node("a");
    odd.metrics[0].metric_descriptor.as_mut().unwrap().r#type = 3;
    odd.metrics.extend(gauge(2).metrics);
    let mut client = MetricsServiceClient::new(served.channel().await);
    let mut replies = client.export(stream::iter([odd])).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_none());
    assert_eq!((dropped(Signal::Metrics), served.losses.metrics_untranslatable.get()), (1, 1));
    assert_eq!(served.counts.accepted.of(Signal::Metrics).get(), 1);
    drop((stream, client, replies));
    served.end().await;
}

/// Scenario: a message of one byte more than a mebibyte where one is the limit; the same in gzip.
/// Guarantees: RESOURCE_EXHAUSTED with gRPC's own text, and what was before it on the stream is taken.
#[tokio::test]
async fn a_message_over_the_limit_ends_the_stream() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["before"]) }).await;
    let mut large = spans(&[&"x".repeat(1 << 20)]);
    let excess = large.encoded_len() - (1 << 20) - 1;
    let name = large.spans[0].name.as_mut().unwrap();
    name.value.truncate((1 << 20) - excess);
    assert_eq!(large.encoded_len(), (1 << 20) + 1);
    stream.send(large.clone()).await;
    let status = stream.ended().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "grpc: received message larger than max (1048577 vs. 1048576)");
    assert_eq!(consumer.names(), ["before"]);
    let mut client = TraceServiceClient::new(served.channel().await)
        .send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let first = OcTraces { node: node("a"), ..spans(&["compressed"]) };
    let mut replies = client.export(stream::iter([first, large])).await.unwrap().into_inner();
    let status = replies.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(consumer.names(), ["before", "compressed"]);
    drop((stream, client, replies));
    served.end().await;
}

/// Scenario: more spans in a message than the limit, on a stream that goes on.
/// Guarantees: the message is refused whole and counted, the next one is taken, and the end says why.
#[tokio::test]
async fn a_message_with_too_many_spans_is_refused_and_the_stream_goes_on() {
    let consumer = Scripted::saying([]);
    let mut config = config();
    config.items.items_max = 2;
    let served = serve_with(config, Pipelines::all(consumer.clone()));
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["1", "2", "3"]) }).await;
    stream.send(spans(&["4"])).await;
    let status = stream.finish().await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert!(status.message().contains("more than 2 items"), "{status}");
    assert_eq!(consumer.names(), ["4"]);
    assert_eq!(served.refused(Reason::TooLarge), 3);
    drop(stream);
    served.end().await;
}

/// Scenario: the process drains while a long stream is open and a batch of it is on its way to the disk.
/// Guarantees: the batch is settled, the stream ends with UNAVAILABLE, and the door closes.
#[tokio::test]
async fn a_drain_ends_streams_with_unavailable() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    let mut config_stream = configure(&served, []).await;
    stream.send(OcTraces { node: node("a"), ..spans(&["s"]) }).await;
    eventually("the batch reaches the pipeline", || consumer.seen() == 1).await;
    served.drain.signal();
    gate.add_permits(1);
    assert_eq!(stream.ended().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(config_stream.1.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(served.accepted(), 1);
    drop((stream, config_stream));
    served.end().await;
}

/// Scenario: a batch-per-stream client ends its side just when the drain begins.
/// Guarantees: it hears that its batch was taken.
#[tokio::test]
async fn a_stream_that_ends_during_the_drain_ends_well() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    stream.send(OcTraces { node: node("a"), ..spans(&["s"]) }).await;
    eventually("the batch reaches the pipeline", || consumer.seen() == 1).await;
    stream.sender = None;
    served.drain.signal();
    gate.add_permits(1);
    stream.ended().await.unwrap();
    drop(stream);
    served.end().await;
}

/// A `Config` stream that has sent these messages.
async fn configure(
    served: &Served,
    messages: impl IntoIterator<Item = CurrentLibraryConfig>,
) -> (
    mpsc::Sender<CurrentLibraryConfig>,
    Streaming<weir_proto::opencensus::proto::agent::trace::v1::UpdatedLibraryConfig>,
) {
    let (sender, requests) = requests();
    let replies =
        TraceServiceClient::new(served.channel().await).config(requests).await.unwrap().into_inner();
    for message in messages {
        sender.send(message).await.unwrap();
    }
    (sender, replies)
}

/// Scenario: a library says its node, then its configuration, then another one (Go); one says both and ends (Python); one
/// says no node.
/// Guarantees: the configuration is kept with its node, an ended stream ends with OK, and a node is demanded.
#[tokio::test]
async fn a_librarys_configuration_is_kept_with_its_node() {
    let served = serve(&Scripted::saying([]));
    let config = |share| {
        let sampler = Some(Sampler::ProbabilitySampler(ProbabilitySampler { sampling_probability: share }));
        Some(TraceConfig { sampler, max_number_of_links: 9, ..TraceConfig::default() })
    };
    let node_alone = CurrentLibraryConfig { node: node("go"), config: None };
    let (sender, mut replies) = configure(&served, [node_alone]).await;
    let nodes = Arc::clone(&served.nodes);
    let kept =
        move || nodes.list(Instant::now()).first().and_then(|row| row.config.clone()).unwrap_or_default();
    for share in [0.5, 0.25] {
        sender.send(CurrentLibraryConfig { node: None, config: config(share) }).await.unwrap();
        let expected =
            format!("sampler probability {share}; attributes 0, annotations 0, message events 0, links 9");
        eventually("the configuration is kept", || kept() == expected).await;
    }
    assert_eq!(served.nodes.list(Instant::now())[0].streams, 1);
    drop(sender);
    assert!(replies.message().await.unwrap().is_none());
    let both = CurrentLibraryConfig { node: node("python"), config: config(1.0) };
    let (sender, mut replies) = configure(&served, [both]).await;
    drop(sender);
    assert!(replies.message().await.unwrap().is_none());
    assert_eq!(served.nodes.list(Instant::now()).len(), 2);
    let (_sender, mut replies) =
        configure(&served, [CurrentLibraryConfig { node: None, config: config(1.0) }]).await;
    let status = replies.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.message(), "protocol violation: Config's first message must have a Node");
    drop((_sender, replies));
    served.end().await;
}

/// Scenario: no pipeline takes metrics, or nothing at all; a service that is not here is called.
/// Guarantees: both services are there all the same: what they take is counted as dropped, and the stream ends with
/// OK, because a missing service makes the Go library tear down its connection. Others are UNIMPLEMENTED.
#[tokio::test]
async fn both_services_are_there_without_a_pipeline() {
    let consumer = Scripted::saying([]);
    let pipelines = Pipelines { traces: Some(consumer.clone()), ..Pipelines::default() };
    let served = serve_with(config(), pipelines);
    let channel = served.channel().await;
    let mut client = MetricsServiceClient::new(channel.clone());
    let first = OcMetrics { node: node("a"), ..gauge(1) };
    let mut replies = client.export(stream::iter([first, gauge(2)])).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_none());
    let dropped = served.counts.dropped.of(Signal::Metrics, Reason::NoPipeline).get();
    assert_eq!((dropped, consumer.seen()), (2, 0));
    let mut otlp = trace_service_client::TraceServiceClient::new(channel.clone());
    let status = otlp.export(ExportTraceServiceRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    drop((client, replies, otlp, channel));
    served.end().await;
}

/// Scenario: two streams of one process and one of another; then they end.
/// Guarantees: the table of nodes shows who is there now, and keeps the rows.
#[tokio::test]
async fn the_table_shows_the_streams_of_each_node() {
    let served = serve(&Scripted::saying([]));
    let mut streams = Vec::new();
    for name in ["a", "a", "b"] {
        let stream = served.export().await;
        stream.send(OcTraces { node: node(name), ..OcTraces::default() }).await;
        streams.push(stream);
    }
    let nodes = Arc::clone(&served.nodes);
    let shown = move || {
        let mut rows: Vec<_> =
            nodes.list(Instant::now()).into_iter().map(|row| (row.node.service, row.streams)).collect();
        rows.sort();
        rows
    };
    eventually("all are shown", || shown() == [("a".to_owned(), 2), ("b".to_owned(), 1)]).await;
    assert_eq!(served.counts.streams.get(), 3);
    for mut stream in streams {
        stream.finish().await.unwrap();
    }
    eventually("all are gone", || shown() == [("a".to_owned(), 0), ("b".to_owned(), 0)]).await;
    served.end().await;
}

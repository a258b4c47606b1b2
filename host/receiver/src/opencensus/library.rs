//! A `Config` stream: a library says what its configuration is, now and whenever it changes; we keep it with its node.
//!
//! Nothing is pushed to libraries yet, so the reply has no messages and ends with OK when the library ends its side.

use std::sync::Arc;
use std::time::Instant;

use ::http::{HeaderMap, Response};
use hyper::body::Incoming;
use prost::Message;
use weir_model::Node;
use weir_model::refusal::BoxError;
use weir_net::ReplyBody;
use weir_net::grpc::{self, MessageReader, Status};
use weir_net::listen::Peer;
use weir_proto::opencensus::proto::agent::trace::v1::CurrentLibraryConfig;
use weir_proto::opencensus::proto::trace::v1::TraceConfig;
use weir_proto::opencensus::proto::trace::v1::constant_sampler::ConstantDecision;
use weir_proto::opencensus::proto::trace::v1::trace_config::Sampler;

use super::Door;
use weir_net::open_stream::OpenStream;

use super::sender::{Presence, unread};
use super::translate::Envelope;

/// What a stream is told whose first message has no node.
const VIOLATION: &str = "protocol violation: Config's first message must have a Node";

/// Answers a `Config` request.
pub(super) fn answer(
    door: Arc<Door>,
    headers: &HeaderMap,
    body: Incoming,
    peer: Arc<Peer>,
) -> Response<ReplyBody> {
    let reader = match MessageReader::new(headers, body, door.body, &door.settings.ledger) {
        Ok(reader) => reader,
        Err(status) => return grpc::refuse(&status),
    };
    let open = match OpenStream::open(&door.settings.ledger, door.settings.counts.streams.clone()) {
        Ok(open) => open,
        Err(status) => return grpc::refuse(&status),
    };
    grpc::conversation(move |replies| async move {
        let _open = open;
        let ended = tokio::select! {
            biased;
            ended = listen(&door, reader) => ended,
            () = peer.drain.signaled() => Err(Status::unavailable("this server is draining; connect again")),
        };
        // The reply lives as long as its way to the peer, although nothing is sent on it yet.
        drop(replies);
        ended
    })
}

async fn listen(door: &Arc<Door>, mut reader: MessageReader) -> Result<(), Status> {
    let mut speaks: Option<(Node, Presence)> = None;
    while let Some((message, _claim)) = reader.next().await.map_err(|status| unread(door, status))? {
        door.settings.counts.requests.add(1);
        let said = read(door, &message).inspect_err(|_| door.settings.counts.requests_refused.add(1));
        let (node, config) =
            said.map_err(|error| Status::unknown(format!("malformed CurrentLibraryConfig: {error}")))?;
        if let Some(node) = node
            && speaks.as_ref().is_none_or(|(before, _)| before.id != node.id)
        {
            let presence = Presence::open(&door.nodes, &node);
            speaks = Some((node, presence));
        }
        let Some((node, _)) = &speaks else {
            door.settings.counts.requests_refused.add(1);
            return Err(Status::unknown(VIOLATION));
        };
        // Go opens the stream with its node alone.
        if let Some(config) = &config {
            door.nodes.configured(node, &in_words(config), Instant::now());
        }
    }
    Ok(())
}

/// Node and configuration, where they are there.
fn read(door: &Door, message: &[u8]) -> Result<(Option<Node>, Option<TraceConfig>), BoxError> {
    // The node stands where an export request has it.
    let node = Envelope::open(message)?.node(&door.limits)?;
    Ok((node, CurrentLibraryConfig::decode(message)?.config))
}

/// A configuration for a person: the sampler, then the four limits.
fn in_words(config: &TraceConfig) -> String {
    let sampler = match &config.sampler {
        Some(Sampler::ProbabilitySampler(sampler)) => format!("probability {}", sampler.sampling_probability),
        Some(Sampler::ConstantSampler(sampler)) => match ConstantDecision::try_from(sampler.decision) {
            Ok(ConstantDecision::AlwaysOff) => "always off".to_owned(),
            Ok(ConstantDecision::AlwaysOn) => "always on".to_owned(),
            Ok(ConstantDecision::AlwaysParent) => "as the parent".to_owned(),
            Err(_) => format!("constant {}", sampler.decision),
        },
        Some(Sampler::RateLimitingSampler(sampler)) => format!("{} traces a second", sampler.qps),
        None => "none".to_owned(),
    };
    let TraceConfig {
        sampler: _,
        max_number_of_attributes: attributes,
        max_number_of_annotations: annotations,
        max_number_of_message_events: messages,
        max_number_of_links: links,
    } = config;
    format!(
        "sampler {sampler}; attributes {attributes}, annotations {annotations}, message events {messages}, links {links}"
    )
}

#[cfg(test)]
mod tests {
    use weir_proto::opencensus::proto::trace::v1::{
        ConstantSampler, ProbabilitySampler, RateLimitingSampler,
    };

    use super::*;

    /// Scenario: a configuration with each sampler, one that nobody knows, and none.
    /// Guarantees: a person reads what the library does, limits and all.
    #[test]
    fn a_configuration_is_told_in_words() {
        let told = |sampler| {
            in_words(&TraceConfig {
                sampler,
                max_number_of_attributes: 32,
                max_number_of_annotations: 33,
                max_number_of_message_events: 128,
                max_number_of_links: 129,
            })
        };
        let limits = "attributes 32, annotations 33, message events 128, links 129";
        let constant = |decision| Some(Sampler::ConstantSampler(ConstantSampler { decision }));
        let share = ProbabilitySampler { sampling_probability: 0.25 };
        assert_eq!(
            told(Some(Sampler::ProbabilitySampler(share))),
            format!("sampler probability 0.25; {limits}")
        );
        assert_eq!(told(constant(1)), format!("sampler always on; {limits}"));
        assert_eq!(told(constant(0)), format!("sampler always off; {limits}"));
        assert_eq!(told(constant(2)), format!("sampler as the parent; {limits}"));
        assert_eq!(told(constant(9)), format!("sampler constant 9; {limits}"));
        let rate = RateLimitingSampler { qps: 7 };
        assert_eq!(
            told(Some(Sampler::RateLimitingSampler(rate))),
            format!("sampler 7 traces a second; {limits}")
        );
        assert_eq!(told(None), format!("sampler none; {limits}"));
    }
}

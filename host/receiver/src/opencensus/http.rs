//! `POST /v1/trace` and `/v1/metrics`: one object of JSON a request, which is one message of a stream that has no other.
//!
//! | what happened | status |
//! |---|---|
//! | taken | 200, `application/json`, an empty body, as the reference gateway answers |
//! | no node | 500 with code 2 and the text of the stream, as the reference gateway answers |
//! | no JSON, several objects, values of the wrong kind | 400 with the place; nothing was taken |
//! | refused for now | 503 and Retry-After |
//! | refused for good | 400; 413 where it is too large |
//! | another type than JSON, or none in a page's request | 415: a page could send it without asking |

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use hyper::body::Incoming;
use weir_model::{Claim, Exhausted, Reason, Receipt, Refusal, Signal};
use weir_net::ReplyBody;
use weir_net::body::{discard, read_decoded};
use weir_net::budget;
use weir_net::grpc::Code;
use weir_net::listen::Peer;
use weir_net::reply::{text, typed};
use weir_wire::json::Writer;

use super::Door;
use super::json::to_protobuf;
use super::sender::{Items, Sender, Told};
use crate::reply::{Failure, Form, retry_after};

/// A refused body is read on for so many times the limit before the connection is given up: a page that still writes
/// reads its answer only when it has finished.
const DISCARD_FACTOR: usize = 4;

/// Where the page is that a browser sends for (Fetch Metadata Request Headers).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Answers a request that is not gRPC.
pub(super) async fn answer(door: &Door, request: Request<Incoming>, peer: &Peer) -> Response<ReplyBody> {
    let (head, mut body) = request.into_parts();
    if let Some(answer) = door.cors.as_ref().and_then(|cors| cors.preflight(&head.method, &head.headers)) {
        return answer;
    }
    let mut response = answer_to(door, &head, &mut body, peer).await;
    if !response.status().is_success() {
        let bytes_max = door.body.bytes_max.saturating_mul(DISCARD_FACTOR);
        discard(&head.headers, &mut body, bytes_max, &door.body).await;
    }
    if let Some(cors) = &door.cors {
        cors.mark(&head.headers, &mut response);
    }
    response
}

async fn answer_to(door: &Door, head: &Parts, body: &mut Incoming, peer: &Peer) -> Response<ReplyBody> {
    let signal = match head.uri.path() {
        "/v1/trace" => Signal::Traces,
        "/v1/metrics" => Signal::Metrics,
        "/v1/traces" | "/v1/logs" => {
            return text(
                StatusCode::NOT_FOUND,
                "404 not found: this address speaks OpenCensus; OTLP/HTTP has another\n",
            );
        }
        _ => return text(StatusCode::NOT_FOUND, "404 not found, supported: [/v1/trace, /v1/metrics]\n"),
    };
    if head.method != Method::POST {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed, supported: [POST]\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return refused;
    }
    if !is_json(&head.headers) {
        return text(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "415 unsupported media type, supported: [application/json], or gRPC over HTTP/2\n",
        );
    }
    door.settings.counts.requests.add(1);
    match take(door, signal, head, body, peer).await {
        Ok(proof) => accepted(proof),
        Err(failure) => failed(&failure),
    }
}

/// Whether the body is said to be JSON. A program may leave that out, a web page may not.
///
/// A browser asks for leave before a page may send JSON to us, and sends other types, and bodies without a type, to any
/// address unasked (Fetch standard, "CORS-safelisted request-header"). It says that it is one with either header: `Origin`
/// stands in every POST of a page. As with OTLP/HTTP nothing else is asked about the origin: a page may come to us
/// through a proxy of its own site, which needs no leave.
fn is_json(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_TYPE) {
        Some(of_type) => of_type.to_str().is_ok_and(|name| Form::named(name) == Some(Form::Json)),
        None => !headers.contains_key(header::ORIGIN) && !headers.contains_key(SEC_FETCH_SITE),
    }
}

/// Takes the one message of a request.
async fn take(
    door: &Door,
    signal: Signal,
    head: &Parts,
    body: &mut Incoming,
    peer: &Peer,
) -> Result<Option<Receipt>, Failure> {
    let counts = &door.settings.counts;
    let (message, claim) =
        read(door, signal, head, body).await.inspect_err(|_| counts.requests_refused.add(1))?;
    let mut sender = Sender::new(signal);
    let told = sender.tells(door, &message, peer).await;
    let told = told.map_err(|refusal| {
        sender.refused_whole(door, refusal.reason(), &message);
        failure_of(&refusal)
    })?;
    drop((message, claim));
    let Told::Items(Items { arrival, left_out }) = told else { return Ok(None) };
    let Some(consumer) = door.settings.pipelines.of(signal) else { return Ok(None) };
    let (items, left_out) = (u64::from(arrival.items), u64::from(left_out));
    match consumer.consume(arrival).await {
        Ok(proof) => {
            counts.accepted.of(signal).add(items);
            counts.dropped.of(signal, Reason::InvalidItem).add(left_out);
            Ok(Some(proof))
        }
        Err(refusal) => {
            counts.refused.of(signal, refusal.reason()).add(items + left_out);
            sender.refused(door);
            Err(failure_of(&refusal))
        }
    }
}

/// The request's protobuf.
async fn read(
    door: &Door,
    signal: Signal,
    head: &Parts,
    body: &mut Incoming,
) -> Result<(Bytes, Claim), Failure> {
    let ledger = &door.settings.ledger;
    let read = read_decoded(&head.headers, body, &door.body, ledger).await;
    let (json, _claim) = read.map_err(|error| Failure::of_body(&error))?;
    let no_memory = |error: Exhausted| Failure::for_now(error.to_string(), None);
    // Protobuf is shorter than its JSON but for lists of small numbers; what it really takes is claimed below.
    let mut paid = budget::claim(ledger, json.len() as u64).map_err(no_memory)?;
    let message = to_protobuf(signal, &json).map_err(|error| {
        let explained = format!("the body is not one object of OpenCensus JSON: {error}");
        Failure::for_good(StatusCode::BAD_REQUEST, Code::InvalidArgument, explained)
    })?;
    let length = message.capacity() as u64;
    paid.shrink_to(length);
    let more = length.saturating_sub(paid.bytes());
    budget::grow(ledger, &mut paid, more).map_err(no_memory)?;
    Ok((Bytes::from(message), paid))
}

fn failure_of(refusal: &Refusal) -> Failure {
    match refusal.reason() {
        Reason::NoNode => {
            Failure::for_good(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, refusal.explain())
        }
        _ => Failure::of_refusal(refusal),
    }
}

/// The only way to success: made of the proof, or of nothing where the request had no items.
fn accepted(_proof: Option<Receipt>) -> Response<ReplyBody> {
    typed(StatusCode::OK, "application/json", "")
}

/// An error as the reference gateway words it.
fn failed(failure: &Failure) -> Response<ReplyBody> {
    let mut json = Writer::with_capacity(2 * failure.message.len() + 64);
    json.raw(r#"{"error":"#);
    json.string(&failure.message);
    json.raw(r#","message":"#);
    json.string(&failure.message);
    json.raw(format!(r#","code":{}}}"#, failure.code as i32));
    let mut response = typed(failure.status, "application/json", json.into_bytes());
    if let Some(delay) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after(delay));
    }
    response
}

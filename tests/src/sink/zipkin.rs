//! A Zipkin v2 backend, as strict about JSON as the reference server.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::answer::{Answer, ReplyBody, http_reply};
use super::backend::Backend;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct ZipkinArrival {
    /// Its headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
    /// Its spans, as JSON.
    pub spans: Vec<Value>,
    /// When it was there whole.
    pub at: Instant,
    /// Whether the answer was 202.
    pub taken: bool,
}

type Rule = Arc<dyn Fn(&ZipkinArrival) -> Answer + Send + Sync>;

struct Shared {
    rule: Mutex<Rule>,
    arrivals: Mutex<Vec<ZipkinArrival>>,
    complaints: Mutex<Vec<String>>,
}

/// A Zipkin backend. It takes everything that is right until it is told otherwise.
pub struct ZipkinSink {
    shared: Arc<Shared>,
    backend: Backend,
}

impl std::fmt::Debug for ZipkinSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZipkinSink").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl ZipkinSink {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(|_| Answer::Take)),
            arrivals: Mutex::default(),
            complaints: Mutex::default(),
        });
        let for_requests = Arc::clone(&shared);
        let backend = Backend::start(Arc::new(move |request| {
            let shared = Arc::clone(&for_requests);
            Box::pin(async move { shared.answer(request).await })
        }));
        Self { backend: backend.await, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// From now on it answers right requests by this rule.
    pub fn answer(&self, rule: impl Fn(&ZipkinArrival) -> Answer + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// Goes away: refuses connections, drops those that are there.
    pub async fn down(&self) {
        self.backend.down().await;
    }

    /// Comes back under the same address.
    pub async fn up(&self) {
        self.backend.up().await;
    }

    /// Every right request so far, taken or not.
    pub fn arrivals(&self) -> Vec<ZipkinArrival> {
        self.shared.arrivals().clone()
    }

    /// Every right request so far, which it then forgets.
    pub fn drain(&self) -> Vec<ZipkinArrival> {
        std::mem::take(&mut *self.shared.arrivals())
    }

    /// The spans that it took.
    pub fn spans(&self) -> Vec<Value> {
        self.shared.arrivals().iter().filter(|a| a.taken).flat_map(|a| a.spans.clone()).collect()
    }

    /// What was wrong with requests, each with its body.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn arrivals(&self) -> MutexGuard<'_, Vec<ZipkinArrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST || head.uri.path() != "/api/v2/spans" {
            return self.complain(format!("{} {}", head.method, head.uri));
        }
        let Ok(body) = body.collect().await else {
            return http_reply(StatusCode::BAD_REQUEST, "text/plain", "the body broke off".into());
        };
        let (body, spans) = match read(&head.headers, body.to_bytes()) {
            Ok(read) => read,
            Err(why) => return self.complain(why),
        };
        let mut arrival =
            ZipkinArrival { headers: head.headers, body, spans, at: Instant::now(), taken: false };
        let rule = Arc::clone(&self.rule.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = rule(&arrival);
        arrival.taken = answer.takes();
        let answer = answer.due().await;
        self.arrivals().push(arrival);
        answer.over_http(StatusCode::ACCEPTED, "text/plain", Bytes::new())
    }

    fn complain(&self, why: String) -> Response<ReplyBody> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(why.clone());
        http_reply(StatusCode::BAD_REQUEST, "text/plain", why.into())
    }
}

fn read(headers: &HeaderMap, body: Bytes) -> Result<(Bytes, Vec<Value>), String> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = if header("content-encoding").contains("gzip") {
        let mut inflated = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(&*body).read_to_end(&mut inflated);
        read.map_err(|error| format!("Cannot gunzip spans: {error}"))?;
        Bytes::from(inflated)
    } else {
        body
    };
    let spans = match header("content-type").split(';').next().unwrap_or_default() {
        "application/json" => {
            serde_json::from_slice::<Vec<Value>>(&body).map_err(|error| error.to_string())?
        }
        "application/x-protobuf" => protobuf::spans(body.clone())?,
        other => return Err(format!("no such content type: {other:?}")),
    };
    for span in &spans {
        check(span).map_err(|why| format!("{why} in {span}"))?;
    }
    Ok((body, spans))
}

/// What the reference server and its API's description ask of a span.
fn check(span: &Value) -> Result<(), String> {
    let fields = span.as_object().ok_or("no object")?;
    for (key, value) in fields {
        match key.as_str() {
            "traceId" => hex(key, value, &[16, 32])?,
            "id" | "parentId" => hex(key, value, &[16])?,
            "kind" => {
                let known = ["CLIENT", "SERVER", "PRODUCER", "CONSUMER"];
                value.as_str().filter(|kind| known.contains(kind)).ok_or("no such kind")?;
            }
            // The server makes names lower case itself.
            "name" => {
                value.as_str().ok_or("a name that is no string")?;
            }
            "timestamp" | "duration" => {
                value.as_u64().filter(|time| *time > 0).ok_or(format!("{key} is not positive"))?;
            }
            "localEndpoint" | "remoteEndpoint" => endpoint(value)?,
            "annotations" => {
                value.as_array().ok_or("annotations are no list")?.iter().try_for_each(annotation)?
            }
            "tags" => {
                let tags = value.as_object().ok_or("tags are no object")?;
                tags.values().all(Value::is_string).then_some(()).ok_or("a tag that is no string")?;
            }
            "debug" | "shared" => {
                value.as_bool().ok_or(format!("{key} is no boolean"))?;
            }
            other => return Err(format!("unknown field {other}")),
        }
    }
    ["traceId", "id"]
        .iter()
        .try_for_each(|key| fields.contains_key(*key).then_some(()).ok_or(format!("no {key}")))
}

fn hex(key: &str, value: &Value, lengths: &[usize]) -> Result<(), String> {
    let text = value.as_str().ok_or(format!("{key} is no string"))?;
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = is_lower && lengths.contains(&text.len()) && text.bytes().any(|byte| byte != b'0');
    is_id.then_some(()).ok_or(format!("{key} is no id"))
}

fn endpoint(value: &Value) -> Result<(), String> {
    let fields = value.as_object().filter(|fields| !fields.is_empty()).ok_or("an empty endpoint")?;
    for (key, value) in fields {
        let right = match key.as_str() {
            "serviceName" => value.as_str().is_some_and(|name| !name.is_empty()),
            "ipv4" => value.as_str().is_some_and(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok()),
            "ipv6" => value.as_str().is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            "port" => value.as_u64().is_some_and(|port| (1..=65_535).contains(&port)),
            _ => false,
        };
        right.then_some(()).ok_or(format!("endpoint: {key} is wrong"))?;
    }
    Ok(())
}

fn annotation(value: &Value) -> Result<(), String> {
    let fields = value.as_object().ok_or("an annotation that is no object")?;
    let timestamp = fields.get("timestamp").and_then(Value::as_u64);
    let text = fields.get("value").and_then(Value::as_str);
    (fields.len() == 2 && timestamp.is_some() && text.is_some())
        .then_some(())
        .ok_or("incomplete annotation".to_owned())
}

/// Protobuf spans as the JSON that says the same.
mod protobuf {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use bytes::Bytes;
    use prost::Message;
    use serde_json::{Map, Value, json};
    use weir_proto::zipkin::proto3;

    pub(super) fn spans(body: Bytes) -> Result<Vec<Value>, String> {
        let list = proto3::ListOfSpans::decode(body).map_err(|error| error.to_string())?;
        list.spans.into_iter().map(span).collect()
    }

    fn span(span: proto3::Span) -> Result<Value, String> {
        let kind = proto3::span::Kind::try_from(span.kind).map_err(|_| "no such kind".to_owned())?;
        let mut fields = Map::new();
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("traceId", hex(&span.trace_id).into());
        put("id", hex(&span.id).into());
        if !span.parent_id.is_empty() {
            put("parentId", hex(&span.parent_id).into());
        }
        if kind != proto3::span::Kind::SpanKindUnspecified {
            put("kind", kind.as_str_name().into());
        }
        if !span.name.is_empty() {
            put("name", span.name.into());
        }
        if span.timestamp > 0 {
            put("timestamp", span.timestamp.into());
        }
        if span.duration > 0 {
            put("duration", span.duration.into());
        }
        for (key, found) in [("localEndpoint", span.local_endpoint), ("remoteEndpoint", span.remote_endpoint)]
        {
            if let Some(found) = found {
                put(key, endpoint(&found)?);
            }
        }
        let annotation = |a: proto3::Annotation| json!({"timestamp": a.timestamp, "value": a.value});
        if !span.annotations.is_empty() {
            put("annotations", span.annotations.into_iter().map(annotation).collect());
        }
        if !span.tags.is_empty() {
            put("tags", span.tags.into_iter().map(|(key, value)| (key, Value::from(value))).collect());
        }
        for (key, is_set) in [("debug", span.debug), ("shared", span.shared)] {
            if is_set {
                put(key, true.into());
            }
        }
        Ok(Value::Object(fields))
    }

    fn endpoint(endpoint: &proto3::Endpoint) -> Result<Value, String> {
        let mut fields = Map::new();
        if !endpoint.service_name.is_empty() {
            fields.insert("serviceName".to_owned(), endpoint.service_name.clone().into());
        }
        if !endpoint.ipv4.is_empty() {
            let bytes = <[u8; 4]>::try_from(&*endpoint.ipv4).map_err(|_| "an ipv4 of other than 4 bytes")?;
            fields.insert("ipv4".to_owned(), Ipv4Addr::from(bytes).to_string().into());
        }
        if !endpoint.ipv6.is_empty() {
            let bytes =
                <[u8; 16]>::try_from(&*endpoint.ipv6).map_err(|_| "an ipv6 of other than 16 bytes")?;
            fields.insert("ipv6".to_owned(), Ipv6Addr::from(bytes).to_string().into());
        }
        if endpoint.port != 0 {
            fields.insert("port".to_owned(), endpoint.port.into());
        }
        Ok(Value::Object(fields))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

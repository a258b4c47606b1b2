//! A guest that remembers how much it was given, and says so at each of the doors that a receiver may have, as a reader
//! of targets and as a page. What it is given says what it does: trap, grow, answer out of bounds.
//!
//! Invariant: all that it remembers is one number, the parts of a page, and memory that it was told to take.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use exports::weir::plugin::datagram_receiver::{Batch, Guest as DatagramReceiver};
use exports::weir::plugin::grpc_receiver::{Guest as GrpcReceiver, Received, Status};
use exports::weir::plugin::page::{Delivery, Guest as Page, Outcome, Request, Response};
use exports::weir::plugin::plugin::{Descriptor, Encoding, Guest as Plugin, SettingsError, Signal};
use exports::weir::plugin::scraper::{Fetched, Guest as Scraper, Target};
use weir::plugin::http_client;

wit_bindgen::generate!({
    path: "../../../../../wit",
    inline: "
        package weir:keeper;
        world keeper {
            include weir:plugin/page-plugin@1.0.0;
            include weir:plugin/scraper-plugin@1.0.0;
            import weir:plugin/http-client@1.0.0;
            export weir:plugin/datagram-receiver@1.0.0;
            export weir:plugin/grpc-receiver@1.0.0;
        }
    ",
    world: "weir:keeper/keeper",
    generate_all,
});

struct Keeper;
export!(Keeper);

/// What it was given so far.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// Parts of the page that are left, and the bytes of each.
static PARTS: AtomicUsize = AtomicUsize::new(0);
static PART_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Where nobody listens.
const BACKEND: &str = "http://127.0.0.1:9/";

const SCHEMA: &str = r#"{
    "type": "object", "additionalProperties": false,
    "properties": {
        "key": {"type": "string", "x-weir": "secret"},
        "protocols": {"type": "object", "additionalProperties": false, "properties": {
            "udp": {"type": ["object", "null"], "properties": {"endpoint":
                {"type": "string", "x-weir": {"listen": "udp", "name": "udp"}, "default": "127.0.0.1:6831"}}},
            "grpc": {"type": ["object", "null"], "properties": {"endpoint":
                {"type": "string", "x-weir": {"listen": "grpc", "name": "grpc"}, "default": "127.0.0.1:14250"}}},
            "http": {"type": ["object", "null"], "properties": {"endpoint":
                {"type": "string", "x-weir": {"listen": "http", "name": "http"}, "default": "127.0.0.1:14268"}}}
        }}
    }
}"#;

impl Plugin for Keeper {
    fn describe() -> Descriptor {
        Descriptor {
            name: "keeper".into(),
            version: "1.0.0".into(),
            description: "counts what it was given".into(),
            signals: vec![Signal::Traces, Signal::Metrics],
            encoding: Encoding::Protobuf,
            settings_schema: SCHEMA.into(),
            extra: vec![],
        }
    }

    fn configure(_: String) -> Result<(), Vec<SettingsError>> {
        Ok(())
    }
}

// === receivers ===

impl DatagramReceiver for Keeper {
    fn receive(listener: String, datagram: Vec<u8>) -> Result<Vec<Batch>, String> {
        match &datagram[..] {
            b"trap" => by_design(),
            b"no" => Err("not \u{1b}[31mit".into()),
            b"many" => Ok((0..65).map(|_| batch(Signal::Traces, Vec::new())).collect()),
            b"profiles" => Ok(vec![batch(Signal::Profiles, datagram)]),
            _ => Ok(vec![batch(Signal::Traces, [listener.as_bytes(), b" ", &datagram].concat())]),
        }
    }
}

impl GrpcReceiver for Keeper {
    fn receive(
        listener: String,
        method: String,
        metadata: Vec<(String, String)>,
        message: Vec<u8>,
    ) -> Result<Received, Status> {
        match method.rsplit_once('/').unwrap_or_default() {
            ("/trap", _) => by_design(),
            ("/status", code) => Err(Status { code: number(code), message: "b\u{1b}ad".into() }),
            ("/reply", bytes) => {
                Ok(Received { batches: vec![], rejected: 0, reply: vec![0; number(bytes) as usize] })
            }
            _ => {
                let reply = format!("{listener} {method} {metadata:?}").into_bytes();
                Ok(Received { batches: vec![batch(Signal::Traces, message)], rejected: 1, reply })
            }
        }
    }
}

// === scraper ===

impl Scraper for Keeper {
    fn prepare(target: Target) -> Request {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut request = Request {
            method: "GET".into(),
            target: format!("{}?x=1", target.url),
            headers: vec![header("Accept", "text/plain"), header("Host", "evil.example")],
            body: vec![],
        };
        match target.job.split_once(' ').unwrap_or((&target.job, "")) {
            ("go-to", url) => request.target = url.into(),
            ("method", method) => request.method = method.into(),
            ("body", body) => request.body = body.into(),
            ("headers", count) => request.headers = vec![header("a", "b"); number(count) as usize],
            ("trap", _) => by_design(),
            _ => (),
        }
        request
    }

    fn digest(target: Target, fetched: Fetched) -> Vec<Batch> {
        let Target { job, url, labels } = target;
        if job == "trap" {
            by_design();
        }
        let given = GIVEN.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = match fetched.answer {
            Ok(Response { status, headers, body }) => {
                format!("{status} {headers:?} {}", String::from_utf8_lossy(&body))
            }
            Err(why) => why,
        };
        let Fetched { at, took, .. } = fetched;
        let told = format!("{given}: {job} {url} {labels:?} at {at} took {took}: {answer}");
        let count = if job == "many" { 65 } else { 1 };
        (0..count).map(|_| batch(Signal::Metrics, told.clone().into_bytes())).collect()
    }

    fn forget(target: Target, at: u64) -> Vec<Batch> {
        vec![batch(Signal::Metrics, format!("forget {} at {at}", target.url).into_bytes())]
    }
}

// === page ===

impl Page for Keeper {
    fn absorb(batch: Batch, delivery: Delivery) -> Outcome {
        match std::str::from_utf8(&batch.body).ok().and_then(|body| body.split_once(' ')) {
            Some(("trap", _)) => by_design(),
            Some(("grow", mebibytes)) => take(number(mebibytes)),
            _ => (),
        }
        GIVEN.fetch_add(delivery.items as usize, Ordering::Relaxed);
        Outcome::Accepted
    }

    fn serve(request: Request) -> Response {
        let mut path = request.target.split('/').skip(1);
        let (what, first) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        PARTS.store(0, Ordering::Relaxed);
        let (status, body) = match what {
            "trap" => by_design(),
            "parts" => {
                PARTS.store(number(first) as usize, Ordering::Relaxed);
                let bytes = number(path.next().unwrap_or_default());
                PART_BYTES.store(bytes as usize, Ordering::Relaxed);
                (200, "begin".to_owned())
            }
            "status" => (number(first) as u16, String::new()),
            "send" => (200, send()),
            _ => (200, format!("given {}", GIVEN.load(Ordering::Relaxed))),
        };
        Response { status, headers: vec![("content-type".into(), "text/plain".into())], body: body.into() }
    }

    fn more() -> Vec<u8> {
        match PARTS.load(Ordering::Relaxed) {
            0 => Vec::new(),
            left => {
                PARTS.store(left - 1, Ordering::Relaxed);
                vec![b'x'; PART_BYTES.load(Ordering::Relaxed)]
            }
        }
    }
}

/// What comes of a request of its own.
fn send() -> String {
    let request = Request { method: "GET".into(), target: BACKEND.into(), headers: vec![], body: vec![] };
    match http_client::send(&request, None) {
        Ok(response) => response.status.to_string(),
        Err(error) => format!("{error:?}"),
    }
}

fn batch(signal: Signal, body: Vec<u8>) -> Batch {
    Batch { signal, encoding: Encoding::Protobuf, body }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_default()
}

/// Takes so many MiB and keeps them.
fn take(mebibytes: u32) {
    (0..mebibytes).for_each(|_| {
        black_box(Vec::leak(vec![1_u8; 1 << 20]));
    });
}

#[inline(never)]
fn by_design() -> ! {
    panic!("by design");
}

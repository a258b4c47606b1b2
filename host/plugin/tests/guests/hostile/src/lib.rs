//! A guest that does harm: which, says its setting `mode`.
//!
//! Invariant: does nothing that its settings do not ask for.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use exports::weir::plugin::exporter::{Batch, Delivery, Guest as Exporter, Outcome};
use exports::weir::plugin::http_receiver::{Answer, Guest as HttpReceiver, Received, Request, Response};
use exports::weir::plugin::plugin::{Descriptor, Encoding, Guest as Plugin, SettingsError, Signal};
use weir::plugin::outcomes::{PartialSuccess, Retry};
use weir::plugin::{clock, http_client, log, meter};

wit_bindgen::generate!({
    path: "../../../../../wit",
    inline: "
        package weir:hostile;
        world hostile {
            include weir:plugin/exporter-plugin@1.0.0;
            export weir:plugin/http-receiver@1.0.0;
        }
    ",
    world: "weir:hostile/hostile",
    generate_all,
});

struct Hostile;
export!(Hostile);

static SETTINGS: Mutex<String> = Mutex::new(String::new());
static CALLS: AtomicU32 = AtomicU32::new(0);

/// How many MiB it takes for each; tests write other figures into the component.
const TO_DESCRIBE: &str = "MiB-to-describe:00";
const TO_CONFIGURE: &str = "MiB-to-configure:00";

const SCHEMA: &str = r#"{
    "type": "object", "additionalProperties": false, "required": ["mode"],
    "properties": {
        "mode": {"type": "string"},
        "target": {"type": "string"},
        "endpoint": {"type": "string", "x-weir": "egress"},
        "key": {"type": "string", "x-weir": "secret"},
        "listen": {"type": "string", "x-weir": {"listen": "http", "name": "main"}, "default": "127.0.0.1:9411"}
    }
}"#;

impl Plugin for Hostile {
    fn describe() -> Descriptor {
        take(TO_DESCRIBE);
        Descriptor {
            name: "hostile".into(),
            version: "6.6.6".into(),
            description: "does \u{1b}[31mharm".into(),
            signals: vec![Signal::Traces, Signal::Profiles],
            encoding: Encoding::Protobuf,
            settings_schema: SCHEMA.into(),
            extra: vec![],
        }
    }

    fn configure(settings: String) -> Result<(), Vec<SettingsError>> {
        take(TO_CONFIGURE);
        let mode = setting(&settings, "mode");
        SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&settings);
        match mode.as_str() {
            "refuse" => Err(vec![SettingsError { at: "/mode".into(), message: "not in this mood".into() }]),
            "trap-in-configure" => unreachable_by_design(),
            "trap-at-work" if is_at_work(&settings) => unreachable_by_design(),
            "bomb-at-work" if is_at_work(&settings) => {
                Err(bomb(|at| SettingsError { at, message: String::new() }))
            }
            _ => Ok(()),
        }
    }
}

impl Exporter for Hostile {
    fn push(batch: Batch, delivery: Delivery) -> Outcome {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        match setting(&settings, "mode").as_str() {
            "accept" => Outcome::Accepted,
            "count" => Outcome::Partial(PartialSuccess {
                rejected: calls,
                message: format!("{} {}", delivery.id, clock::now()),
            }),
            "loop" => endless(),
            "recurse" => Outcome::Permanent(recurse(1).to_string()),
            "grow" => grow(),
            "panic" => unreachable_by_design(),
            "trap-once" if delivery.attempt == 1 => unreachable_by_design(),
            "long-answer" => Outcome::Permanent("x".repeat(40 << 20)),
            "not-utf8" => Outcome::Permanent(not_utf8()),
            "odd-answer" => Outcome::Permanent("\u{1b}[31mred\n".repeat(2000)),
            "log-flood" => {
                for n in 0..10_000 {
                    log::write(
                        log::Level::Info,
                        &"line\n\u{1b}[2J".repeat(500),
                        &[("n".into(), n.to_string())],
                    );
                }
                Outcome::Accepted
            }
            // Each message alone is nearly as much as may cross in one call.
            "log-bomb" => {
                let message = "x".repeat(24 << 20);
                (0..100).for_each(|_| log::write(log::Level::Error, &message, &[]));
                Outcome::Accepted
            }
            "log-for-ever" => loop {
                log::write(log::Level::Warn, "again", &[]);
            },
            "clock-for-ever" => loop {
                black_box(clock::now());
            },
            "label-flood" => {
                (0..10_000).for_each(|n| meter::add("flood", 1, &[("n".into(), n.to_string())]));
                Outcome::Accepted
            }
            // As long as the message of a log-bomb, and nobody counts lines here.
            "label-bomb" => {
                let labels = [("n".into(), "x".repeat(24 << 20))];
                (0..100).for_each(|_| meter::add("flood", 1, &labels));
                Outcome::Accepted
            }
            "send" => send(&setting(&settings, "endpoint"), &setting(&settings, "key"), batch.body),
            // The backend decides whether the plugin works.
            "send-or-panic" => match send(&setting(&settings, "endpoint"), "", batch.body) {
                Outcome::Accepted => Outcome::Accepted,
                _ => unreachable_by_design(),
            },
            "send-elsewhere" => send(&setting(&settings, "target"), "", batch.body),
            "wait-for-ever" => loop {
                black_box(send(&setting(&settings, "endpoint"), "", Vec::new()));
            },
            "send-for-ever" => loop {
                black_box(send(&setting(&settings, "target"), "", Vec::new()));
            },
            "say" => {
                let said = setting(&settings, "target");
                log::write(log::Level::Info, &said, &[(said.clone(), said.clone())]);
                meter::add("said", 1, &[("what".into(), said.clone())]);
                Outcome::Permanent(said)
            }
            "compute-and-send" => {
                compute(50_000_000);
                send(&setting(&settings, "endpoint"), "", batch.body)
            }
            _ => Outcome::Accepted,
        }
    }
}

impl HttpReceiver for Hostile {
    fn receive(listener: String, request: Request) -> Answer {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reply = |status, text: &str| Response {
            status,
            headers: vec![("x-listener".into(), listener.clone())],
            body: text.into(),
        };
        match setting(&settings, "mode").as_str() {
            "odd-status" => Answer::Reply(reply(17, "")),
            "odd-header" => Answer::Reply(Response {
                status: 200,
                headers: vec![("a b\r\n".into(), String::new())],
                body: vec![],
            }),
            "panic" => unreachable_by_design(),
            "loop" => {
                endless();
                Answer::Reply(reply(200, "never"))
            }
            "grow" => {
                grow();
                Answer::Reply(reply(200, "never"))
            }
            "long-answer" => Answer::Reply(reply(200, &"x".repeat(40 << 20))),
            "list-bomb" => Answer::Reply(Response {
                status: 200,
                headers: bomb(|text| (text, String::new())),
                body: vec![],
            }),
            "not-utf8" => Answer::Reply(Response {
                status: 200,
                headers: vec![(not_utf8(), String::new())],
                body: vec![],
            }),
            _ if request.method == "GET" => Answer::Reply(reply(404, &request.target)),
            _ => Answer::Telemetry(Received {
                batches: vec![Batch {
                    signal: Signal::Traces,
                    encoding: Encoding::Protobuf,
                    body: request.body,
                }],
                rejected: 2,
                accepted: reply(202, "taken"),
                refused: reply(503, "later"),
            }),
        }
    }
}

fn send(url: &str, key: &str, body: Vec<u8>) -> Outcome {
    let headers = vec![
        ("authorization".to_owned(), format!("Bearer {key}")),
        ("host".to_owned(), "evil.example".to_owned()),
        ("content-type".to_owned(), "application/x-protobuf".to_owned()),
    ];
    let request = http_client::Request { method: "POST".into(), target: url.into(), headers, body };
    match http_client::send(&request, None) {
        Ok(response) if response.status < 300 => Outcome::Accepted,
        Ok(response) => Outcome::Permanent(format!("status {}", response.status)),
        Err(http_client::Error::Denied(why)) => Outcome::Stopped(why),
        Err(error) => Outcome::Retryable(Retry { message: format!("{error:?}"), after_ms: Some(1500) }),
    }
}

/// Whether this instance has powers: one that only checks settings has none, and is told so.
fn is_at_work(settings: &str) -> bool {
    let request = http_client::Request {
        method: "GET".into(),
        target: setting(settings, "endpoint"),
        headers: vec![],
        body: vec![],
    };
    !matches!(http_client::send(&request, Some(1000)), Err(http_client::Error::Denied(_)))
}

/// A list that is one mebibyte here and four gibibytes for whoever takes it at its word: its texts all lie at one place.
fn bomb<T>(item: impl Fn(String) -> T) -> Vec<T> {
    let text: &'static mut str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    let (start, bytes) = (text.as_mut_ptr(), text.len());
    // SAFETY: not sound, and meant so: the first one that is freed takes the others with it. Only this guest is harmed.
    let alias = || unsafe { String::from_raw_parts(start, bytes, bytes) };
    (0..4096).map(|_| item(alias())).collect()
}

/// A text that is none.
fn not_utf8() -> String {
    // SAFETY: not sound, and meant so.
    unsafe { String::from_utf8_unchecked(vec![b'a', 0xff, 0xfe, b'z']) }
}

#[inline(never)]
fn endless() -> Outcome {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Computes for so many nanoseconds, with few calls of the host.
fn compute(nanoseconds: u64) {
    let until = clock::now() + nanoseconds;
    while clock::now() < until {
        (0..20_000_u64).for_each(|n| {
            black_box(n);
        });
    }
}

#[inline(never)]
fn recurse(n: u64) -> u64 {
    if black_box(n) == 0 { 0 } else { recurse(n + 1) + black_box(n) }
}

fn grow() -> Outcome {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Takes as many MiB as the text ends with.
fn take(told: &str) {
    let figure = black_box(told).rsplit(':').next().and_then(|figure| figure.parse().ok());
    (0..figure.unwrap_or(0)).for_each(|_| {
        black_box(Vec::leak(vec![1_u8; 1 << 20]));
    });
}

#[inline(never)]
fn unreachable_by_design() -> ! {
    panic!("by design");
}

/// The string under `key` in a flat JSON object without escapes.
fn setting(settings: &str, key: &str) -> String {
    let Some((_, rest)) = settings.split_once(&format!("\"{key}\":\"")) else {
        return String::new();
    };
    rest.split('"').next().unwrap_or_default().to_owned()
}

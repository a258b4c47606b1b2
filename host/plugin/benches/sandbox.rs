//! The same encoder sandboxed and native: a batch through `zipkin-exporter.wasm`, and through the crate that it is made of.
//!
//! Prints both and exits 1 where the sandbox costs more than the bar allows.

#![expect(clippy::print_stdout, reason = "the comparison is what this program is for")]

#[path = "../build/guests.rs"]
mod guests;

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mimalloc::MiMalloc;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use weir_model::{Exporter as _, Ledger, Push, Signal};
use weir_net::client::{Client, ClientSettings};
use weir_plugin::{Host, HostSettings, Part, PluginExporter};
use weir_wire::Encoder;
use zipkin_exporter::{Format, encode};

/// The daemon's: bodies of hundreds of kilobytes cost the system's a mapping each.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Spans of a push.
const SPANS: u32 = 512;

/// How much slower the sandboxed encoder may be.
const RATIO_MAX: f64 = 1.7;

/// Pushes of one turn, and how often the sides take turns.
const TURN: u32 = 40;
const TURNS: usize = 15;

fn main() -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let wasm = guests::Workspace::new(here.clone(), here.join("target")).build("zipkin-exporter");
    std::fs::write(folder.path().join("zipkin-exporter.wasm"), wasm.expect("the guest builds"))
        .expect("the folder is ours");
    let exporter = exporter(&runtime, folder.path());
    let (batch, single) = (Bytes::from(request(SPANS)), Bytes::from(request(1)));

    let mut sides = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        sides[0].push(turn(|| drop(black_box(encode(black_box(&batch), Format::Json)))));
        sides[1].push(turn(|| push(&runtime, &exporter, &batch)));
        sides[2].push(turn(|| push(&runtime, &exporter, &single)));
    }
    let [native, sandboxed, call] = sides.map(|mut turns| {
        turns.sort_by(f64::total_cmp);
        turns[TURNS / 2]
    });
    let ratio = (sandboxed - call) / native;
    let per_span = |seconds: f64| seconds / f64::from(SPANS) * 1e9;
    println!(
        "sandboxed {:.0} ns a span, native {:.0} ns: {ratio:.2} times (at most {RATIO_MAX}); a push of one span takes {:.1} µs",
        per_span(sandboxed - call),
        per_span(native),
        call * 1e6,
    );
    if ratio <= RATIO_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Nobody listens at port 9: a push ends where the bytes would leave, and what that and the call itself take is known
/// from a push of one span.
fn exporter(runtime: &Runtime, folder: &Path) -> Arc<PluginExporter> {
    let _inside = runtime.enter();
    let ledger = Ledger::new(192 << 20);
    let client = Client::new(ClientSettings::new(Arc::clone(&ledger)));
    let plugin_dir = Some(folder.to_owned());
    let host = Host::new(HostSettings { ledger, client, cache_dir: None, plugin_dir, bundled: &[] })
        .expect("an engine");
    let loaded = runtime.block_on(host.load("zipkin-exporter", None)).expect("it was just built");
    let settings = json!({"endpoint": "http://127.0.0.1:9/"});
    loaded.exporter(Part::new("zipkin", settings)).expect("settings that it knows")
}

fn push(runtime: &Runtime, exporter: &PluginExporter, body: &Bytes) {
    let push = Push {
        signal: Signal::Traces,
        body: body.clone(),
        id: "0".to_owned(),
        attempt: 1,
        items: SPANS,
        places: None,
        searching: false,
    };
    drop(black_box(runtime.block_on(exporter.push(push))));
}

/// Seconds of one call, on average over a turn.
fn turn(mut call: impl FnMut()) -> f64 {
    let since = Instant::now();
    for _ in 0..TURN {
        call();
    }
    since.elapsed().as_secs_f64() / f64::from(TURN)
}

/// Spans of 441 bytes: eight attributes and an event.
fn request(spans: u32) -> Vec<u8> {
    let mut out = Encoder::with_capacity(spans as usize * 512);
    out.message(1, |group| {
        group.message(1, |resource| resource.attribute_str(1, "service.name", "checkout"));
        group.message(2, |scope| {
            for index in 1..=u64::from(spans) {
                scope.message(2, |span| one_span(span, index));
            }
        });
    });
    out.into_bytes()
}

fn one_span(span: &mut Encoder, id: u64) {
    let start = 1_790_000_000_000_000_000 + id * 1000;
    span.bytes(1, (u128::from(id) << 64 | 7).to_be_bytes());
    span.bytes(2, id.to_be_bytes());
    span.bytes(4, (id / 2 + 1).to_be_bytes());
    span.string(5, "GET /api/v1/products");
    span.varint(6, 2);
    span.fixed64(7, start);
    span.fixed64(8, start + 1_500_000);
    for number in 0..8 {
        span.attribute_str(9, format!("key.{number:02}.name"), format!("some value {id:06} {number:06}"));
    }
    span.message(11, |event| {
        event.fixed64(1, start + 700_000);
        event.string(2, "cache miss");
        event.attribute_str(3, "cache.key", "products");
    });
}

//! What a batch costs in each language: the exporters of `plugins/examples`, beside the bundled Zipkin exporter.
//!
//! Nobody listens at port 9, so a push ends where the bytes would leave. The time is the process's CPU time: the guest, the
//! copy in and out, and for those that ask for JSON the host's translation. Prints a table; the components are those that
//! `cargo test -p weir-tests --test interop examples` has built.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../build/guests.rs"]
mod guests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use weir_model::{Exporter as _, Ledger, Outcome, Push, Signal};
use weir_net::client::{Client, ClientSettings};
use weir_plugin::{Host, HostSettings, Limits, Part, PluginExporter};
use weir_wire::Encoder;

const LANGUAGES: [&str; 5] = ["rust", "c", "go", "javascript", "python"];

/// Spans of a push.
const SIZES: [u32; 2] = [100, 1000];

/// How often the languages take turns, and how long a turn is: fifty ticks of the clock that counts CPU time.
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(500);

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = plugins();
    let host = host(&runtime, folder.path());
    let names = LANGUAGES.map(|language| format!("spans-{language}"));
    let names: Vec<&str> = ["zipkin-exporter"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let exporters: Vec<_> = names.iter().map(|name| exporter(&runtime, &host, name)).collect();
    let batches = SIZES.map(|spans| (spans, Bytes::from(request(spans))));

    let mut turns = vec![[const { Vec::new() }; SIZES.len()]; names.len()];
    for _ in 0..ROUNDS {
        for (of_exporter, (exporter, _)) in turns.iter_mut().zip(&exporters) {
            for (of_size, (spans, batch)) in of_exporter.iter_mut().zip(&batches) {
                of_size.push(turn(|| push(&runtime, exporter, *spans, batch)));
            }
        }
    }
    println!("CPU time of one push, median of {ROUNDS} rounds; spans of {} bytes", batches[1].1.len() / 1000);
    println!("| plugin | bytes | compiled in | 100 spans | 1000 spans | one span |");
    println!("|---|---|---|---|---|---|");
    for ((name, (_, compiled)), of_sizes) in names.iter().zip(&exporters).zip(turns) {
        let bytes = fs::metadata(folder.path().join(format!("{name}.wasm"))).map_or(0, |file| file.len());
        let [few, many] = of_sizes.map(median);
        println!(
            "| {name} | {bytes} | {} ms | {:.2} ms | {:.2} ms | {:.2} µs |",
            compiled.as_millis(),
            few * 1e3,
            many * 1e3,
            (many - few) / f64::from(SIZES[1] - SIZES[0]) * 1e6,
        );
    }
}

/// A plugin folder with all of them.
fn plugins() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for language in LANGUAGES {
        let built = newest(&top.join("target/interop"), language).unwrap_or_else(|| {
            panic!(
                "there is no spans-{language}.wasm under target/interop; build all of them with \
                 `cargo test -p weir-tests --test interop examples`"
            )
        });
        let copied = fs::copy(&built, folder.path().join(format!("spans-{language}.wasm")));
        copied.unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    }
    let plugins = top.join("plugins");
    let wasm = guests::Workspace::new(plugins.clone(), plugins.join("target")).build("zipkin-exporter");
    fs::write(folder.path().join("zipkin-exporter.wasm"), wasm.expect("the guest builds"))
        .expect("the folder is ours");
    folder
}

/// The one that was built last: each change of an example has a folder of its own.
fn newest(cache: &Path, language: &str) -> Option<PathBuf> {
    let prefix = format!("example-{language}-");
    let folders = fs::read_dir(cache).ok()?.filter_map(Result::ok);
    let ours = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&prefix));
    let built = ours.map(|folder| folder.path().join(format!("spans-{language}.wasm")));
    let at = |path: &PathBuf| {
        fs::metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    built.filter(|path| path.is_file()).max_by_key(at)
}

fn host(runtime: &Runtime, folder: &Path) -> Host {
    let _inside = runtime.enter();
    let ledger = Ledger::new(1 << 30);
    let client = Client::new(ClientSettings::new(Arc::clone(&ledger)));
    let plugin_dir = Some(folder.to_owned());
    Host::new(HostSettings { ledger, client, cache_dir: None, plugin_dir, bundled: &[] }).expect("an engine")
}

/// An exporter within the default limits, and how long it took to compile.
fn exporter(runtime: &Runtime, host: &Host, name: &str) -> (Arc<PluginExporter>, Duration) {
    let _inside = runtime.enter();
    let since = Instant::now();
    let loaded = runtime.block_on(host.load(name, None)).expect("it was just built");
    let compiled = since.elapsed();
    let mut part = Part::new(name, json!({"endpoint": "http://127.0.0.1:9/"}));
    part.limits = Limits::default();
    part.pool.instances = 1;
    (loaded.exporter(part).expect("settings that it knows"), compiled)
}

fn push(runtime: &Runtime, exporter: &PluginExporter, spans: u32, body: &Bytes) {
    let push = Push {
        signal: Signal::Traces,
        body: body.clone(),
        id: "0".to_owned(),
        attempt: 1,
        items: spans,
        places: None,
        searching: false,
    };
    let outcome = runtime.block_on(exporter.push(push));
    assert!(matches!(outcome, Outcome::Retryable { .. }), "nobody listens there: {outcome:?}");
}

/// CPU seconds of one call, on average over a turn.
fn turn(mut call: impl FnMut()) -> f64 {
    let (since, before, mut calls) = (Instant::now(), cpu_seconds(), 0_u32);
    while since.elapsed() < TURN {
        call();
        calls += 1;
    }
    (cpu_seconds() - before) / f64::from(calls)
}

/// What all threads of this process have computed so far, those that have ended too: the 14th and 15th field of its `stat`.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("Linux shows a process itself");
    // The second field is the program's name, in brackets.
    let (_, fields) = text.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn median(mut turns: Vec<f64>) -> f64 {
    turns.sort_by(f64::total_cmp);
    turns[turns.len() / 2]
}

/// Spans of some 470 bytes: eight attributes and an event.
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

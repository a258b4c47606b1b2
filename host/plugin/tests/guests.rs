//! Guests built from source, in the real engine: what a plugin may do, and what happens to one that does more.
//!
//! The first run compiles three guests, half a minute; later ones find them built.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../build/guests.rs"]
mod guests;

#[path = "cases/ends.rs"]
mod ends;
#[path = "cases/frozen.rs"]
mod frozen;
#[path = "cases/life.rs"]
mod life;
#[path = "cases/loading.rs"]
mod loading;
#[path = "cases/powers.rs"]
mod powers;
#[path = "cases/quarantine.rs"]
mod quarantine;
#[path = "cases/receiving.rs"]
mod receiving;
#[path = "cases/remembering.rs"]
mod remembering;
#[path = "cases/swapping.rs"]
mod swapping;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use weir_model::{Ledger, Outcome, Push, Signal};
use weir_net::client::{Client, ClientSettings};
use weir_plugin::{Host, HostSettings, Limits, Loaded, Part, PluginExporter};

/// The memory budget of a test's host.
const LEDGER_BYTES: u64 = 192 << 20;

/// A guest, built at its first use.
fn wasm(package: &str) -> &'static [u8] {
    static HOSTILE: OnceLock<Vec<u8>> = OnceLock::new();
    static ERRAND: OnceLock<Vec<u8>> = OnceLock::new();
    static KEEPER: OnceLock<Vec<u8>> = OnceLock::new();
    let built = match package {
        "hostile" => &HOSTILE,
        "errand" => &ERRAND,
        "keeper" => &KEEPER,
        other => panic!("there is no guest {other}"),
    };
    built.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = here.join("../../plugins/target");
        let workspace = guests::Workspace::new(here.join("tests/guests"), target);
        workspace.build(package).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A host with a plugin folder that holds the guests, and a cache.
struct Fixture {
    host: Host,
    ledger: Arc<Ledger>,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for package in ["hostile", "errand", "keeper"] {
            std::fs::write(folder.path().join(format!("{package}.wasm")), wasm(package)).unwrap();
        }
        Self::over(folder)
    }

    /// A host over what another one has left.
    fn over(folder: TempDir) -> Self {
        Self::with_budget(folder, LEDGER_BYTES)
    }

    /// The same, with so much memory.
    fn with_budget(folder: TempDir, bytes: u64) -> Self {
        let ledger = Ledger::new(bytes);
        let settings = HostSettings {
            ledger: Arc::clone(&ledger),
            client: Client::new(ClientSettings::new(Arc::clone(&ledger))),
            cache_dir: Some(folder.path().join("cache")),
            plugin_dir: Some(folder.path().to_owned()),
            bundled: &[],
        };
        Self { host: Host::new(settings).unwrap(), ledger, folder }
    }

    async fn load(&self, name: &str) -> Arc<Loaded> {
        self.host.load(name, None).await.unwrap()
    }

    /// The hostile guest in one of its modes, with one instance.
    async fn hostile(&self, settings: Value, limits: Limits) -> Arc<PluginExporter> {
        self.hostile_part(settings, |part| part.limits = limits).await
    }

    /// The same, with more said about it.
    async fn hostile_part(&self, settings: Value, more: impl FnOnce(&mut Part)) -> Arc<PluginExporter> {
        let loaded = self.load("hostile").await;
        assert_eq!(loaded.check_settings(&settings, &Limits::default()).await, []);
        let mut part = Part::new("hostile/test", settings);
        part.pool.instances = 1;
        more(&mut part);
        loaded.exporter(part).unwrap()
    }
}

fn mode(mode: &str) -> Value {
    json!({ "mode": mode })
}

fn push(id: &str) -> Push {
    Push {
        signal: Signal::Traces,
        body: "body".into(),
        id: id.into(),
        attempt: 1,
        items: 7,
        places: None,
        searching: false,
    }
}

/// Deadlines that a test can wait for.
fn short() -> Limits {
    Limits {
        cpu_deadline: Duration::from_millis(200),
        call_deadline: Duration::from_secs(20),
        ..Limits::default()
    }
}

fn ended(outcome: Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Ended { kind, message, .. } => (kind, message),
        other => panic!("expected an end, found {other:?}"),
    }
}

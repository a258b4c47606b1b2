//! Plugins of old contracts, as they were built when those were new (`tests/frozen`).

use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use weir_model::{Exporter as _, Outcome, Push, Signal};
use weir_plugin::{Limits, Part};
use weir_wire::Encoder;

use super::powers::backend;
use super::{Fixture, push};

/// The component of `weir:plugin@1.0.0`: a file that has changed proves nothing about old plugins.
const SHA256_1_0_0: &str = "99ca90b5fe9de906332e0059406987d327248386d1b56769a6adcf8199d4abe0";

fn one_span() -> Bytes {
    let mut out = Encoder::with_capacity(128);
    out.message(1, |group| {
        group.message(1, |resource| resource.attribute_str(1, "service.name", "shop"));
        group.message(2, |scope| {
            scope.message(2, |span| {
                span.bytes(1, [0xab; 16]);
                span.bytes(2, [0xcd; 8]);
                span.string(5, "GET /items");
                span.fixed64(7, 1_000);
                span.fixed64(8, 2_500);
            });
        });
    });
    out.into_bytes().into()
}

/// Scenario: the exporter that was built against 1.0.0 when it was new is dropped into the plugin folder of today's host.
/// Guarantees: it says what it is, checks its settings, posts a batch and gives a broken one up, as on its first day.
#[tokio::test]
async fn a_plugin_of_the_first_contract_keeps_working() {
    let mut tasks = JoinSet::new();
    let (origin, seen) = backend(&mut tasks).await;
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/frozen/1.0.0/spans-c.wasm");
    let folder = TempDir::new().unwrap();
    std::fs::copy(frozen, folder.path().join("spans-c.wasm")).unwrap();
    let fixture = Fixture::over(folder);
    let loaded = fixture.host.load("spans-c", Some(SHA256_1_0_0)).await.unwrap();
    let said = &loaded.descriptor;
    assert_eq!((&*said.name, &*said.version), ("spans-c", "1.0.0"));
    assert_eq!(
        loaded.check_settings(&json!({"endpoint": format!("{origin}/#x")}), &Limits::default()).await.len(),
        1
    );
    let settings = json!({"endpoint": format!("{origin}/lines")});
    assert_eq!(loaded.check_settings(&settings, &Limits::default()).await, []);

    let exporter = loaded.exporter(Part::new("spans/frozen", settings)).unwrap();
    let batch = Push { signal: Signal::Traces, body: one_span(), ..push("one") };
    assert_eq!(exporter.push(batch).await, Outcome::Accepted);
    let expected = format!("{}\t{}\tshop\tGET /items\t1500\n", "ab".repeat(16), "cd".repeat(8));
    assert_eq!(&seen.lock().unwrap()[0].1[..], expected.as_bytes());
    let outcome = exporter.push(push("two")).await;
    assert!(matches!(outcome, Outcome::Permanent(_)), "`body` is no batch of traces: {outcome:?}");
}

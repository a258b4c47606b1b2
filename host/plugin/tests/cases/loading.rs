//! Loading: what is refused and why, the cache, and what the operator's settings are told.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use weir_model::{Exporter as _, Outcome};
use weir_plugin::load::Flaw;
use weir_plugin::{Limits, LoadError, Part, PartError};

use super::swapping::hungry;
use super::{Fixture, mode, push, wasm};

fn text(error: &LoadError) -> String {
    format!("{error}: {}", error.flaw)
}

/// Scenario: files that are empty, truncated, a core module, text, a component that is no plugin, a wrong pin, an absent name.
/// Guarantees: each is refused with its reason and its place, and nothing panics.
#[tokio::test]
async fn what_is_not_a_plugin_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let whole = wasm("hostile");
    let core = b"\0asm\x01\0\0\0";
    let empty_component = b"\0asm\x0d\0\x01\0";
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "not a WebAssembly component"),
        ("truncated", &whole[..whole.len() / 2], "not a WebAssembly component"),
        ("core", core, "a core module, not a component"),
        ("text", b"(component)", "not a WebAssembly component"),
        (
            "foreign",
            empty_component,
            "not a plugin: expected the export weir:plugin/plugin@1.x, found nothing",
        ),
        (
            "renamed",
            &renamed(whole, b"weir:plugin/log@1.0.0", b"weir:plugin/lag@1.0.0"),
            "weir:plugin/lag@1.0.0",
        ),
    ];
    for (name, bytes, expected) in cases {
        let path = fixture.folder.path().join(format!("{name}.wasm"));
        fs::write(&path, bytes).unwrap();
        let error = fixture.host.load(name, None).await.unwrap_err();
        assert!(text(&error).contains(expected), "{name}: {}", text(&error));
        assert!(text(&error).contains(&path.display().to_string()), "{name}: {}", text(&error));
        let shown = fixture.host.inspect(name).await;
        assert!(shown.error.is_some_and(|error| error.contains(expected)));
    }
    let error = fixture.host.load("hostile", Some("abc")).await.unwrap_err();
    assert!(matches!(&error.flaw, Flaw::Pin { pinned, .. } if pinned == "abc"), "{error}");
    let digest = fixture.load("hostile").await.digest.to_string().to_uppercase();
    fixture.host.load("hostile", Some(&digest)).await.unwrap();
    let error = fixture.host.load("absent", None).await.unwrap_err();
    assert!(matches!(error.flaw, Flaw::NotFound { .. }), "{error}");
}

/// Scenario: a plugin of another version of the contract.
/// Guarantees: the error names both versions and what to do.
#[tokio::test]
async fn another_version_is_refused_naming_both() {
    let fixture = Fixture::new();
    let next = renamed(wasm("hostile"), b"weir:plugin/exporter@1.0.0", b"weir:plugin/exporter@2.0.0");
    fs::write(fixture.folder.path().join("next.wasm"), next).unwrap();
    let error = text(&fixture.host.load("next", None).await.unwrap_err());
    assert!(
        error.contains("weir:plugin/exporter@2.0.0") && error.contains("serves weir:plugin 1.x"),
        "{error}"
    );
}

/// The component with one name replaced by another of the same length, wherever it stands.
pub(super) fn renamed(wasm: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut wasm = wasm.to_vec();
    let found: Vec<usize> = (0..wasm.len() - from.len()).filter(|at| wasm[*at..].starts_with(from)).collect();
    assert!(!found.is_empty(), "the name to replace is not in the component");
    for at in found {
        wasm[at..at + to.len()].copy_from_slice(to);
    }
    wasm
}

/// The files of compiled code in the fixture's cache.
fn compiled(fixture: &Fixture) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture.folder.path().join("cache")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

/// Scenario: a plugin is loaded twice by two hosts; then one bit of its compiled code is flipped; then it is cut short.
/// Guarantees: the second load writes nothing, an altered file is compiled anew and replaced, and the plugin works each time.
#[tokio::test]
async fn compiled_code_is_kept_and_an_altered_file_is_not_loaded() {
    let mut fixture = Fixture::new();
    fixture.load("hostile").await;
    let path = compiled(&fixture).pop().unwrap();
    let original = fs::read(&path).unwrap();
    let written = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let first = written(&path);
    fixture = Fixture::over(fixture.folder);
    fixture.load("hostile").await;
    assert_eq!(written(&path), first, "a hit wrote the file again");
    let mut flipped = original.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for altered in [flipped, original[..original.len() - 1].to_vec(), original[..10].to_vec(), Vec::new()] {
        fs::write(&path, &altered).unwrap();
        fixture = Fixture::over(fixture.folder);
        let exporter = fixture.load("hostile").await.exporter(Part::new("x", mode("accept"))).unwrap();
        assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
        assert!(fs::read(&path).unwrap() != altered, "the altered file is still there");
        assert_eq!(compiled(&fixture), std::slice::from_ref(&path));
    }
}

/// Scenario: compiled code is moved to where another plugin's is looked for.
/// Guarantees: it is not loaded as that plugin.
#[tokio::test]
async fn compiled_code_does_not_pass_for_anothers() {
    let mut fixture = Fixture::new();
    fixture.load("hostile").await;
    let hostile = compiled(&fixture).pop().unwrap();
    fixture.load("errand").await;
    let errand = compiled(&fixture).into_iter().find(|path| *path != hostile).unwrap();
    fs::copy(&hostile, &errand).unwrap();
    fixture = Fixture::over(fixture.folder);
    assert_eq!(fixture.load("errand").await.descriptor.name, "errand");
}

/// Scenario: settings with an unknown key, a wrong type, a missing key; then ones that only the plugin itself refuses, and ones at
/// which it traps.
/// Guarantees: all findings of the schema at once with JSON pointers; the plugin's own objections; a trap is an objection too.
#[tokio::test]
async fn settings_are_judged_by_schema_and_plugin() {
    let fixture = Fixture::new();
    let loaded = fixture.load("hostile").await;
    let found = loaded.check_settings(&json!({"endpoint": 1, "mod": "x"}), &Limits::default()).await;
    let mut pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["", "", "/endpoint"], "{found:?}");
    let found = loaded.check_settings(&mode("refuse"), &Limits::default()).await;
    assert_eq!((found[0].pointer.as_str(), found[0].message.as_str()), ("/mode", "not in this mood"));
    let found = loaded.check_settings(&mode("trap-in-configure"), &Limits::default()).await;
    assert!(found[0].message.contains("plugin.configure"), "{found:?}");
    assert_eq!(loaded.check_settings(&mode("accept"), &Limits::default()).await, []);
}

/// Scenario: a plugin is asked what it is; a part is made that it cannot be; an egress URL is none.
/// Guarantees: descriptor and marks are shown tamed, imports with their classes; both errors name what is wrong.
#[tokio::test]
async fn a_plugin_is_shown_and_held_to_what_it_is() {
    let fixture = Fixture::new();
    let shown = serde_json::to_value(fixture.host.inspect("errand").await).unwrap();
    assert_eq!(shown["descriptor"]["encoding"], "json", "{shown:#}");
    let imports = shown["scan"]["imports"].as_array().unwrap();
    let classes = |class: &str| imports.iter().filter(|import| import["class"] == class).count();
    let counted = ["harmless", "denied", "refused"].map(classes);
    assert!(counted[0] >= 5 && counted[1] >= 3 && counted[2] == 0, "{counted:?} {shown:#}");
    let loaded = fixture.load("hostile").await;
    assert_eq!(loaded.descriptor.description, "does \\u{1b}[31mharm");
    assert_eq!(loaded.listeners(&mode("accept"))[0].address, "127.0.0.1:9411");
    let Err(error) = fixture.load("errand").await.receiver(Part::new("errand", json!({}))) else {
        panic!("taken")
    };
    assert!(
        error.to_string().contains("no setting of plugin errand names an address to listen on"),
        "{error}"
    );
    let part =
        Part { limits: Limits::default(), ..Part::new("x", json!({"mode": "send", "endpoint": "no url"})) };
    let Err(PartError::Settings { errors, .. }) = loaded.exporter(part) else { panic!("taken") };
    assert_eq!(errors[0].pointer, "/endpoint");
}

/// Scenario: a plugin that takes 80 MiB to say what it is and to be configured, with default limits and with 128 MiB.
/// Guarantees: it is refused naming the limit, and taken where the limit is raised; who looks at it by hand sees it.
#[tokio::test]
async fn a_plugin_is_checked_within_the_limits_that_it_has() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("hungry.wasm"), hungry(80, 80)).unwrap();
    let error = text(&fixture.host.load("hungry", None).await.unwrap_err());
    assert!(error.contains("plugin.describe: memory limit 64 MiB reached"), "{error}");
    let limits = Limits { memory_bytes: 128 << 20, ..Limits::default() };
    let loaded = fixture.host.load_within("hungry", None, &limits).await.unwrap();
    assert_eq!(loaded.check_settings(&mode("accept"), &limits).await, []);
    let found = loaded.check_settings(&mode("accept"), &Limits::default()).await;
    assert!(found[0].message.contains("plugin.configure: memory limit 64 MiB reached"), "{found:?}");
    let exporter = loaded.exporter(Part { limits, ..Part::new("hungry", mode("accept")) }).unwrap();
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    drop(exporter);
    assert_eq!(fixture.host.inspect("hungry").await.error, None);
}

/// Scenario: a file of a few kilobytes in which components instantiate each other a thousand times, three levels deep.
/// Guarantees: it is refused before it is compiled, naming the file, what was found, the limit and what to do.
#[tokio::test]
async fn what_grows_without_bound_is_not_compiled() {
    let fixture = Fixture::new();
    let leb = |number: usize| {
        [0, 7, 14]
            .map(|shift| u8::try_from(number >> shift & 0x7f).unwrap() | if shift < 14 { 0x80 } else { 0 })
    };
    let section = |id: u8, body: &[u8]| [&[id][..], &leb(body.len()), body].concat();
    let head = b"\0asm\x0d\0\x01\0";
    let instances = section(5, &[&leb(1_000)[..], &[0, 0, 0].repeat(1_000)].concat());
    let around = |inner: Vec<u8>| [&head[..], &section(4, &inner), &instances].concat();
    let bomb = (0..3).fold(head.to_vec(), |inner, _| around(inner));
    let path = fixture.folder.path().join("bomb.wasm");
    fs::write(&path, bomb).unwrap();
    let shown = fixture.host.inspect("bomb").await.error.unwrap();
    for part in [&*path.display().to_string(), "1001000 instances", "at most 1000", "ask its author"] {
        assert!(shown.contains(part), "{shown}");
    }
}

/// Scenario: a plugin whose schema refers to itself in a way that nobody follows for marks.
/// Guarantees: it is refused, naming the file, the keyword and what to do.
#[tokio::test]
async fn a_schema_that_hides_a_reference_is_refused() {
    let fixture = Fixture::new();
    let hiding =
        renamed(wasm("hostile"), br#""additionalProperties": false"#, br##""$dynamicRef": "#/properties""##);
    let path = fixture.folder.path().join("hiding.wasm");
    fs::write(&path, hiding).unwrap();
    let error = fixture.host.load("hiding", None).await.unwrap_err();
    for part in [&*path.display().to_string(), "\"$dynamicRef\"", "its author must"] {
        assert!(text(&error).contains(part), "{}", text(&error));
    }
}

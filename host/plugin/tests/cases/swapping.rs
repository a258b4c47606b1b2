//! Other code takes an id over while calls go on; or does not, and why.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weir_model::http::{Answer, Request};
use weir_model::{Exporter as _, HttpReceiver as _, Ledger, Outcome, Reason, Refusal};
use weir_net::client::{Client, ClientSettings};
use weir_plugin::counts::Retirement;
use weir_plugin::{Bundled, Host, HostSettings, Limits, Part, Released, SlotState, SlotView, Source, Wanted};

use super::loading::renamed;
use super::{Fixture, LEDGER_BYTES, mode, push, wasm};

/// The hostile guest in another version.
fn version(version: &str) -> Vec<u8> {
    renamed(wasm("hostile"), b"hostile6.6.6", format!("hostile{version}").as_bytes())
}

impl Fixture {
    /// One with the hostile guest bundled, and in front of it its file.
    fn with_bundled() -> Self {
        let mut fixture = Self::new();
        let bundled = Box::leak(Box::new([Bundled { name: "hostile", wasm: wasm("hostile") }]));
        fixture.ledger = Ledger::new(LEDGER_BYTES);
        fixture.host = Host::new(HostSettings {
            ledger: Arc::clone(&fixture.ledger),
            client: Client::new(ClientSettings::new(Arc::clone(&fixture.ledger))),
            cache_dir: None,
            plugin_dir: Some(fixture.folder.path().to_owned()),
            bundled,
        })
        .unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("hostile.wasm")
    }

    /// Puts a file in the place of the hostile guest's, as `mv` does.
    fn replace(&self, bytes: &[u8]) {
        let aside = self.folder.path().join("aside");
        fs::write(&aside, bytes).unwrap();
        fs::rename(aside, self.path()).unwrap();
    }

    /// The only id.
    fn slot(&self) -> SlotView {
        self.host.slots().pop().unwrap()
    }

    /// Replaces the file, looks, and returns why it is refused.
    async fn refused(&self, bytes: &[u8]) -> String {
        let before = self.slot();
        self.replace(bytes);
        self.host.rescan().await;
        let slot = self.slot();
        assert_eq!((slot.generation, slot.digest), (before.generation, before.digest), "it serves");
        slot.refused.unwrap_or_else(|| panic!("it was taken"))
    }
}

/// A backend that answers when it is told to, one connection a request.
struct Gate(TcpListener);

impl Gate {
    async fn open() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    /// Waits for a request.
    async fn request(&self) -> TcpStream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"body") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "the request broke off");
        }
        stream
    }

    async fn answer(mut stream: TcpStream) {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
}

/// Scenario: an exporter with one instance is in a call; its file is replaced; another push comes; then the first is
/// answered.
/// Guarantees: the new code serves the second push while the old finishes the first; counters go on; the old code and
/// its memory are gone with its last call.
#[tokio::test]
async fn a_running_call_finishes_on_the_old_code_while_new_ones_go_to_the_new() {
    let fixture = Fixture::new();
    let (gate, url) = Gate::open().await;
    let exporter = fixture.hostile(json!({"mode": "send", "endpoint": url}), Limits::default()).await;
    assert_eq!((exporter.generation(), fixture.host.codes_in_memory()), (1, 1));
    let old = tokio::spawn({
        let exporter = Arc::clone(&exporter);
        async move { exporter.push(push("old")).await }
    });
    let held = gate.request().await;

    fixture.replace(&version("6.6.7"));
    fixture.host.rescan().await;
    let slot = fixture.slot();
    assert_eq!((slot.generation, slot.version.as_str(), slot.refused), (2, "6.6.7", None));
    assert_eq!((exporter.generation(), fixture.host.codes_in_memory()), (2, 2));
    let (outcome, ()) =
        tokio::join!(exporter.push(push("new")), async { Gate::answer(gate.request().await).await });
    assert_eq!(outcome, Outcome::Accepted);
    assert!(!old.is_finished(), "the first call was not cut");

    Gate::answer(held).await;
    assert_eq!(old.await.unwrap(), Outcome::Accepted);
    assert_eq!(fixture.host.codes_in_memory(), 1);
    assert_eq!(exporter.counts().calls.get(), 2);
    assert_eq!(fixture.ledger.used(), exporter.idle_bytes() as u64, "only the new instance has memory");
    drop(exporter);
    fixture.host.drain().await;
    assert_eq!((fixture.ledger.used(), fixture.host.codes_in_memory()), (0, 0));
    assert!(fixture.host.slots().is_empty());
}

/// Scenario: an exporter with one instance is in a call that hangs, and a second push waits for the instance; its file is
/// replaced, or it is released.
/// Guarantees: the one that waits goes to the new instances at once, while the first is still under way.
#[tokio::test]
async fn a_call_that_waits_goes_to_the_new_code() {
    for is_release in [false, true] {
        let fixture = Fixture::new();
        let (gate, url) = Gate::open().await;
        let exporter = fixture.hostile(json!({"mode": "send", "endpoint": url}), Limits::default()).await;
        let hangs = tokio::spawn({
            let exporter = Arc::clone(&exporter);
            async move { exporter.push(push("hangs")).await }
        });
        let held = gate.request().await;
        let mut waits = exporter.push(push("waits"));
        assert!(tokio::time::timeout(Duration::ZERO, &mut waits).await.is_err(), "there is one instance");

        if is_release {
            assert_eq!(fixture.host.release(Wanted::Exporter, "hostile/test"), Released::Working);
        } else {
            fixture.replace(&version("6.6.7"));
            fixture.host.rescan().await;
        }
        let served = async { tokio::join!(waits, async { Gate::answer(gate.request().await).await }).0 };
        let served = tokio::time::timeout(Duration::from_secs(30), served).await;
        assert_eq!(served.expect("it waits behind the old call"), Outcome::Accepted);
        assert!(!hangs.is_finished(), "the first call was not cut");
        Gate::answer(held).await;
        assert_eq!(hangs.await.unwrap(), Outcome::Accepted);
    }
}

/// Scenario: an exporter with two instances, one idle and one in a call that hangs, is released; then four ids whose
/// instances each take most of what plugins may have together push one after the other.
/// Guarantees: what is idle in old code gives its memory back at once; an instance that finds none gets that of the idle
/// ones of other ids, so that none starves.
#[tokio::test]
async fn idle_instances_keep_no_memory_from_others() {
    let fixture = Fixture::new();
    let (gate, url) = Gate::open().await;
    let settings = json!({"mode": "send", "endpoint": url});
    let exporter = fixture.hostile_part(settings, |part| part.pool.instances = 2).await;
    let pushed = |id: &'static str| {
        let exporter = Arc::clone(&exporter);
        tokio::spawn(async move { exporter.push(push(id)).await })
    };
    let (first, second) = (pushed("first"), pushed("second"));
    let (held, other) = (gate.request().await, gate.request().await);
    Gate::answer(held).await;
    // Which of the two was answered is not known: the backend sees no ids.
    let (mut first, mut second) = (first, second);
    let hangs = tokio::select! {
        done = &mut first => done.map(|outcome| (outcome, second)),
        done = &mut second => done.map(|outcome| (outcome, first)),
    };
    let (outcome, hangs) = hangs.unwrap();
    assert_eq!(outcome, Outcome::Accepted);
    assert_eq!(exporter.counts().retired.of(Retirement::Memory).get(), 0);
    assert_eq!(fixture.host.release(Wanted::Exporter, "hostile/test"), Released::Working);
    assert_eq!(exporter.counts().retired.of(Retirement::Memory).get(), 1);
    Gate::answer(other).await;
    assert_eq!(hangs.await.unwrap(), Outcome::Accepted);

    fixture.replace(&hungry(0, 60));
    let limits = Limits { memory_bytes: 128 << 20, ..Limits::default() };
    let mut hungry = Vec::new();
    for _ in 0..4 {
        hungry.push(fixture.hostile(mode("accept"), limits.clone()).await);
    }
    for exporter in hungry.iter().chain(&hungry) {
        assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    }
}

/// Scenario: files that are noise, truncated, for another contract, that do not take the settings, that cannot be read;
/// then the first file again.
/// Guarantees: each is refused with its reason, the code from before serves on, and what is put back ends the trouble
/// without a swap.
#[tokio::test]
async fn a_bad_file_changes_nothing_but_what_is_told() {
    let fixture = Fixture::new();
    let exporter = fixture.hostile(mode("accept"), Limits::default()).await;
    let whole = wasm("hostile");
    let next = renamed(whole, b"weir:plugin/exporter@1.0.0", b"weir:plugin/exporter@2.0.0");
    let choosy = renamed(whole, b"\"required\": [\"mode\"]", b"\"required\": [\"made\"]");
    let cases: [(&[u8], &[&str]); 4] = [
        (b"hello, this is no WebAssembly", &["not a WebAssembly component"]),
        (&whole[..whole.len() / 2], &["not a WebAssembly component"]),
        (&next, &["weir:plugin/exporter@2.0.0", "serves weir:plugin 1.x"]),
        (&choosy, &["does not take the settings of hostile/test", "made"]),
    ];
    for (bytes, words) in &cases {
        let why = fixture.refused(bytes).await;
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    }
    fs::remove_file(fixture.path()).unwrap();
    std::os::unix::fs::symlink("hostile.wasm", fixture.path()).unwrap();
    fixture.host.rescan().await;
    let why = fixture.slot().refused.unwrap();
    assert!(why.contains("read the file"), "a link to itself: {why}");
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);

    fixture.replace(whole);
    fixture.host.rescan().await;
    let slot = fixture.slot();
    assert_eq!((slot.generation, slot.refused, slot.state), (1, None, SlotState::Serving));
    assert_eq!(fixture.host.codes_in_memory(), 1);
}

/// Scenario: a pinned plugin's file is replaced by a good one of another digest.
/// Guarantees: it is refused naming both digests; the pinned code serves.
#[tokio::test]
async fn a_pin_holds_against_a_swap() {
    let fixture = Fixture::new();
    let pin = fixture.load("hostile").await.digest.to_string();
    let loaded = fixture.host.load("hostile", Some(&pin)).await.unwrap();
    let exporter = loaded.exporter(Part::new("hostile", mode("accept"))).unwrap();
    let why = fixture.refused(&version("6.6.7")).await;
    assert!(why.contains(&pin) && why.contains("its sha256 is"), "{why}");
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
}

/// Scenario: the file of an exporter and a receiver is removed, replaced by a bad one, put back.
/// Guarantees: pushes are retryable and requests refused for now meanwhile, the operator is told which file belongs
/// where; what is put back serves as another generation, with the counters of before.
#[tokio::test]
async fn a_removed_file_leaves_its_ids_without_a_plugin_until_it_is_back() {
    let fixture = Fixture::new();
    let exporter = fixture.hostile(mode("accept"), Limits::default()).await;
    let loaded = fixture.load("hostile").await;
    let receiver = loaded.receiver(Part::new("hostile", mode("x"))).unwrap();
    drop(loaded);
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    fs::remove_file(fixture.path()).unwrap();
    fixture.host.rescan().await;

    let Outcome::Retryable { message, after: Some(_) } = exporter.push(push("two")).await else {
        panic!("it is not retryable")
    };
    let folder = fixture.folder.path().display();
    let expected = format!("its plugin file hostile.wasm was removed from {folder}; put it back");
    assert_eq!(message, expected);
    for slot in fixture.host.slots() {
        assert_eq!(slot.state, SlotState::Absent(expected.clone()));
    }
    let request = || Request {
        method: "POST".into(),
        target: "/".into(),
        headers: Vec::new(),
        body: "telemetry".into(),
    };
    let Err(refusal) = receiver.receive("main", request()).await else { panic!("it was taken") };
    assert!(matches!(refusal, Refusal::Transient { .. }) && refusal.reason() == Reason::Unavailable);
    assert!(!refusal.explain().contains(&folder.to_string()), "senders need not know");
    assert_eq!((fixture.ledger.used(), fixture.host.codes_in_memory()), (0, 0));
    assert_eq!(fixture.host.release(Wanted::Exporter, "hostile/test"), Released::Nothing);

    fixture.replace(b"noise");
    fixture.host.rescan().await;
    assert!(fixture.host.slots().iter().all(|slot| slot.refused.is_some()));
    assert!(matches!(exporter.push(push("three")).await, Outcome::Retryable { .. }));

    fixture.replace(wasm("hostile"));
    fixture.host.rescan().await;
    assert_eq!(exporter.push(push("four")).await, Outcome::Accepted);
    assert!(receiver.receive("main", request()).await.is_ok());
    assert_eq!((exporter.generation(), exporter.counts().calls.get()), (2, 2));
    assert_eq!(fixture.host.codes_in_memory(), 1, "two ids share the code");
}

/// Scenario: a file stands in front of a bundled plugin; it is removed, put back; then removed from an id that pins it.
/// Guarantees: the bundled plugin takes its place and gives it back; where it may not, the id has no plugin and the
/// reason says both.
#[tokio::test]
async fn a_bundled_plugin_takes_the_place_of_a_removed_file() {
    let fixture = Fixture::with_bundled();
    fixture.replace(&version("6.6.7"));
    let exporter = fixture.hostile(mode("accept"), Limits::default()).await;
    assert_eq!((fixture.slot().version.as_str(), fixture.slot().shadows), ("6.6.7", true));

    fs::remove_file(fixture.path()).unwrap();
    fixture.host.rescan().await;
    let slot = fixture.slot();
    assert_eq!((slot.version.as_str(), slot.source, slot.shadows), ("6.6.6", Source::Bundled, false));
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    fixture.replace(wasm("hostile"));
    fixture.host.rescan().await;
    let slot = fixture.slot();
    assert_eq!((slot.generation, slot.shadows), (2, true), "the same code from elsewhere is no swap");
    drop(exporter);

    fixture.replace(&version("6.6.8"));
    let pin = fixture.load("hostile").await.digest.to_string();
    let loaded = fixture.host.load("hostile", Some(&pin)).await.unwrap();
    let exporter = loaded.exporter(Part::new("hostile", mode("accept"))).unwrap();
    fs::remove_file(fixture.path()).unwrap();
    fixture.host.rescan().await;
    let Outcome::Retryable { message, .. } = exporter.push(push("two")).await else { panic!("it serves") };
    assert!(message.contains("was removed from") && message.contains(&pin), "{message}");
}

/// Scenario: a receiver's plugin is replaced by one that wants another address, then by one that answers otherwise.
/// Guarantees: sockets are not pulled away under senders: the first is refused and says what it needs; the second serves.
#[tokio::test]
async fn a_receiver_keeps_its_sockets() {
    let fixture = Fixture::new();
    let loaded = fixture.load("hostile").await;
    let receiver = loaded.receiver(Part::new("hostile", mode("x"))).unwrap();
    let elsewhere = renamed(wasm("hostile"), b"127.0.0.1:9411", b"127.0.0.1:9412");
    let why = fixture.refused(&elsewhere).await;
    assert!(why.contains("127.0.0.1:9412") && why.contains("bound on 127.0.0.1:9411"), "{why}");
    assert!(why.contains("restart weir, or write sha256: "), "{why}");
    fixture.replace(&renamed(wasm("hostile"), b"x-listener", b"y-listener"));
    fixture.host.rescan().await;
    let request = Request { method: "GET".into(), target: "/".into(), headers: Vec::new(), body: "".into() };
    let Ok(Answer::Reply(reply)) = receiver.receive("main", request).await else { panic!("no reply") };
    assert_eq!(reply.headers[0].0, "y-listener");
}

/// Scenario: forty swaps with a call on each code; then a release.
/// Guarantees: memory and code of all old generations are gone each time; a release makes fresh instances of the same
/// code.
#[tokio::test]
async fn old_code_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let exporter = fixture.hostile(mode("count"), Limits::default()).await;
    let calls = async |id: &str| match exporter.push(push(id)).await {
        Outcome::Partial { rejected, .. } => rejected,
        other => panic!("{other:?}"),
    };
    let versions = [version("6.6.7"), version("6.6.8")];
    assert_eq!(calls("first").await, 1);
    let used = fixture.ledger.used();
    for swap in 0..40_u64 {
        fixture.replace(&versions[usize::try_from(swap % 2).unwrap()]);
        fixture.host.rescan().await;
        assert_eq!((exporter.generation(), exporter.idle_bytes()), (swap + 2, 0));
        assert_eq!((calls("one").await, calls("two").await), (1, 2), "a fresh instance counts its calls");
        assert_eq!((fixture.ledger.used(), fixture.host.codes_in_memory()), (used, 1));
    }
    assert_eq!(fixture.host.release(Wanted::Exporter, "hostile/test"), Released::Working);
    assert_eq!((exporter.generation(), calls("after").await), (41, 1));
    let other = fixture.host.release(Wanted::Receiver, "hostile/test");
    assert_eq!(other, Released::Nothing, "there is no such receiver");
    assert_eq!((fixture.ledger.used(), fixture.host.codes_in_memory()), (used, 1));
}

/// The hostile guest, that takes so many MiB when it describes itself, and when it is configured.
pub(super) fn hungry(describing: u8, configuring: u8) -> Vec<u8> {
    let of = |what: &str, mebibytes: u8| format!("MiB-to-{what}:{mebibytes:02}").into_bytes();
    let wasm = renamed(wasm("hostile"), &of("describe", 0), &of("describe", describing));
    renamed(&wasm, &of("configure", 0), &of("configure", configuring))
}

/// Scenario: an id with 16 MiB an instance gets a file that needs 20 to be configured, and one that needs 20 to say what
/// it is; an id with 128 MiB gets one that needs 80 for both.
/// Guarantees: a file is judged by the limits of the id that it is to serve: the first two change nothing, and the reason
/// names the limit that the operator has set; the third serves.
#[tokio::test]
async fn a_new_file_is_judged_within_the_limits_of_its_id() {
    let fixture = Fixture::new();
    let limits = Limits { memory_bytes: 16 << 20, ..Limits::default() };
    let exporter = fixture.hostile(mode("accept"), limits).await;
    for (file, call) in [(hungry(0, 20), "plugin.configure"), (hungry(20, 0), "plugin.describe")] {
        let why = fixture.refused(&file).await;
        assert!(why.contains("memory limit 16 MiB reached") && why.contains(call), "{why}");
        assert!(!why.contains("tried again"), "it would not help: {why}");
        assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    }
    drop(exporter);
    fixture.replace(wasm("hostile"));
    let limits = Limits { memory_bytes: 128 << 20, ..Limits::default() };
    let exporter = fixture.hostile(mode("accept"), limits).await;
    fixture.replace(&hungry(80, 80));
    fixture.host.rescan().await;
    assert_eq!((fixture.slot().generation, fixture.slot().refused), (2, None));
    assert_eq!(exporter.push(push("two")).await, Outcome::Accepted);
}

/// Scenario: the process has no memory left while a good file is dropped, and while a file is removed from in front of a
/// bundled plugin; then it has some again.
/// Guarantees: both are refused for a reason that passes, and are tried again by themselves; the first goes on meanwhile.
#[tokio::test]
async fn what_found_no_memory_is_tried_again() {
    let fixture = Fixture::with_bundled();
    fixture.replace(&version("6.6.7"));
    let exporter = fixture.hostile(mode("accept"), Limits::default()).await;
    let all = fixture.ledger.claim(LEDGER_BYTES - fixture.ledger.used()).unwrap();
    let why = fixture.refused(&version("6.6.8")).await;
    let passes =
        |why: &str| why.contains("memory budget of the process") && why.contains("tried again by itself");
    assert!(passes(&why), "{why}");
    assert_eq!(fixture.slot().state, SlotState::Serving);

    fs::remove_file(fixture.path()).unwrap();
    fixture.host.rescan().await;
    let SlotState::Absent(why) = fixture.slot().state else { panic!("it serves") };
    assert!(passes(&why) && why.contains("was removed from"), "{why}");
    drop(all);
    fixture.host.rescan().await;
    assert_eq!((fixture.slot().version.as_str(), fixture.slot().source), ("6.6.6", Source::Bundled));
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
}

/// Scenario: the file of a plugin with a secret and an egress URL is replaced by one that does not mark the secret, then
/// by one that marks another URL as egress.
/// Guarantees: a swap widens nothing: each is refused naming the setting or the origin, and what to do if it is meant;
/// neither is asked about settings with the secret in them.
#[tokio::test]
async fn a_swap_widens_no_powers() {
    let fixture = Fixture::new();
    let (secret, egress) = (r#""x-weir": "secret""#.as_bytes(), r#""x-weir": "egress""#.as_bytes());
    let (no_secret, no_egress) = (r#""x-none": "secret""#.as_bytes(), r#""x-none": "egress""#.as_bytes());
    let settings = json!({"mode": "accept", "key": "4711-4711", "endpoint": "http://192.0.2.1:4000/v1"});
    fixture.replace(&renamed(wasm("hostile"), egress, no_egress));
    let exporter = fixture.hostile(settings, Limits::default()).await;

    let seen = renamed(wasm("hostile"), secret, no_secret);
    let why = fixture.refused(&renamed(&seen, egress, no_egress)).await;
    assert!(why.contains("it would see settings that were secret: /key"), "{why}");
    assert!(why.contains("restart weir, or write sha256: ") && !why.contains("4711"), "{why}");
    let why = fixture.refused(wasm("hostile")).await;
    assert!(why.contains("origins that were not granted: http://192.0.2.1:4000"), "{why}");
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
}

/// Scenario: an exporter with one instance is in a call, and two more wait for it; its file is replaced, then removed.
/// Guarantees: who waits is not held up by a call on code that serves no more: the first goes to the new code, the second
/// is told that there is none.
#[tokio::test]
async fn who_waits_for_old_code_goes_where_new_calls_go() {
    let fixture = Fixture::new();
    let (gate, url) = Gate::open().await;
    let exporter = fixture.hostile(json!({"mode": "send", "endpoint": url}), Limits::default()).await;
    let pushing = |id: &'static str| {
        let exporter = Arc::clone(&exporter);
        tokio::spawn(async move { exporter.push(push(id)).await })
    };
    let first = pushing("first");
    let held = gate.request().await;
    let second = pushing("second");
    tokio::task::yield_now().await;
    fixture.replace(&version("6.6.7"));
    fixture.host.rescan().await;
    let served = tokio::time::timeout(Duration::from_secs(60), gate.request()).await;
    let also_held = served.expect("the new code serves the second push");
    let third = pushing("third");
    tokio::task::yield_now().await;
    fs::remove_file(fixture.path()).unwrap();
    fixture.host.rescan().await;
    let Outcome::Retryable { message, .. } = third.await.unwrap() else { panic!("it was served") };
    assert!(message.contains("was removed from"), "{message}");
    assert!(!first.is_finished() && !second.is_finished());
    for connection in [held, also_held] {
        Gate::answer(connection).await;
    }
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Outcome::Accepted, Outcome::Accepted));
}

/// Scenario: a plugin's file is replaced by one that sleeps for an hour when it is asked what it is, within the limits of
/// its id; meanwhile the file of another plugin is replaced. Then one whose id gives it less.
/// Guarantees: the other plugin's new code serves while the first is still waited for; the sleeper is refused at its
/// deadline, and tried again.
#[tokio::test]
async fn a_file_that_sleeps_holds_up_no_other() {
    let fixture = Fixture::new();
    let hostile = fixture.hostile(mode("accept"), Limits::default()).await;
    let hour = Duration::from_secs(3600);
    let mut part = Part::new("errand", json!({}));
    part.limits = Limits { cpu_deadline: hour, call_deadline: hour, ..Limits::default() };
    let patient = fixture.load("errand").await.exporter(part.clone()).unwrap();
    let sleeper = renamed(wasm("errand"), b"nap-to-describe:none", b"nap-to-describe:hour");
    fs::write(fixture.folder.path().join("aside"), sleeper).unwrap();
    fs::rename(fixture.folder.path().join("aside"), fixture.folder.path().join("errand.wasm")).unwrap();
    fixture.replace(&version("6.6.7"));
    let rescan = tokio::spawn({
        let host = fixture.host.clone();
        async move { host.rescan().await }
    });
    let swapped = async {
        while hostile.generation() == 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), swapped).await.expect("the other plugin is swapped");
    assert!(!rescan.is_finished() && patient.generation() == 1);
    rescan.abort();
    assert!(rescan.await.unwrap_err().is_cancelled());
    drop(patient);

    fs::write(fixture.folder.path().join("errand.wasm"), wasm("errand")).unwrap();
    part.limits.call_deadline = Duration::from_millis(100);
    let _hasty = fixture.load("errand").await.exporter(part).unwrap();
    let sleeper = renamed(wasm("errand"), b"nap-to-describe:none", b"nap-to-describe:hour");
    fs::write(fixture.folder.path().join("errand.wasm"), sleeper).unwrap();
    fixture.host.rescan().await;
    let slot = fixture.host.slots().into_iter().find(|slot| slot.id == "errand").unwrap();
    let why = slot.refused.unwrap();
    assert!(why.contains("call_deadline 100ms") && why.contains("tried again by itself"), "{why}");
}

//! Plugins of one instance that remembers: pages, and readers of targets.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use weir_model::http::{Page, Request, Response};
use weir_model::scrape::{Fetched, Target};
use weir_model::{Exporter as _, Outcome, PageServer as _, Push, Reason, Refusal, Scraper as _};
use weir_plugin::counts::Retirement;
use weir_plugin::{EndKind, Limits, Part, PluginPage, PluginScraper, QuarantineSettings, Wanted};

use super::loading::renamed;
use super::{Fixture, ended, mode, push, wasm};

const MIB: usize = 1 << 20;

/// One whose instances would be retired after each call, if they were.
fn hasty(id: &str) -> Part {
    let mut part = Part::new(id, json!({}));
    part.pool.calls_max = 1;
    part.pool.age_max = Duration::ZERO;
    part
}

impl Fixture {
    async fn page(&self, part: Part) -> Arc<PluginPage> {
        self.load("keeper").await.page(part).unwrap()
    }

    async fn scraper(&self) -> Arc<PluginScraper> {
        self.load("keeper").await.scraper(hasty("keeper/scraper")).unwrap()
    }
}

fn target(job: &str) -> Arc<Target> {
    let labels = vec![("instance".into(), "a:9100".into()), ("job".into(), job.into())];
    Arc::new(Target { job: job.into(), url: "http://a.example:9100/metrics".into(), labels })
}

fn answered(body: &str) -> Fetched {
    let headers = vec![("content-type".into(), "text/plain".into())];
    let body = body.to_owned().into();
    Fetched { at: 5_000, took: 70, answer: Ok(Response { status: 200, headers, body }) }
}

/// What the guest says of a fetch.
async fn digest(scraper: &PluginScraper, job: &str) -> Result<String, Refusal> {
    let batches = scraper.digest(target(job), answered("up 1")).await?;
    assert_eq!(batches.len(), 1);
    Ok(String::from_utf8(batches[0].1.to_vec()).unwrap())
}

async fn serve(page: &PluginPage, path: &str) -> Result<Page, Refusal> {
    let headers = vec![("accept".into(), "text/plain".into())];
    page.serve(Request { method: "GET".into(), target: path.into(), headers, body: "".into() }).await
}

/// The first part of a page.
async fn shown(page: &PluginPage) -> String {
    let page = serve(page, "/metrics").await.unwrap();
    assert_eq!((page.response.status, page.rest.len()), (200, 0));
    String::from_utf8(page.response.body.to_vec()).unwrap()
}

fn reason(refused: Result<impl Sized, Refusal>) -> (Reason, String) {
    match refused {
        Err(refusal @ Refusal::Transient { .. }) => (refusal.reason(), refusal.explain()),
        Err(refusal) => panic!("for good: {}", refusal.explain()),
        Ok(_) => panic!("it was taken"),
    }
}

/// Scenario: a reader of targets is told of fetches, a failed one and one that ends it; its pool's settings would retire
/// it after each call.
/// Guarantees: one instance sees them all, and knows what it knew, until it ends; the next one starts empty, and the end
/// is counted.
#[tokio::test]
async fn a_scraper_remembers_until_its_instance_ends() {
    let fixture = Fixture::new();
    let scraper = fixture.scraper().await;
    let labels = r#"[("instance", "a:9100"), ("job", "x")]"#;
    let said = digest(&scraper, "x").await.unwrap();
    let expected = format!(
        "1: x http://a.example:9100/metrics {labels} at 5000 took 70: 200 [(\"content-type\", \"text/plain\")] up 1"
    );
    assert_eq!(said, expected);
    let failed = Fetched { at: 6_000, took: 80, answer: Err("connection refused".into()) };
    let said = scraper.digest(target("x"), failed).await.unwrap();
    assert!(said[0].1.ends_with(b"at 6000 took 80: connection refused"), "{said:?}");
    assert!(digest(&scraper, "y").await.unwrap().starts_with("3: y "));
    let last = scraper.forget(target("y"), 7_000).await.unwrap();
    assert_eq!(&last[0].1[..], b"forget http://a.example:9100/metrics at 7000");
    assert_eq!((scraper.counts().instances.get(), scraper.counts().calls.get()), (1, 4));

    let (reason, why) = reason(digest(&scraper, "trap").await);
    assert_eq!(reason, Reason::PluginEnded);
    assert_eq!(why, "the plugin of this scraper ended (trap)");
    assert!(digest(&scraper, "x").await.unwrap().starts_with("1: x "), "it starts empty");
    assert_eq!((scraper.counts().instances.get(), scraper.counts().ends.of(EndKind::Trap).get()), (2, 1));
    assert!(Retirement::ALL.iter().all(|why| scraper.counts().retired.of(*why).get() == 0));
}

/// Scenario: digests of eight targets at once.
/// Guarantees: they meet the same instance, one after the other.
#[tokio::test]
async fn calls_of_many_targets_meet_one_instance() {
    let fixture = Fixture::new();
    let scraper = fixture.scraper().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let scraper = Arc::clone(&scraper);
        calls.spawn(async move { digest(&scraper, "x").await.unwrap() });
    }
    let mut said: Vec<String> = calls.join_all().await;
    said.sort();
    let counted: Vec<&str> = said.iter().map(|said| said.split_once(':').unwrap().0).collect();
    assert_eq!(counted, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(scraper.counts().instances.get(), 1);
}

/// Scenario: a guest says what its target is sent: a parameter more, another host, port, scheme, a user, no URL; another
/// method, a body, more headers than fit.
/// Guarantees: it may add to the target's URL and to the headers, and nothing else; the host's own headers are left out.
#[tokio::test]
async fn a_scraper_does_not_choose_where_to_go() {
    let fixture = Fixture::new();
    let scraper = fixture.scraper().await;
    let request = scraper.prepare(target("x")).await.unwrap();
    assert_eq!((&*request.method, &*request.target), ("GET", "http://a.example:9100/metrics?x=1"));
    assert_eq!(request.headers, [("accept".to_owned(), "text/plain".to_owned())]);
    assert_eq!(scraper.prepare(target("headers 64")).await.unwrap().headers.len(), 64);
    scraper.prepare(target("go-to http://A.example:9100/other")).await.unwrap();
    for job in [
        "go-to http://b.example:9100/metrics",
        "go-to http://a.example/metrics",
        "go-to https://a.example:9100/metrics",
        "go-to http://me:too@a.example:9100/metrics",
        "go-to http://a.example:9100@b.example/metrics",
        "go-to /metrics",
        "go-to ",
        "method POST",
        "method get",
        "body x",
        "headers 65",
    ] {
        let (reason, why) = reason(scraper.prepare(target(job)).await);
        assert_eq!(reason, Reason::PluginEnded, "{job}");
        assert_eq!(why, "the plugin of this scraper gave an answer that is not valid", "{job}");
    }
    let (reason, _) = reason(scraper.digest(target("many"), answered("")).await);
    assert_eq!(reason, Reason::PluginEnded, "more batches than fit");
    assert_eq!(scraper.counts().instances.get(), 1, "it goes on");
}

/// Scenario: a page takes two pushes, is asked, ends in a request, takes a push, ends in a push.
/// Guarantees: what it took is on the page until it ends; then it starts empty, and the end is counted; an end by what was
/// pushed is told as an exporter's is.
#[tokio::test]
async fn a_page_shows_what_was_pushed_until_its_instance_ends() {
    let fixture = Fixture::new();
    let page = fixture.page(hasty("keeper/page")).await;
    assert_eq!(page.in_flight_max(), 1);
    assert_eq!(shown(&page).await, "given 0");
    for _ in 0..2 {
        assert_eq!(page.push(push("one")).await, Outcome::Accepted);
    }
    assert_eq!(shown(&page).await, "given 14");
    let outcomes: Vec<(u64, u64)> =
        page.counts().outcomes.iter().map(|(_, pushes, items)| (pushes.get(), items.get())).collect();
    assert_eq!(outcomes[0], (2, 14));
    assert_eq!(page.counts().instances.get(), 1);

    let (reason, why) = reason(serve(&page, "/trap").await);
    assert_eq!((reason, &*why), (Reason::PluginEnded, "the plugin of this page ended (trap)"));
    assert_eq!(shown(&page).await, "given 0");
    assert_eq!(page.push(push("one")).await, Outcome::Accepted);
    let Outcome::Ended { message, blames_records, .. } =
        page.push(Push { body: "trap here".into(), ..push("two") }).await
    else {
        panic!("it was taken")
    };
    assert!(message.contains("page.absorb of delivery two") && message.contains("by_design"), "{message}");
    assert!(blames_records);
    assert_eq!(shown(&page).await, "given 0");
    assert_eq!((page.counts().instances.get(), page.counts().ends.of(EndKind::Trap).get()), (3, 2));
}

/// Scenario: pages in parts: of full length, without any, of a byte too many; one for which there is no memory; a status
/// that is none.
/// Guarantees: parts come in order and are paid for until they are let go; what cannot be served is a refusal for now, and
/// costs the page nothing that it remembers.
#[tokio::test]
async fn a_page_comes_in_parts_that_are_paid_for() {
    let fixture = Fixture::new();
    let page = fixture.page(Part::new("keeper/page", json!({}))).await;
    assert_eq!(page.push(push("one")).await, Outcome::Accepted);
    let before = fixture.ledger.used();
    let whole = serve(&page, "/parts/3/1048576").await.unwrap();
    assert_eq!(&whole.response.body[..], b"begin");
    assert_eq!(whole.response.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    assert_eq!(whole.rest.iter().map(|part| part.len()).collect::<Vec<_>>(), [MIB; 3]);
    let guests = fixture.ledger.used_by_guests();
    assert_eq!(fixture.ledger.used() - guests, (3 * MIB + "begin".len()) as u64);
    drop(whole);
    assert_eq!(fixture.ledger.used(), guests);
    assert!(guests >= before);
    assert_eq!(serve(&page, "/parts/3/0").await.unwrap().rest.len(), 0);

    for path in ["/parts/1/1048577", "/status/99", "/status/600"] {
        assert_eq!(reason(serve(&page, path).await).0, Reason::PluginEnded, "{path}");
    }
    // Large requests have three eighths of the budget: 72 MiB.
    let (reason, why) = reason(serve(&page, "/parts/100/1048576").await);
    assert!(reason == Reason::MemoryFull && why.contains("memory budget"), "{reason:?} {why}");
    assert_eq!(fixture.ledger.used(), fixture.ledger.used_by_guests());
    assert_eq!(shown(&page).await, "given 7");
    assert_eq!(page.counts().instances.get(), 1);
}

/// Scenario: nobody reads pages of 10 MiB of two exporters, of which the budget of 192 MiB has room for seven; then one is let go.
/// Guarantees: those beyond the pages' part are refused for now, so that a large request finds room; a small page is served all
/// the while, and a large one again when there is room.
#[tokio::test]
async fn pages_that_nobody_reads_do_not_take_the_room_of_requests() {
    const TEN: &str = "/parts/10/1048576";
    let fixture = Fixture::new();
    let pages = [
        fixture.page(Part::new("keeper/one", json!({}))).await,
        fixture.page(Part::new("keeper/two", json!({}))).await,
    ];
    let mut held = Vec::new();
    for page in [&pages[0], &pages[1], &pages[0]] {
        held.push(serve(page, TEN).await.unwrap());
    }
    for page in &pages {
        let (reason, why) = reason(serve(page, TEN).await);
        assert!(reason == Reason::MemoryFull && why.contains("25165824 bytes"), "{reason:?} {why}");
        assert_eq!(shown(page).await, "given 0");
    }
    weir_net::budget::claim(&fixture.ledger, 32 << 20).unwrap();
    held.pop();
    held.push(serve(&pages[1], TEN).await.unwrap());
    assert_eq!(held.iter().map(|page| page.rest.len()).sum::<usize>(), 30);
}

/// Scenario: a page has more than half of the memory that it may have, and idle; then another plugin takes all memory that
/// there is.
/// Guarantees: the page is not given up for anybody; the other one ends.
#[tokio::test]
async fn nobody_gets_the_memory_of_one_that_remembers() {
    let fixture = Fixture::new();
    let page = fixture.page(Part::new("keeper/page", json!({}))).await;
    assert_eq!(page.push(Push { body: "grow 50".into(), ..push("one") }).await, Outcome::Accepted);
    assert!(page.idle_bytes() > 50 * MIB);
    let limits = Limits { memory_bytes: 1 << 30, ..Limits::default() };
    let growing = fixture.hostile(mode("grow"), limits).await;
    assert_eq!(ended(growing.push(push("two")).await).0, "memory_budget");
    assert_eq!(shown(&page).await, "given 7");
    assert_eq!(page.counts().instances.get(), 1);
}

/// Scenario: a page takes 150 MiB where it may have 64, where it may have 1024 and the process has 192, and where the
/// process has 512.
/// Guarantees: the end names the limit that it met and the key that raises it; with room it takes them, and keeps them.
#[tokio::test]
async fn a_page_may_have_as_much_memory_as_the_operator_says() {
    let mut fixture = Fixture::new();
    let large = || Push { body: "grow 150".into(), ..push("one") };
    let limits = |mebibytes: usize| Limits { memory_bytes: mebibytes * MIB, ..Limits::default() };
    let part = |mebibytes| Part { limits: limits(mebibytes), ..Part::new("keeper/page", json!({})) };
    let (kind, why) = ended(fixture.page(part(64)).await.push(large()).await);
    assert!(kind == "memory_limit" && why.contains("memory limit 64 MiB reached"), "{why}");
    assert!(why.contains("limits.memory_mib"), "{why}");
    let (kind, why) = ended(fixture.page(part(1024)).await.push(large()).await);
    assert!(kind == "memory_limit" && why.contains("the plugins' part of it (96 MiB)"), "{why}");
    assert!(why.contains("service.memory.limit_mib"), "{why}");

    fixture = Fixture::with_budget(fixture.folder, 512 * MIB as u64);
    let page = fixture.page(part(200)).await;
    assert_eq!(page.push(large()).await, Outcome::Accepted);
    assert!(page.idle_bytes() > 150 * MIB);
    assert_eq!(shown(&page).await, "given 7");
    assert_eq!(page.counts().retired.of(Retirement::Memory).get(), 0);
}

/// Scenario: nobody waits for a push any more as soon as it has begun.
/// Guarantees: it goes on, and the page goes on with it.
#[tokio::test]
async fn a_push_that_nobody_waits_for_is_taken() {
    let fixture = Fixture::new();
    let page = fixture.page(Part::new("keeper/page", json!({}))).await;
    assert_eq!(shown(&page).await, "given 0");
    let mut pushing = page.push(push("one"));
    // One thread: the call is spawned, and does not run before this one waits.
    let is_under_way = poll_fn(|context| Poll::Ready(pushing.as_mut().poll(context).is_pending())).await;
    assert!(is_under_way);
    drop(pushing);
    assert_eq!(shown(&page).await, "given 7");
    assert_eq!(page.counts().instances.get(), 1);
}

/// Scenario: other code takes the file's place; the first code comes back and is released.
/// Guarantees: each serves, and starts empty; an operator sees what the ids are.
#[tokio::test]
async fn other_code_starts_empty() {
    let fixture = Fixture::new();
    let (page, scraper) = (fixture.page(hasty("keeper/page")).await, fixture.scraper().await);
    assert_eq!(page.push(push("one")).await, Outcome::Accepted);
    assert!(digest(&scraper, "x").await.unwrap().starts_with("1: "));
    let other = renamed(wasm("keeper"), b"counts what it was given", b"counts what it was shown");
    for code in [&other[..], wasm("keeper")] {
        let aside = fixture.folder.path().join("aside");
        std::fs::write(&aside, code).unwrap();
        std::fs::rename(aside, fixture.folder.path().join("keeper.wasm")).unwrap();
        fixture.host.rescan().await;
        assert_eq!(shown(&page).await, "given 0");
        assert!(digest(&scraper, "x").await.unwrap().starts_with("1: "));
        assert_eq!(page.push(push("one")).await, Outcome::Accepted);
    }
    assert_eq!(shown(&page).await, "given 7");
    assert_eq!((page.generation(), scraper.generation()), (3, 3));
    let slots = fixture.host.slots();
    let seen: Vec<_> = slots.iter().map(|slot| (slot.wanted, &*slot.id, slot.generation)).collect();
    assert_eq!(seen, [(Wanted::Page, "keeper/page", 3), (Wanted::Scraper, "keeper/scraper", 3)]);
    assert_eq!([Wanted::Page, Wanted::Scraper].map(Wanted::noun), ["exporter", "receiver"]);
    assert!(page.release());
    assert_eq!(shown(&page).await, "given 0");

    // Code without the interface leaves the one from before at work.
    std::fs::write(fixture.folder.path().join("keeper.wasm"), wasm("hostile")).unwrap();
    fixture.host.rescan().await;
    for slot in fixture.host.slots() {
        let why = slot.refused.unwrap();
        assert!(why.contains("plugin keeper is no ") && why.contains("weir:plugin/exporter"), "{why}");
    }
    assert!(digest(&scraper, "x").await.unwrap().starts_with("2: "));
}

/// Scenario: a page that may import the client is granted an origin, and sends there.
/// Guarantees: it is denied: whoever fetches the page would wait for a backend.
#[tokio::test]
async fn one_that_remembers_sends_nowhere() {
    let fixture = Fixture::new();
    let mut part = Part::new("keeper/page", json!({}));
    part.grants.egress = vec!["http://127.0.0.1:9".into()];
    let page = fixture.page(part).await;
    let said = serve(&page, "/send").await.unwrap().response.body;
    let said = String::from_utf8(said.to_vec()).unwrap();
    assert!(said.contains("Denied") && said.contains("not granted"), "{said}");
    assert_eq!((page.counts().denials.get(), page.counts().requests.get()), (1, 0));
}

/// Scenario: a reader of targets ends twice, then more is asked of it, then it is released.
/// Guarantees: an end is told apart from a refusal in quarantine, where nothing is called; after the release it is.
#[tokio::test]
async fn one_that_remembers_is_kept_from_work_too() {
    let fixture = Fixture::new();
    let hour = Duration::from_secs(3600);
    let quarantine = QuarantineSettings { ends_max: 2, window: hour, first: hour, longest: hour };
    let part = Part { quarantine, ..hasty("keeper/scraper") };
    let scraper = fixture.load("keeper").await.scraper(part).unwrap();
    for _ in 0..2 {
        let refusal = digest(&scraper, "trap").await.unwrap_err();
        assert!(refusal.is_end_by_input(), "{refusal:?}");
        assert_eq!(reason(Err::<(), _>(refusal)).1, "the plugin of this scraper ended (trap)");
    }
    let refusal = digest(&scraper, "x").await.unwrap_err();
    assert!(!refusal.is_end_by_input(), "others are not held back for it");
    let (reason, why) = reason(Err::<(), _>(refusal));
    assert_eq!((reason, &*why), (Reason::PluginEnded, "the plugin of this scraper is in quarantine"));
    assert_eq!(scraper.counts().instances.get(), 2);
    assert!(scraper.quarantine().is_some() && scraper.release());
    assert!(digest(&scraper, "x").await.unwrap().starts_with("1: "));
}

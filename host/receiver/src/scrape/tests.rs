//! Whole receivers that fetch, with a fetcher, a plugin and pipelines that are scripts, on a clock that only moves when all wait.

mod offers;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use weir_model::count::ReceiverCounts;
use weir_model::http::{Request, Response};
use weir_model::scrape::{Fetched, Target};
use weir_model::{
    Arrival, BoxFuture, Consumer, EndedByInput, Held, Ledger, Reason, Receipt, Refusal, Seq, Signal,
};
use weir_net::address::Origin;

use super::counts::{FailureKind, LateKind};
use super::fetch::{Failure, Order};
use super::*;
use crate::door::Pipelines;

/// When the tests' clock begins: no round number.
const BEGIN: u64 = 1_700_000_003_210_000_000;

const INTERVAL: Duration = Duration::from_secs(15);

/// A wall clock that goes with the runtime's.
struct Wall(Instant);

impl Clock for Wall {
    fn unix_nanos(&self) -> u64 {
        BEGIN + self.0.elapsed().as_nanos() as u64
    }
}

/// Answers after 20 ms; a host that begins with `dead` never does, and the address of one that begins with `dark` is given up after
/// 4 s.
#[derive(Default)]
struct Scripted {
    begun: Mutex<Vec<(String, Instant)>>,
    now: Mutex<(usize, usize)>,
    reached: Mutex<HashSet<Origin>>,
}

impl Fetch for Scripted {
    fn fetch(&self, order: Order) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(async move {
            self.begun.lock().unwrap().push((order.request.target.clone(), Instant::now()));
            let under_way = Count::begin(&self.now);
            let begins = |with: &str| order.request.target.starts_with(with);
            let (takes, fails) = match (begins("http://dead"), begins("http://dark")) {
                (true, _) => (order.timeout, Some(FailureKind::Timeout)),
                (_, true) => (Duration::from_secs(4).min(order.timeout), Some(FailureKind::Transport)),
                _ => (Duration::from_millis(20), None),
            };
            sleep(takes).await;
            drop(under_way);
            match fails {
                Some(kind) => Err(Failure { kind, text: "no response".to_owned() }),
                None => {
                    Ok(Response { status: 200, headers: Vec::new(), body: Bytes::from_static(b"up 1\n") })
                }
            }
        })
    }

    fn reach(&self, origins: HashSet<Origin>) {
        *self.reached.lock().unwrap() = origins;
    }
}

/// One that is under way: how many now, how many at most.
struct Count<'a>(&'a Mutex<(usize, usize)>);

impl<'a> Count<'a> {
    fn begin(count: &'a Mutex<(usize, usize)>) -> Self {
        let mut now = count.lock().unwrap();
        *now = (now.0 + 1, now.1.max(now.0 + 1));
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

/// A plugin that notes what it is told, and makes an empty batch of metrics or one gauge.
#[derive(Default)]
struct Reader {
    told: Mutex<Vec<(String, Told)>>,
    prepared: Mutex<HashMap<String, usize>>,
    generation: Mutex<u64>,
    /// What a digest brings.
    makes: Vec<(Signal, Bytes)>,
    ends: Mutex<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Read { at: u64, is_up: bool },
    Forgotten { at: u64 },
}

impl Reader {
    fn bringing() -> Arc<Self> {
        Self::making(vec![(Signal::Metrics, gauge())])
    }

    fn making(makes: Vec<(Signal, Bytes)>) -> Arc<Self> {
        Arc::new(Self { makes, ..Self::default() })
    }

    fn told(&self, host: &str) -> Vec<Told> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(url, _)| url.contains(host)).map(|(_, told)| told.clone()).collect()
    }

    fn tell(&self, target: &Target, told: Told) {
        self.told.lock().unwrap().push((target.url.clone(), told));
    }
}

impl Scraper for Reader {
    fn prepare(&self, target: Arc<Target>) -> BoxFuture<'_, Result<Request, Refusal>> {
        *self.prepared.lock().unwrap().entry(target.url.clone()).or_default() += 1;
        let target = target.url.clone();
        let request = Request { method: "GET".to_owned(), target, headers: Vec::new(), body: Bytes::new() };
        Box::pin(std::future::ready(Ok(request)))
    }

    fn digest(
        &self,
        target: Arc<Target>,
        fetched: Fetched,
    ) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>> {
        let mut ends = self.ends.lock().unwrap();
        if *ends > 0 {
            *ends -= 1;
            let ended = Refusal::transient(Reason::PluginEnded, None, "the instance ended");
            return Box::pin(std::future::ready(Err(ended)));
        }
        if target.url.contains("fatal") && fetched.answer.is_ok() {
            let why = EndedByInput("the instance ended".to_owned());
            let ended = Refusal::transient(Reason::PluginEnded, None, why);
            return Box::pin(std::future::ready(Err(ended)));
        }
        self.tell(&target, Told::Read { at: fetched.at, is_up: fetched.answer.is_ok() });
        Box::pin(std::future::ready(Ok(self.makes.clone())))
    }

    fn forget(&self, target: Arc<Target>, at: u64) -> BoxFuture<'_, Result<Vec<(Signal, Bytes)>, Refusal>> {
        self.tell(&target, Told::Forgotten { at });
        Box::pin(std::future::ready(Ok(self.makes.clone())))
    }

    fn generation(&self) -> u64 {
        *self.generation.lock().unwrap()
    }
}

/// A request of one gauge with one point, by hand: resource, scope, metric, gauge, point with a time and a value.
fn gauge() -> Bytes {
    let mut body = [&[0x19][..], &1_u64.to_le_bytes(), &[0x21], &1.0_f64.to_le_bytes()].concat();
    for tag in [0x0a, 0x2a] {
        body = [&[tag, body.len() as u8][..], &body].concat();
    }
    body = [&[0x0a, 2, b'u', b'p'][..], &body].concat();
    for tag in [0x12, 0x12, 0x0a] {
        body = [&[tag, body.len() as u8][..], &body].concat();
    }
    Bytes::from(body)
}

/// A pipeline that refuses while it is told to.
#[derive(Default)]
struct Pipe {
    taken: Mutex<Vec<Arrival>>,
    is_full: Mutex<bool>,
    asked: Mutex<usize>,
}

impl Consumer for Pipe {
    fn consume(&self, arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>> {
        *self.asked.lock().unwrap() += 1;
        let claim = arrival.claim.as_ref().expect("an arrival is paid for");
        assert!(claim.bytes() >= arrival.body.len() as u64);
        let answer = match *self.is_full.lock().unwrap() {
            true => Err(Refusal::transient(Reason::QueueFull, None, "the queue is full")),
            false => {
                self.taken.lock().unwrap().push(arrival);
                Ok(Receipt::Held(Held::vouch(Seq(1))))
            }
        };
        Box::pin(std::future::ready(answer))
    }
}

struct Site {
    fetch: Arc<Scripted>,
    reader: Arc<Reader>,
    pipe: Arc<Pipe>,
    counts: ScrapeCounts,
    of_receiver: ReceiverCounts,
    ledger: Arc<Ledger>,
    legacy: Legacy,
    began: Instant,
    drain: Drain,
    serving: JoinHandle<io::Result<()>>,
}

impl Site {
    fn serve(jobs: Vec<Job>, reader: Arc<Reader>, pipe: Arc<Pipe>, legacy: Legacy) -> Self {
        Self::serve_since(Instant::now(), jobs, reader, pipe, legacy)
    }

    /// With a wall clock that began then.
    fn serve_since(
        began: Instant,
        jobs: Vec<Job>,
        reader: Arc<Reader>,
        pipe: Arc<Pipe>,
        legacy: Legacy,
    ) -> Self {
        let (fetch, drain) = (Arc::<Scripted>::default(), Drain::new());
        let (counts, of_receiver) = (ScrapeCounts::default(), ReceiverCounts::default());
        let ledger = Ledger::new(64 << 20);
        let settings = Settings {
            id: "prometheus".into(),
            pipelines: Pipelines::all(Arc::clone(&pipe) as Arc<dyn Consumer>).into(),
            ledger: Arc::clone(&ledger),
            counts: of_receiver.clone(),
        };
        let intake = Intake::new(settings, CountLimits::default());
        let scraper = Arc::clone(&reader) as Arc<dyn Scraper>;
        let (to, clock) = (Arc::clone(&fetch) as Arc<dyn Fetch>, Arc::new(Wall(began)));
        let ready = Ready::with(jobs, scraper, to, clock, intake, counts.clone(), legacy.clone());
        let serving = tokio::spawn(ready.serve(drain.clone()));
        Self { fetch, reader, pipe, counts, of_receiver, ledger, legacy, began, drain, serving }
    }

    fn of(jobs: Vec<Job>) -> Self {
        Self::serve(jobs, Reader::bringing(), Arc::default(), Legacy::default())
    }

    async fn end(self) -> Arc<Reader> {
        self.drain.signal();
        self.serving.await.unwrap().unwrap();
        self.reader
    }
}

fn job(targets: Vec<String>) -> Job {
    Job { interval: INTERVAL, groups: vec![Group { targets, labels: Vec::new() }], ..Job::named("j") }
}

fn one(host: &str) -> Job {
    job(vec![format!("{host}:1")])
}

/// Lets the tests' time go on.
async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// Scenario: ten thousand targets, every tenth dead, an interval of 15 s and a timeout of 10 s, for ten intervals.
/// Guarantees: each is fetched once an interval and at its own moment, dead ones too; none is late; they are spread over the
/// interval; fewer are under way than may be.
#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_are_fetched_in_time_though_a_tenth_is_dead() {
    let host = |index: usize| {
        if index.is_multiple_of(10) { format!("dead{index}:1") } else { format!("live{index}:1") }
    };
    let reader = Arc::new(Reader::default());
    let site =
        Site::serve(vec![job((0..10_000).map(host).collect())], reader, Arc::default(), Legacy::default());
    // Time may go on a little before the targets are known.
    sleep(10 * INTERVAL + Duration::from_secs(1)).await;
    let begun = site.fetch.begun.lock().unwrap().clone();
    let mut by_target: HashMap<&str, Vec<Instant>> = HashMap::new();
    let mut seconds = [0_usize; 15];
    for (target, at) in &begun {
        by_target.entry(target).or_default().push(*at);
        seconds[(at.duration_since(site.began).as_secs() % 15) as usize] += 1;
    }
    assert_eq!(by_target.len(), 10_000);
    for (target, turns) in by_target {
        assert!((10..=11).contains(&turns.len()), "{target}: {}", turns.len());
        let gaps = turns.windows(2).map(|pair| pair[1] - pair[0]);
        // The runtime's timers are as fine as a millisecond.
        assert!(gaps.into_iter().all(|gap| gap.abs_diff(INTERVAL) <= Duration::from_millis(2)), "{target}");
    }
    assert!(seconds.iter().all(|count| (5_000..8_500).contains(count)), "not spread: {seconds:?}");
    for kind in LateKind::ALL {
        assert_eq!(site.counts.late(kind).get(), 0, "{kind:?}");
    }
    assert!(site.fetch.now.lock().unwrap().1 < 1_000, "{:?}", site.fetch.now);
    assert_eq!(site.counts.targets.get(), 10_000);
    assert!(site.counts.failed(FailureKind::Timeout).get() >= 9_000);
    site.end().await;
}

/// Scenario: far more dead targets than may be under way at once, and some living ones, for ten intervals; the dead take their whole
/// time, or are given up sooner.
/// Guarantees: whoever has answered once is fetched in every interval from then on, and all the living but a few are; the dead that
/// find no room are passed over and counted.
#[tokio::test(start_paused = true)]
async fn the_dead_leave_room_for_the_living() {
    leave_room("dead", 6_000).await;
    leave_room("dark", 12_000).await;
}

async fn leave_room(kind: &str, count: usize) {
    let dead = (0..count).map(|index| format!("{kind}{index}:1"));
    let live = (0..500).map(|index| format!("live{index}:1"));
    let site = Site::of(vec![job(dead.chain(live).collect())]);
    sleep(10 * INTERVAL).await;
    let mut living: HashMap<String, Vec<Instant>> = HashMap::new();
    for (target, at) in site.fetch.begun.lock().unwrap().iter() {
        if target.starts_with("http://live") {
            living.entry(target.clone()).or_default().push(*at);
        }
    }
    for (target, turns) in &living {
        let mut gaps = turns.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.all(|gap| gap.abs_diff(INTERVAL) <= Duration::from_millis(2)), "{target}: {turns:?}");
    }
    assert!(living.len() > 400, "{} of 500", living.len());
    assert!(site.counts.late(LateKind::NoRoom).get() > 0);
    assert!(site.fetch.now.lock().unwrap().1 <= weir_net::client::FETCHES_MAX);
    site.end().await;
}

/// Scenario: one target, fetched thrice, and the plugin's code replaced before the third time.
/// Guarantees: the plugin is told when each turn was due, hears of the body, and is asked what to send once for each code.
#[tokio::test(start_paused = true)]
async fn a_plugin_is_told_when_a_turn_was_due() {
    let site = Site::of(vec![one("live")]);
    pass(31).await;
    *site.reader.generation.lock().unwrap() = 1;
    pass(15).await;
    let told = site.reader.told("live");
    let at = |told: &Told| match told {
        Told::Read { at, is_up: true } => *at,
        other => panic!("{other:?}"),
    };
    let times: Vec<u64> = told.iter().map(at).collect();
    assert!(times.len() >= 3, "{times:?}");
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| gap.abs_diff(INTERVAL.as_nanos() as u64) <= 2_000_000), "{gaps:?}");
    assert_eq!(site.reader.prepared.lock().unwrap().values().sum::<usize>(), 2);
    assert_eq!(site.pipe.taken.lock().unwrap().len(), times.len());
    assert_eq!(site.of_receiver.accepted.of(Signal::Metrics).get(), times.len() as u64);
    assert_eq!(site.counts.bytes.get(), 5 * times.len() as u64);
    let reached: Vec<String> = site.fetch.reached.lock().unwrap().iter().map(Origin::to_string).collect();
    assert_eq!(reached, ["http://live:1"]);
    site.end().await;
}

/// Scenario: a timeout as long as the interval, and a fetch that takes all of it.
/// Guarantees: a turn is never begun beside the one before; the failure is told to the plugin.
#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_no_turn_before() {
    let slow = Job { timeout: INTERVAL, ..one("dead") };
    let site = Site::of(vec![slow]);
    pass(120).await;
    assert_eq!(site.fetch.now.lock().unwrap().1, 1);
    let told = site.reader.told("dead");
    assert!(told.iter().all(|told| matches!(told, Told::Read { is_up: false, .. })), "{told:?}");
    let begun = site.fetch.begun.lock().unwrap().len() as u64;
    assert!(begun + site.counts.late(LateKind::Running).get() >= 7, "{begun}");
    site.end().await;
}

/// Scenario: the pipeline is full for four seconds; then it is full for good.
/// Guarantees: what was refused is offered again and taken; what is refused until the next turn is dropped and counted.
#[tokio::test(start_paused = true)]
async fn refused_batches_are_offered_until_the_next_turn() {
    let site = Site::of(vec![one("live")]);
    *site.pipe.is_full.lock().unwrap() = true;
    while *site.pipe.asked.lock().unwrap() < 4 {
        sleep(Duration::from_millis(50)).await;
    }
    *site.pipe.is_full.lock().unwrap() = false;
    pass(6).await;
    assert_eq!(site.pipe.taken.lock().unwrap().len(), 1);
    let dropped = |site: &Site| site.of_receiver.dropped.of(Signal::Metrics, Reason::QueueFull).get();
    assert_eq!(dropped(&site), 0);
    *site.pipe.is_full.lock().unwrap() = true;
    sleep(3 * INTERVAL).await;
    assert!((2..=3).contains(&dropped(&site)), "{}", dropped(&site));
    assert_eq!(
        site.counts.late(LateKind::Running).get(),
        0,
        "a batch that waits does not cost the next turn"
    );
    site.end().await;
}

/// Scenario: the plugin's instance ends while it reads.
/// Guarantees: that scrape is counted as lost, and the next is read.
#[tokio::test(start_paused = true)]
async fn a_plugin_that_ends_costs_one_scrape() {
    let site = Site::of(vec![one("live")]);
    *site.reader.ends.lock().unwrap() = 1;
    sleep(3 * INTERVAL).await;
    assert_eq!(site.counts.failed(FailureKind::Plugin).get(), 1);
    assert!(site.reader.told("live").len() >= 2);
    site.end().await;
}

/// Scenario: a target leaves its file while the receiver runs, and comes back.
/// Guarantees: the plugin says the last of it once, at that time, and it is handed on; it is fetched no more, until it is back.
#[tokio::test(start_paused = true)]
async fn a_target_that_leaves_is_forgotten() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("targets.json");
    let write = |text: &str| {
        std::fs::write(folder.path().join(".new"), text).unwrap();
        std::fs::rename(folder.path().join(".new"), &path).unwrap();
    };
    write(r#"[{"targets": ["goes:1", "stays:1"]}]"#);
    let files = TargetFiles { patterns: vec![path.clone()], refresh: Duration::from_secs(300) };
    let site = Site::of(vec![Job { interval: INTERVAL, files: vec![files], ..Job::named("j") }]);
    sleep(2 * INTERVAL).await;
    assert!(!site.reader.told("goes").is_empty());
    write(r#"[{"targets": ["stays:1"]}]"#);
    pass(5).await;
    let told = site.reader.told("goes");
    let now = BEGIN + site.began.elapsed().as_nanos() as u64;
    let Some(Told::Forgotten { at }) = told.last() else { panic!("{told:?}") };
    assert!(now - at < 6_000_000_000);
    sleep(2 * INTERVAL).await;
    assert_eq!(site.reader.told("goes"), told);
    assert_eq!(site.counts.targets.get(), 1);
    write(r#"[{"targets": ["goes:1", "stays:1"]}]"#);
    sleep(2 * INTERVAL).await;
    assert!(matches!(site.reader.told("goes").last(), Some(Told::Read { .. })));
    assert!(!site.reader.told("stays").iter().any(|told| matches!(told, Told::Forgotten { .. })));
    let handed_on = site.pipe.taken.lock().unwrap().len();
    assert_eq!(handed_on, site.reader.told.lock().unwrap().len());
    site.end().await;
}

/// Scenario: the process ends while a dead target is waited for.
/// Guarantees: it ends at once, and nothing is forgotten.
#[tokio::test(start_paused = true)]
async fn an_end_waits_for_no_fetch_and_forgets_nothing() {
    let site = Site::of(vec![job(vec!["dead:1".to_owned(), "live:1".to_owned()])]);
    while site.fetch.now.lock().unwrap().0 == 0 || site.reader.told("live").is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    let reader = site.end().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(!reader.told.lock().unwrap().iter().any(|(_, told)| matches!(told, Told::Forgotten { .. })));
}

/// Scenario: a reload takes one of two targets; then the receiver leaves the configuration.
/// Guarantees: the plugin that knew it forgets the first, and the second only when the receiver leaves; a target that stays has the
/// same moment as before.
#[tokio::test(start_paused = true)]
async fn a_reload_forgets_what_it_takes_away_and_keeps_the_rest() {
    let both = job(vec!["goes:1".to_owned(), "stays:1".to_owned()]);
    let first = Site::of(vec![both]);
    let targets = first.counts.targets.clone();
    sleep(2 * INTERVAL).await;
    let (pipe, legacy, wall) = (Arc::clone(&first.pipe), first.legacy.clone(), first.began);
    let places = |site: &Site| -> Vec<u128> {
        let begun = site.fetch.begun.lock().unwrap();
        let of = begun.iter().filter(|(target, _)| target.contains("stays"));
        of.map(|(_, at)| at.duration_since(wall).as_millis() % INTERVAL.as_millis()).collect()
    };
    let before = places(&first);
    let reader = first.end().await;
    assert_eq!(targets.get(), 2, "how many there are is the next run's to say");
    let second = Site::serve_since(wall, vec![one("stays")], Arc::clone(&reader), pipe, legacy);
    sleep(2 * INTERVAL).await;
    assert!(matches!(reader.told("goes").last(), Some(Told::Forgotten { .. })), "{:?}", reader.told("goes"));
    let kept = reader.told("stays");
    assert!(!kept.iter().any(|told| matches!(told, Told::Forgotten { .. })), "{kept:?}");
    let all = [before, places(&second)].concat();
    assert!(all.len() >= 4 && all.iter().all(|place| place.abs_diff(all[0]) <= 2), "{all:?}");
    second.legacy.bid_farewell();
    let reader = second.end().await;
    assert!(matches!(reader.told("stays").last(), Some(Told::Forgotten { .. })));
}

/// Scenario: a reload, and the receiver leaves before the target that stayed has had another turn.
/// Guarantees: the plugin that knew it is told of its end all the same.
#[tokio::test(start_paused = true)]
async fn what_a_run_before_has_read_is_forgotten_though_it_was_not_read_again() {
    let first = Site::of(vec![one("stays")]);
    while first.reader.told("stays").is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let (pipe, legacy, wall) = (Arc::clone(&first.pipe), first.legacy.clone(), first.began);
    let reader = first.end().await;
    let second = Site::serve_since(wall, vec![one("stays")], reader, pipe, legacy);
    let targets = second.counts.targets.clone();
    pass(1).await;
    assert!((targets.get(), second.fetch.begun.lock().unwrap().len()) == (1, 0));
    second.legacy.bid_farewell();
    let told = second.end().await.told("stays");
    assert!(matches!(told[..], [Told::Read { .. }, Told::Forgotten { .. }]), "{told:?}");
    assert_eq!(targets.get(), 0);
}

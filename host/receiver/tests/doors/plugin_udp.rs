//! The door of a plugin that receives datagrams: nobody is answered, and nothing is lost without a count.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weir_model::{BoxFuture, DatagramReceiver, Ledger, Reason, Refusal, Signal};
use weir_net::datagrams::DATAGRAM_BYTES_MAX;
use weir_receiver::plugin_udp::Config;
use weir_receiver::{BindError, Bound, Pipelines};

use crate::harness::{DEADLINE, Say, Scripted, Served, eventually, serve, settings, traces};

/// A plugin whose datagrams are OTLP already, but for a first byte that says what to do.
struct Recorder {
    listeners: Mutex<Vec<String>>,
    /// Bytes as they came, which it does not let go of.
    held: Mutex<Vec<Bytes>>,
    /// Says that a datagram may go on.
    gate: Semaphore,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { listeners: Mutex::default(), held: Mutex::default(), gate: Semaphore::new(0) }
    }
}

impl DatagramReceiver for Recorder {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        datagram: Bytes,
    ) -> BoxFuture<'a, Result<Result<Vec<(Signal, Bytes)>, String>, Refusal>> {
        Box::pin(async move {
            self.listeners.lock().unwrap().push(listener.to_owned());
            // A copy, as a guest has one.
            let body = Bytes::copy_from_slice(datagram.get(1..).unwrap_or_default());
            match datagram.first() {
                Some(b'w') => {
                    self.held.lock().unwrap().push(datagram);
                    self.gate.acquire().await.unwrap().forget();
                    self.held.lock().unwrap().clear();
                    Ok(Ok(vec![(Signal::Traces, body)]))
                }
                Some(b'g') => Ok(Ok(vec![(Signal::Traces, Bytes::from_static(b"\xff"))])),
                Some(b'e') => Err(Refusal::transient(Reason::PluginEnded, None, "the instance ended")),
                Some(b'2') => Ok(Ok(vec![
                    (Signal::Traces, body.clone()),
                    (Signal::Logs, Bytes::new()),
                    (Signal::Traces, body),
                ])),
                Some(b't') => Ok(Ok(vec![(Signal::Traces, body)])),
                Some(_) | None => Ok(Err("this is no telemetry".to_owned())),
            }
        })
    }
}

fn serve_plugin(consumer: &Arc<Scripted>, ledger_bytes: u64) -> (Served, Arc<Recorder>) {
    let ledger = Ledger::new(ledger_bytes);
    let settings = settings(Pipelines::all(Arc::clone(consumer) as _), &ledger);
    let counts = settings.counts.clone();
    let plugin = Arc::new(Recorder::default());
    let mut bound = Bound::new();
    Config::at("127.0.0.1:0").bind(&mut bound, "compact", Arc::clone(&plugin) as _, settings).unwrap();
    (serve(bound, counts, ledger), plugin)
}

/// A socket that sends to this address.
fn sender(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(addr).unwrap();
    socket
}

fn datagram(what: u8, spans: usize, invalid: usize) -> Vec<u8> {
    [vec![what], traces(spans, invalid).encode_to_vec()].concat()
}

fn dropped(served: &Served, reason: Reason) -> u64 {
    served.counts.datagrams_dropped.of(reason).get()
}

/// Scenario: datagrams with spans, some of them invalid, and one with several batches of a signal.
/// Guarantees: each is one arrival, byte for byte but for what is invalid, which is counted; memory comes back.
#[tokio::test]
async fn what_a_datagram_holds_arrives() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, 64 << 20);
    let sender = sender(served.addr("udp"));
    sender.send(&datagram(b't', 3, 1)).unwrap();
    eventually("the first is taken", || served.counts.accepted.of(Signal::Traces).get() == 3).await;
    sender.send(&datagram(b'2', 2, 0)).unwrap();
    eventually("the second is taken", || served.counts.accepted.of(Signal::Traces).get() == 7).await;
    let arrivals = consumer.taken();
    assert_eq!(arrivals.len(), 2);
    assert_eq!(arrivals[0].body, traces(3, 0).encode_to_vec());
    assert_eq!(arrivals[1].body, [traces(2, 0).encode_to_vec(), traces(2, 0).encode_to_vec()].concat());
    assert!(
        arrivals.iter().all(|arrival| arrival.claim.as_ref().unwrap().bytes() >= arrival.body.len() as u64)
    );
    assert_eq!(served.counts.dropped.of(Signal::Traces, Reason::InvalidItem).get(), 1);
    assert_eq!(served.counts.requests.get(), 2);
    assert_eq!(*plugin.listeners.lock().unwrap(), ["compact", "compact"]);
    drop(arrivals);
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// Scenario: datagrams that are no telemetry, empty, too large, of which the plugin makes no OTLP, at which it ends; then a
/// good one.
/// Guarantees: each is counted once with its reason, nothing is answered, and the good one arrives.
#[tokio::test]
async fn what_is_lost_is_counted_with_its_reason() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, 64 << 20);
    let sender = sender(served.addr("udp"));
    for (count, (wrong, reason)) in [
        (vec![b'?'; 100], Reason::Malformed),
        (Vec::new(), Reason::Malformed),
        (b"g".to_vec(), Reason::Malformed),
        (vec![b't'; DATAGRAM_BYTES_MAX + 1], Reason::TooLarge),
        (b"e".to_vec(), Reason::PluginEnded),
    ]
    .into_iter()
    .enumerate()
    {
        let before = dropped(&served, reason);
        sender.send(&wrong).unwrap();
        eventually("it is counted", || dropped(&served, reason) == before + 1).await;
        assert_eq!(served.counts.requests.get(), count as u64 + 1);
    }
    sender.send(&datagram(b't', 1, 0)).unwrap();
    eventually("the good one is taken", || consumer.arrivals_seen() == 1).await;
    sender.set_nonblocking(true).unwrap();
    assert_eq!(sender.recv(&mut [0; 10]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(served.counts.requests_refused.get(), 0, "nobody was told");
}

/// Scenario: the pipeline refuses for now, and for good; then it takes.
/// Guarantees: the items are counted as dropped with the reason, not as refused: no sender was told.
#[tokio::test]
async fn what_a_pipeline_refuses_is_counted_as_dropped() {
    let consumer = Scripted::saying([Say::ForNow(None), Say::ForGood]);
    let (served, _) = serve_plugin(&consumer, 64 << 20);
    let sender = sender(served.addr("udp"));
    let counts = &served.counts;
    for (reason, spans) in [(Reason::QueueFull, 3), (Reason::Malformed, 2)] {
        sender.send(&datagram(b't', spans, 0)).unwrap();
        eventually("it is counted", || counts.dropped.of(Signal::Traces, reason).get() == spans as u64).await;
        assert_eq!(counts.refused.of(Signal::Traces, reason).get(), 0);
    }
    sender.send(&datagram(b't', 1, 0)).unwrap();
    eventually("the next is taken", || counts.accepted.of(Signal::Traces).get() == 1).await;
}

/// Scenario: the budget of memory has no room, then it has.
/// Guarantees: what cannot be paid for is counted and kept nowhere; what can be is taken.
#[tokio::test]
async fn what_cannot_be_paid_for_is_dropped() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, 1 << 20);
    let sender = sender(served.addr("udp"));
    let others = served.ledger.claim((1 << 20) - 10).unwrap();
    sender.send(&datagram(b't', 1, 0)).unwrap();
    eventually("it is counted", || dropped(&served, Reason::MemoryFull) == 1).await;
    drop(others);
    sender.send(&datagram(b't', 1, 0)).unwrap();
    eventually("it is taken", || consumer.arrivals_seen() == 1).await;
}

/// Scenario: a plugin that does not answer, and a thousand datagrams more than may be under way.
/// Guarantees: those under way are bounded and paid for, the others are counted; what waited is taken, and what comes then too.
#[tokio::test]
async fn a_flood_is_cut_and_counted() {
    const SENT: usize = 2_000;
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, 64 << 20);
    let sender = sender(served.addr("udp"));
    let body = datagram(b'w', 1, 0);
    for sent in 1..=SENT {
        sender.send(&body).unwrap();
        // One after the other, so that the kernel drops none.
        eventually("it is read", || served.counts.requests.get() == sent as u64).await;
    }
    assert_eq!(dropped(&served, Reason::TooMany), SENT as u64 - 1_000);
    eventually("all others are with the plugin", || plugin.listeners.lock().unwrap().len() == 1_000).await;
    assert!(served.ledger.used() >= 1_000 * body.len() as u64);
    plugin.gate.add_permits(SENT);
    eventually("they are taken", || consumer.arrivals_seen() == 1_000).await;
    sender.send(&body).unwrap();
    eventually("the next is taken", || consumer.arrivals_seen() == 1_001).await;
    drop(consumer.taken());
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// Scenario: datagrams come one after the other, and the drain begins while the plugin has one and others wait in the socket.
/// Guarantees: all that had come is read and taken, the address is free at once, and serving ends once they are.
#[tokio::test]
async fn a_drain_reads_what_has_come() {
    const SENT: usize = 20;
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, 64 << 20);
    let addr = served.addr("udp");
    let sender = sender(addr);
    // Nobody reads before the next await: all of them wait in the kernel.
    for _ in 0..SENT {
        sender.send(&datagram(b'w', 1, 0)).unwrap();
    }
    served.drain.signal();
    eventually("all have been read", || plugin.listeners.lock().unwrap().len() == SENT).await;
    eventually("the address is free", || UdpSocket::bind(addr).is_ok()).await;
    assert!(!served.serving.is_finished(), "what is under way is waited for");
    plugin.gate.add_permits(SENT);
    timeout(DEADLINE, served.serving).await.expect("serving never ends").unwrap().unwrap();
    assert_eq!(
        (consumer.arrivals_seen(), served.counts.accepted.of(Signal::Traces).get()),
        (SENT, SENT as u64)
    );
}

/// Scenario: far more than the kernel's buffer holds comes before the door is opened, which then drains at once.
/// Guarantees: what was read and what the kernel dropped are counted, and come to what was sent.
#[tokio::test]
async fn what_the_kernel_drops_is_counted() {
    const SENT: u64 = 400;
    let (served, _) = serve_plugin(&Scripted::saying([]), 64 << 20);
    let sender = sender(served.addr("udp"));
    // Nobody reads before the next await.
    for _ in 0..SENT {
        sender.send(&[b'?'; 60_000]).unwrap();
    }
    served.drain.signal();
    timeout(DEADLINE, served.serving).await.expect("serving never ends").unwrap().unwrap();
    let counts = &served.counts;
    let (came, missed) = (counts.requests.get(), counts.datagrams_missed.get());
    assert!(came > 0 && missed > 0 && came + missed == SENT, "{came} came, {missed} were missed");
}

/// Scenario: serving is cut while the plugin has a datagram.
/// Guarantees: the call ends with it, nothing runs on, memory comes back, and the datagram is counted as lost.
#[tokio::test]
async fn a_cut_ends_what_is_under_way() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, 64 << 20);
    sender(served.addr("udp")).send(&datagram(b'w', 1, 0)).unwrap();
    eventually("the plugin has it", || plugin.held.lock().unwrap().len() == 1).await;
    served.serving.abort();
    plugin.held.lock().unwrap().clear();
    eventually("all memory is given back", || served.ledger.used() == 0).await;
    plugin.gate.add_permits(1);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((consumer.arrivals_seen(), dropped(&served, Reason::Draining)), (0, 1));
}

/// Scenario: two doors want one address.
/// Guarantees: the second is an error at start that names protocol and address.
#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let (served, plugin) = serve_plugin(&Scripted::saying([]), 1 << 20);
    let endpoint = served.addr("udp").to_string();
    let settings = settings(Pipelines::default(), &served.ledger);
    let error = Config::at(&*endpoint).bind(&mut Bound::new(), "compact", plugin, settings).unwrap_err();
    let BindError::Listen { protocol, cause } = error else { panic!("{error}") };
    assert_eq!((protocol, cause.to_string()), ("udp", format!("listen on {endpoint}")));
    timeout(Duration::from_millis(0), served.serving).await.unwrap_err();
}

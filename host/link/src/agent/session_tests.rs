//! The session against single messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_model::{Lane, Place, Seq, Signal};
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{
    Ack, CollectorMessage, Credit, DataPart, Goodbye, Heartbeat, KindDigest, Mark, Rejected, Settings,
    StateDown, StateUp, Welcome,
};

use crate::agent::parcel::{Encoding, Parcel};
use crate::agent::session::{Effect, Ended, Names, Outgoing, ParcelId, Session, Verdict};
use crate::lanes::AgentStates;
use crate::limits::{BUNDLES_MAX, CONNECT_TIMEOUT, FIRST_SIGN_MIN, HELLO_TIMEOUT};
use crate::names::{Boot, Incarnation, StoreId, to_wire};

/// A lane of states that says what it is given.
#[derive(Debug, Clone, Default)]
pub(super) struct States(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
pub(super) struct Said {
    up: VecDeque<StateUp>,
    welcomes: Vec<bool>,
    heard: usize,
    broken: usize,
}

impl AgentStates for States {
    fn welcomed(&mut self, _: &[KindDigest], is_known_store: bool, _: Instant) {
        self.0.lock().unwrap().welcomes.push(is_known_store);
    }

    fn received(&mut self, _: StateDown, _: Instant) {
        self.0.lock().unwrap().heard += 1;
    }

    fn next(&mut self, _: Instant) -> Option<StateUp> {
        self.0.lock().unwrap().up.pop_front()
    }

    fn wake(&self) -> Option<Instant> {
        None
    }

    fn broken(&mut self) {
        self.0.lock().unwrap().broken += 1;
    }
}

const INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn session() -> (Session, States) {
    let states = States::default();
    let names = Names {
        identity: "agent".to_owned(),
        incarnation: Incarnation(7),
        epoch: 3,
        boot: Boot(9),
        boots: vec![Boot(8), Boot(9)],
        store: Some(StoreId(1)),
        host: String::new(),
        program: String::new(),
        encodings: vec![Encoding::Zstd],
    };
    (Session::new(names, Box::new(states.clone())), states)
}

pub(super) fn parcel(log: u32, lane: u8, seqs: &[u64], bytes: usize) -> Parcel {
    let places =
        seqs.iter().map(|seq| Place { seq: Seq(*seq), items: 1, bytes: u32::try_from(bytes).unwrap() });
    let body = Bytes::from(vec![lane; bytes * seqs.len()]);
    Parcel::new(log, Lane::new(lane).unwrap(), Signal::Traces, places.collect(), body).unwrap()
}

pub(super) fn welcome(credit: u64) -> Welcome {
    Welcome {
        version: 1,
        store: to_wire(1),
        durable: true,
        session: 5,
        heartbeat_ms: 30_000,
        credit,
        bundle_bytes_max: 1 << 20,
        ..Welcome::default()
    }
}

pub(super) fn down(message: Down) -> CollectorMessage {
    CollectorMessage { message: Some(message) }
}

fn ack(upto: u64) -> CollectorMessage {
    down(Down::Ack(Ack { upto, ..Ack::default() }))
}

/// A stream that is up: Hello sent, Welcome heard.
pub(super) fn up(session: &mut Session, welcome: Welcome, now: Instant) -> Vec<Effect> {
    session.connected(Vec::new(), now);
    assert!(matches!(session.next(now), Some(Outgoing::Hello(_))));
    assert_eq!(session.next(now), None, "nothing goes before the Welcome");
    session.received(down(Down::Welcome(welcome)), now).unwrap()
}

/// All parts that may go now.
fn parts(session: &mut Session, now: Instant) -> Vec<DataPart> {
    std::iter::from_fn(|| session.next(now))
        .map(|outgoing| match outgoing {
            Outgoing::Part(part) => part,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The ordinals and first places of the bundles that may go now.
fn heads(session: &mut Session, now: Instant) -> Vec<(u64, u64)> {
    let heads = parts(session, now).into_iter().filter_map(|part| part.head);
    heads.map(|head| (head.ordinal, head.seqs[0])).collect()
}

pub(super) fn settled(effects: &[Effect]) -> Vec<(ParcelId, Verdict)> {
    let one = |effect: &Effect| match effect {
        Effect::Settled { id, verdict, .. } => Some((*id, verdict.clone())),
        Effect::Welcomed { .. } => None,
    };
    effects.iter().filter_map(one).collect()
}

/// Scenario: bundles are offered before there is any collector; it comes, takes one, and goes while one is in flight, one half
/// sent and one unsent.
/// Guarantees: all but the acknowledged one go again on the next stream, in the order of the offers, once each, and nothing of a
/// bundle that was acknowledged (argocd-agent #715, #749, #225, #271, #369).
#[test]
fn a_reconnect_keeps_what_is_unsent_and_what_is_in_flight() {
    let (mut session, states) = session();
    let now = Instant::now();
    let ids: Vec<_> = (0..4)
        .map(|lane| session.offer(parcel(0, lane, &[u64::from(lane) + 1], 100), now).unwrap())
        .collect();
    up(&mut session, welcome(250), now);
    assert_eq!(heads(&mut session, now), [(1, 1), (2, 2), (3, 3)]);
    let effects = session.received(ack(1), now).unwrap();
    assert_eq!(settled(&effects), [(ids[0], Verdict::Taken)]);
    session.broken();
    assert_eq!(session.next(now), None);
    up(&mut session, welcome(1_000), now);
    assert_eq!(heads(&mut session, now), [(1, 2), (2, 3), (3, 4)]);
    let effects = session.received(ack(3), now).unwrap();
    assert_eq!(settled(&effects), [1, 2, 3].map(|at| (ids[at], Verdict::Taken)));
    assert_eq!((session.kept().0, session.resent()), (0, 2));
    assert_eq!(states.0.lock().unwrap().welcomes, [true, true]);
    assert_eq!(states.0.lock().unwrap().broken, 1);
    up(&mut session, welcome(1_000), now);
    assert_eq!(session.next(now), None, "nothing is sent that was acknowledged");
}

/// Scenario: a bundle of many parts is under way when a heartbeat is due and a state is there.
/// Guarantees: both go before the next part, the heartbeat first; the bundle goes on after them (argocd-agent #839).
#[test]
fn heartbeats_and_states_do_not_wait_behind_data() {
    let (mut session, states) = session();
    let mut now = Instant::now();
    session.offer(parcel(0, 1, &[1], 1 << 20), now).unwrap();
    up(&mut session, welcome(1 << 30), now);
    assert!(matches!(session.next(now), Some(Outgoing::Part(DataPart { head: Some(_), .. }))));
    now += INTERVAL;
    states.0.lock().unwrap().up.push_back(StateUp::default());
    assert_eq!(session.next(now), Some(Outgoing::Heartbeat));
    assert_eq!(session.next(now), Some(Outgoing::State(StateUp::default())));
    let rest = parts(&mut session, now);
    assert!(rest.len() > 1 && rest.iter().all(|part| part.head.is_none()));
}

/// Scenario: a collector grants little, then more, byte by byte, to plain bundles and to packed ones; one bundle has no byte.
/// Guarantees: no byte goes beyond what was granted; an empty bundle goes without credit.
#[test]
fn nothing_is_sent_beyond_the_credit() {
    for encoding in ["", "zstd"] {
        let (mut session, _) = session();
        let now = Instant::now();
        session.offer(parcel(0, 0, &[1], 0), now).unwrap();
        session.offer(parcel(0, 1, &[2], 5_000), now).unwrap();
        up(&mut session, Welcome { encoding: encoding.to_owned(), ..welcome(0) }, now);
        let (mut sent, mut granted, mut whole) = (0, 0, 0);
        loop {
            for part in parts(&mut session, now) {
                sent += part.body.len() as u64;
                whole += part.head.map_or(0, |head| head.sent_bytes);
                assert!(sent <= granted, "{sent} of {granted}, `{encoding}`");
            }
            if sent == whole && granted > 100 {
                break;
            }
            granted += 1;
            assert!(granted < 6_000, "the bundle never ends");
            session.received(down(Down::Credit(Credit { bytes: 1 })), now).unwrap();
        }
        session.received(ack(2), now).unwrap();
        assert_eq!(session.kept().0, 0);
    }
}

/// Scenario: a bundle is withdrawn when half of it is sent; the same records are offered again for the same lane, and others for
/// another; the first is acknowledged at last.
/// Guarantees: the stream stays whole: the bundle is sent to its end; the other lane goes on; the same lane waits until the first is
/// answered, and that answer is nobody's verdict.
#[test]
fn a_withdrawn_bundle_leaves_the_stream_whole() {
    let (mut session, _) = session();
    let now = Instant::now();
    let first = session.offer(parcel(0, 1, &[1], 1_000), now).unwrap();
    up(&mut session, welcome(400), now);
    assert_eq!(parts(&mut session, now).len(), 1);
    session.withdraw(first);
    let again = session.offer(parcel(0, 1, &[1, 2], 1_000), now).unwrap();
    session.offer(parcel(1, 1, &[1], 10), now).unwrap();
    session.received(down(Down::Credit(Credit { bytes: 1 << 20 })), now).unwrap();
    let rest = parts(&mut session, now);
    assert_eq!((rest[0].head.is_none(), rest[0].body.len()), (true, 600));
    assert_eq!(rest[1].head.as_ref().map(|head| (head.ordinal, head.log)), Some((2, 1)));
    assert_eq!(rest.len(), 2);
    assert_eq!(settled(&session.received(ack(1), now).unwrap()), []);
    assert_eq!(heads(&mut session, now), [(3, 1)]);
    let effects = session.received(ack(3), now).unwrap();
    assert_eq!(settled(&effects).last(), Some(&(again, Verdict::Taken)));
}

/// Scenario: a bundle is withdrawn when half of it is sent, and the stream breaks; another is withdrawn unsent.
/// Guarantees: neither is sent again.
#[test]
fn what_was_withdrawn_is_not_sent_again() {
    let (mut session, _) = session();
    let now = Instant::now();
    let half = session.offer(parcel(0, 1, &[1], 1_000), now).unwrap();
    let unsent = session.offer(parcel(0, 2, &[2], 1_000), now).unwrap();
    up(&mut session, welcome(400), now);
    parts(&mut session, now);
    session.withdraw(half);
    session.withdraw(unsent);
    up(&mut session, welcome(1 << 20), now);
    assert_eq!(session.next(now), None);
}

/// Scenario: two bundles of a lane are offered at once, among others.
/// Guarantees: the second is begun when the first is answered, and not before: a lane has one under way.
#[test]
fn a_lane_has_one_bundle_under_way() {
    let (mut session, _) = session();
    let now = Instant::now();
    for (lane, seq) in [(1, 1), (1, 2), (2, 3)] {
        session.offer(parcel(0, lane, &[seq], 10), now).unwrap();
    }
    up(&mut session, welcome(1 << 20), now);
    assert_eq!(heads(&mut session, now), [(1, 1), (2, 3)]);
    session.received(ack(1), now).unwrap();
    assert_eq!(heads(&mut session, now), [(3, 2)]);
}

/// Scenario: of three bundles the middle one is rejected.
/// Guarantees: each waits for its own verdict, and gets it once, also when the acknowledgement comes twice.
#[test]
fn a_rejected_bundle_is_not_taken() {
    let (mut session, _) = session();
    let now = Instant::now();
    let ids = [1, 2, 3].map(|lane| session.offer(parcel(0, lane, &[lane.into()], 10), now).unwrap());
    up(&mut session, welcome(1 << 20), now);
    parts(&mut session, now);
    let rejected = vec![Rejected { ordinal: 2, reason: "torn".to_owned() }];
    let effects =
        session.received(down(Down::Ack(Ack { upto: 3, rejected, ..Ack::default() })), now).unwrap();
    let torn = Verdict::Rejected("torn".to_owned());
    assert_eq!(settled(&effects), [(ids[0], Verdict::Taken), (ids[1], torn), (ids[2], Verdict::Taken)]);
    assert_eq!(session.received(ack(3), now).unwrap(), []);
}

/// Scenario: a collector takes small bundles only; the stream breaks, a larger one is offered, and a collector comes that takes it.
/// Guarantees: what was said on an earlier stream refuses nothing.
#[test]
fn the_next_collector_may_take_larger_ones() {
    let (mut session, _) = session();
    let now = Instant::now();
    up(&mut session, Welcome { bundle_bytes_max: 1_000, ..welcome(1 << 20) }, now);
    session.broken();
    let id = session.offer(parcel(0, 1, &[1], 1_001), now).unwrap();
    assert_eq!(settled(&up(&mut session, welcome(1 << 20), now)), []);
    parts(&mut session, now);
    assert_eq!(settled(&session.received(ack(1), now).unwrap()), [(id, Verdict::Taken)]);
}

/// Scenario: a bundle larger than the collector takes is offered before it is known how large may be, and one after.
/// Guarantees: both get a verdict that names both sizes, and neither is sent.
#[test]
fn what_is_too_large_is_not_sent() {
    let (mut session, _) = session();
    let now = Instant::now();
    let early = session.offer(parcel(0, 1, &[1], 1_001), now).unwrap();
    let effects = up(&mut session, Welcome { bundle_bytes_max: 1_000, ..welcome(1 << 20) }, now);
    let verdict = Verdict::TooLarge { bytes: 1_001, bytes_max: 1_000 };
    assert_eq!(settled(&effects), [(early, verdict.clone())]);
    assert_eq!(session.offer(parcel(0, 1, &[1], 1_001), now), Err(Some(verdict)));
    session.offer(parcel(0, 1, &[1], 1_000), now).unwrap();
    assert_eq!(heads(&mut session, now), [(1, 1)]);
}

/// Scenario: more bundles than all lanes of all logs could have.
/// Guarantees: no more are kept than the bound.
#[test]
fn what_is_kept_is_bounded() {
    let (mut session, _) = session();
    let now = Instant::now();
    for _ in 0..BUNDLES_MAX {
        session.offer(parcel(0, 0, &[1], 0), now).unwrap();
    }
    assert_eq!(session.offer(parcel(0, 0, &[1], 0), now), Err(None));
}

/// Scenario: a collector does each thing that the protocol does not allow.
/// Guarantees: the stream ends with words that say what it was; what is kept stays kept.
#[test]
fn a_collector_that_breaks_the_protocol_is_left() {
    let rejected = |ordinal| vec![Rejected { ordinal, reason: String::new() }];
    let mark = Mark { incarnation: vec![0; 15], ..Mark::default() };
    let first: [(Down, &str); 9] = [
        (Down::Heartbeat(Heartbeat::default()), "first message"),
        (Down::Ack(Ack::default()), "first message"),
        (Down::Credit(Credit { bytes: 1 }), "first message"),
        (Down::Welcome(Welcome { version: 2, ..welcome(1) }), "version 2"),
        (Down::Welcome(Welcome { store: vec![1; 15], ..welcome(1) }), "15 bytes"),
        (Down::Welcome(Welcome { encoding: "gzip".to_owned(), ..welcome(1) }), "`gzip`"),
        (Down::Welcome(Welcome { marks: vec![mark], ..welcome(1) }), "15 bytes"),
        (
            Down::Welcome(Welcome {
                marks: vec![Mark { incarnation: vec![0; 16], ..Mark::default() }; 65],
                ..welcome(1)
            }),
            "65 marks",
        ),
        (Down::Welcome(Welcome { states: vec![KindDigest::default(); 65], ..welcome(1) }), "65 kinds"),
    ];
    let later = [
        (Down::Welcome(welcome(1)), "second Welcome"),
        (Down::Ack(Ack { upto: 2, ..Ack::default() }), "bundle 2 of 1"),
        (Down::Ack(Ack { upto: u64::MAX, ..Ack::default() }), "of 1"),
        (Down::Ack(Ack { also: vec![2], ..Ack::default() }), "bundle 2 of 1"),
        (Down::Ack(Ack { also: vec![3], ..Ack::default() }), "bundle 3 of 1"),
        (Down::Ack(Ack { also: vec![1; BUNDLES_MAX + 1], ..Ack::default() }), "1025 bundles"),
        (Down::Ack(Ack { upto: 0, rejected: rejected(1), ..Ack::default() }), "rejected bundle 1"),
        (Down::Ack(Ack { upto: 1, rejected: rejected(2), ..Ack::default() }), "rejected bundle 2"),
    ];
    let now = Instant::now();
    let cases = first.map(|case| (case, false)).into_iter().chain(later.map(|case| (case, true)));
    for ((message, words), is_up) in cases {
        let (mut session, _) = session();
        session.offer(parcel(0, 1, &[1], 100), now).unwrap();
        session.offer(parcel(0, 2, &[2], 100), now).unwrap();
        if is_up {
            up(&mut session, welcome(150), now);
            parts(&mut session, now);
        } else {
            session.connected(Vec::new(), now);
            session.next(now);
        }
        let shown = format!("{message:?}");
        let ended = session.received(down(message), now).unwrap_err();
        assert!(matches!(&ended, Ended::Violation(text) if text.contains(words)), "{shown}: {ended}");
        session.broken();
        assert_eq!(session.kept().0, 2);
    }
}

/// Scenario: of three bundles the third is taken first, then the second is rejected, then the first is taken; a fourth of the
/// third's lane waits. At last the collector names the third anew.
/// Guarantees: each is settled when it is named, and its lane goes on at once; a later `upto` passes over it; what is not out any
/// more cannot be named.
#[test]
fn what_is_acknowledged_out_of_order_is_settled_at_once() {
    let (mut session, _) = session();
    let now = Instant::now();
    let offer =
        |session: &mut Session, lane| session.offer(parcel(0, lane, &[lane.into()], 10), now).unwrap();
    let ids: Vec<_> = [1, 2, 3, 3].into_iter().map(|lane| offer(&mut session, lane)).collect();
    up(&mut session, welcome(1 << 20), now);
    assert_eq!(heads(&mut session, now).len(), 3);
    let named = |also, rejected| down(Down::Ack(Ack { also, rejected, ..Ack::default() }));
    let effects = session.received(named(vec![3], Vec::new()), now).unwrap();
    assert_eq!(settled(&effects), [(ids[2], Verdict::Taken)]);
    assert_eq!(heads(&mut session, now).len(), 1, "the lane goes on");
    let rejected = vec![Rejected { ordinal: 2, reason: "never this".to_owned() }];
    let effects = session.received(named(vec![2], rejected), now).unwrap();
    assert_eq!(settled(&effects), [(ids[1], Verdict::Rejected("never this".to_owned()))]);
    let effects = session.received(ack(3), now).unwrap();
    assert_eq!(settled(&effects), [(ids[0], Verdict::Taken)]);
    let ended = session.received(named(vec![3], Vec::new()), now).unwrap_err();
    assert!(matches!(&ended, Ended::Violation(text) if text.contains("bundle 3")), "{ended}");
    session.broken();
    assert_eq!(session.kept().0, 1, "the fourth is kept");
}

/// Scenario: a collector says goodbye for each reason, before and after its Welcome, with a wait of seven weeks.
/// Guarantees: the stream ends with its words, a bounded wait and the incarnation that it knows.
#[test]
fn a_goodbye_ends_the_stream_with_its_words() {
    let now = Instant::now();
    for number in 0..=9 {
        for is_up in [false, true] {
            let (mut session, _) = session();
            session.connected(Vec::new(), now);
            session.next(now);
            if is_up {
                session.received(down(Down::Welcome(welcome(0))), now).unwrap();
            }
            let goodbye = Goodbye {
                reason: number,
                text: "why".to_owned(),
                wait_ms: u32::MAX,
                incarnation: to_wire(77),
            };
            let ended = session.received(down(Down::Goodbye(goodbye)), now).unwrap_err();
            let Ended::Goodbye(farewell) = &ended else { panic!("{ended}") };
            assert_eq!(farewell.reason, Reason::try_from(number).unwrap());
            assert_eq!(farewell.wait, Duration::from_secs(600));
            assert_eq!(farewell.incarnation, Some(Incarnation(77)));
            assert!(ended.to_string().ends_with("(why)"), "{ended}");
        }
    }
}

/// Scenario: no Welcome comes; then one, and silence; then heartbeats are switched off by a Settings.
/// Guarantees: the stream ends after the time for the Hello, and after two and a half intervals; never without an interval. Our own
/// heartbeat goes after an interval in which nothing else went, and any message is one.
#[test]
fn liveness_is_decided_by_what_is_heard() {
    let (mut session, _) = session();
    let began = Instant::now();
    session.connected(Vec::new(), began);
    session.next(began);
    assert_eq!(session.wake(), Some(began + HELLO_TIMEOUT));
    assert_eq!(session.tick(began + HELLO_TIMEOUT - Duration::from_millis(1)), Ok(()));
    assert_eq!(session.tick(began + HELLO_TIMEOUT), Err(Ended::NoWelcome));
    up(&mut session, welcome(1 << 20), began);
    assert_eq!(session.wake(), Some(began + INTERVAL));
    assert_eq!(session.next(began + INTERVAL - Duration::from_millis(1)), None);
    assert_eq!(session.next(began + INTERVAL), Some(Outgoing::Heartbeat));
    assert_eq!(session.next(began + INTERVAL), None);
    assert_eq!(session.wake(), Some(began + INTERVAL * 2));
    session.offer(parcel(0, 1, &[1], 10), began).unwrap();
    assert_eq!(heads(&mut session, began + INTERVAL * 3 / 2), [(1, 1)]);
    assert_eq!(session.next(began + INTERVAL * 2), None, "a part is a sign of life too");
    assert_eq!(session.tick(began + INTERVAL * 5 / 2 - Duration::from_millis(1)), Ok(()));
    let dead = began + INTERVAL * 5 / 2;
    assert_eq!(session.tick(dead), Err(Ended::Silent(INTERVAL * 5 / 2)));
    session.received(CollectorMessage::default(), dead).unwrap();
    assert_eq!(session.tick(dead), Ok(()));
    session.received(down(Down::Settings(Settings { heartbeat_ms: 0 })), dead).unwrap();
    assert_eq!((session.tick(dead + INTERVAL * 1_000), session.wake()), (Ok(()), None));
}

/// Scenario: the agent leaves with a bundle under way, waits for its acknowledgement, and another leaves at once.
/// Guarantees: Leaving is the last of the stream: after the acknowledgement in the first case, at once in the second.
#[test]
fn leaving_is_the_last_word() {
    let now = Instant::now();
    for at_once in [false, true] {
        let (mut session, _) = session();
        session.offer(parcel(0, 1, &[1], 10), now).unwrap();
        up(&mut session, welcome(1 << 20), now);
        parts(&mut session, now);
        session.leave(at_once);
        if !at_once {
            assert_eq!(session.next(now), None);
            session.received(ack(1), now).unwrap();
        }
        assert_eq!(session.next(now), Some(Outgoing::Leaving));
        session.offer(parcel(0, 1, &[2], 10), now).unwrap();
        assert_eq!((session.next(now + INTERVAL), session.has_left()), (None, true));
    }
}

/// Scenario: ten thousand streams break, each with a bundle that was acknowledged, one in flight that was withdrawn and offered
/// again, and one half sent.
/// Guarantees: what is kept is what is not answered, and does not grow with the streams (argocd-agent #890).
#[test]
fn ten_thousand_reconnects_leave_nothing_behind() {
    let (mut session, states) = session();
    let now = Instant::now();
    let mut ids = VecDeque::new();
    for lane in 1..4 {
        ids.push_back((lane, session.offer(parcel(0, lane, &[lane.into()], 100), now).unwrap()));
    }
    for stream in 0..10_000 {
        up(&mut session, welcome(250), now);
        assert_eq!(heads(&mut session, now).len(), 3);
        let effects = session.received(ack(1), now).unwrap();
        let (taken, in_flight) = (ids.pop_front().unwrap(), ids.pop_front().unwrap());
        assert_eq!(settled(&effects), [(taken.1, Verdict::Taken)]);
        session.withdraw(in_flight.1);
        for (lane, _) in [taken, in_flight] {
            ids.push_back((lane, session.offer(parcel(0, lane, &[100 + stream], 100), now).unwrap()));
        }
        session.broken();
        assert_eq!((session.kept().0, session.kept().1), (3, 3), "after stream {stream}");
        assert!(!session.has_left() && !session.is_welcome() && session.wake().is_none());
    }
    assert_eq!(states.0.lock().unwrap().broken, 10_000);
}

/// Scenario: no collector was heard yet; then collectors with other intervals of heartbeats, the last of them with none.
/// Guarantees: the first sign of the next one may take as long as an interval of the last one, within the bounds.
#[test]
fn the_first_sign_may_take_an_interval() {
    let (mut session, _) = session();
    let now = Instant::now();
    assert_eq!(session.first_sign_within(), CONNECT_TIMEOUT);
    let five = Duration::from_secs(5);
    for (heartbeat_ms, within) in
        [(5_000, five), (100, FIRST_SIGN_MIN), (30_000, CONNECT_TIMEOUT), (0, CONNECT_TIMEOUT)]
    {
        up(&mut session, Welcome { heartbeat_ms, ..welcome(0) }, now);
        session.broken();
        assert_eq!(session.first_sign_within(), within);
    }
    up(&mut session, welcome(0), now);
    session.received(down(Down::Settings(Settings { heartbeat_ms: 5_000 })), now).unwrap();
    assert_eq!(session.first_sign_within(), five);
}

//! One stream: what is acknowledged when, in which order things are said, and what ends it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{
    Ack, AgentMessage, BundleHead, Credit, DataPart, Goodbye, Heartbeat, Hello, Inventory, KeyDigest,
    Rejected, StateAck, StateDown, StateUp, state_down, state_up,
};

use super::{bundle, facts, hello, receipt};
use crate::collector::decode::decode;
use crate::collector::farewell;
use crate::collector::hello::{Facts, Who};
use crate::collector::session::{Heard, Session, Terms};
use crate::limits::{
    BUNDLE_GRACE, BUNDLE_RECORDS_MAX, DRAIN_MAX, INVENTORY_KEYS_MAX, LOGS_MAX, MESSAGE_BYTES_MAX,
    REASON_BYTES_MAX, STARTS_MAX,
};

const HEARTBEAT: Duration = Duration::from_secs(30);

const TERMS: Terms =
    Terms { heartbeat: HEARTBEAT, credit_bytes: 1000, bundle_bytes_max: 600, is_packed: false };

/// A stream of an agent with two logs.
fn session(now: Instant) -> Session {
    let logs = [("traces", 11, 100, 1, 1), ("metrics", 12, 100, 1, 1)];
    Session::new(&facts(hello("a", 1, 1, 1, &logs)), TERMS, now)
}

/// What a session says now, in order.
fn said(session: &mut Session, now: Instant) -> Vec<Down> {
    std::iter::from_fn(|| session.next(now)).take(100).collect()
}

fn ack(upto: u64) -> Down {
    Down::Ack(Ack { upto, ..Ack::default() })
}

fn credit(bytes: u64) -> Down {
    Down::Credit(Credit { bytes })
}

/// The Goodbye with which a session answers these messages, the last of which breaks the protocol.
fn goodbye_of(messages: Vec<Up>) -> Goodbye {
    let now = Instant::now();
    let mut session = session(now);
    let last = messages.len() - 1;
    for (at, message) in messages.into_iter().enumerate() {
        assert_eq!(session.received(message, now).is_none(), at == last, "message {at}");
    }
    match said(&mut session, now).as_slice() {
        [Down::Goodbye(goodbye)] => goodbye.clone(),
        other => panic!("expected a goodbye alone: {other:?}"),
    }
}

/// Scenario: bundles of three lanes; the third and second are taken before the first, and the lane of the third goes on.
/// Guarantees: what is done before the first is named beyond it, once, and its lane is free; then one ack passes over all.
#[test]
fn acks_are_cumulative_and_pass_over_what_was_named_before() {
    let now = Instant::now();
    let mut session = session(now);
    let one = |ordinal, lane| Up::Data(bundle(ordinal, 0, lane, &[(ordinal, b"ten bytes.")]));
    for (ordinal, lane) in [(1, 0), (2, 1), (3, 15)] {
        assert!(session.received(one(ordinal, lane), now).is_some());
    }
    session.consumed(3, Ok(receipt()));
    session.consumed(2, Err("never this".to_owned()));
    let rejected = vec![Rejected { ordinal: 2, reason: "never this".to_owned() }];
    assert_eq!(
        said(&mut session, now),
        [Down::Ack(Ack { upto: 0, rejected, also: vec![2, 3] }), credit(20)],
        "the first holds nobody back"
    );
    assert!(session.owes());
    assert!(session.received(one(4, 15), now).is_some(), "the lane is free");
    session.consumed(4, Ok(receipt()));
    session.consumed(1, Ok(receipt()));
    assert_eq!(said(&mut session, now), [ack(4), credit(20)]);
    assert!(!session.owes());
    assert!(session.received(one(5, 0), now).is_some(), "and that of the first");
}

/// Scenario: the second of three bundles is rejected with a long reason; its records come again, in two.
/// Guarantees: the ack names it with a reason that is cut to its bound; its places may come again, and those taken too (an agent
/// that leases them anew sends them anew).
#[test]
fn what_is_rejected_is_named_and_may_come_again_in_parts() {
    let now = Instant::now();
    let mut session = session(now);
    for ordinal in 1..=3 {
        let places: &[(u64, &[u8])] = &[(ordinal * 10, b"x"), (ordinal * 10 + 1, b"y")];
        assert!(session.received(Up::Data(bundle(ordinal, 0, ordinal as u32, places)), now).is_some());
    }
    session.consumed(1, Ok(receipt()));
    session.consumed(2, Err("é".repeat(REASON_BYTES_MAX)));
    session.consumed(3, Ok(receipt()));
    let said = said(&mut session, now);
    let [Down::Ack(ack), Down::Credit(_)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((ack.upto, ack.rejected.len(), ack.rejected[0].ordinal), (3, 1, 2));
    assert_eq!(ack.rejected[0].reason.len(), REASON_BYTES_MAX);
    assert!(session.received(Up::Data(bundle(4, 0, 2, &[(20, b"x")])), now).is_some());
    assert!(session.received(Up::Data(bundle(5, 0, 1, &[(11, b"x")])), now).is_some(), "taken before");
}

/// Scenario: an agent that does not read has a bundle without bytes rejected, and sends another of the same lane.
/// Guarantees: the lane is not free before its ack was said, so that what is to be said to such an agent does not grow with what
/// it sends, for which an empty body costs it no credit.
#[test]
fn a_lane_is_free_when_its_ack_was_said() {
    let now = Instant::now();
    for reads in [true, false] {
        let mut session = session(now);
        assert!(session.received(Up::Data(bundle(1, 0, 0, &[(1, b"")])), now).is_some());
        session.consumed(1, Err("never this".to_owned()));
        if reads {
            assert!(matches!(session.next(now), Some(Down::Ack(_))));
        }
        assert_eq!(session.received(Up::Data(bundle(2, 0, 0, &[(2, b"")])), now).is_some(), reads);
    }
}

/// Scenario: a goodbye, an ack, credit, a heartbeat that is due and an answer of the store, all at once.
/// Guarantees: they are said in the order of their lanes; after a goodbye nothing is.
#[test]
fn the_highest_lane_goes_first() {
    let start = Instant::now();
    let answer = StateDown { message: Some(state_down::Message::Ack(StateAck::default())) };
    for ends in [false, true] {
        let mut session = session(start);
        assert!(session.received(Up::Data(bundle(1, 0, 0, &[(1, b"x")])), start).is_some());
        session.answered(vec![answer.clone()]);
        session.consumed(1, Ok(receipt()));
        let now = start + HEARTBEAT;
        if ends {
            session.end(farewell(Reason::Fenced, "a newer one"));
            assert_eq!(said(&mut session, now), [Down::Goodbye(farewell(Reason::Fenced, "a newer one"))]);
            assert!(session.is_over());
        } else {
            let first = (session.next(now), session.next(now + HEARTBEAT));
            assert_eq!(first, (Some(ack(1)), Some(credit(1))));
            let rest = (session.next(now + HEARTBEAT * 2), session.next(now + HEARTBEAT * 2));
            assert_eq!(
                rest,
                (Some(Down::Heartbeat(Heartbeat::default())), Some(Down::State(answer.clone())))
            );
        }
    }
}

/// Scenario: a bundle in three parts, with a heartbeat between two of them.
/// Guarantees: the parts come out in their places, with the head at the first, and the last is known.
#[test]
fn a_bundle_comes_in_parts() {
    let now = Instant::now();
    let mut session = session(now);
    let whole = bundle(1, 1, 3, &[(5, b"abc"), (9, b"defg")]);
    let body = whole.body.clone();
    let mut seen = Vec::new();
    for (at, part) in [&body[..2], &body[2..6], &body[6..]].into_iter().enumerate() {
        assert!(matches!(
            session.received(Up::Heartbeat(Heartbeat::default()), now),
            Some(Heard::Heartbeat(_))
        ));
        let head = whole.head.clone().filter(|_| at == 0);
        let heard = session.received(Up::Data(DataPart { head, body: Bytes::copy_from_slice(part) }), now);
        let Some(Heard::Part(part)) = heard else { panic!("{heard:?}") };
        seen.push((
            part.head.map(|head| (head.records[0].seq.0, head.last(), head.items)),
            part.body.len(),
            part.is_last,
        ));
    }
    assert_eq!(seen, [(Some((5, 9, 2)), 2, false), (None, 4, false), (None, 1, true)]);
    assert_eq!(session.source(1).0.log, "metrics");
}

/// Scenario: an agent takes its leave within its second bundle, while the first is under way.
/// Guarantees: it leaves in order: the bundle that never was whole is owed nothing and never acknowledged, the first is.
#[test]
fn an_agent_may_leave_within_a_bundle() {
    let now = Instant::now();
    let mut session = session(now);
    assert!(session.received(Up::Data(bundle(1, 0, 0, &[(1, b"x")])), now).is_some());
    let mut part = bundle(2, 0, 1, &[(2, b"two parts")]);
    part.body.truncate(3);
    assert!(session.received(Up::Data(part), now).is_some());
    assert!(matches!(session.received(Up::Leaving(Default::default()), now), Some(Heard::Leaving)));
    assert!(session.owes() && !session.is_ending());
    session.consumed(1, Ok(receipt()));
    assert_eq!(said(&mut session, now), [ack(1), credit(1)]);
    assert!(!session.owes() && session.deadline() == Some(now + HEARTBEAT * 5 / 2));
}

/// A head that is wrong in one way.
fn broken(change: impl FnOnce(&mut BundleHead)) -> Vec<Up> {
    let mut part = bundle(1, 0, 0, &[(1, b"abc"), (2, b"def")]);
    change(part.head.as_mut().unwrap());
    vec![Up::Data(part)]
}

/// Scenario: everything that a head may say wrongly.
/// Guarantees: each ends the stream with MISBEHAVIOUR, and the text names bundle and fault.
#[test]
fn a_wrong_head_ends_the_stream() {
    let cases: Vec<(Vec<Up>, &str)> = vec![
        (broken(|head| head.ordinal = 2), "bundle 2 came; expected 1"),
        (broken(|head| head.log = 2), "log 2 of 2"),
        (broken(|head| head.lane = 16), "lane 16; expected 0 to 15"),
        (broken(|head| head.signal = 0), "signal 0"),
        (broken(|head| head.items.truncate(1)), "2 places, 1 counts of items, 2 lengths"),
        (broken(|head| head.seqs.clear()), "0 places"),
        (broken(|head| head.lengths[0] = 4), "records of 7 bytes in a body of 6"),
        (broken(|head| head.lengths = vec![u32::MAX; 2]), "records of 8589934590 bytes"),
        (broken(|head| head.sent_bytes = 5), "5 bytes are sent for a body of 6"),
        (broken(|head| head.sent_bytes = u64::MAX), "bytes are sent for a body of 6"),
        (broken(|head| head.seqs = vec![2, 2]), "do not rise"),
        (broken(|head| head.seqs = vec![0, 2]), "do not rise"),
        (broken(|head| head.items = vec![u32::MAX; 2]), "8589934590 items"),
    ];
    for (messages, text) in cases {
        let goodbye = goodbye_of(messages);
        assert_eq!(goodbye.reason(), Reason::Misbehaviour);
        assert!(
            goodbye.text.contains("bundle ") && goodbye.text.contains(text),
            "{:?}: {text:?}",
            goodbye.text
        );
    }
}

/// Scenario: bundles and parts that are each in order, in an order that is none.
/// Guarantees: each ends the stream with MISBEHAVIOUR and a text that says what came.
#[test]
fn a_wrong_order_ends_the_stream() {
    let data = |part: DataPart| Up::Data(part);
    let begun = |length: usize| {
        let mut part = bundle(1, 0, 0, &[(1, &[7; 600])]);
        part.body.truncate(length);
        data(part)
    };
    let part = |length: usize| data(DataPart { head: None, body: Bytes::from(vec![7; length]) });
    let one = |ordinal, lane, seq| data(bundle(ordinal, 0, lane, &[(seq, &[7; 300])]));
    let cases = vec![
        (vec![part(1)], "a part without a head"),
        (vec![begun(100), one(2, 1, 1)], "bundle 2 begins within bundle 1, of which 500 bytes are missing"),
        (vec![begun(100), part(501)], "a part of 501 bytes, and 500 are missing"),
        (vec![begun(100), part(0)], "a part without bytes"),
        (vec![Up::Leaving(Default::default()), part(1)], "a part without a head"),
        (vec![one(1, 0, 1), one(2, 0, 2)], "another one of the log \"traces\", lane 0"),
        (vec![one(1, 0, 1), one(2, 1, 1), one(3, 2, 1), one(4, 3, 1)], "300 bytes with a credit of 100"),
        (vec![Up::Hello(hello("a", 1, 1, 1, &[]))], "a second hello"),
        (vec![Up::State(StateUp { message: None })], "a state that says nothing"),
    ];
    for (messages, text) in cases {
        let goodbye = goodbye_of(messages);
        assert!(goodbye.text.contains(text), "{:?}: {text:?}", goodbye.text);
    }
}

/// Scenario: messages that would become many times their size when they are read, that are too large, or several in one.
/// Guarantees: each is refused before it is read, by its count or length.
#[test]
fn what_is_repeated_is_counted_before_it_is_read() {
    let up = |message: Up| AgentMessage { message: Some(message) }.encode_to_vec();
    let boots = vec![Vec::new(); STARTS_MAX + 1];
    let often = Hello { boots, ..hello("a", 1, 1, 1, &[]) };
    let mut grown = hello("a", 1, 1, 1, &[("l", 1, 1, 1, 1)]);
    grown.logs[0].firsts = vec![1; STARTS_MAX + 1];
    let said: Vec<_> = (0..=LOGS_MAX).map(|_| ("l", 1, 1, 1, 1)).collect();
    let keys = vec![KeyDigest::default(); INVENTORY_KEYS_MAX + 1];
    let inventory = state_up::Message::Inventory(Inventory { keys, ..Inventory::default() });
    let mut part = bundle(1, 0, 0, &[(1, b"x")]);
    part.head.as_mut().unwrap().seqs = vec![1; BUNDLE_RECORDS_MAX + 1];
    let long = Heartbeat { counters: vec![Default::default(); 65], ..Heartbeat::default() };
    let two = [up(Up::Heartbeat(Heartbeat::default())), up(Up::Leaving(Default::default()))].concat();
    let state = weir_proto::weir::link::v1::State { value: vec![0; MESSAGE_BYTES_MAX], ..Default::default() };
    let large = StateUp { message: Some(state_up::Message::Value(state)) };
    let cases = [
        (up(Up::Hello(hello("a", 1, 1, 1, &said))), "more than 64 logs"),
        (up(Up::Hello(often)), "more than 64 boots"),
        (up(Up::Hello(grown)), "more than 64 starts of a log"),
        (up(Up::State(StateUp { message: Some(inventory) })), "more than 1000 keys"),
        (up(Up::Data(part)), "more than 8192 records"),
        (up(Up::Heartbeat(long)), "more than 64 counters"),
        (up(Up::State(large)), "expected at most 1048576"),
        (two, "two messages in one"),
        (Vec::new(), "an empty message"),
        (vec![0x3a, 0], "a message of a kind"),
        (vec![0x12, 5, 1], "cannot be read"),
    ];
    for (bytes, text) in cases {
        let violation = decode(Bytes::from(bytes)).map(|_| ()).expect_err(text);
        assert!(violation.0.contains(text), "{:?}: {text:?}", violation.0);
    }
    let whole = up(Up::Data(bundle(1, 0, 0, &[(1, b"body")])));
    let read = decode(Bytes::from(whole.clone())).unwrap();
    assert_eq!(read, Up::Data(bundle(1, 0, 0, &[(1, b"body")])));
}

/// Scenario: nothing is heard for two and a half intervals; the same while the collector itself does not read; heartbeats off.
/// Guarantees: the first ends with SILENT at that moment and not before; the others never do.
#[test]
fn silence_ends_a_stream_where_the_agent_is_silent() {
    let start = Instant::now();
    let last = start + HEARTBEAT * 5 / 2;
    let mut silent = session(start);
    silent.tick(last - Duration::from_millis(1));
    assert!(!silent.is_ending());
    assert!(silent.deadline().is_some_and(|at| at <= last));
    silent.tick(last);
    let said = said(&mut silent, last);
    assert!(
        matches!(said.as_slice(), [Down::Goodbye(goodbye)] if goodbye.reason() == Reason::Silent),
        "{said:?}"
    );
    let mut paused = session(start);
    paused.paused(last);
    paused.tick(last);
    assert!(!paused.is_ending());
    let facts = facts(hello("a", 1, 1, 1, &[]));
    let mut off = Session::new(&facts, Terms { heartbeat: Duration::ZERO, ..TERMS }, start);
    off.tick(start + Duration::from_secs(1_000_000));
    assert!(!off.is_ending() && off.wake().is_none() && off.next(last).is_none());
}

/// Scenario: a bundle is begun, and its rest does not come while heartbeats do.
/// Guarantees: the stream ends after the grace: memory that was claimed for the whole bundle is not held by one who does not send.
#[test]
fn a_bundle_that_does_not_come_on_ends_the_stream() {
    let start = Instant::now();
    let mut session = session(start);
    let mut part = bundle(1, 0, 0, &[(1, &[7; 600])]);
    part.body.truncate(10);
    assert!(session.received(Up::Data(part), start).is_some());
    let now = start + BUNDLE_GRACE;
    assert!(session.received(Up::Heartbeat(Heartbeat::default()), now).is_some());
    session.tick(now - Duration::from_millis(1));
    assert!(!session.is_ending());
    session.tick(now);
    let said = said(&mut session, now);
    assert!(
        matches!(said.as_slice(), [Down::Goodbye(goodbye)] if goodbye.text.contains("too slowly")),
        "{said:?}"
    );
}

/// Scenario: the credit ends within a bundle, and comes back an hour later, when the bundle before it was taken.
/// Guarantees: what stands still for want of credit is not too slow; with the credit its time begins anew.
#[test]
fn a_bundle_without_credit_is_not_too_slow() {
    let start = Instant::now();
    let facts = facts(hello("a", 1, 1, 1, &[("traces", 11, 100, 1, 1)]));
    let mut session = Session::new(&facts, Terms { heartbeat: Duration::ZERO, ..TERMS }, start);
    assert!(session.received(Up::Data(bundle(1, 0, 0, &[(1, &[7; 600])])), start).is_some());
    let mut part = bundle(2, 0, 1, &[(2, &[7; 600])]);
    part.body.truncate(400);
    assert!(session.received(Up::Data(part), start).is_some());
    let later = start + Duration::from_secs(3600);
    session.tick(later);
    assert!(!session.is_ending() && session.deadline().is_none());
    session.consumed(1, Ok(receipt()));
    assert_eq!(said(&mut session, later), [ack(1), credit(600)]);
    assert_eq!(session.deadline(), Some(later + BUNDLE_GRACE));
    session.tick(later + BUNDLE_GRACE - Duration::from_millis(1));
    assert!(!session.is_ending());
    session.tick(later + BUNDLE_GRACE);
    assert!(session.is_ending());
}

/// Scenario: the collector drains with a bundle under way that is taken a moment later, and with one that never is.
/// Guarantees: the first is acknowledged before the goodbye; the second delays it no longer than the bound.
#[test]
fn a_drain_acknowledges_what_is_under_way() {
    let now = Instant::now();
    for is_taken in [true, false] {
        let mut session = session(now);
        assert!(session.received(Up::Data(bundle(1, 0, 0, &[(1, b"x")])), now).is_some());
        session.drain(now);
        assert!(session.next(now).is_none());
        let then = now + DRAIN_MAX;
        if is_taken {
            session.consumed(1, Ok(receipt()));
            session.tick(now);
            assert_eq!(session.next(now), Some(ack(1)));
            session.tick(now);
        } else {
            session.tick(then - Duration::from_millis(1));
            assert!(!session.is_ending());
            session.tick(then);
        }
        assert!(
            matches!(session.next(then), Some(Down::Goodbye(goodbye)) if goodbye.reason() == Reason::Draining)
        );
    }
}

/// Scenario: Hellos of a stranger, of a certificate with another name, without a name, with wrong numbers, of other versions.
/// Guarantees: each gets the goodbye for it; who needs a certificate is told how to make one; a certificate's name counts.
#[test]
fn a_hello_is_checked() {
    let logs = [("traces", 11, 100, 1, 1)];
    let good = || hello("a", 1, 1, 1, &logs);
    let refused = |hello, who: Who| Facts::read(hello, &who).expect_err("a goodbye");
    let stranger = refused(good(), Who::Stranger);
    assert!(
        stranger.reason() == Reason::Identity && stranger.text.contains("weir cert init"),
        "{stranger:?}"
    );
    let other = refused(good(), Who::Certified("b".to_owned()));
    assert_eq!(other.reason(), Reason::Identity);
    for silent in [good(), hello("", 1, 1, 1, &logs)] {
        assert_eq!(Facts::read(silent, &Who::Certified("a".to_owned())).unwrap().identity, "a");
    }
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert_eq!(refused(hello(name, 1, 1, 1, &logs), Who::Local).reason(), Reason::Identity, "{name:?}");
    }
    for (min, max) in [(2, 3), (0, 0)] {
        let other = refused(
            weir_proto::weir::link::v1::Hello { version_min: min, version_max: max, ..good() },
            Who::Local,
        );
        assert_eq!(other.reason(), Reason::Version);
    }
    let cases = [
        hello("a", 0, 1, 1, &logs),
        hello("a", 1, 0, 1, &logs),
        hello("a", 1, 1, 1, &[("l", 1, 9, 10, 1)]),
        hello("a", 1, 1, 1, &[("l", 1, 9, 1, 10)]),
        hello("a", 1, 1, 1, &[("", 1, 9, 1, 1)]),
        hello("a", 1, 1, 1, &[("l\u{1}", 1, 9, 1, 1)]),
        hello("a", 1, 1, 1, &[("l", 1, 9, 1, 1), ("l", 2, 9, 1, 1)]),
    ];
    for wrong in cases {
        let said = format!("{wrong:?}");
        assert_eq!(refused(wrong, Who::Local).reason(), Reason::Misbehaviour, "{said}");
    }
}

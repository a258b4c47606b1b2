//! Who may speak as whom, by scenario.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_model::{Mark, Reason as Cause, Seq, Source};
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{Goodbye, Heartbeat, Hello};

use super::{facts, hello};
use crate::collector::fleet::{FleetRow, FleetState};
use crate::collector::hello::{Facts, Who};
use crate::collector::registry::{Admitted, End, Registry, RejectedBundle, Weight};
use crate::limits::{AGENTS_MAX, AWAY_DAYS_MAX, INCARNATIONS_MAX, SHOWN_FOR, STARTS_MAX};
use crate::names::{StoreId, to_wire};

const STORE: StoreId = StoreId(77);

fn registry(now: Instant) -> Registry {
    Registry::new(STORE, Vec::new(), now).0
}

fn source(identity: &str, incarnation: u128, log: &str) -> Source {
    Source { identity: identity.to_owned(), incarnation, log: log.to_owned() }
}

fn mark(identity: &str, incarnation: u128, log: &str, seq: u64, epoch: u64) -> Mark {
    Mark { source: source(identity, incarnation, log), seq: Seq(seq), epoch }
}

/// A Hello without marks.
fn meet(registry: &mut Registry, hello: Hello, now: Instant) -> Result<Admitted, Goodbye> {
    registry.admit(&facts(hello), &[], now)
}

/// The row of `identity`.
fn row(registry: &Registry, identity: &str, now: Instant) -> Option<FleetRow> {
    registry.fleet(now).into_iter().find(|row| row.identity == identity)
}

/// What another process would find on the disk.
fn reopened(registry: &mut Registry, now: Instant) -> Registry {
    let rows = registry.take_changes().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let (registry, broken) = Registry::new(STORE, rows, now);
    assert_eq!(broken, Vec::<String>::new());
    registry
}

/// Scenario: a bundle of each of 64 logs with the longest names is rejected.
/// Guarantees: what is durable of the agent stays small enough for ten thousand such rows in one file.
#[test]
fn what_is_remembered_of_rejected_bundles_is_bounded() {
    let now = Instant::now();
    let mut registry = registry(now);
    meet(&mut registry, hello("a", 5, 1, 1, &[]), now).unwrap();
    for log in 0..64 {
        let source = source("a", 11, &format!("{log:0255}"));
        let rejected =
            RejectedBundle { source: &source, last: 1, records: 1, cause: Cause::Rejected, text: "never" };
        registry.rejected("a", &rejected, now);
    }
    let changes = registry.take_changes();
    let [(_, Some(row))] = changes.as_slice() else { panic!("{changes:?}") };
    assert!(row.len() * AGENTS_MAX <= weir_queue::MAP_BYTES_MAX, "{} bytes", row.len());
}

/// Scenario: starts 1 to 3 of one agent, one after the other; between two of them the collector starts again.
/// Guarantees: each is welcome; the newest start is what is shown.
#[test]
fn an_agent_comes_back_at_each_of_its_starts() {
    let now = Instant::now();
    let mut registry = registry(now);
    for epoch in 1..=3 {
        let admitted = meet(&mut registry, hello("a", 5, epoch, u128::from(epoch), &[]), now).unwrap();
        assert!(admitted.fences.is_none() && admitted.notes.is_empty());
        registry.ended("a", admitted.session, End::Orderly, "left", now);
        let again = meet(&mut registry, hello("a", 5, epoch, u128::from(epoch), &[]), now).unwrap();
        registry.ended("a", again.session, End::Orderly, "left", now);
        registry = reopened(&mut registry, now);
        assert_eq!(row(&registry, "a", now).unwrap().epoch, Some(epoch));
    }
}

/// Scenario: an agent's folder is restored from a copy of an earlier start (rule a), also after the collector started again.
/// Guarantees: NEW_INCARNATION with the highest known; the agent is welcome with a new one above it; it is shown.
#[test]
fn a_restored_copy_takes_a_new_incarnation() {
    let now = Instant::now();
    let mut registry = registry(now);
    let met = meet(&mut registry, hello("a", 5, 4, 1, &[]), now).unwrap();
    registry.ended("a", met.session, End::Dead, "gone", now);
    let mut registry = reopened(&mut registry, now);
    let goodbye = meet(&mut registry, hello("a", 5, 3, 2, &[]), now).unwrap_err();
    assert_eq!((goodbye.reason(), goodbye.incarnation.clone()), (Reason::NewIncarnation, to_wire(5)));
    let shown = row(&registry, "a", now).unwrap();
    assert_eq!((shown.state, shown.turned_away), (FleetState::Fenced, 1));
    assert!(shown.event.contains("older copy"), "{}", shown.event);
    meet(&mut registry, hello("a", 6, 1, 2, &[]), now).unwrap();
}

/// Scenario: two processes run with copies of one folder, at the same start (rule b), while the first lives and when it is gone.
/// Guarantees: whoever comes second takes a new incarnation; the first lives on until that one comes.
#[test]
fn two_processes_with_one_folder_are_told_apart() {
    let now = Instant::now();
    let mut registry = registry(now);
    let first = meet(&mut registry, hello("a", 5, 2, 100, &[]), now).unwrap();
    let goodbye = meet(&mut registry, hello("a", 5, 2, 200, &[]), now).unwrap_err();
    assert_eq!(goodbye.reason(), Reason::NewIncarnation);
    assert!(registry.is_live("a", first.session));
    assert_eq!(row(&registry, "a", now).unwrap().state, FleetState::Live);
    let second = meet(&mut registry, hello("a", 6, 1, 200, &[]), now).unwrap();
    let (fenced, word) = second.fences.unwrap();
    assert_eq!((fenced, word.reason()), (first.session, Reason::Fenced));
    assert!(word.wait_ms > 0);
    let back = meet(&mut registry, hello("a", 5, 2, 100, &[]), now).unwrap_err();
    assert_eq!(back.reason(), Reason::Fenced, "a stream of a newer life");
    assert!(registry.is_live("a", second.session));
}

/// Scenario: start 2 of an agent was here; then come copies of its folder that were started since, at other processes for start 2
/// or at this one; a folder that remembers only itself; one that was started 63 and 64 times since; also after the collector
/// started again.
/// Guarantees: whoever does not remember that process for that start takes a new incarnation; its heirs are welcome.
#[test]
fn a_copy_that_was_started_often_is_told_from_its_heir() {
    let now = Instant::now();
    let most = STARTS_MAX as u64;
    let short = |epoch, boots: &[u128]| Hello {
        boots: boots.iter().map(|boot| to_wire(*boot)).collect(),
        ..hello("a", 5, epoch, *boots.last().unwrap(), &[])
    };
    let cases = [
        (short(3, &[1, 2, 3]), true, "an heir"),
        (short(4, &[1, 2, 30, 40]), true, "an heir that was started twice"),
        (short(4, &[2, 30, 40]), true, "that does not remember the first"),
        (short(4, &[1, 20, 30, 40]), false, "another was start 2"),
        (short(4, &[1, 20, 2, 40]), false, "the same process at another start"),
        (short(3, &[30]), false, "no memory"),
        (hello("a", 5, most + 1, 900, &[]), true, "as long ago as is remembered"),
        (hello("a", 5, most + 2, 900, &[]), false, "longer ago"),
    ];
    for (hello, is_welcome, what) in cases {
        let mut registry = registry(now);
        let met = meet(&mut registry, short(2, &[1, 2]), now).unwrap();
        registry.ended("a", met.session, End::Dead, "gone", now);
        let mut registry = reopened(&mut registry, now);
        let met = meet(&mut registry, hello, now);
        let reason = met.map(|_| ()).map_err(|goodbye| (goodbye.reason(), goodbye.incarnation));
        let expected = if is_welcome { Ok(()) } else { Err((Reason::NewIncarnation, to_wire(5))) };
        assert_eq!(reason, expected, "{what}");
    }
}

/// Scenario: a folder is copied while start 2 runs, which then hands over place 70; the copy is started three times, at places 60,
/// 80 and 90, before it comes.
/// Guarantees: NEW_INCARNATION: what start 2 has left is above where the copy's next start began, though below its last; a place
/// below both is in order, and so is one of a start that the copy remembers.
#[test]
fn a_copy_of_a_running_agent_is_told_by_the_places_of_its_starts() {
    let now = Instant::now();
    for (seq, of, is_welcome) in
        [(70, 2, false), (60, 2, false), (59, 2, true), (70, 3, true), (80, 3, false)]
    {
        let mut registry = registry(now);
        let met = meet(&mut registry, hello("a", 5, 2, 2, &[]), now).unwrap();
        registry.ended("a", met.session, End::Orderly, "left", now);
        let mut copy = hello("a", 5, 5, 5, &[("traces", 11, 100, 90, 1)]);
        copy.logs[0].firsts = vec![1, 50, 60, 80, 90];
        let met = registry.admit(&facts(copy), &[mark("a", 11, "traces", seq, of)], now);
        assert_eq!(met.is_ok(), is_welcome, "place {seq} of start {of}");
    }
}

/// Scenario: Hellos with more starts than may be, more than there were, of other lengths, of another process; a log with more
/// starts than may be, or whose last is not its epoch's.
/// Guarantees: MISBEHAVIOUR, in words.
#[test]
fn starts_that_cannot_be_are_refused() {
    let said = [("traces", 11, 100, 60, 1)];
    let with = |epoch, boots: Vec<Vec<u8>>, firsts: Vec<u64>| {
        let mut hello = Hello { boots, ..hello("a", 5, epoch, 7, &said) };
        hello.logs[0].firsts = firsts;
        Facts::read(hello, &Who::Local).map(|_| ()).map_err(|goodbye| (goodbye.reason(), goodbye.text))
    };
    let own = || vec![to_wire(7)];
    with(500, vec![to_wire(7); STARTS_MAX], vec![60; STARTS_MAX]).unwrap();
    with(1, Vec::new(), Vec::new()).unwrap();
    for (found, word) in [
        (with(500, vec![to_wire(7); STARTS_MAX + 1], Vec::new()), "65 boots"),
        (with(1, vec![to_wire(7); 2], Vec::new()), "2 boots at start 1"),
        (with(2, vec![vec![1; 15], to_wire(7)], Vec::new()), "not 16 bytes"),
        (with(2, vec![to_wire(7), to_wire(8)], Vec::new()), "not its own"),
        (with(1, own(), vec![60; STARTS_MAX + 1]), "65 starts"),
        (with(1, own(), vec![60, 61]), "is not 60"),
    ] {
        let (reason, text) = found.unwrap_err();
        assert!(reason == Reason::Misbehaviour && text.contains(word), "{word}: {text}");
    }
}

/// Scenario: a copy of a folder went on offline past the mark, or its twin did (rule c): the collector has places that this start
/// cannot have had, or places beyond the end of its log.
/// Guarantees: NEW_INCARNATION for both; a mark below both is in order, and so is one of this very start.
#[test]
fn a_numbering_that_another_copy_used_is_given_up() {
    let now = Instant::now();
    let said = [("traces", 11, 100, 60, 1)];
    let cases = [
        (mark("a", 11, "traces", 100, 2), true, "at the end of its log"),
        (mark("a", 11, "traces", 250, 1), true, "beyond the end"),
        (mark("a", 11, "traces", 60, 1), true, "of an earlier start, within this one"),
        (mark("a", 11, "traces", 59, 1), false, "of an earlier start, before this one"),
        (mark("a", 11, "traces", 99, 2), false, "of this start"),
        (mark("a", 12, "traces", 500, 9), false, "of another numbering"),
        (mark("a", 11, "metrics", 500, 9), false, "of another log"),
    ];
    for (mark, is_refused, what) in cases {
        // Known and unknown to the registry: marks are in the logs, and outlive it.
        for is_known in [false, true] {
            let mut registry = registry(now);
            if is_known {
                let met = meet(&mut registry, hello("a", 5, 1, 1, &[]), now).unwrap();
                registry.ended("a", met.session, End::Orderly, "left", now);
            }
            let met = registry.admit(&facts(hello("a", 5, 2, 2, &said)), std::slice::from_ref(&mark), now);
            let reason = met.map(|_| ()).map_err(|goodbye| (goodbye.reason(), goodbye.incarnation));
            let expected = if is_refused { Err((Reason::NewIncarnation, to_wire(5))) } else { Ok(()) };
            assert_eq!(reason, expected, "{what}, known {is_known}");
        }
    }
}

/// Scenario: an agent's disk is wiped; its new folder has a later incarnation, or, by a clock that is behind, an earlier one.
/// Guarantees: the later one is welcome at its first start; the earlier one is asked to take one above what is known.
#[test]
fn a_wiped_agent_is_welcome_with_a_later_incarnation() {
    let now = Instant::now();
    let mut registry = registry(now);
    let met = meet(&mut registry, hello("a", 50, 9, 1, &[]), now).unwrap();
    registry.ended("a", met.session, End::Dead, "gone", now);
    let goodbye = meet(&mut registry, hello("a", 40, 1, 2, &[]), now).unwrap_err();
    assert_eq!((goodbye.reason(), goodbye.incarnation), (Reason::NewIncarnation, to_wire(50)));
    meet(&mut registry, hello("a", 60, 1, 3, &[]), now).unwrap();
}

/// Scenario: during a rolling update the new process connects while the old one's stream lives (#1053); the old one comes back;
/// the new one's connection is exchanged for another of the same process.
/// Guarantees: one stream at any time; higher fences lower; of the same process the newer connection counts.
#[test]
fn an_identity_has_one_live_stream() {
    let now = Instant::now();
    let mut registry = registry(now);
    let old = meet(&mut registry, hello("a", 5, 1, 1, &[]), now).unwrap();
    let new = meet(&mut registry, hello("a", 5, 2, 2, &[]), now).unwrap();
    assert_eq!(new.fences.as_ref().map(|(session, _)| *session), Some(old.session));
    assert!(meet(&mut registry, hello("a", 5, 1, 1, &[]), now).is_err());
    let again = meet(&mut registry, hello("a", 5, 2, 2, &[]), now).unwrap();
    assert_eq!(again.fences.as_ref().map(|(session, _)| *session), Some(new.session));
    assert_eq!(registry.live(), 1);
    assert!(registry.is_live("a", again.session) && !registry.is_live("a", new.session));
}

/// Scenario: the old stream's end, its last message and its last heartbeat come after the new stream's welcome (#857).
/// Guarantees: none of them changes what is shown of the new one.
#[test]
fn the_late_end_of_an_old_stream_changes_nothing() {
    let start = Instant::now();
    let later = start + Duration::from_secs(60);
    let mut registry = registry(start);
    let old = meet(&mut registry, hello("a", 5, 1, 1, &[]), start).unwrap();
    let new = meet(&mut registry, hello("a", 5, 2, 2, &[]), start).unwrap();
    let before = row(&registry, "a", later).unwrap();
    registry.heard("a", old.session, later);
    registry.heartbeat("a", old.session, &Heartbeat { waiting_records: 9, ..Heartbeat::default() });
    registry.ended("a", old.session, End::Dead, "gone", later);
    assert_eq!(row(&registry, "a", later).unwrap(), before);
    assert_eq!((before.state, registry.live()), (FleetState::Live, 1));
    registry.ended("a", new.session, End::Dead, "fell silent", later);
    let dead = row(&registry, "a", later).unwrap();
    assert_eq!((dead.state, dead.event.as_str(), registry.live()), (FleetState::Dead, "fell silent", 0));
    assert_eq!((dead.session, dead.heard_seconds), (None, Some(60.0)));
}

/// Scenario: more identities than there is room for, one after the other, and all of them at once (#1026).
/// Guarantees: the bound holds; who was here longest ago goes, counted, also from the disk, where only its name stays; who lives
/// never does.
#[test]
fn identities_are_bounded() {
    let now = Instant::now();
    let mut registry = registry(now).with_rows_max(3);
    let lives = meet(&mut registry, hello("lives", 5, 1, 1, &[]), now).unwrap();
    for name in ["b", "c", "d", "e"] {
        let met = meet(&mut registry, hello(name, 5, 1, 1, &[]), now).unwrap();
        registry.ended(name, met.session, End::Orderly, "left", now);
    }
    let names: Vec<_> = registry.fleet(now).into_iter().map(|row| row.identity).collect();
    assert_eq!((names, registry.forgotten()), (vec!["d".to_owned(), "e".to_owned(), "lives".to_owned()], 2));
    let changes = registry.take_changes();
    let gone: Vec<_> =
        changes.iter().filter(|(_, value)| *value == Some(Vec::new())).map(|(key, _)| key.clone()).collect();
    assert_eq!(gone, [b"agent/b".to_vec(), b"agent/c".to_vec()]);
    for name in ["d", "e"] {
        meet(&mut registry, hello(name, 5, 1, 1, &[]), now).unwrap();
    }
    let goodbye = meet(&mut registry, hello("f", 5, 1, 1, &[]), now).unwrap_err();
    assert!(goodbye.reason() == Reason::TooMany && goodbye.wait_ms > 0, "{goodbye:?}");
    assert!(registry.is_live("lives", lives.session));
}

/// Scenario: the collector ends after two agents were forgotten and before their states were let go; one of them comes back, and
/// the states of the other are let go; the collector ends again.
/// Guarantees: the next process knows both, and shows neither; who is back is not let go; in the end no name is left on the disk.
#[test]
fn whose_states_are_to_be_let_go_outlives_the_process() {
    let now = Instant::now();
    let mut disk = BTreeMap::new();
    let mut write = |registry: &mut Registry| {
        for (key, value) in registry.take_changes() {
            disk.remove(&key);
            disk.extend(value.map(|value| (key, value)));
        }
        let (registry, broken) = Registry::new(STORE, disk.clone().into_iter().collect(), now);
        assert_eq!(broken, Vec::<String>::new());
        (registry, disk.len())
    };
    let mut registry = registry(now);
    for name in ["a", "b"] {
        let met = meet(&mut registry, hello(name, 5, 1, 1, &[]), now).unwrap();
        registry.ended(name, met.session, End::Orderly, "left", now);
    }
    write(&mut registry);
    assert!(registry.forget_oldest() && registry.forget_oldest());
    let (mut registry, rows) = write(&mut registry);
    assert_eq!((rows, registry.first_gone().as_deref(), registry.fleet(now).len()), (2, Some("a"), 0));
    meet(&mut registry, hello("a", 5, 1, 1, &[]), now).expect("it is a stranger");
    let (mut registry, _) = write(&mut registry);
    assert_eq!((registry.first_gone().as_deref(), registry.fleet(now).len()), (Some("b"), 1));
    registry.let_go("b");
    let (registry, rows) = write(&mut registry);
    assert_eq!((rows, registry.first_gone()), (1, None));
}

/// Scenario: agents leave and die; a day passes; ninety more do, in which one of them lives.
/// Guarantees: those gone are shown for a day; they are forgotten by days of the collector's running, never by a clock.
#[test]
fn the_dead_are_shown_for_a_day_and_forgotten_after_ninety() {
    let start = Instant::now();
    let mut registry = registry(start);
    meet(&mut registry, hello("lives", 5, 1, 1, &[]), start).unwrap();
    let dies = meet(&mut registry, hello("dies", 5, 1, 1, &[]), start).unwrap();
    registry.ended("dies", dies.session, End::Dead, "fell silent", start);
    assert!(row(&registry, "dies", start + SHOWN_FOR - Duration::from_secs(1)).is_some());
    assert!(row(&registry, "dies", start + SHOWN_FOR).is_none());
    for day in 1..=AWAY_DAYS_MAX {
        registry.sweep(start + Duration::from_secs(24 * 3600) * day);
    }
    assert_eq!(registry.forgotten(), 0);
    registry.sweep(start + Duration::from_secs(24 * 3600) * (AWAY_DAYS_MAX + 1));
    assert_eq!(registry.forgotten(), 1);
    meet(&mut registry, hello("dies", 5, 1, 9, &[]), start).expect("a stranger now");
    assert!(row(&registry, "lives", start).is_some());
}

/// Scenario: an agent whose records another store acknowledged (rule f); one that says more is settled than this store has; one
/// whose last records this store refused for good.
/// Guarantees: the first is noted with its number, the second as a loss, the third is none; all are welcome.
#[test]
fn what_another_store_or_a_lost_one_had_is_told() {
    let now = Instant::now();
    let told = |registry: &mut Registry, store: u128, settled: u64, upto: u64| {
        let said = [("traces", 11, 100, 90, settled)];
        let hello = Hello { store: to_wire(store), ..hello("a", 5, 1, 1, &said) };
        let marks = [mark("a", 11, "traces", upto, 1)];
        let facts = facts(hello);
        let admitted = registry.admit(&facts, &marks, now).expect("it is welcome all the same");
        registry.admit_again(&facts, &marks, admitted.session, now).expect("and again")
    };
    let other = told(&mut registry(now), 78, 51, 0);
    assert!(other[0].weight == Weight::Warn && other[0].text.contains("up to 50 records"), "{other:?}");
    let lost = told(&mut registry(now), 77, 51, 20);
    assert!(
        lost[0].weight == Weight::Error && lost[0].text.contains("up to 30 records are lost here"),
        "{lost:?}"
    );
    assert_eq!(told(&mut registry(now), 77, 51, 50), []);
    let mut refusing = registry(now);
    told(&mut refusing, 77, 41, 40);
    let log = source("a", 11, "traces");
    let rejected =
        RejectedBundle { source: &log, last: 50, records: 10, cause: Cause::Malformed, text: "broken" };
    refusing.rejected("a", &rejected, now);
    let mut refusing = reopened(&mut refusing, now);
    assert_eq!(told(&mut refusing, 77, 51, 40), [], "refused is not lost, also after a start");
    let shown = row(&refusing, "a", now).unwrap();
    assert_eq!(shown.state, FleetState::Live);
}

/// Scenario: bundles are taken and rejected for two reasons; a Hello is turned away (#969).
/// Guarantees: each has its count at the agent's row, by reason, and the last event in words.
#[test]
fn every_refusal_is_counted_for_its_agent() {
    let now = Instant::now();
    let mut registry = registry(now);
    let met = meet(&mut registry, hello("a", 5, 2, 1, &[]), now).unwrap();
    registry.took("a", 3, 2, 100);
    let log = source("a", 11, "traces");
    for (records, cause) in [(2, Cause::Malformed), (1, Cause::NoPipeline), (4, Cause::Malformed)] {
        let rejected = RejectedBundle { source: &log, last: 9, records, cause, text: "why" };
        registry.rejected("a", &rejected, now);
    }
    registry.heartbeat("a", met.session, &Heartbeat { waiting_records: 7, ..Heartbeat::default() });
    assert!(meet(&mut registry, hello("a", 5, 1, 1, &[]), now).is_err());
    let row = row(&registry, "a", now).unwrap();
    assert_eq!((row.bundles, row.records, row.bytes, row.waiting.records), (1, 3, 100, 7));
    assert_eq!(row.duplicates, 2);
    assert_eq!(row.rejected, [("malformed".to_owned(), 6), ("no_pipeline".to_owned(), 1)]);
    assert_eq!((row.turned_away, row.state), (1, FleetState::Live));
    assert!(row.event.contains("older copy"), "{}", row.event);
}

/// Scenario: an agent takes more incarnations than are remembered; one of the first comes back; a row that is no row.
/// Guarantees: the list is bounded, and what fell out of it is still not welcome; the broken row is told, the others are read.
#[test]
fn incarnations_are_bounded() {
    let now = Instant::now();
    let mut registry = registry(now);
    for incarnation in 1..=2 * INCARNATIONS_MAX as u128 {
        let met = meet(&mut registry, hello("a", incarnation, 1, 1, &[]), now).unwrap();
        registry.ended("a", met.session, End::Orderly, "left", now);
    }
    let changes = registry.take_changes();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].1.as_ref().unwrap().len() < 2048);
    registry.not_written(&changes);
    let (key, value) = registry.take_changes().remove(0);
    let rows = vec![(key, value.unwrap()), (b"agent/b".to_vec(), b"no row".to_vec())];
    let (mut registry, broken) = Registry::new(STORE, rows, now);
    assert_eq!(broken, ["b"]);
    assert_eq!(
        meet(&mut registry, hello("a", 3, 9, 1, &[]), now).unwrap_err().reason(),
        Reason::NewIncarnation
    );
}

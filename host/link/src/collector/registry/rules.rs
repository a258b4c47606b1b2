//! The rules by which a Hello is judged.

use std::sync::Arc;

use weir_model::Mark;
use weir_proto::weir::link::v1::Goodbye;
use weir_proto::weir::link::v1::goodbye::Reason;

use super::row::Row;
use super::{Note, Weight};
use crate::collector::farewell;
use crate::collector::hello::{Facts, LogSaid};
use crate::limits::{FENCED_WAIT, STARTS_MAX};
use crate::names::{Incarnation, StoreId, to_wire};

/// Rules a to e.
///
/// # Errors
/// The Goodbye that the Hello is owed.
pub(super) fn judge(row: &Row, facts: &Facts, marks: &[Mark]) -> Result<(), Goodbye> {
    let highest = row.highest();
    let Facts { identity, incarnation, epoch, .. } = facts;
    if let Some((known, boot)) = row.known(*incarnation) {
        if *epoch < known {
            let text = format!(
                "start {epoch} of {identity:?} after its start {known}: an older copy of the agent's folder, which takes a new \
                 incarnation, or the hello of a process that has ended, which came late"
            );
            return Err(renew(text, highest));
        }
        if *epoch == known && facts.boot != boot {
            let text = format!(
                "a second process of {identity:?} at start {epoch}: two copies of one agent's folder, of which this one \
                 takes a new incarnation"
            );
            return Err(renew(text, highest));
        }
        if facts.boot_at(known) != Some(boot) {
            let text = format!(
                "start {epoch} of {identity:?} does not follow its start {known} that was here: another copy of the agent's \
                 folder, or one that was started more than {STARTS_MAX} times since, which takes a new incarnation"
            );
            return Err(renew(text, highest));
        }
    }
    numbering(facts, marks, highest)?;
    if let Some(live) = &row.live
        && (facts.incarnation, facts.epoch) < (live.incarnation, live.epoch)
    {
        let session = live.session;
        return Err(fenced(
            format!("a newer life of {identity:?} is connected (session {session})"),
            highest,
        ));
    }
    if row.known(*incarnation).is_none() && highest.is_some_and(|highest| *incarnation < highest) {
        let text =
            format!("a life of {identity:?} that is older than the newest known takes a new incarnation");
        return Err(renew(text, highest));
    }
    Ok(())
}

/// Rule c: whether each numbering is where it says that it is.
///
/// # Errors
/// NEW_INCARNATION.
pub(super) fn numbering(facts: &Facts, marks: &[Mark], highest: Option<Incarnation>) -> Result<(), Goodbye> {
    let known = facts.logs.iter().flat_map(|log| marks_of(log, marks).map(move |mark| (log, mark)));
    for (log, mark) in known {
        let (seq, name) = (mark.seq.0, &log.source.log);
        let (next, epoch) = (log.next, facts.epoch);
        let found = if seq >= next {
            format!("has place {seq} of the log {name:?}, which goes on at {next}")
        } else if let Some(first) = log.first_after(mark.epoch, epoch)
            && seq >= first
        {
            format!(
                "has place {seq} of the log {name:?} since start {}, but a later one begins at {first}",
                mark.epoch
            )
        } else {
            continue;
        };
        let text = format!(
            "this collector {found}: another copy of the folder of {:?} was here, and this one takes a new incarnation",
            facts.identity
        );
        return Err(renew(text, highest.max(Some(facts.incarnation))));
    }
    Ok(())
}

/// What an agent says of its past that is not in these logs. Nothing waits for it; it is shown.
pub(super) fn losses(row: &Row, facts: &Facts, marks: &[Mark], store: StoreId) -> Vec<Note> {
    let Some(known) = facts.store else { return Vec::new() };
    let identity = &facts.identity;
    if known != store {
        let settled: u64 = facts.logs.iter().map(|log| log.settled.saturating_sub(1)).sum();
        let text = format!(
            "{identity:?} had up to {settled} records acknowledged by another store than this one: what it has not settled \
             it sends again, what was settled there is there"
        );
        return vec![Note { weight: Weight::Warn, text }];
    }
    let mut notes = Vec::new();
    for log in &facts.logs {
        // Of several logs one has it, as long as the others were not there yet.
        let mark = marks_of(log, marks).map(|mark| mark.seq.0).max().unwrap_or_default();
        let answered = mark.max(row.rejected_upto(&log.source));
        let settled = log.settled.saturating_sub(1);
        if answered < settled {
            let (name, lost) = (&log.source.log, settled - answered);
            let text = format!(
                "{identity:?} has settled its log {name:?} up to {settled}, and this store ends at {answered}: up to {lost} \
                 records are lost here (an older copy of the folder?), unless the agent itself skipped or refused them"
            );
            notes.push(Note { weight: Weight::Error, text });
        }
    }
    notes
}

/// What the collector's logs have of this one: one mark for each of them.
fn marks_of<'a>(log: &LogSaid, marks: &'a [Mark]) -> impl Iterator<Item = &'a Mark> {
    let source = Arc::clone(&log.source);
    marks.iter().filter(move |mark| mark.source == *source)
}

fn renew(text: String, highest: Option<Incarnation>) -> Goodbye {
    let incarnation = highest.map_or_else(Vec::new, |highest| to_wire(highest.0));
    Goodbye { incarnation, ..farewell(Reason::NewIncarnation, text) }
}

/// The word for a stream whose identity is somebody newer's.
pub(super) fn fenced(text: String, highest: Option<Incarnation>) -> Goodbye {
    let incarnation = highest.map_or_else(Vec::new, |highest| to_wire(highest.0));
    let wait_ms = FENCED_WAIT.as_millis() as u32;
    Goodbye { incarnation, wait_ms, ..farewell(Reason::Fenced, text) }
}

//! Looking into a log: what `weir queue ls` and `weir queue dump` show.
//!
//! With the daemon running it calls these on its open queue; otherwise whoever asks opens the folder with
//! [`DiskQueue::open`], which locks it, and closes it again.

use bytes::Bytes;
use weir_model::{Lane, Seq, Signal};

use crate::book::Index;
use crate::journal::DiskQueue;
use crate::queue::QueueError;
use crate::segment::Fault;

/// Records that one page of a list shows.
const LIST_MAX: usize = 1_000;

/// One record in a log, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its place.
    pub seq: Seq,
    /// What its body is.
    pub signal: Signal,
    /// Where its order is kept.
    pub lane: Lane,
    /// Items in it.
    pub items: u32,
    /// Body bytes.
    pub bytes: u32,
}

impl DiskQueue {
    /// Records at `from` and after that are still on disk, at most `max` (and at most 1,000). Reads the disk.
    ///
    /// # Errors
    /// [`QueueError::Io`] where a segment cannot be read.
    pub fn list(&self, from: Seq, max: usize) -> Result<Vec<Listed>, QueueError> {
        let firsts = self.core.state().book.segments_from(from.0);
        let mut listed = Vec::new();
        for first in firsts {
            let (heads, _) = self
                .core
                .store
                .get(first)
                .and_then(|segment| segment.heads())
                .map_err(|fault| self.core.failure("read", "segments", fault))?;
            let wanted = heads.iter().filter(|head| head.seq >= from.0);
            listed.extend(wanted.take(max.min(LIST_MAX) - listed.len()).map(|head| Listed {
                seq: Seq(head.seq),
                signal: head.signal,
                lane: head.lane,
                items: head.items,
                bytes: head.bytes,
            }));
            let has_index = self.core.state().book.has_index(first);
            if !has_index {
                let index = Index::of(first, &heads);
                self.core.state().book.load(first, index);
            }
            if listed.len() == max.min(LIST_MAX) {
                break;
            }
        }
        Ok(listed)
    }

    /// The body of one record that is still on disk. Reads the disk.
    ///
    /// # Errors
    /// [`QueueError::NotFound`]; [`QueueError::Io`] where it is damaged or cannot be read.
    pub fn dump(&self, seq: Seq) -> Result<Bytes, QueueError> {
        let missing = || QueueError::NotFound { what: format!("record {seq}") };
        let first = self.core.state().book.segments_from(seq.0).first().copied().ok_or_else(missing)?;
        let failure = |fault| self.core.failure("read", "segments", fault);
        let segment = self.core.store.get(first).map_err(failure)?;
        let known = segment.heads().map_err(failure)?.0.iter().any(|head| head.seq == seq.0);
        if !known {
            return Err(missing());
        }
        let read = segment.read(&[seq.0]).map_err(failure)?.into_iter().next().ok_or_else(missing)?;
        read.map(|(_, body)| body).map_err(|why| failure(Fault::Damaged(format!("record {seq}: {why}"))))
    }
}

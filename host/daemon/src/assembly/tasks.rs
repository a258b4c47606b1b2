//! Tasks that live as long as the process, or until a reload has no use for them.

use std::collections::HashMap;
use std::io;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Tasks with names for the log. There are as many as parts of a configuration, which a person has written.
#[derive(Default)]
pub(crate) struct Tasks {
    set: JoinSet<io::Result<()>>,
    known: HashMap<Id, Known>,
}

struct Known {
    name: String,
    /// It was told to end, so its end is no news.
    is_leaving: bool,
}

/// One of them, seen by whoever may end it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    task: AbortHandle,
    ended: CancellationToken,
}

impl Running {
    /// Returns when nothing of it is left.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether nothing of it is left.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Drops what it does.
    pub(crate) fn cut(&self) {
        self.task.abort();
    }
}

impl Tasks {
    /// Begins one.
    pub(crate) fn spawn(
        &mut self,
        name: String,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Running {
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let task = self.set.spawn(async move {
            let _end = end;
            task.await
        });
        self.known.insert(task.id(), Known { name, is_leaving: false });
        Running { task, ended }
    }

    /// From now on its end is no news.
    pub(crate) fn leaves(&mut self, running: &Running) {
        if let Some(known) = self.known.get_mut(&running.task.id()) {
            known.is_leaving = true;
        }
    }

    /// The next that ends without having been told to, and how, where it did not end well; pending for ever where none
    /// is left.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(crate) async fn next(&mut self) -> (String, Option<String>) {
        loop {
            let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
            let (id, why) = end_of(ended);
            match self.known.remove(&id) {
                Some(Known { name, is_leaving: false }) => return (name, why),
                Some(Known { name, is_leaving: true }) => tell(&name, why),
                None => (),
            }
        }
    }

    /// Waits until all have ended, whoever told them to.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(crate) async fn join(&mut self) {
        self.known.values_mut().for_each(|known| known.is_leaving = true);
        while let Some(ended) = self.set.join_next_with_id().await {
            let (id, why) = end_of(ended);
            tell(&self.known.remove(&id).map(|known| known.name).unwrap_or_default(), why);
        }
    }

    /// Drops what all of them do.
    pub(crate) async fn shutdown(&mut self) {
        self.set.shutdown().await;
        self.known.clear();
    }

    /// Whether none is left.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

/// Which one ended, and how, where it did not end well.
fn end_of(ended: Result<(Id, io::Result<()>), JoinError>) -> (Id, Option<String>) {
    match ended {
        Ok((id, Ok(()))) => (id, None),
        Ok((id, Err(error))) => (id, Some(error.to_string())),
        Err(error) if error.is_cancelled() => (error.id(), None),
        Err(error) => (error.id(), Some(format!("it panicked: {error}"))),
    }
}

fn tell(part: &str, why: Option<String>) {
    if let Some(error) = why {
        error!(part, error, "a part failed");
    }
}

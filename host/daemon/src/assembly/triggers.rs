//! What asks for another look at the configuration: SIGHUP, and a change of the file.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often the file is looked at: an editor's two writes lie closer together, and a person waits that long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The signal.
    Hangup,
    /// The file is another.
    FileChanged,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hangup => "SIGHUP",
            Self::FileChanged => "the file changed",
        })
    }
}

/// Who asks for a reload. What is asked for while one is under way is done after it, once.
#[derive(Debug, Default)]
pub struct Triggers {
    /// Keeps one signal that nobody has waited for yet.
    hangup: Option<Signal>,
    watch: Option<Watch>,
}

/// A file under watch.
#[derive(Debug)]
struct Watch {
    path: PathBuf,
    looks: Option<Interval>,
    /// The file that was last read, as it was before it was read.
    read: Option<Print>,
    /// The last look.
    seen: Option<Print>,
}

/// What tells one state of a file from another. A file that was written and has its old time again has another `changed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Triggers {
    /// SIGHUP, also one that has come before this; and changes of `file` from what it is now.
    pub fn listen(hangup: Signal, file: Option<&Path>) -> Self {
        let watch =
            file.map(|path| Watch { path: path.to_owned(), looks: None, read: Print::of(path), seen: None });
        Self { hangup: Some(hangup), watch }
    }

    /// The file, where there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.watch.as_ref().map(|watch| watch.path.as_path())
    }

    /// The file is about to be read: what it is now is no change any more.
    pub(crate) fn reads(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.read = Print::of(&watch.path);
        }
    }

    /// The next cause.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(crate) async fn next(&mut self) -> Cause {
        let Self { hangup, watch } = self;
        let told = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            match watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = told => Cause::Hangup,
            () = changed => Cause::FileChanged,
        }
    }
}

impl Watch {
    /// Returns when two looks in a row have seen one other file: one that is being written changes between them. A file
    /// that is not there is about to be replaced.
    async fn changed(&mut self) {
        loop {
            let looks = self.looks.get_or_insert_with(|| {
                let mut looks = interval(LOOK_INTERVAL);
                looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                looks
            });
            looks.tick().await;
            if self.sees(Print::of(&self.path)) {
                return;
            }
        }
    }

    /// Takes a look; whether it is worth reading.
    fn sees(&mut self, print: Option<Print>) -> bool {
        let is_steady = print.is_some() && print == self.seen;
        self.seen = print;
        is_steady && print != self.read
    }
}

impl Print {
    /// One `stat`; none where the file is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(inode: u64, bytes: u64) -> Option<Print> {
        Some(Print { device: 1, inode, bytes, modified: (0, 0), changed: (0, 0) })
    }

    /// Scenario: looks at a file that is as it was read, grows, stands still, is gone for a moment, is back, is another.
    /// Guarantees: only what stands still over two looks and is not what was read asks for a reload.
    #[test]
    fn a_file_is_believed_when_two_looks_agree() {
        let (old, growing, new) = (print(1, 10), print(1, 12), print(1, 20));
        let mut watch = Watch { path: PathBuf::new(), looks: None, read: old, seen: None };
        for (look, asks) in [(old, false), (old, false), (growing, false), (new, false), (new, true)] {
            assert_eq!(watch.sees(look), asks, "{look:?}");
        }
        watch.read = new;
        for (look, asks) in
            [(None, false), (None, false), (new, false), (new, false), (old, false), (old, true)]
        {
            assert_eq!(watch.sees(look), asks, "{look:?}");
        }
    }
}

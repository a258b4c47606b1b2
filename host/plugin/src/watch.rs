//! The plugin folder, followed: what lies under the names that are in use, and when other code takes over.
//!
//! The files are looked at each second instead of being told of by the system: that works on every file system (NFS and
//! FUSE tell nothing), through the symbolic links by which Kubernetes mounts a folder, and when the folder itself is
//! taken away and comes back; it costs one `stat` for each plugin in use. A file is cheaply looked at by size, times and
//! inode, and what it holds is known by its SHA-256 alone.
//!
//! Invariant: a look is believed when the one before saw the same, so that neither half of a copy nor the moment between
//! a removal and a rename counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error};

use crate::host::Host;
use crate::load::{Flaw, Found, LoadError, file_of, found};
use crate::slot::Slot;

/// How often the folder is looked at: a file serves some three seconds after it was dropped.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// As above, of the inode: a file that can be read again counts as another one.
    changed: (i64, i64),
}

impl Fingerprint {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What lies under a plugin's name in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A file.
    File(Fingerprint),
    /// No file, or something that is none.
    Nothing,
    /// Something that the system does not let us look at.
    Unreadable(io::ErrorKind),
}

impl Look {
    /// Follows symbolic links. Blocks.
    pub(crate) fn at(path: &Path) -> Self {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => Self::File(Fingerprint::of(&metadata)),
            Ok(_) => Self::Nothing,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Nothing,
                other => Self::Unreadable(other),
            },
        }
    }
}

/// What is believed of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Somebody says that the files are as they should be.
    FirstLook,
    /// Only what was seen at the look before as well.
    SecondLook,
}

/// What was seen at the last look, for each name in use; and who brings what.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: BTreeMap<String, Look>,
    /// By plugin: whoever has it is the only one who brings that plugin, so that no two compile the same file and none
    /// waits for another one's.
    turns: BTreeMap<String, Arc<Mutex<()>>>,
}

impl Watch {
    /// Takes the next look; returns what of it can be believed.
    fn believe(&mut self, looks: BTreeMap<String, Look>) -> BTreeMap<String, Look> {
        let before = std::mem::replace(&mut self.seen, looks);
        let agreed = self.seen.iter().filter(|(name, look)| before.get(*name) == Some(*look));
        agreed.map(|(name, look)| (name.clone(), *look)).collect()
    }

    fn turn(&mut self, plugin: &str) -> Arc<Mutex<()>> {
        // Those of plugins that are not in use any more go with the next look.
        self.turns.retain(|name, turn| {
            name == plugin || self.seen.contains_key(name) || Arc::strong_count(turn) > 1
        });
        Arc::clone(self.turns.entry(plugin.to_owned()).or_default())
    }
}

/// A plugin for which there is news, and ids that want it.
struct News {
    plugin: String,
    look: Look,
    trust: Trust,
    slots: Vec<Arc<Slot>>,
}

impl Host {
    /// Follows the plugin folder: a file that was dropped, replaced or removed takes effect while calls go on. Never
    /// returns.
    ///
    /// # Cancel safety
    /// May be dropped; what is being compiled then is compiled to its end and thrown away.
    pub async fn watch(&self) {
        if self.shared.plugin_dir.is_none() {
            // Nothing can change: what is bundled is part of the program.
            return std::future::pending().await;
        }
        // Each plugin by itself: a file that is long about saying what it is holds up no other one.
        let mut bringing = JoinSet::new();
        let mut ticks = interval(LOOK_INTERVAL);
        // After a long compilation no second look follows at once: a second is what a copy is given to go on.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while let Some(brought) = bringing.try_join_next() {
                told_of_failure(brought);
            }
            for (news, turn) in self.news(Trust::SecondLook).await {
                // Where somebody has the turn, what this look saw is seen again at the next one.
                let Ok(turn) = turn.try_lock_owned() else { continue };
                let host = self.clone();
                bringing.spawn(async move {
                    let _turn = turn;
                    host.tell(news).await;
                });
            }
        }
    }

    /// Looks at every file now, and believes what it sees; what was refused is tried again. Returns when all that is
    /// new serves or is refused.
    ///
    /// # Cancel safety
    /// May be dropped: some ids may have the new code, others the one from before.
    pub async fn rescan(&self) {
        let mut bringing = JoinSet::new();
        for (news, turn) in self.news(Trust::FirstLook).await {
            let host = self.clone();
            bringing.spawn(async move {
                let _turn = turn.lock().await;
                host.tell(news).await;
            });
        }
        while let Some(brought) = bringing.join_next().await {
            told_of_failure(brought);
        }
    }

    /// Takes a look at every plugin in use; returns those for which there is news, with the turn to bring each.
    async fn news(&self, trust: Trust) -> Vec<(News, Arc<Mutex<()>>)> {
        // Held for no longer than a look takes.
        let mut watch = self.shared.watch.lock().await;
        let slots = self.live_slots();
        let looks = self.look(slots.iter().map(|slot| slot.plugin().to_owned()).collect()).await;
        let believed = match trust {
            Trust::FirstLook => looks,
            Trust::SecondLook => watch.believe(looks),
        };
        let now = Instant::now();
        let mut wanting: BTreeMap<String, Vec<Arc<Slot>>> = BTreeMap::new();
        for slot in slots {
            let look = believed.get(slot.plugin());
            if look.is_some_and(|look| slot.wants(*look, now, trust)) {
                wanting.entry(slot.plugin().to_owned()).or_default().push(slot);
            }
        }
        let news = wanting.into_iter().filter_map(|(plugin, slots)| {
            let (look, turn) = (*believed.get(&plugin)?, watch.turn(&plugin));
            Some((News { plugin, look, trust, slots }, turn))
        });
        news.collect()
    }

    /// Brings what is new before those who want it. The caller has the turn.
    async fn tell(&self, news: News) {
        let News { plugin, look: seen, trust, slots } = news;
        // Whoever had the turn before may have brought what came after that look.
        let look = self.look(BTreeSet::from([plugin.clone()])).await.get(&plugin).copied();
        let Some(look) = look.filter(|look| trust == Trust::FirstLook || *look == seen) else { return };
        let now = Instant::now();
        // A plugin is read and compiled once for all of its ids that pin the same.
        let mut waiting: BTreeMap<Option<String>, Vec<Arc<Slot>>> = BTreeMap::new();
        for slot in slots.into_iter().filter(|slot| slot.wants(look, now, trust)) {
            waiting.entry(slot.pinned().map(str::to_owned)).or_default().push(slot);
        }
        for (pinned, slots) in waiting {
            let folder = self.shared.plugin_dir.as_deref();
            match found(folder, self.shared.bundled, &plugin, look) {
                Some(found) => self.bring(found, pinned.as_deref(), look, &slots).await,
                None => slots.iter().for_each(|slot| slot.vacate(look)),
            }
        }
    }

    /// A look at each of these names. There are as many as plugins in the configuration.
    async fn look(&self, names: BTreeSet<String>) -> BTreeMap<String, Look> {
        let Some(folder) = self.shared.plugin_dir.clone() else {
            return names.into_iter().map(|name| (name, Look::Nothing)).collect();
        };
        let looking = tokio::task::spawn_blocking(move || {
            let look = |name: String| {
                let look = Look::at(&file_of(&folder, &name));
                (name, look)
            };
            names.into_iter().map(look).collect()
        });
        // A look that was not taken is not believed.
        looking.await.unwrap_or_default()
    }

    /// Brings what was found before the ids that want it; the code that serves them serves meanwhile.
    async fn bring(&self, found: Found, pinned: Option<&str>, look: Look, slots: &[Arc<Slot>]) {
        let plugin = found.name.clone();
        let wasm = match self.read(&found).await {
            Ok(wasm) if wasm.look == look => wasm,
            Ok(_) | Err(LoadError { flaw: Flaw::Changing, .. }) => {
                debug!(plugin, "plugin file changed between look and reading, looking again");
                return;
            }
            Err(error) => return slots.iter().for_each(|slot| slot.turn_down(look, &error)),
        };
        let (same, other): (Vec<_>, Vec<_>) = slots.iter().partition(|slot| slot.serves(wasm.digest));
        same.iter().for_each(|slot| slot.confirm(look, &found.source, found.shadows));
        if other.is_empty() {
            return;
        }
        let limits = other.iter().map(|slot| slot.limits().clone()).reduce(|a, b| a.or_larger(&b));
        match self.load_read(found, wasm, pinned, &limits.unwrap_or_default()).await {
            Ok(loaded) => {
                for slot in other {
                    slot.offer(&loaded).await;
                }
            }
            Err(error) => other.iter().for_each(|slot| slot.turn_down(look, &error)),
        }
    }
}

fn told_of_failure(brought: Result<(), JoinError>) {
    if let Err(error) = brought {
        error!(%error, "bringing a plugin failed, its file is tried again");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn look(folder: &Path) -> BTreeMap<String, Look> {
        BTreeMap::from([("acme".to_owned(), Look::at(&folder.join("acme.wasm")))])
    }

    /// Scenario: a file is copied in two parts with a look at each; it is removed and put back between two looks; it is
    /// removed for good; another plugin comes into use.
    /// Guarantees: only what two looks in a row saw is believed, for each name by itself.
    #[test]
    fn a_look_is_believed_when_the_next_one_agrees() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.wasm");
        let mut watch = Watch::default();
        let none = BTreeMap::new();
        assert_eq!(watch.believe(look(folder.path())), none, "the first look has none before it");
        assert_eq!(watch.believe(look(folder.path()))["acme"], Look::Nothing);
        fs::write(&path, b"half").unwrap();
        assert_eq!(watch.believe(look(folder.path())), none);
        fs::write(&path, b"half and half").unwrap();
        assert_eq!(watch.believe(look(folder.path())), none, "it still grew");
        let whole = look(folder.path());
        assert_eq!(watch.believe(whole.clone()), whole);
        fs::rename(&path, folder.path().join("aside")).unwrap();
        assert_eq!(watch.believe(look(folder.path())), none, "between removal and rename");
        fs::write(folder.path().join("new"), b"another one").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(watch.believe(look(folder.path())), none);
        let other = watch.believe(look(folder.path()));
        assert!(matches!(other["acme"], Look::File(_)) && other != whole);
        let mut more = look(folder.path());
        more.insert("zipkin".to_owned(), Look::Nothing);
        assert_eq!(watch.believe(more), other, "the new name was not looked at before");
    }

    /// Scenario: a link into a folder that is exchanged, as Kubernetes does; a folder under the plugin's name; a folder
    /// that is not one.
    /// Guarantees: what the link leads to is looked at; what is no file is nothing.
    #[test]
    fn links_are_followed_and_folders_are_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("acme.wasm"), b"same bytes").unwrap();
        }
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        std::os::unix::fs::symlink("data/acme.wasm", at("acme.wasm")).unwrap();
        let first = Look::at(&at("acme.wasm"));
        assert!(matches!(first, Look::File(_)));
        std::os::unix::fs::symlink("v2", at("data.new")).unwrap();
        fs::rename(at("data.new"), at("data")).unwrap();
        assert!(Look::at(&at("acme.wasm")) != first);
        assert_eq!(Look::at(&at("v1")), Look::Nothing);
        assert_eq!(Look::at(&at("acme.wasm/acme.wasm")), Look::Nothing);
    }
}

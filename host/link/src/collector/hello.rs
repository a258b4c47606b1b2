//! What an agent says of itself, checked: identity, numbers, logs.

use std::collections::HashSet;
use std::sync::Arc;

use weir_model::{SOURCE_NAME_BYTES_MAX, Source};
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{Goodbye, Hello, LogFacts};

use super::farewell;
use crate::limits::{LOGS_MAX, STARTS_MAX, TEXT_BYTES_MAX, VERSION};
use crate::names::{Boot, Incarnation, StoreId, from_wire, is_uri};

/// What the connection says of who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The name in a certificate that was verified.
    Certified(String),
    /// Nobody said, and it is on this machine: the Hello counts.
    Local,
    /// A certificate that was verified and says no name.
    Nameless,
    /// Nobody said, and it is on another machine.
    Stranger,
}

/// A Hello that can be worked with.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Who it is.
    pub identity: String,
    /// The life of its folder.
    pub incarnation: Incarnation,
    /// Its start in that life: 1 or more.
    pub epoch: u64,
    /// The process.
    pub boot: Boot,
    /// The last starts in that life, one for each epoch, the newest last: that is `boot`. At most [`STARTS_MAX`].
    pub boots: Vec<Boot>,
    /// Its logs, in the order of the Hello; each name once.
    pub logs: Vec<LogSaid>,
    /// The store that acknowledged last.
    pub store: Option<StoreId>,
    /// For people; without control characters, at most [`TEXT_BYTES_MAX`] bytes.
    pub host: String,
    /// The same.
    pub program: String,
    /// Whether it can send zstd.
    pub can_zstd: bool,
}

/// One log of a Hello.
#[derive(Debug, Clone)]
pub struct LogSaid {
    /// Under which its records are deduplicated.
    pub source: Arc<Source>,
    /// The place that the next record will have.
    pub next: u64,
    /// The first place that a record could get in this epoch.
    pub epoch_first: u64,
    /// Every record below is settled.
    pub settled: u64,
    /// `epoch_first` of the last starts, the newest last: that is this one. At most [`STARTS_MAX`].
    pub firsts: Vec<u64>,
}

impl Facts {
    /// Reads a Hello of `who`.
    ///
    /// # Errors
    /// The Goodbye that it is owed: VERSION, IDENTITY or MISBEHAVIOUR, with what was expected.
    pub fn read(hello: Hello, who: &Who) -> Result<Self, Goodbye> {
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let (min, max) = (hello.version_min, hello.version_max);
            let text = format!(
                "this collector speaks version {VERSION} of the link, the agent {min} to {max}; bring both to releases \
                 that share one"
            );
            return Err(farewell(Reason::Version, text));
        }
        let identity = identity(&hello.identity, who)?;
        let wrong = |what: &str| farewell(Reason::Misbehaviour, format!("hello of {identity:?}: {what}"));
        let incarnation = from_wire(&hello.incarnation).filter(|id| *id != 0);
        let incarnation = incarnation.ok_or_else(|| wrong("the incarnation is not 16 bytes"))?;
        let boot = from_wire(&hello.boot).map(Boot).ok_or_else(|| wrong("the boot is not 16 bytes"))?;
        let store = match &hello.store[..] {
            [] => None,
            store => Some(StoreId(from_wire(store).ok_or_else(|| wrong("the store is not 16 bytes"))?)),
        };
        if hello.epoch == 0 {
            return Err(wrong("the epoch is 0; the first is 1"));
        }
        let boots = boots(&hello.boots, boot, hello.epoch).map_err(|what| wrong(&what))?;
        if hello.logs.len() > LOGS_MAX {
            return Err(wrong(&format!("{} logs; expected at most {LOGS_MAX}", hello.logs.len())));
        }
        let mut names = HashSet::with_capacity(hello.logs.len());
        let mut logs = Vec::with_capacity(hello.logs.len());
        for log in hello.logs {
            logs.push(LogSaid::read(&identity, log).map_err(|what| wrong(&what))?);
            let name = &logs[logs.len() - 1].source.log;
            if !names.insert(name.clone()) {
                return Err(wrong(&format!("the log {name:?} is there twice")));
            }
        }
        let can_zstd = hello.encodings.iter().any(|encoding| encoding == "zstd");
        let (incarnation, epoch) = (Incarnation(incarnation), hello.epoch);
        let (host, program) = (shown(&hello.host), shown(&hello.program));
        Ok(Self { identity, incarnation, epoch, boot, boots, logs, store, host, program, can_zstd })
    }

    /// The process that its folder remembers for a start in this life; none where that is too long ago, or still to come.
    pub fn boot_at(&self, epoch: u64) -> Option<Boot> {
        let back = usize::try_from(self.epoch.checked_sub(epoch)?).ok()?;
        self.boots.iter().rev().nth(back).copied()
    }

    /// Bytes that a session keeps of it.
    pub fn bytes(&self) -> u64 {
        let names = self.logs.iter().map(|log| (log.source.log.len() + self.identity.len()) as u64);
        let starts = self.boots.len() * 16 + self.logs.iter().map(|log| log.firsts.len() * 8).sum::<usize>();
        names.sum::<u64>() + starts as u64 + (self.host.len() + self.program.len()) as u64
    }
}

impl LogSaid {
    fn read(identity: &str, log: LogFacts) -> Result<Self, String> {
        let LogFacts { name, incarnation, next, epoch_first, settled, mut firsts } = log;
        if name.is_empty() || name.len() > SOURCE_NAME_BYTES_MAX {
            let length = name.len();
            return Err(format!("a log's name has {length} bytes; expected 1 to {SOURCE_NAME_BYTES_MAX}"));
        }
        if name.contains(char::is_control) {
            return Err(format!("the log {name:?} has control characters in its name"));
        }
        let Some(incarnation) = from_wire(&incarnation) else {
            return Err(format!("the incarnation of the log {name:?} is not 16 bytes"));
        };
        if epoch_first > next || settled > next {
            return Err(format!(
                "the log {name:?} goes on at {next}, but says {epoch_first} of its epoch and {settled} of what is settled"
            ));
        }
        if firsts.is_empty() {
            firsts.push(epoch_first);
        }
        if firsts.len() > STARTS_MAX {
            let starts = firsts.len();
            return Err(format!("{starts} starts of the log {name:?}; expected at most {STARTS_MAX}"));
        }
        if firsts.last() != Some(&epoch_first) {
            return Err(format!(
                "the last of the starts of the log {name:?} is not {epoch_first}, its epoch's"
            ));
        }
        let source = Arc::new(Source { identity: identity.to_owned(), incarnation, log: name });
        Ok(Self { source, next, epoch_first, settled, firsts })
    }

    /// The lowest place from which a start after `mark` began, up to the start `epoch` that says it; none where there is none.
    /// What a start has left lies below.
    pub fn first_after(&self, mark: u64, epoch: u64) -> Option<u64> {
        let starts = usize::try_from(epoch.saturating_sub(mark)).unwrap_or(usize::MAX);
        self.firsts.iter().rev().take(starts).min().copied()
    }
}

/// The starts of a Hello.
fn boots(said: &[Vec<u8>], boot: Boot, epoch: u64) -> Result<Vec<Boot>, String> {
    if said.len() > STARTS_MAX || said.len() as u64 > epoch {
        let starts = said.len();
        return Err(format!(
            "{starts} boots at start {epoch}; expected at most {STARTS_MAX}, one for each start"
        ));
    }
    if said.is_empty() {
        return Ok(vec![boot]);
    }
    let boots: Option<Vec<_>> = said.iter().map(|boot| from_wire(boot).map(Boot)).collect();
    let boots = boots.ok_or_else(|| "one of the boots is not 16 bytes".to_owned())?;
    if boots.last() == Some(&boot) {
        Ok(boots)
    } else {
        Err("the last of the boots is not its own".to_owned())
    }
}

/// Whose name counts.
fn identity(said: &str, who: &Who) -> Result<String, Goodbye> {
    let refuse = |text: String| Err(farewell(Reason::Identity, text));
    if let Who::Certified(name) = who {
        if !said.is_empty() && said != name {
            let said = shown(said);
            return refuse(format!(
                "the certificate says {name:?}, the agent {said:?}; take `identity` out of the agent's configuration, or \
                 issue a certificate for that name (`weir cert issue`)"
            ));
        }
        if !is_identity(name) {
            return refuse(format!(
                "the certificate's name has {} bytes; expected 1 to {SOURCE_NAME_BYTES_MAX}",
                name.len()
            ));
        }
        return Ok(name.clone());
    }
    if *who == Who::Nameless {
        return refuse(
            "the agent's certificate names nobody: it has neither a URI nor a DNS name without a wildcard, or one that is too \
             long; issue one with a name (`weir cert issue NAME`)"
                .to_owned(),
        );
    }
    if *who == Who::Stranger {
        return refuse(
            "an agent on another machine has to show a certificate: `weir cert init` makes an authority, `weir cert issue` \
             the certificates"
                .to_owned(),
        );
    }
    if !is_identity(said) {
        return refuse(format!(
            "the identity has {} bytes, or control characters; expected 1 to {SOURCE_NAME_BYTES_MAX} bytes of text",
            said.len()
        ));
    }
    if is_uri(said) {
        return refuse(format!(
            "{said:?} is a name that only a certificate proves, and there is none: give the agent an `identity` without a \
             scheme, as `edge-1`, or let it come over TLS with its certificate"
        ));
    }
    Ok(said.to_owned())
}

fn is_identity(name: &str) -> bool {
    (1..=SOURCE_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

/// A text of a stranger as it may be shown.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if shown.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        shown.push(c);
    }
    shown
}

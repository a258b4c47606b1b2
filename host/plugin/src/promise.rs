//! What the code of an id has promised by its start: other code that takes its place keeps to it.
//!
//! Invariant: looks at what a plugin says of itself and at settings; runs nothing.

use tracing::info;
use weir_model::Signal;

use crate::describe::{ListenKind, SettingsError};
use crate::grant::trusted;
use crate::host::{Part, PartError};
use crate::load::Loaded;
use crate::scan::ImportClass;
use crate::wanted::Wanted;

/// Findings about settings that a reason names; the others are counted.
const FINDINGS_SHOWN_MAX: usize = 3;

/// What the code of the start was joined to the others by, and what later code must do as well: pipelines are joined,
/// and sockets bound, by whoever has the configuration; and what it may do, which later code does not widen by itself.
pub(crate) struct Promised {
    /// What it takes.
    signals: Vec<Signal>,
    /// Names, addresses and kinds that it serves, in order.
    listeners: Vec<Door>,
    /// What it may do.
    reach: Reach,
}

/// Name, address and kind of a socket.
type Door = (String, String, ListenKind);

/// What code may do with the settings and grants of an id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reach {
    /// JSON pointers of the settings that it does not see.
    secrets: Vec<String>,
    /// Where it may send.
    origins: Vec<String>,
    /// Imports that reach outside, without their versions.
    imports: Vec<String>,
    /// Where the host sends the credential of `auth:`.
    trusted: Vec<String>,
}

// === impl Promised ===

impl Promised {
    /// What this code is with the settings and grants of an id.
    ///
    /// # Errors
    /// [`PartError::Settings`].
    pub(crate) fn of(wanted: Wanted, loaded: &Loaded, part: &Part) -> Result<Self, PartError> {
        let signals = loaded.descriptor.signals.clone();
        let reach = Reach::of(wanted, loaded, part)?;
        Ok(Self { signals, listeners: listeners(loaded, part), reach })
    }

    /// Tells what the id's code may do.
    pub(crate) fn tell(&self, loaded: &Loaded, part: &Part) {
        let Reach { secrets, origins, imports: _, trusted: _ } = &self.reach;
        let Loaded { name, source, digest, descriptor, .. } = loaded;
        let (egress, secrets) = (origins.join(" "), secrets.join(" "));
        let private_networks = part.grants.private_networks;
        info!(
            plugin = name, id = part.id, version = descriptor.version, sha256 = %digest, %source, egress,
            private_networks, secrets, "plugin loaded"
        );
    }

    /// Whether `other` can take the place of this one.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn holds(&self, wanted: Wanted, other: &Self) -> Result<(), String> {
        match wanted {
            Wanted::Exporter | Wanted::Page => self.takes(&other.signals)?,
            Wanted::Receiver => self.listens(&other.listeners)?,
            // What it makes is looked at as it comes, and no socket is bound for it.
            Wanted::Scraper => (),
        }
        self.reach.holds(&other.reach)
    }

    fn takes(&self, taken: &[Signal]) -> Result<(), String> {
        let lost = self.signals.iter().filter(|signal| !taken.contains(signal));
        let lost: Vec<&str> = lost.map(|signal| signal.name()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!("it takes no {} any more", lost.join(" and no ")))
    }

    fn listens(&self, wanted: &[Door]) -> Result<(), String> {
        if self.listeners == wanted {
            return Ok(());
        }
        let shown = |doors: &[Door]| {
            let each: Vec<String> = doors
                .iter()
                .map(|(name, address, kind)| format!("{address} ({name}, {})", kind.name()))
                .collect();
            if each.is_empty() { "nowhere".to_owned() } else { format!("on {}", each.join(", ")) }
        };
        Err(format!("it listens {}, the sockets are bound {}", shown(wanted), shown(&self.listeners)))
    }
}

/// What the host binds for a plugin, in order.
fn listeners(loaded: &Loaded, part: &Part) -> Vec<Door> {
    let listeners = loaded.listeners(&part.settings).into_iter();
    let doors = listeners.map(|listener| (listener.name, listener.address, listener.kind));
    let mut doors: Vec<Door> = doors.collect();
    doors.sort();
    doors
}

/// What a plugin does not take of the settings of an id, in one line.
pub(crate) fn unsettled(id: &str, found: &[SettingsError]) -> String {
    let shown = found.iter().take(FINDINGS_SHOWN_MAX);
    let shown: Vec<String> = shown
        .map(|error| {
            let at = if error.pointer.is_empty() { "/" } else { error.pointer.as_str() };
            format!("{at}: {}", error.message)
        })
        .collect();
    let more = found.len().saturating_sub(FINDINGS_SHOWN_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("it does not take the settings of {id}: {}{more}", shown.join("; "))
}

// === impl Reach ===

impl Reach {
    fn of(wanted: Wanted, loaded: &Loaded, part: &Part) -> Result<Self, PartError> {
        let egress = loaded.egress(wanted, part)?;
        let granted = loaded.scan.imports.iter().filter(|import| import.class == ImportClass::Granted);
        let unversioned = |name: &str| name.split('@').next().unwrap_or(name).to_owned();
        Ok(Self {
            secrets: loaded.marks.secrets(&part.settings),
            origins: egress.origins().iter().map(ToString::to_string).collect(),
            imports: granted.map(|import| unversioned(&import.name)).collect(),
            trusted: match part.authorization {
                Some(_) => trusted(&loaded.marks, &part.settings).map(|origin| origin.to_string()).collect(),
                None => Vec::new(),
            },
        })
    }

    /// Whether `other` is no wider.
    fn holds(&self, other: &Self) -> Result<(), String> {
        let Self { secrets, origins, imports, trusted } = self;
        let missing = |all: &[String], of: &[String]| {
            let missing: Vec<&str> =
                of.iter().filter(|each| !all.contains(each)).map(String::as_str).collect();
            (!missing.is_empty()).then(|| missing.join(", "))
        };
        if let Some(seen) = missing(&other.secrets, secrets) {
            return Err(format!("it would see settings that were secret: {seen}"));
        }
        if let Some(more) = missing(origins, &other.origins) {
            return Err(format!("it would reach origins that were not granted: {more}"));
        }
        if let Some(more) = missing(trusted, &other.trusted) {
            return Err(format!("it would have the credential of `auth` sent to: {more}"));
        }
        match missing(imports, &other.imports) {
            Some(more) if !other.origins.is_empty() => {
                Err(format!("it imports what reaches outside, and did not before: {more}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: other code takes a signal less, or one more; listens under another name, at another address, for another
    /// protocol, nowhere.
    /// Guarantees: what pipelines and sockets were made for stays; the reason says what is missing and what to do.
    #[test]
    fn other_code_keeps_what_the_first_was_joined_by() {
        let door = |name: &str, address: &str, kind| vec![(name.to_owned(), address.to_owned(), kind)];
        let listeners = door("main", "127.0.0.1:9411", ListenKind::Http);
        let (signals, reach) = (vec![Signal::Traces, Signal::Logs], Reach::default());
        let promised = Promised { signals, listeners: listeners.clone(), reach };
        assert_eq!(promised.takes(&[Signal::Logs, Signal::Metrics, Signal::Traces]), Ok(()));
        let lost = promised.takes(&[Signal::Traces]).unwrap_err();
        assert!(lost.contains("no logs any more"), "{lost}");
        assert_eq!(promised.listens(&listeners), Ok(()));
        for other in [
            door("main", "127.0.0.1:9412", ListenKind::Http),
            door("other", "127.0.0.1:9411", ListenKind::Http),
            door("main", "127.0.0.1:9411", ListenKind::Grpc),
            Vec::new(),
        ] {
            let why = promised.listens(&other).unwrap_err();
            assert!(why.contains("bound on 127.0.0.1:9411 (main, http)"), "{why}");
        }
    }
    /// Scenario: other code that sees a secret, that hides one more; that reaches one origin more, one less; that sends
    /// where the first did not, with and without an origin to send to.
    /// Guarantees: what it may do is not widened by a swap, and the reason names what would be; less is taken.
    #[test]
    fn other_code_may_do_no_more_than_the_first() {
        let of = |secrets: &[&str], origins: &[&str], imports: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|each| (*each).to_owned()).collect();
            let trusted = Vec::new();
            Reach { secrets: owned(secrets), origins: owned(origins), imports: owned(imports), trusted }
        };
        let first = of(&["/key"], &["http://a:80", "http://b:80"], &["weir:plugin/http-client"]);
        for narrower in [
            first.clone(),
            of(&["/key", "/other"], &["http://a:80"], &["weir:plugin/http-client"]),
            of(&["/key"], &[], &[]),
        ] {
            assert_eq!(first.holds(&narrower), Ok(()));
        }
        let why = first.holds(&of(&["/other"], &[], &[])).unwrap_err();
        assert!(why.contains("were secret: /key"), "{why}");
        let why = first.holds(&of(&["/key"], &["http://b:80", "http://c:80"], &[])).unwrap_err();
        assert!(why.contains("not granted: http://c:80"), "{why}");
        let mute = of(&[], &["http://a:80"], &[]);
        let why = mute.holds(&of(&[], &["http://a:80"], &["weir:plugin/http-client"])).unwrap_err();
        assert!(why.contains("weir:plugin/http-client"), "{why}");
        assert_eq!(mute.holds(&of(&[], &[], &["weir:plugin/http-client"])), Ok(()));
    }
}

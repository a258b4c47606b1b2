//! TLS of clients: whom they trust and what they show, read again while they run.
//!
//! Files are looked at when a connection is made, and while one lives: a client that makes none needs none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::info;

use crate::certificate::{Identity, chain_ends};
use crate::material::{Lookout, Print, Spell};
use crate::roots::{Files, RootsError, Trust};

/// How long a new connection waits for a look at the files. A file system that hangs does not hold up what the last reading serves.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// The TLS configuration of a client, as its files are now. Clones are one.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The files; none for a configuration that was handed in.
    source: Option<Trust>,
    lookout: Lookout,
    current: RwLock<Arc<Current>>,
    readings: AtomicU64,
    looked: Mutex<Instant>,
    spell: Spell,
}

/// One reading of the files.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) config: Arc<ClientConfig>,
    /// Judges servers; none for a configuration that was handed in.
    pub(crate) verifier: Option<Arc<WebPkiServerVerifier>>,
    pub(crate) print: Print,
    pub(crate) reading: u64,
}

/// A server is not trusted any more.
#[derive(Debug, thiserror::Error)]
#[error("the certificate {serial} of {name} does not hold any more: {cause}")]
pub struct Distrusted {
    /// Its serial number in hexadecimal digits.
    serial: String,
    name: String,
    #[source]
    cause: rustls::Error,
}

impl From<ClientConfig> for ClientTls {
    /// A configuration that stays as it is.
    fn from(config: ClientConfig) -> Self {
        let current =
            Current { config: Arc::new(config), verifier: None, print: Print::default(), reading: 0 };
        Self::new(None, current, Lookout::default())
    }
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`RootsError`] where a file cannot serve.
    pub fn load(source: Trust) -> Result<Self, RootsError> {
        Self::load_by(source, Lookout::default())
    }

    /// The same with a time and a pace of one's own.
    ///
    /// # Errors
    /// As [`ClientTls::load`].
    pub fn load_by(source: Trust, lookout: Lookout) -> Result<Self, RootsError> {
        let current = Files::read(&source)?.build(&source, &lookout, 0)?;
        Ok(Self::new(Some(source), current, lookout))
    }

    fn new(source: Option<Trust>, current: Current, lookout: Lookout) -> Self {
        Self(Arc::new(Inner {
            source,
            lookout,
            current: RwLock::new(Arc::new(current)),
            readings: AtomicU64::new(1),
            looked: Mutex::new(Instant::now()),
            spell: Spell::default(),
        }))
    }

    /// What a new connection uses. Where the last look at the files was not just now, those that have changed are read first: blocks
    /// while it reads them. In an asynchronous task, [`ClientTls::fresh`] does the same.
    pub fn current(&self) -> Arc<ClientConfig> {
        if self.is_look_due() {
            self.look();
        }
        Arc::clone(&self.now().config)
    }

    /// As [`ClientTls::current`], beside the tasks: waits for the files for a second at most, and uses what was read before after that.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn fresh(&self) -> Arc<ClientConfig> {
        if self.is_look_due() {
            let tls = self.clone();
            let looking = tokio::task::spawn_blocking(move || tls.look());
            // A look that takes longer, or panics, leaves what was read before; another follows.
            timeout(LOOK_TIMEOUT, looking).await.ok();
        }
        Arc::clone(&self.now().config)
    }

    /// Reads the files again; new connections use what they hold now.
    ///
    /// # Errors
    /// [`RootsError`]: what was loaded before stays in use.
    pub fn reload(&self) -> Result<(), RootsError> {
        let Some(source) = &self.0.source else { return Ok(()) };
        let files = Files::read(source)?;
        if files.print() == self.now().print {
            return Ok(());
        }
        let reading = self.0.readings.fetch_add(1, Ordering::Relaxed);
        let fresh = Arc::new(files.build(source, &self.0.lookout, reading)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        info!(file = %source.shown().display(), "certificates read again");
        Ok(())
    }

    /// Judges a live connection from time to time: of the server `name`, which has shown `chain` and was believed.
    pub fn judge(&self, chain: &[CertificateDer<'_>], name: ServerName<'static>) -> Judge {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let ends = chain_ends(&chain);
        Judge { tls: self.clone(), chain, name, ends, found_good_by: None, judged: Instant::now() }
    }

    fn now(&self) -> Arc<Current> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is time for a look, which whoever asks must take then.
    fn is_look_due(&self) -> bool {
        let mut looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = self.0.source.is_some() && looked.elapsed() >= self.pace();
        if is_due {
            *looked = Instant::now();
        }
        is_due
    }

    /// Files are looked at, and connections are judged, twice in the interval: what has changed is seen by the one and then by the
    /// other within it.
    fn pace(&self) -> Duration {
        self.0.lookout.interval / 2
    }

    fn look(&self) {
        let Some(source) = &self.0.source else { return };
        self.0.spell.note(source.shown(), self.reload().err().map(|error| weir_model::explain(&error)));
    }

    /// Takes a look, where it is time, and waits for nothing.
    fn look_behind(&self) {
        if self.is_look_due() {
            let tls = self.clone();
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || tls.look())),
                Err(_) => tls.look(),
            }
        }
    }
}

/// Says of one connection whether its server is trusted still.
#[derive(Debug)]
pub struct Judge {
    tls: ClientTls,
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
    ends: UnixTime,
    /// The reading of the files by which it was found good last. The handshake's is not known: they may have been read again since.
    found_good_by: Option<u64>,
    judged: Instant,
}

impl Judge {
    /// How often [`Judge::look`] judges: whoever has no other reason to call it calls it that often.
    pub fn pace(&self) -> Duration {
        self.tls.pace()
    }

    /// Judges, where half a minute has passed since it did so last. Waits for nothing. Whoever is told that it does not hold any more ends the connection.
    ///
    /// # Errors
    /// [`Distrusted`], each time from then on.
    pub fn look(&mut self) -> Result<(), Distrusted> {
        if self.judged.elapsed() < self.tls.pace() {
            return Ok(());
        }
        self.tls.look_behind();
        let (current, now) = (self.tls.now(), self.tls.0.lookout.now());
        let is_known = self.found_good_by == Some(current.reading) && now <= self.ends;
        if let (false, Some(verifier), Some((first, rest))) =
            (is_known, &current.verifier, self.chain.split_first())
        {
            let judged = verifier.verify_server_cert(first, rest, &self.name, &[], now);
            judged.map_err(|cause| {
                // It was read once, when it was believed.
                let serial = Identity::of(first).map_or_else(|_| "-".to_owned(), |identity| identity.serial);
                Distrusted { serial, name: self.name.to_str().into_owned(), cause }
            })?;
        }
        (self.found_good_by, self.judged) = (Some(current.reading), Instant::now());
        Ok(())
    }
}

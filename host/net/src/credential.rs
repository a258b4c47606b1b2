//! What the host says of itself in the `authorization` header of a configured id's requests.
//!
//! A credential is written in the configuration or stands in a file. A file is read at the start, and again when it has
//! changed: whoever rotates secrets (Kubernetes, vault agents) replaces the file and tells nobody.
//!
//! Invariant: no credential is shown by `Debug`, by an error or in a log.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::HeaderValue;
use tracing::{info, warn};

/// How often a file is looked at while it is used: a rotated token is used within this time, and a backend that takes a
/// thousand requests a second costs one look in two thousand.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a request waits for that look. A file system that hangs does not hold up what the last good value serves.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a file. Tokens have a few thousand; servers take headers of 8 KiB to 64 KiB.
const FILE_BYTES_MAX: u64 = 32 * 1024;

/// A credential that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It cannot stand in a header.
    #[error("a credential cannot be sent in a header: expected visible characters without line breaks")]
    Characters,
    /// The user's name would end where it has a colon (RFC 7617, 2).
    #[error("a user name of `basic` holds no colon")]
    Username,
    /// The file cannot be used.
    #[error("read the credential in {}: expected a file that this user may read, with the credential alone in it", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// How a secret becomes a header.
#[derive(Clone)]
enum Form {
    /// `Bearer` (RFC 6750).
    Bearer,
    /// `Basic` (RFC 7617), with the user's name.
    Basic(String),
}

impl Form {
    fn header(&self, secret: &str) -> Result<HeaderValue, CredentialError> {
        let text = match self {
            Self::Bearer => format!("Bearer {secret}"),
            Self::Basic(username) => {
                let pair = format!("{username}:{secret}");
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
        };
        let mut value: HeaderValue = text.parse().map_err(|_| CredentialError::Characters)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// An `authorization` header that may change while the process runs. Cloning shares it.
#[derive(Clone)]
pub struct Credential {
    inner: Arc<Inner>,
}

struct Inner {
    form: Form,
    /// None where the secret was written in the configuration.
    path: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    header: HeaderValue,
    /// The token or the password that the header was made of.
    secret: Arc<str>,
    /// Of the file that the header was made of.
    stamp: Option<Stamp>,
    looked: Instant,
    /// What was said when the file could not be read, so that it is said once.
    complaint: Option<String>,
}

/// What tells one version of a file from the next: a rotated one is another file, or was written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

/// Credentials are not shown.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner.form {
            Form::Bearer => "bearer",
            Form::Basic(_) => "basic",
        };
        f.debug_struct("Credential")
            .field("kind", &kind)
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// `Bearer TOKEN`.
    ///
    /// # Errors
    /// [`CredentialError::Characters`].
    pub fn bearer(token: &str) -> Result<Self, CredentialError> {
        Self::written(Form::Bearer, token)
    }

    /// `Bearer`, with the token that stands in a file.
    ///
    /// # Errors
    /// [`CredentialError`], with the file.
    pub fn bearer_file(path: &Path) -> Result<Self, CredentialError> {
        Self::kept(Form::Bearer, path)
    }

    /// `Basic`, of a name and a password.
    ///
    /// # Errors
    /// [`CredentialError::Username`].
    pub fn basic(username: &str, password: &str) -> Result<Self, CredentialError> {
        Self::written(basic(username)?, password)
    }

    /// `Basic`, with the password that stands in a file.
    ///
    /// # Errors
    /// [`CredentialError`], with the file.
    pub fn basic_file(username: &str, path: &Path) -> Result<Self, CredentialError> {
        Self::kept(basic(username)?, path)
    }

    fn written(form: Form, secret: &str) -> Result<Self, CredentialError> {
        let header = form.header(secret)?;
        let secret = secret.into();
        let state = State { header, secret, stamp: None, looked: Instant::now(), complaint: None };
        Ok(Self { inner: Arc::new(Inner { form, path: None, state: Mutex::new(state) }) })
    }

    fn kept(form: Form, path: &Path) -> Result<Self, CredentialError> {
        let looked = Instant::now();
        let (header, secret, stamp) = read(&form, path)?;
        warn_if_open(path);
        let state = State { header, secret, stamp: Some(stamp), looked, complaint: None };
        Ok(Self { inner: Arc::new(Inner { form, path: Some(path.to_owned()), state: Mutex::new(state) }) })
    }

    /// The header's value, of what the file holds now. Where the file cannot be read any more the last good value goes on
    /// being used, and the log says so once.
    ///
    /// # Cancel safety
    /// May be dropped: the file is looked at again two seconds later.
    pub async fn header(&self) -> HeaderValue {
        self.header_with_secret().await.0
    }

    /// The same with the token or the password in it, for whoever must not repeat what a backend says of it.
    ///
    /// # Cancel safety
    /// As [`Credential::header`].
    pub async fn header_with_secret(&self) -> (HeaderValue, Arc<str>) {
        self.look_at(Instant::now()).await;
        let state = self.inner.lock();
        (state.header.clone(), Arc::clone(&state.secret))
    }

    async fn look_at(&self, now: Instant) {
        if self.inner.is_due(now) {
            let inner = Arc::clone(&self.inner);
            // On a thread of its own: a file system that hangs must not hold up those that serve others.
            let looking = tokio::task::spawn_blocking(move || inner.look());
            if !matches!(tokio::time::timeout(LOOK_TIMEOUT, looking).await, Ok(Ok(()))) {
                warn!(path = ?self.inner.path, "credential's file could not be looked at, the last good value stays in use");
            }
        }
    }
}

fn basic(username: &str) -> Result<Form, CredentialError> {
    if username.contains(':') {
        return Err(CredentialError::Username);
    }
    Ok(Form::Basic(username.to_owned()))
}

impl Inner {
    /// Whether it is time to look; only one of those who ask at once is told so.
    fn is_due(&self, now: Instant) -> bool {
        if self.path.is_none() {
            return false;
        }
        let mut state = self.lock();
        let due = now.saturating_duration_since(state.looked) >= LOOK_INTERVAL;
        if due {
            state.looked = now;
        }
        due
    }

    fn look(&self) {
        let Some(path) = &self.path else { return };
        let seen = self.lock().stamp;
        let found = fs::metadata(path).map(|metadata| Stamp::of(&metadata));
        if found.as_ref().is_ok_and(|stamp| Some(*stamp) == seen) {
            self.lock().complaint = None;
            return;
        }
        match read(&self.form, path) {
            Ok((header, secret, stamp)) => {
                let mut state = self.lock();
                let changed = state.header != header;
                (state.header, state.secret) = (header, secret);
                (state.stamp, state.complaint) = (Some(stamp), None);
                drop(state);
                if changed {
                    info!(path = %path.display(), "credential read again: its file has changed");
                    warn_if_open(path);
                }
            }
            Err(error) => self.complain(path, &error),
        }
    }

    fn complain(&self, path: &Path, error: &CredentialError) {
        let cause = match error {
            CredentialError::File { cause, .. } => cause.to_string(),
            CredentialError::Characters | CredentialError::Username => error.to_string(),
        };
        let mut state = self.lock();
        if state.complaint.as_deref() == Some(cause.as_str()) {
            return;
        }
        state.complaint = Some(cause.clone());
        drop(state);
        warn!(path = %path.display(), cause, "credential cannot be read again, the last good one stays in use");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn read(form: &Form, path: &Path) -> Result<(HeaderValue, Arc<str>, Stamp), CredentialError> {
    let failed = |cause| CredentialError::File { path: path.to_owned(), cause };
    let refused = |why: &str| failed(io::Error::other(why.to_owned()));
    let metadata = fs::metadata(path).map_err(failed)?;
    // Opening a pipe would wait for whoever writes into it.
    if !metadata.is_file() {
        return Err(refused("it is not a file"));
    }
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the name may stand for another one meanwhile.
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(&format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(refused("it is empty"));
    }
    let header = form.header(secret).map_err(|error| refused(&error.to_string()))?;
    Ok((header, secret.into(), stamp))
}

/// Others could use the credential. A warning and no refusal: volumes of orchestrators show files with the mode that they
/// please, in a container where nobody else is.
fn warn_if_open(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let mode = format!("{mode:04o}");
        warn!(path = %path.display(), mode, "credential file can be read by others than its owner: chmod 600 it");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn shown(credential: &Credential, later: u32) -> String {
        credential.look_at(Instant::now() + LOOK_INTERVAL * later).await;
        let (header, secret) = credential.header_with_secret().await;
        assert!(header == format!("Bearer {secret}") || header.to_str().unwrap().starts_with("Basic"));
        header.to_str().unwrap().to_owned()
    }

    /// Scenario: credentials that are written, with a password beyond ASCII, and ones that no header can hold.
    /// Guarantees: the headers of RFC 6750 and RFC 7617, marked so that nothing prints them, or an error without the secret.
    #[tokio::test]
    async fn a_written_credential_is_a_header() {
        let bearer = Credential::bearer("hunter2").unwrap();
        assert_eq!(shown(&bearer, 0).await, "Bearer hunter2");
        assert!(bearer.header().await.is_sensitive());
        let basic = Credential::basic("Aladdin", "open sesame").unwrap();
        assert_eq!(shown(&basic, 0).await, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        Credential::basic("weir", "größer").unwrap();
        assert!(!format!("{bearer:?} {basic:?}").contains("hunter2"));
        let error = Credential::bearer("hunter2\n").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(matches!(Credential::basic("a:b", "c"), Err(CredentialError::Username)));
    }

    /// Scenario: a file is rotated as Kubernetes does it (a link to another file), written in place, removed, put back.
    /// Guarantees: the value follows within an interval, never before; while there is no good one the last good one stays.
    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("one", "first\n"), ("two", "second\r\n")] {
            fs::write(path(name), text).unwrap();
        }
        let token = path("token");
        std::os::unix::fs::symlink(path("one"), &token).unwrap();
        let credential = Credential::bearer_file(&token).unwrap();
        assert_eq!(shown(&credential, 0).await, "Bearer first");
        std::os::unix::fs::symlink(path("two"), path("next")).unwrap();
        fs::rename(path("next"), &token).unwrap();
        assert_eq!(shown(&credential, 0).await, "Bearer first", "looked at before its time");
        assert_eq!(shown(&credential, 1).await, "Bearer second");
        fs::write(path("two"), "third, longer").unwrap();
        assert_eq!(shown(&credential, 2).await, "Bearer third, longer");
        fs::write(path("two"), "").unwrap();
        assert_eq!(shown(&credential, 3).await, "Bearer third, longer");
        fs::remove_file(&token).unwrap();
        assert_eq!(shown(&credential, 4).await, "Bearer third, longer");
        fs::write(&token, "fourth").unwrap();
        assert_eq!(shown(&credential, 5).await, "Bearer fourth");
    }

    /// Scenario: a file that is not there, empty, too long, a folder, not text, with a line break inside.
    /// Guarantees: each is an error that names the file, and none shows what stands in it.
    #[tokio::test]
    async fn a_file_that_cannot_serve_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(40_000);
        let cases: [(&str, &[u8]); 4] = [
            ("empty", b"\n"),
            ("long", long.as_bytes()),
            ("noise", b"\xff\xfe"),
            ("lines", b"hunter2\nhunter3\n"),
        ];
        let mut paths = vec![folder.path().join("absent"), folder.path().to_owned()];
        for (name, bytes) in cases {
            fs::write(folder.path().join(name), bytes).unwrap();
            paths.push(folder.path().join(name));
        }
        for path in paths {
            let error = Credential::bearer_file(&path).unwrap_err();
            let CredentialError::File { path: named, cause } = &error else { panic!("{error}") };
            assert_eq!(*named, path);
            assert!(!format!("{error}: {cause}").contains("hunter"), "{error}: {cause}");
        }
        let password = folder.path().join("password");
        fs::write(&password, "open sesame").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
        let credential = Credential::basic_file("Aladdin", &password).unwrap();
        assert_eq!(shown(&credential, 0).await, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}

//! A server's certificates in files to its configuration, which is another one once they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Identity, Server, TlsError, read, server};

/// How often the files are looked at, at most, and only when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a connection waits for the look. A file system that hangs keeps what was read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a server's certificates are.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Its own.
    pub identity: OwnIdentity,
    /// The CAs of its clients, if it asks clients for certificates.
    pub client_ca: Option<PathBuf>,
}

/// Where a server has its own certificate from.
#[derive(Clone, Debug)]
pub enum OwnIdentity {
    /// It was made for it, and stays.
    Made(Identity),
    /// It is in files.
    Files {
        /// The certificate, then its intermediates.
        certificate: PathBuf,
        /// The certificate's private key.
        key: PathBuf,
    },
}

/// What a configuration is made of.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    identity: Identity,
    client_ca: Option<Vec<u8>>,
}

impl ServerFiles {
    /// Makes the configuration of a server whose clients may show a certificate. It looks after
    /// changes of the files when somebody connects; where they cannot be used, it stays as it is.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be read or used now.
    pub fn server(self) -> Result<Server, TlsError> {
        let contents = self.read()?;
        let first = contents.server()?;
        let state =
            State { current: first.clone(), contents, looked: None, looks: false, fault: None };
        let changing = Changing { files: self, state: Mutex::new(state) };
        Ok(Server { changing: Some(Arc::new(changing)), ..first })
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let identity = match &self.identity {
            OwnIdentity::Made(identity) => identity.clone(),
            OwnIdentity::Files { certificate, key } => Identity::read(certificate, key)?,
        };
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Ok(Contents { identity, client_ca })
    }
}

impl Contents {
    fn server(&self) -> Result<Server, TlsError> {
        server(&self.identity, self.client_ca.as_deref(), false)
    }
}

/// A configuration that may change. Clones of its server share it.
pub(super) struct Changing {
    files: ServerFiles,
    state: Mutex<State>,
}

struct State {
    /// What is used.
    current: Server,
    /// What that is made of.
    contents: Contents,
    looked: Option<Instant>,
    /// Somebody looks at the files now.
    looks: bool,
    /// What the log has last said of the files.
    fault: Option<String>,
}

impl fmt::Debug for Changing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changing").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Changing {
    /// The configuration as it is known.
    pub(super) fn known(&self) -> Server {
        self.lock().current.clone()
    }

    /// The configuration after a look at the files, if that is due.
    pub(super) async fn current(self: &Arc<Self>) -> Server {
        if self.is_due() {
            let looking = self.clone();
            #[expect(clippy::disallowed_methods, reason = "it only reads a few files")]
            let look = spawn_blocking(move || looking.look());
            // It goes on, if it takes longer; what it finds is for the connections after this one.
            let _ended = timeout(PATIENCE, look).await;
        }
        self.known()
    }

    fn is_due(&self) -> bool {
        let mut state = self.lock();
        let is_due =
            !state.looks && state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        state.looks |= is_due;
        is_due
    }

    fn look(&self) {
        // Files are read, and configurations made, while others go on with what there is.
        let known = self.lock().contents.clone();
        let changed = match self.files.read() {
            Ok(contents) if contents == known => None,
            Ok(contents) => Some(contents.server().map(|server| (contents, server))),
            Err(error) => Some(Err(error)),
        };
        let mut state = self.lock();
        (state.looks, state.looked) = (false, Some(Instant::now()));
        match changed {
            None => state.fault = None,
            Some(Ok((contents, server))) => {
                info!("the certificates have changed, and are used from now on");
                (state.contents, state.current, state.fault) = (contents, server, None);
            }
            Some(Err(error)) => {
                let fault = error.to_string();
                if state.fault.as_ref() != Some(&fault) {
                    warn!(
                        "the certificates in the files cannot be used, the old ones are: {fault}"
                    );
                }
                state.fault = Some(fault);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Certificates in files to the configuration of a server or of a client, which is another one once
//! they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Identity, Server, TlsError, Trust, client, read, server};

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

/// Where a client's certificates are.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// Its own certificate, then the intermediates; and the private key. It may have none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The CAs of its servers. Without them their certificates are not checked.
    pub ca: Option<PathBuf>,
}

/// Files of which a configuration is made.
pub(super) trait Files: fmt::Debug + Send + Sync + 'static {
    /// What is in them.
    type Contents: Clone + PartialEq + Send;
    /// What is made of that.
    type Made: Clone + Send;

    fn read(&self) -> Result<Self::Contents, TlsError>;

    fn make(contents: &Self::Contents) -> Result<Self::Made, TlsError>;
}

/// What is in a server's files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ServerContents {
    identity: Identity,
    client_ca: Option<Vec<u8>>,
}

/// What is in a client's files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientContents {
    identity: Option<Identity>,
    ca: Option<Vec<u8>>,
}

impl ServerFiles {
    /// Makes the configuration of a server whose clients may show a certificate. It looks after
    /// changes of the files when somebody connects; where they cannot be used, it stays as it is.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be read or used now.
    pub fn server(self) -> Result<Server, TlsError> {
        let changing = Changing::new(self)?;
        let first = changing.known();
        Ok(Server { changing: Some(Arc::new(changing)), ..first })
    }
}

impl Files for ServerFiles {
    type Contents = ServerContents;
    type Made = Server;

    fn read(&self) -> Result<ServerContents, TlsError> {
        let identity = match &self.identity {
            OwnIdentity::Made(identity) => identity.clone(),
            OwnIdentity::Files { certificate, key } => Identity::read(certificate, key)?,
        };
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Ok(ServerContents { identity, client_ca })
    }

    fn make(contents: &ServerContents) -> Result<Server, TlsError> {
        server(&contents.identity, contents.client_ca.as_deref(), false)
    }
}

impl ClientFiles {
    /// Makes the configuration of a client. It looks after changes of the files before it connects;
    /// where they cannot be used, it stays as it is.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be read or used now.
    pub fn client(self) -> Result<Client, TlsError> {
        Ok(Client(Source::Files(Arc::new(Changing::new(self)?))))
    }
}

impl Files for ClientFiles {
    type Contents = ClientContents;
    type Made = Arc<ClientConfig>;

    fn read(&self) -> Result<ClientContents, TlsError> {
        let identity = self.identity.as_ref();
        let identity = identity.map(|(certificate, key)| Identity::read(certificate, key));
        let ca = self.ca.as_deref().map(read).transpose()?;
        Ok(ClientContents { identity: identity.transpose()?, ca })
    }

    fn make(contents: &ClientContents) -> Result<Arc<ClientConfig>, TlsError> {
        let trust = contents.ca.clone().map_or(Trust::Anybody, Trust::Ca);
        client(&trust, contents.identity.as_ref())
    }
}

/// The TLS configuration of a client, which may be another one for each connection. Clones share
/// it.
#[derive(Clone, Debug)]
pub struct Client(Source);

#[derive(Clone, Debug)]
enum Source {
    Made(Arc<ClientConfig>),
    Files(Arc<Changing<ClientFiles>>),
}

impl Client {
    /// Returns the configuration for a connection that is made now.
    pub async fn current(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Made(config) => config.clone(),
            Source::Files(changing) => changing.current().await,
        }
    }
}

/// One that was made for it, and stays.
impl From<Arc<ClientConfig>> for Client {
    fn from(config: Arc<ClientConfig>) -> Client {
        Client(Source::Made(config))
    }
}

/// A configuration that may change. All whose it is share it.
pub(super) struct Changing<F: Files> {
    files: F,
    state: Mutex<State<F>>,
}

struct State<F: Files> {
    /// What is used.
    current: F::Made,
    /// What that is made of.
    contents: F::Contents,
    looked: Option<Instant>,
    /// Somebody looks at the files now.
    looks: bool,
    /// What the log has last said of the files.
    fault: Option<String>,
}

impl<F: Files> fmt::Debug for Changing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changing").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<F: Files> Changing<F> {
    fn new(files: F) -> Result<Changing<F>, TlsError> {
        let contents = files.read()?;
        let current = F::make(&contents)?;
        let state = State { current, contents, looked: None, looks: false, fault: None };
        Ok(Changing { files, state: Mutex::new(state) })
    }

    /// The configuration as it is known.
    pub(super) fn known(&self) -> F::Made {
        self.lock().current.clone()
    }

    /// The configuration after a look at the files, if that is due.
    pub(super) async fn current(self: &Arc<Self>) -> F::Made {
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
            Ok(contents) => Some(F::make(&contents).map(|made| (contents, made))),
            Err(error) => Some(Err(error)),
        };
        let mut state = self.lock();
        (state.looks, state.looked) = (false, Some(Instant::now()));
        match changed {
            None => state.fault = None,
            Some(Ok((contents, made))) => {
                info!("the certificates have changed, and are used from now on");
                (state.contents, state.current, state.fault) = (contents, made, None);
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

    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A socket in front of a runtime's: everything passes as it is, but the URLs of streams, which
//! become those of a [streaming server](crate::streaming) of ours.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_io::drive::join;
use bowline_io::stream::Upgraded;
use bowline_io::upstream::Upstream as Server;
use bowline_proto::cri::{self, Asked, Call, Exchange, Kept};
use bowline_proto::kept::is_question;
use bowline_proto::session::Wants;
use bytes::BytesMut;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::own_thread::OwnThread;
use super::unix_socket::UnixSocket;
use super::{CriRuntime, Endpoint, Shared};
use crate::runtime::{ExecRequest, Forwarding, Refusal, Served, Session, Upstream};
use crate::streaming::{Offer, Stream, Streaming};
use crate::upstream::AGENT;

/// How many clients there may be at once. A kubelet has two or three connections, and crictl one.
const CONNECTIONS: usize = 1024;
/// How long connecting to the runtime may take: what listens on a full backlog is stuck.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept, for descriptors to be closed.
const PAUSE: Duration = Duration::from_millis(10);
/// The mode of the socket where the runtime's cannot be seen yet.
const MODE: u32 = 0o660;
/// How many names there are for the directory in which a socket is made. One stays behind if the
/// node is killed at that moment.
const NAMES: u32 = 256;
/// What both sides are told when the node ends. Neither is: a connection to a socket has no words
/// for it.
const SHUTDOWN: &str = "the node shuts down";

/// A socket in front of a runtime's, until it is dropped.
#[derive(Debug)]
pub struct Face {
    /// Where its connections are passed.
    thread: OwnThread,
    listener: UnixListener,
    socket: Socket,
    endpoint: Endpoint,
    streams: Streams,
    end: CancellationToken,
}

/// A socket's file, which goes when this is dropped.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    /// Its device and number: what is there later may be another's.
    file: (u64, u64),
}

impl Face {
    /// Listens at `endpoint`, with the mode and the owner of the runtime's socket. Directories
    /// above it are made; what a face that has ended left behind is replaced.
    ///
    /// Must be called in a tokio runtime, which serves the streams.
    ///
    /// # Errors
    /// If it is the runtime's own socket, somebody listens there already, or a socket cannot be
    /// made there.
    pub fn bind(
        endpoint: &Endpoint,
        runtime: &CriRuntime,
        streaming: Streaming,
        end: CancellationToken,
    ) -> io::Result<Face> {
        let (path, behind) = (endpoint.path(), &runtime.shared.endpoint);
        let thread = OwnThread::new()?;
        let (listener, socket) = thread.owning(|| bind(path, behind.path()))?;
        let (shared, node) = (runtime.shared.clone(), Handle::current());
        let streams = Streams { shared, streaming, node };
        Ok(Face { thread, listener, socket, endpoint: behind.clone(), streams, end })
    }

    /// Serves until the token that ends it is cancelled, and the connections have ended then.
    pub async fn serve(self) {
        let Face { thread, listener, socket, endpoint, streams, end } = self;
        let end = end.child_token();
        let _end = end.clone().drop_guard();
        thread.run(connections(listener, socket, endpoint, streams, end)).await;
    }
}

/// Passes the connections of all clients until `end`.
async fn connections(
    listener: UnixListener,
    socket: Socket,
    endpoint: Endpoint,
    streams: Streams,
    end: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let near = match accepted {
            Ok((near, _)) => near,
            Err(error) => {
                warn!("accept: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!(
                "{}: a client of the runtime is turned away: {CONNECTIONS} are here",
                socket.path.display()
            );
            continue;
        };
        let (endpoint, streams, end) = (endpoint.clone(), streams.clone(), end.clone());
        tracker.spawn(async move {
            connection(near, &endpoint, streams, end).await;
            drop(place);
        });
    }
    drop((listener, socket));
    tracker.close();
    tracker.wait().await;
}

/// Passes one client's connection, to a connection to the runtime of its own.
async fn connection(
    near: UnixStream,
    endpoint: &Endpoint,
    streams: Streams,
    end: CancellationToken,
) {
    let late = |_| io::Error::from(ErrorKind::TimedOut);
    let far = timeout(CONNECT_PATIENCE, UnixStream::connect(endpoint.path())).await;
    let far = match far.map_err(late).flatten() {
        Ok(far) => far,
        // To the client it is as if nobody had been here either.
        Err(error) => return warn!("{endpoint}: {error}"),
    };
    let upgraded =
        |stream| UnixSocket::new(stream).map(|stream| Upgraded { stream, early: BytesMut::new() });
    let (near, far) = match (upgraded(near), upgraded(far)) {
        (Ok(near), Ok(far)) => (near, far),
        (Err(error), _) | (_, Err(error)) => return warn!("{endpoint}: {error}"),
    };
    let face = cri::Face::new(streams);
    let (ending, traffic) = join(near, far, face, end, SHUTDOWN).await;
    debug!(?ending, ?traffic, "{endpoint}: a client's connection has ended");
}

/// The runtime's streams, behind URLs of ours.
#[derive(Clone, Debug)]
struct Streams {
    shared: Arc<Shared>,
    streaming: Streaming,
    /// The node's other threads, which serve what is behind the URLs.
    node: Handle,
}

impl Exchange for Streams {
    fn exchange(&mut self, call: Call, url: &str) -> Option<String> {
        let _inside = self.node.enter();
        let Call { asked, id, command } = call;
        let (shared, theirs) = (self.shared.clone(), url.to_owned());
        let unknown = shared.upstream(theirs.clone(), None).ok();
        let name = id.clone();
        let stream = match asked {
            Asked::Exec(wants) => {
                if shared.containerd.leaves_some() {
                    shared.prepare_hangup();
                }
                let session = Box::pin(exec(shared, id, command.clone(), wants, theirs));
                Stream::Exec { wants, command, session }
            }
            Asked::Attach(wants) => {
                let session = Box::pin(async move { Ok(shared.served(theirs)) });
                Stream::Attach { wants, session }
            }
            Asked::PortForward { ports } => {
                let forwarding = Box::pin(forward(shared, id, theirs));
                Stream::PortForward { ports, forwarding }
            }
        };
        let ours = self.streaming.url(Offer { name, stream, unknown }, url.len());
        if ours.is_none() {
            warn!("too many streams wait to be begun: one is left to the runtime's own server");
        }
        ours
    }

    fn kept(&mut self, why: Kept) {
        warn!("a stream is left to the runtime's own server: {why:?}");
    }
}

/// Who serves an exec for which the runtime has given a URL: the runtime, where the command is not
/// known.
async fn exec(
    shared: Arc<Shared>,
    id: String,
    command: Option<Vec<String>>,
    wants: Wants,
    url: String,
) -> Result<Session, Refusal> {
    let Some(command) = command else { return Ok(shared.served(url)) };
    if is_question(&command) {
        use_up(shared.upstream(url, None));
        return Err(Refusal::new(400, "this is a question to a node that keeps sessions"));
    }
    let request = ExecRequest { command, wants, env: Vec::new() };
    let session = shared.clone().exec(id, request, Some(url.clone())).await?;
    if let Served::Local(_) = session {
        // Or else it would be one of the thousand that may wait to be used.
        use_up(shared.upstream(url, None));
    }
    Ok(session)
}

/// Who serves a port-forward for which the runtime has given a URL.
async fn forward(shared: Arc<Shared>, id: String, url: String) -> Result<Forwarding, Refusal> {
    let Some(ports) = shared.ports_inside(&id, &id).await? else { return Ok(shared.served(url)) };
    use_up(shared.upstream(url, None));
    Ok(Served::Local(Box::new(ports)))
}

/// Uses a URL of the runtime's up, by a request that begins nothing.
fn use_up(upstream: Result<Upstream, Refusal>) {
    let Ok(Upstream { url, tls, .. }) = upstream else { return };
    #[expect(clippy::disallowed_methods, reason = "nobody waits for it, and it has a deadline")]
    tokio::spawn(async move {
        if let Some((server, path)) = Server::at(&url, tls, AGENT) {
            // Whatever the answer is, the URL was used.
            let _ = server.get(&path, CONNECT_PATIENCE).await;
        }
    });
}

/// Makes a socket at `path` that is used as the one at `model` is: nobody can connect to it before
/// it has its mode and owner.
fn bind(path: &Path, model: &Path) -> io::Result<(UnixListener, Socket)> {
    let named = || io::Error::new(ErrorKind::InvalidInput, "the socket has no name");
    let directory = path.parent().ok_or_else(named)?;
    fs::create_dir_all(directory)?;
    if is_same(path, model) {
        let own = "that is the runtime's own socket";
        return Err(io::Error::new(ErrorKind::InvalidInput, own));
    }
    refuse_taken(path)?;
    let closed = Closed::within(directory)?;
    let hidden = closed.socket();
    let listener = UnixListener::bind(&hidden)?;
    prepare(&hidden, model)?;
    let file = fs::symlink_metadata(&hidden)?;
    fs::rename(&hidden, path)?;
    Ok((listener, Socket { path: path.to_owned(), file: (file.dev(), file.ino()) }))
}

/// Whether two paths are of the same socket, which need not be there: `/var/run` is `/run`.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let place =
        |path: &Path| Some((path.parent()?.canonicalize().ok()?, path.file_name()?.to_owned()));
    let is_one_file = file(one).is_some_and(|one| Some(one) == file(other));
    is_one_file || one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

/// A directory into which only its owner gets, where a socket is made. It goes when this is
/// dropped.
struct Closed(PathBuf);

impl Closed {
    fn within(directory: &Path) -> io::Result<Closed> {
        // With short names: a socket's path may have 108 bytes.
        for name in 0..NAMES {
            let path = directory.join(format!(".{name:x}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Closed(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

fn prepare(path: &Path, model: &Path) -> io::Result<()> {
    let Ok(model) = fs::metadata(model) else {
        return fs::set_permissions(path, Permissions::from_mode(MODE));
    };
    fs::set_permissions(path, Permissions::from_mode(model.mode() & 0o777))?;
    let ours = fs::metadata(path)?;
    if (ours.uid(), ours.gid()) != (model.uid(), model.gid()) {
        chown(path, Some(model.uid()), Some(model.gid()))?;
    }
    Ok(())
}

/// Refuses a path at which somebody listens, or which is no socket.
fn refuse_taken(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let file = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if file.is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_used_as_its_model_is_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let (path, model) = (directory.path().join("new/cri.sock"), directory.path().join("model"));
        let bound = bind(&path, &model).unwrap();
        assert_eq!(mode(&path), MODE);
        assert_eq!(bind(&path, &model).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        let _model = BlockingListener::bind(&model).unwrap();
        fs::set_permissions(&model, Permissions::from_mode(0o600)).unwrap();
        let (listener, socket) = bind(&path, &model).unwrap();
        assert_eq!(mode(&path), 0o600);
        // What a killed one leaves behind is in nobody's way.
        drop(listener);
        std::mem::forget(socket);
        let (listener, socket) = bind(&path, &model).unwrap();
        assert!(BlockingStream::connect(&path).is_ok());
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1);
        // Another's stays.
        fs::remove_file(&path).unwrap();
        let _other = BlockingListener::bind(&path).unwrap();
        drop((listener, socket));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "kept").unwrap();
        let model = directory.path().join("model");
        assert_eq!(bind(&path, &model).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn the_runtimes_own_socket_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        symlink(at("run"), at("var")).unwrap();
        fs::create_dir(at("run")).unwrap();
        let refused = |path: &str, model: &str| {
            let error = bind(&at(path), &at(model)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path} {model}: {error}");
        };
        // While the runtime has none yet; its directory may be missing as well.
        refused("run/cri", "var/cri");
        refused("var/cri", "run/../run/cri");
        refused("run/new/cri", "var/new/cri");
        // What it has left behind when it ended.
        drop(BlockingListener::bind(at("run/cri")).unwrap());
        symlink(at("run/cri"), at("link")).unwrap();
        refused("var/cri", "run/cri");
        refused("run/cri", "link");
        assert!(bind(&at("var/other"), &at("run/cri")).is_ok());
    }

    #[tokio::test]
    async fn a_socket_is_made_where_only_its_owner_gets() {
        let directory = tempfile::tempdir().unwrap();
        // Another one's, or what a killed one has left.
        fs::create_dir(directory.path().join(".0")).unwrap();
        let closed = Closed::within(directory.path()).unwrap();
        assert_eq!(mode(&closed.0), 0o700);
        assert_eq!(closed.0, directory.path().join(".1"));
        let _listener = UnixListener::bind(closed.socket()).unwrap();
        drop(closed);
        assert!(!directory.path().join(".1").exists());
        // The longest path that a socket can have.
        let length = 107 - directory.path().as_os_str().len() - "//s.sock".len();
        let long = directory.path().join("d".repeat(length)).join("s.sock");
        assert!(bind(&long, &long.with_extension("model")).is_ok());
    }

    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener as BlockingListener;
}

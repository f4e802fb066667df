//! A pod's network namespace to connections with its ports, without the runtime in between.
//!
//! A socket belongs to the namespace in which it was made, not to the one from which it is
//! connected. So a thread that lives for this alone enters the namespace, makes two sockets and
//! ends; everything else is done where all sockets are. A thread that came back instead would be
//! used again, and in the wrong network if it could not.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bowline_io::local;
use bowline_io::text::go_error;
use rustix::fs::{Mode, OFlags, Stat, fstat, fstatfs, open, stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::localhost::Sockets;
use crate::runtime::{Ports, Refusal};

/// The namespace of this program's first thread; those of the others are the same.
const OWN: &str = "/proc/self/ns/net";
/// `NSFS_MAGIC`: what holds namespaces.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// How many threads may be in other namespaces at once. Each is there for less than a millisecond.
const THREADS: usize = 8;
/// A thread that makes two sockets needs little.
const STACK_BYTES: usize = 64 * 1024;

/// The threads that enter namespaces, of all port-forwards.
#[derive(Clone, Debug)]
pub(crate) struct Entrances(Arc<Semaphore>);

impl Default for Entrances {
    fn default() -> Entrances {
        Entrances(Arc::new(Semaphore::new(THREADS)))
    }
}

impl Entrances {
    /// Makes sockets in a namespace, on a thread that ends with that.
    async fn sockets_inside(self, namespace: Arc<Namespace>) -> io::Result<Sockets> {
        // Nobody closes the semaphore, and the thread always answers.
        let gone = || io::Error::other("the thread has gone");
        let permit = self.0.acquire_owned().await.map_err(|_| gone())?;
        let (sender, made) = oneshot::channel();
        let thread = thread::Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES);
        #[expect(clippy::disallowed_methods, reason = "it cannot be used again in its namespace")]
        thread.spawn(move || {
            let _ = sender.send(namespace.enter());
            drop(permit);
        })?;
        made.await.map_err(|_| gone())?
    }
}

/// Why a pod's network cannot be used, in words for the user.
#[derive(Debug, Error)]
pub(crate) enum NamespaceError {
    /// Nothing is there any more, or something else. The text is containerd's.
    #[error("network namespace for sandbox {0:?} is closed")]
    Closed(String),
    /// What is there is no namespace.
    #[error("{} is no network namespace", .0.display())]
    NoNamespace(PathBuf),
    /// The runtime does not say where it is.
    #[error("the container runtime does not say which network namespace sandbox {0:?} has")]
    Unknown(String),
    /// It is that of a process which may be another one here.
    #[error("{} may be of another process here than the runtime's", .0.display())]
    Unseen(PathBuf),
    /// It cannot be looked at or entered.
    #[error("the network namespace {} cannot be used: {}", .0.display(), go_error(.1))]
    Io(PathBuf, #[source] io::Error),
}

impl From<NamespaceError> for Refusal {
    fn from(error: NamespaceError) -> Refusal {
        Refusal::new(500, error.to_string())
    }
}

/// The ports of a pod, in its own network.
#[derive(Clone, Debug)]
pub(crate) struct NamespacePorts {
    /// The pod's name in logs.
    pod: String,
    /// The id of its sandbox, for containerd's words.
    sandbox: Arc<str>,
    /// `None` is this program's own.
    namespace: Option<Arc<Namespace>>,
    entrances: Entrances,
}

/// A namespace. As long as it is held no other one gets its number, so that a path can be asked
/// whether it still leads to it: process ids are given to others.
#[derive(Debug)]
struct Namespace {
    path: PathBuf,
    held: OwnedFd,
    id: (u64, u64),
}

impl NamespacePorts {
    /// Finds the network of the pod with this sandbox. A path is what the runtime's verbose status
    /// says; without one the pod has the host's network, which must be this program's own.
    ///
    /// # Errors
    /// [`NamespaceError`] if there is no namespace at the path.
    pub(crate) fn open(
        pod: String,
        sandbox: &str,
        path: Option<&Path>,
        entrances: &Entrances,
    ) -> Result<NamespacePorts, NamespaceError> {
        let namespace = match path {
            None => None,
            Some(path) => Namespace::open(path, sandbox)?,
        };
        let namespace = namespace.map(Arc::new);
        Ok(NamespacePorts { pod, sandbox: sandbox.into(), namespace, entrances: entrances.clone() })
    }

    /// Enters the network for nothing, to see that it can be.
    ///
    /// # Errors
    /// [`NamespaceError::Io`] if it cannot.
    pub(crate) async fn try_to_enter(&self) -> Result<(), NamespaceError> {
        let Some(namespace) = self.namespace.clone() else { return Ok(()) };
        let path = namespace.path.clone();
        let entered = self.entrances.clone().sockets_inside(namespace).await;
        entered.map(drop).map_err(|error| NamespaceError::Io(path, error))
    }

    async fn reach(self, port: u16) -> Result<TcpStream, String> {
        let Some(namespace) = self.namespace else {
            // It trusts what comes from its own host, as with the runtime of processes.
            if local::is_own(port) {
                return Err(format!("port {port} is the node's own"));
            }
            return Sockets::here().connect(&self.sandbox, port).await;
        };
        if !namespace.is_there() {
            return Err(NamespaceError::Closed(self.sandbox.to_string()).to_string());
        }
        let path = namespace.path.clone();
        match self.entrances.sockets_inside(namespace).await {
            Ok(sockets) => sockets.connect(&self.sandbox, port).await,
            Err(error) => Err(NamespaceError::Io(path, error).to_string()),
        }
    }
}

impl Display for NamespacePorts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pod)
    }
}

impl Ports for NamespacePorts {
    type Stream = TcpStream;

    async fn dial(self, port: u16) -> Result<TcpStream, String> {
        // As containerd names it: there, too, the host's own has no path.
        let place = match &self.namespace {
            Some(namespace) => namespace.path.display().to_string(),
            None => "host".to_owned(),
        };
        let failed =
            |why| format!("failed to execute portforward in network namespace {place:?}: {why}");
        self.reach(port).await.map_err(failed)
    }
}

impl Namespace {
    /// Returns the namespace at `path`; `None` if that is this program's own.
    fn open(path: &Path, sandbox: &str) -> Result<Option<Namespace>, NamespaceError> {
        let failed = |error: Errno| match error {
            Errno::NOENT | Errno::SRCH => NamespaceError::Closed(sandbox.to_owned()),
            error => NamespaceError::Io(path.to_owned(), error.into()),
        };
        // A mere place: what is no namespace is not opened, which could have an effect, or not end.
        let place = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        if fstatfs(&place).map_err(failed)?.f_type as u64 != NSFS_MAGIC {
            // containerd leaves an empty file where a namespace was.
            return Err(NamespaceError::NoNamespace(path.to_owned()));
        }
        let id = id(&fstat(&place).map_err(failed)?);
        if stat(OWN).is_ok_and(|own| self::id(&own) == id) {
            return Ok(None);
        }
        let readable = OFlags::RDONLY | OFlags::CLOEXEC;
        let held = open(path, readable, Mode::empty()).map_err(failed)?;
        if self::id(&fstat(&held).map_err(failed)?) != id {
            return Err(NamespaceError::Closed(sandbox.to_owned()));
        }
        Ok(Some(Namespace { path: path.to_owned(), held, id }))
    }

    /// Whether the path still leads to it. What is held lives on without a pod.
    fn is_there(&self) -> bool {
        stat(&self.path).is_ok_and(|now| id(&now) == self.id)
    }

    /// Moves this thread into the namespace, for good, and makes the sockets.
    fn enter(&self) -> io::Result<Sockets> {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.held.as_fd(), kind)?;
        Ok(Sockets { four: socket(AddressFamily::INET), six: socket(AddressFamily::INET6) })
    }
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn socket(family: AddressFamily) -> io::Result<TcpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    Ok(TcpSocket::from_std_stream(net::TcpStream::from(made)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn open_at(path: &Path) -> Result<NamespacePorts, NamespaceError> {
        NamespacePorts::open("ns/p".into(), "0a1b", Some(path), &Entrances::default())
    }

    #[test]
    fn what_is_no_namespace_is_refused_unopened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let fifo = folder.path().join("fifo");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        for path in [&file, &fifo, &socket, Path::new("/dev/tty"), folder.path()] {
            let refused = open_at(path).unwrap_err().to_string();
            assert_eq!(refused, format!("{} is no network namespace", path.display()));
        }
    }

    #[test]
    fn one_that_has_gone_is_closed() {
        let refused = open_at(Path::new("/proc/self/ns/none")).unwrap_err().to_string();
        assert_eq!(refused, "network namespace for sandbox \"0a1b\" is closed");
    }

    #[tokio::test]
    async fn a_path_that_leads_elsewhere_now_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netns");
        std::os::unix::fs::symlink("/proc/self/ns/uts", &path).unwrap();
        let ports = open_at(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/mnt", &path).unwrap();
        let refused = ports.dial(1).await.unwrap_err();
        assert!(
            refused.ends_with(": network namespace for sandbox \"0a1b\" is closed"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_namespace_of_another_kind_is_not_entered() {
        let ports = open_at(Path::new("/proc/self/ns/uts")).unwrap();
        let refused = ports.dial(1).await.unwrap_err();
        let begin = "failed to execute portforward in network namespace \"/proc/self/ns/uts\": ";
        let end = "the network namespace /proc/self/ns/uts cannot be used: invalid argument";
        assert_eq!(refused, format!("{begin}{end}"));
    }

    #[tokio::test]
    async fn a_path_to_the_nodes_own_network_is_the_hosts() {
        for path in [None, Some(Path::new("/proc/thread-self/ns/net"))] {
            let ports = NamespacePorts::open("ns/p".into(), "0a1b", path, &Entrances::default());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let ports = ports.unwrap();
            let (dialled, accepted) = tokio::join!(ports.clone().dial(port), listener.accept());
            assert_eq!(dialled.unwrap().local_addr().unwrap(), accepted.unwrap().1);
            drop(listener);
            let refused = ports.dial(port).await.unwrap_err();
            let expected = format!(
                "failed to execute portforward in network namespace \"host\": failed to connect to \
                 localhost:{port} inside namespace \"0a1b\", IPv4: dial tcp4 127.0.0.1:{port}: \
                 connect: connection refused IPv6 dial tcp6 [::1]:{port}: connect: "
            );
            assert!(refused.starts_with(&expected), "{refused}");
        }
    }
}

//! A remote command, or an attach: its options to its outcome.

use std::fmt;

use bowline_io::random;
use bowline_proto::extension::REPLAY;
use bowline_proto::negotiate::Offer;
use bowline_proto::session::{Outcome, Session, Side, Size};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::sync::watch;
use url::Url;

use crate::child::{Child, ChildStdin, Collector, PIPE_BYTES, Task};
use crate::client::{Client, begin};
use crate::error::Error;
use crate::request::{Options, Verb};
use crate::session::{Ended, Ends, Opened};
use crate::upgrade::{Switched, UpgradeRequest};

/// The default of [`RemoteCommand::max_output`].
const OUTPUT_BYTES: usize = 64 * 1024 * 1024;

/// A command to be run in a container, or an attach to its main process.
///
/// Made by [`Client::exec`] and [`Client::attach`]. Like `tokio::process::Command` it is configured
/// by methods and then run in one of four ways: [`output`](Self::output) returns the command's
/// output, [`status`](Self::status) does not, [`spawn`](Self::spawn) returns streams to and from
/// it, and [`run`](Self::run) moves bytes between the caller's ends without a copy or a task.
///
/// All but `run` are driven by a task of their own and must be called in a tokio runtime with I/O
/// and time. That task leaves the session in order when its caller is dropped, and needs the
/// runtime for that. So a timeout is [`tokio::time::timeout`] around `output` or `status`, or,
/// where the program ends soon after it:
///
/// ```no_run
/// # async fn example(client: bowline_client::Client) -> Result<(), bowline_client::Error> {
/// # use std::time::Duration;
/// let mut child = client.exec("nginx", ["sleep", "100"]).spawn().await?;
/// match tokio::time::timeout(Duration::from_secs(2), child.wait()).await {
///     Ok(outcome) => println!("{:?}", outcome?),
///     Err(_) => child.leave().await,
/// }
/// # Ok(())
/// # }
/// ```
///
/// The command is hung up on, as by a terminal that is closed. Bowline's node ends it; others may
/// let it run on, and a command that must not wants `timeout` in front of it.
#[must_use = "nothing is asked for before it is run"]
pub struct RemoteCommand {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) ends: Ends,
    /// The program's end of the command's stdin, if that is a pipe.
    piped: Option<DuplexStream>,
    /// Sets the size of the terminal.
    resize: Option<watch::Sender<Size>>,
    max_output: usize,
}

impl fmt::Debug for RemoteCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCommand").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A command's outcome and output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// The command's outcome. Only [`Outcome::Success`] is success.
    pub status: Outcome,
    /// The command's stdout; with a terminal its stderr, too.
    pub stdout: Vec<u8>,
    /// The command's stderr.
    pub stderr: Vec<u8>,
}

impl RemoteCommand {
    pub(crate) fn exec(client: Client, pod: String, command: Vec<String>) -> RemoteCommand {
        RemoteCommand::of(client, pod, Verb::Exec(command))
    }

    pub(crate) fn attach(client: Client, pod: String) -> RemoteCommand {
        RemoteCommand::of(client, pod, Verb::Attach(None))
    }

    fn of(client: Client, pod: String, verb: Verb) -> RemoteCommand {
        let (container, env) = (None, Vec::new());
        let options = Options { pod, verb, container, tty: false, env, stderr: true };
        let (ends, max_output) = (Ends::default(), OUTPUT_BYTES);
        RemoteCommand { client, options, ends, piped: None, resize: None, max_output }
    }

    /// Sets the container. By default the server takes the pod's only one, or refuses.
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.options.container = Some(name.into());
        self
    }

    /// Adds a variable to the command's environment (KEP-6035). Servers that do not know it leave
    /// it out; then nothing is begun, and that is [`Error::NoEnv`]. Such a session is over SPDY,
    /// where a command begins only once its client has seen the answer. For an attach it does
    /// nothing.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if matches!(self.options.verb, Verb::Exec(_)) {
            self.options.env.push((name.into(), value.into()));
        }
        self
    }

    /// Sets the command's stdin, which ends when `input` does. By default the command has none.
    /// Nothing is read of it before the session is established.
    pub fn stdin(mut self, input: impl AsyncRead + Send + Unpin + 'static) -> Self {
        self.ends.stdin = Some(Box::new(input));
        self.piped = None;
        self
    }

    /// Sets the command's stdin to a pipe, [`Child::stdin`] after [`spawn`](Self::spawn). All other
    /// ways to run the command end it at once.
    pub fn stdin_piped(mut self) -> Self {
        let (ours, theirs) = duplex(PIPE_BYTES);
        self.ends.stdin = Some(Box::new(theirs));
        self.piped = Some(ours);
        self
    }

    /// Sets where the command's stdout goes with [`run`](Self::run) and [`status`](Self::status).
    /// By default it is discarded.
    pub fn stdout(mut self, output: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        self.ends.stdout = Box::new(output);
        self
    }

    /// Sets where the command's stderr goes with [`run`](Self::run) and [`status`](Self::status).
    /// By default it is discarded.
    pub fn stderr(mut self, output: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        self.ends.stderr = Box::new(output);
        self
    }

    /// Does not request stderr, so the server sends none. With a terminal there is none anyway.
    pub fn without_stderr(mut self) -> Self {
        self.options.stderr = false;
        self
    }

    /// Gives the command a terminal of this size, which [`Child::resize`] changes. An attach must
    /// have one if, and only if, the container has.
    pub fn tty(self, size: Size) -> Self {
        let (resize, sizes) = watch::channel(size);
        RemoteCommand { resize: Some(resize), ..self.terminal(Some(sizes)) }
    }

    /// Gives the command a terminal whose size follows `sizes`, or is never sent.
    pub fn terminal(mut self, sizes: Option<watch::Receiver<Size>>) -> Self {
        self.options.tty = true;
        self.ends.sizes = sizes;
        self.resize = None;
        self
    }

    /// Sets all ends at once. Sizes in them do not request a terminal.
    pub fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self.piped = None;
        self
    }

    /// Begins an attach with up to this many lines of the container's log; 0 by default. If the
    /// server is not Bowline's, that fails with [`Error::NoReplay`]. For an exec it does nothing.
    pub fn replay(mut self, lines: u64) -> Self {
        if let Verb::Attach(replay) = &mut self.options.verb {
            *replay = Some(lines);
        }
        self
    }

    /// Sets the most bytes that [`output`](Self::output) and [`Child::wait_with_output`] keep of
    /// stdout and of stderr each; 64 MiB by default. One more byte ends the session with
    /// [`Error::End`].
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Returns the request's URL.
    #[must_use]
    pub fn url(&self) -> Url {
        self.options.url(&self.client, self.options.wants(self.ends.stdin.is_some()))
    }

    /// Runs the command in the caller's own task: the fastest way. A future that is dropped cuts
    /// the connection without a goodbye.
    ///
    /// # Errors
    /// [`Error`] if the connection is not upgraded, or an end of the caller's fails. A lost session
    /// is no error but [`Ended::Lost`].
    pub async fn run(mut self) -> Result<Ended, Error> {
        drop(self.piped.take());
        let stdin = self.ends.stdin.is_some();
        let opened = open(&self.client, &self.options, stdin).await?;
        Ok(opened.run(self.ends).await?)
    }

    /// Runs the command and waits for its end. Output goes to [`stdout`](Self::stdout) and
    /// [`stderr`](Self::stderr).
    ///
    /// # Errors
    /// [`Error`] if it is not known how the command ended. That it failed is no error.
    pub async fn status(mut self) -> Result<Outcome, Error> {
        drop(self.piped.take());
        let stdin = self.ends.stdin.is_some();
        let opened = open(&self.client, &self.options, stdin).await?;
        Task::spawn(opened, self.ends).wait().await?.known()
    }

    /// Runs the command, waits for its end, and returns its output.
    ///
    /// # Errors
    /// [`Error`] if it is not known how the command ended; after a loss what came is in
    /// [`Error::Lost`]. That the command failed is no error.
    ///
    /// ```no_run
    /// # async fn example(client: bowline_client::Client) -> Result<(), bowline_client::Error> {
    /// let listed = client.exec("nginx", ["ls", "-l"]).container("nginx").output().await?;
    /// println!("{:?}: {}", listed.status, String::from_utf8_lossy(&listed.stdout));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn output(mut self) -> Result<Output, Error> {
        drop(self.piped.take());
        let stdin = self.ends.stdin.is_some();
        let opened = open(&self.client, &self.options, stdin).await?;
        let (stdout, stderr) = (Collector::default(), Collector::default());
        self.ends.stdout = stdout.writer(self.max_output);
        self.ends.stderr = stderr.writer(self.max_output);
        let ended = Task::spawn(opened, self.ends).wait().await?;
        Output::of(ended.known(), stdout.take(), stderr.take())
    }

    /// Starts the command, and returns once the server has upgraded the connection.
    ///
    /// # Errors
    /// [`Error::Upgrade`] if the connection is not upgraded; [`Error::NoReplay`] or
    /// [`Error::NoEnv`] if the server does not support [`replay`](Self::replay) or
    /// [`env`](Self::env).
    pub async fn spawn(self) -> Result<Child, Error> {
        let stdin = self.ends.stdin.is_some();
        let opened = open(&self.client, &self.options, stdin).await?;
        let stdin = self.piped.map(ChildStdin::new);
        let has_stderr = self.options.wants(false).stderr;
        Ok(Child::new(opened, self.ends, stdin, has_stderr, self.resize, self.max_output))
    }
}

/// Requests the upgrade. No byte of stdin is read before there is a 101.
pub(crate) async fn open(client: &Client, options: &Options, stdin: bool) -> Result<Opened, Error> {
    let wants = options.wants(stdin);
    let pending = client.admit(options.record(client))?;
    let url = options.url(client, wants);
    let upgrade = UpgradeRequest { client, url: &url };
    let asks_for_env = !options.env.is_empty();
    // Over WebSocket a command may begin with the answer.
    let may_begin = client.websocket && !asks_for_env;
    let first = may_begin.then(|| Offer::websocket(random::bytes()));
    let upgraded = upgrade.with_fallback(first, Offer::spdy(), "RemoteCommand fallback").await;
    let Switched { connection, protocol, headers } = upgraded?;
    let asks_for_replay = matches!(options.verb, Verb::Attach(Some(_)));
    if asks_for_replay && !headers.contains_key(REPLAY.answered) {
        return Err(Error::NoReplay);
    }
    options.demand_env(&headers)?;
    upgrade.note(4, &format!("The subprotocol is {}", protocol.name));
    let session = Session::new(Side::Client, protocol, wants, random::bytes());
    let running = begin(pending, &connection, protocol);
    Ok(Opened { connection, session, running })
}

impl Output {
    /// The outcome, and what was kept, which after a loss goes into the error.
    pub(crate) fn of(
        known: Result<Outcome, Error>,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    ) -> Result<Output, Error> {
        match known {
            Ok(status) => Ok(Output { status, stdout, stderr }),
            Err(Error::Lost { loss, received_bytes, .. }) => {
                Err(Error::Lost { loss, received_bytes, stdout, stderr })
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_io::access::Access;
    use bowline_io::dial::Endpoint;

    use super::*;

    /// Each way to run a command may be a task of the caller's.
    #[test]
    fn what_is_waited_for_goes_to_any_thread() {
        fn is_send<T: Send>(_: T) {}
        let endpoint = Endpoint { host: "h".into(), port: 1, tls: None, proxy: None };
        let access = Access::fixed(endpoint, Vec::new());
        let client = Client::new(Url::parse("http://h:1").unwrap(), access, "default");
        let command = || client.exec("p", ["x"]);
        is_send(command().run());
        is_send(command().status());
        is_send(command().output());
        is_send(async { command().spawn().await?.wait_with_output().await });
        is_send(command().keep().run());
        is_send(client.port_forward("p").open());
    }
}

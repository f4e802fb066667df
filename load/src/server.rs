//! A role as a process of its own, and what the kernel says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A role starts and ends within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look at what nothing tells of.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    pub rss_kib: u64,
    /// Of that, what is no file's.
    pub own_kib: u64,
    pub peak_kib: u64,
    pub threads: u64,
    pub descriptors: u64,
    pub children: u64,
}

impl Holds {
    /// Of the process with this id.
    pub fn of(id: u32) -> Result<Holds> {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let children = children(id)?.len() as u64;
        Ok(Holds {
            rss_kib: field("VmRSS:"),
            own_kib: field("RssAnon:"),
            peak_kib: field("VmHWM:"),
            threads: field("Threads:"),
            descriptors: fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64,
            children,
        })
    }
}

fn children(id: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end in between.
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().flat_map(str::parse::<u32>));
    }
    Ok(children)
}

/// A running role. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it serves.
    pub port: u16,
}

impl Server {
    /// Starts it and waits for its ready line.
    pub fn start(command: &mut Command) -> Result<Server> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut server = Server { child, port: 0 };
        let (sender, ready) = channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let ready = ready.recv_timeout(PATIENCE).unwrap_or_default();
        let port = ready.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        server.port = port.ok_or_else(|| anyhow!("{command:?}: not ready: {ready:?}"))?;
        Ok(server)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn holds(&self) -> Result<Holds> {
        Holds::of(self.id())
    }

    /// The processes that it has started.
    pub fn children(&self) -> Result<Vec<u32>> {
        children(self.id())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Ends it without a chance to say anything.
    pub fn kill(&mut self) {
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to end, which it must do by itself and with 0.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::INT)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(anyhow!("ended: {status}")) };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("did not end within {PATIENCE:?}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

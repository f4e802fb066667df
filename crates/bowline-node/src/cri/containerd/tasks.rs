//! A command in a container as containerd has it: what it is called, and what can be asked of it.

use std::sync::Arc;
use std::time::Duration;

use bowline_proto::session::Size;
use bytes::Bytes;
use prost::Message;
use rustix::process::Signal;
use tonic::Code;

use super::messages::{
    Any, CloseIoRequest, Empty, ExecProcessRequest, GetResponse, KillRequest, PROCESS_TYPE,
    Process, ProcessRequest, ResizePtyRequest, StartResponse, WaitResponse,
};
use crate::cri::client::{ANSWER_PATIENCE, CallError, Client};

const TASKS: &str = "containerd.services.tasks.v1.Tasks";
/// The namespace of all that Kubernetes has.
pub(super) const NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");
/// How long a process may take to start: two hundred that start at once share the processors.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A container's process, which containerd may or may not have.
#[derive(Clone, Debug)]
pub(super) struct Task {
    client: Arc<Client>,
    container_id: String,
    exec_id: String,
}

impl Task {
    /// Names a process: the container's main one, if `exec_id` is empty.
    pub(super) fn new(client: Arc<Client>, container_id: &str, exec_id: String) -> Task {
        Task { client, container_id: container_id.to_owned(), exec_id }
    }

    /// The container's id.
    pub(super) fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Its id among the container's processes.
    pub(super) fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// Tells containerd what it is to be. Nothing runs yet.
    ///
    /// # Errors
    /// [`CallError`] if it is not known to containerd now, as far as that can be known.
    pub(super) async fn create(
        &self,
        [stdin, stdout, stderr]: [String; 3],
        terminal: bool,
        spec: Bytes,
    ) -> Result<(), CallError> {
        let request = ExecProcessRequest {
            container_id: self.container_id.clone(),
            stdin,
            stdout,
            stderr,
            terminal,
            spec: Some(Any { type_url: PROCESS_TYPE.to_owned(), value: spec }),
            exec_id: self.exec_id.clone(),
        };
        let Empty {} = self.call("Exec", request, Some(START_PATIENCE)).await?;
        Ok(())
    }

    /// Starts it, and returns its id in containerd's PID namespace.
    ///
    /// # Errors
    /// [`CallError`] if it did not start, or nobody knows.
    pub(super) async fn start(&self) -> Result<u32, CallError> {
        let started: StartResponse = self.call("Start", self.name(), Some(START_PATIENCE)).await?;
        Ok(started.pid)
    }

    /// Returns how it is.
    ///
    /// # Errors
    /// [`CallError`] if containerd does not say.
    pub(super) async fn get(&self) -> Result<Process, CallError> {
        let answer: GetResponse = self.call("Get", self.name(), Some(ANSWER_PATIENCE)).await?;
        Ok(answer.process.unwrap_or_default())
    }

    /// Waits until it has ended, and returns its exit code.
    ///
    /// # Errors
    /// [`CallError`] if containerd cannot say it any more, or not over this connection.
    pub(super) async fn wait(&self) -> Result<u32, CallError> {
        let ended: WaitResponse = self.call("Wait", self.name(), None).await?;
        Ok(ended.exit_status)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`CallError`] if it is not set.
    pub(super) async fn resize(&self, size: Size) -> Result<(), CallError> {
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width: size.width.into(),
            height: size.height.into(),
        };
        let Empty {} = self.call("ResizePty", request, Some(ANSWER_PATIENCE)).await?;
        Ok(())
    }

    /// Has the shim let go of its end of stdin, which it holds as well so that nobody else's end
    /// does not end it.
    ///
    /// # Errors
    /// [`CallError`] if it may still hold it.
    pub(super) async fn close_stdin(&self) -> Result<(), CallError> {
        let request = CloseIoRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        };
        let Empty {} = self.call("CloseIO", request, Some(ANSWER_PATIENCE)).await?;
        Ok(())
    }

    /// Sends it a signal, and to none of its children.
    ///
    /// # Errors
    /// [`CallError`] if it may not have got it, also because it has ended.
    pub(super) async fn kill(&self, signal: Signal) -> Result<(), CallError> {
        let request = KillRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal: signal.as_raw().unsigned_abs(),
        };
        let Empty {} = self.call("Kill", request, Some(ANSWER_PATIENCE)).await?;
        Ok(())
    }

    /// Has containerd forget it, once it has ended.
    ///
    /// # Errors
    /// [`CallError`] if containerd may still know it. That it does not is none.
    pub(super) async fn delete(&self) -> Result<(), CallError> {
        match self.call("DeleteProcess", self.name(), Some(ANSWER_PATIENCE)).await {
            Ok(Empty {}) => Ok(()),
            Err(CallError::Status(status)) if status.code() == Code::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn name(&self) -> ProcessRequest {
        ProcessRequest { container_id: self.container_id.clone(), exec_id: self.exec_id.clone() }
    }

    async fn call<A: Message + Default + 'static>(
        &self,
        method: &'static str,
        request: impl Message + 'static,
        patience: Option<Duration>,
    ) -> Result<A, CallError> {
        self.client.call_other((TASKS, method), NAMESPACE, request, patience).await
    }
}

//! The messages of containerd's own services `tasks.v1` and `containers.v1`, as far as the node
//! reads or writes them. Fields that are not here are passed over.

use prost::Message;

/// Of `Status`.
const CREATED: i32 = 1;
pub(super) const RUNNING: i32 = 2;
const STOPPED: i32 = 3;
/// What tells containerd that a value is the JSON of an OCI process.
pub(super) const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A value of any type, `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
}

/// An answer that only says that it was done.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetContainerRequest {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    pub container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(message, optional, tag = "4")]
    pub runtime: Option<Runtime>,
    /// The JSON of its OCI specification.
    #[prost(message, optional, tag = "5")]
    pub spec: Option<Any>,
}

/// Which shim a container has.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Runtime {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Names a process, for Start, Get, Wait and DeleteProcess. Without an exec it is the main one.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ProcessRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetResponse {
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Process {
    /// Its id in containerd's PID namespace.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    #[prost(int32, tag = "4")]
    pub status: i32,
    /// Where its output goes.
    #[prost(string, tag = "6")]
    pub stdout: String,
}

impl Process {
    /// Returns whether it may go on: also one that is paused, as its container is.
    pub(super) fn may_run(&self) -> bool {
        !matches!(self.status, CREATED | STOPPED)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExecProcessRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub stdin: String,
    #[prost(string, tag = "3")]
    pub stdout: String,
    #[prost(string, tag = "4")]
    pub stderr: String,
    #[prost(bool, tag = "5")]
    pub terminal: bool,
    #[prost(message, optional, tag = "6")]
    pub spec: Option<Any>,
    #[prost(string, tag = "7")]
    pub exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StartResponse {
    #[prost(uint32, tag = "1")]
    pub pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WaitResponse {
    /// The exit code; 128 and more for signals.
    #[prost(uint32, tag = "1")]
    pub exit_status: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResizePtyRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(uint32, tag = "3")]
    pub width: u32,
    #[prost(uint32, tag = "4")]
    pub height: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseIoRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(bool, tag = "3")]
    pub stdin: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KillRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(uint32, tag = "3")]
    pub signal: u32,
}

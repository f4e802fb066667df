//! Streams that go to something that is no node.

use std::future::ready;
use std::sync::Arc;

use bowline_gateway::backend::{Backend, Destination, FarLeg, Target};
use bowline_gateway::components::{Answer, Caller, Components};
use bowline_gateway::options::{ExecOptions, ForwardOptions, LogOptions, Verb};
use bowline_gateway::status::Refusal;
use bowline_io::serve::{Body, body};
use bowline_proto::session::Protocol;
use bowline_proto::session::protocol::Carrier;
use http::Method;

use crate::client::{SPDY, WEBSOCKET, ask, get, message};
use crate::components::{components, start};

/// Has logs, and says why it has nothing else.
#[derive(Debug)]
struct Archive;

/// Whose log it is.
struct ArchivedLog(String);

impl Backend for Archive {
    fn find<'a>(
        &'a self,
        caller: &'a Caller,
        Target { namespace, pod, container, .. }: Target<'a>,
    ) -> Answer<'a, Box<dyn Destination>> {
        let shelf = format!("{}: {namespace}/{pod}/{}", caller.user.name, container.unwrap_or("-"));
        Box::pin(async { Ok(Box::new(ArchivedLog(shelf)) as Box<dyn Destination>) })
    }
}

impl ArchivedLog {
    fn refuse<T: Send + 'static>(&self, what: &str) -> Answer<'static, T> {
        Box::pin(ready(Err(Refusal::of_node(501, format!("no {what} for {}", self.0)))))
    }
}

impl Destination for ArchivedLog {
    fn container(&self) -> &str {
        ""
    }

    fn forward_carriers(&self, _: Carrier) -> &'static [Carrier] {
        &[Carrier::Spdy]
    }

    fn command<'a>(
        &'a self,
        verb: Verb,
        options: &'a ExecOptions,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        self.refuse(&format!("{} of {:?}", verb.word(), options.command))
    }

    fn port_forward<'a>(
        &'a self,
        _: &'a ForwardOptions,
        _: Carrier,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        self.refuse("port-forward")
    }

    fn pass_port_forward<'a>(
        &'a self,
        _: &'a ForwardOptions,
        method: &'a Method,
        _: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        self.refuse(&format!("port-forward by {method}"))
    }

    fn log<'a>(&'a self, options: &'a LogOptions) -> Answer<'a, Body> {
        Box::pin(ready(Ok(body(format!("{} {:?}", self.0, options.parameters)))))
    }
}

#[tokio::test]
async fn each_kind_of_stream_is_asked_for_by_its_name() {
    let gateway = start(Components { backend: Arc::new(Archive), ..components() }).await;
    let path = |what: &str| format!("/api/v1/namespaces/ns/pods/web/{what}");
    let log = get(gateway, &path("log?container=c&tailLines=1&x=y")).await;
    assert_eq!(log, (200, "jane: ns/web/c [(\"tailLines\", \"1\")]".into()));
    let tunnel = WEBSOCKET.replace("v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io");
    for (method, what, lines, expected) in [
        ("GET", "exec?command=id", WEBSOCKET, "no exec of [\"id\"] for jane: ns/web/"),
        ("GET", "attach?container=c", WEBSOCKET, "no attach of [] for jane: ns/web/c"),
        ("GET", "portforward", &*tunnel, "no port-forward for jane: ns/web/-"),
        ("POST", "portforward", SPDY, "no port-forward by POST for jane: ns/web/-"),
    ] {
        let lines = format!("Authorization: Bearer good\r\nConnection: Upgrade\r\n{lines}");
        let (code, body) = ask(gateway, method, &path(what), &lines).await;
        assert_eq!((code, &*message(&body)), (501, expected), "{what}");
    }
}

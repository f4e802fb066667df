//! Options of a remote command to its URL and its session's channels.

use bowline_io::record::Record;
use bowline_proto::extension::ENV;
use bowline_proto::session::Wants;
use http::HeaderMap;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::client::Client;
use crate::error::Error;

/// What a session is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// A new process: its program and arguments.
    Exec(Vec<String>),
    /// The container's main process, perhaps with this many lines of its log before the live
    /// output. The lines are an extension of Bowline's, which other servers ignore.
    Attach(Option<u64>),
}

/// The options of a remote command. Both its query and its session come from here, so that they
/// cannot differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub pod: String,
    pub verb: Verb,
    /// The container's name; without one, the server chooses.
    pub container: Option<String>,
    pub tty: bool,
    /// Variables of the command, names and values. They are an extension of Bowline's, which other
    /// servers ignore.
    pub env: Vec<(String, String)>,
    /// Whether stderr is requested. A terminal has only stdout.
    pub stderr: bool,
}

impl Options {
    /// Returns the session's channels. `stdin` is whether there is input to send.
    pub(crate) fn wants(&self, stdin: bool) -> Wants {
        Wants { stdin, stdout: true, stderr: self.stderr && !self.tty, tty: self.tty }
    }

    /// Demands of a server that was asked for an environment that it has said to set it.
    ///
    /// # Errors
    /// [`Error::NoEnv`] if it has not: then no command may begin.
    pub(crate) fn demand_env(&self, answered: &HeaderMap) -> Result<(), Error> {
        if self.env.is_empty() || answered.contains_key(ENV.answered) {
            return Ok(());
        }
        Err(Error::NoEnv)
    }

    /// Returns what is known of the session before the request.
    pub(crate) fn record(&self, client: &Client) -> Record {
        let (verb, command) = match &self.verb {
            Verb::Exec(command) => ("exec", command.clone()),
            Verb::Attach(_) => ("attach", Vec::new()),
        };
        let container = self.container.clone().unwrap_or_default();
        Record { command, container, ..client.record(verb, &self.pod) }
    }

    /// Returns `…/api/v1/namespaces/NS/pods/NAME/exec?…`, behind the server's own path. Keys are in
    /// the order of Go's encoder; booleans appear only if they are true.
    pub(crate) fn url(&self, client: &Client, wants: Wants) -> Url {
        let (name, command, replay) = match &self.verb {
            Verb::Exec(command) => ("exec", &**command, None),
            Verb::Attach(replay) => ("attach", &[][..], *replay),
        };
        let mut text = Serializer::new(String::new());
        for word in command {
            text.append_pair("command", word);
        }
        if let Some(container) = &self.container {
            text.append_pair("container", container);
        }
        for (name, value) in &self.env {
            text.append_pair(ENV.asked, &format!("{name}={value}"));
        }
        if let Some(lines) = replay {
            text.append_pair("replay", &lines.to_string());
        }
        let channels = [("stderr", wants.stderr), ("stdin", wants.stdin), ("stdout", wants.stdout)];
        for (name, _) in channels.into_iter().filter(|(_, set)| *set) {
            text.append_pair(name, "true");
        }
        if let Some(timeout) = &client.server_timeout {
            text.append_pair("timeout", timeout);
        }
        if wants.tty {
            text.append_pair("tty", "true");
        }
        let mut url = subresource(client, &self.pod, name);
        url.set_query(Some(&text.finish()));
        url
    }
}

/// Returns the URL of a port-forward, with the ports that are known by now.
pub(crate) fn port_forward(client: &Client, pod: &str, ports: &[u16]) -> Url {
    let mut url = subresource(client, pod, "portforward");
    let mut text = Serializer::new(String::new());
    // Kubelets before 1.36 want one of any WebSocket, and refuse 0.
    let named =
        ports.iter().enumerate().filter(|&(at, port)| *port != 0 && !ports[..at].contains(port));
    for (_, port) in named {
        text.append_pair("ports", &port.to_string());
    }
    if let Some(timeout) = &client.server_timeout {
        text.append_pair("timeout", timeout);
    }
    let query = text.finish();
    url.set_query((!query.is_empty()).then_some(&query));
    url
}

/// Returns the URL of a pod itself.
pub(crate) fn pod_url(client: &Client, pod: &str) -> Url {
    let mut url = client.server.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
        path.extend(["api", "v1", "namespaces", &client.namespace, "pods", pod]);
    }
    url
}

fn subresource(client: &Client, pod: &str, name: &str) -> Url {
    let mut url = pod_url(client, pod);
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(name);
    }
    url
}

#[cfg(test)]
mod tests {
    use bowline_io::access::Access;
    use bowline_io::dial::Endpoint;
    use tokio::io::empty;

    use super::*;

    #[test]
    fn it_is_kubectls() {
        let server = Url::parse("https://h:6443/k8s/clusters/x").unwrap();
        let endpoint = Endpoint { host: "h".into(), port: 6443, tls: None, proxy: None };
        let client = Client::new(server, Access::fixed(endpoint, Vec::new()), "default");
        let timed = client.clone().server_timeout(Some("5s".into()));
        let words = ["sh", "-c", "echo \"a b&c\""];
        let of_pod = "https://h:6443/k8s/clusters/x/api/v1/namespaces/default/pods/ok/";
        for (url, expected) in [
            (
                timed.exec("ok", words).container("main").url(),
                "exec?command=sh&command=-c&command=echo+%22a+b%26c%22&container=main&\
                 stderr=true&stdout=true&timeout=5s",
            ),
            (
                client.exec("ok", ["sh"]).stdin(empty()).terminal(None).url(),
                "exec?command=sh&stdin=true&stdout=true&tty=true",
            ),
            (
                client.exec("ok", ["sh"]).container("c").env("A", "1=2").env("B", "").url(),
                "exec?command=sh&container=c&env=A%3D1%3D2&env=B%3D&stderr=true&stdout=true",
            ),
            (client.attach("ok").url(), "attach?stderr=true&stdout=true"),
            (
                client.attach("ok").container("c").replay(7).url(),
                "attach?container=c&replay=7&stderr=true&stdout=true",
            ),
            (client.port_forward("ok").url(), "portforward"),
            (timed.port_forward("ok").url(), "portforward?timeout=5s"),
            (
                client.port_forward("ok").ports([80, 0, 443, 80]).url(),
                "portforward?ports=80&ports=443",
            ),
            (timed.port_forward("ok").ports([1]).url(), "portforward?ports=1&timeout=5s"),
        ] {
            assert_eq!(url.as_str(), format!("{of_pod}{expected}"));
        }
    }
}

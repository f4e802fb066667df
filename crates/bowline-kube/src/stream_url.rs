//! A pod and what is wanted of it to the URL of a stream.

use url::Url;
use url::form_urlencoded::Serializer;

/// The query of an exec, or of an attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecQuery {
    /// The words of the command; an attach has none.
    pub command: Vec<String>,
    /// The container.
    pub container: String,
    /// Send input.
    pub stdin: bool,
    /// Get output.
    pub stdout: bool,
    /// Get errors apart.
    pub stderr: bool,
    /// Get a terminal.
    pub tty: bool,
    /// `--request-timeout` as it was given, if it is not 0.
    pub timeout: Option<String>,
    /// For an attach: begin with so many lines of the log. Bowline's own.
    pub replay: Option<u64>,
}

/// `…/api/v1/namespaces/NS/pods/NAME/exec?…`, with the server's own path in front. Keys are in the
/// order of Go's encoder; booleans appear only if they are true.
#[must_use]
pub fn exec(server: &Url, namespace: &str, pod: &str, query: &ExecQuery) -> Url {
    with_query(subresource(server, namespace, pod, "exec"), query)
}

/// The same for an attach.
#[must_use]
pub fn attach(server: &Url, namespace: &str, pod: &str, query: &ExecQuery) -> Url {
    with_query(subresource(server, namespace, pod, "attach"), query)
}

fn with_query(mut url: Url, query: &ExecQuery) -> Url {
    let mut text = Serializer::new(String::new());
    for word in &query.command {
        text.append_pair("command", word);
    }
    text.append_pair("container", &query.container);
    if let Some(lines) = query.replay {
        text.append_pair("replay", &lines.to_string());
    }
    for (name, set) in [("stderr", query.stderr), ("stdin", query.stdin), ("stdout", query.stdout)]
    {
        if set {
            text.append_pair(name, "true");
        }
    }
    if let Some(timeout) = &query.timeout {
        text.append_pair("timeout", timeout);
    }
    if query.tty {
        text.append_pair("tty", "true");
    }
    url.set_query(Some(&text.finish()));
    url
}

/// The same for a port-forward, whose ports are named later.
#[must_use]
pub fn port_forward(server: &Url, namespace: &str, pod: &str, timeout: Option<&str>) -> Url {
    let mut url = subresource(server, namespace, pod, "portforward");
    if let Some(timeout) = timeout {
        url.query_pairs_mut().append_pair("timeout", timeout);
    }
    url
}

fn subresource(server: &Url, namespace: &str, pod: &str, name: &str) -> Url {
    let mut url = server.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
        path.extend(["api", "v1", "namespaces", namespace, "pods", pod, name]);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kubectls() {
        let server = Url::parse("https://h:6443/k8s/clusters/x").unwrap();
        let query = ExecQuery {
            command: ["sh", "-c", "echo \"a b&c\""].map(Into::into).to_vec(),
            container: "main".into(),
            stdout: true,
            stderr: true,
            timeout: Some("5s".into()),
            ..ExecQuery::default()
        };
        assert_eq!(
            exec(&server, "default", "ok", &query).as_str(),
            "https://h:6443/k8s/clusters/x/api/v1/namespaces/default/pods/ok/exec?command=sh&\
             command=-c&command=echo+%22a+b%26c%22&container=main&stderr=true&\
             stdout=true&timeout=5s"
        );
        assert_eq!(
            port_forward(&server, "default", "ok", None).as_str(),
            "https://h:6443/k8s/clusters/x/api/v1/namespaces/default/pods/ok/portforward"
        );
    }
}

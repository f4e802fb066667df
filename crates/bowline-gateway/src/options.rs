//! A stream's query to what it asks for, and that to the kubelet's query: Kubernetes' rules and
//! texts.

use std::borrow::Cow;

use bowline_proto::extension::{ENV, Extension, handed_on};
use bowline_proto::session::Wants;
use form_urlencoded::Serializer;

use crate::facts::Pod;
use crate::status::Refusal;

/// One of the two kinds of remote command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A new process in the container.
    Exec,
    /// The container's main process.
    Attach,
}

impl Verb {
    /// Returns its word in paths.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verb::Exec => "exec",
            Verb::Attach => "attach",
        }
    }
}

/// What a request to `pods/exec` or `pods/attach` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The words of the command; an attach has none.
    pub command: Vec<String>,
    /// The extensions that were asked for, with their values.
    pub extensions: Vec<(&'static Extension, String)>,
    /// The name of the container; empty if the request names none.
    pub container: String,
    /// The channels.
    pub wants: Wants,
}

impl ExecOptions {
    /// Reads a query as the API server does (docs/protocols/endpoints.md, 1.1).
    ///
    /// # Errors
    /// 400 if `dryRun` is given.
    pub fn parse(verb: Verb, query: &str) -> Result<ExecOptions, Refusal> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        if pairs.iter().any(|pair| pair.0 == "dryRun") {
            return Err(Refusal::bad_request("dryRun is not supported"));
        }
        let first = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| &*pair.1);
        // Absent, `0` and `false` in any case are false; everything else is true, even "".
        let set = |name: &str| {
            first(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
        };
        let command =
            pairs.iter().filter(|pair| pair.0 == "command").map(|pair| pair.1.to_string());
        Ok(ExecOptions {
            command: command.collect(),
            container: first("container").unwrap_or_default().to_owned(),
            extensions: extensions(verb, &pairs)?,
            wants: Wants {
                stdin: set("stdin"),
                stdout: set("stdout"),
                stderr: set("stderr"),
                tty: set("tty"),
            },
        })
    }

    /// Returns the kubelet's path and query for it, keys in the order of Go's encoder.
    #[must_use]
    pub fn kubelet_path(&self, verb: Verb, namespace: &str, pod: &str, container: &str) -> String {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        if verb == Verb::Exec {
            pairs.extend(self.command.iter().map(|word| ("command", &**word)));
        }
        let Wants { stdin, stdout, stderr, tty } = self.wants;
        let channels = [("error", stderr), ("input", stdin), ("output", stdout), ("tty", tty)];
        pairs.extend(channels.into_iter().filter(|one| one.1).map(|one| (one.0, "1")));
        pairs.extend(self.extensions.iter().map(|(one, value)| (one.asked, &**value)));
        pairs.sort_by_key(|pair| pair.0);
        let mut query = Serializer::new(String::new());
        query.extend_pairs(pairs);
        format!("/{}/{namespace}/{pod}/{container}?{}", verb.word(), query.finish())
    }
}

/// Returns what a query asks for beyond Kubernetes' own options, each as often as it is there.
///
/// # Errors
/// 400 for variables of a command that only a cluster itself may set (KEP-6035).
fn extensions(
    verb: Verb,
    pairs: &[(Cow<'_, str>, Cow<'_, str>)],
) -> Result<Vec<(&'static Extension, String)>, Refusal> {
    let mut found = Vec::new();
    for one in handed_on(verb.word()) {
        for (_, value) in pairs.iter().filter(|pair| pair.0 == one.asked) {
            if *one == ENV && value.starts_with("KUBERNETES_") {
                return Err(Refusal::bad_request("env names must not begin with KUBERNETES_"));
            }
            found.push((one, value.to_string()));
        }
    }
    Ok(found)
}

/// Returns the container of `pod` of the name `asked`, or the only one if that is empty.
///
/// # Errors
/// 400, with the API server's texts, if there is no such container, or not exactly one.
pub fn container_in(pod: &Pod, asked: &str) -> Result<String, Refusal> {
    let Pod { name, containers, init_containers, ephemeral_containers, .. } = pod;
    let mut all = init_containers.iter().chain(containers).chain(ephemeral_containers);
    if !asked.is_empty() {
        let known = all.any(|known| known == asked);
        let message = format!("container {asked} is not valid for pod {name}");
        return known.then(|| asked.to_owned()).ok_or(Refusal::bad_request(message));
    }
    match &containers[..] {
        [only] => Ok(only.clone()),
        [] => {
            Err(Refusal::bad_request(format!("a container name must be specified for pod {name}")))
        }
        _ => {
            let names = all.map(String::as_str).collect::<Vec<_>>().join(" ");
            Err(Refusal::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{names}]"
            )))
        }
    }
}

/// What a request to `pods/portforward` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// The ports, for the protocols that name them in advance.
    pub ports: Vec<i32>,
}

impl ForwardOptions {
    /// Reads a query as the API server does.
    ///
    /// # Errors
    /// 400 if `dryRun` is given, or a port is no number.
    pub fn parse(query: &str) -> Result<ForwardOptions, Refusal> {
        let mut ports = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "dryRun" => return Err(Refusal::bad_request("dryRun is not supported")),
                // Comma-separated ones as well, as some clients write them.
                "ports" => {
                    for port in value.split(',') {
                        let number = port.parse().map_err(|_| {
                            Refusal::bad_request(format!("cannot parse port {port:?} as a number"))
                        })?;
                        ports.push(number);
                    }
                }
                _ => {}
            }
        }
        Ok(ForwardOptions { ports })
    }

    /// Returns the kubelet's path and query for it: all ports in one value.
    #[must_use]
    pub fn kubelet_path(&self, namespace: &str, pod: &str) -> String {
        let path = format!("/portForward/{namespace}/{pod}");
        if self.ports.is_empty() {
            return path;
        }
        let ports = self.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let query = Serializer::new(String::new()).append_pair("port", &ports).finish();
        format!("{path}?{query}")
    }
}

/// What a request to `pods/log` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The name of the container; empty if the request names none.
    pub container: String,
    /// The parameters for the kubelet, in the order of Go's encoder.
    pub parameters: Vec<(&'static str, String)>,
}

impl LogOptions {
    /// The names of the parameters that go to the kubelet, in the order of Go's encoder.
    const PARAMETERS: [&str; 8] = [
        "follow",
        "limitBytes",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "stream",
        "tailLines",
        "timestamps",
    ];

    /// Reads a query. Parameters that no kubelet knows are passed over.
    #[must_use]
    pub fn parse(query: &str) -> LogOptions {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let first = |name: &str| {
            pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone().into_owned())
        };
        let parameters = LogOptions::PARAMETERS.into_iter();
        LogOptions {
            container: first("container").unwrap_or_default(),
            parameters: parameters.filter_map(|name| Some((name, first(name)?))).collect(),
        }
    }

    /// Returns the kubelet's path and query for it.
    #[must_use]
    pub fn kubelet_path(&self, namespace: &str, pod: &str, container: &str) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(&self.parameters);
        format!("/containerLogs/{namespace}/{pod}/{container}?{}", query.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn booleans_are_read_as_the_api_server_reads_them() {
        let options =
            ExecOptions::parse(Verb::Exec, "?&stdin=&stdout=False&stderr=0&tty=no&stdout=true")
                .unwrap();
        // The pair before the first `&` is named `?`, as kube-rs sends it.
        let wants = Wants { stdin: true, stdout: false, stderr: false, tty: true };
        assert_eq!(options.wants, wants);
        assert_eq!(
            ExecOptions::parse(Verb::Exec, "dryRun=All").unwrap_err().message,
            "dryRun is not supported"
        );
    }

    #[test]
    fn containers_are_chosen_or_asked_for() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let pod = |containers: &[&str]| Pod {
            name: "p".into(),
            containers: names(containers),
            init_containers: names(&["i"]),
            ephemeral_containers: names(&["e"]),
            ..Pod::default()
        };
        let choose = |asked: &str, containers: &[&str]| {
            container_in(&pod(containers), asked).map_err(|refusal| refusal.message)
        };
        assert_eq!(choose("", &["a"]), Ok("a".into()));
        assert_eq!(choose("i", &["a"]), Ok("i".into()));
        assert_eq!(choose("e", &["a", "b"]), Ok("e".into()));
        assert_eq!(choose("x", &["a"]), Err("container x is not valid for pod p".into()));
        assert_eq!(
            choose("", &["a", "b"]),
            Err("a container name must be specified for pod p, choose one of: [i a b e]".into())
        );
        assert_eq!(choose("", &[]), Err("a container name must be specified for pod p".into()));
    }

    #[test]
    fn the_kubelets_query_is_gos() {
        let query = "tty=true&stdin=true&stdout=1&container=c&command=echo&command=a+%22b%26c%22";
        let options = ExecOptions::parse(Verb::Exec, query).unwrap();
        assert_eq!(
            options.kubelet_path(Verb::Exec, "ns", "p", "c"),
            "/exec/ns/p/c?command=echo&command=a+%22b%26c%22&input=1&output=1&tty=1"
        );
        let options = ExecOptions::parse(Verb::Attach, &format!("{query}&replay=5")).unwrap();
        assert_eq!(
            options.kubelet_path(Verb::Attach, "ns", "p", "c"),
            "/attach/ns/p/c?input=1&output=1&replay=5&tty=1"
        );
        let options = ExecOptions::parse(Verb::Exec, &format!("{query}&replay=5")).unwrap();
        assert_eq!(options.extensions, []);
    }

    #[test]
    fn ports_go_to_the_kubelet_in_one_value() {
        let path = |query| ForwardOptions::parse(query).map(|o| o.kubelet_path("ns", "p"));
        assert_eq!(path("ports=80&ports=81").unwrap(), "/portForward/ns/p?port=80%2C81");
        assert_eq!(path("").unwrap(), "/portForward/ns/p");
        assert_eq!(path("ports=x").unwrap_err().code, 400);
        assert_eq!(path("dryRun=All").unwrap_err().code, 400);
    }

    #[test]
    fn only_what_the_kubelet_knows_of_a_log_goes_on() {
        let options = LogOptions::parse("tailLines=5&follow=true&container=c&pretty=1");
        assert_eq!(options.container, "c");
        assert_eq!(
            options.kubelet_path("ns", "p", "c"),
            "/containerLogs/ns/p/c?follow=true&tailLines=5"
        );
    }

    proptest! {
        #[test]
        fn every_command_survives(command in prop::collection::vec(any::<String>(), 0..5)) {
            let options = ExecOptions { command: command.clone(), ..Default::default() };
            let path = options.kubelet_path(Verb::Exec, "ns", "p", "c");
            let query = path.split_once('?').unwrap().1;
            prop_assert_eq!(ExecOptions::parse(Verb::Exec, query).unwrap().command, command);
        }
    }
}

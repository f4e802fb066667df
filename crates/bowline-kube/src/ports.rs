//! The ports of a command line to numbers on this side and at the pod, with kubectl's rules and
//! words.

use thiserror::Error;

use crate::objects::{Owner, Pod, ServicePort, TargetPort};

/// Why a port cannot be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// There is no remote port, as in `8080:`.
    #[error("remote port cannot be empty")]
    Empty,
    /// The remote port is 0.
    #[error("remote port must be > 0")]
    Zero,
    /// A text is no number of a port.
    #[error("error parsing {side} port '{text}': strconv.ParseUint: parsing {text:?}: {why}")]
    Number {
        /// `local` or `remote`.
        side: &'static str,
        /// What was given.
        text: String,
        /// Go's words.
        why: &'static str,
    },
    /// The pod's containers have no port of that name.
    #[error("Pod '{pod}' does not have a named port '{name}'")]
    PodName {
        /// The pod.
        pod: String,
        /// The name that was given.
        name: String,
    },
    /// The service has no port of that name.
    #[error("Service '{service}' does not have a named port '{name}'")]
    ServiceName {
        /// The service.
        service: String,
        /// The name that was given.
        name: String,
    },
    /// The service has no port of that number.
    #[error("Service {service} does not have a service port {number}")]
    ServicePort {
        /// The service.
        service: String,
        /// The number.
        number: i32,
    },
    /// The port is for UDP.
    #[error("UDP protocol is not supported for {0}")]
    Udp(String),
}

/// One port to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedPort {
    /// The local port; 0 lets the system choose.
    pub local: u16,
    /// The pod's port.
    pub remote: u16,
}

/// Reads `LOCAL:REMOTE`, `REMOTE`, `:REMOTE` for a pod, whose ports may be named; where the pod was
/// chosen for a service, the ports are the service's.
///
/// # Errors
/// [`PortError`] for the first word that names no port of TCP.
pub fn resolve(
    words: &[String],
    pod: &Pod,
    service: Option<&Owner>,
) -> Result<Vec<ForwardedPort>, PortError> {
    words.iter().map(|word| resolve_one(word, pod, service)).collect()
}

fn resolve_one(word: &str, pod: &Pod, service: Option<&Owner>) -> Result<ForwardedPort, PortError> {
    // Of three fields or more, the first is all that counts.
    let parts: Vec<&str> = word.split(':').collect();
    let (local, remote) = match parts[..] {
        [local, remote] => (local, remote),
        [first, ..] => (first, first),
        [] => ("", ""),
    };
    let same = local == remote;
    let (local, remote) = match service {
        Some(service) => {
            let port = service_port(service, remote)?;
            let local = if same { port.port.to_string() } else { local.to_owned() };
            (local, target(service, port, pod)?.to_string())
        }
        None => {
            let number = if is_number(remote) {
                refuse_udp(pod, remote)?;
                remote.to_owned()
            } else {
                container_port(pod, remote)?.to_string()
            };
            (if same { number.clone() } else { local.to_owned() }, number)
        }
    };
    let local = if local.is_empty() { 0 } else { number("local", &local)? };
    match number("remote", &remote)? {
        0 => Err(PortError::Zero),
        remote => Ok(ForwardedPort { local, remote }),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(side: &'static str, text: &str) -> Result<u16, PortError> {
    let bad = |why| Err(PortError::Number { side, text: text.to_owned(), why });
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return bad("invalid syntax");
    }
    text.parse().or_else(|_| bad("value out of range"))
}

fn is_udp(protocol: &str) -> bool {
    protocol == "UDP"
}

fn container_port(pod: &Pod, name: &str) -> Result<i32, PortError> {
    let ports = || pod.regular_and_initial().flat_map(|container| &container.ports);
    let named = |udp: bool| ports().find(|port| port.name == name && is_udp(&port.protocol) == udp);
    if name.is_empty() {
        // kubectl since 1.32, where a port without a name would otherwise be taken.
        let pod = pod.metadata.name.clone();
        return Err(match named(false) {
            Some(_) => PortError::Empty,
            None => PortError::PodName { pod, name: String::new() },
        });
    }
    match (named(false), named(true)) {
        (Some(port), _) => Ok(port.container_port),
        (None, Some(_)) => Err(PortError::Udp(name.to_owned())),
        (None, None) => {
            Err(PortError::PodName { pod: pod.metadata.name.clone(), name: name.to_owned() })
        }
    }
}

/// Refuses a number that the pod declares for UDP only.
fn refuse_udp(pod: &Pod, text: &str) -> Result<(), PortError> {
    let mut declared = pod
        .regular_and_initial()
        .flat_map(|container| &container.ports)
        .filter(|port| port.container_port.to_string() == text)
        .map(|port| is_udp(&port.protocol))
        .peekable();
    if declared.peek().is_some() && declared.all(|udp| udp) {
        return Err(PortError::Udp(text.to_owned()));
    }
    Ok(())
}

fn service_port<'a>(service: &'a Owner, text: &str) -> Result<&'a ServicePort, PortError> {
    let name = || service.metadata.name.clone();
    let ports = || service.spec.ports.iter();
    let wanted = |port: &&ServicePort| match text.parse::<i32>() {
        Ok(number) => port.port == number,
        Err(_) => port.name == text && !text.is_empty(),
    };
    let tcp = ports().filter(wanted).find(|port| !is_udp(&port.protocol));
    match (tcp, ports().find(wanted)) {
        (Some(port), _) => Ok(port),
        (None, Some(_)) => Err(PortError::Udp(text.to_owned())),
        (None, None) => Err(match text.parse() {
            Ok(number) => PortError::ServicePort { service: name(), number },
            Err(_) => PortError::ServiceName { service: name(), name: text.to_owned() },
        }),
    }
}

fn target(service: &Owner, port: &ServicePort, pod: &Pod) -> Result<i32, PortError> {
    if service.spec.cluster_ip == "None" {
        return Ok(port.port);
    }
    match &port.target_port {
        None | Some(TargetPort::Number(0)) => Ok(port.port),
        Some(TargetPort::Number(number)) => Ok(*number),
        Some(TargetPort::Name(name)) => container_port(pod, name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let pod = json!({"metadata": {"name": "ok"}, "spec": {
            "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 80},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "both", "containerPort": 7, "protocol": "UDP"},
                {"name": "both-tcp", "containerPort": 7}]}],
            "initContainers": [{"name": "i", "ports": [{"name": "init", "containerPort": 9}]}]}});
        serde_json::from_value(pod).unwrap()
    }

    fn service(cluster_ip: &str) -> Owner {
        let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": cluster_ip,
            "ports": [{"name": "web", "port": 8080, "targetPort": "http"},
                {"name": "number", "port": 81, "targetPort": 9000},
                {"name": "plain", "port": 82},
                {"name": "udp", "port": 53, "protocol": "UDP"}]}});
        serde_json::from_value(service).unwrap()
    }

    fn read(word: &str, service: Option<&Owner>) -> Result<(u16, u16), String> {
        let found = resolve(&[word.to_owned()], &pod(), service);
        found.map(|all| (all[0].local, all[0].remote)).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_of_a_pod() {
        let refused = |text: &str| Err(text.to_owned());
        for (word, expected) in [
            ("5000", Ok((5000, 5000))),
            ("8080:5000", Ok((8080, 5000))),
            (":5000", Ok((0, 5000))),
            ("0:5000", Ok((0, 5000))),
            ("http", Ok((80, 80))),
            ("8080:http", Ok((8080, 80))),
            (":http", Ok((0, 80))),
            ("init", Ok((9, 9))),
            ("7", Ok((7, 7))),
            ("80:81:82", Ok((80, 80))),
            ("abc", refused("Pod 'ok' does not have a named port 'abc'")),
            ("28015:", refused("Pod 'ok' does not have a named port ''")),
            ("0", refused("remote port must be > 0")),
            ("1:0", refused("remote port must be > 0")),
            ("53", refused("UDP protocol is not supported for 53")),
            ("dns", refused("UDP protocol is not supported for dns")),
            (
                "70000:80",
                refused(
                    "error parsing local port '70000': strconv.ParseUint: parsing \"70000\": value \
                     out of range",
                ),
            ),
            (
                "a:80",
                refused(
                    "error parsing local port 'a': strconv.ParseUint: parsing \"a\": invalid \
                     syntax",
                ),
            ),
            (
                "80:-1",
                refused(
                    "error parsing remote port '-1': strconv.ParseUint: parsing \"-1\": invalid \
                     syntax",
                ),
            ),
        ] {
            assert_eq!(read(word, None), expected, "{word}");
        }
    }

    #[test]
    fn ports_of_a_service() {
        let web = service("10.0.0.1");
        let refused = |text: &str| Err(text.to_owned());
        for (word, expected) in [
            ("8080", Ok((8080, 80))),
            ("web", Ok((8080, 80))),
            (":web", Ok((0, 80))),
            ("1:8080", Ok((1, 80))),
            ("81", Ok((81, 9000))),
            ("82", Ok((82, 82))),
            ("99", refused("Service web does not have a service port 99")),
            ("nope", refused("Service 'web' does not have a named port 'nope'")),
            ("1:", refused("Service 'web' does not have a named port ''")),
            ("53", refused("UDP protocol is not supported for 53")),
        ] {
            assert_eq!(read(word, Some(&web)), expected, "{word}");
        }
        assert_eq!(read("8080", Some(&service("None"))), Ok((8080, 8080)));
    }
}

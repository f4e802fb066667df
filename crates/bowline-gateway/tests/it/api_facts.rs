//! Facts of an API server that is the test's own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_gateway::api_facts::ApiFacts;
use bowline_gateway::components::Components;
use bowline_gateway::facts::Facts;
use bowline_gateway::gates::Gates;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::upstream::{self, FarCarrier};
use bowline_io::access::Access;
use bowline_io::addresses::Permitted;
use bowline_io::dial::Endpoint;
use bowline_kube::api::Api;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::{get, head_of, message};
use crate::components::{components, start};
use crate::kubelet::Kubelet;

type Says = Box<dyn Fn(&str) -> Option<(u16, Value)> + Send + Sync>;

/// An API server in plain HTTP. What its `says` has no answer to stays without one.
struct ApiServer {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    /// How many there were.
    connections: Arc<AtomicUsize>,
    /// How many watches were asked for.
    watches: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl ApiServer {
    async fn start(says: Says) -> ApiServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, says) = (asked.clone(), Arc::new(says));
        let connections = Arc::new(AtomicUsize::new(0));
        let watches = Arc::new(AtomicUsize::new(0));
        let (count, watch_count) = (connections.clone(), watches.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                all.spawn(answers(stream, says.clone(), log.clone(), watch_count.clone()));
            }
        });
        ApiServer { port, asked, connections, watches, _serving: serving }
    }

    fn api(&self) -> Api {
        let host = Ipv4Addr::LOCALHOST.to_string();
        let endpoint = Endpoint { host, port: self.port, tls: None, proxy: None };
        Api {
            access: Access::fixed(endpoint, Vec::new()),
            server: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
            headers: Vec::new(),
            patience: Duration::from_secs(30),
            observer: None,
            kept: None,
        }
    }

    /// What was asked but for watches, without the list of nodes, whose time is its own.
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.retain(|target| !target.starts_with("/api/v1/nodes?"));
        asked
    }
}

/// Answers the requests of a connection to its end.
async fn answers(
    mut stream: TcpStream,
    says: Arc<Says>,
    log: Arc<Mutex<Vec<String>>>,
    watches: Arc<AtomicUsize>,
) {
    while matches!(stream.peek(&mut [0]).await, Ok(1)) {
        let head = head_of(&mut stream).await;
        let target = head.split(' ').nth(1).unwrap();
        if target.contains("watch=true") {
            watches.fetch_add(1, Ordering::Relaxed);
        } else {
            log.lock().unwrap().push(target.to_owned());
        }
        let Some((code, object)) = says(target) else { return std::future::pending().await };
        let body = object.to_string();
        let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn no_such(name: &str) -> (u16, Value) {
    let message = format!("pods \"{name}\" not found");
    (404, json!({"kind": "Status", "reason": "NotFound", "message": message, "code": 404}))
}

fn pod(name: &str, node: &str, containers: &[&str]) -> (u16, Value) {
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
    let ephemeral: Vec<&Value> = containers.iter().skip(1).collect();
    (
        200,
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "spec": {
        "nodeName": node, "containers": [containers[0]], "ephemeralContainers": ephemeral}}),
    )
}

fn node(name: &str, port: u16) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "resourceVersion": "1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}})
}

fn nodes_of(facts: &Arc<ApiFacts>, checks: NodeChecks) -> Components {
    let nodes = Nodes {
        facts: facts.clone(),
        address_types: vec!["InternalIP".into()],
        tls: None,
        gates: Gates::default(),
        checks,
    };
    Components { backend: Arc::new(nodes), ..components() }
}

async fn ready(facts: &ApiFacts) {
    let known = async {
        while !facts.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), known).await.unwrap();
}

const LOG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n";
const PODS: &str = "/api/v1/namespaces/ns/pods";

#[tokio::test]
async fn a_pod_is_asked_for_once_more_where_the_cache_would_refuse() {
    let mut kubelet = Kubelet::start(LOG, b"a line").await;
    let port = kubelet.port;
    let server = ApiServer::start(Box::new(move |target| {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let is_cached = query == "resourceVersion=0";
        Some(match path.rsplit('/').next().unwrap() {
            _ if query.starts_with("limit=") => {
                (200, json!({"metadata": {"resourceVersion": "1"}, "items": [node("n", port)]}))
            }
            _ if query.starts_with("watch=") => return None,
            "old" => pod("old", "n", &["c"]),
            "made" if is_cached => no_such("made"),
            "made" => pod("made", "n", &["c"]),
            "placed" => pod("placed", if is_cached { "" } else { "n" }, &["c"]),
            "debugged" if is_cached => pod("debugged", "n", &["c"]),
            "debugged" => pod("debugged", "n", &["c", "debugger"]),
            "moved" => pod("moved", "gone", &["c"]),
            name => no_such(name),
        })
    }))
    .await;
    let facts = Arc::new(ApiFacts::begin(server.api()));
    ready(&facts).await;
    let gateway = start(nodes_of(&facts, NodeChecks::default())).await;
    for (name, container) in [("made", ""), ("placed", ""), ("debugged", "?container=debugger")] {
        let answer = get(gateway, &format!("{PODS}/{name}/log{container}")).await;
        assert_eq!(answer, (200, "a line".into()), "{name}");
        let once_more = [format!("{PODS}/{name}?resourceVersion=0"), format!("{PODS}/{name}")];
        assert_eq!(server.asked(), once_more);
    }
    assert_eq!(get(gateway, &format!("{PODS}/old/log")).await, (200, "a line".into()));
    assert_eq!(server.asked(), [format!("{PODS}/old?resourceVersion=0")]);
    for line in ["made/c", "placed/c", "debugged/debugger", "old/c"] {
        assert_eq!(kubelet.line().await, format!("GET /containerLogs/ns/{line}? HTTP/1.1"));
    }
    for (name, words) in
        [("none", "pods \"none\" not found"), ("moved", "nodes \"gone\" not found")]
    {
        let (code, body) = get(gateway, &format!("{PODS}/{name}/log")).await;
        assert_eq!((code, &*message(&body)), (404, words));
    }
}

#[tokio::test]
async fn a_node_is_asked_for_where_what_is_known_may_be_old() {
    let kubelet = Kubelet::start(LOG, b"a line").await;
    let port = kubelet.port;
    // Its list has another port, and its watches are refused.
    let server = ApiServer::start(Box::new(move |target| {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Some(match path {
            _ if query.starts_with("limit=") => {
                (200, json!({"metadata": {"resourceVersion": "1"}, "items": [node("n", 1)]}))
            }
            "/api/v1/nodes" => (503, json!({})),
            "/api/v1/nodes/n" => (200, node("n", port)),
            _ => pod("p", "n", &["c"]),
        })
    }))
    .await;
    let facts = Arc::new(ApiFacts::begin(server.api()));
    let lost = async {
        // Once it is followed, all is known; that it is not followed is learned after that.
        while server.watches.load(Ordering::Relaxed) == 0
            || facts.node("n").await.unwrap().unwrap().kubelet_port == Some(1)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost).await.unwrap();
    server.asked();
    let gateway = start(nodes_of(&facts, NodeChecks::default())).await;
    assert_eq!(get(gateway, &format!("{PODS}/p/log")).await, (200, "a line".into()));
    let expected = [format!("{PODS}/p?resourceVersion=0"), "/api/v1/nodes/n".to_owned()];
    assert_eq!(server.asked(), expected);
}

#[tokio::test]
async fn what_is_no_answer_is_no_absence() {
    let server = ApiServer::start(Box::new(|target| {
        let name = target.split('?').next().unwrap().rsplit('/').next().unwrap();
        Some(match name {
            "forbidden" => (403, json!({"kind": "Status", "reason": "Forbidden", "message": "no"})),
            "other" => pod("another", "n", &["c"]),
            "nodes" => return None,
            _ => (200, json!("nonsense")),
        })
    }))
    .await;
    let facts = Arc::new(ApiFacts::begin(server.api()));
    let gateway = start(nodes_of(&facts, NodeChecks::default())).await;
    for (name, words) in [
        ("forbidden", "Error from server (Forbidden): no"),
        ("other", "answers for \"other\" with another object"),
        ("nonsense", "is not understood"),
    ] {
        let (code, body) = get(gateway, &format!("{PODS}/{name}/log")).await;
        let said = message(&body);
        assert_eq!(code, 500, "{name}: {said}");
        assert!(said.starts_with("Internal error occurred: ") && said.contains(words), "{said}");
    }
    assert!(!facts.is_ready());
}

#[tokio::test]
async fn a_node_that_says_it_is_here_is_not_believed() {
    let mut kubelet = Kubelet::start(LOG, b"a line").await;
    let port = kubelet.port;
    let server = ApiServer::start(Box::new(move |target| {
        Some(match target {
            "/api/v1/nodes/n" => (200, node("n", port)),
            target if target.starts_with("/api/v1/nodes") => return None,
            _ => pod("p", "n", &["c"]),
        })
    }))
    .await;
    let facts = Arc::new(ApiFacts::begin(server.api()));
    let checks = |networks: &[&str]| {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        NodeChecks { addresses: Some(Arc::new(Permitted { networks })), ..NodeChecks::default() }
    };
    let gateway = start(nodes_of(&facts, checks(&[]))).await;
    let (code, body) = get(gateway, &format!("{PODS}/p/log")).await;
    let words = "error dialing backend: dial tcp: 127.0.0.1: address not allowed: 127.0.0.1";
    assert_eq!((code, &*message(&body)), (500, words));
    assert!(kubelet.asked.try_recv().is_err());
    let gateway = start(nodes_of(&facts, checks(&["127.0.0.0/8"]))).await;
    assert_eq!(get(gateway, &format!("{PODS}/p/log")).await, (200, "a line".into()));
}

#[tokio::test]
async fn what_the_gateway_asks_itself_shares_a_connection() {
    let server = ApiServer::start(Box::new(|target| {
        Some(match target.split('?').next().unwrap() {
            "/api/v1/nodes" if target.contains("watch=") => return None,
            "/api/v1/nodes" => (200, json!({"metadata": {"resourceVersion": "1"}, "items": []})),
            _ => pod("p", "n", &["c"]),
        })
    }))
    .await;
    let api = server.api();
    let (own, bare) = (api.access.clone(), api.access.clone());
    let passed_to = upstream::ApiServer::new(own, bare, "", FarCarrier::Auto);
    let api = Api { kept: Some(passed_to.own_exchange()), ..api };
    let facts = ApiFacts::begin(api);
    ready(&facts).await;
    for _ in 0..10 {
        assert_eq!(facts.pod("ns", "p").await.unwrap().unwrap().name, "p");
        assert_eq!(facts.pod_now("ns", "p").await.unwrap().unwrap().name, "p");
    }
    assert_eq!(server.asked().len(), 20);
    // The watch has one of its own.
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

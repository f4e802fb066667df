//! A pod with a dashboard: its WebSockets behind `/proxy/`, which are none of Kubernetes' streams,
//! and a container that comes into it later.

use std::io::{Read, Write};

use bowline_interop::client::{Input, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::until;

use crate::extended_connect::{Browser, TEXT};
use crate::gateway::Front;
use crate::gateway_nodes;
use crate::gateway_plain::run;
use crate::parts::ours;
use crate::who::{connect, head_of};

/// A server of WebSockets: the first message says what was asked for, and eleven bytes later there
/// is a second one, and the end.
const DASHBOARD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: dashboard, namespace: default}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: dashboard
    image: localhost/box:1
    imagePullPolicy: Never
    readinessProbe: {exec: {command: [sh, -c, 'netstat -ln | grep -q :8080']}, periodSeconds: 1}
    command: [sh, -c, 'exec nc -ll -p 8080 -e sh -c "$SERVE"']
    env:
    - name: SERVE
      value: |
        cr=$(printf '\r')
        read -r _ target _
        while read -r line && [ "$line" != "$cr" ]; do
          case $line in [Ss]ec-[Ww]eb[Ss]ocket-[Kk]ey:*) key=${line#*: }; key=${key%"$cr"} ;; esac
        done
        magic=258EAFA5-E914-47DA-95CA-C5AB0DC85B11
        accept=$(printf %s "$key$magic" | sha1sum | cut -c1-40 | xxd -r -p | base64)
        printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
        printf 'Sec-WebSocket-Protocol: dashboard\r\nSec-WebSocket-Accept: %s\r\n\r\n' "$accept"
        printf '\201\011%s' "$target"
        head -c 11 >/dev/null
        printf '\201\002ok\210\000'
"#;
const TARGET: &str = "/api/v1/namespaces/default/pods/dashboard:8080/proxy/ws/a%20b";
/// What the dashboard is asked for, as the API server passes it on.
const ASKED: &str = "/ws/a%20b";

#[test]
fn a_dashboards_websockets_and_later_containers_are_reached_through_it() {
    let cluster = Cluster::shared();
    cluster.run_pods(DASHBOARD, &["dashboard"]);
    let front = Front::of(&cluster, &["--http2-websockets"]);
    let [direct, through] = [cluster.address(), front.gateway.address()]
        .map(|address| over_http1(&address, &front.token));
    assert_eq!(direct, through);
    assert_eq!(through.1, [b"\x81\x09", ASKED.as_bytes(), b"\x81\x02ok\x88\0"].concat());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(over_http2(&front.gateway.address(), &front.token));
    later_container(&cluster, &front);
    cluster.kubectl(&["delete", "pod", "dashboard", "--now"]);
}

/// The code and the lines of a handshake's answer that say what was switched to, and all that comes
/// behind it.
fn over_http1(address: &str, token: &str) -> (Vec<String>, Vec<u8>) {
    let mut stream = connect(None, address);
    let request = format!(
        "GET {TARGET} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: dashboard\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = head_of(&mut stream).to_lowercase();
    let is_meant = |line: &&str| {
        ["http/1.1 ", "upgrade: ", "sec-websocket-"].iter().any(|name| line.starts_with(name))
    };
    let mut lines: Vec<_> = head.lines().filter(is_meant).map(ToOwned::to_owned).collect();
    lines.sort();
    stream.write_all(&[b"any", &[0xff; 8][..]].concat()).unwrap();
    let mut rest = Vec::new();
    // Whether TLS is ended as well is no matter of what was read.
    let _ = stream.read_to_end(&mut rest);
    (lines, rest)
}

async fn over_http2(address: &str, token: &str) {
    let browser = Browser::at(address, token).await.unwrap();
    let Ok(mut socket) = browser.opens(TARGET, "dashboard").await else { panic!("it is refused") };
    let (opcode, said) = socket.next().await.unwrap();
    assert_eq!((opcode, &said[..]), (TEXT, ASKED.as_bytes()));
    socket.sends(TEXT, b"magic");
    let (opcode, said) = socket.next().await.unwrap();
    assert_eq!((opcode, &said[..]), (TEXT, &b"ok"[..]));
}

/// A container of `kubectl debug` is asked for by a plain request, and is reached as any other,
/// also where the gateway finds it in the cluster itself.
fn later_container(cluster: &Cluster, front: &Front) {
    let debug = ["debug", "dashboard", "--image=localhost/box:1", "--container=later", "--"];
    let command = ["sleep", "2147483647"];
    let output = run("1.37", &front.through, &[&debug[..], &command].concat());
    assert!(output.status.success(), "{output:?}");
    let nodes = gateway_nodes::gateway(cluster, &[gateway_nodes::LOOPBACK]);
    for config in [&front.through, &gateway_nodes::kubeconfig(cluster, &nodes)] {
        let client = ours(config, &["dashboard", "--container=later"]);
        let mut left = None;
        until("the container runs", PATIENCE, || {
            let run = client.run(&["-i"], &["sh", "-c", "cat; exit 3"], Input::Bytes(b"magic"));
            let runs = run.status.code() == Some(3);
            left = Some(run);
            runs
        });
        assert_eq!(left.unwrap().stdout, b"magic");
    }
}

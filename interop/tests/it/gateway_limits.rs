//! How many sessions there may be at once, as real clients are told of it.

use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::until;

use crate::gateway::{Front, kubeconfig, token_of};
use crate::parts::{kubectl, ours};
use crate::who::ask;

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

/// One of each way to ask for a stream.
pub fn clients(kubeconfig: &str, pod: &str) -> [Client; 4] {
    let ours = ours(kubeconfig, &[pod]);
    let kubectl = |age| kubectl(age, kubeconfig, &[pod]);
    [kubectl("1.20"), kubectl("1.37"), ours.over_spdy(), ours]
}

/// Another one of what is counted, and whose sessions those are.
struct Cap {
    flag: &'static str,
    of: &'static str,
    /// Whether another user, another pod, and another namespace are within it.
    leaves: [bool; 3],
}

const CAPS: [Cap; 3] = [
    Cap { flag: "--max-sessions-per-user=1", of: "this user", leaves: [true, false, false] },
    Cap {
        flag: "--max-sessions-per-namespace=1",
        of: "this namespace",
        leaves: [false, false, true],
    },
    Cap { flag: "--max-sessions-per-pod=1", of: "this pod", leaves: [false, true, true] },
];

#[test]
fn whoever_is_beyond_a_cap_is_told_and_has_room_later() {
    let cluster = Cluster::shared();
    let other_token = token_of(&cluster, "other");
    for Cap { flag, of, leaves } in CAPS {
        let front = Front::of(&cluster, &[flag]);
        let address = front.gateway.address();
        let other = kubeconfig(&cluster, "other", &address, &other_token);
        let (mut first, line) =
            kubectl("1.37", &front.through, &["box"]).begin(&["-i"], "echo begun; cat");
        assert_eq!(line, "begun");
        let words = format!("{of} has 1 sessions already, please try again later");
        for client in clients(&front.through, "box") {
            let left = client.run(&[], &["true"], Input::Nothing);
            let is_refused = left.status.code() == Some(1) && left.stderr.contains(&words);
            assert!(is_refused, "{flag}: {}: {left:?}", client.name);
        }
        let asked = |namespace: &str, pod: &str, token: &str| {
            let target =
                format!("/api/v1/namespaces/{namespace}/pods/{pod}/exec?command=true&stdout=true");
            let lines = format!("Authorization: Bearer {token}\r\n{WEBSOCKET}");
            ask(&address, "GET", &target, &lines)
        };
        let answer = asked("default", "box", &front.token);
        assert_eq!((&*answer.code, &*answer.message), ("429", &*words), "{flag}");
        let head = answer.head.to_lowercase();
        assert!(head.contains("\r\nretry-after: 5\r\n"), "{flag}: {head}");
        let expected = leaves.map(|leaves| if leaves { [0, 101, 404] } else { [1, 429, 429] });
        let of_other = ours(&other, &["box"]).run(&[], &["true"], Input::Nothing);
        assert_eq!(of_other.status.code(), Some(expected[0][0]), "{flag}: {of_other:?}");
        let in_gnu = asked("default", "gnu", &front.token);
        assert_eq!(in_gnu.code, expected[1][1].to_string(), "{flag}: {in_gnu:?}");
        // There, no pod has this name.
        let elsewhere = asked("kube-system", "box", &front.token);
        assert_eq!(elsewhere.code, expected[2][2].to_string(), "{flag}: {elsewhere:?}");
        drop(first.stdin.take());
        assert!(first.wait().unwrap().success(), "{flag}");
        until("there is room again", PATIENCE, || {
            ours(&front.through, &["box"]).run(&[], &["true"], Input::Nothing).status.success()
        });
    }
}

//! Roles of the gateway's chart, and what users ask by each grant in them.

use serde_json::{Value, json};

pub const POD: &str = "/api/v1/namespaces/default/pods/box";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
pub const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                             Sec-WebSocket-Version: 13\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n";
const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                    X-Stream-Protocol-Version: portforward.k8s.io\r\n";

/// A role, and what is asked through it.
pub struct Suite {
    pub name: &'static str,
    pub values: &'static str,
    /// The flags that those values are.
    pub flags: &'static [&'static str],
    pub requests: Vec<Request>,
}

/// What a user asks.
pub struct Request {
    pub user: &'static str,
    pub what: String,
    pub lines: String,
    pub body: String,
    /// The grants without which it is refused.
    pub needs: Vec<&'static str>,
}

fn request(user: &'static str, what: impl Into<String>, needs: &[&[&'static str]]) -> Request {
    let needs = needs.concat();
    Request { user, what: what.into(), lines: String::new(), body: String::new(), needs }
}

impl Request {
    fn with(mut self, lines: &str) -> Request {
        self.lines.push_str(lines);
        self
    }

    fn saying(mut self, body: &Value) -> Request {
        self.body = body.to_string();
        let length = self.body.len();
        self.with(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"))
    }
}

/// All of constrained impersonation, with WebSocket behind.
pub fn constrained() -> Suite {
    const USER: &str = "impersonate:user-info users.authentication.k8s.io";
    const AUTHENTICATED: &str =
        "impersonate:user-info groups.authentication.k8s.io system:authenticated";
    let jane = &[USER, AUTHENTICATED, "impersonate:user-info groups.authentication.k8s.io dev"][..];
    let review = "impersonate-on:user-info:create selfsubjectaccessreviews.authorization.k8s.io";
    let get = "impersonate-on:user-info:get pods";
    let joe = &[
        USER,
        AUTHENTICATED,
        get,
        "create subjectaccessreviews.authorization.k8s.io",
        "impersonate:user-info userextras/bowline/original-user.authentication.k8s.io",
    ][..];
    let pods = "/api/v1/namespaces/default/pods";
    let watch = format!("GET {pods}?watch=1&timeoutSeconds=1");
    let may = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let mut requests = vec![
        request("jane", format!("GET {POD}"), &[jane, &[get]]),
        request("jane", format!("GET {pods}"), &[jane, &["impersonate-on:user-info:list pods"]]),
        request("jane", watch, &[jane, &["impersonate-on:user-info:watch pods"]]),
        request(
            "jane",
            format!("GET {POD}/log"),
            &[jane, &["impersonate-on:user-info:get pods/log"]],
        ),
        request("jane", format!("POST {REVIEWS}"), &[jane, &[review]]).saying(&may),
        request("boss", format!("GET {POD}"), &[joe]).with("Impersonate-User: joe\r\n"),
        request(
            "boss",
            format!("GET {POD}"),
            &[joe, &["impersonate:user-info uids.authentication.k8s.io"]],
        )
        .with("Impersonate-User: joe\r\nImpersonate-Uid: 7\r\n"),
        request(
            "boss",
            format!("GET {POD}"),
            &[joe, &["impersonate:user-info userextras/acme.io/scopes.authentication.k8s.io"]],
        )
        .with("Impersonate-User: joe\r\nImpersonate-Extra-Acme.io%2Fscopes: all\r\n"),
    ];
    for (target, on) in [
        ("exec?command=true&stdout=true", "impersonate-on:user-info:get pods/exec"),
        ("attach?stdout=true", "impersonate-on:user-info:get pods/attach"),
        ("portforward?ports=80", "impersonate-on:user-info:get pods/portforward"),
    ] {
        let stream = request("jane", format!("GET {POD}/{target}"), &[jane, &[on, review]]);
        requests.push(stream.with(WEBSOCKET));
    }
    for (path, on) in [
        ("/version", "impersonate-on:user-info:get /version"),
        ("/api", "impersonate-on:user-info:get /api"),
        ("/api/v1", "impersonate-on:user-info:get /api/*"),
        ("/apis", "impersonate-on:user-info:get /apis"),
        ("/apis/apps/v1", "impersonate-on:user-info:get /apis/*"),
        ("/openapi/v2", "impersonate-on:user-info:get /openapi/v2"),
        ("/openapi/v3", "impersonate-on:user-info:get /openapi/v3"),
        ("/openapi/v3/apis/apps/v1", "impersonate-on:user-info:get /openapi/v3/*"),
    ] {
        requests.push(request("jane", format!("GET {path}"), &[jane, &[on]]));
    }
    Suite {
        name: "constrained",
        values: "{clientIdentity: impersonate, clientCA: {configMap: users},
            allowImpersonation: true, upstreamProtocol: websocket,
            impersonation: {groups: [dev], uids: true, extraKeys: [acme.io/scopes]}}",
        flags: &["--upstream-protocol=websocket", "--allow-impersonation"],
        requests,
    }
}

/// The streams, with whatever is found to work behind.
pub fn streams() -> Suite {
    let user = |group: &'static str| {
        [
            "impersonate:user-info users.authentication.k8s.io",
            "impersonate:user-info groups.authentication.k8s.io system:authenticated",
            group,
            "impersonate-on:user-info:create selfsubjectaccessreviews.authorization.k8s.io",
        ]
    };
    let jane = &user("impersonate:user-info groups.authentication.k8s.io dev")[..];
    // Who may not `get` a stream gets none over WebSocket.
    let maker = &user("impersonate:user-info groups.authentication.k8s.io makers")[..];
    let mut requests = Vec::new();
    for (target, get, create) in [
        (
            "exec?command=true&stdout=true",
            "impersonate-on:user-info:get pods/exec",
            "impersonate-on:user-info:create pods/exec",
        ),
        (
            "attach?stdout=true",
            "impersonate-on:user-info:get pods/attach",
            "impersonate-on:user-info:create pods/attach",
        ),
        (
            "portforward?ports=80",
            "impersonate-on:user-info:get pods/portforward",
            "impersonate-on:user-info:create pods/portforward",
        ),
    ] {
        let got = request("jane", format!("GET {POD}/{target}"), &[jane, &[get]]);
        let created = request("maker", format!("POST {POD}/{target}"), &[maker, &[create]]);
        requests.extend([got.with(WEBSOCKET), created.with(SPDY)]);
    }
    Suite {
        name: "streams",
        values: "{clientIdentity: impersonate, clientCA: {configMap: users},
            impersonation: {groups: [dev, makers], allow: [], allowPaths: []}}",
        flags: &["--upstream-protocol=auto"],
        requests,
    }
}

/// One user, in one namespace, with SPDY behind.
pub fn of_a_namespace() -> Suite {
    let jane = &[
        "impersonate:user-info users.authentication.k8s.io jane",
        "impersonate:user-info groups.authentication.k8s.io system:authenticated",
        "impersonate:user-info groups.authentication.k8s.io dev",
    ][..];
    let review = "impersonate-on:user-info:create selfsubjectaccessreviews.authorization.k8s.io";
    let mut requests = Vec::new();
    for (what, lines, on) in [
        ("POST exec?command=true&stdout=true", SPDY, "impersonate-on:user-info:create pods/exec"),
        ("GET exec?command=true&stdout=true", WEBSOCKET, "impersonate-on:user-info:get pods/exec"),
        ("POST attach?stdout=true", SPDY, "impersonate-on:user-info:create pods/attach"),
        ("GET attach?stdout=true", WEBSOCKET, "impersonate-on:user-info:get pods/attach"),
        ("POST portforward", SPDY, "impersonate-on:user-info:create pods/portforward"),
        // Channels with numbers pass as they are.
        ("GET portforward?ports=80", WEBSOCKET, "impersonate-on:user-info:get pods/portforward"),
    ] {
        let what = what.replacen(' ', &format!(" {POD}/"), 1);
        requests.push(request("jane", what, &[jane, &[on, review]]).with(lines));
    }
    Suite {
        name: "of-a-namespace",
        values: "{clientIdentity: impersonate, clientCA: {configMap: users},
            upstreamProtocol: spdy, impersonation: {users: [jane], groups: [dev],
            namespaces: [default], allow: [], allowPaths: []}}",
        flags: &["--upstream-protocol=spdy"],
        requests,
    }
}

/// As before 1.36.
pub fn legacy() -> Suite {
    let needs = [
        "impersonate users jane",
        "impersonate groups dev",
        "impersonate groups system:authenticated",
    ];
    let exec = format!("POST {POD}/exec?command=true&stdout=true");
    Suite {
        name: "legacy",
        values: "{clientIdentity: impersonate, clientCA: {configMap: users},
            impersonation: {mode: legacy, users: [jane], groups: [dev]}}",
        flags: &[],
        requests: vec![request("jane", exec, &[&needs]).with(SPDY)],
    }
}

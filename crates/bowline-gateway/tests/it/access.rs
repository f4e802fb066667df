//! Who it is and whether they may, said by something that is not a file.

use std::future::ready;
use std::sync::{Arc, Mutex};

use bowline_gateway::components::Components;
use bowline_io::auth::{
    Answer, Attributes, Authenticator, Authorizer, Credentials, Decision, Unavailable, User,
};

use crate::client::{WEBSOCKET, ask, get, message};
use crate::components::{OneToken, callers, components, start};

const EXEC: &str = "/api/v1/namespaces/ns/pods/web/exec?command=id&stdout=1";

/// Cannot be asked.
#[derive(Debug)]
struct Unreachable;

impl Authenticator for Unreachable {
    fn authenticate<'a>(&'a self, _: Credentials<'a>) -> Answer<'a, Option<User>> {
        Box::pin(ready(Err(Unavailable::new("10.0.0.9 does not answer"))))
    }
}

/// Decides as it is told, and keeps what it was asked: `user: verb what`.
#[derive(Debug)]
struct Scripted {
    decide: fn(&str) -> Result<Decision, Unavailable>,
    asked: Mutex<Vec<String>>,
}

impl Scripted {
    fn new(decide: fn(&str) -> Result<Decision, Unavailable>) -> Arc<Scripted> {
        Arc::new(Scripted { decide, asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Authorizer for Scripted {
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision> {
        let what = match attributes {
            Attributes::Resource(asked) => format!("{} {}", asked.path(), asked.name),
            Attributes::NonResource { path, .. } => path.clone(),
        };
        let question = format!("{}: {} {what}", user.name, attributes.verb());
        let decision = (self.decide)(&question);
        self.asked.lock().unwrap().push(question);
        // An answer that has to be waited for.
        Box::pin(async move {
            tokio::task::yield_now().await;
            decision
        })
    }
}

#[tokio::test]
async fn a_token_is_somebody_or_nobody() {
    let gateway = start(components()).await;
    assert_eq!(get(gateway, "/version").await.0, 404);
    for lines in ["", "Authorization: Bearer bad\r\n"] {
        let (code, body) = ask(gateway, "GET", "/version", lines).await;
        assert_eq!((code, &*message(&body)), (401, "Unauthorized"));
    }
}

/// As kube-apiserver has it: 401, and why is for the log. A client may have other credentials, and
/// a caller who is nobody learns nothing of what is behind.
#[tokio::test]
async fn whom_nobody_can_name_now_is_nobody_now() {
    let authorizer = Scripted::new(|_| Ok(Decision::Allow));
    let callers = callers(Arc::new(Unreachable), authorizer.clone());
    let gateway = start(Components { callers, ..components() }).await;
    let (code, body) = get(gateway, "/version").await;
    assert_eq!((code, &*message(&body)), (401, "Unauthorized"));
    assert!(!body.contains("10.0.0.9"));
    assert!(authorizer.asked().is_empty());
}

#[tokio::test]
async fn a_refusal_has_the_reason_of_who_refuses() {
    let cannot = "User \"jane\" cannot get path \"/x\"";
    for (decide, expected) in [
        (
            (|_| Ok(Decision::Deny { reason: "by order".into() })) as fn(&str) -> _,
            format!("forbidden: {cannot}: by order"),
        ),
        (
            |_| Ok(Decision::NoOpinion { reason: "no rule".into() }),
            format!("forbidden: {cannot}: no rule"),
        ),
        (|_| Ok(Decision::NoOpinion { reason: String::new() }), format!("forbidden: {cannot}")),
    ] {
        let callers = callers(Arc::new(OneToken), Scripted::new(decide));
        let gateway = start(Components { callers, ..components() }).await;
        let (code, body) = get(gateway, "/x").await;
        assert_eq!((code, message(&body)), (403, expected));
    }
}

#[tokio::test]
async fn an_authorizer_that_cannot_be_asked_has_not_refused() {
    let authorizer = Scripted::new(|_| Err(Unavailable::new("the reviewer is away")));
    let callers = callers(Arc::new(OneToken), authorizer.clone());
    let gateway = start(Components { callers, ..components() }).await;
    let (code, body) = get(gateway, "/x").await;
    assert_eq!((code, &*message(&body)), (500, "Internal error occurred: the reviewer is away"));
    let lines = "Authorization: Bearer good\r\nImpersonate-User: joe\r\n";
    let (code, _) = ask(gateway, "GET", "/x", lines).await;
    assert_eq!(code, 500);
    // Whoever cannot be asked is not asked about the rest.
    assert_eq!(authorizer.asked(), ["jane: get /x", "jane: impersonate-on:user-info:get /x"]);
}

#[tokio::test]
async fn a_stream_over_websocket_needs_both_of_its_verbs() {
    let authorizer = Scripted::new(|_| Ok(Decision::Allow));
    let callers = callers(Arc::new(OneToken), authorizer.clone());
    let gateway = start(Components { callers, ..components() }).await;
    let lines = format!(
        "Authorization: Bearer good\r\nImpersonate-User: joe\r\nConnection: Upgrade\r\n{WEBSOCKET}"
    );
    assert_eq!(ask(gateway, "GET", EXEC, &lines).await.0, 404);
    assert_eq!(
        authorizer.asked(),
        [
            "jane: impersonate-on:user-info:get pods/exec web",
            "jane: impersonate:user-info users joe",
            "joe: get pods/exec web",
            "joe: create pods/exec web",
        ]
    );
}

#[tokio::test]
async fn the_old_way_to_act_as_others_is_asked_when_the_new_one_is_closed() {
    let decide = |question: &str| match question {
        "jane: impersonate users joe" => Ok(Decision::Allow),
        "jane: impersonate users away" => Err(Unavailable::new("the reviewer is away")),
        _ if question.starts_with("joe: ") => Ok(Decision::Allow),
        _ => Ok(Decision::NoOpinion { reason: String::new() }),
    };
    let authorizer = Scripted::new(decide);
    let callers = callers(Arc::new(OneToken), authorizer.clone());
    let gateway = start(Components { callers, ..components() }).await;
    for (user, expected) in [("joe", 404), ("away", 500), ("jim", 403)] {
        let lines = format!("Authorization: Bearer good\r\nImpersonate-User: {user}\r\n");
        let (code, body) = ask(gateway, "GET", "/x", &lines).await;
        assert_eq!(code, expected, "{user}: {body}");
        if code == 403 {
            let first = "forbidden: User \"jane\" cannot impersonate-on:user-info:get path \"/x\"";
            assert_eq!(message(&body), first);
        }
    }
}

/// Nobody here reads which resource such a path is: leave for paths must not be leave for that.
#[tokio::test]
async fn to_act_as_others_on_paths_is_not_to_act_as_them_on_resources() {
    let decide = |question: &str| match question {
        _ if question.contains("impersonate-on:") || question.contains("impersonate:") => {
            Ok(Decision::Allow)
        }
        _ if question.starts_with("joe: ") => Ok(Decision::Allow),
        _ => Ok(Decision::NoOpinion { reason: String::new() }),
    };
    let callers = callers(Arc::new(OneToken), Scripted::new(decide));
    let gateway = start(Components { callers, ..components() }).await;
    for (path, expected) in [
        ("/apis/apps/v1", 404),
        ("/apis/apps/v1/namespaces/ns/deployments", 403),
        ("/api/v1/namespaces/ns/secrets/s", 403),
        ("//api/v1/namespaces/ns/secrets/s", 403),
        ("/x", 404),
    ] {
        let lines = "Authorization: Bearer good\r\nImpersonate-User: joe\r\n";
        let (code, body) = ask(gateway, "GET", path, lines).await;
        assert_eq!(code, expected, "{path}: {body}");
    }
}

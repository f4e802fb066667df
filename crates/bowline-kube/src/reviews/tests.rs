//! Reviews by an API server that is the test's own.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_io::access::{Access, Answer, Source};
use bowline_io::auth::{
    Attributes, Authenticator, Authorizer, Credentials, Decision, ResourceAttributes, Token, User,
};
use bowline_io::dial::Endpoint;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use url::Url;

use super::*;

/// What the server is asked, and with which credentials.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    credentials: String,
    object: Value,
}

type Says = Arc<dyn Fn(&Asked) -> (u16, String) + Send + Sync>;

struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Answers wait for permits.
    permits: Arc<Semaphore>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn new(says: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, says): (Arc<Mutex<Vec<Asked>>>, Says) = (Arc::default(), Arc::new(says));
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (log, gate) = (asked.clone(), permits.clone());
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, gate, says) = (log.clone(), gate.clone(), says.clone());
                let service = service_fn(move |request| {
                    let (log, gate, says) = (log.clone(), gate.clone(), says.clone());
                    async move { Ok::<_, Infallible>(answer(request, &log, &gate, &says).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Server { address, asked, permits, serving }
    }

    fn api(&self) -> Api {
        self.api_of(Arc::new(Tries { address: self.address, refused: AtomicU64::new(0) }))
    }

    fn api_of(&self, access: Arc<dyn Source>) -> Api {
        let server = Url::parse(&format!("http://{}/prefix", self.address)).unwrap();
        let patience = Duration::from_secs(30);
        Api { access, server, headers: Vec::new(), patience, observer: None, kept: None }
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    log: &Mutex<Vec<Asked>>,
    gate: &Semaphore,
    says: &Says,
) -> Response<Full<Bytes>> {
    assert_eq!(request.method(), "POST");
    assert_eq!(request.headers()["content-type"], "application/json");
    let credentials = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
    let path = request.uri().path().to_owned();
    let object = request.into_body().collect().await.unwrap().to_bytes();
    let asked = Asked { path, credentials, object: serde_json::from_slice(&object).unwrap() };
    log.lock().unwrap().push(asked.clone());
    gate.acquire().await.unwrap().forget();
    let (code, text) = says(&asked);
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = code.try_into().unwrap();
    if (300..400).contains(&code) {
        reply.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
    }
    reply
}

/// Credentials of which there are others once they were refused.
struct Tries {
    address: SocketAddr,
    refused: AtomicU64,
}

impl Source for Tries {
    fn access(&self) -> Answer<'_, Access> {
        let generation = self.refused.load(Ordering::Relaxed);
        let host = self.address.ip().to_string();
        let endpoint = Endpoint { host, port: self.address.port(), tls: None, proxy: None };
        let value = HeaderValue::try_from(format!("try {generation}")).unwrap();
        let headers = vec![(AUTHORIZATION, value)];
        Box::pin(async move { Ok(Access { endpoint, headers, generation }) })
    }

    fn renew<'a>(&'a self, _: &'a Access) -> Answer<'a, bool> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(true) })
    }
}

/// Lets time pass. It stands still only here: elsewhere, sockets would be waited for.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

async fn user(reviews: &TokenReviews, token: &str) -> Result<Option<User>, String> {
    let token = Token(token.to_owned());
    let credentials = Credentials { token: Some(&token), certificate: None };
    reviews.authenticate(credentials).await.map_err(|error| error.to_string())
}

fn reviewed(kind: &str, status: &Value) -> (u16, String) {
    (201, json!({"kind": kind, "status": status}).to_string())
}

fn knows_tokens(asked: &Asked) -> (u16, String) {
    let token = asked.object["spec"]["token"].as_str().unwrap();
    let status = match token {
        "none" => json!({}),
        "error" => json!({"authenticated": false, "error": "[invalid bearer token, no issuer]"}),
        token => json!({"authenticated": true, "user": {"username": token, "uid": "7",
                        "groups": ["g"], "extra": {"k": ["v"]}}}),
    };
    reviewed("TokenReview", &status)
}

const ALMOST_TWO_MINUTES: Duration = Duration::from_secs(119);

#[tokio::test]
async fn a_token_is_asked_for_once_in_two_minutes() {
    let server = Server::new(knows_tokens).await;
    let reviews = TokenReviews::new(server.api());
    assert_eq!(reviews.authenticate(Credentials::default()).await.unwrap(), None);
    assert!(server.asked().is_empty());

    let jane = user(&reviews, "jane").await.unwrap().unwrap();
    assert_eq!((&*jane.name, &*jane.uid, jane.extra["k"].len()), ("jane", "7", 1));
    assert_eq!(jane.groups, ["g", "system:authenticated"]);
    let [asked] = &server.asked()[..] else { panic!("once") };
    assert_eq!(asked.path, "/prefix/apis/authentication.k8s.io/v1/tokenreviews");
    let object = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                        "spec": {"token": "jane"}});
    assert_eq!(asked.object, object);

    assert_eq!(user(&reviews, "none").await, Ok(None));
    for _ in 0..3 {
        assert_eq!(user(&reviews, "jane").await, Ok(Some(jane.clone())));
        assert_eq!(user(&reviews, "none").await, Ok(None));
    }
    assert_eq!(server.asked().len(), 1, "an answer of nobody is kept as well");
    for _ in 0..3 {
        let error = user(&reviews, "error").await.unwrap_err();
        assert_eq!(error, "[invalid bearer token, no issuer]");
    }
    assert_eq!(server.asked().len(), 3, "an error is not kept");

    pass(ALMOST_TWO_MINUTES).await;
    assert!(user(&reviews, "jane").await.unwrap().is_some() && server.asked().is_empty());
    pass(Duration::from_secs(2)).await;
    assert!(user(&reviews, "jane").await.unwrap().is_some());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_token_of_many_at_once_is_asked_for_once() {
    let server = Server::new(knows_tokens).await;
    let permits = server.permits.clone();
    permits.forget_permits(permits.available_permits());
    let reviews = Arc::new(TokenReviews::new(server.api()));
    let all: Vec<_> = (0..50)
        .map(|_| {
            let reviews = reviews.clone();
            tokio::spawn(async move { user(&reviews, "jane").await })
        })
        .collect();
    permits.add_permits(1);
    for one in all {
        assert_eq!(one.await.unwrap().unwrap().unwrap().name, "jane");
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn credentials_that_are_refused_are_exchanged_once() {
    let says = |asked: &Asked| match &*asked.credentials {
        "try 1" => knows_tokens(asked),
        _ => (401, String::new()),
    };
    let server = Server::new(says).await;
    let reviews = TokenReviews::new(server.api());
    assert!(user(&reviews, "jane").await.unwrap().is_some());
    assert_eq!(server.asked().len(), 2);

    let server = Server::new(|_| (401, String::new())).await;
    let reviews = TokenReviews::new(server.api());
    user(&reviews, "jane").await.unwrap_err();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn what_is_no_review_is_no_yes() {
    let yes = r#""status":{"authenticated":true,"allowed":true,"user":{"username":"u"}}"#;
    let answers: Vec<(u16, String)> = vec![
        (200, String::new()),
        (200, "yes".into()),
        (200, format!("{{{yes}")),
        (200, format!("{{{yes}}}")),
        (200, format!(r#"{{"kind":"Status",{yes}}}"#)),
        (200, format!(r#"{{"kind":"TokenReviews",{yes}}}"#)),
        (200, r#"{"kind":"TokenReview","status":null}"#.into()),
        (200, r#"{"kind":"SubjectAccessReview","status":{"allowed":"true"}}"#.into()),
        (200, format!("{}{{{yes}}}", " ".repeat(2 * 1024 * 1024))),
        (200, "[".repeat(1_000_000)),
        (302, format!(r#"{{"kind":"TokenReview",{yes}}}"#)),
        (307, format!(r#"{{"kind":"SubjectAccessReview",{yes}}}"#)),
        (403, format!(r#"{{"kind":"TokenReview",{yes}}}"#)),
        (404, format!(r#"{{"kind":"SubjectAccessReview",{yes}}}"#)),
    ];
    for (code, text) in answers {
        let shown = format!("{code} {}", text.chars().take(80).collect::<String>());
        let server = Server::new(move |_| (code, text.clone())).await;
        let tokens = TokenReviews::new(server.api());
        user(&tokens, "jane").await.expect_err(&shown);
        let leave = AccessReviews::new(server.api());
        leave.authorize(&User::new("jane", []), &nodes("create")).await.expect_err(&shown);
        let paths: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
        let path = |rest: &str| format!("/prefix/apis/{rest}");
        let expected = [
            path("authentication.k8s.io/v1/tokenreviews"),
            path("authorization.k8s.io/v1/subjectaccessreviews"),
        ];
        assert_eq!(paths, expected, "{shown}: once, and nobody is sent elsewhere");
    }
}

fn nodes(verb: &'static str) -> Attributes {
    Attributes::Resource(ResourceAttributes {
        verb: verb.into(),
        version: "v1".into(),
        resource: "nodes".into(),
        subresource: "proxy".into(),
        name: "n1".into(),
        ..ResourceAttributes::default()
    })
}

#[tokio::test]
async fn leave_is_kept_for_five_minutes_and_a_refusal_for_half_of_one() {
    let says = |asked: &Asked| {
        let verb = &asked.object["spec"]["resourceAttributes"]["verb"];
        let status = match verb.as_str() {
            Some("create") => json!({"allowed": true, "reason": "a rule"}),
            Some("get") => json!({"allowed": false, "denied": true, "reason": "never"}),
            _ => json!({"allowed": false, "reason": "no rule"}),
        };
        reviewed("SubjectAccessReview", &status)
    };
    let server = Server::new(says).await;
    let reviews = AccessReviews::new(server.api());
    let jane = User::new("jane", ["g".to_owned()]);
    let decide = async |user: &User, attributes: &Attributes| {
        reviews.authorize(user, attributes).await.unwrap()
    };
    let never = Decision::Deny { reason: "never".into() };
    let none = Decision::NoOpinion { reason: "no rule".into() };
    for _ in 0..3 {
        assert_eq!(decide(&jane, &nodes("create")).await, Decision::Allow);
        assert_eq!(decide(&jane, &nodes("get")).await, never);
        let path = Attributes::NonResource { verb: "get".into(), path: "/x".into() };
        assert_eq!(decide(&jane, &path).await, none);
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    let object = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "jane", "groups": ["g", "system:authenticated"], "resourceAttributes":
            {"verb": "create", "version": "v1", "resource": "nodes", "subresource": "proxy",
             "name": "n1"}}});
    assert_eq!(asked[0].object, object);

    // Nothing that a user is made of is passed over.
    let others = [
        User::new("joan", ["g".to_owned()]),
        User::new("jane", []),
        User { uid: "1".into(), ..jane.clone() },
        User { extra: [("k".to_owned(), vec![])].into(), ..jane.clone() },
    ];
    for other in &others {
        decide(other, &nodes("create")).await;
        assert_eq!(server.asked().len(), 1);
    }

    pass(Duration::from_secs(29)).await;
    assert_eq!(decide(&jane, &nodes("get")).await, never);
    assert_eq!(server.asked().len(), 0);
    pass(Duration::from_secs(2)).await;
    assert_eq!(decide(&jane, &nodes("get")).await, never);
    assert_eq!(decide(&jane, &nodes("create")).await, Decision::Allow);
    assert_eq!(server.asked().len(), 1);
    pass(Duration::from_secs(270)).await;
    assert_eq!(decide(&jane, &nodes("create")).await, Decision::Allow);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn nothing_is_kept_for_attributes_that_are_very_long() {
    let server = Server::new(|_| reviewed("SubjectAccessReview", &json!({"allowed": true}))).await;
    let reviews = AccessReviews::new(server.api());
    let jane = User::new("jane", []);
    for (bytes, expected) in [(9_990, 1), (10_000, 3)] {
        let path = Attributes::NonResource { verb: "get".into(), path: "x".repeat(bytes) };
        for _ in 0..3 {
            assert_eq!(reviews.authorize(&jane, &path).await.unwrap(), Decision::Allow);
        }
        assert_eq!(server.asked().len(), expected, "{bytes}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_again_and_is_an_error() {
    let server = Server::new(|_| (200, String::new())).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let source = Arc::new(Tries { address: closed, refused: AtomicU64::new(0) });
    let reviews = TokenReviews::new(server.api_of(source));
    // Nothing waits for a socket: a port that is closed answers at once.
    tokio::time::pause();
    let error = user(&reviews, "jane").await.unwrap_err();
    assert!(error.contains("was refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_asked_again_five_times_in_all() {
    let status =
        |code: u16| ApiError::Status { code, reason: String::new(), message: String::new() };
    let asked = async |answers: &[u16]| {
        let count = Cell::new(0);
        let begun = Instant::now();
        let answer = until_final(|| {
            let answer = answers.get(count.get()).copied().unwrap_or(500);
            count.set(count.get() + 1);
            ready(if answer == 200 { Ok(()) } else { Err(status(answer)) })
        });
        let is_ok = answer.await.is_ok();
        (is_ok, count.get(), begun.elapsed().as_millis())
    };
    assert_eq!(asked(&[200]).await, (true, 1, 0));
    assert_eq!(asked(&[403]).await, (false, 1, 0));
    let (is_ok, count, millis) = asked(&[503, 429, 200]).await;
    assert!(is_ok && count == 3 && (1250..=1502).contains(&millis), "{count} {millis}");
    let (is_ok, count, millis) = asked(&[]).await;
    assert!(!is_ok && count == 5 && (4060..=4900).contains(&millis), "{count} {millis}");
}

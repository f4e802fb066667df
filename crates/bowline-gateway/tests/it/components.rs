//! Components that let the token `good` do everything; a test replaces those that it is about.

use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bowline_gateway::backend::{Backend, Destination, Target};
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::components::{Answer, Caller, Callers, Components};
use bowline_gateway::gates::Gates;
use bowline_gateway::rest::Rest;
use bowline_gateway::route::Route;
use bowline_gateway::server::{Gateway, Living};
use bowline_gateway::status::Refusal;
use bowline_io::auth::{self, Attributes, Authenticator, Authorizer, Credentials, Decision, User};
use bowline_io::serve::{Limits, Reply, Sessions, serve};
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;

/// Knows one token.
#[derive(Debug)]
pub struct OneToken;

impl Authenticator for OneToken {
    fn authenticate<'a>(
        &'a self,
        Credentials { token, .. }: Credentials<'a>,
    ) -> auth::Answer<'a, Option<User>> {
        let user = token.filter(|token| token.0 == "good").map(|_| User::new("jane", []));
        Box::pin(ready(Ok(user)))
    }
}

/// Allows everything.
#[derive(Debug)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize<'a>(&'a self, _: &'a User, _: &'a Attributes) -> auth::Answer<'a, Decision> {
        Box::pin(ready(Ok(Decision::Allow)))
    }
}

/// Has nothing.
#[derive(Debug)]
pub struct Nothing;

impl Backend for Nothing {
    fn find<'a>(&'a self, _: &'a Caller, target: Target<'a>) -> Answer<'a, Box<dyn Destination>> {
        Box::pin(ready(Err(Refusal::not_found("pods", target.pod))))
    }
}

impl Rest for Nothing {
    fn answer<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a Route,
        _: Request<Incoming>,
        _: &'a Sessions,
    ) -> Answer<'a, Reply> {
        Box::pin(ready(Err(Refusal::no_such_path())))
    }
}

/// Callers who are authenticated and authorized by these two.
pub fn callers(
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
) -> Arc<dyn Callers> {
    Arc::new(Checked { authenticator, token_reviewer: None, authorizer, vouching: None })
}

/// The token `good`, everything, and nothing behind it.
pub fn components() -> Components {
    Components {
        callers: callers(Arc::new(OneToken), Arc::new(AllowAll)),
        backend: Arc::new(Nothing),
        rest: Arc::new(Nothing),
    }
}

/// A gateway in plain HTTP, for as long as the test's runtime.
pub async fn start(components: Components) -> SocketAddr {
    start_living(components, Living::default()).await
}

/// The same, whose sessions live so.
pub async fn start_living(components: Components, living: Living) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sessions = Sessions::default();
    let gateway = Gateway::new(components, Gates::default(), sessions.clone()).living(living);
    let service = move |peer, request| gateway.clone().answer(peer, request);
    tokio::spawn(serve(listener, None, Limits::default(), sessions, service));
    address
}

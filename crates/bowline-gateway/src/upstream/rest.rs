//! Everything that is no stream of a pod, to an API server.

use std::sync::Arc;

use bowline_io::serve::{Reply, Sessions};
use http::Request;
use hyper::body::Incoming;

use super::ApiServer;
use crate::components::{Answer, Caller};
use crate::rest::Rest;
use crate::route::Route;
use crate::status::Refusal;

impl Rest for Arc<ApiServer> {
    fn is_whole(&self) -> bool {
        true
    }

    fn answer<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a Route,
        _: Request<Incoming>,
        _: &'a Sessions,
    ) -> Answer<'a, Reply> {
        let refusal = Refusal::of_node(501, "requests that are no streams are not passed on yet");
        Box::pin(std::future::ready(Err(refusal)))
    }
}

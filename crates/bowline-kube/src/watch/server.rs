//! What a watch asks a server for: pages of a list, and the stream of what happens after it.

use std::fmt::Debug;
use std::marker::PhantomData;

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use serde::Deserialize;

use super::Watchable;
use crate::api::{Api, ApiError};
use crate::objects::{bounded_list, or_default};

/// How many objects a page has: of nodes that have many images, less than 10 MiB.
const PAGE: &str = "250";
const JSON: &str = "application/json";

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: Watchable")]
pub(super) struct Page<T> {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metadata: PageMetadata,
    #[serde(default, deserialize_with = "bounded_list")]
    pub(super) items: Vec<T>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// Where the next page begins; empty after the last one.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) next: String,
    /// Of when the list is.
    #[serde(deserialize_with = "or_default")]
    pub(super) resource_version: String,
}

/// Who is asked. Tests have one of their own.
pub(super) trait Server<T>: Send + Sync {
    /// What happens, as it comes.
    type Stream: Body<Data = Bytes, Error: std::error::Error + Send> + Send + Unpin;

    /// Gets the first page of the list, or the one that `next` names.
    fn page(&self, next: &str) -> impl Future<Output = Result<Page<T>, ApiError>> + Send;

    /// Opens the stream of what happens after `version`, for so many seconds.
    fn watch(
        &self,
        version: &str,
        seconds: u64,
    ) -> impl Future<Output = Result<Self::Stream, ApiError>> + Send;
}

/// A real one.
#[derive(Debug)]
pub(super) struct ApiServer<T> {
    api: Api,
    of: PhantomData<fn() -> T>,
}

impl<T> ApiServer<T> {
    pub(super) fn new(api: Api) -> ApiServer<T> {
        ApiServer { api, of: PhantomData }
    }
}

impl<T: Watchable> Server<T> for ApiServer<T> {
    type Stream = Incoming;

    async fn page(&self, next: &str) -> Result<Page<T>, ApiError> {
        let mut query = vec![("limit", PAGE)];
        if !next.is_empty() {
            query.push(("continue", next));
        }
        self.api.list(T::PATH, &query, JSON).await
    }

    async fn watch(&self, version: &str, seconds: u64) -> Result<Incoming, ApiError> {
        let seconds = seconds.to_string();
        let query = [
            ("watch", "true"),
            ("resourceVersion", version),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &*seconds),
        ];
        self.api.open(T::PATH, &query, JSON).await
    }
}

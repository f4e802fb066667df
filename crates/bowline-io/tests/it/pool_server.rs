//! A server for the tests of pools: in TLS, with a service or a script of the test's.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_io::access::Access;
use bowline_io::dial::{Endpoint, Tls};
use bowline_io::pool::{Body, Pool, PoolAnswer, PoolError};
use bowline_io::tls::{self, Trust};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificates::{Authority, FAR};

/// A server, for as long as the test's runtime.
pub struct Server {
    pub address: SocketAddr,
    /// How many connections were accepted.
    pub connections: Arc<AtomicUsize>,
    pub tls: Tls,
}

impl Server {
    /// A server whose connections the test plays, each with its number from 0.
    pub async fn played<F>(
        protocol: &str,
        play: impl Fn(usize, TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let authority = Authority::new("ca");
        let own = tls::server(&authority.sign("localhost", FAR), None, false).unwrap();
        let mut config = (*own.config).clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (play, count) = (Arc::new(play), connections.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, play) = (acceptor.clone(), play.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        play(number, tls).await;
                    }
                });
            }
        });
        let config = tls::client(&Trust::Ca(authority.pem.into_bytes()), None).unwrap();
        let tls = Tls { config, server_name: Some("localhost".into()) };
        Server { address, connections, tls }
    }

    /// A server of HTTP/2 that takes so many requests at once on a connection.
    pub async fn http2<F>(
        streams: u32,
        service: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Server
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Server::played("h2", move |_, tls| {
            let service = service.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = service(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(streams);
                let _ = builder.serve_connection(TokioIo::new(tls), service).await;
            }
        })
        .await
    }

    /// A server of HTTP/1.1.
    pub async fn http1<F>(
        service: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Server
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Server::played("http/1.1", move |_, tls| {
            let service = service.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = service(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let served = http1::Builder::new().serve_connection(TokioIo::new(tls), service);
                let _ = served.await;
            }
        })
        .await
    }

    pub fn endpoint(&self) -> Endpoint {
        let (host, port) = ("127.0.0.1".to_owned(), self.address.port());
        Endpoint { host, port, tls: Some(self.tls.clone()), proxy: None }
    }

    pub fn pool(&self) -> Pool {
        Pool::new(Access::fixed(self.endpoint(), Vec::new()), "test")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A whole body.
pub fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A request with a whole body.
pub fn request(method: &str, target: &str, text: &'static str) -> Request<Body> {
    Request::builder().method(method).uri(target).body(whole(text)).unwrap()
}

/// Sends a request, and gives code and body of the answer.
pub async fn ask(pool: &Pool, request: Request<Body>) -> Result<(u16, Bytes), PoolError> {
    let answer = pool.send(request).await?;
    Ok((answer.status().as_u16(), read(answer).await.unwrap()))
}

pub async fn get(pool: &Pool, target: &str) -> Result<(u16, Bytes), PoolError> {
    ask(pool, request("GET", target, "")).await
}

/// Reads the body of an answer to its end.
pub async fn read(answer: Response<PoolAnswer>) -> std::io::Result<Bytes> {
    Ok(answer.into_body().collect().await?.to_bytes())
}

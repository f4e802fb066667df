//! What is measured, each as a process of its own: the gateway as a library, and a raw copy.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::components::Components;
use bowline_gateway::files::api::Api;
use bowline_gateway::files::cluster::Cluster;
use bowline_gateway::files::policies::Policies;
use bowline_gateway::files::tokens::Tokens;
use bowline_gateway::gates::Gates;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::server::Gateway;
use bowline_io::auth::User;
use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::drive::ReadBuffer;
use bowline_io::objects;
use bowline_io::read_ahead::ReadAhead;
use bowline_io::serve::{Limits, Sessions, serve};
use bowline_io::stream::{Stream, prepare};
use bowline_io::tls::{self, Identity, Trust};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// TLS as a server and as a client, from the files of one directory; or none.
pub struct Both {
    pub server: Option<tls::Server>,
    pub client: Option<Arc<rustls::ClientConfig>>,
}

impl Both {
    pub fn none() -> Both {
        Both { server: None, client: None }
    }

    pub fn read(place: &Path) -> Result<Both> {
        let identity = Identity::read(&place.join("server.crt"), &place.join("server.key"))?;
        let trust = Trust::Ca(tls::read(&place.join("ca.crt"))?);
        let server = tls::server(&identity, None, false)?;
        Ok(Both { server: Some(server), client: Some(tls::client(&trust, None)?) })
    }
}

/// Runs the part that `words` name: what, the node's port, and where the certificates are.
pub async fn run(words: &[String]) -> Result<()> {
    let (what, port) = match words {
        [what, port, ..] => (&**what, port.parse()?),
        _ => anyhow::bail!("relay or copy, and a port"),
    };
    let both = match words.get(2) {
        Some(place) => Both::read(Path::new(place))?,
        None => Both::none(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("serving on tcp://{}", listener.local_addr()?);
    if what == "relay" {
        relay(listener, both, port).await
    } else {
        copy(listener, both, port).await
    }
}

/// `bowline gateway`, with plain legs where no TLS is given.
async fn relay(listener: TcpListener, both: Both, node: u16) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box, namespace: default}}\nspec: {{nodeName: \
         node, containers: [{{name: box}}]}}\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: \
         node}}\nstatus: {{addresses: [{{type: InternalIP, address: 127.0.0.1}}], \
         daemonEndpoints: {{kubeletEndpoint: {{Port: {node}}}}}}}\n"
    );
    let mut cluster = Cluster::default();
    for object in objects::parse(&text, Path::new("objects"))? {
        cluster.add(object)?;
    }
    let mut tokens = Tokens::default();
    tokens.add("bench", User::new("bench", ["system:masters".to_owned()]));
    let address_types = vec!["InternalIP".to_owned()];
    let (cluster, gates) = (Arc::new(cluster), Gates::default());
    let checks = NodeChecks::default();
    let nodes = Nodes {
        facts: cluster.clone(),
        address_types,
        tls: both.client.map(Into::into),
        gates,
        checks,
    };
    let sessions = Sessions::default();
    let components = Components {
        callers: Arc::new(Checked {
            authenticator: Arc::new(tokens),
            authorizer: Arc::new(Policies::default()),
            token_reviewer: None,
            vouching: None,
        }),
        backend: Arc::new(nodes),
        rest: Arc::new(Api { cluster, address: listener.local_addr()?.to_string() }),
    };
    let gateway = Gateway::new(components, gates, sessions.clone());
    let service = move |peer, request| gateway.clone().answer(peer, request);
    serve(listener, both.server, Limits::default(), sessions, service).await;
    Ok(())
}

/// Copies bytes and looks at none of them: the least that any hop can cost.
async fn copy(listener: TcpListener, both: Both, node: u16) -> Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        prepare(&tcp);
        let near = match &both.server {
            None => Stream::plain(tcp),
            Some(tls) => Stream::server(
                TlsAcceptor::from(tls.config.clone()).accept(ReadAhead::new(tcp)).await?,
            ),
        };
        let tls = both.client.clone().map(|config| Tls { config, server_name: None });
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: node, tls, proxy: None };
        let far = dial(&endpoint, std::time::Duration::from_secs(10)).await.context("the node")?;
        tokio::spawn(join(near, far));
    }
}

/// One direction of a copy.
#[derive(Default)]
struct Direction {
    read_buffer: ReadBuffer,
    waiting: BytesMut,
    ended: bool,
    over: bool,
}

impl Direction {
    /// Moves what there is from one to the other; ready at its end.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.over {
            while !self.waiting.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
                self.waiting.advance(written);
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.over = true;
                break;
            }
            let read = self.read_buffer.poll(cx, from)?;
            if read.is_pending() {
                // What was written may still be in TLS.
                let _ = Pin::new(&mut *to).poll_flush(cx)?;
            }
            self.waiting = ready!(read);
            self.ended = self.waiting.is_empty();
        }
        Poll::Ready(Ok(()))
    }
}

async fn join(mut near: Stream, mut far: Stream) -> io::Result<()> {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let up = up.poll(cx, &mut near, &mut far)?;
        let down = down.poll(cx, &mut far, &mut near)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

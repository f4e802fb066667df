//! An API server of one pod that is not there: it notes who asked for it, where, and as whom.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use bowline_interop::pki::{Authority, Pair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// A request for the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which of the servers.
    pub server: &'static str,
    /// Of the pod.
    pub namespace: String,
    /// `Authorization`, or that there was a certificate, or nothing.
    pub who: String,
    /// `Impersonate-*`, sorted, one a word.
    pub acts_as: String,
}

/// What a server serves besides; `{token}` in bodies of an identity provider.
const DISCOVERY: [(&str, &str); 4] = [
    ("/api", r#"{"kind":"APIVersions","versions":["v1"]}"#),
    ("/apis", r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#),
    (
        "/api/v1",
        r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","singularName":
        "pod","namespaced":true,"kind":"Pod","verbs":["get"],"shortNames":["po"]}]}"#,
    ),
    (
        "/token",
        r#"{"access_token":"a","token_type":"bearer","id_token":"h.eyJleHAiOjk5OTk5OTk5OTl9.new",
        "refresh_token":"refresh-two"}"#,
    ),
];

/// One server.
pub struct Recorder {
    /// Its address.
    pub address: String,
    seen: Receiver<Seen>,
}

impl Recorder {
    /// With TLS, or in the clear.
    pub fn start(name: &'static str, tls: Option<Arc<ServerConfig>>) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, seen) = channel();
        let (sender, own) = (Arc::new(Mutex::new(sender)), address.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, tls, own) = (sender.clone(), tls.clone(), own.clone());
                thread::spawn(move || match tls {
                    None => serve(stream.unwrap(), |_| false, name, &own, &sender),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        let stream = StreamOwned::new(connection, stream.unwrap());
                        let shown = |stream: &StreamOwned<ServerConnection, TcpStream>| {
                            stream.conn.peer_certificates().is_some_and(|all| !all.is_empty())
                        };
                        serve(stream, shown, name, &own, &sender);
                    }
                });
            }
        });
        Recorder { address, seen }
    }

    /// The last request for the pod since it was asked.
    pub fn last(&self) -> Option<Seen> {
        self.seen.try_iter().last()
    }
}

/// TLS that asks for a certificate of this authority and does without.
pub fn tls(authority: &Authority) -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let Pair { certificate, key } = authority.server().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// Requests of one connection, one after another.
fn serve<S: Read + Write>(
    stream: S,
    shown: impl Fn(&S) -> bool,
    name: &'static str,
    own: &str,
    seen: &Mutex<Sender<Seen>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default();
        let headers = headers(&mut stream);
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let served = DISCOVERY.iter().find(|known| known.0 == path);
        let well_known = path == "/.well-known/openid-configuration";
        let (status, body) = match served {
            Some((_, body)) => ("200 OK", (*body).to_owned()),
            None if well_known => {
                ("200 OK", format!(r#"{{"token_endpoint":"https://{own}/token"}}"#))
            }
            None => {
                let who = headers.get("authorization").cloned();
                let certificate = shown(stream.get_ref()).then(|| "certificate".to_owned());
                let who = who.or(certificate).unwrap_or_default();
                let mut acts_as: Vec<_> = headers
                    .iter()
                    .filter(|header| header.0.starts_with("impersonate-"))
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                acts_as.sort();
                if let Some(rest) = path.strip_prefix("/api/v1/namespaces/")
                    && let Some((namespace, "pods/p")) = rest.split_once('/')
                {
                    let namespace = namespace.to_owned();
                    let one = Seen { server: name, namespace, who, acts_as: acts_as.join(" ") };
                    let _ = seen.lock().unwrap().send(one);
                }
                let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,
                    "reason":"NotFound","message":"none"}"#;
                ("404 Not Found", status.to_owned())
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream = stream.get_mut();
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn headers(stream: &mut impl BufRead) -> HashMap<String, String> {
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            return headers;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
}

//! The server and the credentials, as they are now, to what each request and each connection needs
//! of them.

use std::sync::Arc;

use http::uri::{Authority, Scheme, Uri};
use http::{HeaderValue, Request, Version, header};

use super::body::Lent;
use super::{Head, PoolError};
use crate::access::Access;
use crate::dial::{Endpoint, Tls};

/// What is offered in a TLS handshake, the best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// HTTP/2's name in a TLS handshake.
pub(super) const HTTP2: &[u8] = b"h2";

/// A server, and the credentials for it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) access: Access,
    /// The endpoint, for connections that may speak HTTP/2.
    pub(super) endpoint: Endpoint,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

impl Target {
    pub(super) fn new(mut access: Access) -> Result<Target, PoolError> {
        let failed = |error| PoolError::Request(Arc::new(error));
        let Endpoint { host, port, tls, .. } = &access.endpoint;
        let (scheme, known) = if tls.is_some() { (Scheme::HTTPS, 443) } else { (Scheme::HTTP, 80) };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = if *port == known { host } else { format!("{host}:{port}") };
        let host = HeaderValue::try_from(&authority).map_err(|error| failed(error.into()))?;
        let authority = Authority::try_from(authority).map_err(|error| failed(error.into()))?;
        let mut endpoint = access.endpoint.clone();
        if let Some(Tls { config, .. }) = &mut endpoint.tls {
            let mut offering = (**config).clone();
            offering.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
            *config = Arc::new(offering);
        }
        for (name, value) in &mut access.headers {
            if *name == header::AUTHORIZATION {
                value.set_sensitive(true);
            }
        }
        Ok(Target { access, endpoint, scheme, authority, host })
    }

    /// Makes the request for a connection of this version.
    pub(super) fn request(
        &self,
        version: Version,
        head: &Head,
        body: Lent,
    ) -> Result<Request<Lent>, http::Error> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = head.headers.clone();
        let headers = request.headers_mut();
        if version == Version::HTTP_2 {
            headers.remove(header::HOST);
            // Nobody waits for the 100 there: windows bound what is sent in vain.
            headers.remove(header::EXPECT);
            let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
            let uri = uri.path_and_query(head.target.clone()).build()?;
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_2;
        } else {
            request.headers_mut().insert(header::HOST, self.host.clone());
            *request.uri_mut() = head.target.clone().into();
        }
        if let Some(query) = &head.long_query {
            query.clone().put_back(&mut request);
        }
        for (name, _) in &self.access.headers {
            request.headers_mut().remove(name);
        }
        for (name, value) in &self.access.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        Ok(request)
    }
}

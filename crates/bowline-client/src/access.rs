//! The endpoint and the credentials of a [`Client`](crate::Client), for programs without a
//! kubeconfig.
//!
//! ```no_run
//! # type Made = Result<bowline_client::Client, Box<dyn std::error::Error>>;
//! # fn example(ca: Vec<u8>, token: &str) -> Made {
//! use bowline_client::Client;
//! use bowline_client::access::{Access, Endpoint, Tls, Trust, tls};
//! use http::header::{AUTHORIZATION, HeaderValue};
//!
//! let server = "https://10.0.0.1:6443".parse()?;
//! let tls = Tls { config: tls(&Trust::Ca(ca), None)?, server_name: None };
//! let bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
//! let endpoint = Endpoint::of(&server, Some(tls), None);
//! let access = Access::fixed(endpoint, vec![(AUTHORIZATION, bearer)]);
//! Ok(Client::new(server, access, "default"))
//! # }
//! ```
//!
//! For credentials that expire, implement [`Source`]: it is asked for each connection, and once
//! more after a 401.

pub use bowline_io::access::{Access, AccessError, Answer, Source};
pub use bowline_io::dial::{Endpoint, Tls};
pub use bowline_io::proxy::Proxy;
pub use bowline_io::tls::{Identity, TlsError, Trust, client as tls};

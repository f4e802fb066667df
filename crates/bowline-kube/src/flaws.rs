//! A resolved cluster and user to what makes them unusable, in client-go's words.

use std::fmt::Write as _;
use std::fs::File;

use bowline_io::text::{go_error, redacted};
use secrecy::ExposeSecret;
use thiserror::Error;

use crate::config::ResolvedConfig;
use crate::kubeconfig::{Cluster, Exec, User};

/// Something that makes a cluster or a user unusable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// There is a CA, and certificates are not to be checked.
    #[error("specifying a root certificates file with the insecure flag is not allowed")]
    InsecureWithCa,
    /// The scheme of `proxy-url` is not spoken.
    #[error(
        "invalid 'proxy-url' {url:?} for cluster {cluster:?}: unsupported scheme {scheme:?}, must \
         be http, https, or socks5"
    )]
    ProxyScheme {
        /// The URL, without its password.
        url: String,
        /// The cluster's name.
        cluster: String,
        /// Its scheme.
        scheme: String,
    },
    /// A file and data are given for the same thing.
    #[error("{data} and {file} are both specified for {name}. {data} will override.")]
    Twice {
        /// The field of the data.
        data: &'static str,
        /// The field of the file.
        file: &'static str,
        /// The name of the entry.
        name: String,
    },
    /// A file that cannot be read.
    #[error("unable to read {what} {path} for {name} due to open {path}: {error}")]
    Unreadable {
        /// The field.
        what: &'static str,
        /// The file.
        path: String,
        /// The name of the entry.
        name: String,
        /// What is wrong with it.
        error: String,
    },
    /// A certificate is given without its key, or a key without its certificate.
    #[error(
        "{data} or {file} must be specified for {name} to use the clientCert authentication method."
    )]
    Half {
        /// The field of the data.
        data: &'static str,
        /// The field of the file.
        file: &'static str,
        /// The name of the entry.
        name: String,
    },
    /// A plugin and an auth provider are given.
    #[error("authProvider cannot be provided in combination with an exec plugin for {0}")]
    PluginAndProvider(String),
    /// A plugin's entry lacks something.
    #[error("{what} must be specified for {name} to use exec authentication plugin")]
    Plugin {
        /// The field that is missing.
        what: &'static str,
        /// The name of the entry.
        name: String,
    },
    /// `interactiveMode` is none of the three.
    #[error("invalid interactiveMode for {name}: {mode:?}")]
    InteractiveMode {
        /// The name of the entry.
        name: String,
        /// The value that was given.
        mode: String,
    },
    /// A uid, groups or extra are impersonated without a user.
    #[error("requesting uid, groups or user-extra for {0} without impersonating a user")]
    NoImpersonatedUser(String),
    /// More than one way to authenticate is given.
    #[error(
        "more than one authentication method found for {user}; found [{}], only one is allowed",
        methods.join(" ")
    )]
    AuthMethods {
        /// The user's name.
        user: String,
        /// The ways that were found.
        methods: Vec<&'static str>,
    },
}

/// Formats flaws: one as its text, several as lines with a head.
pub(crate) fn lines(flaws: &[Flaw]) -> String {
    if let [flaw] = flaws {
        return flaw.to_string();
    }
    let mut text = "Error in configuration: ".to_owned();
    for flaw in flaws {
        let _ = write!(text, "\n* {flaw}");
    }
    text
}

/// Finds everything that is wrong. Credentials are used, and so judged, only where the connection
/// is `secure`.
pub(crate) fn find(cluster_name: &str, config: &ResolvedConfig, secure: bool) -> Vec<Flaw> {
    let mut flaws = user_flaws(&config.user_name, &config.user);
    flaws.extend(cluster_flaws(cluster_name, &config.cluster));
    if secure && flaws.is_empty() {
        flaws.extend(connection_flaws(config));
    }
    flaws
}

fn unreadable(what: &'static str, path: &str, name: &str) -> Option<Flaw> {
    let error = File::open(path).err().filter(|_| !path.is_empty())?;
    let (path, name) = (path.to_owned(), name.to_owned());
    Some(Flaw::Unreadable { what, path, name, error: go_error(&error) })
}

fn user_flaws(name: &str, user: &User) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let named = || name.to_owned();
    if !user.certificate_file.is_empty() || !user.certificate_data.is_empty() {
        if !user.certificate_file.is_empty() && !user.certificate_data.is_empty() {
            let (data, file) = ("client-cert-data", "client-cert");
            flaws.push(Flaw::Twice { data, file, name: named() });
        }
        let (data, file) = ("client-key-data", "client-key");
        if !user.key_file.is_empty() && !user.key_data.0.is_empty() {
            flaws.push(Flaw::Twice { data, file, name: named() });
        }
        if user.key_file.is_empty() && user.key_data.0.is_empty() {
            flaws.push(Flaw::Half { data, file, name: named() });
        }
        flaws.extend(unreadable("client-cert", &user.certificate_file, name));
        flaws.extend(unreadable("client-key", &user.key_file, name));
    }
    if let Some(exec) = &user.exec {
        flaws.extend(plugin_flaws(name, user, exec));
    }
    let mut methods = Vec::new();
    if !user.token.expose_secret().is_empty() {
        methods.push("token");
    }
    if !user.username.is_empty() || !user.password.expose_secret().is_empty() {
        methods.push("basicAuth");
    }
    if methods.len() > 1 {
        flaws.push(Flaw::AuthMethods { user: named(), methods });
    }
    let details = !user.impersonate_uid.is_empty()
        || !user.impersonate_groups.is_empty()
        || !user.impersonate_extra.is_empty();
    if details && user.impersonate.is_empty() {
        flaws.push(Flaw::NoImpersonatedUser(named()));
    }
    flaws
}

fn plugin_flaws(name: &str, user: &User, exec: &Exec) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let named = || name.to_owned();
    if user.auth_provider.is_some() {
        flaws.push(Flaw::PluginAndProvider(named()));
    }
    for (what, value) in [
        ("command", &exec.command),
        ("apiVersion", &exec.api_version),
        ("interactiveMode", &exec.interactive_mode),
    ] {
        if value.is_empty() {
            flaws.push(Flaw::Plugin { what, name: named() });
        }
    }
    if exec.env.iter().any(|variable| variable.0.is_empty()) {
        flaws.push(Flaw::Plugin { what: "env variable name", name: named() });
    }
    if !["", "Never", "IfAvailable", "Always"].contains(&&*exec.interactive_mode) {
        flaws.push(Flaw::InteractiveMode { name: named(), mode: exec.interactive_mode.clone() });
    }
    flaws
}

fn cluster_flaws(name: &str, cluster: &Cluster) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    if !cluster.proxy_url.is_empty() {
        let scheme = cluster.proxy_url.split_once("://").map_or("", |parts| parts.0);
        if !matches!(&*scheme.to_ascii_lowercase(), "http" | "https" | "socks5") {
            let (cluster_name, scheme) = (name.to_owned(), scheme.to_owned());
            let url = redacted(&cluster.proxy_url).into_owned();
            flaws.push(Flaw::ProxyScheme { url, cluster: cluster_name, scheme });
        }
    }
    if !cluster.ca_file.is_empty() && !cluster.ca_data.is_empty() {
        let (data, file) = ("certificate-authority-data", "certificate-authority");
        flaws.push(Flaw::Twice { data, file, name: name.to_owned() });
    }
    flaws.extend(unreadable("certificate-authority", &cluster.ca_file, name));
    flaws
}

/// Finds what client-go finds only when it makes a connection.
fn connection_flaws(config: &ResolvedConfig) -> Vec<Flaw> {
    let (cluster, user) = (&config.cluster, &config.user);
    let mut flaws = Vec::new();
    if cluster.insecure && !(cluster.ca_file.is_empty() && cluster.ca_data.is_empty()) {
        flaws.push(Flaw::InsecureWithCa);
    }
    if !user.token_file.is_empty() && !user.username.is_empty() {
        let methods = vec!["token", "basicAuth"];
        flaws.push(Flaw::AuthMethods { user: config.user_name.clone(), methods });
    }
    // client-go would go on as nobody.
    let key = !user.key_file.is_empty() || !user.key_data.0.is_empty();
    let certificate = !user.certificate_file.is_empty() || !user.certificate_data.is_empty();
    let other = !user.token.expose_secret().is_empty()
        || !user.token_file.is_empty()
        || !user.username.is_empty()
        || user.exec.is_some()
        || user.auth_provider.is_some();
    if key && !certificate && !other {
        let (data, file) = ("client-certificate-data", "client-certificate");
        flaws.push(Flaw::Half { data, file, name: config.user_name.clone() });
    }
    flaws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_scheme_is_in_any_case() {
        let flaws = |url: &str| {
            cluster_flaws("c", &Cluster { proxy_url: url.to_owned(), ..Cluster::default() })
        };
        for known in ["http://a", "HTTPS://a", "Socks5://a"] {
            assert_eq!(flaws(known), [], "{known}");
        }
        for other in ["FTP://a", "a:1", "//a"] {
            assert!(matches!(flaws(other)[..], [Flaw::ProxyScheme { .. }]), "{other}");
        }
    }
}

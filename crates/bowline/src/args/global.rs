//! The flags that say which cluster, as whom: kubectl's global flags.

use bowline_kube::config::Overrides;

use super::BadUsage;
use super::go_duration::GoDuration;
use super::pflag::Values;
use super::table::Flag;

/// Which cluster, as whom, and how. An empty value of a flag counts as none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// Which cluster, as whom.
    pub overrides: Overrides,
    /// `--request-timeout`; `None` where requests may take as long as they like.
    pub request_timeout: Option<GoDuration>,
    /// `--cache-dir`.
    pub cache_dir: Option<String>,
    /// `--disable-compression`.
    pub disable_compression: bool,
    /// `--warnings-as-errors`.
    pub warnings_as_errors: bool,
    /// `-v`.
    pub verbosity: i32,
}

/// Their table, by name.
pub const FLAGS: &[Flag] = &[
    Flag::text("as", "USER", "Act as this user. The server has to allow it."),
    Flag::each("as-group", "GROUP", "Act as a member of this group. May be repeated."),
    Flag::text("as-uid", "UID", "Act as the user with this UID."),
    Flag::each("as-user-extra", "KEY=VALUE", "Act with this extra attribute. May be repeated."),
    Flag::text("cache-dir", "DIR", "Accepted as in kubectl, without effect: nothing is kept."),
    Flag::text("certificate-authority", "FILE", "Trust servers with this CA's certificates."),
    Flag::text("client-certificate", "FILE", "Show this certificate to the server."),
    Flag::text("client-key", "FILE", "The private key of the client certificate."),
    Flag::text("cluster", "NAME", "Use this cluster of the kubeconfig."),
    Flag::text("context", "NAME", "Use this context of the kubeconfig."),
    Flag::switch("disable-compression", "Do not ask the server for compressed answers."),
    Flag::switch(
        "insecure-skip-tls-verify",
        "Do not check who the server is. Anyone on the way can then read and change everything.",
    ),
    Flag::text("kubeconfig", "FILE", "Read this file instead of $KUBECONFIG or ~/.kube/config."),
    Flag::text("namespace", "NAME", "Use this namespace instead of the context's.").short('n'),
    Flag::text("password", "TEXT", "The password for basic authentication."),
    Flag::text(
        "request-timeout",
        "TIME",
        "Give up a plain request after this time: 5s, 1m, or seconds. 0 leaves it at 1m. Sessions \
         are not limited by it.",
    )
    .default("0"),
    Flag::text("server", "URL", "The address of the API server.").short('s'),
    Flag::text("tls-server-name", "NAME", "The name that the server's certificate has to carry."),
    Flag::text("token", "TEXT", "The bearer token to authenticate with."),
    Flag::text("user", "NAME", "Use this user of the kubeconfig."),
    Flag::text("username", "TEXT", "The name for basic authentication."),
    super::VERBOSITY,
    Flag::switch("warnings-as-errors", "Exit with 1 if the server sends a warning."),
    // kubectl's, taken so that scripts need no change.
    Flag::text("kuberc", "FILE", NO_EFFECT),
    Flag::text("log-flush-frequency", "TIME", NO_EFFECT),
    Flag::switch("match-server-version", NO_EFFECT),
    Flag::text("profile", "NAME", NO_EFFECT),
    Flag::text("profile-output", "FILE", NO_EFFECT),
    Flag::text("vmodule", "PATTERNS", NO_EFFECT),
];

const NO_EFFECT: &str = "Accepted as in kubectl, without effect.";

/// Reads them.
///
/// # Errors
/// [`BadUsage::RequestTimeout`].
pub fn read(values: &Values) -> Result<Global, BadUsage> {
    let overrides = Overrides {
        kubeconfig: values.text("kubeconfig"),
        context: values.text("context"),
        cluster: values.text("cluster"),
        user: values.text("user"),
        namespace: values.text("namespace"),
        server: values.text("server"),
        tls_server_name: values.text("tls-server-name"),
        insecure_skip_tls_verify: values
            .is_given("insecure-skip-tls-verify")
            .then(|| values.is_on("insecure-skip-tls-verify")),
        certificate_authority: values.text("certificate-authority"),
        client_certificate: values.text("client-certificate"),
        client_key: values.text("client-key"),
        token: values.text("token"),
        username: values.text("username"),
        password: values.text("password"),
        impersonate: values.text("as"),
        impersonate_groups: values.each("as-group"),
        impersonate_uid: values.text("as-uid"),
        impersonate_extra: values.each("as-user-extra"),
    };
    Ok(Global {
        overrides,
        request_timeout: timeout(values.text("request-timeout"))?,
        cache_dir: values.text("cache-dir"),
        disable_compression: values.is_on("disable-compression"),
        warnings_as_errors: values.is_on("warnings-as-errors"),
        verbosity: values.number(super::VERBOSITY.long).unwrap_or(0),
    })
}

/// A number of seconds, or a time with its unit. Nothing and 0 are no limit.
fn timeout(text: Option<String>) -> Result<Option<GoDuration>, BadUsage> {
    let Some(text) = text else { return Ok(None) };
    // A number below zero needs its unit, as in kubectl.
    let is_seconds = text.parse::<i64>().is_ok_and(|seconds| seconds >= 0);
    let text = if is_seconds { format!("{text}s") } else { text };
    let duration = GoDuration::parse(&text).map_err(|_| BadUsage::RequestTimeout)?;
    Ok(duration.positive().map(|_| duration))
}

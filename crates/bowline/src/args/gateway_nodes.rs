//! The flags of `gateway` in front of the nodes of an API server's cluster, named as
//! kube-apiserver's where it has them.

use bowline_io::addresses::Permitted;

use super::BadUsage;
use super::gateway::{POLICIES, TOKENS};
use super::pflag::{BadFlag, BadValue, Values, bad_value};
use super::table::Flag;

/// The nodes of a cluster in place of its API server, for streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayNodes {
    /// Whether the API server is asked whose a bearer token is.
    pub token_reviews: bool,
    /// Who says whether somebody may, in the order in which they are asked.
    pub modes: Vec<Mode>,
    /// The addresses at which nodes may be.
    pub addresses: Permitted,
    /// Whether the certificates of nodes must have their names.
    pub common_names: bool,
}

/// Who says whether somebody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The policy file.
    Abac,
    /// The API server.
    Webhook,
    /// Whoever is known may.
    AlwaysAllow,
}

/// `--backend`.
pub const BACKEND: Flag = Flag::text(
    "backend",
    "WHAT",
    "What the streams of pods go to. api-server: the API server of --upstream, which asks who may. \
     nodes: the kubelets of its cluster, as an API server does it: who it is and whether they may \
     is asked here, and the nodes are those that it knows. All other requests go to the API \
     server.",
)
.default("api-server");

/// `--token-review`.
pub const TOKEN_REVIEW: Flag = Flag::switch(
    "token-review",
    "Ask the API server whose a bearer token is (TokenReview). On with --backend=nodes.",
);

/// `--authorization-mode`.
pub const AUTHORIZATION_MODE: Flag = Flag::list(
    "authorization-mode",
    "MODES",
    "Who says whether somebody may use a stream, with --backend=nodes, in the order in which they \
     are asked. Webhook: the API server (SubjectAccessReview), so that its RBAC counts. ABAC: \
     --authorization-policy-file. AlwaysAllow: whoever is known may.",
)
.default("Webhook");

/// `--allow-node-addresses`.
pub const ALLOW_NODE_ADDRESSES: Flag = Flag::list(
    "allow-node-addresses",
    "CIDRS",
    "With --backend=nodes, dial nodes in these networks, too. Addresses that are loopback, \
     link-local, multicast or unspecified are refused otherwise: a node says itself where it is, \
     and could mean this machine.",
);

/// `--disable-kubelet-cert-cn-validation`.
pub const NO_COMMON_NAMES: Flag = Flag::switch(
    "disable-kubelet-cert-cn-validation",
    "With --backend=nodes and --kubelet-certificate-authority, take a kubelet's certificate \
     whatever its common name is. Without this it must be system:node:NAME (KEP-4872).",
);

/// What means nothing without `--backend=nodes`.
const OF_NODES: [Flag; 4] =
    [TOKEN_REVIEW, AUTHORIZATION_MODE, ALLOW_NODE_ADDRESSES, NO_COMMON_NAMES];

/// Reads them; `None` without `--backend=nodes`.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Option<GatewayNodes>, BadUsage> {
    const NEEDED: &str = "backend=nodes";
    if !values.choice(&BACKEND, &[("api-server", false), ("nodes", true)])? {
        let lone = OF_NODES.into_iter().find(|flag| values.is_given(flag.long));
        return lone
            .map_or(Ok(None), |flag| Err(BadUsage::Pair { given: flag.long, missing: NEEDED }));
    }
    if !values.is_given(super::upstream::UPSTREAM.long) {
        return Err(BadUsage::Pair { given: NEEDED, missing: super::upstream::UPSTREAM.long });
    }
    let token_reviews = !values.is_given(TOKEN_REVIEW.long) || values.is_on(TOKEN_REVIEW.long);
    let has_policies = values.path(POLICIES).is_some();
    let modes = modes(values, has_policies)?;
    if modes.contains(&Mode::Abac) && !has_policies {
        return Err(BadUsage::Pair { given: AUTHORIZATION_MODE.long, missing: POLICIES });
    }
    if has_policies && !modes.contains(&Mode::Abac) {
        return Err(BadUsage::Pair { given: POLICIES, missing: "authorization-mode=ABAC" });
    }
    let networks = values.list(ALLOW_NODE_ADDRESSES.long);
    let networks = networks.iter().map(|text| {
        text.parse().map_err(|_| bad_value(&ALLOW_NODE_ADDRESSES, text, BadValue::Network))
    });
    Ok(Some(GatewayNodes {
        token_reviews,
        modes,
        addresses: Permitted { networks: networks.collect::<Result<_, BadFlag>>()? },
        common_names: !values.is_on(NO_COMMON_NAMES.long),
    }))
}

/// A policy file is asked first, unless the order is said.
fn modes(values: &Values, has_policies: bool) -> Result<Vec<Mode>, BadFlag> {
    let mut modes = Vec::new();
    for word in values.list(AUTHORIZATION_MODE.long) {
        modes.push(match &*word {
            "ABAC" => Mode::Abac,
            "Webhook" => Mode::Webhook,
            "AlwaysAllow" => Mode::AlwaysAllow,
            other => {
                let why = BadValue::Choice("Webhook, ABAC, AlwaysAllow".to_owned());
                return Err(bad_value(&AUTHORIZATION_MODE, other, why));
            }
        });
    }
    if modes.is_empty() {
        modes = if has_policies { vec![Mode::Abac, Mode::Webhook] } else { vec![Mode::Webhook] };
    }
    Ok(modes)
}

/// Returns the first flag that contradicts `--upstream`: with it, objects are the API server's, and
/// so are tokens and rights unless streams are allowed here.
pub fn contradicts_upstream(values: &Values, is_of_nodes: bool) -> Option<&'static str> {
    let own: &[&'static str] = if is_of_nodes { &[] } else { &[TOKENS, POLICIES] };
    let filename = super::node::FILENAME.long;
    std::iter::once(filename).chain(own.iter().copied()).find(|name| values.is_given(name))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{gateway, pflag};

    fn asked(words: &str) -> Result<Option<GatewayNodes>, String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let values = pflag::read(&gateway::COMMAND, &words).unwrap();
        gateway::read(&values).map(|asked| asked.nodes).map_err(|error| error.to_string())
    }

    #[test]
    fn who_is_asked_and_what_is_checked() {
        assert_eq!(asked("--upstream=k"), Ok(None));
        assert_eq!(asked("--upstream=k --backend=api-server"), Ok(None));
        assert_eq!(asked("-f x"), Ok(None));
        let nodes = |words: &str| asked(&format!("--upstream=k --backend=nodes {words}"));
        let usual = GatewayNodes {
            token_reviews: true,
            modes: vec![Mode::Webhook],
            addresses: Permitted::default(),
            common_names: true,
        };
        assert_eq!(nodes(""), Ok(Some(usual.clone())));
        assert_eq!(nodes("--token-auth-file=t"), Ok(Some(usual.clone())));
        let modes = |words: &str| nodes(words).unwrap().unwrap().modes;
        assert_eq!(modes("--authorization-policy-file=p"), [Mode::Abac, Mode::Webhook]);
        let both = "--authorization-policy-file=p --authorization-mode=Webhook,ABAC";
        assert_eq!(modes(both), [Mode::Webhook, Mode::Abac]);
        assert_eq!(modes("--authorization-mode=AlwaysAllow"), [Mode::AlwaysAllow]);
        let changed = "--token-review=false --disable-kubelet-cert-cn-validation \
                       --allow-node-addresses=127.0.0.0/8,::1/128";
        let GatewayNodes { token_reviews, addresses, common_names, .. } =
            nodes(changed).unwrap().unwrap();
        assert!(!token_reviews && !common_names && addresses.networks.len() == 2);
        assert!(addresses.permits("::1".parse().unwrap()));
    }

    #[test]
    fn what_means_nothing_alone_is_refused() {
        for (words, why) in [
            ("-f x --backend=nodes", "--backend=nodes needs --upstream as well"),
            ("-f x --token-review", "--token-review needs --backend=nodes as well"),
            (
                "--upstream=k --allow-node-addresses=::1/128",
                "--allow-node-addresses needs --backend=nodes as well",
            ),
            ("--upstream=k -f x --backend=nodes", "--upstream and --filename exclude each other"),
            (
                "--upstream=k --token-auth-file=t",
                "--upstream and --token-auth-file exclude each other",
            ),
            (
                "--upstream=k --backend=nodes --authorization-mode=ABAC",
                "--authorization-mode needs --authorization-policy-file as well",
            ),
            (
                "--upstream=k --backend=nodes --authorization-mode=Webhook \
                 --authorization-policy-file=p",
                "--authorization-policy-file needs --authorization-mode=ABAC as well",
            ),
        ] {
            assert_eq!(asked(words).unwrap_err(), why, "{words}");
        }
        let nodes = |words: &str| asked(&format!("--upstream=k --backend=nodes {words}"));
        let unknown = nodes("--authorization-mode=RBAC").unwrap_err();
        assert!(unknown.contains("Webhook, ABAC, AlwaysAllow"), "{unknown}");
        let unknown = nodes("--allow-node-addresses=10.0.0.1").unwrap_err();
        assert!(unknown.contains("must be a network, as in 10.0.0.0/8"), "{unknown}");
    }
}

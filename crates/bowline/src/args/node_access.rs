//! The flags of `node` that say who may use it, named as kubelet's where kubelet has them.

use bowline_io::auth::MASTERS;
use bowline_io::auth::allowed_clients::{self, AllowedClients};

use super::BadUsage;
use super::node::CLIENT_CA;
use super::pflag::{BadValue, Values, bad_value};
use super::table::Flag;

/// Who may use a node, as far as flags say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccess {
    /// The kubeconfig of the API server that is asked.
    pub kubeconfig: Option<String>,
    /// Whether it is asked whose a bearer token is.
    pub token_reviews: bool,
    /// Who says whether somebody may.
    pub authorization: Authorization,
    /// Who may without anybody being asked.
    pub allowed: Option<AllowedClients>,
    /// The node's name, if it is not this machine's.
    pub node_name: Option<String>,
    /// Whether `get` is enough for a stream that is asked for by GET.
    pub allow_get_streams: bool,
}

/// Who says whether somebody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Nobody but the names and groups of the flags.
    Names,
    /// The API server, behind the names and groups.
    Webhook,
    /// Whoever is known may.
    AlwaysAllow,
}

/// `--kubeconfig`.
pub const KUBECONFIG: Flag = Flag::text(
    "kubeconfig",
    "FILE",
    "Ask the API server of this kubeconfig whose bearer tokens are, and who may; in-cluster is \
     that of its own pod, asked as the pod's service account.",
);

/// `--authentication-token-webhook`.
pub const TOKEN_WEBHOOK: Flag = Flag::switch(
    "authentication-token-webhook",
    "Take bearer tokens, of which the API server of --kubeconfig says whose they are \
     (TokenReview). On with --kubeconfig.",
);

/// `--authorization-mode`.
pub const AUTHORIZATION_MODE: Flag = Flag::text(
    "authorization-mode",
    "MODE",
    "Who says whether somebody may. Webhook: the API server of --kubeconfig \
     (SubjectAccessReview on nodes/proxy), which is the default with --kubeconfig. Names: \
     --client-name and --client-group alone, the default without it. AlwaysAllow: whoever is known \
     may.",
);

/// `--hostname-override`.
pub const HOSTNAME: Flag = Flag::text(
    "hostname-override",
    "NAME",
    "The node's name, for which leave is asked; this machine's name by default.",
);

/// `--allow-get-streams`.
pub const ALLOW_GET_STREAMS: Flag = Flag::switch(
    "allow-get-streams",
    "Let users who may only `get` nodes/proxy run commands by WebSocket, as kubelet does. Without \
     it, each stream needs `create`.",
);

/// `--client-name`.
pub const CLIENT_NAME: Flag = Flag::each(
    "client-name",
    "NAME",
    "Serve clients of this name, which is the common name of a certificate. May be repeated. \
     With --client-name or --client-group nobody else is served, but for those whom an API server \
     knows.",
)
.default(allowed_clients::API_SERVER);

/// `--client-group`.
pub const CLIENT_GROUP: Flag = Flag::each(
    "client-group",
    "GROUP",
    "Serve clients of this group, which is an organisation of a certificate. May be repeated.",
)
.default(MASTERS);

/// Reads them.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<NodeAccess, BadUsage> {
    let kubeconfig = values.text(KUBECONFIG.long);
    let has_ca = values.path(CLIENT_CA.long).is_some();
    let lone = |given, missing| Err(BadUsage::Pair { given, missing });
    let token_reviews = if values.is_given(TOKEN_WEBHOOK.long) {
        values.is_on(TOKEN_WEBHOOK.long)
    } else {
        kubeconfig.is_some()
    };
    if kubeconfig.is_none() && token_reviews {
        return lone(TOKEN_WEBHOOK.long, KUBECONFIG.long);
    }
    if kubeconfig.is_some() && !token_reviews && !has_ca {
        // Nobody could be known.
        return lone(KUBECONFIG.long, CLIENT_CA.long);
    }
    let authorization = match values.text(AUTHORIZATION_MODE.long).as_deref() {
        None if kubeconfig.is_some() => Authorization::Webhook,
        None | Some("Names") => Authorization::Names,
        Some("Webhook") if kubeconfig.is_some() => Authorization::Webhook,
        Some("Webhook") => return lone(AUTHORIZATION_MODE.long, KUBECONFIG.long),
        Some("AlwaysAllow") => Authorization::AlwaysAllow,
        Some(other) => {
            let why = BadValue::Choice("Webhook, Names, AlwaysAllow".to_owned());
            return Err(bad_value(&AUTHORIZATION_MODE, other, why).into());
        }
    };
    let is_asked = has_ca || kubeconfig.is_some();
    for flag in [AUTHORIZATION_MODE, CLIENT_NAME, CLIENT_GROUP, ALLOW_GET_STREAMS] {
        if !is_asked && values.is_given(flag.long) {
            return lone(flag.long, CLIENT_CA.long);
        }
    }
    Ok(NodeAccess {
        allowed: allowed(values, authorization),
        kubeconfig,
        token_reviews,
        authorization,
        node_name: values.text(HOSTNAME.long),
        allow_get_streams: values.is_on(ALLOW_GET_STREAMS.long),
    })
}

/// Who may: who is named; or those that are usual, where nobody else is asked.
fn allowed(values: &Values, authorization: Authorization) -> Option<AllowedClients> {
    let (names, groups) = (values.each(CLIENT_NAME.long), values.each(CLIENT_GROUP.long));
    if names.is_empty() && groups.is_empty() {
        return (authorization == Authorization::Names).then(AllowedClients::default);
    }
    Some(AllowedClients { names, groups })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::args::{node, pflag};

    fn asked(words: &str) -> Result<NodeAccess, String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let values = pflag::read(&node::COMMAND, &words).unwrap();
        read(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn who_says_who_may() {
        let modes = |words: &str| {
            let NodeAccess { token_reviews, authorization, allowed, .. } = asked(words).unwrap();
            (token_reviews, authorization, allowed.map(|allowed| allowed.names))
        };
        let usual = Some(vec![allowed_clients::API_SERVER.to_owned()]);
        let named = Some(vec!["gw".to_owned()]);
        assert_eq!(modes(""), (false, Authorization::Names, usual.clone()));
        assert_eq!(modes("--client-ca-file=ca"), (false, Authorization::Names, usual.clone()));
        assert_eq!(modes("--kubeconfig=k"), (true, Authorization::Webhook, None));
        let both = "--kubeconfig=k --client-name=gw";
        assert_eq!(modes(both), (true, Authorization::Webhook, named.clone()));
        let names = "--kubeconfig=k --authorization-mode=Names";
        assert_eq!(modes(names), (true, Authorization::Names, usual));
        let certificates =
            "--kubeconfig=k --client-ca-file=ca --authentication-token-webhook=false";
        assert_eq!(modes(certificates), (false, Authorization::Webhook, None));
        let all = "--client-ca-file=ca --authorization-mode=AlwaysAllow";
        assert_eq!(modes(all), (false, Authorization::AlwaysAllow, None));
    }

    #[test]
    fn what_means_nothing_alone_is_refused() {
        for (words, why) in [
            (
                "--authentication-token-webhook",
                "--authentication-token-webhook needs --kubeconfig as well",
            ),
            (
                "--kubeconfig=k --authentication-token-webhook=false",
                "--kubeconfig needs --client-ca-file as well",
            ),
            (
                "--client-ca-file=ca --authorization-mode=Webhook",
                "--authorization-mode needs --kubeconfig as well",
            ),
            (
                "--authorization-mode=AlwaysAllow",
                "--authorization-mode needs --client-ca-file as well",
            ),
            ("--client-name=gw", "--client-name needs --client-ca-file as well"),
            ("--allow-get-streams", "--allow-get-streams needs --client-ca-file as well"),
        ] {
            assert_eq!(asked(words).unwrap_err(), why, "{words}");
        }
        let unknown = asked("--client-ca-file=ca --authorization-mode=RBAC").unwrap_err();
        assert!(unknown.contains("Webhook, Names, AlwaysAllow"), "{unknown}");
    }
}

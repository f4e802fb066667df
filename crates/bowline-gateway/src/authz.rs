//! An authorizer's decision to nothing, or to a refusal in Kubernetes' words.

use bowline_io::auth::{Attributes, Authorizer, Decision, User};

use crate::names::quoted;
use crate::status::{Details, Refusal};

/// Demands that `user` may do what `attributes` say.
///
/// # Errors
/// 403 if the authorizer does not allow it, 500 if it cannot be asked.
pub async fn demand(
    authorizer: &dyn Authorizer,
    user: &User,
    attributes: &Attributes,
) -> Result<(), Refusal> {
    match authorizer.authorize(user, attributes).await {
        Ok(Decision::Allow) => Ok(()),
        Ok(Decision::Deny { reason } | Decision::NoOpinion { reason }) => {
            Err(forbidden(user, attributes, &reason))
        }
        Err(unavailable) => Err(Refusal::unavailable(&unavailable)),
    }
}

/// Makes the refusal for a `user` who may not, in Kubernetes' words and with `reason` if that is
/// not empty.
#[must_use]
pub fn forbidden(user: &User, attributes: &Attributes, reason: &str) -> Refusal {
    let verb = attributes.verb();
    // Only an API server knows whose a token is that is passed on.
    let user = match &*user.name {
        "" => "the user".to_owned(),
        name => format!("User {}", quoted(name)),
    };
    let what = match attributes {
        Attributes::NonResource { path, .. } => {
            format!("{user} cannot {verb} path {}", quoted(path))
        }
        Attributes::Resource(asked) => {
            let (resource, group) = (quoted(&asked.path()), quoted(&asked.group));
            let scope = if asked.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", quoted(&asked.namespace))
            };
            format!("{user} cannot {verb} resource {resource} in API group {group} {scope}")
        }
    };
    // What could be read as HTML is not in Kubernetes' words either.
    let mut what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        what = format!("{what}: {reason}");
    }
    let details = match attributes {
        Attributes::NonResource { .. } => Details::default(),
        Attributes::Resource(asked) => Details {
            name: asked.name.clone(),
            group: asked.group.clone(),
            kind: asked.resource.clone(),
        },
    };
    Refusal::forbidden(details, &what)
}

#[cfg(test)]
mod tests {
    use bowline_io::auth::ResourceAttributes;

    use super::*;

    #[test]
    fn refusals_have_the_words_of_kubernetes() {
        let user = User::new("jürgen<\"x\">", []);
        let said = |attributes: &Attributes| forbidden(&user, attributes, "").message;
        let exec = ResourceAttributes {
            verb: "create".into(),
            resource: "pods".into(),
            subresource: "exec".into(),
            namespace: "ns".into(),
            name: "web".into(),
            ..ResourceAttributes::default()
        };
        assert_eq!(
            said(&Attributes::Resource(exec)),
            "pods \"web\" is forbidden: User \"jürgen&lt;\\\"x\\\"&gt;\" cannot create resource \
             \"pods/exec\" in API group \"\" in the namespace \"ns\""
        );
        assert_eq!(
            said(&Attributes::NonResource { verb: "get".into(), path: "/metrics".into() }),
            "forbidden: User \"jürgen&lt;\\\"x\\\"&gt;\" cannot get path \"/metrics\""
        );
        let uid = ResourceAttributes {
            verb: "impersonate".into(),
            group: "authentication.k8s.io".into(),
            resource: "uids".into(),
            name: "7".into(),
            ..ResourceAttributes::default()
        };
        assert_eq!(
            forbidden(&User::new("u", []), &Attributes::Resource(uid), "so it is").message,
            "uids.authentication.k8s.io \"7\" is forbidden: User \"u\" cannot impersonate resource \
             \"uids\" in API group \"authentication.k8s.io\" at the cluster scope: so it is"
        );
    }
}

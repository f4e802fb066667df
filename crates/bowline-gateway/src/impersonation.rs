//! Who acts as whom: a requestor and an impersonation to the user that a request runs as, or to a
//! refusal, by the rules and in the words of kube-apiserver.
//!
//! Each thing that is wanted is asked for by its own name. Since 1.36 there are two ways to be
//! allowed: a constrained one (verbs `impersonate:MODE` and `impersonate-on:MODE:VERB`, all in the
//! group of authentication), and the old one (verb `impersonate`). A mode for the node of a service
//! account's own pod is left out: nobody here has an identity that says which node that is.

use std::collections::BTreeMap;
use std::fmt;

use bowline_io::auth::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, MASTERS, ResourceAttributes, UNAUTHENTICATED,
    User,
};
use bowline_io::request_target::parts;

use crate::authz::{demand, forbidden};
use crate::names;
use crate::status::Refusal;

/// The API group of what is impersonated; only the old way has users, groups and service accounts
/// in the core group.
const GROUP: &str = "authentication.k8s.io";

/// As whom a request wants to act. Its `Display` is Go's of the API server's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// The user's name.
    pub name: String,
    /// The user's uid; empty where none is wanted.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More about the user: keys and their values.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Whether attributes are those of a path because nobody here reads which resource it is. To be let
/// act as somebody on paths must not be enough for that.
fn is_unread_resource(attributes: &Attributes) -> bool {
    let Attributes::NonResource { path, .. } = attributes else { return false };
    let names = parts(path).map(|parts| parts.names);
    let Ok(names) = names else { return true };
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    matches!(names[..], ["api", _, _, ..] | ["apis", _, _, _, ..])
}

/// The modes of constrained impersonation, each for one kind of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
        }
    }
}

impl Impersonation {
    /// Returns the user as whom `requestor` does what `attributes` say.
    ///
    /// # Errors
    /// 403 if `requestor` may not impersonate a part of this, 500 if the authorizer cannot be
    /// asked.
    pub async fn assume(
        &self,
        requestor: &User,
        attributes: &Attributes,
        authorizer: &dyn Authorizer,
    ) -> Result<User, Refusal> {
        let Some(mode) = self.mode().filter(|_| !is_unread_resource(attributes)) else {
            self.demand(requestor, None, authorizer).await?;
            return Ok(self.user(false));
        };
        let constrained = async {
            let on = format!("impersonate-on:{}:{}", mode.word(), attributes.verb());
            demand(authorizer, requestor, &attributes.with_verb(on)).await?;
            self.demand(requestor, Some(mode), authorizer).await
        };
        match constrained.await {
            Ok(()) => return Ok(self.user(mode == Mode::ArbitraryNode)),
            // The authorizer did not answer: that is no refusal, which the old way could overrule.
            Err(refusal) if refusal.code != 403 => return Err(refusal),
            // Of two refusals the first one is told.
            Err(first) => {
                let old = self.demand(requestor, None, authorizer).await;
                old.map_err(|other| if other.code == 403 { first } else { other })?;
            }
        }
        Ok(self.user(false))
    }

    fn mode(&self) -> Option<Mode> {
        let alone = self.uid.is_empty() && self.groups.is_empty() && self.extra.is_empty();
        match (names::node(&self.name), names::service_account(&self.name)) {
            (Some(_), _) => alone.then_some(Mode::ArbitraryNode),
            (_, Some(_)) => alone.then_some(Mode::ServiceAccount),
            (None, None) => Some(Mode::UserInfo),
        }
    }

    /// Demands that `requestor` may take everything of this: name, uid, groups, extra, in this
    /// order.
    async fn demand(
        &self,
        requestor: &User,
        mode: Option<Mode>,
        authorizer: &dyn Authorizer,
    ) -> Result<(), Refusal> {
        let verb =
            mode.map_or("impersonate".to_owned(), |mode| format!("impersonate:{}", mode.word()));
        let core = if mode.is_some() { GROUP } else { "" };
        let about = |group: &'static str, resource: &'static str, name: &str| ResourceAttributes {
            verb: verb.clone().into(),
            group: group.into(),
            resource: resource.into(),
            name: name.to_owned(),
            ..ResourceAttributes::default()
        };
        let ask = async |asked: ResourceAttributes| {
            demand(authorizer, requestor, &Attributes::Resource(asked)).await
        };
        let forbid = |asked: ResourceAttributes, why: &str| {
            Err(forbidden(requestor, &Attributes::Resource(asked), why))
        };
        let name = match (names::service_account(&self.name), names::node(&self.name)) {
            (Some((namespace, name)), _) => ResourceAttributes {
                namespace: namespace.to_owned(),
                ..about(core, "serviceaccounts", name)
            },
            (_, Some(node)) if mode.is_some() => about(core, "nodes", node),
            _ => about(core, "users", &self.name),
        };
        ask(name).await?;
        if !self.uid.is_empty() {
            ask(about(GROUP, "uids", &self.uid)).await?;
        }
        for group in &self.groups {
            let group = about(core, "groups", group);
            if mode.is_some() && matches!(&*group.name, "" | MASTERS) {
                let which = if group.name.is_empty() { "empty string" } else { MASTERS };
                let why = format!("impersonating the {which} group is not allowed");
                return forbid(group, &why);
            }
            ask(group).await?;
        }
        for (key, values) in &self.extra {
            if mode.is_some()
                && !(names::is_prefixed_path(key) && values.iter().all(|one| !one.is_empty()))
            {
                let why = "impersonating an invalid key or an empty value in extra is not allowed";
                return forbid(about(GROUP, "userextras", ""), why);
            }
            for value in values {
                let value = about(GROUP, "userextras", value);
                ask(ResourceAttributes { subresource: key.clone().into(), ..value }).await?;
            }
        }
        Ok(())
    }

    /// Makes the user, with the groups that the API server adds.
    fn user(&self, is_node: bool) -> User {
        let mut groups = self.groups.clone();
        if is_node {
            groups.push("system:nodes".into());
        }
        if groups.is_empty()
            && let Some((namespace, _)) = names::service_account(&self.name)
        {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let has = |group: &str| groups.iter().any(|one| one == group);
        if self.name == ANONYMOUS && !has(UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.into());
        } else if self.name != ANONYMOUS && !has(UNAUTHENTICATED) && !has(AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        let (name, uid, extra) = (self.name.clone(), self.uid.clone(), self.extra.clone());
        User { name, groups, uid, extra }
    }
}

impl fmt::Display for Impersonation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[String]| {
            let values: Vec<String> = values.iter().map(|value| names::quoted(value)).collect();
            format!("[]string{{{}}}", values.join(", "))
        };
        let groups =
            if self.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&self.groups) };
        let extra = if self.extra.is_empty() {
            "map[string][]string(nil)".to_owned()
        } else {
            let pair = |(key, values): (&String, &Vec<String>)| {
                format!("{}:{}", names::quoted(key), list(values))
            };
            let pairs: Vec<String> = self.extra.iter().map(pair).collect();
            format!("map[string][]string{{{}}}", pairs.join(", "))
        };
        let (name, uid) = (names::quoted(&self.name), names::quoted(&self.uid));
        write!(f, "&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{groups}, Extra:{extra}}}")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::files::policies::Policies;

    /// A policy that lets `boss` do everything with one resource of one group.
    fn policies(resources: &[(&str, &str, &str)]) -> Policies {
        let lines: Vec<String> = resources
            .iter()
            .map(|(group, resource, namespace)| {
                format!(
                    "{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\
                     \"Policy\",\"spec\":{{\"user\":\"boss\",\"apiGroup\":\"{group}\",\
                     \"resource\":\"{resource}\",\"namespace\":\"{namespace}\"}}}}"
                )
            })
            .collect();
        Policies::parse(&lines.join("\n")).unwrap()
    }

    fn wanted(name: &str) -> Impersonation {
        Impersonation { name: name.into(), ..Impersonation::default() }
    }

    fn get_exec() -> Attributes {
        Attributes::Resource(ResourceAttributes {
            verb: "get".into(),
            resource: "pods".into(),
            subresource: "exec".into(),
            namespace: "default".into(),
            name: "box".into(),
            ..ResourceAttributes::default()
        })
    }

    fn assume(wanted: &Impersonation, allowed: &[(&str, &str, &str)]) -> Result<User, String> {
        let (boss, get_exec, policies) = (User::new("boss", []), get_exec(), policies(allowed));
        // Policies that are in memory answer at once.
        let assumed = pin!(wanted.assume(&boss, &get_exec, &policies));
        let Poll::Ready(assumed) = assumed.poll(&mut Context::from_waker(Waker::noop())) else {
            return Err("it waits".into());
        };
        assumed.map_err(|refusal| refusal.message)
    }

    const USERS: (&str, &str, &str) = ("", "users", "*");
    const GROUPS: (&str, &str, &str) = ("", "groups", "*");

    #[test]
    fn each_thing_is_asked_for_by_its_own_name() {
        let account = "system:serviceaccount:kube-system:admin";
        let full = Impersonation {
            name: "u".into(),
            uid: "7".into(),
            groups: vec!["g".into()],
            extra: [("scopes".to_owned(), vec!["s".to_owned()])].into(),
        };
        let uids = (GROUP, "uids", "*");
        let extras = (GROUP, "userextras/scopes", "*");
        assert!(assume(&full, &[USERS, GROUPS, uids, extras]).is_ok());
        for missing in 0..4 {
            let mut allowed = vec![USERS, GROUPS, uids, extras];
            allowed.remove(missing);
            assert!(assume(&full, &allowed).is_err(), "{missing}");
        }
        assert!(assume(&full, &[USERS, GROUPS, uids, (GROUP, "userextras/other", "*")]).is_err());
        assert!(assume(&full, &[USERS, GROUPS, ("", "uids", "*"), extras]).is_err());

        assert!(assume(&wanted(account), &[USERS]).is_err());
        assert!(assume(&wanted(account), &[USERS, ("", "serviceaccounts", "default")]).is_err());
        assert!(assume(&wanted(account), &[("", "serviceaccounts", "kube-system")]).is_ok());
        // What is no service account's name is a name like others.
        for name in
            ["system:serviceaccount:a", "system:serviceaccount:A:b", "system:serviceaccount:a:b:c"]
        {
            assert!(assume(&wanted(name), &[USERS]).is_ok(), "{name}");
        }
    }

    #[test]
    fn groups_are_those_that_the_api_server_gives() {
        let groups = |wanted: &Impersonation| {
            assume(wanted, &[USERS, GROUPS, ("", "serviceaccounts", "*")]).unwrap().groups
        };
        let with = |name: &str, groups: &[&str]| Impersonation {
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..wanted(name)
        };
        assert_eq!(groups(&with("u", &[])), ["system:authenticated"]);
        assert_eq!(groups(&with("u", &["g"])), ["g", "system:authenticated"]);
        assert_eq!(groups(&with("u", &[AUTHENTICATED, "g"])), [AUTHENTICATED, "g"]);
        assert_eq!(groups(&with("u", &[UNAUTHENTICATED])), [UNAUTHENTICATED]);
        assert_eq!(groups(&with(ANONYMOUS, &[])), [UNAUTHENTICATED]);
        assert_eq!(groups(&with(ANONYMOUS, &["g"])), ["g", UNAUTHENTICATED]);
        let account = "system:serviceaccount:ns:a";
        assert_eq!(
            groups(&with(account, &[])),
            ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]
        );
        assert_eq!(groups(&with(account, &["g"])), ["g", AUTHENTICATED]);
        // By the old way a node is a user as any other.
        assert_eq!(groups(&with("system:node:n", &[])), [AUTHENTICATED]);
    }

    #[test]
    fn the_constrained_way_is_for_one_verb_and_never_for_masters() {
        let on = ("", "pods/exec", "*");
        let users = (GROUP, "users", "*");
        let groups = (GROUP, "groups", "*");
        assert!(assume(&wanted("u"), &[on, users]).is_ok());
        assert!(assume(&wanted("u"), &[users]).is_err());
        assert!(assume(&wanted("u"), &[on]).is_err());
        let masters = Impersonation { groups: vec![MASTERS.into()], ..wanted("u") };
        assert_eq!(
            assume(&masters, &[on, users, groups]).unwrap_err(),
            "groups.authentication.k8s.io \"system:masters\" is forbidden: User \"boss\" cannot \
             impersonate:user-info resource \"groups\" in API group \"authentication.k8s.io\" at \
             the cluster scope: impersonating the system:masters group is not allowed"
        );
        let node = assume(&wanted("system:node:n"), &[on, (GROUP, "nodes", "*")]).unwrap();
        assert_eq!(node.groups, ["system:nodes", AUTHENTICATED]);
        let account = wanted("system:serviceaccount:ns:a");
        assert!(assume(&account, &[on, (GROUP, "serviceaccounts", "ns")]).is_ok());
        assert!(assume(&account, &[on, users]).is_err());
        let extra = [("acme.example/a".to_owned(), vec!["s".to_owned()])].into();
        let extra = Impersonation { extra, ..wanted("u") };
        assert!(assume(&extra, &[on, users, (GROUP, "userextras/acme.example/a", "*")]).is_ok());
        assert!(assume(&extra, &[on, users]).is_err());
    }

    #[test]
    fn the_first_refusal_is_told() {
        assert_eq!(
            assume(&wanted("u"), &[]).unwrap_err(),
            "pods \"box\" is forbidden: User \"boss\" cannot impersonate-on:user-info:get resource \
             \"pods/exec\" in API group \"\" in the namespace \"default\""
        );
        let account = Impersonation { uid: "1".into(), ..wanted("system:serviceaccount:ns:a") };
        assert_eq!(
            assume(&account, &[]).unwrap_err(),
            "serviceaccounts \"a\" is forbidden: User \"boss\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"ns\""
        );
    }
}

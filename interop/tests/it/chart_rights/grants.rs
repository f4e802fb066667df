//! Roles to single grants, and those to accounts that have some of them.

use std::fmt::Write as _;

use bowline_interop::cluster::Cluster;
use serde_json::{Value, json};

use crate::chart::NAMESPACE;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The smallest thing that a role can grant.
#[derive(Clone)]
pub struct Grant {
    pub text: String,
    pub rule: Value,
    pub namespace: Option<String>,
}

/// Takes the roles among these objects apart.
pub fn grants(objects: &[Value]) -> Vec<Grant> {
    let mut grants = Vec::new();
    for object in objects.iter().filter(|object| object["rules"].is_array()) {
        let namespace = object["metadata"]["namespace"].as_str().map(ToOwned::to_owned);
        for rule in object["rules"].as_array().unwrap() {
            let each = |field: &str| -> Vec<String> {
                let texts = rule[field].as_array().into_iter().flatten();
                texts.map(|text| text.as_str().unwrap().to_owned()).collect()
            };
            let mut add = |text: String, rule: Value| {
                grants.push(Grant { text, rule, namespace: namespace.clone() });
            };
            for verb in each("verbs") {
                for path in each("nonResourceURLs") {
                    let one = json!({"nonResourceURLs": [path], "verbs": [verb]});
                    add(format!("{verb} {path}"), one);
                }
                for (group, resource) in each("apiGroups")
                    .iter()
                    .flat_map(|group| each("resources").into_iter().map(move |one| (group, one)))
                {
                    let dot = if group.is_empty() { "" } else { "." };
                    let text = format!("{verb} {resource}{dot}{group}");
                    let one =
                        json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
                    for name in each("resourceNames") {
                        let mut one = one.clone();
                        one["resourceNames"] = json!([name]);
                        add(format!("{text} {name}"), one);
                    }
                    if rule["resourceNames"].is_null() {
                        add(text, one);
                    }
                }
            }
        }
    }
    grants
}

/// An account with these grants, as objects.
pub fn account(suite: &str, name: &str, grants: &[&Grant]) -> Vec<Value> {
    let name = format!("{suite}-{name}");
    let metadata = |namespace: Option<&str>| match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    let mut objects = vec![json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": metadata(Some(NAMESPACE))})];
    let mut namespaces: Vec<Option<&str>> =
        grants.iter().map(|grant| grant.namespace.as_deref()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        let own = grants.iter().filter(|grant| grant.namespace.as_deref() == namespace);
        let rules: Vec<&Value> = own.map(|grant| &grant.rule).collect();
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        objects.push(json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind,
            "metadata": metadata(namespace), "rules": rules}));
        objects.push(json!({"apiVersion": format!("{RBAC}/v1"), "kind": format!("{kind}Binding"),
            "metadata": metadata(namespace),
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]}));
    }
    objects
}

/// A kubeconfig with a context for each account.
pub fn kubeconfig(cluster: &Cluster, suite: &str, names: &[String]) -> String {
    let ca = cluster.text("pki/ca.crt");
    let server = cluster.env("APISERVER_URL");
    let mut text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server}', \
         certificate-authority: '{ca}'}}}}]\n"
    );
    let (mut users, mut contexts) = ("users:\n".to_owned(), "contexts:\n".to_owned());
    for name in names {
        let account = format!("{suite}-{name}");
        let token = cluster.kubectl(&["create", "token", &account, "--namespace", NAMESPACE]);
        let _ = writeln!(users, "- {{name: '{name}', user: {{token: '{}'}}}}", token.trim());
        let _ = writeln!(contexts, "- {{name: '{name}', context: {{cluster: c, user: '{name}'}}}}");
    }
    text.push_str(&users);
    text.push_str(&contexts);
    text
}

//! Discovery, in both forms in which clients ask for it: the old lists and the aggregated one.

use serde_json::{Value, json};

use crate::route::Kind;

/// The `Accept` parameters of aggregated discovery.
const AGGREGATED: &str = "as=APIGroupDiscoveryList";

/// Returns whether a client asks for the aggregated form.
pub(super) fn is_aggregated(accept: &str) -> bool {
    accept.split(',').any(|one| one.contains(AGGREGATED) && one.contains("v=v2;"))
        || accept.split(',').any(|one| one.contains(AGGREGATED) && one.trim_end().ends_with("v=v2"))
}

/// The content type of the aggregated form.
pub(super) const AGGREGATED_TYPE: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

struct Resource {
    kind: Kind,
    name: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
}

/// The subresources of pods: name, kind and verbs.
const SUBRESOURCES: [(&str, &str, &[&str]); 4] = [
    ("attach", "PodAttachOptions", &["create", "get"]),
    ("exec", "PodExecOptions", &["create", "get"]),
    ("log", "Pod", &["get"]),
    ("portforward", "PodPortForwardOptions", &["create", "get"]),
];

const RESOURCES: [Resource; 5] = [
    Resource { kind: Kind::Pods, name: "Pod", singular: "pod", short: &["po"] },
    Resource { kind: Kind::Nodes, name: "Node", singular: "node", short: &["no"] },
    Resource { kind: Kind::Namespaces, name: "Namespace", singular: "namespace", short: &["ns"] },
    Resource { kind: Kind::Events, name: "Event", singular: "event", short: &["ev"] },
    Resource { kind: Kind::Services, name: "Service", singular: "service", short: &["svc"] },
];

/// Makes the answer to `/api`.
pub(super) fn versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
    })
}

/// Makes the answer to `/api/v1`.
pub(super) fn core() -> Value {
    let mut resources = Vec::new();
    for resource in &RESOURCES {
        resources.push(json!({
            "name": resource.kind.resource(),
            "singularName": resource.singular,
            "namespaced": resource.kind.is_namespaced(),
            "kind": resource.name,
            "verbs": ["get", "list"],
            "shortNames": resource.short,
        }));
    }
    for (name, kind, verbs) in SUBRESOURCES {
        resources.push(json!({
            "name": format!("pods/{name}"),
            "singularName": "",
            "namespaced": true,
            "kind": kind,
            "verbs": verbs,
        }));
    }
    json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": resources })
}

/// Makes the answer to `/apis`: there are no groups but the core.
pub(super) fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })
}

/// Makes the answer to `/api` in the aggregated form.
pub(super) fn aggregated_core() -> Value {
    let kind = |name: &str| json!({ "group": "", "version": "v1", "kind": name });
    let resources: Vec<Value> = RESOURCES
        .iter()
        .map(|resource| {
            let scope = if resource.kind.is_namespaced() { "Namespaced" } else { "Cluster" };
            let mut entry = json!({
                "resource": resource.kind.resource(),
                "responseKind": kind(resource.name),
                "scope": scope,
                "singularResource": resource.singular,
                "verbs": ["get", "list"],
                "shortNames": resource.short,
            });
            if resource.kind == Kind::Pods {
                let subresource = |(name, options, verbs)| {
                    json!({
                        "subresource": name,
                        "responseKind": kind(options),
                        "verbs": verbs,
                    })
                };
                entry["subresources"] = SUBRESOURCES.into_iter().map(subresource).collect();
            }
            entry
        })
        .collect();
    let versions = json!([{ "version": "v1", "resources": resources, "freshness": "Current" }]);
    list(json!([{ "metadata": {}, "versions": versions }]))
}

/// Makes the answer to `/apis` in the aggregated form.
pub(super) fn aggregated_groups() -> Value {
    list(json!([]))
}

fn list(items: Value) -> Value {
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aggregated_form_is_given_to_those_who_know_it() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                       application/json";
        assert!(is_aggregated(kubectl));
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert!(!is_aggregated(beta));
        assert!(!is_aggregated("application/json"));
    }
}

//! A pod and a flag to a container, with kubectl 1.37's rules and words.

use thiserror::Error;

use crate::objects::Pod;

/// The chosen container, and what to say about the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// kubectl's notice, where the container was chosen by default; not for `--quiet`.
    pub notice: Option<String>,
}

/// Why no container could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoContainer {
    /// The pod has none.
    #[error("pod {namespace}/{name} does not have any containers")]
    Empty {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The pod has no container of that name.
    #[error("container {container} is not valid for pod {pod} out of: {known}")]
    Unknown {
        /// What was asked for.
        container: String,
        /// The pod.
        pod: String,
        /// What there is.
        known: String,
    },
}

/// Chooses a container of `pod`: the one that is asked for, or else the annotated one, or else the
/// first.
///
/// # Errors
/// [`NoContainer`] if the pod has no containers, or none of the name.
pub fn choose(pod: &Pod, asked: Option<&str>) -> Result<Choice, NoContainer> {
    let pod_name = pod.metadata.name.clone();
    let regular: Vec<&str> = pod.spec.containers.iter().map(|one| &*one.name).collect();
    let Some(first) = regular.first() else {
        let namespace = pod.metadata.namespace.clone();
        return Err(NoContainer::Empty { namespace, name: pod_name });
    };
    let mut known: Vec<&str> = regular.clone();
    let mut list: Vec<String> = regular.iter().map(|name| (*name).to_owned()).collect();
    for one in &pod.spec.ephemeral_containers {
        known.push(&one.name);
        list.push(format!("{} (ephem)", one.name));
    }
    for one in &pod.spec.init_containers {
        known.push(&one.name);
        list.push(format!("{} (init)", one.name));
    }
    let list = list.join(", ");
    let annotated = Some(&*pod.metadata.default_container);
    let wanted = asked.or(annotated).filter(|name| !name.is_empty());
    if let Some(name) = wanted {
        return if known.contains(&name) {
            Ok(Choice { name: name.to_owned(), notice: None })
        } else {
            let (container, pod) = (name.to_owned(), pod_name);
            Err(NoContainer::Unknown { container, pod, known: list })
        };
    }
    let notice = (known.len() > 1).then(|| format!("Defaulted container {first:?} out of: {list}"));
    Ok(Choice { name: (*first).to_owned(), notice })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotation: Option<&str>) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "default", "annotations": {}},
            "spec": {
                "containers": [{"name": "main"}, {"name": "side"}],
                "initContainers": [{"name": "ini"}],
                "ephemeralContainers": [{"name": "dbg"}],
            },
        });
        if let Some(name) = annotation {
            pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = name.into();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn rules_and_words() {
        let first = choose(&pod(None), None).unwrap();
        assert_eq!(first.name, "main");
        let notice = r#"Defaulted container "main" out of: main, side, dbg (ephem), ini (init)"#;
        assert_eq!(first.notice.as_deref(), Some(notice));
        let annotated = choose(&pod(Some("side")), None).unwrap();
        assert_eq!((&*annotated.name, annotated.notice), ("side", None));
        assert_eq!(choose(&pod(Some("side")), Some("ini")).unwrap().name, "ini");
        for (annotation, asked) in [(None, Some("x")), (Some("x"), None)] {
            let error = choose(&pod(annotation), asked).unwrap_err().to_string();
            let expected = "container x is not valid for pod p out of: main, side, dbg (ephem), \
                            ini (init)";
            assert_eq!(error, expected);
        }
        let empty =
            json!({"metadata": {"name": "ok", "namespace": "default"}, "spec": {"containers": []}});
        let error = choose(&serde_json::from_value(empty).unwrap(), None).unwrap_err();
        assert_eq!(error.to_string(), "pod default/ok does not have any containers");
    }
}

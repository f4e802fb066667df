//! Pod objects to what a runtime has to run.

use std::path::Path;

use bowline_io::objects::{self, Object, ObjectsError};
use k8s_openapi::api::core::v1::{Container, Pod};

/// A pod as its manifest describes it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// `metadata.namespace`, `default` if it is not set.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, or one made of namespace and name.
    pub uid: String,
    /// The containers, in order.
    pub containers: Vec<ContainerSpec>,
    /// The whole object.
    pub object: Pod,
}

/// A container as its manifest describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// The command of its main process; empty if it only idles.
    pub command: Vec<String>,
    /// The environment of all its processes.
    pub env: Vec<(String, String)>,
    /// The working directory of its processes; `/` if it is not set.
    pub working_dir: Option<String>,
    /// Whether its main process has an open stdin.
    pub stdin: bool,
    /// Whether that stdin ends with the first client that attaches to it.
    pub stdin_once: bool,
    /// Whether its main process has a terminal.
    pub tty: bool,
}

/// The `PATH` of every process whose manifest has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Reads the Pods of a file; other objects are an error, since nothing here would honour them.
///
/// # Errors
/// [`ObjectsError`], naming file, document and field, if the file cannot be read, or an object is
/// no Pod that can be run here.
pub fn read(path: &Path) -> Result<Vec<PodSpec>, ObjectsError> {
    let mut pods = Vec::new();
    read_into(path, &mut pods)?;
    Ok(pods)
}

/// Reads the Pods of a file into `pods`. Two of one name are an error: they would hide each other.
pub(super) fn read_into(path: &Path, pods: &mut Vec<PodSpec>) -> Result<(), ObjectsError> {
    for object in objects::read(path)? {
        let new = pod(&object)?;
        if pods.iter().any(|known| known.namespace == new.namespace && known.name == new.name) {
            return Err(object.error(format!("pod {}/{} is there twice", new.namespace, new.name)));
        }
        pods.push(new);
    }
    Ok(())
}

/// Reads the pod that an object describes.
///
/// # Errors
/// [`ObjectsError::NotAnObject`] if it is no Pod, or lacks a name or containers.
pub fn pod(object: &Object) -> Result<PodSpec, ObjectsError> {
    if object.kind() != "Pod" {
        return Err(object.error(format!("kind {:?} is not Pod", object.kind())));
    }
    let parsed: Result<Pod, _> = serde_json::from_value(object.value.clone());
    let mut parsed = parsed.map_err(|error| object.error(error.to_string()))?;
    let missing = |field: &str| object.error(format!("{field} is not set"));
    let name = parsed.metadata.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| missing("metadata.name"))?;
    let namespace = parsed.metadata.namespace.get_or_insert_with(|| "default".into()).clone();
    let uid = parsed.metadata.uid.get_or_insert_with(|| format!("{namespace}-{name}")).clone();
    let spec = parsed.spec.as_ref().ok_or_else(|| missing("spec"))?;
    if spec.containers.is_empty() {
        return Err(missing("spec.containers"));
    }
    let containers = spec.containers.iter().map(|spec| container(&name, spec)).collect();
    Ok(PodSpec { namespace, name, uid, containers, object: parsed })
}

fn container(pod: &str, spec: &Container) -> ContainerSpec {
    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), home(std::env::var("HOME").ok())),
        ("HOSTNAME".to_owned(), pod.to_owned()),
    ];
    for variable in spec.env.iter().flatten() {
        let value = expand(variable.value.as_deref().unwrap_or_default(), &env);
        env.retain(|pair| pair.0 != variable.name);
        env.push((variable.name.clone(), value));
    }
    let words = spec.command.iter().flatten().chain(spec.args.iter().flatten());
    ContainerSpec {
        name: spec.name.clone(),
        // Without a command there is no image to take one from: such a container idles.
        command: if spec.command.as_ref().is_none_or(Vec::is_empty) {
            Vec::new()
        } else {
            words.map(|word| expand(word, &env)).collect()
        },
        working_dir: spec.working_dir.clone().filter(|dir| !dir.is_empty()),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        env,
    }
}

/// Returns `HOME` for the processes, which run as this program's user: `given`, or `/` if that is
/// no absolute path, as runtimes have it.
fn home(given: Option<String>) -> String {
    given.filter(|home| home.starts_with('/')).unwrap_or_else(|| "/".to_owned())
}

/// Expands Kubernetes' `$(NAME)`; `$$` is one `$`, and an unknown name stays as it is.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let found = name.and_then(|(name, later)| {
            env.iter().find(|pair| pair.0 == name).map(|pair| (&*pair.1, later))
        });
        match found {
            Some((value, later)) => {
                expanded.push_str(value);
                rest = later;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(text: &str) -> Result<Vec<PodSpec>, String> {
        let objects = objects::parse(text, Path::new("f.yaml")).unwrap();
        let pods: Result<Vec<_>, _> = objects.iter().map(pod).collect();
        pods.map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_is_read() {
        let pods = pods(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n\
             \x20 - name: c\n    command: [sh, -c, 'echo $(WHO) $$(WHO) $(NO)']\n    args: [z]\n\
             \x20   env: [{name: WHO, value: me}, {name: BOTH, value: '$(WHO)!'}]\n\
             \x20   workingDir: /tmp\n    tty: true\n  - name: idle\n    args: [w]\n",
        )
        .unwrap();
        let pod = &pods[0];
        assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("default", "web", "default-web"));
        let first = &pod.containers[0];
        assert_eq!(first.command, ["sh", "-c", "echo me $(WHO) $(NO)", "z"]);
        assert_eq!(first.env.last(), Some(&("BOTH".into(), "me!".into())));
        assert!(first.tty && !first.stdin);
        assert_eq!(first.working_dir.as_deref(), Some("/tmp"));
        assert!(pod.containers[1].command.is_empty());
    }

    #[test]
    fn home_is_that_of_who_runs_the_processes() {
        for (given, expected) in
            [(Some("/home/jane"), "/home/jane"), (Some("jane"), "/"), (Some(""), "/"), (None, "/")]
        {
            assert_eq!(home(given.map(ToOwned::to_owned)), expected);
        }
        let pods = pods(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n",
        );
        let env = &pods.unwrap()[0].containers[0].env;
        assert!(env.contains(&("HOME".into(), home(std::env::var("HOME").ok()))));
    }

    #[test]
    fn errors_name_document_and_field() {
        let head = "apiVersion: v1\nkind: Pod\n";
        for (text, expected) in [
            ("apiVersion: v1\nkind: Node\n", "document 1: kind \"Node\" is not Pod"),
            (head, "metadata.name is not set"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "spec is not set"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n",
                "spec.containers is not set",
            ),
        ] {
            let error = pods(text).unwrap_err();
            assert!(error.starts_with("f.yaml: ") && error.contains(expected), "{error}");
        }
    }
}

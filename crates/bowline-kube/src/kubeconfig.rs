//! Kubeconfig files to clusters, users and contexts, as client-go reads and merges them.
//!
//! Empty is not set; the first file that says something wins; a file's relative paths are meant
//! from its folder. An entry is read when it is asked for, so what is not used is not judged.

mod fields;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bowline_io::text::go_file_error;
use secrecy::SecretString;
use thiserror::Error;

use self::fields::{
    base64_data, boolean, exec_extension, extra, list, mapping, text, text_list, wrong,
};
use crate::yaml::{self, Node, Value, YamlError};

/// Why a kubeconfig file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("error loading config file \"{}\": {}", path.display(), go_file_error(path, error))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file is no YAML, or a value in it does not fit its field.
    #[error("error loading config file \"{path}\": {fault}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        #[source]
        fault: YamlError,
    },
    /// Two entries have the name that is asked for.
    #[error(
        "error loading config file \"{path}\": line {line}: {list}: duplicate name {name:?}",
        path = path.display()
    )]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The line of the second one.
        line: usize,
        /// The list that they are in.
        list: &'static str,
        /// Their name.
        name: String,
    },
}

impl FileError {
    /// Returns whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, FileError::Read { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A cluster's entry. Paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `server`.
    pub server: String,
    /// `tls-server-name`.
    pub tls_server_name: String,
    /// `insecure-skip-tls-verify`.
    pub insecure: bool,
    /// `certificate-authority`.
    pub ca_file: String,
    /// `certificate-authority-data`, decoded.
    pub ca_data: Vec<u8>,
    /// `proxy-url`.
    pub proxy_url: String,
    /// `disable-compression`.
    pub disable_compression: bool,
    /// The extension `client.authentication.k8s.io/exec`, which plugins are told.
    pub exec_extension: Option<serde_json::Value>,
}

/// A user's entry. Paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// `client-certificate`.
    pub certificate_file: String,
    /// `client-certificate-data`, decoded.
    pub certificate_data: Vec<u8>,
    /// `client-key`.
    pub key_file: String,
    /// `client-key-data`, decoded.
    pub key_data: Key,
    /// `token`.
    pub token: SecretString,
    /// `tokenFile`.
    pub token_file: String,
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: SecretString,
    /// `as`.
    pub impersonate: String,
    /// `as-uid`.
    pub impersonate_uid: String,
    /// `as-groups`.
    pub impersonate_groups: Vec<String>,
    /// `as-user-extra`.
    pub impersonate_extra: Vec<(String, Vec<String>)>,
    /// `exec`.
    pub exec: Option<Exec>,
    /// `auth-provider`.
    pub auth_provider: Option<AuthProvider>,
}

/// A private key, which `Debug` does not show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// A credential plugin.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program: a name to look for in `PATH`, or an absolute path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The variables that are added to its environment.
    pub env: Vec<(String, String)>,
    /// `apiVersion`.
    pub api_version: String,
    /// `installHint`: how to get the program.
    pub install_hint: String,
    /// `provideClusterInfo`: whether it is told about the cluster.
    pub provide_cluster_info: bool,
    /// `interactiveMode`: `Never`, `IfAvailable` or `Always`; may be empty or wrong.
    pub interactive_mode: String,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and environment may hold secrets.
        f.debug_struct("Exec").field("command", &self.command).finish_non_exhaustive()
    }
}

/// An entry `auth-provider`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthProvider {
    /// Its name.
    pub name: String,
    /// `config`, which may hold tokens.
    pub config: Vec<(String, String)>,
    /// The file and the user's name, to which new tokens are written back.
    pub origin: (PathBuf, String),
}

impl std::fmt::Debug for AuthProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthProvider").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A context's entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// `cluster`.
    pub cluster: String,
    /// `user`.
    pub user: String,
    /// `namespace`.
    pub namespace: String,
}

/// One kubeconfig file.
#[derive(Clone, Debug)]
pub struct Document {
    path: PathBuf,
    /// The folder to which its paths are relative.
    folder: PathBuf,
    root: Node,
}

/// All kubeconfig files that were found, in the order of preference.
#[derive(Clone, Debug, Default)]
pub struct Kubeconfig {
    documents: Vec<Document>,
}

impl Kubeconfig {
    /// Reads files; those that are not there are passed over.
    ///
    /// # Errors
    /// [`FileError`] for the first file that cannot be read or is no kubeconfig.
    pub fn read(paths: &[PathBuf]) -> Result<Kubeconfig, FileError> {
        let mut documents = Vec::new();
        for path in paths {
            match Document::read(path) {
                Ok(document) => documents.push(document),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Kubeconfig { documents })
    }

    /// Returns `current-context` of the first file that has one; empty if none has.
    ///
    /// # Errors
    /// [`FileError::Content`] if it is no text.
    pub fn current_context(&self) -> Result<String, FileError> {
        for document in &self.documents {
            let name = document.at(text(&document.root, "", "current-context"))?;
            if !name.is_empty() {
                return Ok(name);
            }
        }
        Ok(String::new())
    }

    /// Returns the context of this name, of the first file that has it.
    ///
    /// # Errors
    /// [`FileError`] if its entry cannot be read, or a file has two of the name.
    pub fn context(&self, name: &str) -> Result<Option<Context>, FileError> {
        self.entry("contexts", name, |_, entry| {
            let Some(context) = mapping(entry, "contexts", "context")? else {
                return Ok(Context::default());
            };
            let text = |key| text(context, "contexts.context", key);
            Ok(Context {
                cluster: text("cluster")?,
                user: text("user")?,
                namespace: text("namespace")?,
            })
        })
    }

    /// Returns the cluster of this name, of the first file that has it.
    ///
    /// # Errors
    /// [`FileError`] if its entry cannot be read, or a file has two of the name.
    pub fn cluster(&self, name: &str) -> Result<Option<Cluster>, FileError> {
        self.entry("clusters", name, |document, entry| {
            match mapping(entry, "clusters", "cluster")? {
                None => Ok(Cluster::default()),
                Some(cluster) => document.cluster(cluster),
            }
        })
    }

    /// Returns the user of this name, of the first file that has it.
    ///
    /// # Errors
    /// [`FileError`] if its entry cannot be read, or a file has two of the name.
    pub fn user(&self, name: &str) -> Result<Option<User>, FileError> {
        self.entry("users", name, |document, entry| match mapping(entry, "users", "user")? {
            None => Ok(User::default()),
            Some(user) => document.user(name, user),
        })
    }

    /// Reads the entry of this name, of the first file that has it.
    fn entry<T>(
        &self,
        list: &'static str,
        name: &str,
        read: impl Fn(&Document, &Node) -> Result<T, YamlError>,
    ) -> Result<Option<T>, FileError> {
        for document in &self.documents {
            if let Some(entry) = document.entry(list, name)? {
                return document.at(read(document, entry)).map(Some);
            }
        }
        Ok(None)
    }
}

impl Document {
    /// Reads one file.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be read or is no kubeconfig.
    pub fn read(path: &Path) -> Result<Document, FileError> {
        let failed = |error| FileError::Read { path: path.to_owned(), error };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(yaml::BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        let content = |fault| FileError::Content { path: path.to_owned(), fault };
        let root = parse(&bytes).map_err(content)?;
        // A path without a folder is beside nothing but the working directory.
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder = std::path::absolute(folder).map_err(failed)?;
        Ok(Document { path: path.to_owned(), folder, root })
    }

    fn at<T>(&self, result: Result<T, YamlError>) -> Result<T, FileError> {
        result.map_err(|fault| FileError::Content { path: self.path.clone(), fault })
    }

    fn entry(&self, list: &'static str, name: &str) -> Result<Option<&Node>, FileError> {
        let Some(node) = self.root.get(list) else { return Ok(None) };
        let Value::List(entries) = &node.value else {
            return self.at(Err(wrong(node, list.to_owned(), "a list")));
        };
        let is_called = |entry: &&Node| match entry.get("name").map(|name| &name.value) {
            Some(Value::Text(text)) => text == name,
            _ => false,
        };
        let mut called = entries.iter().filter(is_called);
        let first = called.next();
        if let Some(second) = called.next() {
            let (path, line, name) = (self.path.clone(), second.line, name.to_owned());
            return Err(FileError::Duplicate { path, line, list, name });
        }
        Ok(first)
    }

    /// Returns the absolute form of one of its paths; empty stays empty.
    fn path(&self, path: String) -> String {
        if path.is_empty() || Path::new(&path).is_absolute() {
            return path;
        }
        let mut clean = PathBuf::new();
        for part in self.folder.join(&path).components() {
            match part {
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir => {
                    clean.pop();
                }
                part => clean.push(part),
            }
        }
        clean.to_string_lossy().into_owned()
    }

    fn cluster(&self, node: &Node) -> Result<Cluster, YamlError> {
        const AT: &str = "clusters.cluster";
        let text = |key| text(node, AT, key);
        Ok(Cluster {
            server: text("server")?,
            tls_server_name: text("tls-server-name")?,
            insecure: boolean(node, AT, "insecure-skip-tls-verify")?,
            ca_file: self.path(text("certificate-authority")?),
            ca_data: base64_data(node, AT, "certificate-authority-data")?,
            proxy_url: text("proxy-url")?,
            disable_compression: boolean(node, AT, "disable-compression")?,
            exec_extension: exec_extension(node)?,
        })
    }

    fn user(&self, name: &str, node: &Node) -> Result<User, YamlError> {
        const AT: &str = "users.user";
        let text = |key| text(node, AT, key);
        Ok(User {
            certificate_file: self.path(text("client-certificate")?),
            certificate_data: base64_data(node, AT, "client-certificate-data")?,
            key_file: self.path(text("client-key")?),
            key_data: Key(base64_data(node, AT, "client-key-data")?),
            token: text("token")?.into(),
            token_file: self.path(text("tokenFile")?),
            username: text("username")?,
            password: text("password")?.into(),
            impersonate: text("as")?,
            impersonate_uid: text("as-uid")?,
            impersonate_groups: text_list(node, AT, "as-groups")?,
            impersonate_extra: extra(node)?,
            exec: mapping(node, AT, "exec")?.map(|exec| self.exec(exec)).transpose()?,
            auth_provider: mapping(node, AT, "auth-provider")?
                .map(|provider| self.auth_provider(name, provider))
                .transpose()?,
        })
    }

    fn exec(&self, node: &Node) -> Result<Exec, YamlError> {
        const AT: &str = "users.user.exec";
        let text = |key| text(node, AT, key);
        let mut env = Vec::new();
        for variable in list(node, AT, "env")? {
            let at = "users.user.exec.env";
            env.push((self::text(variable, at, "name")?, self::text(variable, at, "value")?));
        }
        let command = text("command")?;
        // A name is looked for in PATH; what has a slash is a path.
        let command = if command.contains('/') { self.path(command) } else { command };
        let api_version = text("apiVersion")?;
        let mut interactive_mode = text("interactiveMode")?;
        if interactive_mode.is_empty()
            && ["client.authentication.k8s.io/v1beta1", "client.authentication.k8s.io/v1alpha1"]
                .contains(&&*api_version)
        {
            interactive_mode = "IfAvailable".to_owned();
        }
        Ok(Exec {
            command,
            args: text_list(node, AT, "args")?,
            env,
            api_version,
            install_hint: text("installHint")?,
            provide_cluster_info: boolean(node, AT, "provideClusterInfo")?,
            interactive_mode,
        })
    }

    fn auth_provider(&self, user: &str, node: &Node) -> Result<AuthProvider, YamlError> {
        const AT: &str = "users.user.auth-provider";
        let mut config = Vec::new();
        if let Some(given) = mapping(node, AT, "config")?
            && let Value::Map(pairs) = &given.value
        {
            for (key, _) in pairs {
                config.push((key.clone(), text(given, "users.user.auth-provider.config", key)?));
            }
        }
        let origin = (self.path.clone(), user.to_owned());
        Ok(AuthProvider { name: text(node, AT, "name")?, config, origin })
    }

    /// Returns the text of this file with other values in the configuration of a user's auth
    /// provider; `None` if there is no such user, or the user has no provider.
    #[must_use]
    pub fn with_provider_config(
        mut self,
        user: &str,
        config: &[(String, String)],
    ) -> Option<String> {
        fn inside<'a>(node: &'a mut Node, key: &str) -> Option<&'a mut Node> {
            let Value::Map(pairs) = &mut node.value else { return None };
            pairs.iter_mut().find(|pair| pair.0 == key).map(|pair| &mut pair.1)
        }
        let Value::List(users) = &mut inside(&mut self.root, "users")?.value else { return None };
        let is_user = |entry: &&mut Node| {
            entry.get("name").is_some_and(|name| name.value == Value::Text(user.to_owned()))
        };
        let entry = users.iter_mut().find(is_user)?;
        let provider = inside(inside(entry, "user")?, "auth-provider")?;
        let line = provider.line;
        let text = |text: &String| Node { line, value: Value::Text(text.clone()) };
        let pairs = config.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        inside(provider, "config")?.value = Value::Map(pairs);
        Some(self.root.to_yaml())
    }
}

fn parse(bytes: &[u8]) -> Result<Node, YamlError> {
    let empty = || Node { line: 1, value: Value::Map(Vec::new()) };
    let root = yaml::parse(&decoded(bytes)?)?.unwrap_or_else(empty);
    match root.value {
        Value::Map(_) => {}
        Value::Null => return Ok(empty()),
        _ => return Err(wrong(&root, "the file".to_owned(), "a mapping")),
    }
    for (key, known) in [("kind", "Config"), ("apiVersion", "v1")] {
        let said = text(&root, "", key)?;
        if !said.is_empty() && said != known {
            let line = root.get(key).map_or(root.line, |node| node.line);
            let what = "it is of no kind and version that is known here";
            return Err(YamlError::Value { line, field: key.to_owned(), what });
        }
    }
    Ok(root)
}

/// Decodes UTF-8, or UTF-16 with a byte order mark, as some editors and shells write it.
fn decoded(bytes: &[u8]) -> Result<String, YamlError> {
    let units = |read: fn([u8; 2]) -> u16, rest: &[u8]| -> Option<String> {
        let units: Vec<u16> = rest.as_chunks().0.iter().map(|&pair| read(pair)).collect();
        String::from_utf16(&units).ok()
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => units(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => units(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        bytes => String::from_utf8(bytes.to_vec()).ok(),
    };
    text.ok_or_else(|| {
        let good = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let line = good.matches('\n').count() + 1;
        YamlError::Syntax { line, what: "text that is not UTF-8".to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> (tempfile::TempDir, Result<Kubeconfig, String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |index: usize| folder.path().join(index.to_string());
        for (index, text) in texts.iter().enumerate() {
            std::fs::write(path(index), text).unwrap();
        }
        // The last one is not there.
        let paths: Vec<_> = (0..=texts.len()).map(path).collect();
        let config = Kubeconfig::read(&paths).map_err(|error| error.to_string());
        (folder, config)
    }

    fn one(text: &str) -> Kubeconfig {
        read(&[text]).1.unwrap()
    }

    #[test]
    fn the_first_file_that_says_something_wins_and_paths_are_its_own() {
        let first = "{current-context: '', clusters: [{name: c, cluster: {server: a, \
                     certificate-authority: ../x/ca}}]}";
        let second = "{current-context: two, clusters: [{name: c, cluster: {server: b, \
                      tls-server-name: no}}, {name: d}]}";
        let (folder, config) = read(&[first, second]);
        let config = config.unwrap();
        assert_eq!(config.current_context().unwrap(), "two");
        let cluster = config.cluster("c").unwrap().unwrap();
        assert_eq!((&*cluster.server, &*cluster.tls_server_name), ("a", ""));
        let ca = folder.path().parent().unwrap().join("x/ca");
        assert_eq!(cluster.ca_file, ca.to_str().unwrap());
        assert_eq!(config.cluster("d").unwrap(), Some(Cluster::default()));
        assert_eq!(config.cluster("e").unwrap(), None);
    }

    #[test]
    fn what_is_not_used_is_not_judged() {
        let config = one("
users:
- {name: a, user: {auth-provider: {name: gcp, config: null}}}
- {name: b, user: {exec: 7}}
- {name: c, user: 7}
- 7
- {name: d, user: {token: t}}
- {name: e}
- {name: e}
clusters: 7
");
        assert!(config.user("d").unwrap().is_some());
        let provider = config.user("a").unwrap().unwrap().auth_provider.unwrap();
        assert_eq!((&*provider.name, provider.config.len()), ("gcp", 0));
        for (name, why) in [
            ("b", "line 4: users.user.exec: a number where a mapping belongs"),
            ("c", "line 5: users.user: a number where a mapping belongs"),
            ("e", "line 9: users: duplicate name \"e\""),
        ] {
            assert!(config.user(name).unwrap_err().to_string().ends_with(why), "{name}");
        }
        assert!(config.cluster("x").is_err());
    }

    #[test]
    fn faults_name_place_and_kind_and_no_value() {
        for (text, why) in [
            ("token: SECRET\nexec: [\n", "line 2"),
            ("- SECRET", "line 1: the file: a list where a mapping belongs"),
            ("SECRET", "line 1: the file: text where a mapping belongs"),
            ("\nkind: SECRET", "line 2: kind: it is of no kind"),
            ("apiVersion: v2", "line 1: apiVersion"),
        ] {
            let error = read(&[text]).1.unwrap_err();
            assert!(error.contains(why) && !error.contains("SECRET"), "{error}");
        }
        for (user, why) in [
            (
                "token: 5331",
                "line 1: users.user.token: a number where text belongs (in quotes it is text)",
            ),
            ("token: [SECRET]", "users.user.token: a list where text belongs"),
            ("client-key-data: SECRET!", "line 1: users.user.client-key-data: illegal base64 data"),
            ("exec: {args: {SECRET: a}}", "users.user.exec.args: a mapping where a list belongs"),
            ("exec: {env: [{name: a, value: 5331}]}", "users.user.exec.env.value: a number"),
            (
                "exec: {provideClusterInfo: 'true'}",
                "provideClusterInfo: text where a truth value belongs (without quotes it is one)",
            ),
            (
                "auth-provider: {config: {id-token: 5331}}",
                "users.user.auth-provider.config.id-token: a number",
            ),
        ] {
            let config = one(&format!("users: [{{name: u, user: {{{user}}}}}]"));
            let error = config.user("u").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("SECRET") && !error.contains("5331"), "{error}");
        }
    }

    #[test]
    fn nothing_is_said_by_empty_null_or_other_words() {
        let config =
            one("{kind: Config, users: [{name: u, user: {token: null, Token: T, nope: 1, \
             exec: null, as-groups: null}}]}");
        let user = config.user("u").unwrap().unwrap();
        assert!(user.exec.is_none() && user.impersonate_groups.is_empty());
        for nothing in ["", "\n", "# x\n", "null", "---\n---\na: b", "a: b\n---\nc: ["] {
            assert_eq!(one(nothing).current_context().unwrap(), "", "{nothing:?}");
        }
    }

    #[test]
    fn other_encodings() {
        let text = "current-context: ü";
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&[0xff, 0xfe][..], &utf16].concat();
        assert_eq!(decoded(&marked).unwrap(), text);
        assert_eq!(decoded(&[&[0xef, 0xbb, 0xbf], text.as_bytes()].concat()).unwrap(), text);
        let fault = decoded(b"a\nSECRET \xff").unwrap_err().to_string();
        assert_eq!(fault, "yaml: line 2: text that is not UTF-8");
    }

    #[test]
    fn a_providers_configuration_is_written_back() {
        let (folder, _) = read(&["
kind: Config
current-context: x # gone
users:
- name: u
  user:
    auth-provider:
      name: oidc
      config: {id-token: old, client-id: c}
- {name: v, user: {token: t}}
unknown: {deep: [1, yes, null, \"a: b\"]}
"]);
        let path = folder.path().join("0");
        let config = [("id-token".to_owned(), "new".to_owned())];
        let text = Document::read(&path).unwrap().with_provider_config("u", &config).unwrap();
        std::fs::write(&path, &text).unwrap();
        let read = Document::read(&path).unwrap();
        assert_eq!(
            read.root.to_json(),
            serde_json::json!({
                "kind": "Config",
                "current-context": "x",
                "users": [{"name": "u", "user": {"auth-provider": {"name": "oidc",
                    "config": {"id-token": "new"}}}},
                    {"name": "v", "user": {"token": "t"}}],
                "unknown": {"deep": [1, true, null, "a: b"]},
            }),
            "{text}"
        );
        assert!(read.with_provider_config("v", &config).is_none());
    }
}

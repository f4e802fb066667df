//! Kubeconfigs, each tried with kubectl 1.37 and with `bowline`: which server is asked for which
//! pod, and as whom; or that nothing is asked. To try another one, add a row.
//!
//! In the texts, `{A}` and `{B}` are servers with TLS, `{P}` is one without, `{CA}` is their CA.
//! Beside the files are `ca.crt`, `me.crt`, `me.key`, `token` (`from-file`), `plugin`, and
//! `teller`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bowline_interop::parts::root;
use bowline_interop::pki::Authority;

use crate::parts::{bowline, part};
use crate::recorder::{Recorder, Seen, tls};

/// A kubeconfig, or some.
struct Row {
    name: &'static str,
    files: Vec<String>,
    flags: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What the first file must contain in the end.
    written: &'static str,
    /// kubectl asks nobody for the pod.
    refused: bool,
    /// Both do something else, and docs/compatibility.md says why in these words.
    differs: Option<&'static str>,
}

fn row(name: &'static str, file: impl Into<String>) -> Row {
    let files = vec![file.into()];
    Row { name, files, flags: &[], env: &[], written: "", refused: false, differs: None }
}

impl Row {
    fn and(mut self, file: impl Into<String>) -> Row {
        self.files.push(file.into());
        self
    }

    fn flags(mut self, flags: &'static [&'static str]) -> Row {
        self.flags = flags;
        self
    }

    fn env(mut self, env: &'static [(&'static str, &'static str)]) -> Row {
        self.env = env;
        self
    }

    fn written(mut self, text: &'static str) -> Row {
        self.written = text;
        self
    }

    fn refused(mut self) -> Row {
        self.refused = true;
        self
    }

    fn differs(mut self, why: &'static str) -> Row {
        self.differs = Some(why);
        self
    }
}

/// One context of one cluster and one user.
fn of(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    )
}

/// Of server A, trusted.
fn user(user: &str) -> String {
    of("server: '{A}', certificate-authority-data: {CA}", user)
}

/// With a token.
fn cluster(cluster: &str) -> String {
    of(cluster, "token: t")
}

const FLAG: &str = "a flag for credentials replaces those of the kubeconfig";
const UNUSED: &str = "what is not used is not judged";
const PROMPT: &str = "asks for a name and a password";
const V1: &str = "apiVersion: client.authentication.k8s.io/v1";
const VALID: &str = "h.eyJleHAiOjk5OTk5OTk5OTl9.s";
const ENDED: &str = "h.eyJleHAiOjF9.s";

fn of_clusters() -> Vec<Row> {
    let two = |name: &'static str, first: &str, second: &str| {
        row(name, format!("{first}\n")).and(format!("{second}\n"))
    };
    let all = cluster("server: '{A}', certificate-authority-data: {CA}");
    let plain = "clusters: [{name: c, cluster: {server: '{P}'}}]";
    let context = "contexts: [{name: x, context: {cluster: c, namespace: ns}}]";
    vec![
        row("a token", all.clone()),
        row(
            "JSON",
            "{\"current-context\": \"x\",\n\t\"contexts\": [{\"name\": \"x\", \"context\": \
            {\"cluster\": \"c\", \"namespace\": \"n\"}}], \"clusters\": \
            [{\"name\": \"c\", \"cluster\": \
            {\"server\": \"{P}\"}}]}",
        ),
        row(
            "empty CA beside insecure",
            cluster(
                "server: '{A}', insecure-skip-tls-verify: true, \
            certificate-authority-data: '', certificate-authority: ''",
            ),
        ),
        row(
            "CA beside insecure",
            cluster(
                "server: '{A}', insecure-skip-tls-verify: true, \
            certificate-authority-data: {CA}",
            ),
        )
        .refused(),
        row("insecure in YAML 1.1", cluster("server: '{A}', insecure-skip-tls-verify: yes")),
        row("insecure as text", cluster("server: '{A}', insecure-skip-tls-verify: 'true'"))
            .refused(),
        row("a CA's file, relative", cluster("server: '{A}', certificate-authority: ca.crt")),
        row("a CA's file that is missing", cluster("server: '{A}', certificate-authority: no.crt"))
            .refused(),
        row(
            "a CA twice",
            cluster(
                "server: '{A}', certificate-authority: ca.crt, \
            certificate-authority-data: {CA}",
            ),
        )
        .refused(),
        row("a CA that is no base64", cluster("server: '{A}', certificate-authority-data: '%'"))
            .refused(),
        row("an unknown CA", cluster("server: '{A}'")).refused(),
        row(
            "a server name",
            cluster(
                "server: '{A}', certificate-authority-data: {CA}, \
            tls-server-name: 127.0.0.1",
            ),
        ),
        row(
            "a wrong server name",
            cluster(
                "server: '{A}', certificate-authority-data: {CA}, \
            tls-server-name: elsewhere",
            ),
        )
        .refused(),
        row("another server by a flag", all.clone()).flags(&["--server={B}", "-n=m"]),
        row("insecure by a flag", all.clone()).flags(&["--insecure-skip-tls-verify"]),
        row("no credentials in the clear", cluster("server: '{P}'")),
        row("a server without a scheme", cluster("server: '{HOST}'")),
        row("a server that is none", cluster("server: 'ht!tp://a b'")).refused(),
        row("a server with a space behind it", cluster("server: '{A} '")).refused(),
        row("a server without its scheme", cluster("server: '//{AHOST}'")).refused(),
        row("a short address", cluster("server: 'https://127.1', insecure-skip-tls-verify: true"))
            .refused(),
        row("a path and a query", cluster("server: '{P}/?a=b'")),
        row("a proxy of an unknown kind", cluster("server: '{P}', proxy-url: 'ftp://me:pw@x'"))
            .refused(),
        row("no context, a server in the environment", "").env(&[("KUBERNETES_MASTER", "{P}")]),
        row("a context that is missing", "current-context: nope").refused(),
        row("a context by a flag that is missing", all.clone())
            .flags(&["--context=nope"])
            .refused(),
        row("a cluster by a flag that is missing", all.clone())
            .flags(&["--cluster=nope"])
            .refused(),
        row("a namespace", format!("current-context: x\n{context}\n{plain}")),
        two(
            "the second file has the context",
            "current-context: ''",
            &format!("current-context: x\n{context}\n{plain}"),
        ),
        two(
            "each file has its part",
            &format!("{plain}\n{context}"),
            "clusters: [{name: c, cluster: {server: '{A}'}}]\n\
            current-context: x",
        ),
        two("a second file that is no YAML", "kind: Config", "a: [").refused(),
        row("no file", "").flags(&["--kubeconfig=/nonexistent/config"]).refused(),
        row(
            "the same name twice",
            format!(
                "current-context: x\n{context}\nclusters: \
            [{{name: c, cluster: {{server: '{{P}}'}}}}, {{name: c, cluster: {{server: '{{P}}'}}}}]"
            ),
        )
        .refused(),
        row(
            "the same unused name twice",
            format!(
                "current-context: x\n{context}\n{plain}\n\
            users: [{{name: a}}, {{name: a}}]"
            ),
        )
        .differs(UNUSED)
        .refused(),
        row("the same key twice", format!("current-context: x\n{context}\nclusters: []\n{plain}")),
        row(
            "anchors and merges",
            format!(
                "current-context: x\n{context}\nbase: &b {{server: \
            '{{P}}'}}\nclusters: [{{name: c, cluster: {{<<: *b, unknown: 1}}}}]"
            ),
        ),
        row(
            "a merge below what it has, and another one",
            format!(
                "current-context: x\ncontexts: [{{name: x, context: {{cluster: c, namespace: a, \
            <<: {{namespace: b}}, <<: {{namespace: d}}}}}}]\n{plain}"
            ),
        ),
        row("a second document", format!("current-context: x\n{context}\n{plain}\n---\na: [")),
        row("another kind", format!("kind: Pod\ncurrent-context: x\n{context}\n{plain}")).refused(),
        row("another version", format!("apiVersion: v2\ncurrent-context: x\n{context}\n{plain}"))
            .refused(),
        row("a list", "- a").refused(),
        row("no YAML", "token: SECRET\nexec: [").refused(),
    ]
}

fn of_users() -> Vec<Row> {
    let plugin = |more: &str| {
        user(&format!("exec: {{command: ./plugin, interactiveMode: Never, {V1}, {more}}}"))
    };
    let told = |name: &'static str, cluster: &str, more: &str| {
        let exec = format!("exec: {{command: ./teller, interactiveMode: Never, {V1}, {more}}}");
        row(name, of(&format!("server: '{{A}}', {cluster}"), &exec))
    };
    let oidc = |more: &str| {
        user(&format!(
            "auth-provider: {{name: oidc, config: {{client-id: c, idp-issuer-url: '{{A}}', \
            idp-certificate-authority-data: {{CA}}, {more}}}}}"
        ))
    };
    vec![
        row(
            "all empty but a token",
            user(
                "token: t, tokenFile: '', username: '', password: '', \
            client-certificate: '', client-key-data: '', as: '', exec: null",
            ),
        ),
        row("a number for a token", user("token: 123")).refused(),
        row("a truth value for a token", user("token: y")).refused(),
        row("null for a token, and a file", user("token: null, tokenFile: token")),
        row("a token beside its file", user("token: t, tokenFile: token")),
        row("a token beside a file that is missing", user("token: t, tokenFile: gone")),
        row("a file that is missing", user("tokenFile: gone")).refused(),
        row("a password", user("username: me, password: pw")),
        row("a token and a password", user("token: t, username: me, password: pw")).refused(),
        row("a token's file and a password", user("tokenFile: token, username: me")).refused(),
        row("nobody", user("")).differs(PROMPT).refused(),
        row(
            "a user that is missing",
            "current-context: x\ncontexts: [{name: x, context: {cluster: \
            c, user: zz}}]\nclusters: [{name: c, cluster: {server: '{A}', \
            certificate-authority-data: {CA}}}]",
        )
        .refused(),
        row(
            "a user that is missing, in the clear",
            "current-context: x\ncontexts: [{name: x, \
            context: {cluster: c, user: zz}}]\nclusters: [{name: c, cluster: {server: '{P}'}}]",
        ),
        row("a user by a flag that is missing", user("token: t")).flags(&["--user=zz"]).refused(),
        row("a token by a flag", user("token: t")).flags(&["--token=flag"]),
        row("a token by a flag beside a password", user("username: me, password: pw"))
            .flags(&["--token=flag"])
            .differs(FLAG)
            .refused(),
        row("a token by a flag beside a file", user("tokenFile: token"))
            .flags(&["--token=flag"])
            .differs(FLAG),
        row("a token and a name by flags", user(""))
            .flags(&["--token=a", "--username=b"])
            .refused(),
        row("a certificate", user("client-certificate: me.crt, client-key: me.key")),
        row("a certificate without a key", user("client-certificate: me.crt")).refused(),
        row("a key without a certificate", user("client-key: me.key")).refused(),
        row("a key beside a token", user("client-key: me.key, token: t")),
        row("a missing certificate", user("client-certificate: no.crt, client-key: me.key"))
            .refused(),
        row("whom to act as", user("token: t, as: jane, as-groups: [g], as-user-extra: {k: [v]}")),
        row("whom to act as by flags", user("token: t, as: jane"))
            .flags(&["--as=joe", "--as-uid=1"]),
        row(
            "keys that are no text",
            user("token: t, as: jane, as-user-extra: {yes: [a], 0x10: [b], '<<': [c]}"),
        ),
        row("tags of one's own", user("token: t, as: ! 12, as-uid: !own yes")),
        row("a token with a line end", user("token: \"t\\n\"")).refused(),
        row("groups of nobody", user("token: t, as-groups: [g]")).refused(),
        row("a plugin", plugin("args: [from-plugin]")),
        row(
            "a plugin with empty fields",
            plugin(
                "args: [from-plugin, \"clientCertificateData: \
            ''\"], env: null, installHint: ''",
            ),
        ),
        row(
            "a plugin beside an empty token",
            user(&format!(
                "token: '', exec: {{command: ./plugin, \
            args: [t], interactiveMode: Never, {V1}}}"
            )),
        ),
        row(
            "a plugin beside a token",
            user(&format!(
                "token: t, exec: {{command: gone, \
            interactiveMode: Never, {V1}}}"
            )),
        ),
        told("a plugin that is told of nothing", "certificate-authority: ca.crt", ""),
        told(
            "a plugin that is told of its cluster",
            "certificate-authority: ca.crt, tls-server-name: 127.0.0.1, extensions: [{name: \
             client.authentication.k8s.io/exec, extension: {a: b, c: [1, true, null]}}]",
            "provideClusterInfo: true",
        ),
        told(
            "a plugin that is told of a CA in the kubeconfig",
            "certificate-authority-data: {CA}, extensions: [{name: other, extension: {a: b}}]",
            "provideClusterInfo: true",
        ),
        told(
            "a plugin that is told that nobody looks",
            "insecure-skip-tls-verify: true, disable-compression: true",
            "provideClusterInfo: true",
        ),
        row("who asks in the server's URL", of("server: 'http://me:pw@{HOST}'", "")),
        row(
            "who asks in the server's URL, with TLS",
            of("server: 'https://me:pw@{AHOST}', certificate-authority-data: {CA}", "token: t"),
        ),
        row(
            "a plugin that needs a person",
            user(&format!(
                "exec: {{command: ./plugin, args: [t], \
            interactiveMode: Always, {V1}}}"
            )),
        )
        .refused(),
        row("a plugin without a mode", user(&format!("exec: {{command: ./plugin, {V1}}}")))
            .refused(),
        row(
            "a plugin of an old version",
            user(
                "exec: {command: ./plugin, interactiveMode: Never, \
            apiVersion: client.authentication.k8s.io/v1alpha1}",
            ),
        )
        .refused(),
        row(
            "a plugin of another version",
            user(
                "exec: {command: ./plugin, args: [t], \
            apiVersion: client.authentication.k8s.io/v1beta1}",
            ),
        ),
        row(
            "a plugin by its name",
            user(&format!(
                "exec: {{command: plugin, args: [t], \
            interactiveMode: Never, {V1}}}"
            )),
        )
        .env(&[("PATH", "{DIR}:/usr/bin:/bin")]),
        row(
            "a plugin of the working directory",
            user(&format!(
                "exec: {{command: plugin, \
            args: [t], \
            interactiveMode: Never, {V1}}}"
            )),
        )
        .env(&[("PATH", ".:{DIR}:/usr/bin:/bin")])
        .refused(),
        row(
            "a plugin that is missing",
            user(&format!(
                "exec: {{command: gone, \
            interactiveMode: Never, {V1}}}"
            )),
        )
        .refused(),
        row(
            "a plugin and a provider",
            user(&format!(
                "auth-provider: {{name: oidc}}, \
            exec: {{command: \
            ./plugin, interactiveMode: Never, {V1}}}"
            )),
        )
        .refused(),
        row(
            "an unused gcp",
            user("token: t").replace(
                "users: [",
                "users: [{name: v, user: \
            {auth-provider: {name: gcp, config: null}}}, ",
            ),
        ),
        row("gcp", user("auth-provider: {name: gcp}")).refused(),
        row("an unknown provider", user("auth-provider: {name: nope}")).refused(),
        row("a provider without its words", user("auth-provider: {name: oidc, config: null}"))
            .refused(),
        row("a provider's token", oidc(&format!("id-token: {VALID}"))),
        row("a provider's token that ended", oidc(&format!("id-token: {ENDED}"))).refused(),
        row(
            "a provider's token that is refreshed",
            oidc(&format!(
                "id-token: {ENDED}, \
            refresh-token: refresh-one"
            )),
        )
        .written("refresh-two"),
        row(
            "a broken unused user",
            "current-context: x\ncontexts: [{name: x, context: {cluster: \
            c}}]\nclusters: [{name: c, cluster: {server: '{P}'}}]\nusers: [{name: v, \
            user: {exec: 7}}]",
        )
        .differs(UNUSED)
        .refused(),
    ]
}

/// Its answer is YAML, in the version that it is asked in: a token, and another line.
const PLUGIN: &str = "#!/bin/sh
cat <<END
apiVersion: $(echo \"$KUBERNETES_EXEC_INFO\" | grep -o 'client.authentication.k8s.io/v1[a-z0-9]*')
kind: ExecCredential
status:
  token: $1
  ${2:-x: y}
END
";

/// Its token is the sum of all that it was told, in any order.
const TELLER: &str = "#!/bin/sh
sum=$(echo \"$KUBERNETES_EXEC_INFO\" | tr -d ' \\n' | tr ',{}' '\\n' | sort | sha256sum)
echo '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",'
echo '\"status\":{\"token\":\"'${sum%% *}'\"}}'
";

struct Place {
    authority: Authority,
    servers: [Recorder; 3],
}

impl Place {
    /// What became of a row: what was seen, and whether what must be written is.
    fn tried(&self, program: &Path, row: &Row) -> (Option<Seen>, bool, String) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let me = self.authority.client_named("me", None).unwrap();
        for (name, text) in [
            ("ca.crt", &*self.authority.pem),
            ("me.crt", &me.certificate),
            ("me.key", &me.key),
            ("token", "from-file\n"),
            ("plugin", PLUGIN),
            ("teller", TELLER),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        for name in ["plugin", "teller"] {
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path().join(name), executable).unwrap();
        }
        let ca = self.base64(folder.path());
        let [a, b, p] = &self.servers;
        let filled = |text: &str| {
            text.replace("{A}", &format!("https://{}", a.address))
                .replace("{B}", &format!("https://{}", b.address))
                .replace("{P}", &format!("http://{}", p.address))
                .replace("{HOST}", &p.address)
                .replace("{AHOST}", &a.address)
                .replace("{CA}", &ca)
                .replace("{DIR}", dir)
        };
        let mut paths = Vec::new();
        for (index, file) in row.files.iter().enumerate() {
            let path = folder.path().join(format!("config-{index}"));
            std::fs::write(&path, filled(file)).unwrap();
            paths.push(path);
        }
        let mut process = Command::new(program);
        process.env_clear().env("HOME", dir).env("PATH", "/usr/bin:/bin").current_dir(dir);
        process.env("KUBECONFIG", std::env::join_paths(&paths).unwrap());
        process.envs(row.env.iter().map(|(name, value)| (name, filled(value))));
        process.arg("exec").args(row.flags.iter().map(|flag| filled(flag)));
        let output = process.args(["p", "--", "true"]).stdin(Stdio::null()).output().unwrap();
        let seen: Vec<_> = [a, b, p].into_iter().filter_map(Recorder::last).collect();
        let written = std::fs::read_to_string(&paths[0]).unwrap().contains(row.written);
        (seen.last().cloned(), written, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn base64(&self, folder: &Path) -> String {
        let output = Command::new("base64").args(["-w0", "ca.crt"]).current_dir(folder).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

#[test]
fn kubeconfigs_mean_the_same_to_kubectl() {
    let authority = Authority::new().unwrap();
    let tls = tls(&authority);
    let servers = [
        Recorder::start("a", Some(tls.clone())),
        Recorder::start("b", Some(tls)),
        Recorder::start("p", None),
    ];
    let place = Place { authority, servers };
    let kubectl = part("kubectl/1.37/kubectl");
    let docs = std::fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let docs = docs.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows: Vec<Row> = of_clusters().into_iter().chain(of_users()).collect();
    assert!(rows.len() >= 40);
    let mut wrong = Vec::new();
    for row in &rows {
        let theirs = place.tried(&kubectl, row);
        let ours = place.tried(&bowline(), row);
        assert!(!ours.2.contains("SECRET"), "{}: {}", row.name, ours.2);
        let same = (&theirs.0, theirs.1) == (&ours.0, ours.1);
        let explained = row.differs.is_none_or(|why| docs.contains(why));
        let other = theirs.0.is_none() != row.refused;
        if other || same != row.differs.is_none() || !explained || !theirs.1 {
            wrong.push(format!(
                "{}:\n  kubectl {:?} {}\n    {}\n  bowline {:?} {}\n    {}\n",
                row.name, theirs.0, theirs.1, theirs.2, ours.0, ours.1, ours.2
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.concat());
}

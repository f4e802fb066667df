//! A table of certificates and keys: kubectl and ours in front of the same server, which is
//! OpenSSL's and takes what it is given. Both take it or both refuse it, for the same reason; what
//! kubectl alone takes is in docs/compatibility.md.

mod made;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bowline_interop::parts::part;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, ExtendedKeyUsagePurpose as Eku,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, PKCS_RSA_SHA512, date_time_ymd,
};

use self::made::{CA, Made, Place};
use crate::parts::bowline;

/// What a server says to those who get as far as asking it.
const REACHED: &str = "the server was reached";

/// What becomes of a row.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// Both reach the server.
    Taken,
    /// Neither does, and both say these words.
    Refused(&'static str),
    /// kubectl alone; docs/compatibility.md says why.
    ByKubectlAlone,
}

use Verdict::{ByKubectlAlone, Refused, Taken};

/// A row: a server, and how a client comes to it.
struct Row {
    name: &'static str,
    server: Made,
    /// Further flags of `openssl s_server`.
    flags: Vec<String>,
    /// The kubeconfig's CA, or the system's. Without one nobody looks at the certificate.
    ca: String,
    by_the_system: bool,
    /// The kubeconfig's certificate and key.
    client: Option<Made>,
    server_name: Option<&'static str>,
    verdict: Verdict,
}

impl Row {
    fn new(name: &'static str, server: Made, ca: &Made, verdict: Verdict) -> Row {
        let ca = ca.certificate.clone();
        Row {
            name,
            server,
            flags: Vec::new(),
            ca,
            by_the_system: false,
            client: None,
            server_name: None,
            verdict,
        }
    }

    fn flags(mut self, flags: &[&str]) -> Row {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }
}

/// The same for a kubeconfig that names no CA.
fn by_the_system(row: Row) -> Row {
    Row { by_the_system: true, ..row }
}

/// `openssl s_server`. Dropped, it is killed.
struct SServer {
    child: Child,
    port: u16,
}

impl SServer {
    fn start(place: &Path, row: &Row) -> SServer {
        let write = |name: &str, text: &str| std::fs::write(place.join(name), text).unwrap();
        write("server.crt", &row.server.certificate);
        write("chain.crt", &row.server.chain);
        write("server.key", &row.server.key);
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-HTTP", "-cert", "server.crt"]);
        command.args(["-key", "server.key", "-cipher", "DEFAULT@SECLEVEL=0"]);
        if !row.server.chain.is_empty() {
            command.args(["-cert_chain", "chain.crt"]);
        }
        command.args(&row.flags).current_dir(place);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl is there");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let accepts = lines.find_map(|line| {
            line.unwrap().strip_prefix("ACCEPT 127.0.0.1:").and_then(|port| port.parse().ok())
        });
        // It must never wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let port = accepts.unwrap_or_else(|| panic!("{}: openssl takes no connections", row.name));
        SServer { child, port }
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client said.
fn said(mut command: Command, kubeconfig: &Path) -> String {
    command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

const PATH: &str = "api/v1/namespaces/default/pods/box";

/// Runs both against a row's server; what does not fit.
fn faults(row: &Row) -> Option<String> {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let status = format!(
        "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\
         \"{REACHED}\",\"reason\":\"Forbidden\",\"code\":403}}"
    );
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{status}",
        status.len()
    );
    std::fs::create_dir_all(place.join(PATH).parent().unwrap()).unwrap();
    std::fs::write(place.join(PATH), answer).unwrap();
    std::fs::write(place.join("ca.crt"), &row.ca).unwrap();
    // kubectl asks for a user's name where there is nothing else.
    let mut user = "token: t".to_owned();
    if let Some(client) = &row.client {
        let both = format!("{}{}", client.certificate, client.chain);
        std::fs::write(place.join("client.crt"), both).unwrap();
        std::fs::write(place.join("client.key"), &client.key).unwrap();
        user.push_str(", client-certificate: client.crt, client-key: client.key");
    }
    let server = SServer::start(place, row);
    let trusts = match row.by_the_system {
        true => "",
        false if row.ca.is_empty() => ", insecure-skip-tls-verify: true",
        false => ", certificate-authority: ca.crt",
    };
    let name = row.server_name.map_or(String::new(), |name| format!(", tls-server-name: {name}"));
    let kubeconfig = place.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: \
         {{server: \"https://127.0.0.1:{}\"{trusts}{name}}}\ncontexts:\n- \
         name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  user: {{{user}}}\n",
        server.port
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let mut theirs = Command::new(part("kubectl/1.37/kubectl"));
    theirs.args(["get", "--raw", &format!("/{PATH}")]);
    let mut ours = Command::new(bowline());
    ours.args(["exec", "box", "--", "true"]);
    for client in [&mut theirs, &mut ours] {
        client.env("SSL_CERT_FILE", place.join(if row.by_the_system { "ca.crt" } else { "none" }));
        client.env("SSL_CERT_DIR", place.join("none"));
    }
    let (theirs, ours) = (said(theirs, &kubeconfig), said(ours, &kubeconfig));
    let (reached, by_ours) = (theirs.contains(REACHED), ours.contains(REACHED));
    let fits = match row.verdict {
        Taken => reached && by_ours,
        Refused(words) => !reached && !by_ours && theirs.contains(words) && ours.contains(words),
        ByKubectlAlone => reached && !by_ours,
    };
    let verdict = row.verdict;
    (!fits).then(|| format!("{}: {verdict:?}\n  kubectl: {theirs}  ours:    {ours}", row.name))
}

fn check(rows: &[Row]) {
    let faults: Vec<String> = rows.iter().filter_map(faults).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
}

const UNKNOWN: Verdict = Refused("x509: certificate signed by unknown authority");
const LATE: Verdict = Refused("certificate has expired or is not yet valid");

fn old(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2020, 1, 1);
}

fn plain(_: &mut CertificateParams) {}

#[test]
fn servers_and_their_cas() {
    let ca = Made::root("ca", plain);
    let other = Made::root("other", plain);
    let namesake = Made::root("ca", plain);
    let itself = |change: fn(&mut CertificateParams)| Made::root("server", change);
    let between = Made::below(&ca, "between", |params| params.is_ca = CA);
    let leaf = |change: fn(&mut CertificateParams)| Made::below(&ca, "server", change);
    let below_between = Made::below(&between, "server", plain);
    let with_chain = Made { chain: between.certificate.clone(), ..below_between.clone() };
    let short = Made::root("short", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below_short = Made::below(&short, "between", |params| params.is_ca = CA);
    let too_deep = Made::below(&below_short, "server", plain);
    let too_deep = Made { chain: below_short.certificate.clone(), ..too_deep };
    let expired_ca = Made::root("ca", old);
    let no_ca = Made::root("ca", |params| params.is_ca = IsCa::NoCa);
    let no_signer = Made::root("ca", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let elsewhere = Made::root("ca", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4(
                [10, 0, 0, 0],
                [255, 0, 0, 0],
            ))],
            excluded_subtrees: Vec::new(),
        });
    });
    let loner = leaf(plain);
    let mut bundle = ca.clone();
    let broken = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    bundle.certificate = format!("# ours\n{broken}{}", other.certificate) + &ca.certificate;
    let mut both_ages = ca.clone();
    both_ages.certificate = expired_again(&ca) + &ca.certificate;
    check(&[
        Row::new("below its CA", leaf(plain), &ca, Taken),
        Row::new(
            "signed by itself, as another of its name",
            itself(plain),
            &itself(plain),
            UNKNOWN,
        ),
        same("its own CA, and says so", itself(plain), Taken),
        same(
            "its own CA, and says nothing of it",
            itself(|params| params.is_ca = IsCa::NoCa),
            Taken,
        ),
        Row::new("a CA below another", leaf(|params| params.is_ca = CA), &ca, Taken),
        Row::new("trusted itself, though another has signed it", loner.clone(), &loner, Taken),
        Row::new("the CA between is sent", with_chain, &ca, Taken),
        Row::new("the CA between is not sent", below_between.clone(), &ca, UNKNOWN),
        Row::new("the CA between is the root", below_between, &between, Taken),
        Row::new("another's", leaf(plain), &other, UNKNOWN),
        Row::new("a namesake's", leaf(plain), &namesake, UNKNOWN),
        Row::new("expired", leaf(old), &ca, LATE),
        Row::new(
            "not yet",
            leaf(|params| params.not_before = date_time_ymd(2999, 1, 1)),
            &ca,
            LATE,
        ),
        Row::new(
            "an expired CA's",
            Made::below(&expired_ca, "server", plain),
            &expired_ca,
            Refused(""),
        ),
        same("its own CA, expired", itself(old), LATE),
        Row::new("a CA beside its expired self", leaf(plain), &both_ages, Taken),
        Row::new("a CA that is none", Made::below(&no_ca, "server", plain), &no_ca, UNKNOWN),
        Row::new(
            "a CA that may not sign",
            Made::below(&no_signer, "server", plain),
            &no_signer,
            UNKNOWN,
        ),
        Row::new("one CA too many", too_deep, &short, Refused("x509: ")),
        Row::new(
            "outside of the CA's names",
            Made::below(&elsewhere, "server", plain),
            &elsewhere,
            Refused("x509: "),
        ),
        Row::new(
            "a CA outside of the CA's names",
            Made::below(&elsewhere, "server", |params| params.is_ca = CA),
            &elsewhere,
            Refused("x509: "),
        ),
        by_the_system(Row::new("below a CA of the system", leaf(plain), &ca, Taken)),
        by_the_system(same("in the system, and its own CA", itself(plain), Taken)),
        by_the_system(Row::new("below no CA of the system", leaf(plain), &other, UNKNOWN)),
        Row::new("a bundle with something broken", leaf(plain), &bundle, Taken),
    ]);
}

/// A server that is its own CA.
fn same(name: &'static str, server: Made, verdict: Verdict) -> Row {
    Row::new(name, server.clone(), &server, verdict)
}

/// The same CA with an end in the past.
fn expired_again(ca: &Made) -> String {
    let mut params = ca.params.clone().unwrap();
    old(&mut params);
    params.self_signed(&ca.key_pair()).unwrap().pem()
}

#[test]
fn names_purposes_and_algorithms_of_servers() {
    let ca = Made::root("ca", plain);
    let leaf = |change: fn(&mut CertificateParams)| Made::below(&ca, "server", change);
    let nameless = leaf(|params| params.subject_alt_names.clear());
    let elsewhere = leaf(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere".try_into().unwrap())];
    });
    let wildcard = leaf(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("*.local".try_into().unwrap())];
    });
    let unknown = leaf(|params| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    let policies = leaf(|params| {
        // certificatePolicies: any policy.
        let any = vec![0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0];
        let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 32], any);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    let of = |algorithm| Made::below_with(&ca, "server", algorithm, plain);
    let rsa_ca = Made::root_with("rsa", &PKCS_RSA_SHA512, plain);
    let place = Place::new();
    let named = |name: &'static str, server: &Made, server_name, verdict| Row {
        server_name: Some(server_name),
        ..Row::new(name, server.clone(), &ca, verdict)
    };
    let rsa = of(&PKCS_RSA_SHA256);
    let old_suite = |name, flags: &[&str], verdict| {
        Row::new(name, rsa.clone(), &ca, verdict).flags(&["-tls1_2"]).flags(flags)
    };
    check(&[
        Row::new("no name", nameless, &ca, Refused("x509: ")),
        Row::new(
            "another name",
            elsewhere.clone(),
            &ca,
            Refused(
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP",
            ),
        ),
        named("another name, which is asked for", &elsewhere, "elsewhere", Taken),
        named(
            "neither name",
            &elsewhere,
            "nowhere",
            Refused("x509: certificate is valid for elsewhere, not nowhere"),
        ),
        named("a wildcard", &wildcard, "box.local", Taken),
        named("a wildcard for two labels", &wildcard, "a.box.local", Refused("x509: ")),
        Row::new(
            "for any purpose",
            leaf(|params| params.extended_key_usages = vec![Eku::Any]),
            &ca,
            Taken,
        ),
        Row::new(
            "for clients",
            leaf(|params| params.extended_key_usages = vec![Eku::ClientAuth]),
            &ca,
            Refused("x509: certificate specifies an incompatible key usage"),
        ),
        Row::new(
            "an unknown critical extension",
            unknown,
            &ca,
            Refused("unhandled critical extension"),
        ),
        Row::new("policies that are critical", policies, &ca, ByKubectlAlone),
        Row::new("Ed25519", place.ed25519(&ca), &ca, Taken),
        Row::new("P-384", of(&PKCS_ECDSA_P384_SHA384), &ca, Taken),
        Row::new("P-521", of(&PKCS_ECDSA_P521_SHA512), &ca, Taken),
        Row::new(
            "RSA below RSA",
            Made::below_with(&rsa_ca, "server", &PKCS_RSA_SHA256, plain),
            &rsa_ca,
            Taken,
        ),
        Row::new(
            "signed with PSS",
            place.server(
                &rsa_ca,
                &["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"],
            ),
            &rsa_ca,
            Taken,
        ),
        Row::new(
            "signed with SHA-1",
            place.server(&rsa_ca, &["-sha1"]),
            &rsa_ca,
            Refused("x509: "),
        ),
        Row::new("X.509 v1", place.v1(&ca, "server"), &ca, Refused("x509: ")),
        {
            let (old_ca, server) = place.below_v1_ca();
            Row::new("a CA of X.509 v1", server, &old_ca, Taken)
        },
        same("RSA of 1024 bits", place.short_rsa(), ByKubectlAlone),
        old_suite("TLS 1.2", &[], Taken),
        old_suite(
            "TLS 1.2 with CBC alone",
            &["-cipher", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0"],
            ByKubectlAlone,
        ),
        old_suite(
            "TLS 1.2 without forward secrecy",
            &["-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"],
            Refused(""),
        ),
        Row::new("TLS 1.1", rsa.clone(), &ca, Refused("")).flags(&["-tls1_1"]),
    ]);
}

/// What Go finds in a certificate before, or beside, the path to its CA.
#[test]
fn what_is_beside_the_path() {
    let ca = Made::root("ca", plain);
    let with = |id: &'static [u64], value: &'static [u8], critical| {
        move |params: &mut CertificateParams| {
            let mut one = rcgen::CustomExtension::from_oid_content(id, value.to_vec());
            one.set_criticality(critical);
            params.custom_extensions.push(one);
        }
    };
    let twice = |params: &mut CertificateParams| {
        for _ in 0..2 {
            with(&[1, 2, 3], &[5, 0], false)(params);
        }
    };
    let critical_id = with(&[2, 5, 29, 35], &[0x30, 0], true);
    let demand = with(&[2, 5, 29, 36], &[0x30, 3, 0x80, 1, 0], false);
    // Permitted: names that are registered identifiers.
    let others = with(&[2, 5, 29, 30], &[0x30, 8, 0xa0, 6, 0x30, 4, 0x88, 2, 0x2a, 3], true);
    let empty = with(&[2, 5, 29, 37], &[0x30, 0], false);
    let unknown = with(&[1, 2, 3], &[5, 0], true);
    let between = |change: &dyn Fn(&mut CertificateParams)| {
        let between = Made::below(&ca, "between", |params| {
            params.is_ca = CA;
            change(params);
        });
        let leaf = Made::below(&between, "server", plain);
        Made { chain: between.certificate, ..leaf }
    };
    let own = |name, root: Made, verdict| {
        Row::new(name, Made::below(&root, "server", plain), &root, verdict)
    };
    let leaf = |change: &dyn Fn(&mut CertificateParams)| Made::below(&ca, "server", change);
    let unused = Made { chain: Made::below(&ca, "unused", twice).certificate, ..leaf(&plain) };
    let net = |params: &mut CertificateParams| {
        let net = CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::IpAddress(net)],
            excluded_subtrees: Vec::new(),
        });
    };
    let elsewhere = Made::root("ca", net);
    let mut both = elsewhere.clone();
    let mut free = elsewhere.params.clone().unwrap();
    free.name_constraints = None;
    old(&mut free);
    both.certificate += &free.self_signed(&elsewhere.key_pair()).unwrap().pem();
    let mut deep = ca.clone();
    let mut chain = String::new();
    for name in ["1", "2", "3", "4", "5", "6", "7"] {
        deep = Made::below(&deep, name, |params| params.is_ca = CA);
        chain.insert_str(0, &deep.certificate);
    }
    let deep = Made { chain, ..Made::below(&deep, "server", plain) };
    let insecure = |name, server: Made, verdict| Row {
        ca: String::new(),
        ..Row::new(name, server, &ca, verdict)
    };
    check(&[
        Row::new("an extension twice", leaf(&twice), &ca, Refused("tls: ")),
        Row::new("an extension twice, between", between(&twice), &ca, Refused("tls: ")),
        Row::new("an extension twice, in what is not needed", unused, &ca, Refused("tls: ")),
        own("an extension twice, in the CA", Made::root("ca", twice), Refused("")),
        own("a CA with a critical identifier", Made::root("ca", critical_id), Refused("")),
        own("names of other kinds are constrained", Made::root("ca", others), Refused("x509: ")),
        Row::new("the same, between", between(&others), &ca, Refused("x509: ")),
        own("two CAs of one key", elsewhere.clone(), Refused("x509: ")),
        Row::new(
            "the other of the two has expired",
            Made::below(&elsewhere, "server", plain),
            &both,
            Refused("x509: "),
        ),
        Row::new("it demands policies", leaf(&demand), &ca, Refused("x509: ")),
        Row::new("those between demand policies", between(&demand), &ca, Refused("x509: ")),
        own("a CA that demands policies", Made::root("ca", demand), Taken),
        Row::new("no purpose in the list of purposes", leaf(&empty), &ca, ByKubectlAlone),
        Row::new("seven CAs between", deep, &ca, ByKubectlAlone),
        insecure("nobody looks, and an extension is unknown", leaf(&unknown), Taken),
        insecure("nobody looks, and an extension is there twice", leaf(&twice), Refused("tls: ")),
        insecure("nobody looks, in TLS 1.2", leaf(&unknown), Taken).flags(&["-tls1_2"]),
    ]);
}

#[test]
fn clients_and_their_keys() {
    let ca = Made::root("ca", plain);
    let server = Made::below(&ca, "server", plain);
    let place = Place::new();
    place.write("clients.crt", &ca.certificate);
    let trusted = place.path("clients.crt");
    let ec = Made::below_with(&ca, "client", &PKCS_ECDSA_P384_SHA384, plain);
    let rsa = Made::below_with(&ca, "client", &PKCS_RSA_SHA256, plain);
    let (sec1, pkcs1) = (place.traditional(&ec), place.traditional(&rsa));
    let parameters = place.parameters(&ec);
    let between = Made::below(&ca, "between", |params| params.is_ca = CA);
    let chained = Made::below(&between, "client", plain);
    let chained = Made { chain: between.certificate.clone(), ..chained };
    let with = |made: &Made, key: String| Made { key, ..made.clone() };
    let labelled = |key: &str, label: &str| made::labelled(key, label);
    let both = format!("{}{}", ec.key, ec.certificate);
    let other = Made::below(&ca, "other", plain);
    let row = |name, client: Made, verdict| {
        let row = Row::new(name, server.clone(), &ca, verdict);
        let row = row.flags(&["-Verify", "3", "-CAfile", &trusted, "-verify_return_error"]);
        Row { client: Some(client), ..row }
    };
    let required = "remote error: tls: certificate required";
    check(&[
        row("PKCS#8, EC", ec.clone(), Taken),
        row("PKCS#8, RSA", rsa.clone(), Taken),
        row("PKCS#8, Ed25519", Made::below_with(&ca, "client", &PKCS_ED25519, plain), Taken),
        row("SEC1", with(&ec, sec1.clone()), Taken),
        row("SEC1 behind its parameters", with(&ec, format!("{parameters}{sec1}")), Taken),
        row("SEC1 below PRIVATE KEY", with(&ec, labelled(&sec1, "PRIVATE KEY")), Taken),
        row("SEC1 below RSA PRIVATE KEY", with(&ec, labelled(&sec1, "RSA PRIVATE KEY")), Taken),
        row("PKCS#1", with(&rsa, pkcs1.clone()), Taken),
        row("PKCS#1 below PRIVATE KEY", with(&rsa, labelled(&pkcs1, "PRIVATE KEY")), Taken),
        row(
            "PKCS#8 below RSA PRIVATE KEY",
            with(&rsa, labelled(&rsa.key, "RSA PRIVATE KEY")),
            Taken,
        ),
        row("PKCS#8 below EC PRIVATE KEY", with(&ec, labelled(&ec.key, "EC PRIVATE KEY")), Taken),
        row("both in one file", Made { certificate: both.clone(), ..with(&ec, both) }, Taken),
        row(
            "text in front, and line ends of DOS",
            with(&ec, format!("Key:\n{}", ec.key).replace('\n', "\r\n")),
            Taken,
        ),
        row(
            "another key",
            with(&ec, other.key.clone()),
            Refused("private key does not match public key"),
        ),
        row("an encrypted key", with(&ec, place.encrypted(&ec)), Refused("private key")),
        row(
            "an encrypted key of old",
            with(&rsa, place.encrypted_traditional(&rsa)),
            Refused("private key"),
        ),
        row("no key", with(&ec, String::new()), Refused("")),
        row(
            "half a certificate",
            Made { certificate: ec.certificate[..100].to_owned(), ..ec.clone() },
            Refused(""),
        ),
        row("X.509 v1", place.v1(&ca, "client"), Taken),
        row("a CA", Made::below(&ca, "client", |params| params.is_ca = CA), Taken),
        row("the CA between is sent", chained, Taken),
        row("RSA of 1024 bits", place.short_rsa_below(&ca), ByKubectlAlone),
        Row { client: None, ..row("none", ec.clone(), Refused(required)) },
        row(
            "expired",
            Made::below(&ca, "client", old),
            Refused("remote error: tls: expired certificate"),
        ),
        row(
            "another's",
            Made::below(&Made::root("other", plain), "client", plain),
            Refused("remote error: tls: unknown certificate authority"),
        ),
        Row {
            client: None,
            ..row("none, in TLS 1.2", ec.clone(), Refused("remote error: tls: handshake failure"))
                .flags(&["-tls1_2"])
        },
    ]);
}

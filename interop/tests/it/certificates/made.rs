//! What the table is made of: certificates and keys by rcgen, and by OpenSSL what rcgen refuses to
//! make.

use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    SanType, SignatureAlgorithm,
};

/// Of any depth.
pub const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

/// A certificate, those above it, and its key, in PEM.
#[derive(Clone)]
pub struct Made {
    pub certificate: String,
    pub chain: String,
    pub key: String,
    /// What it was made from, if by rcgen.
    pub params: Option<CertificateParams>,
}

fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    assert!(matches!(params.subject_alt_names[..], [SanType::IpAddress(_)]));
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params
}

impl Made {
    /// A CA that has signed itself.
    pub fn root(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
        Made::root_with(name, &PKCS_ECDSA_P256_SHA256, change)
    }

    pub fn root_with(
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        let params = params(name, |params| {
            params.is_ca = CA;
            change(params);
        });
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        Made { certificate, chain: String::new(), key, params: Some(params) }
    }

    /// One that `ca` has signed.
    pub fn below(ca: &Made, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
        Made::below_with(ca, name, &PKCS_ECDSA_P256_SHA256, change)
    }

    pub fn below_with(
        ca: &Made,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        let params = params(name, change);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issuer = Issuer::new(ca.params.clone().unwrap(), ca.key_pair());
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        Made { certificate, chain: String::new(), key, params: Some(params) }
    }

    pub fn key_pair(&self) -> KeyPair {
        KeyPair::from_pem(&self.key).unwrap()
    }
}

/// The same block below another label.
pub fn labelled(pem: &str, label: &str) -> String {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Where OpenSSL works.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn openssl(&self, words: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.args(words).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(Path::new(&self.path(name))).unwrap()
    }

    /// Signs a request for this key.
    fn sign(&self, ca: &Made, name: &str, key: &str, words: &[&str]) -> Made {
        self.write("ca.crt", &ca.certificate);
        self.write("ca.key", &ca.key);
        self.write("key", key);
        let subject = format!("/CN={name}");
        self.openssl(&["req", "-new", "-key", "key", "-subj", &subject, "-out", "csr"]);
        let signs = ["x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out"];
        let rest = ["crt", "-set_serial", "7", "-days", "2"];
        self.openssl(&[&signs[..], &rest, words].concat());
        let certificate = self.read("crt");
        Made { certificate, chain: String::new(), key: key.to_owned(), params: None }
    }

    fn rsa(&self, bits: &str) -> String {
        self.openssl(&["genrsa", "-out", "rsa", bits]);
        self.read("rsa")
    }

    /// A server's, signed in this way.
    pub fn server(&self, ca: &Made, words: &[&str]) -> Made {
        self.write("ext", "subjectAltName=IP:127.0.0.1\n");
        let key = self.rsa("2048");
        self.sign(ca, "server", &key, &[&["-extfile", "ext"], words].concat())
    }

    /// A server's; rcgen's keys of this kind are not read by every OpenSSL.
    pub fn ed25519(&self, ca: &Made) -> Made {
        self.openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed25519"]);
        self.write("ext", "subjectAltName=IP:127.0.0.1\n");
        self.sign(ca, "server", &self.read("ed25519"), &["-extfile", "ext"])
    }

    /// One of X.509 v1.
    pub fn v1(&self, ca: &Made, name: &str) -> Made {
        let made = self.sign(ca, name, &self.rsa("2048"), &[]);
        self.openssl(&["x509", "-in", "crt", "-text", "-out", "text"]);
        assert!(self.read("text").contains("Version: 1 (0x0)"), "{}", self.read("text"));
        made
    }

    /// A CA of X.509 v1, and a server below it.
    pub fn below_v1_ca(&self) -> (Made, Made) {
        self.write("key", &self.rsa("2048"));
        self.openssl(&["req", "-new", "-key", "key", "-subj", "/CN=old", "-out", "csr"]);
        let words = ["x509", "-req", "-in", "csr", "-signkey", "key", "-days", "2", "-out", "crt"];
        self.openssl(&words);
        let ca = Made {
            certificate: self.read("crt"),
            chain: String::new(),
            key: self.read("key"),
            params: None,
        };
        let server = self.server(&ca, &[]);
        (ca, server)
    }

    /// Its own CA.
    pub fn short_rsa(&self) -> Made {
        self.write("key", &self.rsa("1024"));
        let names = "subjectAltName=IP:127.0.0.1";
        let words = ["req", "-x509", "-key", "key", "-subj", "/CN=short", "-addext", names, "-out"];
        self.openssl(&[&words[..], &["crt"]].concat());
        Made {
            certificate: self.read("crt"),
            chain: String::new(),
            key: self.read("key"),
            params: None,
        }
    }

    pub fn short_rsa_below(&self, ca: &Made) -> Made {
        self.sign(ca, "client", &self.rsa("1024"), &[])
    }

    fn converted(&self, made: &Made, words: &[&str]) -> String {
        self.write("in", &made.key);
        self.openssl(&[&["pkey", "-in", "in", "-out", "out"], words].concat());
        self.read("out")
    }

    /// The key as PKCS#1 or SEC1.
    pub fn traditional(&self, made: &Made) -> String {
        self.converted(made, &["-traditional"])
    }

    pub fn encrypted(&self, made: &Made) -> String {
        self.converted(made, &["-aes128", "-passout", "pass:word"])
    }

    pub fn encrypted_traditional(&self, made: &Made) -> String {
        self.converted(made, &["-traditional", "-aes128", "-passout", "pass:word"])
    }

    /// `EC PARAMETERS`.
    pub fn parameters(&self, made: &Made) -> String {
        self.write("in", &made.key);
        self.openssl(&["ec", "-in", "in", "-param_out", "-out", "out"]);
        // Some print the key as well.
        let text = self.read("out");
        text.split("-----BEGIN EC PRIVATE").next().unwrap().to_owned()
    }
}

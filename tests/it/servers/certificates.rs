//! A private certificate authority, made by the openssl command.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::directory;

/// An authority that nobody knows but who is told.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
}

/// What a server shows, and what proves that it may.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The authority's own.
    pub(crate) authority: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = directory("authority");
        fs::create_dir(directory.join("issued")).expect("make a directory");
        fs::write(directory.join("index.txt"), "").expect("write the authority's index");
        fs::write(directory.join("serial"), "01\n").expect("write the authority's next number");
        fs::write(directory.join("authority.cnf"), CONFIGURATION).expect("write the authority's configuration");
        let authority = Self { directory };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
             -config authority.cnf -extensions authority -keyout authority.key -out authority.crt",
        );
        authority
    }

    /// Its own certificate, for who is to trust it.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("authority.crt")
    }

    /// A certificate for a server: `name` as `IP:127.0.0.1` or `DNS:localhost`, with commas between several.
    pub(crate) fn certify(&self, name: &str) -> Certificate {
        self.issue(name, "-days 1")
    }

    /// One whose time is over.
    pub(crate) fn certify_long_ago(&self, name: &str) -> Certificate {
        self.issue(name, "-startdate 20200101000000Z -enddate 20210101000000Z")
    }

    fn issue(&self, name: &str, when: &str) -> Certificate {
        let number = fs::read_dir(self.directory.join("issued")).expect("list what was issued").count();
        let path = |end: &str| self.directory.join(format!("server{number}.{end}"));
        fs::write(path("cnf"), format!("[server]\nsubjectAltName={name}\nextendedKeyUsage=serverAuth\n"))
            .expect("write");
        let n = format!("server{number}");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={n} -config authority.cnf \
             -keyout {n}.key -out {n}.csr"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config authority.cnf -extfile {n}.cnf -extensions server {when} \
             -in {n}.csr -out {n}.crt"
        ));
        Certificate { certificate: path("crt"), key: path("key"), authority: self.certificate() }
    }

    fn openssl(&self, words: &str) {
        let output =
            Command::new("openssl").args(words.split_whitespace()).current_dir(Path::new(&self.directory)).output();
        let output = output.expect("start openssl");
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const CONFIGURATION: &str = "
[ca]
default_ca = private
[private]
database = index.txt
serial = serial
new_certs_dir = issued
certificate = authority.crt
private_key = authority.key
default_md = sha256
policy = anything
unique_subject = no
[anything]
commonName = supplied
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

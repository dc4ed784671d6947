//! TLS to a store's server, whose certificate is of a private authority: who proves who it is is let in, and nobody else.

use std::path::Path;

use crate::{
    machine,
    sandbox::{Finished, Sandbox},
    servers::{Authority, Certificate, Postgres, Redis},
};

/// A server that a test has a certificate for, of either kind.
enum Server {
    Redis(Redis),
    Postgres(Postgres),
}

impl Server {
    /// Those that are installed, with that certificate, or without TLS.
    fn all(test: &str, certificate: Option<&Certificate>) -> Vec<Self> {
        let mut all = Vec::new();
        if Redis::is_installed(test) {
            let plan = Redis::plan();
            all.push(Self::Redis(match certificate {
                Some(certificate) => plan.with_tls(certificate).start(),
                None => plan.start(),
            }));
        }
        if Postgres::is_installed(test) {
            let plan = Postgres::plan();
            all.push(Self::Postgres(match certificate {
                Some(certificate) => plan.with_tls(certificate).start(),
                None => plan.start(),
            }));
        }
        all
    }

    /// Its URL by TLS, for that host, with those words.
    fn url(&self, host: &str, words: &str) -> String {
        match self {
            Self::Redis(redis) => format!("rediss://{host}:{}?{words}", redis.port()),
            Self::Postgres(postgres) => {
                let mode = if words.contains("sslmode") { "" } else { "sslmode=verify-full&" };
                format!("postgres://triplock@{host}:{}/postgres?{mode}{words}", postgres.port())
            }
        }
    }

    /// Its URL for plain text.
    fn plain_url(&self, host: &str) -> String {
        match self {
            Self::Redis(redis) => format!("redis://{host}:{}", redis.port()),
            Self::Postgres(postgres) => {
                format!("postgres://triplock@{host}:{}/postgres?sslmode=disable", postgres.port())
            }
        }
    }
}

fn root(path: &Path) -> String {
    format!("sslrootcert={}", path.display())
}

#[track_caller]
fn refused(url: &str, words: &str) -> Finished {
    let sandbox = Sandbox::new().with_store(url);
    let finished = sandbox.triplock(["trip", "list"]).run();
    let error = finished.fails(78);
    assert!(error["message"].as_str().unwrap().contains(words), "{url}: no {words:?} in {error}");
    sandbox.triplock(["run", "nightly", "--", "true"]).fails(125);
    finished
}

#[track_caller]
fn works(url: &str) {
    let sandbox = Sandbox::new().with_store(url);
    let finished = sandbox.triplock(["trip", "list"]).run();
    assert!(finished.exits(0).stderr.is_empty(), "{url}: {}", finished.stderr);
    let doctor = sandbox.triplock(["doctor", "--root", "/none/such"]).run();
    assert!(doctor.stdout.contains("\"encrypted\":true"), "{url}: {}", doctor.stdout);
}

#[test]
fn a_server_of_an_authority_that_is_trusted_is_the_store() {
    let test = "store_tls::a_server_of_an_authority_that_is_trusted_is_the_store";
    if !machine::has(test, &["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let trusted = authority.certificate();
    for server in Server::all(test, Some(&authority.certify("IP:127.0.0.1,DNS:localhost"))) {
        for host in ["127.0.0.1", "localhost"] {
            works(&server.url(host, &root(&trusted)));
        }
        let url = server.url("127.0.0.1", &root(&trusted));
        let sandbox = Sandbox::new().with_store(&url).trip("1", 1);
        sandbox.book("1", "7").succeeds();
        sandbox.book("1", "8").refused(3);
        // A run waits for the other one to end: what a server says unasked comes by TLS as well.
        let first = sandbox.sh("nightly", &[], "touch here; while [ -e here ]; do sleep 0.01; done").start();
        crate::sandbox::eventually("the job runs", || sandbox.path("here").exists());
        let second = sandbox.run("nightly", &["-w", "60"], &["true"]).start();
        std::fs::remove_file(sandbox.path("here")).unwrap();
        first.finish().exits(0);
        second.finish().exits(0);
        // The machine's own authorities, of which it is one in this environment.
        let whole = Sandbox::new().with_env("SSL_CERT_FILE", &trusted).with_store(&server.url("127.0.0.1", ""));
        whole.show("1").shows_seats_left(0);
        // An authority of the same name is another one.
        refused(&server.url("127.0.0.1", &root(&Authority::new().certificate())), "is not accepted");
        refused(
            &server.url("127.0.0.1", ""),
            "an authority that is not trusted here; name the authority's certificates with sslrootcert=FILE",
        );
        refused(&server.url("127.0.0.1", "sslrootcert=/none/such"), "sslrootcert: /none/such: No such file");
        refused(&server.url("127.0.0.1", "sslrootcert=/proc/self/status"), "no certificate in PEM is in it");
    }
}

#[test]
fn a_certificate_is_for_that_name_and_that_time() {
    let test = "store_tls::a_certificate_is_for_that_name_and_that_time";
    if !machine::has(test, &["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let trusted = root(&authority.certificate());
    for server in Server::all(test, Some(&authority.certify("DNS:db.example.org"))) {
        refused(&server.url("127.0.0.1", &trusted), "its certificate is for another name");
        refused(&server.url("localhost", &trusted), "its certificate is for another name");
        works(&server.url("localhost", &format!("{trusted}&sslmode=verify-ca")));
        refused(&server.url("localhost", "sslmode=verify-ca"), "an authority that is not trusted here");
        works(&server.url("127.0.0.1", "sslmode=require"));
    }
    for server in Server::all(test, Some(&authority.certify_long_ago("IP:127.0.0.1"))) {
        refused(&server.url("127.0.0.1", &trusted), "its certificate has expired");
        refused(&server.url("127.0.0.1", &format!("{trusted}&sslmode=verify-ca")), "its certificate has expired");
        works(&server.url("127.0.0.1", "sslmode=require"));
    }
}

#[test]
fn a_server_without_tls_is_not_spoken_to_in_plain_text() {
    let test = "store_tls::a_server_without_tls_is_not_spoken_to_in_plain_text";
    for server in Server::all(test, None) {
        let url = server.url("127.0.0.1", "sslmode=require");
        match server {
            // It waits for the end of what it takes for a command.
            Server::Redis(_) => {
                let error = Sandbox::new().with_store(&url).triplock(["trip", "list"]).fails(69);
                assert!(error["message"].as_str().unwrap().contains("or it speaks no TLS there"), "{error}");
            }
            Server::Postgres(_) => drop(refused(&url, "it speaks no TLS; set `ssl = on` there")),
        }
    }
}

/// 0.0.0.0 leads to this machine as well, and does not look like it.
#[test]
fn plain_text_that_leaves_the_machine_is_warned_of_once() {
    let test = "store_tls::plain_text_that_leaves_the_machine_is_warned_of_once";
    for server in Server::all(test, None) {
        let here = Sandbox::new().with_store(&server.plain_url("127.0.0.1")).trip("1", 2);
        let finished = here.book("1", "7").run();
        assert!(finished.exits(0).stderr.is_empty(), "{}", finished.stderr);
        let there = Sandbox::new().with_store(&server.plain_url("0.0.0.0"));
        let finished = there.book("1", "8").run();
        assert_eq!(finished.exits(0).stderr.lines().count(), 1, "{}", finished.stderr);
        let warning: serde_json::Value = serde_json::from_str(&finished.stderr).unwrap();
        assert_eq!(warning["format"], 1);
        let words = "everything goes to 0.0.0.0 in plain text, passwords too";
        assert!(warning["warning"].as_str().unwrap().contains(words), "{warning}");
        let finished = there.triplock(["trip", "list"]).in_text().run();
        assert_eq!(finished.exits(0).stderr.lines().count(), 1, "{}", finished.stderr);
        assert!(finished.stderr.starts_with("triplock: ") && finished.stderr.contains(words), "{}", finished.stderr);
        let finished = there.run("nightly", &[], &["true"]).run();
        assert_eq!(finished.exits(0).stderr.lines().count(), 1, "{}", finished.stderr);
        let lock = if matches!(server, Server::Redis(_)) { "redis" } else { "postgres" };
        let finished = there.triplock(["race", "--lock", lock, "--delay", "0-1"]).run();
        assert_eq!(finished.exits(0).stderr.lines().count(), 1, "{}", finished.stderr);
        let doctor = there.triplock(["doctor", "--root", "/none/such"]).run();
        assert!(doctor.exits(0).stdout.contains(words), "{}", doctor.stdout);
        // Nothing is sent there that nobody asked to be sent in plain text.
        if matches!(server, Server::Postgres(_)) {
            let url = server.plain_url("0.0.0.0").replace("?sslmode=disable", "");
            refused(&url, "TLS");
        }
    }
}

//! Redis.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use super::{Certificate, directory, free_port, in_url, process::Process};
use crate::{machine, sandbox::eventually};

/// How a server is to be.
#[derive(Debug, Clone)]
#[must_use]
pub(crate) struct RedisPlan {
    address: String,
    settings: Vec<(String, String)>,
    password: Option<String>,
    certificate: Option<Certificate>,
    under: Vec<String>,
}

/// A Redis server of one's own: by default every answer is on its disk (`appendfsync always`).
#[derive(Debug)]
pub(crate) struct Redis {
    plan: RedisPlan,
    directory: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl RedisPlan {
    fn new() -> Self {
        Self {
            address: "127.0.0.1".to_owned(),
            // (A primary waits five seconds for further replicas by default.)
            settings: ["appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0"].map(setting).to_vec(),
            password: None,
            certificate: None,
            under: Vec::new(),
        }
    }

    /// A line of redis.conf.
    pub(crate) fn setting(mut self, line: &str) -> Self {
        let (key, value) = setting(line);
        // A user may be defined more than once; anything else has one value.
        self.settings.retain(|(known, _)| *known != key || key == "user");
        self.settings.push((key, value));
        self
    }

    /// The address to listen on, if not 127.0.0.1.
    pub(crate) fn listening(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// With `requirepass`.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// TLS, and nothing else, on its port.
    pub(crate) fn with_tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Started by that command, such as `ip netns exec NAME`, which becomes it.
    pub(crate) fn under<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.under = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    pub(crate) fn start(self) -> Redis {
        let directory = directory("redis");
        let mut redis = Redis { plan: self, directory, port: 0, process: None };
        for _ in 0..20 {
            redis.port = free_port();
            match redis.launch() {
                Ok(()) => return redis,
                Err(words) if words.contains("Address already in use") => {}
                Err(words) => panic!("redis-server does not start: {words}"),
            }
        }
        panic!("redis-server finds no port")
    }
}

fn setting(line: &str) -> (String, String) {
    let (key, value) = line.split_once(' ').expect("a setting is KEY VALUE");
    (key.to_owned(), value.to_owned())
}

impl Redis {
    /// Whether there is one; if not, the test is skipped out loud.
    #[track_caller]
    pub(crate) fn is_installed(test: &str) -> bool {
        machine::has(test, &["redis-server", "redis-cli", "setpriv"])
    }

    pub(crate) fn start() -> Self {
        Self::plan().start()
    }

    /// For one that is not as usual.
    pub(crate) fn plan() -> RedisPlan {
        RedisPlan::new()
    }

    /// Its URL, without a password.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.plan.certificate.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}:{}", in_url(&self.plan.address), self.port)
    }

    /// Its URL by its Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Ends as when its machine is shut down.
    pub(crate) fn shut_down(&mut self) {
        self.process.take().expect("it runs").end_by(Signal::TERM);
    }

    /// On the same port, with the same data.
    pub(crate) fn restart(&mut self) {
        drop(self.process.take());
        self.launch().unwrap_or_else(|words| panic!("redis-server does not start again: {words}"));
    }

    /// The same without the data, as after a flush or when its disk was replaced.
    pub(crate) fn restart_empty(&mut self) {
        drop(self.process.take());
        for name in ["appendonlydir", "dump.rdb", "appendonly.aof"] {
            let path = self.directory.join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        self.restart();
    }

    /// SIGSTOP: connections are accepted (by the kernel), and nothing is answered.
    pub(crate) fn stop_answering(&self) {
        self.running().signal_all(Signal::STOP);
    }

    pub(crate) fn answer_again(&self) {
        self.running().signal_all(Signal::CONT);
    }

    /// Whether it answers within half a second.
    pub(crate) fn answers(&self) -> bool {
        let mut ping = Command::new("timeout");
        ping.args(["0.5", "redis-cli"]).args(self.client()).arg("PING");
        let answer = ping.output().expect("start redis-cli");
        // (Where a password is wanted, that is an answer too.)
        answer.status.success() && !answer.stdout.is_empty() && !answer.stdout.starts_with(b"LOADING")
    }

    /// What redis-cli prints for a command that succeeds.
    #[track_caller]
    pub(crate) fn cli<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let mut cli = Command::new("redis-cli");
        cli.arg("-e").args(self.client()).args(words);
        if let Some(password) = &self.plan.password {
            cli.env("REDISCLI_AUTH", password);
        }
        let output = cli.output().expect("start redis-cli");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "redis-cli: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A replica, which has all that this one has now.
    pub(crate) fn replica(&self) -> Self {
        let mut plan = self.plan.clone().setting(&format!("replicaof {} {}", self.plan.address, self.port));
        if let Some(password) = &self.plan.password {
            plan = plan.setting(&format!("masterauth {password}"));
        }
        if self.plan.certificate.is_some() {
            plan = plan.setting("tls-replication yes");
        }
        let replica = plan.start();
        eventually("the replica is there", || {
            let info = replica.cli(["INFO", "replication"]);
            info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0")
        });
        replica
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    fn client(&self) -> Vec<String> {
        vec!["-s".to_owned(), self.socket().display().to_string()]
    }

    fn launch(&mut self) -> Result<(), String> {
        // In a file, since a password may be in it.
        let configuration = self.directory.join("redis.conf");
        fs::write(&configuration, self.configuration()).expect("write redis.conf");
        let mut words = self.plan.under.clone();
        words.extend(["redis-server".to_owned(), configuration.display().to_string()]);
        let _ = fs::remove_file(self.socket());
        let log = self.directory.join("log");
        let _ = fs::remove_file(&log);
        let mut process = Process::start(&words, Signal::KILL, log);
        process.ready(|| self.socket().exists() && self.answers())?;
        self.process = Some(process);
        Ok(())
    }

    fn configuration(&self) -> String {
        let Self { plan, directory, port, .. } = self;
        let mut lines = vec![
            format!("bind {}", plan.address),
            format!("dir {}", directory.display()),
            format!("unixsocket {}", self.socket().display()),
            "unixsocketperm 777".to_owned(),
            "save \"\"".to_owned(),
            "daemonize no".to_owned(),
        ];
        if let Some(Certificate { certificate, key, authority }) = &plan.certificate {
            lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                format!("tls-cert-file {}", certificate.display()),
                format!("tls-key-file {}", key.display()),
                format!("tls-ca-cert-file {}", authority.display()),
                "tls-auth-clients no".to_owned(),
            ]);
        } else {
            lines.push(format!("port {port}"));
        }
        if let Some(password) = &plan.password {
            lines.push(format!("requirepass \"{}\"", password.replace('\\', "\\\\").replace('"', "\\\"")));
        }
        lines.extend(plan.settings.iter().map(|(key, value)| format!("{key} {value}")));
        lines.join("\n") + "\n"
    }
}

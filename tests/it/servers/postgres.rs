//! PostgreSQL.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::Deref,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::Signal;

use super::{Certificate, directory, free_port, in_url, is_program, process::Process};
use crate::machine;

/// The superuser of the tests' servers, who needs no password from this machine unless the plan says so.
pub(super) const USER: &str = "triplock";

/// How a server is to be.
#[derive(Debug, Clone)]
#[must_use]
pub(crate) struct PostgresPlan {
    address: String,
    settings: Vec<(String, String)>,
    hba: Option<String>,
    certificate: Option<Certificate>,
    under: Vec<String>,
}

/// A PostgreSQL server.
#[derive(Debug)]
pub(crate) struct Postgres {
    plan: PostgresPlan,
    directory: PathBuf,
    port: u16,
    process: Option<Process>,
    /// Ended without having tidied up.
    was_killed: bool,
}

/// A database of one's own, on a server that others have databases on. It goes with this.
#[derive(Debug)]
pub(crate) struct Database<'a> {
    server: &'a Postgres,
    name: String,
}

/// The programs of the newest PostgreSQL here.
static PROGRAMS: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    // Debian keeps them off the PATH, a directory for each version.
    let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let version = |path: &Path| path.file_name()?.to_str()?.trim_start_matches("pgsql-").parse::<u32>().ok();
    let mut versions: Vec<_> = list("/usr/lib/postgresql")
        .chain(list("/usr").filter(|path| path.display().to_string().starts_with("/usr/pgsql-")))
        .filter_map(|path| Some((version(&path)?, path.join("bin"))))
        .filter(|(_, bin)| is_program(&bin.join("initdb")) && is_program(&bin.join("postgres")))
        .collect();
    versions.sort();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).find(|bin| is_program(&bin.join("initdb")));
    versions.pop().map(|(_, bin)| bin).or(on_path)
});

/// Who may run it: it refuses root.
pub(super) static ACCOUNT: LazyLock<Option<u32>> = LazyLock::new(|| {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find_map(|line| line.strip_prefix("postgres:"))?;
    line.split(':').nth(1)?.parse().ok()
});

/// An empty data directory, made once.
static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = own_directory("template");
    let data = directory.join("data");
    // What is made here is copied, and a copy is not synced.
    let words = ["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"];
    let mut words: Vec<_> = words.map(str::to_owned).to_vec();
    words.extend([format!("--username={USER}"), format!("--pgdata={}", data.display())]);
    done("initdb", &run_as_account("initdb", &words));
    data
});

fn program(name: &str) -> PathBuf {
    PROGRAMS.as_ref().expect("PostgreSQL is installed").join(name)
}

/// Words that have a command run as whom PostgreSQL accepts.
pub(super) fn as_account() -> Vec<String> {
    if !machine::is_root() {
        return Vec::new();
    }
    // After these the parent-death signal is cleared, so it is set here again.
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig", "QUIT"]
        .map(str::to_owned)
        .to_vec()
}

fn run_as_account(name: &str, words: &[String]) -> Output {
    let mut all = as_account();
    all.push(program(name).display().to_string());
    all.extend_from_slice(words);
    Command::new(&all[0]).args(&all[1..]).current_dir("/").output().expect("start a program of PostgreSQL")
}

#[track_caller]
fn done(what: &str, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {error}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn own_directory(kind: &str) -> PathBuf {
    let directory = directory(kind);
    if machine::is_root() {
        chown(&directory, *ACCOUNT, None).expect("chown");
    }
    directory
}

impl PostgresPlan {
    fn new() -> Self {
        let settings = [
            // Its memory lies in its own directory, and goes with it.
            ("dynamic_shared_memory_type", "mmap"),
            ("max_connections", "200"),
            ("max_wal_senders", "4"),
            ("shared_buffers", "32MB"),
            ("max_wal_size", "256MB"),
            ("autovacuum_naptime", "5min"),
        ];
        Self {
            address: "127.0.0.1".to_owned(),
            settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            hba: None,
            certificate: None,
            under: Vec::new(),
        }
    }

    /// A setting of postgresql.conf.
    pub(crate) fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The address to listen on, if not 127.0.0.1.
    pub(crate) fn listening(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Lines of `pg_hba.conf` that come before those which let everybody in from here.
    pub(crate) fn hba(mut self, lines: &str) -> Self {
        self.hba = Some(lines.to_owned());
        self
    }

    /// Who comes by TCP gives a password (SCRAM); the Unix socket stays open.
    pub(crate) fn wanting_passwords(self) -> Self {
        self.hba("host all all all scram-sha-256")
    }

    /// With TLS for who asks for it.
    pub(crate) fn with_tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Started by that command, such as `ip netns exec NAME`, which becomes it.
    pub(crate) fn under<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.under = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    pub(crate) fn start(self) -> Postgres {
        let directory = own_directory("postgres");
        let copied = Command::new("cp").arg("-a").arg(&*TEMPLATE).arg(directory.join("data")).output();
        done("cp", &copied.expect("start cp"));
        Postgres { plan: self, directory, port: 0, process: None, was_killed: false }.first_start()
    }
}

impl Postgres {
    /// Whether there is one that this user may start; if not, the test is skipped out loud.
    #[track_caller]
    pub(crate) fn is_installed(test: &str) -> bool {
        if PROGRAMS.is_none() {
            machine::skip(test, "not installed: PostgreSQL");
            return false;
        }
        if machine::is_root() && ACCOUNT.is_none() {
            machine::skip(test, "PostgreSQL refuses root, and there is no user postgres");
            return false;
        }
        machine::has(test, &["setpriv"])
    }

    /// The one that all tests of this process share. It goes on until the last has ended: nobody stops or configures it.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    /// A private one.
    pub(crate) fn start() -> Self {
        Self::plan().start()
    }

    /// For one that is not as usual.
    pub(crate) fn plan() -> PostgresPlan {
        PostgresPlan::new()
    }

    /// A database of one's own.
    pub(crate) fn database(&self) -> Database<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}"));
        Database { server: self, name }
    }

    /// The URL of its database `postgres`, for its superuser, without a password.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of another one.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@{}:{}/{database}", in_url(&self.plan.address), self.port)
    }

    /// Its URL by its Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        let directory = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres:///postgres?user={USER}&host={directory}&port={}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> &str {
        &self.plan.address
    }

    /// Where its Unix socket is, and in `data` what it keeps.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// SIGKILL to the postmaster; the others notice and end.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
        self.was_killed = true;
    }

    /// Ends as when its machine is shut down: connections are ended, nothing is lost.
    pub(crate) fn shut_down(&mut self) {
        self.process.take().expect("it runs").end_by(Signal::INT);
    }

    /// On the same port, with the same data.
    pub(crate) fn restart(&mut self) {
        if self.process.is_some() {
            self.shut_down();
        }
        self.launch().unwrap_or_else(|words| panic!("PostgreSQL does not start again: {words}"));
    }

    /// SIGSTOP to all its processes: connections are accepted (by the kernel), and nothing is answered.
    pub(crate) fn stop_answering(&self) {
        self.running().signal_all(Signal::STOP);
    }

    pub(crate) fn answer_again(&self) {
        self.running().signal_all(Signal::CONT);
    }

    /// Whether it answers within half a second.
    pub(crate) fn answers(&self) -> bool {
        let mut psql = Command::new("timeout");
        psql.arg("0.5").arg(program("psql")).args(self.client("postgres")).args(["-c", "SELECT 1"]);
        psql.output().expect("start psql").status.success()
    }

    /// What psql prints for a command that succeeds in the database `postgres`, bare.
    #[track_caller]
    pub(crate) fn sql(&self, command: &str) -> String {
        self.sql_in("postgres", command)
    }

    /// The same in another database.
    #[track_caller]
    pub(crate) fn sql_in(&self, database: &str, command: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.args(self.client(database)).args(["-c", command]);
        done("psql", &psql.output().expect("start psql"))
    }

    /// Has a command refused, in another database; why.
    #[track_caller]
    fn refusal_in(&self, database: &str, command: &str) -> String {
        let output = self.told(database).args(["-c", command]).output().expect("start psql");
        assert!(!output.status.success(), "not refused: {command}");
        String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
    }

    /// Does what it says in a transaction that stays open until this is dropped.
    pub(crate) fn keeps_open(&self, command: &str) -> Open {
        self.keeps_open_in("postgres", command)
    }

    fn keeps_open_in(&self, database: &str, command: &str) -> Open {
        let mut psql = self.told(database);
        let psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut psql = psql.spawn().expect("start psql");
        let script = format!("BEGIN;\n{command};\n\\echo done\n");
        psql.stdin.as_mut().expect("a pipe").write_all(script.as_bytes()).expect("write to psql");
        let said = BufReader::new(psql.stdout.take().expect("a pipe"));
        let is_done = said.lines().map_while(Result::ok).any(|line| line == "done");
        assert!(is_done, "psql has not done {command}");
        Open(psql)
    }

    /// A psql that is to be told something.
    fn told(&self, database: &str) -> Command {
        let mut psql = Command::new(program("psql"));
        psql.args(self.client(database));
        psql
    }

    /// The words of a psql that does this in the database `postgres`, and prints it bare.
    pub(crate) fn psql(&self, command: &str) -> Vec<String> {
        let mut words = vec![program("psql").display().to_string()];
        words.extend(self.client("postgres"));
        words.extend(["-c".to_owned(), command.to_owned()]);
        words
    }

    /// A hot standby, which has all that this one has now.
    pub(crate) fn replica(&self) -> Self {
        let directory = own_directory("postgres");
        let mut words = vec![format!("--pgdata={}", directory.join("data").display())];
        words.extend(
            ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--wal-method=stream"].map(str::to_owned),
        );
        words.extend([format!("--host={}", self.directory.display()), format!("--port={}", self.port)]);
        words.push(format!("--username={USER}"));
        done("pg_basebackup", &run_as_account("pg_basebackup", &words));
        Self { plan: self.plan.clone(), directory, port: 0, process: None, was_killed: false }.first_start()
    }

    /// A replica becomes a primary.
    pub(crate) fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }

    fn first_start(mut self) -> Self {
        for _ in 0..20 {
            self.port = free_port();
            match self.launch() {
                Ok(()) => return self,
                Err(words) if words.contains("Address already in use") => {}
                Err(words) => panic!("PostgreSQL does not start: {words}"),
            }
        }
        panic!("PostgreSQL finds no port")
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    fn client(&self, database: &str) -> Vec<String> {
        let host = format!("--host={}", self.directory.display());
        let connection = [host, format!("--port={}", self.port), format!("--username={USER}"), database.to_owned()];
        let bare = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"].map(str::to_owned);
        bare.into_iter().chain(connection).collect()
    }

    fn launch(&mut self) -> Result<(), String> {
        let data = self.directory.join("data");
        fs::write(data.join("postgresql.auto.conf"), self.configuration()).expect("write postgresql.auto.conf");
        if let Some(lines) = &self.plan.hba {
            let open = format!("local all all trust\nlocal replication all trust\n{lines}\n");
            fs::write(data.join("pg_hba.conf"), open).expect("write pg_hba.conf");
        } else {
            let open = "local all all trust\nlocal replication all trust\nhost all all all trust\nhost replication all all trust\n";
            fs::write(data.join("pg_hba.conf"), open).expect("write pg_hba.conf");
        }
        let mut words = self.plan.under.clone();
        words.extend(as_account());
        words.extend([program("postgres").display().to_string(), "-D".to_owned(), data.display().to_string()]);
        let log = self.directory.join("log");
        let _ = fs::remove_file(&log);
        let mut process = Process::start(&words, Signal::QUIT, log);
        let id = process.id().to_string();
        process.ready(|| {
            let status = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = status.lines();
            lines.next() == Some(&id) && lines.nth(6).is_some_and(|status| status.trim() == "ready")
        })?;
        self.process = Some(process);
        self.was_killed = false;
        Ok(())
    }

    fn configuration(&self) -> String {
        let quoted = |key: &str, value: &str| format!("{key} = '{}'\n", value.replace('\'', "''"));
        let mut text = quoted("listen_addresses", &self.plan.address);
        text += &quoted("port", &self.port.to_string());
        text += &quoted("unix_socket_directories", &self.directory.display().to_string());
        for (key, value) in &self.plan.settings {
            text += &quoted(key, value);
        }
        if let Some(Certificate { certificate, key, .. }) = &self.plan.certificate {
            // The key must be its own, and nobody else's.
            let data = self.directory.join("data");
            for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
                fs::copy(from, data.join(to)).expect("copy a certificate");
                if machine::is_root() {
                    chown(data.join(to), *ACCOUNT, None).expect("chown");
                }
            }
            text += "ssl = on\n";
        }
        // (What pg_basebackup wrote.)
        let before = fs::read_to_string(self.directory.join("data/postgresql.auto.conf")).unwrap_or_default();
        text + &before
            .lines()
            .filter(|line| line.starts_with("primary_"))
            .fold(String::new(), |kept, line| kept + line + "\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let status = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
        drop(self.process.take());
        if self.was_killed {
            // A killed postmaster leaves its shared memory to the next one; there is none.
            if let Some(id) = status.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
                let _ = Command::new("ipcrm").args(["-m", id]).output();
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Database<'_> {
    /// Its URL, without a password.
    pub(crate) fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What psql prints for a command that succeeds here, bare.
    #[track_caller]
    pub(crate) fn sql(&self, command: &str) -> String {
        self.server.sql_in(&self.name, command)
    }

    /// Does what it says in a transaction that stays open until this is dropped.
    pub(crate) fn keeps_open(&self, command: &str) -> Open {
        self.server.keeps_open_in(&self.name, command)
    }

    /// Has a command refused; why.
    #[track_caller]
    pub(crate) fn refusal(&self, command: &str) -> String {
        self.server.refusal_in(&self.name, command)
    }
}

/// An open transaction, of psql.
#[derive(Debug)]
pub(crate) struct Open(Child);

impl Drop for Open {
    fn drop(&mut self) {
        // Its input ends, and so does it, and with it the transaction.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Deref for Database<'_> {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        self.server
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let mut psql = Command::new(program("psql"));
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // If the server is gone, so is the database.
        let _ = psql.args(self.server.client("postgres")).args(["-c", &drop]).output();
    }
}

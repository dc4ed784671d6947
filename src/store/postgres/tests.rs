//! A PostgreSQL for the contracts of sessions.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{Session, StoreUrl, connect, open};

const PATIENCE: Duration = Duration::from_secs(30);

/// One that only this test knows: it listens on a socket in a directory of its own, and ends with the test's thread.
pub(in crate::store) struct Server {
    directory: TempDir,
    process: Child,
}

/// The programs of the newest one here. Debian keeps them off the PATH, a directory for each version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let version = |path: PathBuf| Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin")));
    versions.filter_map(|entry| version(entry.path())).max().map(|(_, programs)| programs)
}

/// A program of it, run by somebody whom it accepts: not by root.
fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.args(["--pdeathsig", "QUIT"]).arg(program).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Server {
    /// `None` where none is installed: the integration tests say so out loud.
    pub(in crate::store) fn start() -> Option<Self> {
        let programs = programs()?;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let data = directory.path().join("data");
        let mut made = command(&programs.join("initdb"));
        made.args(["--auth=trust", "--no-sync", "--username=triplock", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data);
        if !made.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let mut postgres = command(&programs.join("postgres"));
        postgres.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(directory.path());
        let server = Self { process: postgres.spawn().unwrap(), directory };
        let deadline = Instant::now() + PATIENCE;
        while open(&server.url(), PATIENCE).is_err() {
            assert!(Instant::now() < deadline, "PostgreSQL does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    fn url(&self) -> StoreUrl {
        let socket = self.directory.path().display();
        format!("postgres://triplock@/postgres?host={socket}").parse().unwrap()
    }

    pub(in crate::store) fn session(&self) -> Box<dyn Session> {
        connect(&self.url(), PATIENCE).unwrap()
    }

    /// The first column of all rows.
    pub(in crate::store) fn sql(&self, statement: &str) -> Vec<String> {
        let answers = open(&self.url(), PATIENCE).unwrap().ask(statement).unwrap();
        answers.iter().flatten().map(|row| row.text(0).unwrap().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.process.wait();
    }
}

//! The session against a real server.

mod facts;
mod lane;
mod leases;
mod ledgers;
mod properties;

use std::{
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{Session, StoreUrl, connect};
use crate::{
    job::{Entry, Event, NotRun, Outcome, RunId},
    lock::{Fence, Holder},
    name::Name,
};

/// A Redis that only this test knows: it listens on a socket in a directory of its own, and ends with the test's thread.
pub(in crate::store) struct Server {
    directory: TempDir,
    process: Child,
}

impl Server {
    /// `None` where none is installed: the integration tests say so out loud.
    pub(in crate::store) fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--save", "", "--unixsocket"]);
        command.arg(directory.path().join("socket")).arg("--dir").arg(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().ok()?;
        let mut server = Self { directory, process };
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(server.directory.path().join("socket")).is_err() {
            if server.process.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "redis-server does not start");
            thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    pub(in crate::store) fn session(&self) -> Box<dyn Session> {
        let url: StoreUrl = format!("redis+unix://{}/socket", self.directory.path().display()).parse().unwrap();
        connect(&url, Duration::from_secs(30)).unwrap()
    }

    pub(in crate::store) fn cli(&self, words: &[&str]) -> String {
        let socket = self.directory.path().join("socket");
        let output = Command::new("redis-cli").arg("-s").arg(socket).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn holder() -> Holder {
    let since = "2026-11-23T20:25:19.123456+00:00".parse().unwrap();
    Holder { pid: 7, host: "h".to_owned(), since, command: "a \"b\"".to_owned(), fence: Fence(0) }
}

fn skipped(run: u64) -> Entry {
    let (outcome, reason, command) = (Outcome::Skipped, String::new(), "true".to_owned());
    let event =
        Event::NotRun(NotRun { run: RunId(run), outcome, reason, holder: None, wait: 0.0, command, queued: false });
    Entry { time: holder().since, host: "h".to_owned(), pid: 7, invocation_id: None, event }
}

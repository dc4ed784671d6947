//! A network of a test's own, and a host name: what makes several machines of one.
//!
//! A process holds the namespaces, and reads from a pipe that only the test has: however the test ends, the pipe is
//! closed, the holder ends, and with it everything that lies in the network: addresses, links, rules.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, PidfdFlags, Signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::machine;

/// A network namespace and a UTS namespace. Its processes are those that run in that network; they end with it.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Child,
    network: File,
}

/// Whether the test may make networks; if not, it is skipped out loud.
#[track_caller]
pub(crate) fn may_make(test: &str) -> bool {
    if !machine::is_root() {
        machine::skip(test, "needs root, to make networks");
        return false;
    }
    if !machine::has(test, &["ip", "nft", "unshare", "nsenter"]) {
        return false;
    }
    let tried = Command::new("unshare").args(["--net", "--uts", "nft", "list", "ruleset"]).output();
    let tried = tried.expect("unshare is installed");
    if tried.status.success() {
        return true;
    }
    machine::skip(test, &format!("no network can be made here: {}", String::from_utf8_lossy(&tried.stderr).trim()));
    false
}

impl Namespace {
    /// A network with nothing but a loopback, on a machine of that name.
    #[track_caller]
    pub(crate) fn new(host_name: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts", "/bin/sh", "-c"]);
        command.args([r#"hostname "$0" && ip link set lo up && echo made && read -r closed"#, host_name]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start unshare");
        let mut said = String::new();
        let mut stdout = BufReader::new(holder.stdout.take().expect("piped"));
        stdout.read_line(&mut said).expect("read from our own child");
        assert_eq!(said, "made\n", "cannot make a network for {host_name}");
        let network = File::open(format!("/proc/{}/ns/net", holder.id())).expect("open the namespace");
        Self { holder, network }
    }

    /// Words to put before a command that is to run in it. The process that they start becomes the command.
    pub(crate) fn inside(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--net", "--uts", "--"].map(str::to_owned).into()
    }

    /// The name of its network for ip(8).
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Moves the calling thread into it, and so the threads that it starts from here on.
    pub(crate) fn enter(&self) {
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    }

    /// What ip(8) says in it.
    #[track_caller]
    pub(crate) fn ip(&self, words: &str) -> String {
        self.run(["ip"].into_iter().chain(words.split_whitespace()), "")
    }

    /// Has nft(8) do something in it.
    #[track_caller]
    pub(crate) fn nft(&self, rules: &str) {
        self.run(["nft", "-f", "-"], rules);
    }

    #[track_caller]
    fn run<'w>(&self, words: impl IntoIterator<Item = &'w str>, input: &str) -> String {
        let words: Vec<_> = words.into_iter().collect();
        let [program, args @ ..] = &self.inside()[..] else { unreachable!("nsenter and its options") };
        let mut command = Command::new(program);
        command.args(args).args(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start nsenter");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write to our own child");
        let output = child.wait_with_output().expect("wait for our own child");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {why}{input}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The processes that run in it, its holder excepted.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("list /proc");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.holder.id() && self.has(*pid)).collect()
    }

    /// Whether that process is in it.
    fn has(&self, pid: u32) -> bool {
        let ours = self.network.metadata().expect("stat our own file");
        // A process that has ended has none.
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|its| (its.dev(), its.ino()) == (ours.dev(), ours.ino()))
    }

    /// `kill -9` of everything that runs in it.
    pub(crate) fn end_all(&self) {
        for _ in 0..5000 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let pid_of = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let Some(Ok(handle)) = pid_of.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) else {
                    continue;
                };
                // Looked at once the handle means it: the number may have passed to a stranger before.
                if self.has(pid) {
                    let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.end_all();
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

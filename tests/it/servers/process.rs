//! The process of a server.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any server takes to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The thread that starts the servers: they end with it, and it ends with the process.
static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (order, orders) = mpsc::channel::<Order>();
    thread::Builder::new()
        .name("starter".to_owned())
        .spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        })
        .expect("start a thread");
    Mutex::new(order)
});

/// A server's process, which is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    end: Signal,
    log: PathBuf,
}

impl Process {
    /// Starts one; its words go to the log. `end`: the signal that ends it, at once and without a trace.
    pub(super) fn start(words: &[String], end: Signal, log: PathBuf) -> Self {
        let name = if end == Signal::QUIT { "QUIT" } else { "KILL" };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", name]).args(words).stdin(Stdio::null());
        let out = fs::OpenOptions::new().create(true).append(true).open(&log).expect("open a server's log");
        command.stdout(out.try_clone().expect("dup")).stderr(out);
        // What a server is told in its environment, it would take for itself.
        for (name, _) in std::env::vars_os() {
            if ["PG", "REDIS", "TRIPLOCK"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let (reply, child) = mpsc::channel();
        let starter = STARTER.lock().expect("no panic while a server is started").clone();
        starter.send((command, reply)).expect("the starter lives");
        let child = child.recv().expect("the starter lives").expect("start setpriv");
        Self { child, end, log }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready, or gives the end of its log when it ended before.
    pub(super) fn ready(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !is_ready() {
            if self.child.try_wait().expect("wait for our own child").is_some() {
                return Err(self.words());
            }
            assert!(Instant::now() < deadline, "a server does not get ready: {}", self.words());
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What it said last.
    pub(super) fn words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Our own child, and not waited for: the number still means it.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// SIGSTOP or SIGCONT to it and the processes that it started.
    pub(super) fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        for child in children(self.id()) {
            let _ = kill_process(child, signal);
        }
    }

    /// SIGKILL, and waits until it is gone, with the processes that it started.
    pub(super) fn kill(&mut self) {
        let children: Vec<_> = children(self.id()).collect();
        self.end_by(Signal::KILL);
        // They notice by themselves, unless they are stopped.
        let deadline = Instant::now() + PATIENCE;
        for child in children {
            while is_alive(child) && Instant::now() < deadline {
                let _ = kill_process(child, Signal::CONT);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// That signal, and waits until it is gone.
    pub(super) fn end_by(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(signal);
        self.signal_all(Signal::CONT);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_by(self.end);
    }
}

/// The processes that a process started itself. (Not every kernel has a list of them.)
fn children(parent: u32) -> impl Iterator<Item = Pid> {
    let all = fs::read_dir("/proc").expect("list /proc").filter_map(Result::ok);
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = move |id: &i32| stat(*id).is_some_and(|(_, of)| of == parent);
    numbers.filter(is_child).filter_map(Pid::from_raw)
}

/// Not gone, and no orphan that nobody has reaped yet.
fn is_alive(process: Pid) -> bool {
    stat(process.as_raw_nonzero().get()).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// A process's state, and whose child it is.
fn stat(process: i32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

//! The queue beside nq and task-spooler, which do the same without and with a daemon: jobs through one lane, the gap between two of
//! them, what waiting costs, and what a kill does.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;

use crate::{
    drive::median,
    report::{Figures, Part, Target},
    site::Site,
};

/// Jobs through one lane, and runs that wait in one.
const MANY: usize = 1000;

const ROUNDS: usize = 3;

/// The same of task-spooler, whose daemon has a connection to each and, with select(2), no more than 1,024.
const MANY_CONNECTIONS: usize = 900;

/// Jobs between whose ends and starts the gap is measured.
const CHAIN: usize = 200;

/// Releases of a lock that one waits for.
const RELEASES: usize = 50;

pub(crate) fn measure(site: &Site) -> Part {
    let mut part = Part::new(
        "queue",
        "1,000 times `true` through one lane, added one at a time, from the first addition to the end of the last, 3 rounds in \
         turn; from the release of a lock that one process waits for to the start of its command, median of 50, and the gap from the \
         end of a command to the start of the next, median of a chain of 200, 3 rounds in turn each; and 1,000 runs that \
         wait for one. triplock has each addition and each end on disk, the others nothing",
    );
    let queues = [Queue::Triplock, Queue::Nq, Queue::TaskSpooler];
    let there: Vec<Queue> = queues.into_iter().filter(|queue| queue.is_there()).collect();
    for missing in queues.into_iter().filter(|queue| !there.contains(queue)) {
        part.note(format!("**Not measured:** {} is not installed", missing.name()));
    }
    through_one_lane(&mut part, site, &there);
    released(&mut part, site);
    hand_over(&mut part, site, &there);
    waiting(&mut part, site, &there);
    killed(&mut part, site, &there);
    part
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Triplock,
    Nq,
    TaskSpooler,
}

impl Queue {
    fn name(self) -> &'static str {
        match self {
            Self::Triplock => "triplock",
            Self::Nq => "nq",
            Self::TaskSpooler => "task-spooler",
        }
    }

    fn is_there(self) -> bool {
        let program = match self {
            Self::Triplock => return true,
            Self::Nq => "nq",
            Self::TaskSpooler => "tsp",
        };
        Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

/// One queue with a directory of its own.
struct Place<'s> {
    site: &'s Site,
    queue: Queue,
    directory: PathBuf,
}

impl<'s> Place<'s> {
    fn new(site: &'s Site, queue: Queue) -> Self {
        Self { site, queue, directory: site.directory(queue.name()) }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("TRIPLOCK_STATE_DIR", &self.directory)
            .env("NQDIR", &self.directory)
            .env("TMPDIR", &self.directory)
            .env("TS_SOCKET", self.directory.join("socket"))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn add(&self, words: &[&str]) {
        let mut command = match self.queue {
            Queue::Triplock => {
                let mut command = self.command(self.site.product());
                command.args(["queue", "add", "lane", "--"]);
                command
            }
            Queue::Nq => self.command(Path::new("nq")),
            Queue::TaskSpooler => self.command(Path::new("tsp")),
        };
        let status = command.args(words).status().expect("it starts");
        assert!(status.success(), "{} did not queue: {status}", self.queue.name());
    }

    /// Sleeps until all `added` are over.
    fn wait(&self, added: usize) {
        let mut command = match self.queue {
            Queue::Triplock => {
                let mut command = self.command(self.site.product());
                command.args(["queue", "wait", &format!("lane/{added}")]);
                command
            }
            Queue::Nq => {
                let mut command = self.command(Path::new("nq"));
                command.arg("-w");
                command
            }
            Queue::TaskSpooler => {
                let mut command = self.command(Path::new("tsp"));
                command.arg("-w");
                command
            }
        };
        let _ = command.status().expect("it starts");
    }

    /// The processes of this queue.
    fn processes(&self) -> Vec<u32> {
        let directory = format!("={}", self.directory.display());
        let is_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|line| line.ends_with(directory.as_bytes()))
        };
        let entries = fs::read_dir("/proc").expect("/proc");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Those of them whose program, as the kernel calls it, is that.
    fn named(&self, name: &str) -> Vec<u32> {
        let mut found = self.processes();
        let is_named = |pid: &u32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim() == name && state_of(*pid) != Some('Z')
        };
        found.retain(is_named);
        found.sort_unstable();
        found
    }

    /// Ends all of it.
    fn end(&self) {
        for _ in 0..100 {
            let processes: Vec<u32> =
                self.processes().into_iter().filter(|pid| state_of(*pid).is_some_and(|state| state != 'Z')).collect();
            if processes.is_empty() {
                return;
            }
            kill(&processes);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill(processes: &[u32]) {
    let pids: Vec<String> = processes.iter().map(ToString::to_string).collect();
    // One that is gone already is fine.
    let _ = Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status();
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn through_one_lane(part: &mut Part, site: &Site, queues: &[Queue]) {
    let mut took = vec![Vec::new(); queues.len()];
    for _ in 0..ROUNDS {
        for (at, queue) in queues.iter().enumerate() {
            let place = Place::new(site, *queue);
            let begun = Instant::now();
            (0..MANY).for_each(|_| place.add(&["true"]));
            place.wait(MANY);
            took[at].push(begun.elapsed().as_secs_f64());
        }
    }
    for (at, queue) in queues.iter().enumerate().skip(1) {
        part.row(
            &format!("1,000 jobs through one lane: triplock / {}", queue.name()),
            &Figures::new(&took[0], "s"),
            &Figures::new(&took[at], "s"),
            Target::at_most(1.0),
        );
    }
}

/// From the release of a lock, which nobody's command had, to the start of the command that waited for it.
fn released(part: &mut Part, site: &Site) {
    let baseline = site.baseline().display().to_string();
    let (mut ours, mut bare, mut util_linux) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let place = Place::new(site, Queue::Triplock);
        place.add(&["true"]);
        place.wait(1);
        let stamps = place.directory.join("stamps");
        let words = [&baseline, "stamp", &stamps.display().to_string(), "0"];
        ours.push(releases(&place.directory.join("jobs/lane.lock"), &stamps, |at| {
            place.add(&words);
            let place = &place;
            // One runs before these.
            move || place.wait(at + 2)
        }));
        let chain = |program: &Path, words: &[&str]| {
            let directory = site.directory("released");
            releases(&directory.join("lock"), &directory.join("stamps"), |_| {
                let mut waiter = Command::new(program).args(words).current_dir(&directory).spawn().expect("it starts");
                move || {
                    let _ = waiter.wait().expect("it ends");
                }
            })
        };
        bare.push(chain(site.baseline(), &["wait-and-start", "lock", &baseline, "stamp", "stamps", "0"]));
        util_linux.push(chain(Path::new("flock"), &["lock", &baseline, "stamp", "stamps", "0"]));
    }
    let ours = Figures::new(&ours, "µs");
    let bare = Figures::new(&bare, "µs");
    part.row(
        "from release to start: triplock / one bare flock(2), then the command",
        &ours,
        &bare,
        Target::at_most(1.5),
    );
    let util_linux = Figures::new(&util_linux, "µs");
    part.row("from release to start: triplock / flock(1)", &ours, &util_linux, Target::at_most(1.5));
}

/// The median of so many releases, in microseconds. `wait`: starts something that waits for the lock, and gives how to wait
/// for its end.
#[allow(clippy::disallowed_methods)] // The product's flock(2) is in one module; this is not the product.
fn releases<W: FnOnce()>(lock: &Path, stamps: &Path, wait: impl Fn(usize) -> W) -> f64 {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).expect("the lock");
    let inode = format!(":{} ", lock.metadata().expect("stat").ino());
    let took = |at: usize| {
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("flock");
        let end = wait(at);
        let waits = |line: &str| line.contains("-> FLOCK") && line.contains(&inode);
        while !fs::read_to_string("/proc/locks").expect("the locks").lines().any(waits) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(5));
        let released = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        rustix::fs::flock(&lock, FlockOperation::Unlock).expect("flock");
        end();
        let text = fs::read_to_string(stamps).expect("the stamps");
        let line = text.lines().nth(at).expect("one line each");
        let start: i64 = line.split_once(' ').expect("two times").0.parse().expect("a time");
        (start - (released.tv_sec * 1_000_000_000 + released.tv_nsec)) as f64 / 1000.0
    };
    median(&(0..RELEASES).map(took).collect::<Vec<_>>())
}

/// The gaps between the commands that wrote these stamps, in microseconds.
fn gap(stamps: &Path) -> f64 {
    let text = fs::read_to_string(stamps).expect("the stamps");
    let pair = |line: &str| {
        let (start, end) = line.split_once(' ').expect("two times");
        (start.parse::<i64>().expect("a time"), end.parse::<i64>().expect("a time"))
    };
    let mut stamps: Vec<_> = text.lines().map(pair).collect();
    stamps.sort_unstable();
    assert_eq!(stamps.len(), CHAIN);
    let gaps: Vec<f64> = stamps.windows(2).map(|two| (two[1].0 - two[0].1) as f64 / 1000.0).collect();
    assert!(gaps.iter().all(|gap| *gap > 0.0), "two ran at once");
    median(&gaps)
}

fn hand_over(part: &mut Part, site: &Site, queues: &[Queue]) {
    let mut gaps = vec![Vec::new(); queues.len()];
    let (mut bare, mut util_linux) = (Vec::new(), Vec::new());
    let baseline = site.baseline().display().to_string();
    for _ in 0..ROUNDS {
        for (at, queue) in queues.iter().enumerate() {
            let place = Place::new(site, *queue);
            let stamps = place.directory.join("stamps");
            // All wait before the first runs.
            let gate = Gate::new(&place.directory);
            place.add(&["sh", "-c", &format!("read line <{}", gate.path)]);
            (0..CHAIN).for_each(|_| place.add(&[&baseline, "stamp", &stamps.display().to_string(), "0"]));
            gate.open();
            place.wait(CHAIN + 1);
            gaps[at].push(gap(&stamps));
        }
        let bare_words = ["wait-and-start", "lock", &baseline, "stamp", "stamps", "0"];
        bare.push(chain(site, site.baseline(), &bare_words));
        util_linux.push(chain(site, Path::new("flock"), &["lock", &baseline, "stamp", "stamps", "0"]));
    }
    let ours = Figures::new(&gaps[0], "µs");
    part.row(
        "from end to next start: triplock / one bare flock(2), then the command",
        &ours,
        &Figures::new(&bare, "µs"),
        Target::at_most(1.5),
    );
    part.row(
        "from end to next start: triplock / flock(1)",
        &ours,
        &Figures::new(&util_linux, "µs"),
        Target::at_most(1.5),
    );
    for (at, queue) in queues.iter().enumerate().skip(1) {
        let theirs = Figures::new(&gaps[at], "µs");
        part.row(&format!("from end to next start: triplock / {}", queue.name()), &ours, &theirs, Target::none());
    }
}

/// The gap of a chain of processes that wait for one flock(2).
fn chain(site: &Site, program: &Path, words: &[&str]) -> f64 {
    let directory = site.directory("chain");
    let gate = Gate::new(&directory);
    let mut holder = Command::new("flock")
        .args(["lock", "sh", "-c", &format!("read line <{}", gate.path)])
        .current_dir(&directory)
        .spawn()
        .expect("flock starts");
    let try_it = || Command::new("flock").args(["-n", "lock", "true"]).current_dir(&directory).status();
    while try_it().expect("flock starts").success() {
        thread::yield_now();
    }
    let waiters: Vec<_> = (0..CHAIN)
        .map(|_| Command::new(program).args(words).current_dir(&directory).spawn().expect("it starts"))
        .collect();
    // Each sleeps in its flock(2) by then.
    for waiter in &waiters {
        while state_of(waiter.id()) != Some('S') {
            thread::yield_now();
        }
    }
    thread::sleep(Duration::from_millis(50));
    gate.open();
    holder.wait().expect("it ends");
    for mut waiter in waiters {
        waiter.wait().expect("it ends");
    }
    gap(&directory.join("stamps"))
}

/// A fifo that a job reads from, until it is opened.
struct Gate {
    path: String,
}

impl Gate {
    fn new(directory: &Path) -> Self {
        let path = directory.join("gate").display().to_string();
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        Self { path }
    }

    fn open(&self) {
        fs::write(&self.path, "\n").expect("the gate opens");
    }
}

fn waiting(part: &mut Part, site: &Site, queues: &[Queue]) {
    let mut rows = Vec::new();
    for queue in queues {
        let place = Place::new(site, *queue);
        let gate = Gate::new(&place.directory);
        place.add(&["sh", "-c", &format!("read line <{}", gate.path)]);
        let (before, free) = (place.processes().len(), available());
        let many = if *queue == Queue::TaskSpooler { MANY_CONNECTIONS } else { MANY };
        (0..many).for_each(|_| place.add(&["true"]));
        thread::sleep(Duration::from_secs(1));
        let processes = place.processes();
        let memory = free.saturating_sub(available()) / many as u64;
        let proportional: u64 = processes.iter().map(|pid| rollup(*pid, "Pss:")).sum::<u64>() / many as u64;
        let used = ticks(&processes);
        thread::sleep(Duration::from_secs(10));
        let spent = ticks(&processes).saturating_sub(used);
        rows.push(vec![
            format!("{}, {many} runs", queue.name()),
            (processes.len() - before).to_string(),
            format!("{} ms", spent * 10),
            format!("{memory} kB"),
            format!("{proportional} kB"),
        ]);
        if *queue == Queue::Triplock {
            part.figure(
                "memory of a waiting run, in MB",
                &Figures::new(&[memory as f64 / 1024.0], "MB"),
                Target::at_most(1.0),
            );
        }
    }
    part.table(
        "Runs that wait for 10 s (more than some 990 task-spooler does not take)",
        &["", "processes", "processor time of all", "memory each (what the machine has less)", "memory each (PSS)"],
        &rows,
    );
}

/// How much memory is to be had, in kB.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&text, "MemAvailable:")
}

fn rollup(pid: u32, field: &str) -> u64 {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default(), field)
}

fn kilobytes(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Processor time of all of them, in hundredths of a second.
fn ticks(processes: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<u64> =
            stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
        Some(fields.iter().sum())
    };
    processes.iter().filter_map(of).sum()
}

/// Kills what runs or manages a job while three others wait, and looks what becomes of them.
fn killed(part: &mut Part, site: &Site, queues: &[Queue]) {
    let cases = [
        (Queue::Triplock, "the process that runs the job", "triplock"),
        (Queue::Nq, "the process that runs the job", "nq"),
        (Queue::TaskSpooler, "the process that runs the job", "runner"),
        (Queue::TaskSpooler, "the daemon", "daemon"),
    ];
    let mut rows = Vec::new();
    for (queue, what, whom) in cases.into_iter().filter(|(queue, ..)| queues.contains(queue)) {
        let place = Place::new(site, queue);
        let log = place.directory.join("log");
        let job = |name: &str| {
            let log = log.display();
            format!("echo start {name} >>{log}; [ {name} = 0 ] && sleep 2; echo end {name} >>{log}")
        };
        for name in ["0", "1", "2", "3"] {
            place.add(&["sh", "-c", &job(name)]);
            while name == "0" && !fs::read_to_string(&log).is_ok_and(|log| log.contains("start 0")) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let victim = match whom {
            "runner" => parent(&place.named("sh")),
            "daemon" => {
                let socket = place.directory.join("socket");
                place.named("tsp").into_iter().filter(|pid| serves(*pid, &socket)).collect()
            }
            name => parent(&place.named("sh")).into_iter().filter(|pid| place.named(name).contains(pid)).collect(),
        };
        assert_eq!(victim.len(), 1, "{} {what}: {victim:?}", queue.name());
        kill(&victim);
        thread::sleep(Duration::from_secs(4));
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let at = |line: &str| lines.lines().position(|found| found == line);
        let ran = ["1", "2", "3"].iter().filter(|name| at(&format!("end {name}")).is_some()).count();
        let overlapped = match (at("start 1"), at("end 0")) {
            (Some(next), Some(end)) => next < end,
            _ => false,
        };
        let told = match queue {
            Queue::Triplock => {
                let history = place.command(site.product()).args(["history", "lane"]).stdout(Stdio::piped()).output();
                let text = String::from_utf8_lossy(&history.expect("it starts").stdout).into_owned();
                if text.contains("lost") { "as lost, in the history" } else { "no" }
            }
            Queue::Nq => "no: its log ends without an exit code",
            Queue::TaskSpooler => {
                let list = place.command(Path::new("tsp")).stdout(Stdio::piped()).output().expect("it starts");
                let text = String::from_utf8_lossy(&list.stdout).into_owned();
                if text.contains("-1") { "as finished with -1" } else { "no: it lists nothing" }
            }
        };
        rows.push(vec![
            queue.name().to_owned(),
            what.to_owned(),
            if at("end 0").is_some() { "goes on to its end" } else { "ends" }.to_owned(),
            if overlapped {
                "**at once, beside it**"
            } else if ran > 0 {
                "when it has ended"
            } else {
                "**never**"
            }
            .to_owned(),
            format!("{ran} of 3"),
            told.to_owned(),
        ]);
    }
    let columns =
        ["", "killed with -9", "the command that ran", "the next one starts", "of those that waited, run", "recorded"];
    part.table("What a kill does, with three jobs waiting", &columns, &rows);
}

/// The parents of those processes, each once.
fn parent(processes: &[u32]) -> Vec<u32> {
    let of = |pid: &u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let mut parents: Vec<u32> = processes.iter().filter_map(of).collect();
    parents.dedup();
    parents
}

/// Whether it serves that socket: task-spooler's daemon has it, and one for each client besides.
fn serves(pid: u32, socket: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = socket.display().to_string();
    let inodes: Vec<String> = sockets
        .lines()
        .filter(|line| line.ends_with(&path))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(6)?)))
        .collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())).count() > 1
}

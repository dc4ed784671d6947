//! Students as processes of their own.
//!
//! Each is the hidden subcommand `race-student`. All share two pipes:
//!
//! - **the gate** is their standard input. Each says that it is ready and then reads; there is nothing to read, ever,
//!   until this process closes the only writing end. Then all of them wake together at the end of the file.
//! - **the voice** is their standard output: JSON Lines, each one short write, read by a thread so that no student ever
//!   waits for a listener. It ends when the last student has.
//!
//! A student that dies before it is ready would leave the others waiting, so in every silence its parent looks who is
//! still alive. When this process gives up it kills and reaps them all before the gate opens. When it is killed
//! itself the kernel kills the students (`PR_SET_PDEATHSIG`, prctl(2)), so none runs on with nobody listening.
//!
//! The command line tells each what to do, but not where a server is: there may be a password in that, and everybody on
//! the machine can read a command line. It is in the environment, as it may have been for us.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use rustix::{pipe::PipeFlags, process::Signal};

use super::{
    failure::RaceError,
    gathering::{Gathering, Heard},
    lock_kind::LockKind,
    locks::{LockSite, Locks},
    message::Message,
    moment::Moment,
    student::{Stop, Student},
    tracker::Tracker,
};
use crate::{
    error::{Error, Result},
    lock::Wait,
    name::Name,
    store::StoreUrl,
};

/// Where a student finds the server of its lock.
const STORE: &str = "TRIPLOCK_STORE";

/// Runs the students with `program`, each opening the lock for itself where `site` says.
pub(super) fn run(
    program: &Path,
    kind: LockKind,
    dir: &Path,
    site: impl Fn(u32) -> LockSite,
    students: &[Student],
) -> Result<(Moment, Vec<Heard>), RaceError> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("make a pipe in", dir, e));
    let (gate, closed) = pipe()?;
    let (ears, voice) = pipe()?;
    let hear = listen(ears)?;
    // Declared after the gate's end, so dropped (killed) before it opens.
    let mut crew = Crew::default();
    for student in students {
        let LockSite { state, name, server } = site(student.number);
        let order = Order {
            dir: dir.to_owned(),
            state,
            student: student.number,
            lock: kind,
            name,
            store: server,
            delay: student.delay,
            wait: student.wait,
            parent: std::process::id(),
        };
        crew.start(program, &order, &gate, &voice).map_err(|e| RaceError::Student {
            student: student.number,
            why: format!("cannot start its process {}: {e}; try fewer students", program.display()),
        })?;
    }
    // Only the students have these now: the voice ends with the last of them.
    drop((gate, voice));
    let mut gathering = Gathering::of(students.len());
    gathering.until_ready(&hear, |done| crew.look(done))?;
    let start = Moment::now();
    drop(closed);
    gathering.until_done(&hear, |done| crew.look(done))?;
    crew.end()?;
    Ok((start, gathering.into_heard()))
}

/// Reads what the students say as fast as they say it.
fn listen(ears: OwnedFd) -> Result<Receiver<Message>> {
    let (tell, hear) = mpsc::channel();
    let run = move || {
        for line in BufReader::new(File::from(ears)).lines() {
            let message = line.ok().and_then(|line| Message::from_line(&line));
            // Anything else is not a student's; without it the race ends as "without a word".
            let Some(message) = message else { break };
            if tell.send(message).is_err() {
                break;
            }
        }
    };
    let started = thread::Builder::new().name("race-listener".to_owned()).spawn(run);
    started.map(|_| hear).map_err(|e| Error::io("start a thread in", "this process", e))
}

/// The students' processes; killed and reaped on drop, unless they ended.
#[derive(Default)]
struct Crew {
    children: Vec<Child>,
    /// Those found dead at an earlier look, by place.
    dead: Vec<Option<ExitStatus>>,
}

impl Crew {
    fn start(&mut self, program: &Path, order: &Order, gate: &OwnedFd, voice: &OwnedFd) -> io::Result<()> {
        let mut command = Command::new(program);
        command.args(order.arguments());
        match &order.store {
            Some(store) => command.env(STORE, store.secret_text()),
            None => command.env_remove(STORE),
        };
        command.stdin(Stdio::from(gate.try_clone()?)).stdout(Stdio::from(voice.try_clone()?));
        self.children.push(command.spawn()?);
        self.dead.push(None);
        Ok(())
    }

    /// Finds a student that died before it was done. What it said last may not have been heard yet, so the first look
    /// that finds it dead only remembers that, and the next one, a silence later, complains.
    fn look(&mut self, done: &[bool]) -> Result<(), RaceError> {
        for (place, child) in self.children.iter_mut().enumerate().filter(|(place, _)| !done[*place]) {
            match self.dead[place] {
                Some(status) => return Err(RaceError::student(place, ending(status))),
                None => self.dead[place] = child.try_wait().ok().flatten(),
            }
        }
        Ok(())
    }

    /// Waits for all of them, who said that they are done.
    fn end(&mut self) -> Result<(), RaceError> {
        for (place, child) in self.children.iter_mut().enumerate() {
            let status = child.wait().map_err(|e| RaceError::student(place, format!("cannot wait for it: {e}")))?;
            if !status.success() {
                return Err(RaceError::student(place, ending(status)));
            }
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // All first, then wait: else the last would run on while the first is reaped. Both do nothing to a child
        // that was waited for.
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("its process was killed by signal {signal}"),
        None => format!("its process ended early ({status})"),
    }
}

/// What one student's process is told: the arguments of `triplock race-student`, and the store in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The race's private directory, with the tracker.
    pub dir: PathBuf,
    /// The student's state directory, with the lock that is a file.
    pub state: PathBuf,
    /// The student's number, from 1.
    pub student: u32,
    /// Which lock to take.
    pub lock: LockKind,
    /// What it is called.
    pub name: Name,
    /// The server that it is on, if it is on one.
    pub store: Option<StoreUrl>,
    /// How long to wait between check and act; whole milliseconds.
    pub delay: Duration,
    /// How long to wait for the lock; whole milliseconds.
    pub wait: Wait,
    /// The process that runs the race.
    pub parent: u32,
}

impl Order {
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["race-student".into(), "--dir".into(), self.dir.clone().into()];
        arguments.extend(["--state-dir".into(), self.state.clone().into()]);
        let mut option = |name: &str, value: &dyn ToString| arguments.extend([name.into(), value.to_string().into()]);
        option("--student", &self.student);
        option("--lock", &self.lock);
        option("--name", &self.name);
        option("--delay-ms", &self.delay.as_millis());
        match self.wait {
            Wait::No => {}
            Wait::For(wait) => option("--wait-ms", &u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            // As good as for ever.
            Wait::Forever => option("--wait-ms", &u64::MAX),
        }
        option("--parent", &self.parent);
        arguments
    }

    /// Is the student: says so on standard output, races when standard input ends, and tells what it saw.
    ///
    /// # Errors
    /// When standard output cannot be had, or the kernel will not end this process with its parent. Everything later
    /// is told to the parent, not returned.
    pub fn attend(&self) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|e| Error::io("tie to its parent", "this process", e))?;
        // It may have died before that.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if parent != i32::try_from(self.parent).ok() {
            return Ok(());
        }
        // A file, since that writes each line at once and whole.
        let voice = io::stdout().as_fd().try_clone_to_owned();
        let voice = File::from(voice.map_err(|e| Error::io("open", "standard output", e))?);
        let tell = |message: &Message| (&voice).write_all(&message.to_line()).map_err(|_| Stop::CalledOff);
        let tracker = Tracker::open(&self.dir);
        let site = LockSite { state: self.state.clone(), name: self.name.clone(), server: self.store.clone() };
        let locks = match Locks::open(self.lock, &site) {
            Ok(locks) => locks,
            Err(error) => {
                let _ = tell(&Message::failed(self.student, &error));
                return Ok(());
            }
        };
        if tell(&Message::Ready { student: self.student }).is_ok() {
            match io::stdin().read(&mut [0]) {
                Ok(0) => {
                    Student { number: self.student, delay: self.delay, wait: self.wait }.race(&tracker, &locks, tell);
                }
                other => {
                    let why = format!("the gate did not open but gave {other:?}");
                    let _ = tell(&Message::failed(self.student, &why));
                }
            }
        }
        Ok(())
    }
}

//! A run that holds leases: who renews them, and who ends the job when nobody can.
//!
//! Three processes, each the parent of the next: the *wrapper* (what cron started), the *guardian*, the job. The wrapper
//! renews the leases and appends to the ledger; the guardian starts the job, passes signals on, keeps the limits, and ends
//! the job's whole tree before the lease can pass on ([`crate::job::lifeline`]). It is forked before the job is started,
//! so it needs nothing then that could be missing.
//!
//! In the wrapper, a thread renews: a server that does not answer must not keep a signal from the job. It is started after
//! the fork and joined before the next one.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{leases::Leases, ledger::ServerLedger};
use crate::{
    clock::BootTime,
    job::{
        keeping::{Broken, Carried, Holding, Lines as _},
        lifeline::{Lifeline, Message, Terms},
        model::RunId,
        options::{Hold, Options},
        supervise::{pause, stop_ourselves},
    },
    process::{self, Received, Signals, Tree, become_subreaper, wait_for},
    store::{Connection, Lease},
};

/// How often to look whether somebody has asked for the run's end.
const LOOK: Duration = Duration::from_secs(1);

/// How long to rest after a renewal that failed.
const REST: Duration = Duration::from_millis(200);

/// A guardian that has said its last word ends at once.
const PARTING: Duration = Duration::from_secs(1);

/// What runs under leases: a job, or the filter of an update.
pub(crate) struct Guarded<'a> {
    pub(crate) keeper: Keeper<'a>,
    pub(crate) waited: Duration,
    pub(crate) signals: &'a Signals,
}

/// Who keeps the leases, on a thread of its own.
pub(crate) struct Keeper<'a> {
    pub(crate) leases: Mutex<Leases>,
    pub(crate) slot: u32,
    pub(crate) terms: Terms,
    pub(crate) connection: &'a Mutex<Connection>,
    /// The run of a job, whose end somebody may ask for.
    pub(crate) run: Option<(&'a ServerLedger<'a>, RunId)>,
}

/// What keeper and wrapper tell each other.
struct Shared {
    /// Nanoseconds since the boot.
    deadline: AtomicU64,
    /// Somebody has asked for the run's end.
    is_unwanted: AtomicBool,
}

impl Shared {
    fn deadline(&self) -> BootTime {
        BootTime::at(Duration::from_nanos(self.deadline.load(Ordering::SeqCst)))
    }

    fn set(&self, deadline: BootTime) {
        self.deadline.store(u64::from_le_bytes(Message::encode(deadline)), Ordering::SeqCst);
    }
}

impl Holding for Guarded<'_> {
    fn slot(&self) -> u32 {
        self.keeper.slot
    }

    fn waited(&self) -> Duration {
        self.waited
    }

    fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        Vec::new()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Its leases pass on, whatever it has left running.
    fn wants_a_certain_end(&self, _: &Options) -> bool {
        true
    }

    fn carry_out(&self, attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried) -> Carried {
        self.guard(attempt).unwrap_or_else(|e| Err(Broken::NotStarted(format!("no guardian: {e}"))))
    }

    /// The leases are renewed meanwhile: a pause may be longer than they last.
    fn rest(&self, signals: &Signals, time: Duration) -> io::Result<Option<i32>> {
        let until = Instant::now().checked_add(time);
        self.keep(None, |shared| {
            loop {
                let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    return Ok(None);
                }
                if let Some(signal) = pause(signals, left.min(LOOK))? {
                    return Ok(Some(signal));
                }
                if shared.is_unwanted.load(Ordering::SeqCst) {
                    return Ok(Some(libc::SIGTERM));
                }
            }
        })?
    }

    fn release(self, _: Hold) {
        let leases = self.keeper.leases.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut connection = self.keeper.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for lease in leases.all.iter().rev() {
            // What is not released is over when its time is.
            if connection.call(|session| session.release(lease)).is_err() {
                break;
            }
        }
    }
}

impl Guarded<'_> {
    fn guard(&self, attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried) -> io::Result<Carried> {
        // On a server that answers slowly, much of a short lease has gone by.
        if self.keeper.lock().deadline().left() < self.keeper.terms.lease.saturating_sub(self.keeper.terms.renewal()) {
            // (When the server does not answer, what is left may do.)
            if matches!(self.keeper.renew_all(), Ok(false)) {
                return Ok(Err(Broken::LeaseLost(Vec::new())));
            }
        }
        let deadline = self.keeper.lock().deadline();
        let foreground = process::in_foreground();
        let (ours, theirs) = UnixStream::pair()?;
        let (mut ours, mut theirs) = (Some(ours), Some(theirs));
        let child = process::fork(|| {
            // Its copy: the line must end with the wrapper.
            drop(ours.take());
            let Some(line) = theirs.take() else { return };
            be_the_guardian(line, self.keeper.terms, deadline, foreground, attempt);
        })?;
        drop(theirs);
        let Some(line) = ours else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut tree = Tree::new(child, false, None);
        let carried = self.keep(Some(&line), |shared| self.attend(&line, &mut tree, foreground, shared));
        let carried = carried.unwrap_or_else(|e| Err(abandon(&mut tree, format!("no thread to renew its lease: {e}"))));
        bury(&mut tree);
        Ok(carried)
    }

    /// Does something while a thread renews the leases, and tells the guardian at the end of that line.
    fn keep<T>(&self, line: Option<&UnixStream>, act: impl FnOnce(&Shared) -> T) -> io::Result<T> {
        let shared = Shared { deadline: AtomicU64::new(0), is_unwanted: AtomicBool::new(false) };
        shared.set(self.keeper.lock().deadline());
        let (finished, keeper) = mpsc::channel::<()>();
        let done = thread::scope(|scope| {
            let (shared, who) = (&shared, &self.keeper);
            let renew = move || who.renew(line, shared, &keeper);
            thread::Builder::new().name("lease".to_owned()).spawn_scoped(scope, renew)?;
            let done = act(shared);
            // It ends when nobody can tell it to go on.
            drop(finished);
            Ok(done)
        });
        if let Some((ledger, _)) = self.keeper.run {
            ledger.extend(self.keeper.lock().deadline());
        }
        done
    }

    /// Passes signals on, until the guardian tells what came of the job.
    fn attend(&self, line: &UnixStream, tree: &mut Tree, foreground: bool, shared: &Shared) -> Carried {
        let mut told = Vec::new();
        let mut has_asked = false;
        loop {
            let kill = shared.deadline().before(self.keeper.terms.margin);
            let mut watched = [PollFd::new(line, PollFlags::IN), PollFd::new(self.signals, PollFlags::IN)];
            // (A look a second, for the wish that the keeper has seen.)
            if let Err(e) = wait_for(&mut watched, Some(kill.left().min(LOOK))) {
                return Err(abandon(tree, e.to_string()));
            }
            let has_spoken = !watched[0].revents().is_empty();
            if has_spoken {
                let mut bytes = [0; 4096];
                match (&mut &*line).read(&mut bytes) {
                    Ok(0) => return understand(&told, tree),
                    Ok(read) => told.extend_from_slice(&bytes[..read]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // The guardian was killed.
                    Err(_) => return understand(&told, tree),
                }
                continue;
            }
            while let Some(received) = self.signals.read() {
                if let Err(e) = pass_on(tree, received, foreground) {
                    return Err(abandon(tree, e.to_string()));
                }
            }
            if shared.is_unwanted.load(Ordering::SeqCst) && !std::mem::replace(&mut has_asked, true) {
                // As if somebody had told us so in person.
                let _ = tree.signal(libc::SIGTERM);
            }
            // The deadline may have moved while we slept.
            if shared.deadline().before(self.keeper.terms.margin).left().is_zero() {
                return self.overrule(&mut told, line, tree);
            }
        }
    }

    /// It is time for the job to be dead. The guardian does that at this very moment, unless it is stopped: then we do.
    fn overrule(&self, told: &mut Vec<u8>, line: &UnixStream, tree: &mut Tree) -> Carried {
        // Killing what is being killed does no harm; the rest of the margin is for that.
        let patience = self.keeper.terms.margin / 8;
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let heard = wait_for(&mut [PollFd::new(line, PollFlags::IN)], Some(left));
            if left.is_zero() || !matches!(heard, Ok(1..)) {
                break;
            }
            let mut bytes = [0; 4096];
            match (&mut &*line).read(&mut bytes) {
                Ok(0) | Err(_) => return understand(told, tree),
                Ok(read) => told.extend_from_slice(&bytes[..read]),
            }
        }
        Err(Broken::LeaseLost(kill(tree)))
    }
}

/// What the guardian has told; of one that was killed before it could, the job is ended here.
fn understand(told: &[u8], tree: &mut Tree) -> Carried {
    serde_json::from_slice(told)
        .unwrap_or_else(|_| Err(Broken::Unwatched("its guardian was killed".to_owned(), kill(tree))))
}

impl Keeper<'_> {
    /// Renews at a third of the lease, and looks whether the run is still wanted, until it is told to stop.
    fn renew(&self, line: Option<&UnixStream>, shared: &Shared, keeper: &Receiver<()>) {
        let mut next = self.terms.renewal();
        let mut looked = Instant::now();
        let mut renewed = Instant::now();
        loop {
            let due = next.saturating_sub(renewed.elapsed()).min(LOOK.saturating_sub(looked.elapsed()));
            if keeper.recv_timeout(due) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if renewed.elapsed() >= next {
                match self.renew_all() {
                    Ok(true) => {
                        let deadline = self.lock().deadline();
                        shared.set(deadline);
                        send(line, deadline);
                        (renewed, next) = (Instant::now(), self.terms.renewal());
                    }
                    Ok(false) => {
                        let over = BootTime::at(Duration::ZERO);
                        shared.set(over);
                        send(line, over);
                        return;
                    }
                    // The guardian's clock goes on.
                    Err(_) => (renewed, next) = (Instant::now(), REST),
                }
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if self.is_unwanted() {
                    shared.is_unwanted.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Whether all leases are still ours.
    fn renew_all(&self) -> crate::Result<bool> {
        let leases: Vec<Lease> = self.lock().all.clone();
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, mut lease) in leases.into_iter().enumerate() {
            if !connection.call(|session| session.renew(&mut lease))? {
                return Ok(false);
            }
            self.lock().all[at] = lease;
        }
        Ok(true)
    }

    fn is_unwanted(&self) -> bool {
        let Some((ledger, run)) = self.run else { return false };
        let Ok(totals) = ledger.totals() else { return false };
        totals.in_slot(self.slot).is_some_and(|running| running.run == run && running.ending.is_some())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the guardian does, all its life.
fn be_the_guardian(
    line: UnixStream,
    terms: Terms,
    deadline: BootTime,
    foreground: bool,
    attempt: &mut dyn FnMut(Option<&mut Lifeline>) -> Carried,
) {
    if !foreground {
        // What stops the wrapper's whole group must not stop it. (In a terminal's foreground the job has to be in that
        // group, and is born into ours.)
        let _ = rustix::process::setpgid(None, None);
    }
    let _ = rustix::thread::set_name(c"triplock-guard");
    let lifeline = become_subreaper().and_then(|()| Lifeline::new(line, terms, deadline));
    // Without a lifeline there is no line to say so: it ends, and the wrapper takes it for killed.
    let Ok(mut lifeline) = lifeline else { return };
    let carried = attempt(Some(&mut lifeline));
    if let Ok(told) = serde_json::to_vec(&carried) {
        lifeline.tell(&told);
    }
}

fn pass_on(tree: &mut Tree, received: Received, foreground: bool) -> io::Result<()> {
    let Received { signal, from_kernel, .. } = received;
    // The terminal's keys reach guardian and job without us.
    let reached_it_already = foreground && from_kernel;
    match signal {
        libc::SIGCHLD => Ok(()),
        libc::SIGTSTP => {
            if !reached_it_already {
                tree.signal(signal)?;
            }
            stop_ourselves()
        }
        _ if reached_it_already => Ok(()),
        _ => tree.signal(signal),
    }
}

/// Ends guardian and job, which nobody would watch over.
fn abandon(tree: &mut Tree, why: String) -> Broken {
    Broken::Unwatched(why, kill(tree))
}

/// Ends guardian and job; gives who is left.
fn kill(tree: &mut Tree) -> Vec<String> {
    match tree.kill_all() {
        Ok(survivors) => survivors.iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    }
}

/// Takes the end of a guardian that has said its last word.
fn bury(tree: &mut Tree) {
    let until = Instant::now() + PARTING;
    while !matches!(tree.reap(), Ok(Some(_)) | Err(_)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Moves the guardian's deadline. One that does not read any more is stopped, or gone.
fn send(line: Option<&UnixStream>, deadline: BootTime) {
    if let Some(mut line) = line {
        let _ = line.write_all(&Message::encode(deadline));
    }
}

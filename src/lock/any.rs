//! Waiting for whichever of several locks frees first: a job's slots.
//!
//! flock(2) waits for one lock. So each slot gets a thread that sleeps in its own blocking flock; the first to win
//! reports through an eventfd, and the others are called back. A call that lands just before a thread has entered
//! flock interrupts nothing, so it is repeated until the thread has ended. One that wins in the same moment releases
//! what it won.

use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    Acquire, FileGuard, FileLock, Until, flock,
    held_file::{HeldFile, Missing},
    timer,
};
use crate::{
    dir::FileId,
    error::{Error, Result},
    name::Name,
};

/// How often a thread that has not come back is called again.
const CALL_AGAIN: Duration = Duration::from_millis(2);

impl FileLock {
    /// Takes the lock of one of those files: the first that is free, or the first that becomes so. Gives its place in
    /// the list as well.
    ///
    /// # Errors
    /// `Io` (interrupted) as soon as `interrupt` can be read.
    pub(crate) fn acquire_any(
        &self,
        name: &Name,
        files: &[String],
        until: Until,
        interrupt: BorrowedFd<'_>,
    ) -> Result<Acquire<(usize, FileGuard)>> {
        let mut last = None;
        for (at, file) in files.iter().enumerate() {
            match self.acquire_named_file(name, file.clone(), Missing::Create, Until::Now, None)? {
                Some(Acquire::Granted(guard)) => return Ok(Acquire::Granted((at, guard))),
                Some(Acquire::Held(holder)) => last = holder.or(last),
                None => {}
            }
        }
        if until == Until::Now {
            return Ok(Acquire::Held(last));
        }
        let failed = |e| Error::io("wait for", self.dir().path_of(&files[0]), e);
        loop {
            let waiters = Waiters::start(self, files)?;
            let Some(won) = waiters.wait(until, interrupt).map_err(failed)? else { return Ok(Acquire::Held(last)) };
            let (at, file, id) = won.map_err(failed)?;
            let held = HeldFile::adopt(file, id);
            if held.is_the_paths(self.dir(), &files[at])? {
                return Ok(Acquire::Granted((at, self.guard(name, files[at].clone(), held)?)));
            }
        }
    }
}

type Won = io::Result<(usize, File, FileId)>;

/// The threads that wait, one for each file.
struct Waiters {
    threads: Vec<JoinHandle<()>>,
    won: mpsc::Receiver<Won>,
    event: Arc<OwnedFd>,
    called_back: Arc<AtomicBool>,
}

impl Waiters {
    fn start(lock: &FileLock, files: &[String]) -> Result<Self> {
        let failed = |e| Error::io("wait for", lock.dir().path_of(&files[0]), e);
        timer::install().map_err(failed)?;
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
        let event = Arc::new(event.map_err(|e| failed(e.into()))?);
        let called_back = Arc::new(AtomicBool::new(false));
        let (sender, won) = mpsc::channel();
        let mut waiters = Self { threads: Vec::new(), won, event, called_back };
        for (at, name) in files.iter().enumerate() {
            let (file, stat) = lock.dir().open_or_create(name)?;
            let (sender, event) = (sender.clone(), Arc::clone(&waiters.event));
            let called_back = Arc::clone(&waiters.called_back);
            let wait = move || {
                let locked = timer::let_through().and_then(|()| flock::exclusive_unless(&file, &called_back));
                let won = match locked {
                    Ok(true) => Ok((at, file, stat.id)),
                    Ok(false) => return,
                    Err(e) => Err(e),
                };
                // Nobody takes it any more: the file is dropped, and its lock with it.
                let _ = sender.send(won);
                let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
            };
            let thread = thread::Builder::new().stack_size(64 * 1024).spawn(wait).map_err(failed)?;
            waiters.threads.push(thread);
        }
        Ok(waiters)
    }

    /// The first that won; `None` when the wait is over.
    fn wait(&self, until: Until, interrupt: BorrowedFd<'_>) -> io::Result<Option<Won>> {
        loop {
            let left = match until {
                Until::At(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
                Until::Now => Some(Duration::ZERO),
                Until::Never => None,
            };
            let timeout =
                left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
            let mut fds =
                [PollFd::new(&*self.event, PollFlags::IN), PollFd::from_borrowed_fd(interrupt, PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if let Ok(won) = self.won.try_recv() {
                return Ok(Some(won));
            }
            if !fds[1].revents().is_empty() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal"));
            }
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.called_back.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                timer::call(&thread);
                thread::sleep(CALL_AGAIN);
            }
            let _ = thread.join();
        }
    }
}

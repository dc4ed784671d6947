//! A job's processes: the command that we started and whatever it started.
//!
//! How the whole tree is ended, and what that can promise:
//!
//! - **In a control group** ([`super::cgroup`]) it is certain: the kernel kills every member at once, forks and all.
//! - **Without one** it is best effort, and a good one. We are the *subreaper* (prctl(2), `PR_SET_CHILD_SUBREAPER`) of
//!   all that we start: who loses its parent gets us as the next, so neither `setsid` nor a double fork leaves the tree.
//!   Descendants are looked up in /proc, each is opened as a pidfd, looked at again and killed, and that is repeated until
//!   wait4(2) says that we have no child left. That answer is the kernel's: a living descendant always has a chain of
//!   ancestors that ends in a child of ours. What keeps the sweeps from being certain is what they cannot end: a process
//!   that we have no right to signal (sudo), one that waits in the kernel, one that /proc hides from us, and one that forks
//!   faster than we look for as long as it does (from the fourth sweep on all are stopped before any is killed, so that
//!   the rest cannot use the room). Those that are left are named.
//!
//! A zombie is over: it only waits for its parent.
//!
//! Children that we had before there was a job (a shell started them, then became us by `exec`) are strangers: neither
//! killed nor buried, nor is what lives below them. Triplock starts no child besides the job while a tree exists.
//!
//! A pid is reserved until its process is buried, and so is its number as a group: the group is signalled as a whole
//! only until then, and its members are signalled one by one, each proven, after.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions},
};

use super::{
    cgroup::Cgroup,
    child::{Child, Ended, wait4},
    handle::{Handle, send, send_group},
    sweep::{PATIENCE, Survivor, Sweep, living},
    table::{ProcessInfo, descendants},
};

/// The children that we had before.
static STRANGERS: Mutex<Vec<ProcessInfo>> = Mutex::new(Vec::new());

/// Makes orphaned descendants ours. To be called before the first job is started.
pub(crate) fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let strangers = match rustix::process::waitid(WaitId::All, options) {
        // As good as always, and cheap to learn.
        Err(Errno::CHILD) => Vec::new(),
        _ => {
            let own = std::process::id();
            descendants(own)?.into_iter().filter(|process| process.parent == own).collect()
        }
    };
    *STRANGERS.lock().unwrap_or_else(PoisonError::into_inner) = strangers;
    Ok(())
}

/// The command and its descendants.
#[derive(Debug)]
pub(crate) struct Tree {
    child: Child,
    own_group: bool,
    cgroup: Option<Cgroup>,
    strangers: Vec<ProcessInfo>,
    end: End,
}

/// What is known of the command's end.
#[derive(Debug, Clone, Copy)]
enum End {
    Running,
    /// Buried, and not told yet.
    Taken(Ended),
    Told,
}

impl Tree {
    /// Of a command that leads a process group of its own, or shares ours; in a control group or in none.
    pub(crate) fn new(child: Child, own_group: bool, cgroup: Option<Cgroup>) -> Self {
        // A group that it is not in would be killed in vain; dropping it removes it.
        let cgroup = cgroup.filter(|_| child.in_cgroup);
        let strangers = STRANGERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { child, own_group, cgroup, strangers, end: End::Running }
    }

    /// How the command ended, told once; buries orphans of the tree that have ended. Never sleeps.
    pub(crate) fn reap(&mut self) -> io::Result<Option<Ended>> {
        self.bury()?;
        match self.end {
            End::Taken(ended) => {
                self.end = End::Told;
                Ok(Some(ended))
            }
            End::Running | End::Told => Ok(None),
        }
    }

    /// Whether anybody of the tree still runs.
    pub(crate) fn has_descendants(&mut self) -> io::Result<bool> {
        let left = self.bury()?;
        if !left || self.strangers.is_empty() {
            // The kernel's answer. A look at /proc misses who forks and ends faster than it lists.
            return Ok(left);
        }
        Ok(!living(std::process::id(), &self.strangers)?.is_empty())
    }

    /// Signals the command's group, or the command alone when it shares ours. Who may not be signalled is not;
    /// [`Tree::kill_all`] names them.
    pub(crate) fn signal(&mut self, signal: i32) -> io::Result<()> {
        self.send(signal)?;
        // A stopped process would not see it before somebody continues it.
        if matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) {
            self.send(libc::SIGCONT)?;
        }
        Ok(())
    }

    fn send(&self, signal: i32) -> io::Result<()> {
        let forgiving = |sent: io::Result<bool>| match sent {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other.map(drop),
        };
        match (self.own_group, self.end) {
            (true, End::Running) => {
                let group = self.child.pid;
                send_group(group, signal)?;
                // It may lead a group elsewhere by now, or none (setsid in a shell).
                if rustix::process::getpgid(Some(group)).is_ok_and(|now| now != group) {
                    forgiving(send(self.child.as_fd(), signal))?;
                }
                Ok(())
            }
            (true, End::Taken(_) | End::Told) => {
                let group = self.child.id();
                let members = living(std::process::id(), &self.strangers)?;
                for member in members.into_iter().filter(|process| process.group == group) {
                    if let Some(handle) = Handle::open_known(member)? {
                        forgiving(handle.send(signal))?;
                    }
                }
                Ok(())
            }
            (false, _) => forgiving(send(self.child.as_fd(), signal)),
        }
    }

    /// Ends the command and every descendant, and gives those that could not be ended.
    ///
    /// # Errors
    /// When somebody may be left of whom nothing is known, for want of /proc or of descriptors.
    pub(crate) fn kill_all(&mut self) -> io::Result<Vec<Survivor>> {
        if let Some(cgroup) = &self.cgroup {
            // What goes wrong here, the sweeps make good.
            if cgroup.kill().is_ok() {
                let _ = cgroup.wait_until_empty(PATIENCE);
            }
        }
        let strangers = std::mem::take(&mut self.strangers);
        let swept = Sweep::new(std::process::id(), &strangers).run(|| {
            let is_left = self.bury_except(&strangers)?;
            Ok(Some(!is_left))
        });
        self.strangers = strangers;
        if swept.is_err() {
            // At least those that need no looking up.
            self.send(libc::SIGKILL)?;
        }
        swept
    }

    fn bury(&mut self) -> io::Result<bool> {
        let strangers = std::mem::take(&mut self.strangers);
        let left = self.bury_except(&strangers);
        self.strangers = strangers;
        left
    }

    /// Takes the end of every child that has ended and is no stranger; says whether any child is left.
    fn bury_except(&mut self, strangers: &[ProcessInfo]) -> io::Result<bool> {
        if strangers.is_empty() {
            return self.bury_any(-1).map(|left| left.unwrap_or(false));
        }
        if matches!(self.end, End::Running) {
            self.bury_any(self.child.pid.as_raw_nonzero().get())?;
        }
        let own = std::process::id();
        for process in descendants(own)? {
            let is_stranger = || strangers.iter().any(|stranger| stranger.pid == process.pid);
            if process.parent == own && !process.is_alive() && !is_stranger() {
                self.bury_any(i32::try_from(process.pid).unwrap_or_default())?;
            }
        }
        Ok(true)
    }

    /// wait4(2) for one child, or for any (-1): whether there is one that has not ended, `None` when it was buried.
    fn bury_any(&mut self, pid: libc::pid_t) -> io::Result<Option<bool>> {
        loop {
            match wait4(pid, libc::WNOHANG | libc::__WALL) {
                Ok(None) => return Ok(Some(true)),
                Ok(Some((buried, ended))) => {
                    if Pid::from_raw(buried) == Some(self.child.pid) && matches!(self.end, End::Running) {
                        self.end = End::Taken(ended);
                    }
                    if pid != -1 {
                        return Ok(None);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(Some(false)),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Ends every descendant of another process, which itself is left to see that and to say so. It should be a subreaper,
/// as every triplock that runs a job is. Who may not be ended is passed over.
/// `strangers`: children that it had before its job.
pub(crate) fn kill_tree_of(process: &Handle, strangers: &[ProcessInfo]) -> io::Result<Vec<Survivor>> {
    // Its number means its descendants only while it lives; who was looked up before it ended is checked again.
    Sweep::new(process.pid(), strangers).run(|| Ok(process.has_ended().then_some(true)))
}

#[cfg(test)]
mod tests;

#![allow(missing_docs, dead_code, unsafe_code, clippy::all, clippy::pedantic)]
use super::*;
use crate::dir::FileId;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};
pub(crate) struct Cgroup;
impl Cgroup {
    pub(crate) fn try_make(_: &str) -> Option<Self> {
        None
    }
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!()
    }
}
pub(crate) struct Tree {
    child: Child,
    own: bool,
    ended: bool,
}
impl Tree {
    pub(crate) fn new(child: Child, own: bool, _: Option<Cgroup>) -> Self {
        Self { child, own, ended: false }
    }
    pub(crate) fn reap(&mut self) -> io::Result<Option<Ended>> {
        if self.ended {
            return Ok(None);
        }
        let r = super::child::wait4(self.child.id() as i32, libc::WNOHANG)?;
        if let Some((_, e)) = r {
            self.ended = true;
            return Ok(Some(e));
        }
        Ok(None)
    }
    pub(crate) fn has_descendants(&mut self) -> io::Result<bool> {
        Ok(false)
    }
    pub(crate) fn signal(&mut self, s: i32) -> io::Result<()> {
        let p = self.child.id() as i32;
        unsafe {
            libc::kill(if self.own { -p } else { p }, s);
        }
        Ok(())
    }
    pub(crate) fn kill_all(&mut self) -> io::Result<Vec<String>> {
        self.signal(9)?;
        Ok(vec![])
    }
}
pub(crate) struct Handle(std::os::fd::OwnedFd, u32);
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl Handle {
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        Ok(rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid as i32).unwrap(),
            rustix::process::PidfdFlags::empty(),
        )
        .ok()
        .map(|f| Self(f, pid)))
    }
    pub(crate) fn pid(&self) -> u32 {
        self.1
    }
    pub(crate) fn signal(&self, s: rustix::process::Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.0, s)?)
    }
    pub(crate) fn has_ended(&self) -> bool {
        wait_for(
            &mut [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)],
            Some(std::time::Duration::ZERO),
        )
        .unwrap()
            > 0
    }
}
pub(crate) struct Keeper {
    pub(crate) pid: u32,
}
pub(crate) struct Keepers {
    pub(crate) keepers: Vec<Keeper>,
    pub(crate) unreadable: usize,
    pub(crate) locked: bool,
}
pub(crate) fn keepers(_: FileId) -> io::Result<Keepers> {
    Ok(Keepers { keepers: vec![], unreadable: 0, locked: false })
}
pub(crate) fn keeps(_: u32, _: FileId) -> io::Result<bool> {
    Ok(true)
}
pub(crate) fn kill_tree_of(_: &Handle) -> io::Result<()> {
    Ok(())
}
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(())
}
pub(crate) fn in_foreground() -> bool {
    false
}
pub(crate) fn boot_id() -> String {
    "b".into()
}
pub(crate) fn pid_namespace() -> u64 {
    1
}

#![allow(missing_docs, dead_code, unsafe_code, clippy::all, clippy::pedantic)]
use super::*;
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
pub(crate) fn kill_tree_of(_: &Handle) -> io::Result<()> {
    Ok(())
}
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(())
}

//! Sleeping while a lane is paused. Only the first in line does.

use std::{mem::MaybeUninit, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags},
    fs::inotify,
    io::Errno,
};

use super::Queue;
use crate::{
    error::{Error, Result},
    process::wait_for,
};

/// How often to look where there is no inotify to be had (a user has 128 instances).
const UNWATCHED: Duration = Duration::from_millis(500);

/// Until the lane is paused no more.
pub(super) fn wait(queue: &Queue) -> Result<()> {
    // Before the look, or what comes in between would go unheard.
    let watch = watch(queue).ok();
    while queue.is_paused()? {
        match &watch {
            Some(watch) => {
                let mut fds = [PollFd::new(watch, PollFlags::IN)];
                wait_for(&mut fds, None).map_err(|e| Error::io("watch", queue.path(), e))?;
                let mut buffer = [MaybeUninit::uninit(); 1024];
                let _ = inotify::Reader::new(watch, &mut buffer).next();
            }
            None => std::thread::sleep(UNWATCHED),
        }
    }
    Ok(())
}

fn watch(queue: &Queue) -> Result<OwnedFd, Errno> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, queue.path(), inotify::WatchFlags::DELETE)?;
    Ok(fd)
}

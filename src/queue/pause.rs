//! Sleeping while a lane is paused. Only the first in line does.

use std::time::Duration;

use rustix::{
    event::{PollFd, PollFlags},
    fs::inotify::WatchFlags,
};

use super::Queue;
use crate::{
    dir::Watch,
    error::{Error, Result},
    process::wait_for,
};

/// How often to look where it cannot be watched.
const UNWATCHED: Duration = Duration::from_millis(500);

/// Until the lane is paused no more.
pub(super) fn wait(queue: &Queue) -> Result<()> {
    // Before the look, or what comes in between would go unheard.
    let watch = Watch::of(queue.path(), WatchFlags::DELETE).ok();
    while queue.is_paused()? {
        match &watch {
            Some(watch) => {
                let mut fds = [PollFd::new(watch, PollFlags::IN)];
                wait_for(&mut fds, None).map_err(|e| Error::io("watch", queue.path(), e))?;
                watch.drain();
            }
            None => std::thread::sleep(UNWATCHED),
        }
    }
    Ok(())
}

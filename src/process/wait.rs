//! Waiting for whichever of several descriptors has something to say first.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

/// Sleeps until one of the descriptors is ready, and says how many are; 0 when the time is over. A signal's handler
/// that runs meanwhile does not end the sleep.
pub(crate) fn wait_for(descriptors: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    // A time past the end of the clock is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(descriptors, left.as_ref()) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        // More than 68 years are cut to those, which every kernel's clock holds.
        tv_sec: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::event::PollFlags;

    use super::*;

    #[test]
    fn the_first_that_is_ready_ends_it_and_so_does_the_time() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        let begin = Instant::now();
        assert_eq!(wait_for(&mut fds, Some(Duration::from_millis(30))).unwrap(), 0);
        assert!(begin.elapsed() >= Duration::from_millis(30));
        std::fs::File::from(writer).write_all(b"x").unwrap();
        assert_eq!(wait_for(&mut fds, None).unwrap(), 1);
        assert!(fds[0].revents().contains(PollFlags::IN));
        assert_eq!(wait_for(&mut fds, Some(Duration::MAX)).unwrap(), 1);
    }
}

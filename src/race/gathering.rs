//! Listening to the students until all are done.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::{failure::RaceError, message::Message, moment::Moment, what::What};

/// How long nobody must say anything before somebody looks whether a student died.
const SILENCE: Duration = Duration::from_millis(100);

/// What was heard so far.
#[derive(Debug)]
pub(super) struct Gathering {
    ready: usize,
    done: Vec<bool>,
    heard: Vec<Heard>,
}

/// One thing that a student said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) student: u32,
    pub(super) at: Moment,
    pub(super) what: What,
}

impl Gathering {
    pub(super) fn of(students: usize) -> Self {
        Self { ready: 0, done: vec![false; students], heard: Vec::with_capacity(students * 5) }
    }

    /// Returns when every student is at the gate.
    pub(super) fn until_ready(
        &mut self,
        hear: &Receiver<Message>,
        look: impl FnMut(&[bool]) -> Result<(), RaceError>,
    ) -> Result<(), RaceError> {
        self.listen(hear, |so_far| so_far.ready == so_far.done.len(), look)
    }

    /// Returns when every student is done.
    pub(super) fn until_done(
        &mut self,
        hear: &Receiver<Message>,
        look: impl FnMut(&[bool]) -> Result<(), RaceError>,
    ) -> Result<(), RaceError> {
        self.listen(hear, |so_far| so_far.done.iter().all(|done| *done), look)
    }

    /// What was heard, in the order in which it happened.
    pub(super) fn into_heard(mut self) -> Vec<Heard> {
        // Stable: what one student said at one moment stays in its order.
        self.heard.sort_by_key(|heard| heard.at);
        self.heard
    }

    /// Listens until `enough`. In a silence, `look` is told who is done and looks after the others.
    fn listen(
        &mut self,
        hear: &Receiver<Message>,
        enough: impl Fn(&Self) -> bool,
        mut look: impl FnMut(&[bool]) -> Result<(), RaceError>,
    ) -> Result<(), RaceError> {
        while !enough(self) {
            let message = hear.recv_timeout(SILENCE);
            if crate::lock::signal_arrived() {
                return Err(RaceError::Interrupted);
            }
            match message {
                Ok(message) => self.take(message)?,
                Err(RecvTimeoutError::Timeout) => look(&self.done)?,
                Err(RecvTimeoutError::Disconnected) => {
                    // Everything that was ever said has been heard. Whoever is not done never will be; `look` may
                    // know more about it.
                    look(&self.done)?;
                    look(&self.done)?;
                    let missing = self.done.iter().position(|done| !done).unwrap_or(0);
                    return Err(RaceError::student(missing, "it ended without a word".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> Result<(), RaceError> {
        match message {
            Message::Ready { .. } => self.ready += 1,
            Message::Saw { student, at, what } => self.heard.push(Heard { student, at, what }),
            Message::Failed { student, why } => return Err(RaceError::Student { student, why }),
            Message::Done { student } => {
                if let Some(done) = self.done.get_mut((student as usize).wrapping_sub(1)) {
                    *done = true;
                }
            }
        }
        Ok(())
    }
}

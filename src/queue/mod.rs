//! The queue: commands that run in the background, one after another.
//!
//! A lane is the line in front of a job's lock ([`crate::lock::Lane`]), and a queued run is a run of that job which got its
//! number and its place when it was queued. So a lane needs no making, one lock keeps out queued runs and others alike, and
//! `status`, `history`, `logs`, `stop` and `check` know it by the same name.
//!
//! There is no daemon. Each queued run is a process that sleeps in the kernel until its turn ([`waiter`]); what is to be run
//! is in a file as well ([`Queue`]), so that it outlives its process. Who finds a run whose process is gone records that; it
//! keeps its place, and `resume` gives it another process.

mod add;
mod cancel;
mod dependency;
mod journal;
mod lane_queue;
mod list;
mod pause;
mod pending;
mod request;
mod resume;
mod retry;
mod wait;
mod waiter;

pub(crate) use add::{Added, add};
pub(crate) use cancel::{Cancelled, cancel};
pub(crate) use lane_queue::{Queue, view};
pub(crate) use list::{Listed, Waits, stranded};
pub(crate) use request::Request;
pub(crate) use resume::resume;
pub(crate) use retry::retry;
pub(crate) use wait::{Ending, wait};
pub(crate) use waiter::adopt;

//! Tickets: places in the lane in front of a lease, so that who waits for it is served in the order of arrival.
//!
//! The store gives them out and keeps their order, and a slot that is free goes to the first that is live, whoever asks
//! fastest. The protocol, and the failure that each step prevents:
//!
//! 1. **The first request takes the ticket**, in the same step in which it is refused the lease. Between a refusal and a
//!    request for a ticket somebody else could come in between.
//! 2. **Numbers are the store's**, and grow: hosts' clocks would have to agree. The name of a ticket is its holder's, made
//!    before it asks: a request that is sent again, because its answer was lost, finds its place and does not take a second.
//! 3. **Each asking renews the ticket**, and one that is not renewed for [`Ticket::TTL`] is passed over and thrown away.
//!    Otherwise a waiter that was killed would keep everybody behind it out for ever. Who comes later than that, because it
//!    was stopped, finds its place gone and takes a new one, at the end.
//! 4. **Who has no ticket has no turn** while a live one is there, also if a slot is free: a newcomer that asks in the moment
//!    between a release and the first waiter's next request would be served before all who wait.
//! 5. **A ticket that is given back wakes the others**, and so does a grant that leaves a slot free: the next in the lane may
//!    have been refused a moment ago, because somebody was in front, and would sleep beside a free slot.
//! 6. **Who replaces a run comes before all who wait**: it takes the place of what it ends, which had been served already.
//!    Among themselves replacements are in order.
//!
//! A waiter holds nothing on the server but its ticket: no transaction, no row. A server that loses its tickets gives new ones
//! to whoever asks next; the order is lost with them, and nothing else.

use std::time::Duration;

use super::Token;
use crate::error::{Error, Result};

/// A place in the lane in front of a resource, as its holder names it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) token: Token,
    pub(crate) is_urgent: bool,
}

impl Ticket {
    /// How often a waiter asks again, whatever it heard: a pooler may keep what the server says.
    pub(crate) const RENEWAL: Duration = Duration::from_secs(2);

    /// How long a ticket is live from each asking. Two renewals may be lost to a slow server or a busy host; any longer, and
    /// a waiter that was killed at the head of the lane would have a free slot lie idle for longer.
    pub(crate) const TTL: Duration = Duration::from_secs(6);

    /// One that nobody has, for the end of the lane; or, urgent, in front of all that are not.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub(crate) fn new(is_urgent: bool) -> Result<Self> {
        let token = Token::new().map_err(|e| Error::io("get randomness from", "getrandom(2)", e))?;
        Ok(Self { token, is_urgent })
    }
}

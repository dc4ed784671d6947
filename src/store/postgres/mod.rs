//! PostgreSQL as a store.

use std::time::Duration;

use super::{Session, StoreUrl};
use crate::error::Result;

pub(super) fn connect(url: &StoreUrl, _patience: Duration) -> Result<Box<dyn Session>> {
    Err(crate::Error::Usage(format!("{url}: not yet")))
}

//! Every lock in every place.

use super::{LockKind, Report};

/// The races of a matrix.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Those that were run: lock by lock, each in every place.
    pub rows: Vec<Report>,
    /// The locks that no race was run with, because nobody said where their server is.
    pub not_run: Vec<LockKind>,
}

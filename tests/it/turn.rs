//! Taking turns.

use std::{
    fs::{self, File},
    path::Path,
};

/// Tests that measure time take turns with all others, in whichever process these run.
#[derive(Debug)]
pub(crate) struct Turn(#[allow(dead_code)] File);

impl Turn {
    fn file() -> File {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("turns.lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        file.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    #[allow(clippy::disallowed_methods)]
    pub(crate) fn shared() -> Self {
        let file = Self::file();
        fs2::FileExt::lock_shared(&file).expect("flock");
        Self(file)
    }

    #[allow(clippy::disallowed_methods)]
    pub(crate) fn alone() -> Self {
        let file = Self::file();
        fs2::FileExt::lock_exclusive(&file).expect("flock");
        Self(file)
    }
}

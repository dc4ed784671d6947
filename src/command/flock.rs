//! `flock`: recognised before anything else is looked at, because its cost is its start.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use crate::{
    cli::Global,
    flock::{self, State},
};

/// The exit code, if this process was called by the name `flock`, or its first word is that.
pub(super) fn drop_in() -> Option<u8> {
    let mut words = std::env::args_os();
    let program = words.next()?;
    if program.as_bytes().rsplit(|b| *b == b'/').next() == Some(b"flock") {
        return Some(flock::main(&program, words.collect(), State::default()));
    }
    if words.next()? != "flock" {
        return None;
    }
    Some(flock::main(OsStr::new(NAME), words.collect(), State::default()))
}

/// `triplock --state-dir … flock …`.
pub(super) fn after_options(global: Global, words: Vec<OsString>) -> u8 {
    let state = State { dir: global.state_dir, allow_network_fs: global.allow_network_fs };
    flock::main(OsStr::new(NAME), words, state)
}

/// What messages begin with when there is no other name.
const NAME: &str = "triplock flock";

//! The scripts: each runs on the server as one step, which nobody else's falls into.
//!
//! They begin with `#!lua`: so the server itself refuses them before they run when it is a replica, its memory is full or
//! it cannot write (Redis 7). Otherwise a script that comes to refuse a booking would write nothing, and would not learn
//! that the data it looked at was a replica's old one.

use std::sync::OnceLock;

use redis::Cmd;

/// A script, called by its hash.
pub(super) struct Script {
    code: &'static str,
    hash: OnceLock<String>,
}

pub(super) static SUBMIT: Script = Script::new(include_str!("submit.lua"));
pub(super) static ACQUIRE: Script = Script::new(include_str!("acquire.lua"));
pub(super) static LEAVE: Script = Script::new(include_str!("leave.lua"));
pub(super) static RENEW: Script = Script::new(include_str!("renew.lua"));
pub(super) static RELEASE: Script = Script::new(include_str!("release.lua"));
pub(super) static FORGET: Script = Script::new(include_str!("forget.lua"));
pub(super) static APPEND: Script = Script::new(include_str!("append.lua"));

impl Script {
    const fn new(code: &'static str) -> Self {
        Self { code, hash: OnceLock::new() }
    }

    /// The command that runs it; its arguments are to follow.
    pub(super) fn call(&self, keys: &[String]) -> Cmd {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.code).get_hash().to_owned());
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(hash).arg(keys.len()).arg(keys);
        command
    }

    /// The command that makes it known to the server.
    pub(super) fn load(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("SCRIPT").arg("LOAD").arg(self.code);
        command
    }
}

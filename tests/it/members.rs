//! Several users of a machine, and the group that shares a state directory: root's, 2770, as `systemd/tmpfiles.d` makes it.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{machine, sandbox::Sandbox};

/// The group.
pub(crate) const GROUP: u32 = 54321;

/// Whether the test may be several users; if not, it is skipped out loud.
#[track_caller]
pub(crate) fn may_be(test: &str) -> bool {
    if !machine::is_root() {
        machine::skip(test, "needs root, to be several users");
        return false;
    }
    machine::has(test, &["setpriv"])
}

/// The words before a command that a user runs, as a member of that group alone.
pub(crate) fn user(uid: u32, group: u32) -> [String; 5] {
    ["setpriv".into(), format!("--reuid={uid}"), format!("--regid={group}"), "--clear-groups".into(), "--".into()]
}

/// The same of a member of the group.
pub(crate) fn member(uid: u32) -> [String; 5] {
    user(uid, GROUP)
}

impl Sandbox {
    /// One whose state directory the group shares.
    pub(crate) fn shared() -> Self {
        let sandbox = Self::new().for_all_users();
        let state = sandbox.path("shared");
        fs::create_dir(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o2770)).unwrap();
        sandbox.with_state(&state)
    }
}

//! What makes a pid mean something: the boot, and the pid namespace.

use std::{fs, os::unix::fs::MetadataExt as _};

/// The kernel's id of this boot; empty where there is none to be had, which is then no other boot's either.
pub(crate) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

/// The inode of the pid namespace that we are in; 0 where that cannot be told.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_there() {
        assert_eq!(boot_id().len(), 36);
        let link = fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(link.to_str(), Some(format!("pid:[{}]", pid_namespace()).as_str()));
    }
}

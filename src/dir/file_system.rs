//! Which file systems keep the promises that the locks and the ledger stand on.
//!
//! flock(2) on a network file system may be local to the client (NFS `nolock`, SMB, most FUSE), so two hosts would
//! both win. Only file systems known to lock and sync for all processes of the machine are trusted; an unknown one
//! fails closed. Magic numbers: statfs(2) and linux/magic.h.

use std::{io, os::fd::AsFd};

const TRUSTED: [(u64, &str); 13] = [
    (0xEF53, "ext2/3/4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0xF2F5_2010, "f2fs"),
    (0x2FC1_2FC1, "zfs"),
    (0xCA45_1A4E, "bcachefs"),
    (0x3153_464A, "jfs"),
    (0x5265_4973, "reiserfs"),
    (0x0000_3434, "nilfs2"),
    (0x4D44, "vfat"),
    (0x2011_BAB0, "exfat"),
];
const OVERLAY: u64 = 0x794C_7630;
const NAMED: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
];

/// Why the file system under `fd` is not to be trusted, or `None` when it is.
pub(super) fn distrust(fd: impl AsFd, device: u64) -> io::Result<Option<String>> {
    let magic = rustix::fs::fstatfs(fd)?.f_type;
    // 32 bits wide whatever the architecture calls its type.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let magic = u64::from(magic as u32);
    if TRUSTED.iter().any(|(trusted, _)| *trusted == magic) {
        return Ok(None);
    }
    if magic == OVERLAY {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // A volatile overlay drops fsync, so nothing answered would be durable.
        return Ok(overlay_is_volatile(&mounts, device).then(|| "a volatile overlayfs".to_owned()));
    }
    let name = NAMED.iter().find(|(named, _)| *named == magic).map(|(_, name)| *name);
    Ok(Some(name.map_or_else(|| format!("an unknown file system (type {magic:#x})"), str::to_owned)))
}

fn overlay_is_volatile(mountinfo: &str, device: u64) -> bool {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    mountinfo
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some(&*device))
        .any(|line| line.split([' ', ',']).any(|option| option == "volatile"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_volatile_overlay_is_told_from_a_plain_one() {
        let line = "36 25 0:31 / /data rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u";
        let device = rustix::fs::makedev(0, 31);
        assert!(!super::overlay_is_volatile(line, device));
        assert!(super::overlay_is_volatile(&format!("{line},volatile"), device));
        assert!(!super::overlay_is_volatile(&format!("{line},volatile"), rustix::fs::makedev(0, 32)));
    }
}

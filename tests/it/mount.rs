//! File systems of a test's own, on loop devices, whose power can be cut and whose disk can be full. They are
//! unmounted and removed whatever happens to the test.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::machine;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    fn make(self, image: &Path) {
        let (size, force) = match self {
            Self::Ext4 => (64 << 20, "-F"),
            // mkfs.xfs makes nothing smaller than 300 MB.
            Self::Xfs => (320 << 20, "-f"),
        };
        File::create(image).and_then(|file| file.set_len(size)).expect("make the image file");
        run(Command::new(self.mkfs()).args(["-q", force]).arg(image));
    }
}

/// A script's first lines in a new mount namespace: it has every mount of the old one, and would keep the file systems of
/// other tests alive, which then cannot be unmounted and mounted again.
pub(crate) const FORGET_DISKS: &str = r#"
while read -r source point rest; do
  case $point in */triplock-disk-*) umount -l "$point" || : ;; esac
done </proc/mounts
"#;

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct Mount {
    point: PathBuf,
    what: Vec<String>,
    mounted: bool,
}

impl Mount {
    #[track_caller]
    fn new(point: PathBuf, what: &[&str]) -> Self {
        fs::create_dir(&point).expect("make the mount point");
        let mut mount = Self { point, what: what.iter().map(ToString::to_string).collect(), mounted: false };
        mount.mount();
        mount
    }

    #[track_caller]
    fn mount(&mut self) {
        run(Command::new("mount").args(&self.what).arg(&self.point));
        self.mounted = true;
    }

    #[track_caller]
    fn unmount(&mut self) {
        // A process that was just reaped may still be giving its files back.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = Command::new("umount").arg(&self.point).output().expect("start umount");
            if output.status.success() {
                break;
            }
            assert!(Instant::now() < deadline, "umount: {}", String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: whatever still runs there, nothing stays mounted. The loop device goes with the last user.
            let _ = Command::new("umount").arg("-l").arg(&self.point).output();
        }
    }
}

/// A tmpfs of that size (and inodes), to be filled.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    mount: Mount,
    _dir: TempDir,
}

impl SmallDisk {
    #[track_caller]
    pub(crate) fn new(options: &str) -> Self {
        let dir = temporary();
        Self { mount: Mount::new(dir.path().join("mnt"), &["-t", "tmpfs", "-o", options, "tmpfs"]), _dir: dir }
    }

    /// A ramfs: it has no size, and cannot give back the middle of a file.
    #[track_caller]
    pub(crate) fn that_cannot_punch() -> Self {
        let dir = temporary();
        Self { mount: Mount::new(dir.path().join("mnt"), &["-t", "ramfs", "-o", "mode=700", "ramfs"]), _dir: dir }
    }

    pub(crate) fn point(&self) -> &Path {
        &self.mount.point
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        fill(&self.mount.point.join("filler"));
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.mount.point.join("filler")).expect("remove the filler");
    }
}

/// An ext4 or xfs on a loop device.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: Mount,
    _dir: TempDir,
}

impl Disk {
    #[track_caller]
    pub(crate) fn new(kind: Kind) -> Self {
        let dir = temporary();
        let image = dir.path().join("image");
        kind.make(&image);
        let mount = Mount::new(dir.path().join("mnt"), &["-o", "loop", image.to_str().unwrap()]);
        Self { mount, _dir: dir }
    }

    pub(crate) fn point(&self) -> &Path {
        &self.mount.point
    }

    /// Cuts the power: what has not reached the disk by now never does, the file system's journal included.
    #[track_caller]
    pub(crate) fn cut(&self) {
        // EXT4_IOC_SHUTDOWN, the same number as XFS_IOC_GOINGDOWN: _IOR('X', 125, u32); 2 means "flush no log".
        // In perl, which every Debian has, because the tests keep to safe Rust.
        let script = r#"
            open(my $dir, "<", $ARGV[0]) or die "open: $!";
            my $how = pack("L", 2);
            ioctl($dir, 0x8004587D, $how) or die "shut down: $!";
        "#;
        run(Command::new("perl").args(["-e", script]).arg(&self.mount.point));
    }

    /// Switches the machine on again after a cut; or drops everything that only memory holds.
    #[track_caller]
    pub(crate) fn remount(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let probe = self.mount.point.join("probe");
        loop {
            self.mount.unmount();
            self.mount.mount();
            // A mount namespace that somebody else just made has our mount too, and keeps the dead file system alive.
            match fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)) {
                Ok(()) => return,
                Err(e) => assert!(Instant::now() < deadline, "it stays shut down: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An ext4 on a loop device whose image lies on a tmpfs that can be filled: then writing to a block that was never
/// written fails, and does so where a dying disk fails, at write-back.
#[derive(Debug)]
pub(crate) struct DyingDisk {
    mount: Mount,
    below: SmallDisk,
}

impl DyingDisk {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let dir = temporary();
        let image = dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("make the image file");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&image));
        let below = SmallDisk::new("size=24m");
        // Whole, without holes, so that journal and inodes have their place on the tmpfs.
        let lying = below.point().join("image");
        run(Command::new("cp").arg("--sparse=never").arg(&image).arg(&lying));
        let mount = Mount::new(below.point().join("mnt"), &["-o", "loop", lying.to_str().unwrap()]);
        Self { mount, below }
    }

    pub(crate) fn point(&self) -> &Path {
        &self.mount.point
    }

    /// From now on no block that is free now can be written.
    #[track_caller]
    pub(crate) fn fail(&mut self) {
        // Mounted afresh, ext4 has set no blocks aside for files that may grow.
        self.remount();
        // Discarding the free blocks punches holes into the image.
        run(Command::new("fstrim").arg(&self.mount.point));
        self.below.fill();
    }

    /// The disk is well again.
    pub(crate) fn recover(&self) {
        self.below.free();
    }

    /// Drops everything that only memory holds.
    #[track_caller]
    pub(crate) fn remount(&mut self) {
        self.mount.unmount();
        self.mount.mount();
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).expect("make the filler");
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}

fn temporary() -> TempDir {
    tempfile::Builder::new().prefix("triplock-disk-").tempdir().expect("make a temporary directory")
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    // A login shell's PATH may lack the directories of the administrator's tools.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command.env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The instruments bite: what was not synced is gone after a cut, what was is there.
#[test]
fn a_cut_takes_what_was_not_synced() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let test = format!("a cut on {kind:?}");
        if !machine::may_mount(&test) || !machine::has(&test, &[kind.mkfs(), "perl"]) {
            continue;
        }
        let mut disk = Disk::new(kind);
        fs::write(disk.point().join("synced"), b"synced").unwrap();
        File::open(disk.point().join("synced")).and_then(|file| file.sync_all()).unwrap();
        File::open(disk.point()).and_then(|dir| dir.sync_all()).unwrap();
        fs::write(disk.point().join("unsynced"), b"unsynced").unwrap();
        disk.cut();
        assert!(fs::write(disk.point().join("late"), b"late").is_err(), "there was no cut");
        disk.remount();
        assert_eq!(fs::read(disk.point().join("synced")).unwrap(), b"synced");
        let unsynced = fs::read(disk.point().join("unsynced")).unwrap_or_default();
        assert_ne!(unsynced, b"unsynced", "it survived without a sync");
    }
}

/// The kernel reports an error of write-back once; the next sync succeeds, and the bytes are not on the disk.
#[test]
fn a_dying_disk_forgets_in_silence() {
    let test = "a dying disk";
    if !machine::may_mount(test) || !machine::has(test, &["mkfs.ext4", "fstrim"]) {
        return;
    }
    let mut disk = DyingDisk::new();
    let path = disk.point().join("file");
    File::create(&path).and_then(|file| file.sync_all()).unwrap();
    disk.fail();
    fs::write(&path, vec![1; 20_000]).unwrap();
    assert!(File::open(&path).unwrap().sync_data().is_err(), "the disk did not fail");
    disk.recover();
    assert!(File::open(&path).unwrap().sync_data().is_ok(), "the error was reported twice");
    disk.remount();
    assert_ne!(fs::read(&path).unwrap(), vec![1; 20_000], "nothing was lost");
}

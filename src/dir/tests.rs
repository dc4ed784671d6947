use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{StateDir, *};
use crate::process::alone::alone;

#[test]
fn a_commit_leaves_the_umask_of_other_threads_alone() {
    alone("dir::tests::a_commit_leaves_the_umask_of_other_threads_alone", || {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        let state = StateDir::open(directory.path(), false).unwrap();
        let dir = state.make_subdirectory("trips").unwrap();
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let changed = thread::scope(|scope| {
            let other = scope.spawn(|| {
                let umask = || fs::read_to_string("/proc/thread-self/status").unwrap().contains("Umask:\t0077\n");
                let mut changed = 0;
                while !done.load(Ordering::Relaxed) {
                    changed += usize::from(!umask());
                    ready.store(true, Ordering::Relaxed);
                }
                changed
            });
            while !ready.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            for _ in 0..3000 {
                let file = dir.create_fresh("1.new").unwrap();
                assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o660);
            }
            done.store(true, Ordering::Relaxed);
            other.join().unwrap()
        });
        assert_eq!(changed, 0);
    });
}

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::*;
use crate::process::{
    Program, Spawn, Status,
    alone::{alone, alone_after, eventually},
    info,
};

fn start_in(words: &[&str], own_group: bool, cgroup: Option<Cgroup>) -> Tree {
    become_subreaper().unwrap();
    let program = Program::find(&words.iter().map(OsString::from).collect::<Vec<_>>()).unwrap();
    let spawn = Spawn {
        program: &program,
        environment: &[],
        stdin: None,
        stdout: None,
        stderr: None,
        inherit: &[],
        own_group,
        dies_with_us: false,
        cgroup: cgroup.as_ref().map(Cgroup::as_fd),
        mask: None,
    };
    let child = spawn.start().unwrap();
    Tree::new(child, own_group, cgroup)
}

fn start(script: &str) -> Tree {
    start_in(&["sh", "-c", script], true, None)
}

/// The living descendants of that name.
fn named(name: &str) -> Vec<ProcessInfo> {
    living(std::process::id(), &[]).unwrap().into_iter().filter(|process| process.name == name).collect()
}

#[track_caller]
fn assert_kills_all(tree: &mut Tree) -> Ended {
    let before = living(std::process::id(), &[]).unwrap();
    assert!(!before.is_empty());
    assert_eq!(tree.kill_all().unwrap(), []);
    for process in before {
        let now = info(process.pid).filter(|now| now.start_ticks == process.start_ticks);
        assert_eq!(now, None, "neither alive nor a zombie");
    }
    assert!(!tree.has_descendants().unwrap());
    let ended = tree.reap().unwrap().expect("told after kill_all too");
    assert_eq!(tree.reap().unwrap(), None, "told once");
    ended
}

#[test]
fn the_commands_end_is_told_once_and_orphans_are_buried() {
    alone("process::tree::tests::the_commands_end_is_told_once_and_orphans_are_buried", || {
        let mut tree = start("(sleep 96 & ) ; exit 5");
        let mut ended = None;
        eventually("its end", || {
            ended = tree.reap().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().status, Status::Exited(5));
        eventually("the orphan is ours", || named("sleep").first().is_some_and(|p| p.parent == std::process::id()));
        let orphan = named("sleep").remove(0);
        assert!(tree.has_descendants().unwrap());
        Handle::open_known(orphan.clone()).unwrap().unwrap().send(libc::SIGTERM).unwrap();
        eventually("the orphan is buried", || {
            assert_eq!(tree.reap().unwrap(), None);
            info(orphan.pid).is_none()
        });
        assert!(!tree.has_descendants().unwrap());
    });
}

#[test]
fn who_left_the_session_is_killed() {
    alone("process::tree::tests::who_left_the_session_is_killed", || {
        let mut tree = start("setsid sleep 96 & (setsid sh -c 'sleep 96 & sleep 96' &) ; wait");
        eventually("they run", || named("sleep").len() == 3);
        assert_eq!(assert_kills_all(&mut tree).status, Status::Killed(9));
    });
}

#[test]
fn who_ignores_term_is_killed() {
    alone("process::tree::tests::who_ignores_term_is_killed", || {
        let mut tree = start("trap '' TERM; sleep 96 & sleep 96 & wait");
        eventually("they run", || named("sleep").len() == 2);
        tree.signal(libc::SIGTERM).unwrap();
        assert_eq!(tree.reap().unwrap(), None);
        assert_eq!(assert_kills_all(&mut tree).status, Status::Killed(9));
    });
}

/// Each link of the chain starts the next and ends: none is there for long, and a look at the table may miss them all.
#[test]
fn a_chain_that_runs_ahead_is_caught() {
    alone("process::tree::tests::a_chain_that_runs_ahead_is_caught", || {
        let guard = tempfile::NamedTempFile::new().unwrap();
        let script = format!("next() {{ [ -e {} ] && next & }}; next", guard.path().display());
        let mut tree = start(&script);
        let mut ended = None;
        eventually("the command's own end", || {
            ended = ended.or(tree.reap().unwrap());
            ended.is_some()
        });
        for _ in 0..3 {
            assert_eq!(tree.kill_all().unwrap(), []);
            assert!(matches!(wait4(-1, libc::WNOHANG), Err(e) if e.raw_os_error() == Some(libc::ECHILD)));
        }
        assert_eq!(living(std::process::id(), &[]).unwrap(), []);
    });
}

/// A fork bomb with a bound on it: the file limits how long, the depth how many.
#[test]
fn a_bomb_does_not_win() {
    alone("process::tree::tests::a_bomb_does_not_win", || {
        let guard = tempfile::NamedTempFile::new().unwrap();
        let link = "next() { while [ -e GUARD ]; do sh -c : & sh -c : ; wait; done; }; next & next & next & next";
        let mut tree = start(&link.replace("GUARD", &guard.path().display().to_string()));
        eventually("it forks", || living(std::process::id(), &[]).unwrap().len() > 4);
        assert_kills_all(&mut tree);
    });
}

#[test]
fn a_stopped_job_sees_term() {
    alone("process::tree::tests::a_stopped_job_sees_term", || {
        for own_group in [true, false] {
            let mut tree = start_in(&["sleep", "96"], own_group, None);
            let pid = tree.child.id();
            tree.signal(libc::SIGSTOP).unwrap();
            eventually("it is stopped", || info(pid).is_some_and(|process| process.state == 'T'));
            tree.signal(libc::SIGTERM).unwrap();
            let mut ended = None;
            eventually("its end", || {
                ended = tree.reap().unwrap();
                ended.is_some()
            });
            assert_eq!(ended.unwrap().status, Status::Killed(libc::SIGTERM));
        }
    });
}

#[test]
fn the_group_is_signalled_also_after_its_leader() {
    alone("process::tree::tests::the_group_is_signalled_also_after_its_leader", || {
        let mut tree = start("sleep 96 & setsid sleep 96 & true");
        eventually("both run and the leader is buried", || {
            tree.reap().unwrap();
            named("sleep").len() == 2 && info(tree.child.id()).is_none()
        });
        tree.signal(libc::SIGTERM).unwrap();
        eventually("the one in the group ends", || named("sleep").len() == 1);
        tree.kill_all().unwrap();
        assert!(!tree.has_descendants().unwrap());
    });
}

#[test]
fn strangers_are_neither_killed_nor_buried() {
    let name = "process::tree::tests::strangers_are_neither_killed_nor_buried";
    alone_after("sh -c 'sleep 95; :' & sh -c : &", name, || {
        eventually("the strangers are there", || {
            let children = descendants(std::process::id()).unwrap();
            children.iter().any(|process| !process.is_alive()) && children.iter().any(|process| process.name == "sleep")
        });
        let strangers: Vec<_> = descendants(std::process::id()).unwrap().iter().map(|process| process.pid).collect();
        let mut tree = start("(setsid tail -f /dev/null &) ; exec tail -f /dev/null");
        eventually("the job is there", || named("tail").len() == 2);
        assert_eq!(tree.kill_all().unwrap(), []);
        assert_eq!(tree.reap().unwrap().map(|ended| ended.status), Some(Status::Killed(9)));
        assert_eq!(named("tail"), []);
        let now: Vec<_> = descendants(std::process::id()).unwrap().iter().map(|process| process.pid).collect();
        assert_eq!(now, strangers, "the zombie too");
        // They are this test's to end.
        let mut looks = 0;
        let ended = Sweep::new(std::process::id(), &[]).run(|| {
            looks += 1;
            Ok(None)
        });
        assert_eq!(ended.unwrap(), []);
        assert!(looks > 0);
    });
}

#[test]
fn anothers_tree_is_killed_and_itself_not() {
    alone("process::tree::tests::anothers_tree_is_killed_and_itself_not", || {
        let mut tree = start("sleep 96 & sleep 96 & wait; read -r x < /dev/zero & wait; exec tail -f /dev/null");
        eventually("they run", || named("sleep").len() == 2);
        let root = Handle::open(tree.child.id()).unwrap().unwrap();
        assert_eq!(kill_tree_of(&root, &[]).unwrap(), []);
        assert_eq!(named("sleep"), []);
        assert!(!root.has_ended());
        assert_kills_all(&mut tree);
        assert!(root.has_ended());
        assert_eq!(kill_tree_of(&root, &[]).unwrap(), []);
    });
}

#[test]
fn a_control_group_ends_with_everybody_in_it() {
    alone("process::tree::tests::a_control_group_ends_with_everybody_in_it", || {
        let Some(cgroup) = Cgroup::try_make("test") else {
            eprintln!("SKIPPED: no control group is to be had here (none delegated, or not writable)");
            return;
        };
        let path = cgroup.path().to_owned();
        // One of a wrapper that is no more.
        let litter = path.with_file_name(format!("triplock-litter-{}", u32::MAX));
        fs::create_dir(&litter).unwrap();
        let mut tree = start_in(&["sh", "-c", "setsid sleep 96 & sleep 96 & wait"], true, Some(cgroup));
        assert!(tree.child.in_cgroup);
        eventually("they run", || named("sleep").len() == 2);
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 3, "{members}");
        let begin = Instant::now();
        tree.cgroup.as_ref().unwrap().kill().unwrap();
        assert!(tree.cgroup.as_ref().unwrap().wait_until_empty(PATIENCE).unwrap());
        assert!(begin.elapsed() < Duration::from_secs(4));
        assert_eq!(named("sleep"), [], "by the group alone");
        assert_eq!(tree.kill_all().unwrap(), []);
        assert_eq!(tree.reap().unwrap().map(|ended| ended.status), Some(Status::Killed(9)));
        drop(tree);
        assert!(!path.exists());
        drop(Cgroup::try_make("another").unwrap());
        assert!(!litter.exists());
    });
}

/// As sudo is: what it starts belongs to root altogether, and our user may not signal it.
#[test]
fn who_may_not_be_killed_is_named() {
    const NAME: &str = "process::tree::tests::who_may_not_be_killed_is_named";
    if let Some(become_root) = std::env::var_os("TRIPLOCK_TEST_BECOME_ROOT") {
        let mut tree = start_in(&[become_root.to_str().unwrap(), "--reuid", "0", "sleep", "3"], true, None);
        let pid = tree.child.id();
        eventually("it runs as root", || info(pid).is_some_and(|process| process.name == "sleep"));
        tree.signal(libc::SIGTERM).unwrap();
        let survivors = tree.kill_all().unwrap();
        assert!(survivors.len() == 1 && survivors[0].pid == pid, "{survivors:?}");
        assert!(survivors[0].to_string().contains("(sleep): Operation not permitted"), "{survivors:?}");
        assert!(tree.has_descendants().unwrap());
        // It ends by itself.
        assert_eq!(tree.child.wait().unwrap().status, Status::Exited(0));
        return;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/setpriv").exists() {
        eprintln!("SKIPPED {NAME}: needs root and setpriv(1)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [become_root, test] = ["become-root", "test"].map(|name| dir.path().join(name));
    fs::copy("/usr/bin/setpriv", &become_root).unwrap();
    fs::set_permissions(&become_root, fs::Permissions::from_mode(0o4755)).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(test)
        .args(["--exact", NAME, "--nocapture"])
        .env("TRIPLOCK_TEST_BECOME_ROOT", become_root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

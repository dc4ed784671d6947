//! One state directory for a group: root's, 2770, as `systemd/tmpfiles.d` makes it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Command,
};

use crate::{
    machine,
    members::{self, GROUP, member, user},
    mount::FORGET_DISKS,
    sandbox::{Sandbox, TRIPLOCK},
};

#[test]
fn members_of_the_group_share_locks_and_state_and_outsiders_are_refused() {
    let test = "sharing::members_of_the_group_share_locks_and_state_and_outsiders_are_refused";
    if !members::may_be(test) {
        return;
    }
    let sandbox = Sandbox::shared();
    // Under a umask that would keep the others out.
    let umask = ["sh", "-c", "umask 077; exec \"$0\" \"$@\""].map(str::to_owned);
    let with_umask = |who: [String; 5]| who.into_iter().chain(umask.clone()).collect::<Vec<_>>();
    sandbox.add("1", 100).under(with_umask(member(4001))).succeeds();
    let gate = sandbox.gate();
    let racing: Vec<_> = (0..20u32)
        .map(|n| {
            let who = with_umask(member(4001 + n % 3));
            sandbox.book("1", &n.to_string()).under(who).through(&gate).start()
        })
        .collect();
    gate.open_for(racing.len());
    for booking in racing {
        booking.finish().succeeds();
    }
    sandbox.cancel("1", "3").succeeds(); // root
    sandbox.show("1").under(with_umask(member(4002))).shows_seats_left(81);
    for file in fs::read_dir(sandbox.state_dir().join("trips")).unwrap() {
        let file = file.unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o660, GROUP), "{:?}", file.path());
    }
    let refused = sandbox.book("1", "outsider").under(user(4004, 4004)).fails(77);
    assert!(refused["message"].as_str().unwrap().contains("join its group"), "{refused}");
    sandbox.show("1").shows_seats_left(81);
}

#[test]
fn members_that_make_a_job_s_files_at_once_never_refuse_each_other() {
    let test = "sharing::members_that_make_a_job_s_files_at_once_never_refuse_each_other";
    if !members::may_be(test) {
        return;
    }
    for umask in ["022", "077"].repeat(8) {
        // A directory that nothing is in yet.
        let sandbox = Sandbox::shared();
        let gate = sandbox.gate();
        fs::set_permissions(gate.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let racing: Vec<_> = (0..4)
            .map(|n| {
                let with_umask = ["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")].map(str::to_owned);
                let who = member(4001 + n).into_iter().chain(with_umask);
                sandbox
                    .triplock(["run", "new", "-w", "60", "--output", "capture", "--", "sh", "-c", "umask"])
                    .for_people()
                    .under(who)
                    .through(&gate)
                    .start()
            })
            .collect();
        gate.open_for(racing.len());
        for run in racing {
            run.finish().exits(0);
        }
        // The command has the umask that it would have had without us.
        let logs = fs::read_dir(sandbox.state_dir().join("jobs/new.logs")).unwrap().map(|log| log.unwrap().path());
        for log in logs {
            assert_eq!(fs::read_to_string(log).unwrap().trim(), format!("0{umask}"));
        }
    }
}

/// On an overlay (a container's root) the kernel's list of locks names another device than `stat`, and a member may not
/// look into another's process to see which lock it has.
#[test]
fn a_member_sees_another_s_run_on_an_overlay_too() {
    let test = "sharing::a_member_sees_another_s_run_on_an_overlay_too";
    if !machine::may_mount(test) || !machine::has(test, &["setpriv", "unshare"]) {
        return;
    }
    let sandbox = Sandbox::new().for_all_users();
    let script = format!(
        "{FORGET_DISKS}
         set -e; cd {}; mkdir lower layers state; mount -t tmpfs tmpfs layers; mkdir layers/upper layers/work
         mount -t overlay overlay -o lowerdir=lower,upperdir=layers/upper,workdir=layers/work state
         chown 0:{GROUP} state; chmod 2770 state; mkfifo -m 666 layers/started layers/go
         export TRIPLOCK_STATE_DIR=$PWD/state
         member() {{ uid=$1; shift; setpriv --reuid=$uid --regid={GROUP} --clear-groups -- \"$@\"; }}
         member 4001 {TRIPLOCK} run j -- sh -c 'echo >layers/started; read x <layers/go' &
         read x <layers/started
         member 4002 {TRIPLOCK} status j
         echo >layers/go; wait
         member 4002 {TRIPLOCK} status j",
        sandbox.path("").display()
    );
    let output = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]).output();
    let output = output.expect("start unshare");
    let shown = String::from_utf8_lossy(&output.stdout);
    let states: Vec<_> = shown.lines().filter(|line| line.starts_with('j')).collect();
    assert!(states.len() == 2 && states[0].contains("running") && states[1].contains("succeeded"), "{output:?}");
}

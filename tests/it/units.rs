//! The packaged units, run by a real systemd.

use crate::systemd_box::SystemdBox;

#[test]
fn a_machine_keeps_its_files_through_boots_and_power_cuts() {
    let Some(mut machine) = SystemdBox::booted("a_machine_keeps_its_files_through_boots_and_power_cuts") else {
        return;
    };
    machine.job("nightly", "echo hello", "");
    machine.systemctl(["start", "triplock@nightly.service"]).exits(0);
    machine.power_off();
    machine.boot();
    machine.systemctl(["start", "triplock@nightly.service"]).exits(0);
    machine.kill();
    machine.boot();
    assert_eq!(machine.outcomes("nightly"), ["succeeded"; 2]);
    assert_eq!(machine.journal(&["-u", "triplock@nightly.service", "MESSAGE=hello"]).len(), 2);
    machine.add_user("alice", &["triplock"]);
    let user = machine.start_user_manager("alice");
    user.systemctl(["is-active", "default.target"]).exits(0);
    assert_eq!(machine.property("triplock@nightly.service", "Result"), "success");
    assert!(machine.read("/etc/group").contains("triplock"));
}

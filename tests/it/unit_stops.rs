//! What `systemctl stop` reaches, apart from what triplock makes of it.

use crate::{sandbox::eventually, systemd_box::SystemdBox};

#[test]
fn a_stop_before_triplock_handles_signals_is_no_failure() {
    let test = "unit_stops::a_stop_before_triplock_handles_signals_is_no_failure";
    let Some(machine) = SystemdBox::booted(test) else { return };
    // A program that handles none is in the place of one that does not yet.
    let early = "[Service]\nExecStart=\nExecStart=/bin/sleep 1000.25\n";
    machine.write("/etc/systemd/system/triplock@early.service.d/x.conf", early);
    machine.systemctl(["daemon-reload"]).exits(0);
    machine.systemctl(["start", "--no-block", "triplock@early.service"]).exits(0);
    eventually("it runs", || !machine.processes("sleep 1000.25").is_empty());
    machine.systemctl(["stop", "triplock@early.service"]).exits(0);
    assert_eq!(machine.property("triplock@early.service", "Result"), "success");
    assert_eq!(machine.property("triplock@early.service", "ActiveState"), "inactive");
}

#[test]
fn a_stop_tells_triplock_alone() {
    let test = "unit_stops::a_stop_tells_triplock_alone";
    let Some(machine) = SystemdBox::booted(test) else { return };
    // What has left the job's group is for triplock to wait for and to kill, not for systemd to TERM.
    let script = "setsid sh -c 'trap \"echo >/run/told\" TERM; echo >/run/ready; while :; do sleep 0.05; done' & \
                  trap '' TERM; while :; do sleep 0.05; done";
    machine.job("alone", script, "kill_after = 1");
    machine.systemctl(["start", "--no-block", "triplock@alone.service"]).exits(0);
    eventually("it runs", || machine.exists("/run/ready"));
    machine.systemctl(["stop", "triplock@alone.service"]).exits(0);
    machine.comes_to("alone", &["stopped"]);
    assert!(!machine.exists("/run/told"));
}

//! What was installed is fired by the real scheduler, and nothing is left when it was uninstalled.

use std::{collections::BTreeSet, fs};

use crate::{
    cron_box::{CronBox, GROUP, MEMBER},
    install::{changes, complaint, report},
    sandbox::{Invocation, Sandbox, eventually},
    systemd_box::SystemdBox,
};

/// Every file and directory in the places where systemd's units and stamps are, and what the files hold.
fn units_and_stamps(machine: &SystemdBox) -> BTreeSet<String> {
    let places = "/etc/systemd /var/lib/systemd/timers";
    let script =
        format!("find {places} -mindepth 1 -type d; find {places} \\( -type f -o -type l \\) -exec cksum {{}} +");
    machine.sh("root", &script).run().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn systemd_fires_what_was_installed_and_nothing_is_left_when_it_was_uninstalled() {
    let test = "install_fires::systemd_fires_what_was_installed_and_nothing_is_left_when_it_was_uninstalled";
    let Some(machine) = SystemdBox::booted(test) else { return };
    for packaged in [true, false] {
        if !packaged {
            machine.sh("root", "rm /usr/lib/systemd/system/triplock*; systemctl daemon-reload").exits(0);
        }
        let job = if packaged { "a.b-c_d" } else { "second" };
        machine.job(job, "echo hello", "on_calendar = '*:*:0/2'\nkill_after = 5");
        machine.job("other", "true", "on_calendar = 'daily'");
        let install = |job: &str| {
            let invocation = machine.command("root", ["triplock", "--json", "install", "systemd", job]);
            if packaged { invocation.arg("--hardened").run() } else { invocation.run() }
        };
        if !packaged {
            // The templates stay as long as one job needs them.
            report(&install("other"));
        }
        let before = units_and_stamps(&machine);
        let said = report(&install(job));
        assert_eq!(said["warnings"], serde_json::json!([]), "{said}");
        assert_eq!(changes(&said).iter().filter(|change| **change == "written").count(), if packaged { 4 } else { 3 });
        let timer = format!("triplock@{job}.timer");
        assert_eq!(machine.property(&timer, "ActiveState"), "active");
        assert_eq!(machine.property(&timer, "UnitFileState"), "enabled");
        eventually("the timer has fired", || machine.outcomes(job).contains(&"succeeded".to_owned()));
        assert_eq!(machine.property(&format!("triplock@{job}.service"), "TimeoutStopUSec"), "25s");
        let again = report(&install(job));
        assert!(changes(&again).iter().all(|change| *change == "unchanged"), "{again}");
        // Other times in the job file: systemd goes by them.
        machine.job(job, "echo hello", "on_calendar = 'Mon 03:15'\nkill_after = 5");
        let changed = report(&install(job));
        assert_eq!(changes(&changed).iter().filter(|change| **change == "updated").count(), 1, "{changed}");
        assert!(machine.property(&timer, "TimersCalendar").contains("OnCalendar=Mon *-*-* 03:15:00"));
        // Back again, and away.
        machine.job(job, "echo hello", "on_calendar = '*:*:0/2'\nkill_after = 5");
        report(&install(job));
        eventually("no run goes on", || {
            machine.property(&format!("triplock@{job}.service"), "ActiveState") == "inactive"
        });
        report(&machine.command("root", ["triplock", "--json", "uninstall", "systemd", job]).run());
        let after = units_and_stamps(&machine);
        assert!(after == before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
        let loaded =
            machine.systemctl(["list-units", "--all", "--plain", "--no-legend", &format!("triplock*@{job}.*")]);
        assert_eq!(loaded.run().stdout, "");
        if !packaged {
            report(&machine.command("root", ["triplock", "--json", "uninstall", "systemd", "other"]).run());
            let left: Vec<_> =
                units_and_stamps(&machine).into_iter().filter(|line| line.contains("triplock")).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[test]
fn a_users_own_systemd_fires_what_the_user_installed() {
    let test = "install_fires::a_users_own_systemd_fires_what_the_user_installed";
    let Some(machine) = SystemdBox::booted(test) else { return };
    machine.add_user("alice", &[]);
    let user = machine.start_user_manager("alice");
    machine.job("hers", "id -un >$HOME/ran", "on_calendar = '*:*:0/2'");
    let said = report(&user.command(["triplock", "--json", "install", "systemd", "hers"]).run());
    assert_eq!(said["scope"], "user");
    assert!(said["warnings"].to_string().contains("loginctl enable-linger alice"), "{said}");
    eventually("the timer has fired", || {
        machine.exists("/home/alice/ran") && machine.read("/home/alice/ran") == "alice\n"
    });
    report(&user.command(["triplock", "--json", "uninstall", "systemd", "hers"]).run());
    let left = machine.sh("root", "find /home/alice -path '*triplock*' -not -path '*/state/*' -not -name state").run();
    assert!(!left.stdout.contains("systemd"), "{}", left.stdout);
    // Without rights, the machine's stays as it is.
    let refused = machine.command("alice", ["triplock", "--json", "install", "systemd", "hers", "--system"]);
    assert!(complaint(refused, 77).contains("`sudo /usr/bin/triplock --json install systemd hers --system`"));
}

#[test]
fn cron_fires_what_was_installed_and_nothing_is_left_when_it_was_uninstalled() {
    let test = "install_fires::cron_fires_what_was_installed_and_nothing_is_left_when_it_was_uninstalled";
    let Some(cron) = CronBox::new(test) else { return };
    let sandboxes = [Sandbox::new().for_all_users(), Sandbox::new().for_all_users()];
    for (sandbox, (scope, user)) in sandboxes.iter().zip([("--system", None), ("--user", Some(MEMBER))]) {
        fs::create_dir(sandbox.state_dir()).expect("make the state directory");
        let job = user.map_or("system", |_| "users.own");
        let ran = cron.path(user.map_or("", |(name, _)| name)).join(format!("ran-{job}"));
        // What comes after a `%` is the job's, not cron's.
        sandbox.defines(&format!(
            "[jobs.'{job}']\ncommand = ['sh', '-c', 'date +%Y >>\"$1\"', 'sh', '{}']\ncron = '* * * * *'\n",
            ran.display()
        ));
        if let Some((_, uid)) = user {
            std::os::unix::fs::chown(sandbox.state_dir(), Some(uid), Some(GROUP)).expect("chown");
        }
        let at = |words: &[&str]| {
            let invocation = sandbox.scheduling(words);
            let invocation = match user {
                None => invocation,
                Some((name, _)) => {
                    let user = [format!("--reuid={name}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()];
                    let home = ["env".to_owned(), format!("HOME={}", cron.path(name).display())];
                    invocation.under(home).under(std::iter::once("setpriv".to_owned()).chain(user))
                }
            };
            let done = report(&invocation.under(cron.inside()).run());
            cron.crontabs_changed();
            done
        };
        if let Some((name, _)) = user {
            cron.user_crontab(name, "# mine\n0 0 1 1 * true");
        }
        let install = ["install", "cron", job, scope];
        assert_eq!(changes(&at(&install)), [if user.is_some() { "updated" } else { "written" }]);
        assert_eq!(changes(&at(&install)), ["unchanged"]);
        eventually("cron has started it", || fs::read_to_string(&ran).unwrap_or_default().starts_with("20"));
        let removed = at(&["uninstall", "cron", job, scope]);
        assert_eq!(changes(&removed), [if user.is_some() { "updated" } else { "removed" }]);
        assert_eq!(fs::read_dir(cron.cron_d()).expect("list").count(), 0);
    }
    // A run may go on still.
    cron.comes_to_rest();
    let own = fs::read_to_string(cron.path("spool/crontabs").join(MEMBER.0)).expect("the crontab is there");
    assert!(own.ends_with("# mine\n0 0 1 1 * true\n") && !own.contains("triplock"), "{own}");
    assert_eq!(cron.mails(), []);
}

#[test]
fn what_an_administrator_edits_counts_more_than_what_was_installed() {
    let test = "install_fires::what_an_administrator_edits_counts_more_than_what_was_installed";
    let Some(machine) = SystemdBox::booted(test) else { return };
    machine.job("edited", "exit 1", "on_calendar = 'daily'\nuser = 'daemon'\nkill_after = 5");
    machine.sh("root", "triplock install systemd edited").exits(0);
    // As `systemctl edit` names them.
    let edit = |unit: &str, text: &str| machine.write(&format!("/etc/systemd/system/{unit}.d/override.conf"), text);
    edit("triplock@edited.timer", "[Timer]\nOnCalendar=\nOnCalendar=Mon 06:30\n");
    edit("triplock@edited.service", "[Service]\nUser=root\nTimeoutStopSec=77\n");
    edit("triplock-failure@.service", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo %i >/run/mailed'\n");
    machine.systemctl(["daemon-reload"]).exits(0);
    let times = machine.property("triplock@edited.timer", "TimersCalendar");
    assert!(times.contains("Mon *-*-* 06:30:00") && times.matches("OnCalendar").count() == 1, "{times}");
    assert_eq!(machine.property("triplock@edited.service", "User"), "root");
    assert_eq!(machine.property("triplock@edited.service", "TimeoutStopUSec"), "1min 17s");
    machine.systemctl(["start", "triplock@edited.service"]).exits(1);
    eventually("the failure is reported", || {
        machine.exists("/run/mailed") && machine.read("/run/mailed") == "edited\n"
    });
}

#[test]
fn an_installation_starts_nothing_before_its_time() {
    let test = "install_fires::an_installation_starts_nothing_before_its_time";
    let Some(machine) = SystemdBox::booted(test) else { return };
    let timer = "triplock@later.timer";
    machine.job("later", "true", "on_calendar = '*-01-01 03:15'");
    let install = || report(&machine.command("root", ["triplock", "--json", "install", "systemd", "later"]).run());
    install();
    // It was due last some time ago …
    let age = format!(
        "systemctl stop {timer} && touch -d '2 days ago' /var/lib/systemd/timers/stamp-{timer} && systemctl start {timer}"
    );
    machine.sh("root", &age).exits(0);
    assert!(machine.property(timer, "LastTriggerUSec").len() > 3, "it remembers");
    // … so of other times one is past.
    machine.job("later", "true", "on_calendar = '*-*-* 00:00'");
    install();
    assert!(machine.property(timer, "TimersCalendar").contains("*-*-* 00:00:00"));
    // The timer is asked for its next time; had it been due at once, it would have been started by now.
    machine.job("now", "true", "on_calendar = '*:*:0/1'");
    machine.sh("root", "triplock install systemd now").exits(0);
    eventually("another job's time has come", || machine.outcomes("now").contains(&"succeeded".to_owned()));
    assert_eq!(machine.outcomes("later"), Vec::<String>::new());
    let state = machine.property("triplock@later.service", "ExecMainStartTimestampMonotonic");
    assert_eq!(state, "0", "it was never started");
}

#[test]
fn a_job_of_every_second_is_started_every_second() {
    let Some(machine) = SystemdBox::booted("install_fires::a_job_of_every_second_is_started_every_second") else {
        return;
    };
    machine.job("often", "true", "on_calendar = '*-01-01'");
    // (Only of a unit that a timer keeps in memory does systemd count the starts.)
    machine.sh("root", "triplock install systemd often").exits(0);
    // By hand they come faster, and it is the same limit.
    let starts = "for i in 1 2 3 4 5 6 7 8; do systemctl start triplock@often.service || exit; done";
    machine.sh("root", starts).exits(0);
    assert_eq!(machine.outcomes("often").len(), 8);
}

#[test]
fn an_uninstallation_that_fails_leaves_the_timer_running() {
    let test = "install_fires::an_uninstallation_that_fails_leaves_the_timer_running";
    let Some(machine) = SystemdBox::booted(test) else { return };
    machine.job("kept", "true", "on_calendar = 'daily'");
    machine.sh("root", "triplock install systemd kept").exits(0);
    let directory = "/etc/systemd/system/triplock-failure@kept.service.d";
    machine
        .sh("root", &format!("mount --bind {directory} {directory} && mount -o remount,bind,ro {directory}"))
        .exits(0);
    let before = units_and_stamps(&machine);
    let uninstall = || machine.command("root", ["triplock", "--json", "uninstall", "systemd", "kept"]);
    assert!(complaint(uninstall(), 77).contains("Read-only file system"));
    assert_eq!(units_and_stamps(&machine), before);
    let timer = ["ActiveState", "UnitFileState"].map(|property| machine.property("triplock@kept.timer", property));
    assert_eq!(timer, ["active", "enabled"]);
    machine.sh("root", &format!("umount {directory}")).exits(0);
    report(&uninstall().run());
}

#[test]
fn of_many_who_install_at_once_nobodys_lines_are_lost() {
    let Some(cron) = CronBox::new("install_fires::of_many_who_install_at_once_nobodys_lines_are_lost") else { return };
    let sandbox = Sandbox::new().for_all_users();
    let jobs: Vec<_> = (0..8).map(|number| format!("job-{number}")).collect();
    let define = |job: &String| format!("[jobs.{job}]\ncommand = 'true'\ncron = '@yearly'\n");
    sandbox.defines(&jobs.iter().map(define).collect::<String>());
    let (name, _) = MEMBER;
    let start = |command: &str, job: &String| {
        let user = [format!("--reuid={name}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()];
        let invocation = sandbox.scheduling(&[command, "cron", job, "--user"]);
        invocation.under(std::iter::once("setpriv".to_owned()).chain(user)).under(cron.inside()).start()
    };
    cron.user_crontab(name, "0 0 1 1 * true");
    let lines = || {
        let text = fs::read_to_string(cron.path("spool/crontabs").join(name)).expect("the crontab is there");
        jobs.iter().filter(|job| text.contains(&format!(" run {job} "))).count()
    };
    for (command, left) in [("install", jobs.len()), ("uninstall", 0)] {
        let all: Vec<_> = jobs.iter().map(|job| start(command, job)).collect();
        for running in all {
            running.finish().exits(0);
        }
        assert_eq!(lines(), left, "{command}");
    }
}

#[test]
fn a_crontab_that_was_empty_before_stays_and_lines_that_are_there_twice_go() {
    let test = "install_fires::a_crontab_that_was_empty_before_stays_and_lines_that_are_there_twice_go";
    let Some(cron) = CronBox::new(test) else { return };
    let sandbox = Sandbox::new().for_all_users();
    let (name, _) = MEMBER;
    let as_member = |invocation: Invocation| {
        let user = [format!("--reuid={name}"), format!("--regid={GROUP}"), "--clear-groups".to_owned()];
        invocation.under(std::iter::once("setpriv".to_owned()).chain(user)).under(cron.inside())
    };
    as_member(Invocation::of("sh").arg("-c").arg("crontab - </dev/null")).exits(0);
    let spool = cron.path("spool/crontabs").join(name);
    assert!(spool.exists(), "crontab(1) keeps an empty one");
    let said = report(&as_member(sandbox.scheduling(&["uninstall", "cron", "nightly", "--user"])).run());
    assert_eq!(changes(&said), Vec::<&str>::new());
    assert!(spool.exists());

    sandbox.defines("[jobs.nightly]\ncommand = 'true'\ncron = '@yearly'\n");
    let read = || fs::read_to_string(&spool).expect("the crontab is there");
    let install = || as_member(sandbox.scheduling(&["install", "cron", "nightly", "--user"]));
    let uninstall = || as_member(sandbox.scheduling(&["uninstall", "cron", "nightly", "--user"]));
    let twice = || {
        as_member(Invocation::of("sh").arg("-c").arg("{ crontab -l; echo '@yearly true'; crontab -l; } | crontab -"))
    };
    report(&install().run());
    twice().exits(0);
    report(&install().run());
    assert_eq!(read().matches(" run nightly").count(), 1, "{}", read());
    twice().exits(0);
    assert_eq!(read().matches(" run nightly").count(), 2);
    report(&uninstall().run());
    assert!(!read().contains("triplock") && read().contains("@yearly true\n"), "{}", read());
}

#[test]
fn templates_of_the_time_before_a_package_go_when_there_is_one() {
    let test = "install_fires::templates_of_the_time_before_a_package_go_when_there_is_one";
    let Some(machine) = SystemdBox::booted(test) else { return };
    machine.job("early", "true", "on_calendar = 'daily'");
    let install = || report(&machine.command("root", ["triplock", "--json", "install", "systemd", "early"]).run());
    machine.sh("root", "mkdir /run/away && mv /usr/lib/systemd/system/triplock* /run/away").exits(0);
    assert_eq!(changes(&install()).len(), 6);
    machine.sh("root", "mv /run/away/* /usr/lib/systemd/system").exits(0);
    let said = install();
    assert_eq!(changes(&said).iter().filter(|change| **change == "removed").count(), 3, "{said}");
    let fragment = machine.property("triplock@early.service", "FragmentPath");
    assert!(fragment.ends_with("/lib/systemd/system/triplock@.service"), "{fragment}");
    assert_eq!(machine.property("triplock@early.timer", "ActiveState"), "active");
}

#[test]
fn what_systemctl_refuses_half_way_is_put_back() {
    let test = "install_fires::what_systemctl_refuses_half_way_is_put_back";
    let Some(machine) = SystemdBox::booted(test) else { return };
    machine.job("a", "true", "on_calendar = 'daily'");
    let triplock = |command| machine.command("root", ["triplock", "--json", command, "systemd", "a"]);
    report(&triplock("install").run());
    let look = || {
        let timer =
            ["ActiveState", "UnitFileState", "TimersCalendar"].map(|name| machine.property("triplock@a.timer", name));
        (units_and_stamps(&machine), timer)
    };
    let before = look();
    machine.job("a", "true", "on_calendar = 'weekly'");
    for (command, refused) in [("install", "enable"), ("install", "start"), ("uninstall", "disable")] {
        // Once; what puts things back is obeyed.
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' {refused} '*) rm \"$0\"; echo no such luck >&2; exit 1;; esac\n\
             exec /usr/bin/systemctl \"$@\"\n"
        );
        machine.write("/usr/local/bin/systemctl", &script);
        machine.sh("root", "chmod 755 /usr/local/bin/systemctl").exits(0);
        let said = complaint(triplock(command), 71);
        assert!(said.starts_with(&format!("systemctl {refused} ")), "{said}");
        assert!(said.ends_with(" failed, so nothing was changed: no such luck"), "{said}");
        assert_eq!(look(), before, "{command}, {refused}");
    }
}

#[test]
fn the_report_of_what_never_became_a_run_does_not_fail_itself() {
    let test = "install_fires::the_report_of_what_never_became_a_run_does_not_fail_itself";
    let Some(machine) = SystemdBox::booted(test) else { return };
    // (daemon is no member of the group.)
    machine.job("barred", "true", "on_calendar = 'daily'\nuser = 'daemon'");
    machine.sh("root", "triplock install systemd barred").exits(0);
    machine.systemctl(["start", "triplock@barred.service"]).exits(1);
    let report = "triplock-failure@barred.service";
    eventually("the report is over", || {
        machine.property(report, "ExecMainExitTimestampMonotonic") != "0"
            && ["inactive", "failed"].contains(&&*machine.property(report, "ActiveState"))
    });
    assert_eq!(machine.property(report, "Result"), "success");
    assert!(machine.ledger("barred").is_empty());
}

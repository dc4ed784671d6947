//! The Debian package: it installs, works, is upgraded and is purged in a clean root.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{clean_root::CleanRoot, machine, sandbox::TRIPLOCK, systemd_box::SystemdBox};

/// The package around the binary that is being tested, made as a release is; `None`, said out loud, where it cannot be.
/// (Not around a static one with all optimisations, which would take as long to build as all tests: `.ci/package`
/// differs only in which binary it strips.)
#[track_caller]
fn package(test: &str) -> Option<PathBuf> {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    if !machine::has(test, &["cargo-deb", "dpkg-deb", "dpkg-shlibdeps", "strip", "gzip"]) {
        return None;
    }
    let package = PACKAGE.get_or_init(|| {
        let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("package-{}", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/package");
        let built = Command::new(script).args(["--fast", "--binary", TRIPLOCK, "--output"]).arg(&output).output();
        let built = built.expect("start .ci/package");
        assert!(built.status.success(), ".ci/package: {}", String::from_utf8_lossy(&built.stderr));
        let said = String::from_utf8(built.stdout).unwrap();
        // Kept by one name, for whoever wants to look at it.
        let kept = output.with_file_name("triplock.deb");
        fs::rename(said.lines().last().expect("where it is"), &kept).expect("the last line says where the package is");
        fs::remove_dir(&output).expect("nothing else was made");
        kept
    });
    Some(package.clone())
}

/// A clean root with the package in it as a file, and the names of all files besides.
#[track_caller]
fn root(test: &str) -> Option<(CleanRoot, BTreeSet<String>)> {
    let package = package(test)?;
    let root = CleanRoot::new(test)?;
    let before = root.files();
    fs::copy(package, root.path("/triplock.deb")).expect("copy the package");
    Some((root, before))
}

/// What is there that was not there before.
#[track_caller]
fn left(root: &CleanRoot, before: &BTreeSet<String>) -> Vec<String> {
    fs::remove_file(root.path("/triplock.deb")).expect("remove the package's file");
    let after = root.files();
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(gone.is_empty(), "files of somebody else are gone: {gone:?}");
    after.difference(before).cloned().collect()
}

#[test]
fn what_is_installed_works() {
    let Some((root, _)) = root("what_is_installed_works") else { return };
    root.does("dpkg -i /triplock.deb");
    assert_eq!(root.does("triplock --version").trim(), concat!("triplock ", env!("CARGO_PKG_VERSION")));
    assert_eq!(root.does("stat -c '%a %U:%G' /var/lib/triplock").trim(), "2770 root:triplock");
    root.does("test ! -e /usr/bin/flock.distrib && dpkg -S /usr/bin/flock | grep -q util-linux");

    // A job, and a job of a job file.
    assert_eq!(root.does("triplock run hello -- echo hello").trim(), "hello");
    root.does(
        "dpkg -S /etc/triplock/jobs.d | grep -q '^triplock:'
        printf '[jobs.nightly]\\ncommand = \"echo dumped\"\\noutput = \"capture\"\\n' >/etc/triplock/jobs.d/nightly.toml
        triplock run nightly
        test \"$(triplock logs nightly)\" = dumped
        triplock doctor",
    );

    // A booking of root's, seen by a member of the group and by nobody else.
    root.does("triplock trip add 1 --seats 2; triplock book 1 --student 7");
    let group = root.does("getent group triplock | cut -d: -f3");
    let show = "triplock --state-dir /var/lib/triplock trip show 1";
    let member = format!("setpriv --reuid=1000 --regid={} --clear-groups {show}", group.trim());
    assert!(root.does(&member).starts_with("trip 1: 1 of 2 seats left"));
    let outsider = root.sh(&format!("setpriv --reuid=1001 --regid=1001 --clear-groups {show}"));
    assert_eq!(outsider.status.code(), Some(77), "{outsider:?}");

    // Help: every page and every completion is what the program prints; debhelper's and every shell's places.
    root.does(
        "triplock man --dir /tmp/man >/dev/null
        for page in /tmp/man/*.1; do
          test \"$(gzip -dc /usr/share/man/man1/${page##*/}.gz | tail -n +4)\" = \"$(tail -n +4 $page)\"
        done
        test \"$(ls /usr/share/man/man1/triplock*.1.gz | wc -l)\" = \"$(ls /tmp/man | wc -l)\"
        gzip -dc /usr/share/man/man1/triplock-run.1.gz | grep -q '^.SH NAME'
        triplock completions bash | cmp - /usr/share/bash-completion/completions/triplock
        triplock completions zsh | cmp - /usr/share/zsh/vendor-completions/_triplock
        triplock completions fish | cmp - /usr/share/fish/vendor_completions.d/triplock.fish
        bash -c '. /usr/share/bash-completion/completions/triplock && complete -p triplock >/dev/null'
        gzip -dc /usr/share/doc/triplock/changelog.gz | grep -q '^# Changelog'
        test -s /usr/share/doc/triplock/copyright",
    );

    // The units are those of the sources, and start what is there.
    for unit in ["triplock@.service", "triplock@.timer", "triplock-failure@.service"] {
        let installed = fs::read_to_string(root.path(&format!("/usr/lib/systemd/system/{unit}"))).expect(unit);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
        assert_eq!(installed, fs::read_to_string(source).expect(unit), "{unit}");
        for program in installed.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            root.does(&format!("test -x {}", program.split(' ').next().unwrap()));
        }
    }
}

#[test]
fn state_outlives_upgrade_and_removal() {
    let Some((root, _)) = root("state_outlives_upgrade_and_removal") else { return };
    root.does(
        "dpkg -i /triplock.deb
        triplock trip add 1 --seats 2; triplock book 1 --student 7; triplock run hello -- true
        echo '# mine' >>/etc/triplock/jobs.d/README
        dpkg-deb -R /triplock.deb /tmp/next && sed -i 's/^Version:.*/Version: 99.0-1/' /tmp/next/DEBIAN/control
        dpkg-deb -b /tmp/next /tmp/next.deb",
    );
    let kept = |root: &CleanRoot| {
        assert!(root.does("triplock trip show 1 --bookings").contains('7'), "the booking");
        assert!(root.does("triplock history hello --json").contains("\"run\":1"), "the run");
        root.does("grep -q '# mine' /etc/triplock/jobs.d/README");
        assert_eq!(root.does("stat -c '%a %U:%G' /var/lib/triplock").trim(), "2770 root:triplock");
    };
    root.does("dpkg -i /triplock.deb");
    kept(&root);
    root.does("dpkg -i /tmp/next.deb; test \"$(dpkg-query -W -f '${Version}' triplock)\" = 99.0-1");
    kept(&root);
    root.does("dpkg -r triplock; ! command -v triplock; test -e /etc/triplock/jobs.d/README");
    root.does("dpkg -i /tmp/next.deb");
    kept(&root);
}

#[test]
fn purge_leaves_nothing_but_bookings() {
    let Some((root, before)) = root("purge_leaves_nothing_but_bookings") else { return };
    root.does(
        "dpkg -i /triplock.deb
        triplock trip add 1 --seats 2; triplock book 1 --student 7
        triplock run hello --output capture --lock db -- echo hello
        echo '{}' >/root/file; triplock update /root/file -- cat; rm /root/file
        echo '[jobs.mine]' >/etc/triplock/jobs.d/mine.toml",
    );
    let purged = root.sh("dpkg -P triplock");
    let said = String::from_utf8_lossy(&purged.stderr);
    assert!(purged.status.success() && said.contains("rm -r /var/lib/triplock"), "{said}");
    let left = left(&root, &before);
    let kept = |name: &String| *name == "/var/lib/triplock" || name.starts_with("/var/lib/triplock/trips");
    assert!(left.iter().all(kept), "{left:?}");
    assert!(left.contains(&"/var/lib/triplock/trips/1.jsonl".to_owned()), "the booking: {left:?}");

    // What it said to do leaves nothing.
    let done: String =
        said.lines().find_map(|line| line.rsplit_once(": ").map(|(_, end)| end.to_owned())).unwrap_or_default();
    root.does(&done);
    let after = root.files();
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn bookings_of_more_trips_than_a_command_takes_words_are_kept() {
    let Some((root, _)) = root("bookings_of_more_trips_than_a_command_takes_words_are_kept") else { return };
    let purged = root.sh(
        "dpkg -i /triplock.deb >&2
        triplock trip add 1 --seats 2; triplock book 1 --student 7
        cd /var/lib/triplock/trips && seq -f 'a-trip-with-a-name-of-some-length-to-be-sure-%.0f.jsonl' 40000 | xargs touch
        dpkg -P triplock",
    );
    assert!(purged.status.success(), "{purged:?}");
    root.does("test -s /var/lib/triplock/trips/1.jsonl");
}

#[test]
fn purge_without_bookings_leaves_nothing_at_all() {
    let Some((root, before)) = root("purge_without_bookings_leaves_nothing_at_all") else { return };
    root.does(
        "dpkg -i /triplock.deb
        triplock trip add 1 --seats 2
        triplock run hello --output capture -- echo hello
        dpkg -P triplock",
    );
    assert_eq!(left(&root, &before), Vec::<String>::new());
    root.does("getent group triplock");
}

#[test]
fn purge_removes_what_install_wrote_and_nothing_else() {
    let Some((root, before)) = root("purge_removes_what_install_wrote_and_nothing_else") else { return };
    root.does(
        "dpkg -i /triplock.deb
        drop_in=/etc/systemd/system/triplock@nightly.timer.d
        mkdir -p /etc/cron.d $drop_in
        echo '# triplock install: job nightly, 1 lines, 00000000; x' >/etc/cron.d/triplock-nightly
        cp /etc/cron.d/triplock-nightly $drop_in/10-triplock.conf
        echo '# mine' | tee /etc/cron.d/triplock-mine >$drop_in/mine.conf
        dpkg -P triplock",
    );
    let mut left = left(&root, &before);
    left.retain(|name| root.path(name).is_file());
    assert_eq!(left, ["/etc/cron.d/triplock-mine", "/etc/systemd/system/triplock@nightly.timer.d/mine.conf"]);
}

#[test]
fn with_systemd_its_units_run_and_removal_stops_their_timers() {
    let test = "with_systemd_its_units_run_and_removal_stops_their_timers";
    let Some(package) = package(test) else { return };
    if !machine::has(test, &["dpkg", "apt-get"]) {
        return;
    }
    let Some(machine) = SystemdBox::booted(test) else { return };
    // What the box has put in the package's places already.
    machine
        .sh(
            "root",
            "set -e; umount /usr/bin/triplock; rm -rf /usr/bin/triplock /usr/lib/systemd/system/triplock*
            rm /usr/lib/sysusers.d/triplock.conf /usr/lib/tmpfiles.d/triplock.conf; groupdel triplock
            rm -rf /var/lib/triplock/*; chown root:root /var/lib/triplock; chmod 700 /var/lib/triplock",
        )
        .exits(0);
    fs::copy(package, machine.path("/triplock.deb")).expect("copy the package");
    machine.sh("root", "dpkg -i /triplock.deb").exits(0);
    let state = machine.sh("root", "stat -c '%a %U:%G' /var/lib/triplock").exits(0).stdout;
    assert_eq!(state.trim(), "2770 root:triplock");

    machine.job("hello", "echo hello", "");
    machine.systemctl(["start", "triplock@hello.service"]).exits(0);
    let runs = machine.sh("root", "triplock history hello --json").exits(0).stdout;
    assert!(runs.contains("\"succeeded\""), "{runs}");

    machine.job("timed", "true", "on_calendar = \"daily\"");
    machine.sh("root", "triplock install systemd timed --hardened").exits(0);
    assert!(machine.exists("/etc/systemd/system/triplock@timed.timer.d/10-triplock.conf"));
    assert_eq!(machine.systemctl(["is-active", "triplock@timed.timer"]).run().stdout.trim(), "active");
    let is_active = || machine.systemctl(["is-active", "triplock@timed.timer"]).run().stdout.trim().to_owned();
    machine.sh("root", "dpkg -r triplock").exits(0);
    assert_eq!(is_active(), "inactive");
    machine.sh("root", "dpkg -i /triplock.deb").exits(0);
    assert_eq!(is_active(), "active", "installed again");
    machine.sh("root", "dpkg -r triplock").exits(0);
    assert_eq!(is_active(), "inactive");
    machine.sh("root", "dpkg -P triplock").exits(0);
    let wrote = "find /etc/systemd /var/lib/systemd/timers /run -xdev -name '*triplock*'";
    assert_eq!(machine.sh("root", wrote).exits(0).stdout, "", "what install wrote");
    for place in ["/usr/bin/triplock", "/usr/lib/systemd/system/triplock@.service", "/etc/triplock"] {
        assert!(!machine.exists(place), "{place}");
    }
    // The state directory is a mount point there.
    assert_eq!(machine.sh("root", "ls -A /var/lib/triplock").exits(0).stdout, "");
}

#[test]
fn lintian_finds_nothing_wrong() {
    let test = "lintian_finds_nothing_wrong";
    let Some(package) = package(test) else { return };
    if !machine::has(test, &["lintian"]) {
        return;
    }
    // It leaves a file where temporary files go.
    let litter = tempfile::tempdir().expect("make a temporary directory");
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning"]).arg(package).env("TMPDIR", litter.path());
    let found = lintian.output().expect("start lintian");
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success(), "{said}{}", String::from_utf8_lossy(&found.stderr));
}

#[test]
fn the_script_tells_how_it_is_used() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/package");
    for word in ["--help", "-h"] {
        let said = Command::new(&script).arg(word).output().expect("start .ci/package");
        let help = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
        assert!(help.starts_with("Builds the Debian package") && help.contains("\n  --output DIR "), "{help}");
        assert!(!help.contains("set -eu"), "it is not the script itself: {help}");
    }
}

#[test]
fn bad_input_of_the_script_is_one_line_that_says_what_is_wrong() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/package");
    for (words, expected) in [(&["--often"][..], "--often"), (&["--binary", "/nowhere/triplock"], "/nowhere/triplock")]
    {
        let said = Command::new(&script).args(words).output().expect("start .ci/package");
        let complaint = String::from_utf8_lossy(&said.stderr);
        let missing = complaint.contains("cargo-deb is missing");
        assert!(!said.status.success() && complaint.lines().count() == 1, "{complaint}");
        assert!(complaint.contains(expected) || missing, "{complaint}");
    }
}

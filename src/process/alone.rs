//! For tests that change what belongs to the whole process (dispositions, who its orphans go to, which children it
//! reaps): each runs in a process of its own, so that it disturbs no other.

use std::{
    env,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const MARK: &str = "TRIPLOCK_TEST_ALONE";

/// Runs `body` in a process of its own. `test` is the calling test's path without the crate, as `cargo test` prints it.
#[track_caller]
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    alone_after("", test, body);
}

/// The same, in a process that was started after these shell commands.
#[track_caller]
pub(crate) fn alone_after(shell: &str, test: &str, body: impl FnOnce()) {
    if env::var(MARK).is_ok_and(|marked| marked == test) {
        return body();
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{shell}\nexec \"$@\""), "sh"]).arg(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(MARK, test);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let reader = thread::spawn(move || std::io::read_to_string(output).unwrap_or_default());
    let give_up = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{test} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let output = reader.join().unwrap();
    assert!(status.success(), "{test} failed in its own process ({status}):\n{output}");
    assert!(output.contains("1 passed"), "{test} is not the name of the test:\n{output}");
}

/// Waits for a condition, and fails when it does not come true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

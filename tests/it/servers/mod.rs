//! Real servers for the tests: Redis and PostgreSQL on loopback ports of their own, each with a directory of its own.
//!
//! `Redis::start()` and `Postgres::start()` give a private one, which a test may kill, stop, configure and make replicas
//! of. `Postgres::shared().database()` gives a database of its own on a server that all tests of the process share.
//!
//! Nothing outlives the test process, however it ends: the kernel ends the servers with the thread that started them
//! (`PR_SET_PDEATHSIG`; so one thread starts them all), and the caretaker, a shell that waits for the other end of its
//! pipe to close, removes their directories.

mod certificates;
mod pgbouncer;
mod postgres;
mod process;
mod redis;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, AtomicU32, Ordering},
    },
};

pub(crate) use certificates::{Authority, Certificate};
pub(crate) use pgbouncer::PgBouncer;
pub(crate) use postgres::{Database, Postgres};
pub(crate) use redis::Redis;

/// The directory of all servers of this process.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = tempfile::Builder::new().prefix("triplock-servers-").tempdir().expect("make a temporary directory");
    let place = place.keep();
    // PostgreSQL runs as another user when the tests run as root.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("chmod");
    // A server may still write while it ends, so once is not enough.
    let script = "trap '' HUP INT QUIT TERM; cat >/dev/null
        for i in 1 2 3 4 5 6 7 8 9; do rm -rf \"$1\" 2>/dev/null && [ ! -e \"$1\" ] && exit; sleep 0.3; done";
    let mut caretaker = Command::new("setsid");
    caretaker.args(["sh", "-c", script, "caretaker"]).arg(&place);
    caretaker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // It ends after this process.
    #[allow(clippy::zombie_processes)]
    let mut caretaker = caretaker.spawn().expect("start the caretaker");
    // Open until this process ends.
    std::mem::forget(caretaker.stdin.take());
    place
});

/// A directory that no other server has.
fn directory(kind: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let path = PLACE.join(format!("{kind}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).expect("make a server's directory");
    path
}

/// A port that nobody listens on. It lies below those that the kernel gives to connections, so that a server which is
/// down finds it free when it comes back.
fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(PORTS)));
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let is_free = |address: &str| TcpListener::bind(SocketAddr::new(address.parse().expect("an address"), port));
        // (IPv6 may be off.)
        if is_free("127.0.0.1").is_ok() && is_free("::1").is_ok_or_unavailable() {
            return port;
        }
    }
    panic!("no port is free")
}

trait OrUnavailable {
    fn is_ok_or_unavailable(&self) -> bool;
}

impl OrUnavailable for std::io::Result<TcpListener> {
    fn is_ok_or_unavailable(&self) -> bool {
        !matches!(self, Err(e) if e.kind() == std::io::ErrorKind::AddrInUse)
    }
}

/// An address as a URL has it.
fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Whether such a program is there, wherever it is.
fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

#[test]
fn servers_start_end_and_come_back() {
    use crate::sandbox::eventually;
    if Redis::is_installed("servers_start_end_and_come_back") {
        let mut redis = Redis::start();
        redis.cli(["SET", "a", "1"]);
        redis.stop_answering();
        assert!(!redis.answers());
        redis.answer_again();
        redis.kill();
        assert!(!redis.answers());
        redis.restart();
        assert_eq!(redis.cli(["GET", "a"]), "1");
        let replica = redis.replica();
        eventually("the replica has what the primary has", || replica.cli(["GET", "a"]) == "1");
    }
    if Postgres::is_installed("servers_start_end_and_come_back") {
        let shared = Postgres::shared();
        let (one, other) = (shared.database(), shared.database());
        one.sql("CREATE TABLE a(b int)");
        other.sql("CREATE TABLE a(b int)");
        let mut private = Postgres::start();
        private.sql("CREATE TABLE a AS SELECT 1 AS b");
        let replica = private.replica();
        assert_eq!(replica.sql("SELECT pg_is_in_recovery()"), "t");
        private.stop_answering();
        assert!(!private.answers());
        private.answer_again();
        private.kill();
        assert!(!private.answers());
        private.restart();
        assert_eq!(private.sql("SELECT b FROM a"), "1");
    }
}

//! Servers that live as long as the benchmark: loopback only, data on the file system that everybody's data is on.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    drive::{output, run},
    site::Site,
};

/// A server process; dropping it ends it, also when the benchmark panics.
pub(crate) struct Server {
    child: Child,
    end_with: Signal,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, self.end_with);
        }
        let _ = self.child.wait();
    }
}

/// A Redis that answers after its append-only file was synced.
pub(crate) fn redis(site: &Site) -> Result<Server, String> {
    let directory = site.directory("redis");
    let port = free_port();
    let child = until_our_end("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        // A rewrite in the background would only slow it down.
        .args(["--auto-aof-rewrite-percentage", "0", "--port", &port.to_string(), "--dir"])
        .arg(&directory)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| missing("redis-server", &error))?;
    let server = Server { child, end_with: Signal::KILL, port };
    let ping = || {
        let mut ping = Command::new("redis-cli");
        ping.args(["-p", &port.to_string(), "PING"]);
        ping
    };
    answers(ping, "redis-server")?;
    Ok(server)
}

/// A fresh Postgres cluster with its default durability: `fsync` and `synchronous_commit` on.
pub(crate) fn postgres(site: &Site) -> Result<Server, String> {
    let programs = postgres_programs().ok_or("postgres is not installed")?;
    let directory = site.directory("postgres");
    let data = directory.join("data");
    let mut initdb = as_postgres(&directory, &programs.join("initdb"))?;
    run(initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&data));
    let port = free_port();
    let child = as_postgres(&directory, &programs.join("postgres"))?
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
        .arg(&directory)
        .arg("-D")
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(fs::File::create(directory.join("log")).map_err(|error| error.to_string())?)
        .spawn()
        .map_err(|error| missing("postgres", &error))?;
    // KILL would leave its shared memory behind; INT is its fast shutdown.
    let server = Server { child, end_with: Signal::INT, port };
    let select = || {
        let mut select = psql(&programs, port);
        select.args(["-c", "SELECT 1"]);
        select
    };
    answers(select, "postgres")?;
    Ok(server)
}

/// The real psql (on Debian the one on the path is a Perl program that looks for it), asking for nothing slow.
pub(crate) fn psql(programs: &Path, port: u16) -> Command {
    let mut psql = Command::new(programs.join("psql"));
    psql.env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
    psql.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"]);
    psql.args(["-p", &port.to_string()]);
    psql
}

/// Where Postgres's programs are: the newest of Debian's, else wherever `pg_config` says.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let debian =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    debian.filter(|path| path.join("postgres").exists()).max_by_key(version).or_else(|| {
        let told = Command::new("pg_config").arg("--bindir").output().ok()?;
        let path = PathBuf::from(String::from_utf8(told.stdout).ok()?.trim());
        path.join("postgres").exists().then_some(path)
    })
}

/// Postgres refuses to run as root: there it gets its directory and its user.
fn as_postgres(directory: &Path, program: &Path) -> Result<Command, String> {
    let mut command = until_our_end(program);
    if rustix::process::geteuid().is_root() {
        let number = |flag: &str| output(Command::new("id").args([flag, "postgres"])).trim().parse::<u32>();
        let (user, group) = (number("-u"), number("-g"));
        let (Ok(user), Ok(group)) = (user, group) else { return Err("there is no user postgres".to_owned()) };
        chown(directory, Some(user), Some(group)).map_err(|error| error.to_string())?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(|error| error.to_string())?;
        command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=INT", "--"]).arg(program);
        command.current_dir(directory);
    }
    Ok(command)
}

/// A program that the kernel ends when the thread that starts it (here always the main thread) is gone, however it
/// went.
fn until_our_end(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=INT", "--"]).arg(program);
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// Waits until a client's question is answered.
fn answers(ask: impl Fn() -> Command, who: &str) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let asked = ask().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        match asked {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(missing(&format!("the client of {who}"), &error)),
        }
    }
    Err(format!("{who} does not answer"))
}

/// Why a peer could not be started.
pub(crate) fn missing(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program} cannot be started: {error}"),
    }
}

//! PgBouncer before a PostgreSQL: each transaction is given another session.

use std::{fs, os::unix::fs::chown, path::Path};

use rustix::process::Signal;

use super::{
    directory, free_port, is_program,
    postgres::{ACCOUNT, Postgres, USER, as_account},
    process::Process,
};
use crate::machine;

const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A pooler in transaction mode, with so few sessions that they pass from client to client.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    port: u16,
    _process: Process,
}

impl PgBouncer {
    /// Whether there is one; if not, the test is skipped out loud.
    #[track_caller]
    pub(crate) fn is_installed(test: &str) -> bool {
        if is_program(Path::new(PROGRAM)) {
            return true;
        }
        machine::skip(test, "not installed: PgBouncer");
        false
    }

    /// Before that server, with two sessions for each database.
    pub(crate) fn before(server: &Postgres) -> Self {
        let directory = directory("pgbouncer");
        let port = free_port();
        let (file, users) = (directory.join("pgbouncer.ini"), directory.join("users"));
        let configuration = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 2\n\
             max_client_conn = 100\n",
            server.address(),
            server.port(),
            users.display()
        );
        fs::write(&file, configuration).expect("write pgbouncer.ini");
        fs::write(&users, format!("\"{USER}\" \"\"\n")).expect("write pgbouncer's users");
        if machine::is_root() {
            for path in [&directory, &file, &users] {
                chown(path, *ACCOUNT, None).expect("chown");
            }
        }
        let mut words = as_account();
        words.extend([PROGRAM.to_owned(), file.display().to_string()]);
        let mut process = Process::start(&words, Signal::KILL, directory.join("log"));
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        process.ready(answers).unwrap_or_else(|words| panic!("PgBouncer does not start: {words}"));
        Self { port, _process: process }
    }

    /// The URL of a database behind it.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }
}

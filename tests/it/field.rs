//! Three hosts, a real server in a network of its own, and everything that can go wrong between them.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    hosts::{Direction, Host, Hosts, SERVER},
    proxy::Proxy,
    sandbox::eventually,
    servers::{Postgres, Redis},
    stamping::JOB,
    turn::Turn,
};

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Postgres,
}

/// A server that all hosts reach.
#[derive(Debug)]
pub(crate) enum Server {
    Redis(Redis),
    Postgres(Postgres),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The cable of one host after another is pulled out.
    Cut,
    /// One host after another hears nothing.
    Deaf,
    /// One host after another is not heard.
    Mute,
    /// Every tenth packet is lost, of all hosts.
    Loss,
    /// A round trip takes 300 ms longer.
    Latency,
    /// All connections are reset, ten times a second.
    Resets,
    /// What the server answers is kept back, then the connections are reset: nobody knows what it has done.
    AnswersLost,
    /// The server is stopped (SIGSTOP) for a while.
    ServerStopped,
    /// It is killed, and started again with its data.
    ServerKilled,
    /// It is killed, and its replica, which has everything that was answered, takes its place.
    Failover,
    /// The same with a replica that had stopped to listen: what was answered since then is lost.
    FailoverBehind,
}

/// The hosts, the server, and the proxy between them.
#[derive(Debug)]
pub(crate) struct Field {
    // The servers end before their network does.
    servers: Servers,
    hosts: Hosts,
}

#[derive(Debug)]
pub(crate) struct Servers {
    current: Server,
    replica: Option<Server>,
    proxy: Proxy,
    /// The words of a client of the current one.
    place: Arc<Mutex<Vec<String>>>,
}

impl Kind {
    /// Whether there is such a server; if not, the test is skipped out loud.
    #[track_caller]
    pub(crate) fn is_installed(self, test: &str) -> bool {
        match self {
            Self::Redis => Redis::is_installed(test),
            Self::Postgres => Postgres::is_installed(test),
        }
    }

    fn start(self, inside: Vec<String>) -> Server {
        let address = SERVER.to_string();
        match self {
            Self::Redis => {
                // (Without a password it talks to its own machine only, unless it is told so.)
                let plan = Redis::plan().setting("protected-mode no");
                Server::Redis(plan.listening(&address).under(inside).start())
            }
            Self::Postgres => Server::Postgres(Postgres::plan().listening(&address).under(inside).start()),
        }
    }
}

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::Redis(redis) => redis.port(),
            Self::Postgres(postgres) => postgres.port(),
        }
    }

    fn address(&self) -> SocketAddr {
        (SERVER, self.port()).into()
    }

    fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Postgres(postgres) => postgres.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Redis(redis) => redis.restart(),
            Self::Postgres(postgres) => postgres.restart(),
        }
    }

    fn stop_answering(&self) {
        match self {
            Self::Redis(redis) => redis.stop_answering(),
            Self::Postgres(postgres) => postgres.stop_answering(),
        }
    }

    fn answer_again(&self) {
        match self {
            Self::Redis(redis) => redis.answer_again(),
            Self::Postgres(postgres) => postgres.answer_again(),
        }
    }

    /// The words of a client of it, which asks by its Unix socket: what happens to networks does not happen to it.
    fn client(&self) -> Vec<String> {
        match self {
            Self::Redis(redis) => {
                let key = format!("triplock:{{jobs/{JOB}}}:lease:1");
                ["redis-cli", "-s", &redis.socket().display().to_string(), "GET", &key].map(str::to_owned).into()
            }
            Self::Postgres(postgres) => postgres.psql(&format!(
                "SELECT 'lease ' || fence FROM triplock.leases WHERE resource = 'jobs/{JOB}' AND expires > clock_timestamp()"
            )),
        }
    }

    /// Which fences of the job are leased, as the server says; `None` when it says nothing.
    pub(crate) fn leased(client: &[String]) -> Option<BTreeSet<u64>> {
        let asked = Command::new("timeout").arg("0.5").args(client).output().expect("start timeout");
        let text = String::from_utf8(asked.stdout).ok()?;
        if !asked.status.success() || text.contains("Error") || text.starts_with("LOADING") {
            return None;
        }
        // A token, the fence, a note.
        Some(text.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect())
    }

    /// The ledger of the job, the oldest line first.
    fn ledger(&self) -> Vec<Value> {
        match self {
            Self::Redis(redis) => {
                let text = redis.cli(["--json", "XRANGE", &format!("triplock:{{jobs/{JOB}}}:entries"), "-", "+"]);
                let entries: Vec<(String, Vec<String>)> = serde_json::from_str(&text).expect("JSON");
                let line = |entry: &(String, Vec<String>)| serde_json::from_str(&entry.1[1]).expect("JSON");
                entries.iter().map(line).collect()
            }
            Self::Postgres(postgres) => {
                let select = format!("SELECT entry FROM triplock.entries WHERE job = '{JOB}' ORDER BY number");
                postgres.sql(&select).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
            }
        }
    }

    /// A replica keeps what it has, and hears of nothing new.
    fn stop_listening(&self) {
        match self {
            // Nobody is primary there.
            Self::Redis(redis) => drop(redis.cli(["REPLICAOF", &SERVER.to_string(), "1"])),
            Self::Postgres(postgres) => {
                postgres.sql("ALTER SYSTEM SET primary_conninfo = ''");
                postgres.sql("SELECT pg_reload_conf()");
            }
        }
    }

    fn replica(&self) -> Self {
        match self {
            Self::Redis(redis) => Self::Redis(redis.replica()),
            Self::Postgres(postgres) => Self::Postgres(postgres.replica()),
        }
    }

    fn promote(&self) {
        match self {
            Self::Redis(redis) => drop(redis.cli(["REPLICAOF", "NO", "ONE"])),
            Self::Postgres(postgres) => postgres.promote(),
        }
    }
}

impl Field {
    /// A field on which that fault can happen.
    #[track_caller]
    pub(crate) fn new(kind: Kind, fault: Fault, turn: &Arc<Turn>) -> Self {
        let hosts = Hosts::new(3, turn);
        let current = kind.start(hosts.server().inside());
        let replica = fault.needs_a_replica().then(|| current.replica());
        if let (Fault::Failover, Server::Postgres(postgres)) = (fault, &current) {
            postgres.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
            postgres.sql("SELECT pg_reload_conf()");
        }
        let proxy = Proxy::new(hosts.server(), (SERVER, 0).into(), current.address());
        // A fault of cables is one between a host and the server itself.
        let way = if fault.is_of_cables() { current.address() } else { proxy.address() };
        let store = match kind {
            Kind::Redis if fault == Fault::Failover => format!("redis://{way}?wait_replicas=1"),
            Kind::Redis => format!("redis://{way}"),
            Kind::Postgres => format!("postgres://triplock@{way}/postgres?sslmode=disable"),
        };
        let place = Arc::new(Mutex::new(current.client()));
        Self { servers: Servers { current, replica, proxy, place }, hosts: hosts.with_store(&store) }
    }

    /// The same with a host that goes round the proxy.
    pub(crate) fn with_direct(mut self, host: usize) -> Self {
        let (proxy, server) = (self.servers.proxy.address().to_string(), self.servers.current.address().to_string());
        self.hosts.change_store(host, |store| store.replace(&proxy, &server));
        self
    }

    pub(crate) fn hosts(&self) -> &[Host] {
        self.hosts.each()
    }

    /// The hosts, and that to which the faults happen meanwhile.
    pub(crate) fn split(&mut self) -> (&Hosts, &mut Servers) {
        (&self.hosts, &mut self.servers)
    }
}

impl Fault {
    /// Those of networks, and of servers.
    pub(crate) const ALL: [Self; 12] = [
        Self::None,
        Self::Cut,
        Self::Deaf,
        Self::Mute,
        Self::Loss,
        Self::Latency,
        Self::Resets,
        Self::AnswersLost,
        Self::ServerStopped,
        Self::ServerKilled,
        Self::Failover,
        Self::FailoverBehind,
    ];

    /// Those that are looked at every time.
    pub(crate) const MOST: [Self; 8] = [
        Self::Cut,
        Self::Mute,
        Self::Loss,
        Self::Latency,
        Self::AnswersLost,
        Self::ServerKilled,
        Self::Failover,
        Self::FailoverBehind,
    ];

    fn is_of_cables(self) -> bool {
        matches!(self, Self::Cut | Self::Deaf | Self::Mute | Self::Loss)
    }

    fn needs_a_replica(self) -> bool {
        matches!(self, Self::Failover | Self::FailoverBehind)
    }

    /// Happens for so long, and is undone.
    #[track_caller]
    pub(crate) fn happens(self, hosts: &Hosts, servers: &mut Servers, time: Duration) {
        let in_turn = |begin: &dyn Fn(&Host)| {
            for host in hosts.each() {
                begin(host);
                sleep(time / 3);
                host.heal();
            }
        };
        match self {
            Self::None => sleep(time),
            Self::Cut => in_turn(&Host::cut),
            Self::Deaf => in_turn(&|host| host.one_way(Direction::In)),
            Self::Mute => in_turn(&|host| host.one_way(Direction::Out)),
            Self::Loss => {
                hosts.each().iter().for_each(|host| host.loss(10));
                sleep(time);
                hosts.heal();
            }
            _ => servers.suffer(self, time),
        }
    }
}

impl Servers {
    /// Where to look for leases: another server after a failover.
    pub(crate) fn place(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.place)
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The job's ledger, the oldest line first.
    pub(crate) fn ledger(&self) -> Vec<Value> {
        self.current.ledger()
    }

    fn suffer(&mut self, fault: Fault, time: Duration) {
        match fault {
            Fault::Latency => {
                self.proxy.latency(Duration::from_millis(300));
                sleep(time);
                self.proxy.latency(Duration::ZERO);
            }
            Fault::Resets => {
                let end = Instant::now() + time;
                while Instant::now() < end {
                    sleep(Duration::from_millis(fastrand::u64(20..150)));
                    self.proxy.reset();
                }
            }
            Fault::AnswersLost => {
                for _ in 0..5 {
                    self.proxy.hold(Direction::In);
                    sleep(time / 10);
                    self.proxy.reset();
                    self.proxy.flow();
                    sleep(time / 10);
                }
            }
            Fault::ServerStopped => {
                self.current.stop_answering();
                sleep(time);
                self.current.answer_again();
            }
            Fault::ServerKilled => {
                self.current.kill();
                sleep(time / 2);
                self.current.restart();
                sleep(time / 2);
            }
            Fault::Failover => self.fail_over(time),
            Fault::FailoverBehind => {
                self.replica.as_ref().expect("a replica").stop_listening();
                sleep(time / 2);
                self.fail_over(time / 2);
            }
            Fault::None | Fault::Cut | Fault::Deaf | Fault::Mute | Fault::Loss => unreachable!("not of servers"),
        }
    }

    /// Waits until a replica, if there is one, has all that was answered so far.
    #[track_caller]
    pub(crate) fn replica_catches_up(&self) {
        if self.replica.is_none() {
            return;
        }
        eventually("the replica has all", || match &self.current {
            Server::Redis(redis) => {
                let info = redis.cli(["INFO", "replication"]);
                let field = |name: &str| info.split([',', '\n']).find_map(|part| part.trim().strip_prefix(name));
                let sent = field("master_repl_offset:").map(str::to_owned);
                info.contains("state=online") && sent.is_some() && field("offset=").map(str::to_owned) == sent
            }
            Server::Postgres(postgres) => {
                let caught_up =
                    "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()";
                postgres.sql(caught_up).trim() == "1"
            }
        });
    }

    fn fail_over(&mut self, time: Duration) {
        self.current.kill();
        let replica = self.replica.take().expect("a replica");
        sleep(time / 2);
        replica.promote();
        self.proxy.switch(replica.address());
        // Whoever promotes a replica gives it one of its own, or those who ask for two would wait for ever.
        self.replica = Some(replica.replica());
        *self.place.lock().expect("nobody panics with it") = replica.client();
        self.current = replica;
        sleep(time / 2);
    }
}

//! Several hosts and a server, on one machine: each is a network and a host name of its own, and they meet at a bridge
//! in the server's network. What goes wrong between real machines can be done to them.
//!
//! They share the machine's clock, so what happened on one can be compared with what happened on another; a product that
//! compared their clocks would not be found out here.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use crate::{
    namespace::Namespace,
    sandbox::{Invocation, Sandbox, eventually},
    turn::Turn,
};

/// The server's address; the hosts' end in 11, 12 …
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// The hosts and the server's network.
#[derive(Debug)]
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    server: Namespace,
}

/// A machine: it shares nothing with the others but the network.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    store: String,
    // Its processes end before the sandbox is removed in which they may be writing.
    namespace: Namespace,
    port: Port,
    sandbox: Sandbox,
}

/// A host's end of the cable in the server's network.
#[derive(Debug)]
struct Port {
    name: String,
    /// The words before a command there.
    inside: Vec<String>,
}

/// Which way packets go, as a host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Hosts {
    /// So many hosts with sound cables, `host-a` first.
    #[track_caller]
    pub(crate) fn new(number: u8, turn: &Arc<Turn>) -> Self {
        let server = Namespace::new("server");
        // With an address of its own: else it has that of one of its ports, and another whenever one is added, which hosts
        // that have found it do not hear of.
        server.ip("link add lan address 02:00:00:00:00:01 type bridge");
        server.ip(&format!("address add {SERVER}/24 dev lan"));
        server.ip("link set lan up");
        let hosts: Vec<_> = (0..number).map(|at| Host::new(at, &server, turn)).collect();
        hosts.iter().for_each(Host::wait_for_network);
        Self { hosts, server }
    }

    /// The same hosts with that store: the value of `$TRIPLOCK_STORE`.
    pub(crate) fn with_store(mut self, store: &str) -> Self {
        for host in &mut self.hosts {
            store.clone_into(&mut host.store);
        }
        self
    }

    /// One of them with another store.
    pub(crate) fn change_store(&mut self, host: usize, change: impl FnOnce(&str) -> String) {
        let store = &mut self.hosts[host].store;
        *store = change(store);
    }

    pub(crate) fn each(&self) -> &[Host] {
        &self.hosts
    }

    /// The network in which the server runs.
    pub(crate) fn server(&self) -> &Namespace {
        &self.server
    }

    /// Undoes every fault of the network.
    pub(crate) fn heal(&self) {
        self.hosts.iter().for_each(Host::heal);
    }
}

impl Host {
    fn new(at: u8, server: &Namespace, turn: &Arc<Turn>) -> Self {
        let letter = char::from(b'a' + at);
        let name = format!("host-{letter}");
        let namespace = Namespace::new(&name);
        let port = format!("port-{letter}");
        server.ip(&format!("link add {port} type veth peer name eth0 netns {}", namespace.id()));
        server.ip(&format!("link set {port} master lan up"));
        namespace.ip(&format!("address add 10.77.0.{}/24 dev eth0", 11 + at));
        namespace.ip("link set eth0 up");
        let port = Port { name: port, inside: server.inside() };
        Self { name, store: String::new(), namespace, port, sandbox: Sandbox::in_turn(turn) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A path that only this host has.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.sandbox.path(name)
    }

    /// A triplock command on this host, which answers in JSON.
    pub(crate) fn triplock<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let store = format!("TRIPLOCK_STORE={}", self.store);
        self.runs(self.sandbox.triplock(args).under(["env", &store]))
    }

    /// Any program on this host.
    pub(crate) fn runs(&self, invocation: Invocation) -> Invocation {
        invocation.under(self.namespace.inside())
    }

    /// Pulls the cable out.
    #[track_caller]
    pub(crate) fn cut(&self) {
        self.port.ip(["link", "set", &self.port.name, "down"]);
    }

    /// Packets of that direction are lost, those of the other arrive.
    #[track_caller]
    pub(crate) fn one_way(&self, lost: Direction) {
        match lost {
            Direction::In => self.rules("drop", ""),
            Direction::Out => self.rules("", "drop"),
        }
    }

    /// So many of a hundred packets are lost, of each direction.
    #[track_caller]
    pub(crate) fn loss(&self, percent: u8) {
        let rule = format!("numgen random mod 100 < {percent} drop");
        self.rules(&rule, &rule);
    }

    /// What it sends is answered by a reset of the connection, as by a server that has forgotten it.
    #[track_caller]
    pub(crate) fn reset(&self) {
        self.rules("", "meta l4proto tcp reject with tcp reset");
    }

    /// A sound cable again.
    #[track_caller]
    pub(crate) fn heal(&self) {
        self.port.ip(["link", "set", &self.port.name, "up"]);
        // Whom it did not find meanwhile it is to look for again.
        self.namespace.ip("neigh flush dev eth0");
        self.port.ip(["neigh", "flush", "dev", "lan"]);
        self.namespace.nft("add table inet fault\ndelete table inet fault\n");
        self.wait_for_network();
    }

    /// Waits until a packet gets to the server and back. The kernel notices cables when it has the time, at both ends and
    /// each for itself, and forwards nothing before; a packet that is lost meanwhile is sent again a whole second later.
    #[track_caller]
    fn wait_for_network(&self) {
        let nobody = SocketAddr::from((SERVER, 1));
        let answers = || {
            let answer = TcpStream::connect_timeout(&nobody, Duration::from_millis(200));
            answer.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.namespace.enter();
                eventually("the server answers the host", answers);
            });
        });
    }

    /// Rules for what comes in and what goes out; empty for none.
    #[track_caller]
    fn rules(&self, incoming: &str, outgoing: &str) {
        let chain = |name: &str, hook: &str, device: &str, rule: &str| {
            let rule = if rule.is_empty() { String::new() } else { format!("{device} \"eth0\" {rule}") };
            format!("chain {name} {{ type filter hook {hook} priority 0; {rule}\n}}\n")
        };
        let incoming = chain("incoming", "input", "iifname", incoming);
        let outgoing = chain("outgoing", "output", "oifname", outgoing);
        self.namespace.nft(&format!(
            "add table inet fault\ndelete table inet fault\ntable inet fault {{\n{incoming}{outgoing}}}\n"
        ));
    }
}

impl Port {
    #[track_caller]
    fn ip<const N: usize>(&self, words: [&str; N]) {
        let [program, args @ ..] = &self.inside[..] else { unreachable!("nsenter and its options") };
        let mut command = std::process::Command::new(program);
        let output = command.args(args).arg("ip").args(words).output().expect("start nsenter");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What the faults do is proven with bare sockets, so that a test of the product does not hold by a fault that is none.
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{Direction, Host, Hosts, SERVER};
    use crate::{
        namespace,
        proxy::Proxy,
        sandbox::{Invocation, eventually},
        turn::Turn,
    };

    /// An echo of one connection after another at the server's address.
    fn echo(hosts: &Hosts) -> SocketAddr {
        std::thread::scope(|scope| {
            let bound = scope.spawn(|| {
                hosts.server().enter();
                let listener = TcpListener::bind((SERVER, 0)).unwrap();
                let address = listener.local_addr().unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let mut stream = stream.unwrap();
                        std::thread::spawn(move || {
                            let mut byte = [0];
                            while let Ok(1) = stream.read(&mut byte) {
                                // Who has gone needs no echo.
                                let _ = stream.write_all(&byte);
                            }
                        });
                    }
                });
                address
            });
            bound.join().unwrap()
        })
    }

    /// A connection from that host; an error when it takes longer than that.
    fn connect(host: &Host, to: SocketAddr, at_most: Duration) -> std::io::Result<TcpStream> {
        std::thread::scope(|scope| {
            let connected = scope.spawn(|| {
                host.namespace().enter();
                TcpStream::connect_timeout(&to, at_most)
            });
            connected.join().unwrap()
        })
    }

    /// How long a byte takes there and back; an error when it takes longer than that.
    fn round_trip(stream: &mut TcpStream, at_most: Duration) -> std::io::Result<Duration> {
        let begun = Instant::now();
        stream.set_read_timeout(Some(at_most))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        Ok(begun.elapsed())
    }

    /// For what has to come: as long as a stalled machine and the kernel's pauses before it sends again may take.
    const SOON: Duration = Duration::from_secs(60);
    /// For what must not.
    const BRIEFLY: Duration = Duration::from_millis(300);

    #[test]
    fn each_host_has_its_own_name_and_network_and_they_end_with_it() {
        if !namespace::may_make("hosts in networks of their own") {
            return;
        }
        let hosts = Hosts::new(3, &Arc::new(Turn::shared()));
        let names: Vec<_> =
            hosts.each().iter().map(|host| host.runs(Invocation::of("hostname")).run().stdout).collect();
        assert_eq!(names, ["host-a\n", "host-b\n", "host-c\n"]);
        let [a, ..] = hosts.each() else { panic!("three hosts") };
        let left = a.runs(Invocation::of("sleep").arg("1000")).start();
        eventually("it runs there", || a.namespace().processes() == [left.id()]);
        drop(hosts);
        assert_eq!(left.finish().code(), None, "it outlived its host");
    }

    #[test]
    fn cables_are_cut_one_way_or_both_and_healed() {
        if !namespace::may_make("faults of a network") {
            return;
        }
        let hosts = Hosts::new(2, &Arc::new(Turn::shared()));
        let server = echo(&hosts);
        let [a, b] = hosts.each() else { panic!("two hosts") };
        let mut from_b = connect(b, server, SOON).unwrap();
        let faults: [(&str, &dyn Fn()); 3] = [
            ("cut", &|| a.cut()),
            ("nothing comes in", &|| a.one_way(Direction::In)),
            ("nothing goes out", &|| a.one_way(Direction::Out)),
        ];
        for (fault, begin) in faults {
            let mut stream = connect(a, server, SOON).unwrap();
            round_trip(&mut stream, SOON).unwrap();
            begin();
            assert!(round_trip(&mut stream, BRIEFLY).is_err(), "{fault}: a byte came back");
            round_trip(&mut from_b, SOON).unwrap_or_else(|e| panic!("{fault}: the other host: {e}"));
            assert!(connect(a, server, BRIEFLY).is_err(), "{fault}: connected");
            a.heal();
            // What was sent meanwhile is sent again by the kernel.
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.read_exact(&mut [0]).unwrap_or_else(|e| panic!("{fault}: healed: {e}"));
        }
        let mut stream = connect(a, server, SOON).unwrap();
        a.loss(30);
        // A lost packet is sent again after a fifth of a second.
        let is_late = |_| round_trip(&mut stream, SOON).unwrap() > Duration::from_millis(150);
        assert!((0..100).any(is_late), "no packet was sent twice");
        a.heal();
        a.reset();
        let refused = round_trip(&mut stream, SOON).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn the_proxy_delays_holds_resets_and_switches() {
        if !namespace::may_make("a proxy between hosts") {
            return;
        }
        let hosts = Hosts::new(1, &Arc::new(Turn::shared()));
        let (one, other) = (echo(&hosts), echo(&hosts));
        let [a] = hosts.each() else { panic!("one host") };
        let proxy = Proxy::new(hosts.server(), (SERVER, 0).into(), one);
        let mut stream = connect(a, proxy.address(), SOON).unwrap();
        eventually("it is quick", || round_trip(&mut stream, SOON).unwrap() < BRIEFLY);
        proxy.latency(BRIEFLY);
        assert!(round_trip(&mut stream, SOON).unwrap() >= BRIEFLY);
        proxy.latency(Duration::ZERO);
        for direction in [Direction::In, Direction::Out] {
            proxy.hold(direction);
            assert!(round_trip(&mut stream, BRIEFLY).is_err());
            proxy.flow();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        proxy.reset();
        assert!(round_trip(&mut stream, SOON).is_err());
        proxy.switch(other);
        let mut stream = connect(a, proxy.address(), SOON).unwrap();
        round_trip(&mut stream, SOON).unwrap();
        // A server that is not there is a reset, not a silence.
        proxy.switch((SERVER, 1).into());
        let mut stream = connect(a, proxy.address(), SOON).unwrap();
        assert!(round_trip(&mut stream, SOON).is_err());
    }
}

//! A TCP proxy that is a bad network: it delays, it stops passing bytes one way or both, it resets connections, and it
//! sends the next ones to another server. (This kernel's packet scheduler has no netem.)

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use crate::{hosts::Direction, namespace::Namespace};

/// The proxy. Its connections are reset when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    course: Mutex<Course>,
    changed: Condvar,
}

/// What it does with bytes and connections now.
#[derive(Debug)]
struct Course {
    target: SocketAddr,
    /// Added to each direction.
    delay: Duration,
    /// Nothing is passed on to the server; to the client.
    held: [bool; 2],
    /// Counts up at a reset: connections of an earlier count are over.
    generation: u64,
    is_closed: bool,
    /// Both ends of each connection that is open.
    open: BTreeMap<u64, [TcpStream; 2]>,
    connections: u64,
}

impl Proxy {
    /// One that listens at a free port of that address in the namespace, and connects from there.
    #[track_caller]
    pub(crate) fn new(namespace: &Namespace, listen: SocketAddr, target: SocketAddr) -> Self {
        let course = Course {
            target,
            delay: Duration::ZERO,
            held: [false; 2],
            generation: 0,
            is_closed: false,
            open: BTreeMap::new(),
            connections: 0,
        };
        let shared = Arc::new(Shared { course: Mutex::new(course), changed: Condvar::new() });
        let (tell, told) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        std::thread::scope(|scope| {
            // A thread of its own: who enters the namespace stays there, and the acceptor inherits it.
            scope.spawn(|| {
                namespace.enter();
                let listener = TcpListener::bind(listen).expect("listen in the namespace");
                tell.send(listener.local_addr().expect("it has an address")).expect("somebody asked");
                std::thread::spawn(move || accept(&listener, &theirs));
            });
        });
        Self { address: told.recv().expect("the proxy listens"), shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A round trip takes that much longer.
    pub(crate) fn latency(&self, round_trip: Duration) {
        self.change(|course| course.delay = round_trip / 2);
    }

    /// Bytes of that direction, as the client sees it, are kept until it flows again.
    pub(crate) fn hold(&self, direction: Direction) {
        self.change(|course| course.held[side(direction)] = true);
    }

    /// What was kept is passed on.
    pub(crate) fn flow(&self) {
        self.change(|course| course.held = [false; 2]);
    }

    /// Ends all connections as a crash of the peer does; the bytes on their way are lost.
    pub(crate) fn reset(&self) {
        self.change(Course::reset);
    }

    /// Sends everybody to another server from here on; what there was is reset.
    pub(crate) fn switch(&self, target: SocketAddr) {
        self.change(|course| {
            course.target = target;
            course.reset();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Course)) {
        change(&mut self.shared.course());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|course| {
            course.is_closed = true;
            course.reset();
        });
    }
}

impl Course {
    fn reset(&mut self) {
        self.generation += 1;
        for stream in std::mem::take(&mut self.open).into_values().flatten() {
            // With nothing to linger for, closing is a reset.
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn course(&self) -> std::sync::MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn side(direction: Direction) -> usize {
    match direction {
        Direction::Out => 0,
        Direction::In => 1,
    }
}

/// Accepts until the proxy is dropped.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    listener.set_nonblocking(true).expect("a socket of our own");
    loop {
        if shared.course().is_closed {
            return;
        }
        match listener.accept() {
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || connect(client, &shared));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) {
    client.set_nonblocking(false).expect("a socket of our own");
    let (target, generation) = {
        let course = shared.course();
        (course.target, course.generation)
    };
    // A refused connection is a reset one for the client.
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(2)) else {
        let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let clone = |stream: &TcpStream| stream.try_clone().expect("dup");
    let id = {
        let mut course = shared.course();
        course.connections += 1;
        let id = course.connections;
        course.open.insert(id, [clone(&client), clone(&server)]);
        if course.generation != generation {
            course.reset();
            return;
        }
        id
    };
    std::thread::scope(|scope| {
        let (back_from, back_to) = (clone(&server), clone(&client));
        scope.spawn(move || pass(back_from, back_to, Direction::In, generation, shared));
        pass(client, server, Direction::Out, generation, shared);
    });
    shared.course().open.remove(&id);
}

/// Passes bytes from one socket to the other until there are no more, or until the connection is reset.
fn pass(mut from: TcpStream, mut to: TcpStream, direction: Direction, generation: u64, shared: &Shared) {
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (read, bytes) in receive {
                if !shared.lets_pass(read, direction, generation) || to.write_all(&bytes).is_err() || bytes.is_empty() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
        let mut buffer = vec![0; 64 << 10];
        loop {
            // The end is passed on as bytes are: late, or not at all.
            let read = from.read(&mut buffer).unwrap_or(0);
            if send.send((Instant::now(), buffer[..read].to_vec())).is_err() || read == 0 {
                break;
            }
        }
        drop(send);
    });
}

impl Shared {
    /// Waits until what was read at that moment may be passed on; `false` when the connection is over.
    fn lets_pass(&self, read: Instant, direction: Direction, generation: u64) -> bool {
        let mut course = self.course();
        loop {
            if course.generation != generation {
                return false;
            }
            let waits = (read + course.delay).saturating_duration_since(Instant::now());
            let waits = if course.held[side(direction)] { Duration::from_secs(3600) } else { waits };
            if waits.is_zero() {
                return true;
            }
            course = self.changed.wait_timeout(course, waits).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

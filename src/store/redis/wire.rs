//! The connection: a socket, what goes over it, and how a call on it fails.
//!
//! The crate's own connection is not used, for three things that matter here. It does not tell a command that never left
//! (nothing happened) from one whose answer never came (anything may have happened). A signal that arrives amid an answer
//! ends its read with EINTR (signal(7): also with SA_RESTART once a socket has a time-out, and after SIGCONT without any
//! handler), and the answer to a commit would be lost. And it has no way to listen for a while and go on listening later.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use redis::{Cmd, Parser, Value};

/// Where a server listens.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// One connection. After a failure it is out of step with the server, and must not be used again.
pub(super) struct Wire {
    socket: Socket,
    parser: Parser,
}

/// How a call failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// Some of the request did not leave: the server has not acted on it.
    Unsent(io::Error),
    /// It left, and what came of it is not known.
    Unanswered(io::Error),
}

impl Broken {
    pub(super) fn source(&self) -> &io::Error {
        match self {
            Self::Unsent(e) | Self::Unanswered(e) => e,
        }
    }
}

impl Wire {
    /// Connects. Each read and write takes at most `patience`.
    pub(super) fn connect(address: &Address, patience: Duration) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp { host, port } => {
                let stream = connect_to_any(host, *port, patience)?;
                // Requests are written whole; waiting for more to send would only delay them.
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
        };
        let wire = Self { socket, parser: Parser::new() };
        wire.socket.set_timeouts(patience)?;
        Ok(wire)
    }

    /// Sends those commands at once, and gives a reply for each; an error that the server replies is a [`Value`] too.
    pub(super) fn call(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Broken> {
        let mut bytes = Vec::new();
        for command in commands {
            command.write_packed_command(&mut bytes);
        }
        // `write_all` goes on after a signal. Had the server got all of the last command, this would not have failed; it
        // may have got those before.
        let sent = self.socket.write_all(&bytes);
        sent.map_err(|e| if commands.len() == 1 { Broken::Unsent(e) } else { Broken::Unanswered(e) })?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            let reply = self.parser.parse_value(Undisturbed(&mut self.socket));
            replies.push(reply.map_err(|e| Broken::Unanswered(io_error(e)))?);
        }
        Ok(replies)
    }

    /// Waits for something that the server sends by itself, or a signal. `false`: the time is over.
    pub(super) fn listen(&mut self, at_most: Duration) -> io::Result<bool> {
        // Zero would mean for ever.
        self.socket.set_read_timeout(at_most.max(Duration::from_millis(1)))?;
        match self.parser.parse_value(&mut self.socket).map_err(io_error) {
            Ok(_) => Ok(true),
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                _ => Err(e),
            },
        }
    }
}

fn connect_to_any(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What the parser says went wrong with the socket, or that no reply looks like that.
fn io_error(error: redis::RedisError) -> io::Error {
    use std::error::Error as Any;
    // What it gives as its source is not the error, but the pointer that it keeps it by.
    type Kept = std::sync::Arc<dyn Any + Send + Sync>;
    let kept = error.source().and_then(|source| source.downcast_ref::<Kept>());
    match kept.and_then(|kept| kept.downcast_ref::<io::Error>()) {
        Some(e) if e.raw_os_error().is_some() => io::Error::from_raw_os_error(e.raw_os_error().unwrap_or_default()),
        Some(e) => io::Error::new(e.kind(), e.to_string()),
        None => io::Error::new(io::ErrorKind::InvalidData, "what it sent is no reply of a Redis"),
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn set_timeouts(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(patience)?;
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_write_timeout(Some(patience)),
        }
    }

    fn set_read_timeout(&self, patience: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_read_timeout(Some(patience)),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads on after a signal.
struct Undisturbed<'s>(&'s mut Socket);

impl Read for Undisturbed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

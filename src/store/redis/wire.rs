//! The connection: a socket, what goes over it, and how a call on it fails.
//!
//! The crate's own connection is not used, for three things that matter here. It does not tell a command that never left
//! (nothing happened) from one whose answer never came (anything may have happened). A signal that arrives amid an answer
//! ends its read with EINTR (signal(7): also with `SA_RESTART` once a socket has a time-out, and after SIGCONT without any
//! handler), and the answer to a commit would be lost. And it has no way to listen for a while and go on listening later.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Cmd, Parser, Value};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// Where a server listens.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Tcp {
        host: String,
        port: u16,
        /// How to speak TLS, and who must answer.
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    },
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
            Address::Tcp { host, port, tls } => {
                let mut stream = connect_to_any(host, *port, patience)?;
                // Requests are written whole; waiting for more to send would only delay them.
                stream.set_nodelay(true)?;
                match tls {
                    None => Socket::Tcp(stream),
                    Some((tls, name)) => {
                        stream.set_read_timeout(Some(patience))?;
                        stream.set_write_timeout(Some(patience))?;
                        let connection = ClientConnection::new(Arc::clone(tls), name.clone());
                        let mut connection = connection.map_err(io::Error::other)?;
                        while connection.is_handshaking() {
                            connection.complete_io(&mut stream)?;
                        }
                        Socket::Tls(Box::new(StreamOwned::new(connection, stream)))
                    }
                }
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
        let sent = self.socket.write_all(&bytes).and_then(|()| self.socket.flush());
        sent.map_err(|e| if commands.len() == 1 { Broken::Unsent(e) } else { Broken::Unanswered(e) })?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            replies.push(self.read(Reading::Reply).map_err(Broken::Unanswered)?);
        }
        Ok(replies)
    }

    /// Waits for something that the server sends by itself, or a signal. `false`: the time is over.
    pub(super) fn listen(&mut self, at_most: Duration) -> io::Result<bool> {
        if let Socket::Tls(stream) = &self.socket {
            // TLS reads on after a signal. So it reads only what is there, and this waits.
            let socket = stream.sock.try_clone()?;
            self.socket.set_read_timeout(Duration::from_millis(1))?;
            match self.read(Reading::Message) {
                Ok(_) => return Ok(true),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
            let at_most = Timespec::try_from(at_most).map_err(io::Error::other)?;
            return match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&at_most)) {
                Ok(0) => Ok(false),
                Ok(_) | Err(Errno::INTR) => Ok(true),
                Err(e) => Err(e.into()),
            };
        }
        // Zero would mean for ever.
        self.socket.set_read_timeout(at_most.max(Duration::from_millis(1)))?;
        match self.read(Reading::Message) {
            Ok(_) => Ok(true),
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                _ => Err(e),
            },
        }
    }

    /// The next value. What has come of it stays with the parser when the rest does not come in time.
    fn read(&mut self, reading: Reading) -> io::Result<Value> {
        let mut source = Source { socket: &mut self.socket, reading, failure: None };
        let value = self.parser.parse_value(&mut source);
        let failure = source.failure;
        value.map_err(|_| {
            failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what it sent is no reply of a Redis"))
        })
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

enum Socket {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Socket {
    fn set_timeouts(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(patience)?;
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(patience)),
            Self::Tls(stream) => stream.sock.set_write_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_write_timeout(Some(patience)),
        }
    }

    fn set_read_timeout(&self, patience: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_read_timeout(Some(patience)),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// What must come: a signal does not end it.
    Reply,
    /// What may come.
    Message,
}

/// The socket for the parser, which would say less of how reading it failed.
struct Source<'s> {
    socket: &'s mut Socket,
    reading: Reading,
    failure: Option<io::Error>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let failure = match self.socket.read(buffer) {
                Ok(0) if !buffer.is_empty() => io::ErrorKind::UnexpectedEof.into(),
                Ok(read) => return Ok(read),
                Err(e) if e.kind() == io::ErrorKind::Interrupted && self.reading == Reading::Reply => continue,
                Err(e) => e,
            };
            let kind = failure.kind();
            self.failure = Some(failure);
            return Err(kind.into());
        }
    }
}

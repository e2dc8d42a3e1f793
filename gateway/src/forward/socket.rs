//! Sockets between fronts and the owner.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use crate::peer::Peer;

/// A connected socket, read and written from one thread.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) async fn connect(peer: &Peer) -> io::Result<Self> {
        match peer {
            Peer::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            Peer::Tcp(address) => TcpStream::connect(address).await.and_then(Self::of_tcp),
        }
    }

    pub(crate) fn of_tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Appends what there is to read; 0 at the end.
    pub(crate) async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let tried = match self {
                Self::Tcp(stream) => stream.try_read_buf(into),
                Self::Unix(stream) => stream.try_read_buf(into),
            };
            match tried {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => stream.readable().await?,
                    Self::Unix(stream) => stream.readable().await?,
                },
                done => return done,
            }
        }
    }

    /// Reads exactly as many bytes.
    pub(crate) async fn read_exact<const LENGTH: usize>(&self) -> io::Result<[u8; LENGTH]> {
        let mut into = [0; LENGTH];
        let mut filled = 0;
        while filled < LENGTH {
            let tried = match self {
                Self::Tcp(stream) => stream.try_read(&mut into[filled..]),
                Self::Unix(stream) => stream.try_read(&mut into[filled..]),
            };
            match tried {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => stream.readable().await?,
                    Self::Unix(stream) => stream.readable().await?,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(into)
    }

    /// Writes some of the bytes.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let tried = match self {
                Self::Tcp(stream) => stream.try_write(bytes),
                Self::Unix(stream) => stream.try_write(bytes),
            };
            match tried {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => stream.writable().await?,
                    Self::Unix(stream) => stream.writable().await?,
                },
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                done => return done,
            }
        }
    }

    /// Writes all of the bytes.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

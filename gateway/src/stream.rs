//! Bodies of answers: whole, or in pieces that another task sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of it.
    Bytes(Bytes),
    /// Nothing more: the body is whole. A sender that goes without saying so has broken off, and the connection is cut,
    /// so that the client does not take what it has for all.
    End,
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    whole: Option<Bytes>,
    pieces: Option<Receiver<Piece>>,
}

impl Body {
    /// These bytes, then the pieces. A piece is taken only when the client has room for it.
    pub fn new(whole: Bytes, pieces: Option<Receiver<Piece>>) -> Self {
        Self { whole: Some(whole).filter(|whole| !whole.is_empty()), pieces }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(whole) = this.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(whole))));
        }
        let Some(pieces) = &mut this.pieces else { return Poll::Ready(None) };
        Poll::Ready(match ready!(pieces.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
                this.pieces = None;
                None
            }
            None => Some(Err(io::Error::other("the stream broke off"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.pieces {
            Some(_) => SizeHint::new(),
            None => SizeHint::with_exact(self.whole.as_ref().map_or(0, |whole| whole.len() as u64)),
        }
    }
}

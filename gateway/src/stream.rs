//! Bodies of answers: whole, or in pieces that another task sends.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    whole: Option<Bytes>,
    pieces: Option<Receiver<Bytes>>,
}

impl Body {
    /// These bytes, then the pieces until their sender ends. A piece is taken only when the client has room
    /// for it.
    pub fn new(whole: Bytes, pieces: Option<Receiver<Bytes>>) -> Self {
        Self { whole: Some(whole).filter(|whole| !whole.is_empty()), pieces }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(whole) = this.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(whole))));
        }
        match &mut this.pieces {
            Some(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            None => Poll::Ready(None),
        }
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

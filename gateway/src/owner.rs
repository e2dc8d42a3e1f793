//! The owner's side of forwarding: a listener of its own, never the public one, where fronts prove that they
//! know the secret and then ask for their clients.
//!
//! What a front asks is decided here, with this node's permits and in its order; it is never forwarded further.

mod door;
mod front;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use crate::context::Shared;
use crate::forward::handshake;
use crate::reach::Local;
pub use door::Door;
use door::Stream;
pub(crate) use door::default_secret_file;
use front::Front;

/// Time for a front to prove itself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the fronts that the door gives to worker `index`, until the node drains; then until they have gone, or
/// the time of the drain is over.
pub(crate) async fn serve_fronts(door: Arc<Door>, index: usize, local: Local, shared: Arc<Shared>) {
    if index == 0 {
        let (door, shared) = (Arc::clone(&door), Arc::clone(&shared));
        spawn_local(async move {
            tokio::select! {
                () = door.accept() => {}
                () = shared.drained() => door.close(),
            }
        });
    }
    let Some(mut streams) = door.take_queue(index) else { return };
    let mut fronts = JoinSet::new();
    let local = Rc::new(local);
    loop {
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else { break };
                let (door, local, shared) = (Arc::clone(&door), Rc::clone(&local), Arc::clone(&shared));
                fronts.spawn_local(async move { serve_front(stream, &door, local, shared).await });
            }
            Some(_) = fronts.join_next() => {}
            () = shared.drained() => break,
        }
    }
    let patience = Duration::from_millis(shared.settings.drain_timeout_ms);
    if timeout(patience, async { while fronts.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(fronts = fronts.len(), "drain time is over; fronts are cut off");
    }
}

async fn serve_front(stream: Stream, door: &Door, local: Rc<Local>, shared: Arc<Shared>) {
    let (socket, _place) = match stream.into_socket() {
        Ok(taken) => taken,
        Err(error) => return tracing::warn!(%error, "a front's connection cannot be used"),
    };
    let secrets = &local.worker.node().secrets;
    let secret = door.secret(secrets);
    match timeout(HANDSHAKE_TIMEOUT, handshake::as_owner(&socket, secret)).await {
        Ok(Ok(nonces)) => {
            let keys = secret.seal(&nonces, &secrets.for_front());
            Front::new(socket, local, shared).serve(&keys).await;
        }
        Ok(Err(error)) => door.refused(&error.to_string()),
        Err(_) => door.refused("it said nothing"),
    }
}

//! What a batch lets go: where the real node hands it to other threads, it is kept for a step of its own.

use std::sync::Arc;

use meed_schemas::ids::Position;
use meed_schemas::outcome::Reply;
use meed_schemas::record::{Detail, Record};

use super::Node;
use crate::error::{Error, Result};
use crate::program::with_version;
use crate::release::Outlet;
use crate::shard::{Checkpoint, Purpose, ReplyTo};

pub(super) struct Released<'a> {
    pub(super) node: &'a mut Node,
    pub(super) fault: Option<Error>,
}

impl Outlet for Released<'_> {
    fn adopt_program_of(&mut self, record: &Record) -> Result<()> {
        let Detail::Program { document } = &record.detail else { return Ok(()) };
        let program = record.identity.program();
        let next = with_version(&self.node.programs, program, record.program_version, record.recorded_at, document)?;
        self.node.programs = Arc::new(next);
        Ok(())
    }

    fn reply(&mut self, to: ReplyTo, _shard: u16, _bytes: u32, reply: Reply) {
        self.node.answers.push((to, reply));
    }

    // Clients of the simulator give up by themselves.
    fn still_running(&mut self, _: ReplyTo) {}

    fn read(&mut self, position: Position, purpose: Purpose) {
        self.node.reads.push((position, purpose));
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.node.tasks.checkpoint(checkpoint);
    }

    fn fault(&mut self, error: Error) {
        self.fault = Some(error);
    }
}

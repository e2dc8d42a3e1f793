//! Admission: every command holds a permit from before its mailbox until its reply leaves.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Bounds of what may be under way.
#[derive(Debug, Clone, Copy)]
pub struct PermitLimits {
    /// Commands on the node.
    pub commands: i64,
    /// Bytes of commands on the node.
    pub bytes: i64,
    /// Commands of one shard.
    pub commands_per_shard: i64,
}

/// Counts of what is under way.
#[derive(Debug)]
pub struct Permits {
    limits: PermitLimits,
    lagging: AtomicBool,
    draining: AtomicBool,
    node: UnderWay,
    shards: Box<[UnderWayInShard]>,
}

/// Of the node. On cache lines of their own (x86 fetches them in pairs): every worker writes them with every request,
/// and reads what stands beside them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct UnderWay {
    commands: AtomicI64,
    bytes: AtomicI64,
}

/// Of one shard, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct UnderWayInShard(AtomicI64);

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPermit {
    /// Too many commands or bytes on the node.
    Node,
    /// Too many commands for the shard.
    Shard,
    /// Checkpoints are too far behind the journal.
    CheckpointLag,
    /// The node is stopping.
    Draining,
}

impl Permits {
    /// Nothing under way.
    pub fn new(limits: PermitLimits, shards: u16) -> Self {
        Self {
            limits,
            lagging: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            node: UnderWay::default(),
            shards: (0..shards).map(|_| UnderWayInShard::default()).collect(),
        }
    }

    /// Whether a request has a chance at all; asked when its body is there and before it is parsed.
    pub fn has_room(&self) -> Result<(), NoPermit> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(NoPermit::Draining);
        }
        if self.lagging.load(Ordering::Relaxed) {
            return Err(NoPermit::CheckpointLag);
        }
        if self.node.commands.load(Ordering::Relaxed) >= self.limits.commands
            || self.node.bytes.load(Ordering::Relaxed) >= self.limits.bytes
        {
            return Err(NoPermit::Node);
        }
        Ok(())
    }

    /// Takes permits for `shards.len()` commands of `bytes` bytes in all, or none of them.
    pub fn acquire(&self, shards: &[u16], bytes: i64) -> Result<(), NoPermit> {
        let count = shards.len() as i64;
        self.acquire_of_node(count, bytes)?;
        for (taken, &shard) in shards.iter().enumerate() {
            let under_way = self.shards[shard as usize].0.fetch_add(1, Ordering::Relaxed) + 1;
            if under_way > self.limits.commands_per_shard {
                for &shard in &shards[..=taken] {
                    self.release_shard(shard, 1);
                }
                self.release_node(count, bytes);
                return Err(NoPermit::Shard);
            }
        }
        Ok(())
    }

    /// Takes permits for `count` commands of `bytes` bytes in all, of whatever shards, or none of them.
    pub fn acquire_of_node(&self, count: i64, bytes: i64) -> Result<(), NoPermit> {
        if self.lagging.load(Ordering::Relaxed) {
            return Err(NoPermit::CheckpointLag);
        }
        let commands = self.node.commands.fetch_add(count, Ordering::SeqCst) + count;
        // Seen after the count: whoever drains sets the flag before the count is read, so that no command slips in
        // between. Each side writes one and then reads the other, which only a total order of all four decides.
        if self.draining.load(Ordering::SeqCst) {
            self.node.commands.fetch_sub(count, Ordering::AcqRel);
            return Err(NoPermit::Draining);
        }
        let total = self.node.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if commands > self.limits.commands || total > self.limits.bytes {
            self.release_node(count, bytes);
            return Err(NoPermit::Node);
        }
        Ok(())
    }

    /// Gives back permits of one shard.
    pub fn release_shard(&self, shard: u16, count: i64) {
        self.shards[shard as usize].0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Gives back permits of the node.
    pub fn release_node(&self, count: i64, bytes: i64) {
        self.node.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.node.commands.fetch_sub(count, Ordering::AcqRel);
    }

    /// Commands under way.
    pub fn under_way(&self) -> i64 {
        self.node.commands.load(Ordering::SeqCst)
    }

    /// Commands under way in a shard.
    pub fn under_way_in(&self, shard: u16) -> i64 {
        self.shards[shard as usize].0.load(Ordering::Relaxed)
    }

    /// Sheds load while checkpoints lag.
    pub fn set_lagging(&self, lagging: bool) {
        self.lagging.store(lagging, Ordering::Relaxed);
    }

    /// From now on there are no permits.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits() -> Permits {
        Permits::new(PermitLimits { commands: 4, bytes: 100, commands_per_shard: 2 }, 4)
    }

    #[test]
    fn all_or_none() {
        let p = permits();
        assert_eq!(p.acquire(&[0, 0, 0], 10), Err(NoPermit::Shard));
        assert_eq!(p.under_way(), 0);
        assert_eq!(p.under_way_in(0), 0);
        assert_eq!(p.acquire(&[0, 1, 2, 3], 10), Ok(()));
        assert_eq!(p.acquire(&[0], 1), Err(NoPermit::Node));
        p.release_shard(0, 1);
        p.release_node(1, 10);
        assert_eq!(p.acquire(&[0], 101), Err(NoPermit::Node));
        assert_eq!(p.acquire(&[0], 1), Ok(()));
    }

    #[test]
    fn a_draining_node_admits_nothing() {
        let p = permits();
        p.drain();
        assert_eq!(p.acquire(&[0], 1), Err(NoPermit::Draining));
        assert_eq!(p.under_way(), 0);
        assert_eq!(p.has_room(), Err(NoPermit::Draining));
    }

    #[test]
    fn a_node_whose_checkpoints_lag_admits_nothing_until_they_do_not() {
        let p = permits();
        assert_eq!(p.acquire(&[0], 10), Ok(()));
        p.set_lagging(true);
        assert_eq!(p.has_room(), Err(NoPermit::CheckpointLag));
        assert_eq!(p.acquire(&[1], 10), Err(NoPermit::CheckpointLag));
        assert_eq!((p.under_way(), p.under_way_in(1)), (1, 0));
        p.set_lagging(false);
        assert_eq!(p.has_room(), Ok(()));
        assert_eq!(p.acquire(&[1], 10), Ok(()));
    }

    #[test]
    fn there_is_room_as_long_as_one_more_command_could_have_a_permit() {
        let p = permits();
        assert_eq!(p.acquire(&[0, 1, 2], 30), Ok(()));
        assert_eq!(p.has_room(), Ok(()));
        assert_eq!(p.acquire(&[3], 1), Ok(()));
        assert_eq!(p.has_room(), Err(NoPermit::Node), "four commands");
        p.release_shard(3, 1);
        p.release_node(1, 1);
        assert_eq!(p.has_room(), Ok(()));
        assert_eq!(p.acquire(&[3], 10), Ok(()));
        p.release_shard(3, 1);
        p.release_node(1, 10);
        assert_eq!(p.acquire(&[3], 70), Ok(()));
        p.release_shard(0, 1);
        p.release_node(1, 0);
        assert_eq!(p.has_room(), Err(NoPermit::Node), "a hundred bytes");
    }
}

//! The bytes of a segment for those who read it, whether its file is packed or not.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::packed::PackedFile;
use super::segment::{packed_path, segment_path};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};

/// An open segment. Cloning is cheap. Offsets are those in the segment, also where the file is packed.
#[derive(Clone, Debug)]
pub(super) enum SegmentFile {
    Plain(DiskFile),
    Packed(Arc<PackedFile>),
}

impl SegmentFile {
    /// Opens a segment. One that is packed meanwhile is found, because the packed file gets its name before the
    /// plain one goes; where both are, the plain one is as good.
    pub(super) fn open(disk: &Disk, dir: &Path, number: u64) -> Result<Self> {
        let plain = disk.open_to_read(&segment_path(dir, number));
        let Err(missing) = plain else { return plain.map(Self::Plain) };
        if !is_missing(&missing) {
            return Err(missing);
        }
        match PackedFile::open(disk, &packed_path(dir, number)) {
            Ok(packed) => Ok(Self::Packed(Arc::new(packed))),
            Err(fault) if is_missing(&fault) => Err(missing),
            Err(fault) => Err(fault),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Plain(file) => file.path(),
            Self::Packed(file) => file.path(),
        }
    }

    /// Length of the segment.
    pub(super) fn len(&self) -> Result<u64> {
        match self {
            Self::Plain(file) => file.len(),
            Self::Packed(file) => Ok(file.len()),
        }
    }

    /// Fills `bytes` from `offset` of the segment; returns how many there were, less than asked only at its end.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(bytes, offset),
            Self::Packed(file) => file.read_at(bytes, offset),
        }
    }
}

/// Whether a file is not there.
pub(super) fn is_missing(fault: &Error) -> bool {
    matches!(fault, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

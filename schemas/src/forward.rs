//! The bytes of requests and of their answers between a front and the owner of the accounts: version 1.
//!
//! Both begin with the version, so that neither side takes bytes of another for its own. Records inside
//! answers have the form of the journal ([`crate::codec`]), which has a version of its own. Frames, checksums
//! and who may send them are outside this module.

mod reply;
mod request;

pub use reply::{decode_reply, encode_reply, put_record, read_record};
pub use request::{decode_request, encode_request};

/// The version byte that this module writes and reads.
pub const FORMAT: u8 = 1;

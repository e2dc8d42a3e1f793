//! Packing in LZ4's block format, for bytes whose length is known where they are unpacked.

/// Packs `bytes` into `packed`; false where that is not shorter. It is unpacked again, into `check`, and compared:
/// nobody has `bytes` any more when it is read.
///
/// # Errors
/// What was packed is not what it was.
pub(super) fn pack(bytes: &[u8], packed: &mut Vec<u8>, check: &mut Vec<u8>) -> Result<bool, String> {
    packed.resize(lz4_flex::block::get_maximum_output_size(bytes.len()), 0);
    let count = lz4_flex::block::compress_into(bytes, packed).map_err(|error| error.to_string())?;
    packed.truncate(count);
    if count >= bytes.len() {
        return Ok(false);
    }
    check.resize(bytes.len(), 0);
    match unpack(packed, check) && check == bytes {
        true => Ok(true),
        false => Err("what was packed is not what it was".to_owned()),
    }
}

/// Whether `packed` is what fills `bytes`, which it then does.
pub(super) fn unpack(packed: &[u8], bytes: &mut [u8]) -> bool {
    lz4_flex::block::decompress_into(packed, bytes).is_ok_and(|count| count == bytes.len())
}

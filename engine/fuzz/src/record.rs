use meed_schemas::codec::{decode, encode};
use meed_schemas::ids::Position;

/// The bytes of a record. The first eight choose its position; what decodes must come back the same.
pub fn record(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<8>() else { return };
    let chosen = Position::from_u64(u64::from_le_bytes(*head));
    let position = Position::new(chosen.shard(), chosen.sequence().max(1));
    let Ok(record) = decode(position, bytes) else { return };
    assert_eq!(record.position, position);
    let mut again = Vec::with_capacity(bytes.len());
    encode(&record, &mut again);
    assert_eq!(decode(position, &again).as_ref(), Ok(&record), "what was decoded does not come back");
    let mut third = Vec::with_capacity(again.len());
    encode(&record, &mut third);
    assert_eq!(again, third);
}

//! The map of owners in a message: its nodes once, and for each shard the place of its owner among them.

use std::sync::Arc;

use meed_engine::ownership::{Member, OwnerMap, Seat};
use meed_schemas::codec::{CodecError, Reader, put_bytes, put_signed, put_varint};
use meed_schemas::ids::SHARDS_MAX;

type Result<T> = std::result::Result<T, CodecError>;

pub(super) fn put(out: &mut Vec<u8>, map: &OwnerMap) {
    put_signed(out, map.version);
    put_signed(out, map.programs);
    let mut members: Vec<&Arc<Member>> = Vec::new();
    for seat in map.seats.iter().flatten() {
        if !members.iter().any(|member| **member == seat.member) {
            members.push(&seat.member);
        }
    }
    put_varint(out, members.len() as u64);
    for member in &members {
        put_bytes(out, member.name.as_bytes());
        out.extend_from_slice(&member.incarnation.to_le_bytes());
        put_bytes(out, member.address.as_bytes());
    }
    put_varint(out, map.seats.len() as u64);
    for seat in &map.seats {
        let place = seat.as_ref().and_then(|seat| members.iter().position(|member| **member == seat.member));
        put_varint(out, place.map_or(0, |place| place as u64 + 1));
        put_signed(out, seat.as_ref().map_or(0, |seat| seat.epoch));
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Result<OwnerMap> {
    let (version, programs) = (r.signed("version")?, r.signed("version")?);
    let member = |r: &mut Reader<'_>| {
        let name = r.text("node")?.into();
        let mut incarnation = [0; 16];
        incarnation.copy_from_slice(r.take(16, "node")?);
        let address = r.text("node")?.into();
        Ok(Arc::new(Member { name, incarnation: u128::from_le_bytes(incarnation), address }))
    };
    let members = (0..r.count("nodes")?).map(|_| member(r)).collect::<Result<Vec<_>>>()?;
    let seats = r.count("shards")?;
    if seats > usize::from(SHARDS_MAX) {
        return Err(CodecError::Invalid("shards"));
    }
    let seat = |r: &mut Reader<'_>| {
        let (place, epoch) = (r.varint("node")? as usize, r.signed("epoch")?);
        let Some(place) = place.checked_sub(1) else { return Ok(None) };
        let member = members.get(place).ok_or(CodecError::Invalid("node"))?;
        Ok(Some(Seat { member: Arc::clone(member), epoch }))
    };
    let seats = (0..seats).map(|_| seat(r)).collect::<Result<_>>()?;
    Ok(OwnerMap { version, programs, seats })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_put() {
        let member = |n: u128| Arc::new(Member { name: format!("n{n}").into(), incarnation: n, address: "a:1".into() });
        let seat = |n, epoch| Some(Seat { member: member(n), epoch });
        let map = OwnerMap { version: 7, programs: -1, seats: vec![seat(1, 3), None, seat(u128::MAX, 0), seat(1, 9)] };
        for map in [map, OwnerMap::unknown(3), OwnerMap::unknown(0)] {
            let mut bytes = Vec::new();
            put(&mut bytes, &map);
            assert_eq!(read(&mut Reader::new(&bytes)).unwrap(), map);
            for length in 0..bytes.len() {
                assert!(read(&mut Reader::new(&bytes[..length])).is_err(), "{length} of {map:?}");
            }
        }
    }
}

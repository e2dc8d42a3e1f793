//! The parts of messages that are about streams of events.

use meed_schemas::codec::{CodecError, Reader, put_bytes, put_varint};
use meed_schemas::event::EventType;

use crate::feed::{Chunk, Form, NoStart, Start, Wanted};

type Result<T> = std::result::Result<T, CodecError>;

/// By their numbers on the wire.
const NO_STARTS: [NoStart; 4] = [NoStart::NoCursor, NoStart::Ahead, NoStart::Removed, NoStart::Unreadable];

pub(super) fn put_start(out: &mut Vec<u8>, start: &Start) {
    match start {
        Start::Oldest => out.push(0),
        Start::Now => out.push(1),
        Start::After(text) => {
            out.push(2);
            put_bytes(out, text.as_bytes());
        }
    }
}

pub(super) fn read_start(r: &mut Reader<'_>) -> Result<Start> {
    Ok(match r.byte("start")? {
        0 => Start::Oldest,
        1 => Start::Now,
        2 => Start::After(r.text("start")?.to_owned()),
        _ => return Err(CodecError::Invalid("start")),
    })
}

pub(super) fn put_wanted(out: &mut Vec<u8>, wanted: &Wanted) {
    out.extend_from_slice(&[u8::from(wanted.form == Form::ServerSent), u8::from(wanted.follow)]);
    put_bytes(out, wanted.program.as_bytes());
    put_varint(out, wanted.left);
    put_varint(out, wanted.types.len() as u64);
    wanted.types.iter().for_each(|kind| put_bytes(out, kind.name().as_bytes()));
}

pub(super) fn read_wanted(r: &mut Reader<'_>) -> Result<Wanted> {
    let form = if r.byte("form")? == 0 { Form::Lines } else { Form::ServerSent };
    let follow = r.byte("form")? != 0;
    let (program, left) = (r.text("program")?.to_owned(), r.varint("limit")?);
    let kind = |r: &mut Reader<'_>| EventType::from_name(r.text("type")?).ok_or(CodecError::Invalid("type"));
    let types = (0..r.count("types")?).map(|_| kind(r)).collect::<Result<_>>()?;
    Ok(Wanted { form, program, types, follow, left })
}

pub(super) fn put_sequences(out: &mut Vec<u8>, from: &[u64]) {
    put_varint(out, from.len() as u64);
    from.iter().for_each(|sequence| put_varint(out, *sequence));
}

pub(super) fn read_sequences(r: &mut Reader<'_>) -> Result<Vec<u64>> {
    (0..r.count("shards")?).map(|_| r.varint("sequence")).collect()
}

pub(super) fn put_begins(out: &mut Vec<u8>, begins: &std::result::Result<Vec<u64>, NoStart>) {
    match begins {
        Ok(from) => {
            out.push(0);
            put_sequences(out, from);
        }
        Err(why) => {
            let number = NO_STARTS.iter().position(|other| other == why).unwrap_or(NO_STARTS.len() - 1);
            out.push(number as u8 + 1);
        }
    }
}

pub(super) fn read_begins(r: &mut Reader<'_>) -> Result<std::result::Result<Vec<u64>, NoStart>> {
    match usize::from(r.byte("beginning")?).checked_sub(1) {
        None => read_sequences(r).map(Ok),
        Some(number) => Ok(Err(*NO_STARTS.get(number).ok_or(CodecError::Invalid("beginning"))?)),
    }
}

pub(super) fn put_chunk(out: &mut Vec<u8>, chunk: &Chunk) {
    put_bytes(out, &chunk.bytes);
    put_sequences(out, &chunk.from);
    put_varint(out, chunk.events);
    out.push(u8::from(chunk.ended));
}

pub(super) fn read_chunk(r: &mut Reader<'_>) -> Result<Chunk> {
    let (bytes, from) = (r.bytes("events")?.to_vec(), read_sequences(r)?);
    Ok(Chunk { bytes, from, events: r.varint("events")?, ended: r.byte("end")? != 0 })
}

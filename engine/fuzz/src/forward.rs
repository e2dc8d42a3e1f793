use meed_schemas::forward::{decode_reply, decode_request, encode_reply, encode_request};
use meed_schemas::wire::{CodecError, Reader};

/// What fronts and owners send each other. The first byte chooses request or answer; what decodes must come back the
/// same.
pub fn forward(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let mut again = Vec::new();
    if kind % 2 == 0 {
        let Ok(request) = decode_request(&mut Reader::new(bytes)) else { return };
        encode_request(&request, &mut again);
        let reader = &mut Reader::new(&again);
        assert_eq!(format!("{:?}", decode_request(reader)), format!("{:?}", Ok::<_, CodecError>(request)));
        assert!(reader.is_empty());
    } else {
        let Ok(reply) = decode_reply(&mut Reader::new(bytes)) else { return };
        encode_reply(&reply, &mut again);
        let reader = &mut Reader::new(&again);
        assert_eq!(format!("{:?}", decode_reply(reader)), format!("{:?}", Ok::<_, CodecError>(reply)));
        assert!(reader.is_empty());
    }
}

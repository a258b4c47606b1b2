//! Messages to bytes and back: gRPC's frames, and parts whose body is not copied.
//!
//! ```text
//! frame   compressed-flag u8 (0) · length u32 big-endian · message
//! part    frame and fields up to the length of the body, as one chunk · body, as it lies, as another
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use weir_proto::weir::link::v1::{AgentMessage, CollectorMessage, DataPart};

use crate::limits::MESSAGE_BYTES_MAX;

/// Bytes of a frame's head.
const FRAME_HEAD_BYTES: usize = 5;

/// `AgentMessage.data`.
const FIELD_DATA: u32 = 2;
/// `DataPart.head`.
const FIELD_HEAD: u32 = 1;
/// `DataPart.body`.
const FIELD_BODY: u32 = 2;

/// A message of any kind but data, framed.
pub(crate) fn framed(message: &AgentMessage) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    put_head(length, &mut out);
    message.encode_raw(&mut out);
    out.freeze()
}

/// A part, framed: what goes before its body, and the body.
pub(crate) fn framed_part(part: DataPart) -> (Bytes, Bytes) {
    let DataPart { head, body } = part;
    let head_len = head.as_ref().map(Message::encoded_len);
    let sized = |field, length: usize| key_len(field) + encoded_len_varint(length as u64) + length;
    let body_len = (!body.is_empty()).then_some(body.len());
    let data_len = head_len.map_or(0, |length| sized(FIELD_HEAD, length))
        + body_len.map_or(0, |length| sized(FIELD_BODY, length));
    let mut out = BytesMut::with_capacity(FRAME_HEAD_BYTES + 32 + head_len.unwrap_or(0));
    put_head(sized(FIELD_DATA, data_len), &mut out);
    put_field(FIELD_DATA, data_len, &mut out);
    if let (Some(head), Some(length)) = (head, head_len) {
        put_field(FIELD_HEAD, length, &mut out);
        head.encode_raw(&mut out);
    }
    if let Some(length) = body_len {
        put_field(FIELD_BODY, length, &mut out);
    }
    (out.freeze(), body)
}

fn put_head(length: usize, out: &mut BytesMut) {
    out.put_u8(0);
    // A message is a megabyte and some at most.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn put_field(field: u32, length: usize, out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// What has come of the collector's messages. Holds no more than one message and one frame of the transport.
#[derive(Debug, Default)]
pub(crate) struct Unframed {
    bytes: BytesMut,
}

// === impl Unframed ===

impl Unframed {
    /// The next bytes.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The next message, where it is whole.
    ///
    /// # Errors
    /// Why the bytes are none: the stream cannot go on.
    pub(crate) fn next(&mut self) -> Result<Option<CollectorMessage>, String> {
        let Some((head, _)) = self.bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *head;
        if flag != 0 {
            return Err("a compressed message, which was not asked for".to_owned());
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(format!("a message of {length} bytes: {MESSAGE_BYTES_MAX} may be"));
        }
        if self.bytes.len() < FRAME_HEAD_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(FRAME_HEAD_BYTES);
        let message = self.bytes.split_to(length).freeze();
        CollectorMessage::decode(message)
            .map(Some)
            .map_err(|error| format!("a message that is none: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::weir::link::v1::agent_message::Message as Up;
    use weir_proto::weir::link::v1::collector_message::Message as Down;
    use weir_proto::weir::link::v1::{BundleHead, Credit};

    /// Scenario: parts with and without a head, with bodies of no byte to a megabyte.
    /// Guarantees: the bytes are those that the generated messages have, and the body is not copied.
    #[test]
    fn a_part_is_framed_as_the_generated_message_is() {
        let head =
            BundleHead { ordinal: 7, seqs: vec![1, 300], sent_bytes: 1 << 20, ..BundleHead::default() };
        for head in [None, Some(BundleHead::default()), Some(head)] {
            for length in [0, 1, 127, 128, 1 << 20] {
                let part = DataPart { head: head.clone(), body: Bytes::from(vec![5; length]) };
                let expected = framed(&AgentMessage { message: Some(Up::Data(part.clone())) });
                let at = part.body.as_ptr();
                let (front, body) = framed_part(part);
                assert_eq!([&front[..], &body[..]].concat(), expected);
                assert_eq!(body.as_ptr(), at);
            }
        }
    }

    /// Scenario: two messages come byte by byte; then frames that are compressed, too long, or no message.
    /// Guarantees: each message is there when its last byte is; the others are refused, before their bytes are waited for.
    #[test]
    fn messages_come_out_of_any_pieces() {
        let credit = CollectorMessage { message: Some(Down::Credit(Credit { bytes: 77 })) };
        let mut bytes = vec![0, 0, 0, 0, u8::try_from(credit.encoded_len()).unwrap()];
        credit.encode(&mut bytes).unwrap();
        let mut unframed = Unframed::default();
        let mut found = 0;
        for (at, byte) in bytes.repeat(2).into_iter().enumerate() {
            unframed.push(&[byte]);
            let is_whole = (at + 1).is_multiple_of(bytes.len());
            let next = unframed.next().unwrap();
            assert_eq!(next.is_some(), is_whole, "{at}");
            found += usize::from(next == Some(credit.clone()));
        }
        assert_eq!(found, 2);
        for lie in [&b"\x01\0\0\0\0"[..], b"\0\x7f\0\0\0", b"\0\0\0\0\x02\xff\xff"] {
            let mut unframed = Unframed::default();
            unframed.push(lie);
            unframed.next().unwrap_err();
        }
    }
}

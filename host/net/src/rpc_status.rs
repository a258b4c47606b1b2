//! `google.rpc.Status` with its one detail that we send, encoded by hand.
//!
//! ```text
//! Status     code int32 = 1 · message string = 2 · details Any = 3
//! Any        type_url string = 1 · value bytes = 2
//! RetryInfo  retry_delay Duration = 1
//! Duration   seconds int64 = 1 · nanos int32 = 2
//! ```

use std::time::Duration;

/// The type of the detail that tells a sender how long to wait.
pub const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// One `google.rpc.Status` in protobuf: the body of OTLP/HTTP errors and the detail of gRPC ones.
pub fn encode(code: i32, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let mut status = Vec::with_capacity(message.len() + 80);
    put_number(&mut status, 1, u64::from(code.unsigned_abs()));
    put_bytes(&mut status, 2, message.as_bytes());
    if let Some(delay) = retry_after {
        let mut duration = Vec::with_capacity(16);
        put_number(&mut duration, 1, delay.as_secs());
        put_number(&mut duration, 2, u64::from(delay.subsec_nanos()));
        let mut info = Vec::with_capacity(18);
        put_message(&mut info, 1, &duration);
        let mut any = Vec::with_capacity(64);
        put_bytes(&mut any, 1, RETRY_INFO_TYPE.as_bytes());
        put_message(&mut any, 2, &info);
        put_message(&mut status, 3, &any);
    }
    status
}

/// A number; zero is left out, as proto3 does.
fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value);
    }
}

/// Text or bytes; empty ones are left out.
fn put_bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        put_message(out, field, value);
    }
}

/// A message, empty or not: its presence says something.
fn put_message(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: UNAVAILABLE with a delay of one and a half seconds, beside the bytes that protobuf's rules give.
    /// Guarantees: a library finds code, message and delay where it looks for them.
    #[test]
    fn a_retry_delay_is_encoded_as_protobuf_does() {
        let mut expected = b"\x08\x0e\x12\x04full\x1a\x36\x0a\x28".to_vec();
        expected.extend_from_slice(RETRY_INFO_TYPE.as_bytes());
        expected.extend_from_slice(b"\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01");
        let mut got = encode(14, "full", Some(Duration::from_millis(1500)));
        // The length of Any is what the parts below it add up to.
        let any_at = 9;
        assert_eq!(usize::from(got[any_at]), got.len() - any_at - 1);
        got[any_at] = 0x36;
        assert_eq!(got, expected);
    }
}

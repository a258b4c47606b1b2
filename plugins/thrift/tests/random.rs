//! Bytes that nobody would send.

use std::time::{Duration, Instant};

use weir_thrift::reader::DEPTH_MAX;
use weir_thrift::{Fields, Kind, Malformed, Protocol, Reader, Type, Writer};

/// How long bodies are made up.
const FOR: Duration = Duration::from_secs(1);

/// Bytes of a body that grew by doubling, so that a second has many bodies.
const BODY_BYTES_MAX: usize = 4_096;

/// Bytes that mean something: ends, types, lengths, signs, heads of the compact protocol.
const WORDS: [u8; 14] = [0, 1, 2, 0x0b, 0x0c, 0x0d, 0x0f, 0x19, 0x1c, 0x7f, 0x80, 0x82, 0xf8, 0xff];

/// A message with fields of each type that is written, with gaps, and structs and lists in each other.
fn message(protocol: Protocol) -> Vec<u8> {
    let (mut writer, mut fields) = (Writer::new(protocol), Fields::default());
    writer.message("emitBatch", Kind::Oneway, 7);
    writer.field(&mut fields, 1, Type::I64);
    writer.i64(i64::MIN);
    writer.flag(&mut fields, 2, true);
    writer.field(&mut fields, 40, Type::Binary);
    writer.text("text".as_bytes());
    writer.field(&mut fields, 41, Type::Double);
    writer.double(0.1);
    writer.field(&mut fields, 42, Type::List);
    let list = writer.open_list(Type::Struct);
    for number in 0..20 {
        let mut inner = Fields::default();
        writer.field(&mut inner, 1, Type::I32);
        writer.i32(-number);
        writer.field(&mut inner, 3, Type::List);
        writer.list(Type::I16, 2);
        writer.i16(1);
        writer.i16(-1);
        writer.flag(&mut inner, 4, false);
        writer.stop();
    }
    writer.close_list(list, 20);
    writer.stop();
    writer.finish()
}

/// Reads a value by what it is, not by passing over it; returns how many values were read. `depth` is how many lie around it.
fn value(reader: &mut Reader<'_>, kind: Type, depth: u32) -> Result<usize, Malformed> {
    match kind {
        Type::Bool => reader.bool().map(|_| 1),
        Type::I8 => reader.i8().map(|_| 1),
        Type::I16 => reader.i16().map(|_| 1),
        Type::I32 => reader.i32().map(|_| 1),
        Type::I64 => reader.i64().map(|_| 1),
        Type::Double => reader.double().map(|_| 1),
        Type::Binary => reader.text().map(|_| 1),
        Type::Struct => {
            let (mut fields, mut count) = (reader.begin()?, 1);
            while let Some((_, kind)) = reader.field(&mut fields)? {
                count += value(reader, kind, depth + 1)?;
            }
            Ok(count)
        }
        Type::Set | Type::List => {
            let (kind, elements) = reader.list()?;
            assert!(elements <= reader.left(), "{elements} elements of {} bytes", reader.left());
            let mut count = 1;
            // A caller that follows lists in lists bounds that itself; Jaeger's has none.
            if depth < DEPTH_MAX {
                for _ in 0..elements {
                    count += value(reader, kind, depth + 1)?;
                }
            }
            Ok(count)
        }
        // Nobody reads these; they are passed over.
        Type::Map | Type::Uuid => reader.skip(kind).map(|()| 1),
    }
}

/// What a body is to who passes over it: how many bytes it takes.
fn passed(body: &[u8], protocol: Protocol) -> Result<usize, Malformed> {
    let mut reader = Reader::new(body, protocol);
    reader.message()?;
    reader.skip(Type::Struct)?;
    assert_eq!(reader.at() + reader.left(), body.len());
    Ok(reader.at())
}

/// The same to who reads it.
fn read(body: &[u8], protocol: Protocol) -> Result<usize, Malformed> {
    let mut reader = Reader::new(body, protocol);
    reader.message()?;
    let count = value(&mut reader, Type::Struct, 0)?;
    assert!(count <= 1 + 2 * body.len(), "{count} values of {} bytes", body.len());
    Ok(reader.at())
}

/// A body with some bytes changed, put in, doubled or cut.
fn spoilt(random: &mut fastrand::Rng, good: &[u8]) -> Vec<u8> {
    let mut body = good.to_vec();
    for _ in 0..random.usize(..6) {
        let at = random.usize(..body.len());
        match random.u8(..6) {
            0 => body.truncate(at.max(1)),
            1 => body.insert(at, random.u8(..)),
            2 if body.len() < BODY_BYTES_MAX => body.extend_from_within(at..),
            3 => body[at] = random.u8(..),
            _ => body[at] = WORDS[random.usize(..WORDS.len())],
        }
    }
    body
}

/// Scenario: a second of messages in both protocols: good ones with bytes changed, put in, doubled or cut, and noise behind a good head.
/// Guarantees: no panic and no more work than bytes; what can be passed over can be read, to the same byte; whole, without what is behind
/// it, it is the same, and with a byte less it is none.
#[test]
fn a_second_of_random_messages_does_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = [Protocol::Binary, Protocol::Compact].map(|protocol| (message(protocol), protocol));
    for (body, protocol) in &good {
        assert_eq!((passed(body, *protocol), read(body, *protocol)), (Ok(body.len()), Ok(body.len())));
    }
    let (mut taken, mut refused) = (0, 0);
    let until = Instant::now() + FOR;
    while Instant::now() < until {
        for _ in 0..200 {
            let (good, protocol) = &good[random.usize(..2)];
            let body = if random.u8(..4) == 0 {
                // The head: the name's length and the sequence, of a byte in the one protocol and of four in the other.
                let head = if *protocol == Protocol::Binary { 21 } else { 13 };
                let mut body = good[..head].to_vec();
                let length = random.usize(..64);
                body.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
                body
            } else {
                spoilt(&mut random, good)
            };
            match passed(&body, *protocol) {
                Ok(end) => {
                    taken += 1;
                    assert_eq!(read(&body, *protocol), Ok(end), "seed {seed}: {body:x?}");
                    assert_eq!(passed(&body[..end], *protocol), Ok(end), "seed {seed}: {body:x?}");
                    assert!(passed(&body[..end - 1], *protocol).is_err(), "seed {seed}: {body:x?}");
                }
                Err(_) => {
                    refused += 1;
                    // It may be read where it lies too deep to be passed over; it must end all the same.
                    read(&body, *protocol).ok();
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 100 && refused > 100);
}

//! Native histograms on the wire; both versions have the same fields, and only 2.0 the last.
//!
//! ```text
//! count 1 | 2 · sum 3 · schema 4 · zero threshold 5 · zero count 6 | 7 · negative: spans 8, deltas 9, counts 10
//! positive: spans 11, deltas 12, counts 13 · reset hint 14 · timestamp 15 · custom values 16 · start 17
//! ```

use weir_wire::reader::{Value, unzigzag, varint};
use weir_wire::{Encoder, Malformed, Reader};

use crate::read::Entries;
use crate::series::{Buckets, Count, Histogram, Span};
use crate::{Fault, Version};

pub(crate) fn read(message: &[u8], version: Version, entries: &mut Entries) -> Result<Histogram, Fault> {
    let mut histogram = Histogram::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        let Histogram { negative, positive, .. } = &mut histogram;
        match (field.number, field.value) {
            (1, Value::Varint(count)) => histogram.count = Count::Int(count),
            (2, Value::Fixed64(bits)) => histogram.count = Count::Float(f64::from_bits(bits)),
            (3, Value::Fixed64(bits)) => histogram.sum = f64::from_bits(bits),
            // A sint32 is its lower half, however many bytes it was spelled in.
            (4, Value::Varint(schema)) => histogram.schema = unzigzag(schema & 0xffff_ffff) as i32,
            (5, Value::Fixed64(bits)) => histogram.zero_threshold = f64::from_bits(bits),
            (6, Value::Varint(count)) => histogram.zero_count = Count::Int(count),
            (7, Value::Fixed64(bits)) => histogram.zero_count = Count::Float(f64::from_bits(bits)),
            (8, Value::Bytes(span)) => negative.spans.push(read_span(span, entries)?),
            (9, value) => read_deltas(value, &mut negative.deltas, entries)?,
            (10, value) => read_doubles(value, &mut negative.counts, entries)?,
            (11, Value::Bytes(span)) => positive.spans.push(read_span(span, entries)?),
            (12, value) => read_deltas(value, &mut positive.deltas, entries)?,
            (13, value) => read_doubles(value, &mut positive.counts, entries)?,
            (14, Value::Varint(hint)) => histogram.reset_hint = hint,
            (15, Value::Varint(time)) => histogram.timestamp = time.cast_signed(),
            (16, value) => read_doubles(value, &mut histogram.custom_values, entries)?,
            (17, Value::Varint(time)) if version == Version::V2 => histogram.start = time.cast_signed(),
            _ => {}
        }
    }
    Ok(histogram)
}

fn read_span(message: &[u8], entries: &mut Entries) -> Result<Span, Fault> {
    entries.add(1)?;
    let mut span = Span::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(offset)) => span.offset = unzigzag(offset & 0xffff_ffff) as i32,
            (2, Value::Varint(length)) => span.length = length as u32,
            _ => {}
        }
    }
    Ok(span)
}

fn read_deltas(value: Value<'_>, into: &mut Vec<i64>, entries: &mut Entries) -> Result<(), Fault> {
    match value {
        Value::Varint(delta) => {
            entries.add(1)?;
            into.push(unzigzag(delta));
        }
        Value::Bytes(packed) => {
            let mut at = 0;
            while at < packed.len() {
                let (delta, end) = varint(packed, at)?;
                entries.add(1)?;
                into.push(unzigzag(delta));
                at = end;
            }
        }
        Value::Fixed64(_) | Value::Fixed32(_) => {}
    }
    Ok(())
}

fn read_doubles(value: Value<'_>, into: &mut Vec<f64>, entries: &mut Entries) -> Result<(), Fault> {
    match value {
        Value::Fixed64(bits) => {
            entries.add(1)?;
            into.push(f64::from_bits(bits));
        }
        Value::Bytes(packed) => {
            let (numbers, rest) = packed.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(Malformed { at: 0, what: "a packed list ends inside a number" }.into());
            }
            entries.add(numbers.len())?;
            into.extend(numbers.iter().map(|number| f64::from_le_bytes(*number)));
        }
        Value::Varint(_) | Value::Fixed32(_) => {}
    }
    Ok(())
}

pub(crate) fn write(out: &mut Encoder, field: u32, histogram: &Histogram, version: Version) {
    let Histogram { count, sum, schema, zero_threshold, zero_count, negative, positive, .. } = histogram;
    let Histogram { reset_hint, timestamp, custom_values, start, .. } = histogram;
    let message = out.open(field);
    write_count(out, 1, *count);
    out.double(3, *sum);
    out.sint(4, i64::from(*schema));
    out.double(5, *zero_threshold);
    write_count(out, 6, *zero_count);
    write_buckets(out, 8, negative);
    write_buckets(out, 11, positive);
    out.nonzero_varint(14, *reset_hint);
    out.int(15, *timestamp);
    out.packed_double(16, custom_values.iter().copied());
    if version == Version::V2 && *start != 0 {
        out.int(17, *start);
    }
    out.close(message);
}

fn write_count(out: &mut Encoder, field: u32, count: Count) {
    match count {
        Count::Int(count) => out.varint(field, count),
        Count::Float(count) => out.double(field + 1, count),
    }
}

fn write_buckets(out: &mut Encoder, field: u32, Buckets { spans, deltas, counts }: &Buckets) {
    for Span { offset, length } in spans {
        out.message(field, |out| {
            out.sint(1, i64::from(*offset));
            out.varint(2, u64::from(*length));
        });
    }
    out.packed_varint(field + 1, deltas.iter().map(|delta| (delta << 1 ^ delta >> 63).cast_unsigned()));
    out.packed_double(field + 2, counts.iter().copied());
}

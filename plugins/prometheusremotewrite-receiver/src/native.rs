//! A native histogram of the wire as a point.

use weir_prometheus::native::{self, Native};
use weir_remote_write::series::STALE_NAN;
use weir_remote_write::{Buckets, Count, Histogram};

/// The reset hint of histograms that go up and down.
const GAUGE: u64 = 3;

/// A histogram that OTLP can hold, or why it can't; what that depends on the schema for is found where the point is written.
pub(crate) fn point(histogram: &Histogram) -> Result<Native, &'static str> {
    let Histogram { count, sum, schema, zero_threshold, zero_count, negative, positive, .. } = histogram;
    if sum.to_bits() == STALE_NAN {
        return Ok(Native { schema: *schema, sum: Some(*sum), ..Native::default() });
    }
    if histogram.reset_hint == GAUGE {
        return Err("a native histogram is a gauge, which OTLP has not");
    }
    let (Count::Int(count), Count::Int(zero_count)) = (*count, *zero_count) else {
        return Err("a native histogram counts in floats, which OTLP has not");
    };
    Ok(Native {
        schema: *schema,
        zero_threshold: *zero_threshold,
        zero_count,
        count,
        sum: Some(*sum),
        negative: side(negative)?,
        positive: side(positive)?,
        bounds: histogram.custom_values.clone(),
        is_float: false,
    })
}

fn side(Buckets { spans, deltas, counts }: &Buckets) -> Result<Vec<(i32, u64)>, &'static str> {
    if !counts.is_empty() {
        return Err("a native histogram counts in floats, which OTLP has not");
    }
    native::buckets(spans.iter().map(|span| (span.offset, span.length)), deltas.iter().copied())
}

//! Exponential histograms as native ones.
//!
//! ```text
//! OTLP         bucket i is from base^i, exclusive, to base^(i+1), inclusive      base = 2^(2^-scale)
//! Prometheus   bucket i is from base^(i-1), exclusive, to base^i, inclusive      schema = scale
//! ```

use weir_guest::wire::otlp::ExponentialPointView;
use weir_prometheus::accumulate::{Dense, Exponential};
use weir_prometheus::series::Reason;
use weir_remote_write::{Buckets, Count, Histogram, Span};

/// A scale coarser than any schema.
pub(crate) const SCALE: Reason = "scale";
/// A native histogram has a sum.
pub(crate) const SUM: Reason = "sum";

/// The finest schema.
const SCHEMA_MAX: i32 = 8;

/// The coarsest schema.
const SCHEMA_MIN: i32 = -4;

/// The threshold of a zero bucket that says none (`compatibility/prometheus_and_openmetrics.md`, "Exponential Histograms").
const ZERO_THRESHOLD: f64 = 1e-128;

/// So many empty buckets are written rather than a span of their own: a span takes as many bytes.
const GAP_MAX: u32 = 2;

/// A point as a native histogram; times are the caller's.
pub(crate) fn histogram(view: &ExponentialPointView<'_>) -> Result<Histogram, Reason> {
    let mut point = Exponential::read(view)?;
    if point.scale > SCHEMA_MAX {
        // Of two scales the coarser is kept, and nothing is added.
        let none = Exponential {
            scale: SCHEMA_MAX,
            zero_count: 0,
            zero_threshold: 0.0,
            positive: Dense::default(),
            negative: Dense::default(),
            count: 0,
            sum: Some(0.0),
        };
        point.add(&none);
    }
    if point.scale < SCHEMA_MIN {
        return Err(SCALE);
    }
    let Exponential { scale, zero_count, zero_threshold, positive, negative, count, sum } = &point;
    Ok(Histogram {
        count: Count::Int(*count),
        sum: sum.ok_or(SUM)?,
        schema: *scale,
        zero_threshold: if *zero_threshold == 0.0 { ZERO_THRESHOLD } else { *zero_threshold },
        zero_count: Count::Int(*zero_count),
        negative: buckets(negative)?,
        positive: buckets(positive)?,
        ..Histogram::default()
    })
}

fn buckets(side: &Dense) -> Result<Buckets, Reason> {
    let mut buckets = Buckets::default();
    // The index behind the last span, and the count of the last bucket.
    let (mut next, mut last) = (0_i64, 0_i64);
    for (count, at) in side.counts.iter().zip(side.offset + 1..).filter(|(count, _)| **count > 0) {
        let gap = at - next;
        match buckets.spans.last_mut() {
            Some(span) if gap <= i64::from(GAP_MAX) => {
                for _ in 0..gap {
                    buckets.deltas.push(-last);
                    last = 0;
                    span.length += 1;
                }
                span.length += 1;
            }
            _ => {
                let offset = i32::try_from(gap).map_err(|_| SCALE)?;
                buckets.spans.push(Span { offset, length: 1 });
            }
        }
        let count = i64::try_from(*count).map_err(|_| weir_prometheus::series::reason::MALFORMED)?;
        buckets.deltas.push(count - last);
        (next, last) = (at + 1, count);
    }
    Ok(buckets)
}

//! Prometheus and OTLP: what the one calls a family and the other a metric.
//!
//! Invariant: keeps nothing of what it was given between calls, and is total.
//!
//! | file | what it is |
//! |---|---|
//! | `accumulate.rs` | histograms that are kept, and deltas that become cumulative |
//! | `family.rs` | families of samples, and how they are read from a text |
//! | `protobuf.rs` | the same from the protobuf exposition |
//! | `native.rs` | histograms whose bounds follow from a schema |
//! | `otlp.rs` | families as OTLP metrics, by resource and scope |
//! | `point.rs` | one point of a metric, and the metric around it |
//! | `names.rs`, `labels.rs` | names of families and labels as Prometheus wants them |
//! | `series.rs` | OTLP metrics as series, point by point |
//! | `exemplar.rs` | the labels of exemplars |
//! | `units.rs` | units in OpenTelemetry's words |

pub mod accumulate;
pub mod exemplar;
pub mod family;
pub mod labels;
pub mod names;
pub mod native;
pub mod otlp;
pub mod point;
pub mod protobuf;
pub mod series;
pub mod units;

use weir_exposition::Dialect;

/// How a body is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One of the texts.
    Text(Dialect),
    /// `application/vnd.google.protobuf`, delimited.
    Protobuf,
}

/// A request, where there are points for one, and the points that are not in it, by reason.
pub type Mapped = (Option<Vec<u8>>, Vec<(&'static str, u64)>);

/// One body as an `ExportMetricsServiceRequest`, native histograms as exponential ones. `labels` are the target's, `time` is when it
/// was fetched, in nanoseconds since the Unix epoch.
///
/// # Errors
/// Where the body is at fault and in what way; nothing of it is taken then.
pub fn to_otlp(
    body: &[u8],
    format: Format,
    labels: &[(String, String)],
    time: u64,
) -> Result<Mapped, String> {
    let mut metrics = otlp::Metrics::new(labels, otlp::Honor::Target, time);
    match format {
        Format::Text(dialect) => family::read(body, dialect, |family| metrics.add(&family))
            .map(drop)
            .map_err(|fault| fault.to_string())?,
        Format::Protobuf => {
            let wanted = protobuf::Wanted { native: true, classic_too: false };
            protobuf::read(body, wanted, |family| metrics.add(&family)).map_err(|fault| fault.to_string())?;
        }
    }
    let dropped = metrics.dropped().iter().map(|(reason, count)| (*reason, *count)).collect();
    Ok((metrics.finish(None), dropped))
}

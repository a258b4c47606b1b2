//! Prometheus targets as OTLP metrics.
//!
//! Invariant: keeps of a target only which series it had, for the markers of those that are gone.

use weir_exposition::{Dialect, Fault};
use weir_prometheus::{family, otlp};

/// One fetched text as an `ExportMetricsServiceRequest`, and the points that are not in it, by reason. `labels` are the
/// target's, `time` is when it was fetched, in nanoseconds since the Unix epoch.
///
/// # Errors
/// [`Fault`]: nothing of the text is taken then.
pub fn read(
    text: &[u8],
    dialect: Dialect,
    labels: &[(String, String)],
    time: u64,
) -> Result<(Option<Vec<u8>>, Vec<(&'static str, u64)>), Fault> {
    let mut metrics = otlp::Metrics::new(labels, otlp::Honor::Target, time);
    family::read(text, dialect, |family| metrics.add(&family))?;
    let dropped = metrics.dropped().iter().map(|(reason, count)| (*reason, *count)).collect();
    Ok((metrics.finish(None), dropped))
}

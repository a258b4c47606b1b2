//! What receivers that fetch show.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use weir_model::Counter;
use weir_receiver::scrape::counts::{FailureKind, LateKind, ScrapeCounts};

use super::metrics::{counter, gauge};

/// Writes the families of all of them, by the receivers' ids.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, all: &[(String, ScrapeCounts)]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let of = |pick: fn(&ScrapeCounts) -> &Counter| {
        all.iter()
            .map(|(id, counts)| (vec![("receiver", id.clone())], pick(counts).get()))
            .collect::<Vec<_>>()
    };
    counter(encoder, "weir_scrapes", "Scrapes that have begun", of(|counts| &counts.scrapes))?;
    let mut rows = Vec::new();
    for (id, counts) in all {
        for kind in FailureKind::ALL {
            let labels = vec![("receiver", id.clone()), ("kind", kind.as_str().to_owned())];
            rows.push((labels, counts.failed(kind).get()));
        }
    }
    counter(encoder, "weir_scrapes_failed", "Scrapes that brought nothing of use", rows)?;
    let mut rows = Vec::new();
    for (id, counts) in all {
        for kind in LateKind::ALL {
            let labels = vec![("receiver", id.clone()), ("reason", kind.as_str().to_owned())];
            rows.push((labels, counts.late(kind).get()));
        }
    }
    counter(encoder, "weir_scrapes_skipped", "Scrapes that were due and did not begin", rows)?;
    counter(encoder, "weir_scrape_bytes", "Bytes of answers, decompressed", of(|counts| &counts.bytes))?;
    gauge(encoder, "weir_scrape_targets", "Targets now", of(|counts| &counts.targets))?;
    let help = "Addresses now that make no target, or are over the bound";
    gauge(encoder, "weir_scrape_targets_left_out", help, of(|counts| &counts.left_out))?;
    let help = "Files of targets now that cannot be used (see /health for the first)";
    gauge(encoder, "weir_scrape_files_broken", help, of(|counts| &counts.files_broken))
}

//! What the TLS of doors shows on the metrics page.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use weir_model::Counter;
use weir_model::count::TlsCounts;

use super::metrics::counter;

/// A row for each door with TLS.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[(&'static str, String, TlsCounts)],
) -> fmt::Result {
    let of = |pick: fn(&TlsCounts) -> &Counter| {
        let row = |(kind, id, counts): &(&'static str, String, TlsCounts)| {
            (vec![("kind", (*kind).to_owned()), ("id", id.clone())], pick(counts).get())
        };
        all.iter().map(row).collect::<Vec<_>>()
    };
    let help = "Handshakes that failed: no certificate or one that is not taken, no TLS at all, too slow";
    counter(encoder, "weir_tls_handshakes_failed", help, of(|counts| &counts.handshakes_failed))?;
    let help = "Connections cut because the certificate of their client expired or was revoked";
    counter(encoder, "weir_tls_connections_cut", help, of(|counts| &counts.connections_cut))
}

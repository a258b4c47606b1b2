//! Links that would quarrel with each other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::uri::Authority;
use weir_link::limits::LOGS_MAX;

use crate::config::{Config, Diagnostic, ExporterKind, Id, Kind, LinkExporter, Located, Problems};

/// What is wrong with links beside each other.
pub(super) fn check(config: &Config, problems: &Problems) {
    let mut known: BTreeMap<(String, Option<u16>), (&Id, &LinkExporter)> = BTreeMap::new();
    for (id, exporter) in &config.exporters {
        let Located { value, at } = exporter;
        let ExporterKind::Link(link) = &value.kind else { continue };
        if !config.uses(Kind::Exporter, id) {
            continue;
        }
        let uses = config.pipelines.values().filter(|p| p.exporters.iter().any(|used| used.value == *id));
        let pipelines = uses.count();
        if pipelines > LOGS_MAX {
            let message = format!("{pipelines} pipelines send over one link");
            let error = Diagnostic::error(*at, format!("exporters.{id}"), message);
            problems.push(
                error.label(format!("expected at most {LOGS_MAX}: give the others a link of their own")),
            );
        }
        let Some(authority) = link.endpoint.value.authority() else { continue };
        match known.get(&place(authority)) {
            None => drop(known.insert(place(authority), (id, link))),
            // The collector hears one stream of an agent, and ends the other.
            Some((first, other)) => {
                let message = format!("`{first}` and `{id}` send to one collector, as one agent");
                let path = format!("exporters.{id}.endpoint");
                let error = Diagnostic::error(link.endpoint.at, path, message);
                let error = error
                    .label(format!("expected `{first}` in all pipelines: one link carries them all"))
                    .other(other.endpoint.at, format!("`{first}` sends there"));
                let before = other.endpoint.value.authority().filter(|before| *before != authority);
                problems.push(match before {
                    Some(before) => error.note(format!("`{before}` and `{authority}` are one address")),
                    None => error,
                });
            }
        }
    }
}

/// Where an endpoint leads, the same for all ways in which one address can be written. Both loopbacks are one: a collector that
/// listens on both is far likelier than two collectors that share a port.
fn place(authority: &Authority) -> (String, Option<u16>) {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let host = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST)) => "localhost".to_owned(),
        Ok(ip) => ip.to_string(),
        Err(_) => host.to_owned(),
    };
    // As a number: `:055680` is `:55680`.
    (host, authority.port_u16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// What is said of two links with these endpoints.
    fn said(first: &str, second: &str) -> Vec<Diagnostic> {
        const TLS: &str = "tls: {ca_file: a, cert_file: b, key_file: c}";
        let text = format!(
            "receivers:
  otlp:
exporters:
  weir/a: {{endpoint: '{first}', {TLS}}}
  weir/b: {{endpoint: '{second}', {TLS}}}
service:
  pipelines:
    traces: {{receivers: [otlp], exporters: [weir/a]}}
    logs: {{receivers: [otlp], exporters: [weir/b]}}
"
        );
        let draft = config::parse("weir.yaml", &text, &|_| None).expect("it is YAML");
        let problems = Problems::after(Vec::new(), Vec::new());
        check(draft.config(), &problems);
        problems.take().0
    }

    /// Scenario: two links whose endpoints are one address, written in another way each.
    /// Guarantees: that is an error, which shows the lines of both.
    #[test]
    fn one_collector_is_known_by_all_its_spellings() {
        for (first, second) in [
            ("localhost:1", "localhost:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:1", "localhost:1"),
            ("127.0.0.1:1", "[0:0:0:0:0:0:0:1]:1"),
            ("[::ffff:127.0.0.1]:1", "LocalHost.:1"),
            ("collector.example:1", "Collector.Example.:1"),
            ("collector.example:1", "collector.example:00001"),
            ("[2001:db8::1]:1", "[2001:DB8:0::1]:1"),
        ] {
            let found = said(first, second);
            assert_eq!(found.len(), 1, "{first} {second}");
            let lines: Vec<u32> = found[0].others.iter().map(|(at, _)| at.line).collect();
            assert_eq!((found[0].at.line, lines), (5, vec![4]), "{first} {second}");
            assert_eq!(found[0].notes.is_empty(), first == second, "{:?}", found[0].notes);
        }
    }

    /// Scenario: two links whose endpoints differ in their port, their machine, or their loopback address.
    /// Guarantees: nothing is said.
    #[test]
    fn two_collectors_are_two() {
        for (first, second) in [
            ("localhost:1", "localhost:2"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("collector.example:1", "collector:1"),
            ("[2001:db8::1]:1", "[2001:db8::2]:1"),
        ] {
            assert!(said(first, second).is_empty(), "{first} {second}");
        }
    }
}

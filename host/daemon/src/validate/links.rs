//! Links that would quarrel with each other.

use std::collections::BTreeMap;

use weir_link::limits::LOGS_MAX;

use crate::config::{Config, Diagnostic, ExporterKind, Id, Kind, LinkExporter, Located, Problems};

/// What is wrong with links beside each other.
pub(super) fn check(config: &Config, problems: &Problems) {
    let mut known: BTreeMap<String, (&Id, &LinkExporter)> = BTreeMap::new();
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
        match known.get(authority.as_str()) {
            None => drop(known.insert(authority.to_string(), (id, link))),
            // The collector hears one stream of an agent, and ends the other.
            Some((first, other)) => {
                let message = format!("`{first}` and `{id}` send to one collector, as one agent");
                let path = format!("exporters.{id}.endpoint");
                let error = Diagnostic::error(link.endpoint.at, path, message);
                problems.push(
                    error
                        .label(format!("expected `{first}` in all pipelines: one link carries them all"))
                        .other(other.endpoint.at, format!("`{first}` sends there")),
                );
            }
        }
    }
}

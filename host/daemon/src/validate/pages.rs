//! Exporters that are fetched from: their addresses, and the keys that they have and that they have not.

use std::collections::BTreeMap;

use weir_plugin::Listener;

use super::{Binding, PluginFacts, Transport, plugin_endpoint};
use crate::config::listener::exposure;
use crate::config::{Config, Diagnostic, ExporterConfig, ExporterKind, Id, Kind, PluginExporter, Problems};

/// Exporters that are pages, with what their plugins say of themselves.
fn pages<'c>(
    config: &'c Config,
    facts: &'c BTreeMap<(Kind, Id), PluginFacts>,
) -> impl Iterator<Item = (&'c Id, &'c PluginExporter, &'c [Listener])> {
    plugins(config, facts).filter(|(.., listens)| !listens.is_empty())
}

fn plugins<'c>(
    config: &'c Config,
    facts: &'c BTreeMap<(Kind, Id), PluginFacts>,
) -> impl Iterator<Item = (&'c Id, &'c PluginExporter, &'c [Listener])> {
    config.exporters.iter().filter_map(|(id, exporter)| {
        let ExporterKind::Plugin(plugin) = &exporter.value.kind else { return None };
        let facts = facts.get(&(Kind::Exporter, id.clone()))?;
        Some((id, plugin, facts.listens.as_slice()))
    })
}

/// Adds what pages listen on to what listens.
pub(super) fn bindings(
    config: &Config,
    facts: &BTreeMap<(Kind, Id), PluginFacts>,
    bindings: &mut Vec<Binding>,
    problems: &Problems,
) {
    for (id, plugin, listens) in pages(config, facts) {
        let used = config.uses(Kind::Exporter, id);
        for listen in listens {
            let Some(endpoint) = plugin_endpoint(&plugin.plugin, listen, problems) else { continue };
            let path = plugin.plugin.settings.path(&listen.pointer);
            let of = path.strip_suffix(".endpoint").unwrap_or(&path);
            exposure(problems, of, &endpoint, &plugin.server_tls());
            if used {
                let what = format!("exporter `{id}`");
                let transport = Transport::of(listen.kind);
                bindings.push(Binding { what, transport, receiver: None, path, endpoint });
            }
        }
    }
}

/// Keys that would do nothing.
pub(super) fn keys(config: &Config, facts: &BTreeMap<(Kind, Id), PluginFacts>, problems: &Problems) {
    for (id, plugin, listens) in plugins(config, facts) {
        match listens {
            [_, ..] => of_page(id, plugin, &config.exporters[id].value, problems),
            [] => {
                let Some(written) = &plugin.page.written else { continue };
                let error = Diagnostic::error(written.at, &written.value, "this is for pages alone");
                let expected = format!("expected nothing: nobody fetches from exporter `{id}`");
                problems.push(error.label(expected));
            }
        }
    }
}

fn of_page(id: &Id, plugin: &PluginExporter, exporter: &ExporterConfig, problems: &Problems) {
    let at = plugin.plugin.plugin.at;
    let tls = &plugin.tls;
    let wrong = |at, key: &str, message: &str, expected: &str| {
        let path = format!("exporters.{id}.{key}");
        problems.push(Diagnostic::error(at, path, message).label(expected));
    };
    if let Some(file) = &tls.ca_file {
        let expected = "expected `client_ca_file`, or nothing: readers are told apart by their certificates";
        wrong(file.at, "tls.ca_file", "a page is fetched and fetches nothing", expected);
    }
    let has_files = tls.cert_file.is_some() && tls.key_file.is_some();
    let insecure = tls.insecure.as_ref();
    if let Some(insecure) = insecure.filter(|insecure| insecure.value && has_files) {
        let expected = "expected either `insecure: true` or files, not both";
        wrong(insecure.at, "tls.insecure", "TLS and plaintext at once", expected);
    }
    let asks = plugin.page.client_ca_file.as_ref().map(|file| file.at);
    let asks = asks.or(insecure.filter(|insecure| !insecure.value).map(|insecure| insecure.at));
    if let Some(at) = asks.filter(|_| !has_files) {
        let expected = "expected `cert_file` and `key_file`, or `insecure: true` for plaintext";
        wrong(at, "tls", "TLS without a certificate", expected);
    }
    if plugin.auth.is_some() {
        let expected =
            "expected nothing: readers are told apart by their certificates, `tls: {client_ca_file: …}`";
        wrong(at, "auth", "a page sends no requests that `auth` could be for", expected);
    }
    if exporter.delivery.pool != Default::default() {
        let expected = "expected nothing: one instance has all that is on the page";
        wrong(at, "pool", "a page has no pool", expected);
    }
}

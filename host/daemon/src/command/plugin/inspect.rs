//! `weir plugin inspect`: what a plugin is, what it wants, and what a configuration grants it.

use serde::Serialize;
use weir_plugin::scan::{ImportClass, Scan};
use weir_plugin::{Details, Encoding, Inspection, Powers};

use crate::assembly::grants;
use crate::command::say;
use crate::config::{Config, ExporterKind, Id, Kind};

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    plugin: &'a Inspection,
    /// What each configured id of it may do; none without a configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    configured: Option<Vec<Granted>>,
}

/// What a configured id of a plugin may do.
#[derive(Debug, Serialize)]
struct Granted {
    kind: &'static str,
    id: String,
    #[serde(flatten)]
    powers: Powers,
    /// What kind of credential the host adds to its requests, never which.
    auth: Option<&'static str>,
    /// Whether its requests trust an authority of their own.
    ca_file: bool,
    /// Whether they show a certificate.
    client_certificate: bool,
}

/// Shows it as text, or as JSON.
///
/// # Errors
/// Where it is no JSON: never in practice.
pub(super) fn show(plugin: &Inspection, config: Option<&Config>, json: bool) -> serde_json::Result<()> {
    let configured = config.map(|config| granted(plugin, config));
    if json {
        say(&serde_json::to_string_pretty(&Shown { plugin, configured })?);
        return Ok(());
    }
    let mut page = Page::default();
    head(&mut page, plugin);
    if let Some(scan) = plugin.scan() {
        outside(&mut page, scan);
    }
    if let Some(details) = &plugin.details {
        asked(&mut page, details);
    }
    if let (Some(ids), Some(config)) = (&configured, config) {
        ids_of(&mut page, ids, &plugin.name, &config.source.name);
    }
    if let Some(details) = &plugin.details {
        page.title("settings schema");
        let schema = serde_json::to_string_pretty(&details.descriptor.settings_schema)?;
        schema.lines().for_each(|line| page.line(line));
    }
    say(page.0.trim_end());
    Ok(())
}

fn granted(plugin: &Inspection, config: &Config) -> Vec<Granted> {
    let Some(details) = &plugin.details else { return Vec::new() };
    let ids = config.plugins().into_iter().filter(|(.., of)| of.plugin.value == plugin.name);
    ids.map(|(kind, id, of)| {
        let (auth, ca_file, client_certificate) = protection(config, kind, id);
        Granted {
            kind: kind.noun(),
            id: id.to_string(),
            powers: details.powers(&of.settings.value, &grants(&of.grants)),
            auth,
            ca_file,
            client_certificate,
        }
    })
    .collect()
}

fn protection(config: &Config, kind: Kind, id: &Id) -> (Option<&'static str>, bool, bool) {
    let exporter = match kind {
        Kind::Exporter => config.exporters.get(id).map(|exporter| &exporter.value.kind),
        Kind::Receiver | Kind::Processor => None,
    };
    match exporter {
        Some(ExporterKind::Plugin(exporter)) => {
            let auth = exporter.auth.as_ref().map(crate::config::Auth::words);
            (auth, exporter.tls.ca_file.is_some(), exporter.tls.cert_file.is_some())
        }
        Some(ExporterKind::Otlp(_) | ExporterKind::Debug(_) | ExporterKind::Link(_)) | None => {
            (None, false, false)
        }
    }
}

/// Lines for a person.
#[derive(Default)]
struct Page(String);

/// Columns of the words before what they say.
const WORD_COLUMNS: usize = 12;

impl Page {
    fn title(&mut self, title: &str) {
        self.0.push_str(&format!("\n{title}\n"));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(&format!("  {text}\n"));
    }

    fn fact(&mut self, word: &str, text: &str) {
        self.line(&format!("{word:WORD_COLUMNS$} {text}"));
    }

    /// The word once, then one line for each.
    fn facts(&mut self, word: &str, texts: impl IntoIterator<Item = String>) {
        for (index, text) in texts.into_iter().enumerate() {
            self.fact(if index == 0 { word } else { "" }, &text);
        }
    }
}

fn head(page: &mut Page, plugin: &Inspection) {
    match &plugin.details {
        Some(details) => {
            let descriptor = &details.descriptor;
            page.0.push_str(&format!("{} {}\n", plugin.name, descriptor.version));
            page.line(&descriptor.description);
        }
        None => page.0.push_str(&format!("{}\n", plugin.name)),
    }
    page.0.push('\n');
    if let Some(error) = &plugin.error {
        page.fact("unusable", error);
    }
    if plugin.details.is_some() || plugin.outside.is_some() {
        let shadows = if plugin.shadows { ", in front of the bundled one" } else { "" };
        page.fact("from", &format!("{}{shadows}", plugin.source));
    }
    if let Some(bytes) = plugin.bytes() {
        page.fact("size", &format!("{bytes} bytes"));
    }
    if let Some(digest) = plugin.digest() {
        page.fact("sha256", &digest.to_string());
    }
    page.fact("contract", &format!("this host serves weir:plugin {}.x", plugin.contract));
    if let Some(details) = &plugin.details {
        let descriptor = &details.descriptor;
        if descriptor.name != plugin.name {
            page.fact("calls itself", &descriptor.name);
        }
        let signals: Vec<&str> = descriptor.signals.iter().map(|signal| signal.name()).collect();
        let encoding = match descriptor.encoding {
            Encoding::Protobuf => "OTLP as protobuf",
            Encoding::Json => "OTLP as JSON",
        };
        page.fact("signals", &format!("{}, {encoding}", signals.join(", ")));
    }
}

fn outside(page: &mut Page, scan: &Scan) {
    page.facts("made with", scan.producers.iter().map(|producer| producer.trim_end().to_owned()));
    page.title("exports");
    scan.exports.iter().for_each(|name| page.line(name));
    if scan.exports.is_empty() {
        page.line("nothing");
    }
    page.title("imports");
    if scan.imports.is_empty() {
        page.line("nothing");
    }
    for class in ImportClass::ALL {
        let names: Vec<&str> = scan
            .imports
            .iter()
            .filter(|import| import.class == class)
            .map(|import| import.name.as_str())
            .collect();
        if !names.is_empty() {
            page.line(class.words());
            names.iter().for_each(|name| page.line(&format!("  {name}")));
        }
    }
}

fn asked(page: &mut Page, details: &Details) {
    let marks = &details.marks;
    page.title("asks for");
    page.facts("to send to", marks.egress.iter().map(|path| format!("the URL in {path}")));
    page.facts("secrets", marks.secret.iter().map(|path| format!("{path}, which it does not see")));
    let listens = marks.listen.iter().map(|mark| {
        let default = mark.default_address().map(|address| format!(", else {address}")).unwrap_or_default();
        format!("{} at the address in {}{default}", mark.kind().name(), mark.path())
    });
    page.facts("to listen", listens);
    if marks.egress.is_empty() && marks.secret.is_empty() && marks.listen.is_empty() {
        page.line("nothing");
    }
}

fn ids_of(page: &mut Page, ids: &[Granted], name: &str, file: &str) {
    page.title(&format!("granted in {file}"));
    if ids.is_empty() {
        page.line(&format!("no id is served by {name}"));
    }
    for Granted { kind, id, powers, auth, ca_file, client_certificate } in ids {
        page.line(&format!("{kind} {id}"));
        let Powers { egress, private_networks, secrets, listeners, errors } = powers;
        page.facts("  unusable", errors.iter().cloned());
        match egress.is_empty() {
            true => page.fact("  sends to", "nothing"),
            false => page.facts("  sends to", egress.iter().cloned()),
        }
        if !egress.is_empty() {
            let networks = if *private_networks { "reachable" } else { "denied" };
            page.fact("  private", &format!("networks are {networks}"));
        }
        page.facts("  secrets", secrets.iter().map(|pointer| format!("{pointer} is set")));
        page.facts(
            "  listens",
            listeners.iter().map(|listener| format!("{} {}", listener.kind.name(), listener.address)),
        );
        page.facts("  auth", auth.map(str::to_owned));
        page.facts("  tls", ca_file.then(|| "trusts the authorities of ca_file alone".to_owned()));
        page.facts("  tls", client_certificate.then(|| "shows a certificate".to_owned()));
    }
}

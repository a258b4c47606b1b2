//! What a plugin says about itself: its descriptor, the schema of its settings and the marks in it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use weir_model::Signal;

/// Bytes of a settings schema: hand-written ones are a few thousand.
const SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the other texts of a descriptor.
const TEXT_BYTES_MAX: usize = 1024;

/// How deep settings may nest.
const DEPTH_MAX: usize = 16;

/// Places that a schema unfolds to: references make trees out of small texts.
const NODES_MAX: usize = 10_000;

/// Marked places in one schema.
const MARKS_MAX: usize = 256;

/// Findings in one operator's settings that are reported at once.
const FINDINGS_MAX: usize = 64;

/// In which form a plugin takes batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// OTLP protobuf, as it lies in the queue.
    Protobuf,
    /// OTLP/JSON, converted by the host.
    Json,
}

/// What a plugin says about itself.
#[derive(Debug, Clone, Serialize)]
pub struct Descriptor {
    /// Its name.
    pub name: String,
    /// Its version, in its author's manner.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// The signals that it takes or makes; ones that this host does not know are left out.
    #[serde(serialize_with = "signal_names")]
    pub signals: Vec<Signal>,
    /// In which form it takes batches.
    pub encoding: Encoding,
    /// JSON Schema of its settings.
    pub settings_schema: Value,
}

fn signal_names<S: serde::Serializer>(signals: &[Signal], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(signals.iter().map(|signal| signal.name()))
}

/// The descriptor is not usable; the plugin's author must act.
#[derive(Debug, thiserror::Error)]
#[error("its descriptor is not valid: {0}")]
pub struct DescriptorError(pub(crate) String);

impl Descriptor {
    /// Checks what a guest said.
    pub(crate) fn check(
        said: crate::v1::exports::weir::plugin::plugin::Descriptor,
    ) -> Result<Self, DescriptorError> {
        use crate::v1::weir::plugin::telemetry as wit;
        for (what, text) in
            [("name", &said.name), ("version", &said.version), ("description", &said.description)]
        {
            if text.len() > TEXT_BYTES_MAX {
                return Err(DescriptorError(format!(
                    "{what} has {} bytes, at most {TEXT_BYTES_MAX} fit",
                    text.len()
                )));
            }
        }
        if said.settings_schema.len() > SCHEMA_BYTES_MAX {
            let bytes = said.settings_schema.len();
            return Err(DescriptorError(format!(
                "settings-schema has {bytes} bytes, at most {SCHEMA_BYTES_MAX} fit"
            )));
        }
        let settings_schema: Value = serde_json::from_str(&said.settings_schema)
            .map_err(|error| DescriptorError(format!("settings-schema is not JSON: {error}")))?;
        let mut signals = Vec::new();
        for signal in said.signals.into_iter().take(16) {
            let known = match signal {
                wit::Signal::Traces => Signal::Traces,
                wit::Signal::Metrics => Signal::Metrics,
                wit::Signal::Logs => Signal::Logs,
                wit::Signal::Profiles => continue,
            };
            if !signals.contains(&known) {
                signals.push(known);
            }
        }
        let encoding = match said.encoding {
            wit::Encoding::Protobuf => Encoding::Protobuf,
            wit::Encoding::Json => Encoding::Json,
        };
        let tame = |text: &str| crate::words::tame(text, TEXT_BYTES_MAX);
        Ok(Self {
            name: tame(&said.name),
            version: tame(&said.version),
            description: tame(&said.description),
            signals,
            encoding,
            settings_schema,
        })
    }
}

/// Something is wrong with an operator's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingsError {
    /// JSON pointer into the settings; empty means the whole.
    pub pointer: String,
    /// What was expected.
    pub message: String,
}

/// Settings against the schema of a plugin.
pub(crate) struct Schema(jsonschema::Validator);

impl Schema {
    /// Compiles a schema. It can refer to nothing outside itself, and its patterns run in linear time.
    pub(crate) fn compile(schema: &Value) -> Result<Self, DescriptorError> {
        let options =
            jsonschema::options().offline().with_pattern_options(jsonschema::PatternOptions::regex());
        let compiled = options.build(schema);
        compiled
            .map(Self)
            .map_err(|error| DescriptorError(format!("settings-schema is not a JSON Schema: {error}")))
    }

    /// Everything that is wrong with `settings`, without showing what stands at a place marked secret.
    pub(crate) fn check(&self, marks: &Marks, settings: &Value) -> Vec<SettingsError> {
        let secrets = marks.secrets(settings);
        let hidden = marks.hidden(settings);
        let errors = self.0.iter_errors(settings).take(FINDINGS_MAX);
        let mut found: Vec<SettingsError> = errors
            .map(|error| {
                let pointer = error.instance_path().as_str().to_owned();
                let hides =
                    |secret: &String| *secret == pointer || secret.starts_with(&format!("{pointer}/"));
                // A composite's message prints the value, and with it what lies below.
                let message = if hidden.iter().any(hides) {
                    error.masked_with("…").to_string()
                } else {
                    error.to_string()
                };
                SettingsError { pointer, message: crate::words::tame(&message, TEXT_BYTES_MAX) }
            })
            .collect();
        // Only texts at their places become tokens: the guest would see anything else.
        for pointer in hidden {
            let at_its_place = secrets.contains(&pointer);
            let token = matches!(settings.pointer(&pointer), Some(Value::String(_) | Value::Null) | None);
            let stands = at_its_place && token;
            if !stands && !found.iter().any(|error| error.pointer == pointer) {
                let message = if at_its_place {
                    "a secret is a text: put it in quotes"
                } else {
                    "a secret belongs below"
                };
                found.push(SettingsError { pointer, message: message.to_owned() });
            }
        }
        found
    }
}

/// A place in settings, as a schema describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Path(Vec<Step>);

/// As a JSON pointer, `*` for each item of a list or map.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| match step {
            Step::Key(key) => write!(f, "/{}", escape(key)),
            Step::Each => f.write_str("/*"),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Step {
    /// A property.
    Key(String),
    /// Each item of a list, or each value of a map.
    Each,
}

impl Path {
    /// Every value at this place, with its JSON pointer.
    pub(crate) fn find<'a>(&self, settings: &'a Value) -> Vec<(String, &'a Value)> {
        let mut found = vec![(String::new(), settings)];
        for step in &self.0 {
            let mut deeper = Vec::new();
            for (pointer, value) in found {
                match (step, value) {
                    (Step::Key(key), Value::Object(map)) => {
                        deeper
                            .extend(map.get(key).map(|value| (format!("{pointer}/{}", escape(key)), value)));
                    }
                    (Step::Each, Value::Array(list)) => {
                        let items = list.iter().enumerate();
                        deeper.extend(items.map(|(index, value)| (format!("{pointer}/{index}"), value)));
                    }
                    (Step::Each, Value::Object(map)) => {
                        deeper.extend(
                            map.iter().map(|(key, value)| (format!("{pointer}/{}", escape(key)), value)),
                        );
                    }
                    // Settings that do not have the schema's shape have nothing at this place.
                    (Step::Key(_) | Step::Each, _) => (),
                }
            }
            found = deeper;
        }
        found
    }

    /// Pointers of values that stand in the way to this place: a text where a mapping is expected, say. What the operator
    /// meant for this place may be in them.
    fn astray(&self, settings: &Value) -> Vec<String> {
        let mut astray = Vec::new();
        for (depth, step) in self.0.iter().enumerate() {
            let before = Self(self.0[..depth].to_vec());
            for (pointer, value) in before.find(settings) {
                let fits = match (step, value) {
                    (_, Value::Null) | (Step::Each, Value::Array(_)) | (_, Value::Object(_)) => true,
                    (Step::Each, _) | (Step::Key(_), _) => false,
                };
                if !fits {
                    astray.push(pointer);
                }
            }
        }
        astray
    }
}

/// A key inside a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What kind of socket the host binds for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenKind {
    /// Requests go to `http-receiver`.
    Http,
    /// Unary calls go to `grpc-receiver`.
    Grpc,
    /// Datagrams go to `datagram-receiver`.
    Udp,
}

impl ListenKind {
    /// What a person reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Udp => "udp",
        }
    }
}

/// A setting that holds an address for the host to bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenMark {
    path: Path,
    kind: ListenKind,
    name: String,
    /// The schema's `default`, for settings that do not say.
    default: Option<String>,
}

impl ListenMark {
    /// The setting.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is spoken there.
    pub fn kind(&self) -> ListenKind {
        self.kind
    }

    /// JSON pointer of the setting, where it is not an item of a list or a map.
    pub fn pointer(&self) -> Option<String> {
        let steps = self.path.0.iter().map(|step| match step {
            Step::Key(key) => Some(format!("/{}", escape(key))),
            Step::Each => None,
        });
        steps.collect()
    }

    /// The schema's default, for settings that do not say.
    pub fn default_address(&self) -> Option<&str> {
        self.default.as_deref()
    }
}

/// An address that the host binds for a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// What the plugin is told with each message: the mark's name.
    pub name: String,
    /// What is spoken there.
    pub kind: ListenKind,
    /// `host:port`, as the operator or the schema's default says.
    pub address: String,
    /// JSON pointer of the setting, for error messages; empty where the default holds.
    pub pointer: String,
}

/// What `x-weir` says in a schema.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// URLs: writing one grants it.
    pub egress: Vec<Path>,
    /// Strings that the guest sees as tokens.
    pub secret: Vec<Path>,
    /// Addresses that the host binds.
    pub listen: Vec<ListenMark>,
}

impl Marks {
    /// Reads the marks of a schema: in `properties`, `items`, `additionalProperties`, and through `allOf`, `anyOf`,
    /// `oneOf`, `then`, `else`, and `$ref` into the schema itself.
    ///
    /// # Errors
    /// [`DescriptorError`] where a mark is not one that the host knows: it would fail open.
    pub fn read(schema: &Value) -> Result<Self, DescriptorError> {
        let mut marks = Self::default();
        let mut nodes = 0;
        marks.walk(schema, schema, &mut Vec::new(), 0, &mut nodes)?;
        Ok(marks)
    }

    fn walk(
        &mut self,
        root: &Value,
        schema: &Value,
        at: &mut Vec<Step>,
        depth: usize,
        nodes: &mut usize,
    ) -> Result<(), DescriptorError> {
        let Value::Object(schema) = schema else {
            return Ok(());
        };
        *nodes += 1;
        if *nodes > NODES_MAX {
            return Err(DescriptorError(format!("settings-schema unfolds to more than {NODES_MAX} places")));
        }
        if depth > DEPTH_MAX {
            return Err(DescriptorError(format!(
                "settings-schema nests deeper than {DEPTH_MAX}, or refers to itself"
            )));
        }
        if let Some(mark) = schema.get("x-weir") {
            self.mark(mark, schema.get("default"), at)?;
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            let target = target.ok_or_else(|| {
                DescriptorError(format!("settings-schema refers to {reference}, which it does not hold"))
            })?;
            self.walk(root, target, at, depth + 1, nodes)?;
        }
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (key, property) in properties {
                at.push(Step::Key(key.clone()));
                self.walk(root, property, at, depth + 1, nodes)?;
                at.pop();
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(each) = schema.get(key) {
                at.push(Step::Each);
                self.walk(root, each, at, depth + 1, nodes)?;
                at.pop();
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for branch in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.walk(root, branch, at, depth + 1, nodes)?;
            }
        }
        for key in ["then", "else"] {
            if let Some(branch) = schema.get(key) {
                self.walk(root, branch, at, depth + 1, nodes)?;
            }
        }
        no_mark_is_missed(schema)
    }

    fn mark(&mut self, mark: &Value, default: Option<&Value>, at: &[Step]) -> Result<(), DescriptorError> {
        if self.egress.len() + self.secret.len() + self.listen.len() >= MARKS_MAX {
            return Err(DescriptorError(format!("settings-schema has more than {MARKS_MAX} marks")));
        }
        let path = Path(at.to_vec());
        match mark {
            Value::String(word) if word == "egress" => self.egress.push(path),
            Value::String(word) if word == "secret" => self.secret.push(path),
            Value::Object(map) if map.contains_key("listen") => {
                let kind = match map.get("listen").and_then(Value::as_str) {
                    Some("http") => ListenKind::Http,
                    Some("grpc") => ListenKind::Grpc,
                    Some("udp") => ListenKind::Udp,
                    Some(_) | None => return Err(unknown(mark)),
                };
                let name = map.get("name").and_then(Value::as_str).map(str::to_owned);
                let name = name.or_else(|| match at.last() {
                    Some(Step::Key(key)) => Some(key.clone()),
                    Some(Step::Each) | None => None,
                });
                let name = name.ok_or_else(|| unknown(mark))?;
                let default = default.and_then(Value::as_str).map(str::to_owned);
                self.listen.push(ListenMark { path, kind, name, default });
            }
            _ => return Err(unknown(mark)),
        }
        Ok(())
    }

    /// JSON pointers of what nobody may be shown of these settings: secrets, and what stands in their way.
    pub fn hidden(&self, settings: &Value) -> Vec<String> {
        let astray = self.secret.iter().flat_map(|path| path.astray(settings));
        self.secrets(settings).into_iter().chain(astray).collect()
    }

    /// JSON pointers of what is secret in these settings.
    pub fn secrets(&self, settings: &Value) -> Vec<String> {
        self.secret.iter().flat_map(|path| path.find(settings)).map(|(pointer, _)| pointer).collect()
    }

    /// The addresses to bind for these settings.
    pub fn listeners(&self, settings: &Value) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for mark in &self.listen {
            let written = mark.path.find(settings);
            let written =
                written.iter().filter_map(|(pointer, value)| Some((pointer.clone(), value.as_str()?)));
            let mut found: Vec<(String, &str)> = written.collect();
            if found.is_empty() {
                found.extend(mark.default.as_deref().map(|address| (String::new(), address)));
            }
            for (pointer, address) in found {
                listeners.push(Listener {
                    name: mark.name.clone(),
                    kind: mark.kind,
                    address: address.to_owned(),
                    pointer,
                });
            }
        }
        listeners
    }
}

/// Where marks are looked for, or where a mark would mean nothing: definitions count where they are referred to.
const WALKED: [&str; 15] = [
    "properties",
    "items",
    "additionalProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "then",
    "else",
    "$ref",
    "$defs",
    "definitions",
    "default",
    "examples",
    "enum",
    "const",
];

/// A mark that is not found would be a secret that the guest sees: a schema with one in another place is refused.
fn no_mark_is_missed(schema: &serde_json::Map<String, Value>) -> Result<(), DescriptorError> {
    for (key, value) in schema {
        let walked = WALKED.contains(&key.as_str()) && !(key == "items" && value.is_array());
        let refers = matches!(key.as_str(), "$dynamicRef" | "$recursiveRef");
        if refers || (!walked && holds_mark(value)) {
            return Err(DescriptorError(format!(
                "settings-schema has {key:?} where no x-weir mark would be found: say it with properties, items or \
                 additionalProperties"
            )));
        }
    }
    Ok(())
}

/// As deep as JSON is read at all: 128 levels.
fn holds_mark(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("x-weir") || map.values().any(holds_mark),
        Value::Array(list) => list.iter().any(holds_mark),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn unknown(mark: &Value) -> DescriptorError {
    let mark = crate::words::tame(&mark.to_string(), 200);
    DescriptorError(format!(
        "x-weir: expected \"egress\", \"secret\" or {{\"listen\": \"http\" | \"grpc\" | \"udp\", \"name\": …}}, found {mark}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["endpoint"],
            "properties": {
                "endpoint": {"type": "string", "x-weir": {"listen": "http", "name": "main"}, "default": "127.0.0.1:9411"},
                "protocols": {"type": "object", "properties": {
                    "compact": {"type": "object", "properties": {
                        "endpoint": {"type": "string", "x-weir": {"listen": "udp", "name": "compact"}},
                    }},
                }},
                "timeout": {"$ref": "#/$defs/timeout"},
                "key": {"type": "string", "minLength": 20, "x-weir": "secret"},
            },
            "$defs": {"timeout": {"type": "integer", "minimum": 1}},
        })
    }

    /// Scenario: settings with an unknown key, a wrong type inside, a missing key, and a short secret.
    /// Guarantees: every finding has its JSON pointer, and a secret is not printed.
    #[test]
    fn findings_have_pointers_and_no_secrets() {
        let schema = schema();
        let marks = Marks::read(&schema).unwrap();
        let compiled = Schema::compile(&schema).unwrap();
        let settings = json!({"endpint": "x", "timeout": 0, "key": "hunter2"});
        let mut found = compiled.check(&marks, &settings);
        found.sort_by(|a, b| a.pointer.cmp(&b.pointer).then(a.message.cmp(&b.message)));
        let pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["", "", "/key", "/timeout"], "{found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        assert!(compiled.check(&marks, &json!({"endpoint": "127.0.0.1:0"})).is_empty());
    }

    /// Scenario: a schema without a type where a secret is marked, and settings with a number, an object and a text there.
    /// Guarantees: only the text is taken, for only a text becomes a token; no message shows the others.
    #[test]
    fn a_secret_that_is_no_text_is_refused() {
        let schema = json!({"properties": {"key": {"x-weir": "secret"}}});
        let (marks, compiled) = (Marks::read(&schema).unwrap(), Schema::compile(&schema).unwrap());
        for wrong in [json!(4711), json!({"inner": "4711"}), json!(["4711"])] {
            let found = compiled.check(&marks, &json!({"key": wrong}));
            assert_eq!(found[0].pointer, "/key");
            assert!(!format!("{found:?}").contains("4711"), "{found:?}");
        }
        assert!(compiled.check(&marks, &json!({"key": "4711"})).is_empty());
        let schema = json!({"properties": {"headers": {"additionalProperties": {"type": "string", "x-weir": "secret"}}}});
        let (marks, compiled) = (Marks::read(&schema).unwrap(), Schema::compile(&schema).unwrap());
        let settings = json!({"headers": "4711"});
        assert_eq!(marks.hidden(&settings), ["/headers"]);
        let found = compiled.check(&marks, &settings);
        assert_eq!(
            (found[0].pointer.as_str(), found[0].message.as_str()),
            ("/headers", "a secret belongs below")
        );
        assert!(compiled.check(&marks, &json!({"headers": {"a": "4711"}})).is_empty());
    }

    /// Scenario: marks under keywords that are not walked: patterns, tuples, conditions, dynamic references.
    /// Guarantees: the schema is refused, for such a mark would be a secret that the guest sees.
    #[test]
    fn a_mark_that_would_be_missed_is_refused() {
        let secret = json!({"type": "string", "x-weir": "secret"});
        for schema in [
            json!({"patternProperties": {"^k": secret}}),
            json!({"properties": {"list": {"prefixItems": [secret]}}}),
            json!({"properties": {"list": {"items": [secret]}}}),
            json!({"if": {"properties": {"key": secret}}}),
            json!({"dependentSchemas": {"a": {"properties": {"key": secret}}}}),
            json!({"$dynamicRef": "#node"}),
        ] {
            let error = Marks::read(&schema).unwrap_err().to_string();
            assert!(error.contains("no x-weir mark would be found"), "{schema}: {error}");
        }
        let fine = json!({"$defs": {"key": secret}, "properties": {"key": {"$ref": "#/$defs/key"}}, "if": {"required": ["key"]}});
        assert_eq!(Marks::read(&fine).unwrap().secret.len(), 1);
    }

    /// Scenario: an address that was written, one from the schema's default, one that is absent.
    /// Guarantees: exactly the written and default ones are to be bound, under the marks' names.
    #[test]
    fn listeners_come_from_the_settings_or_the_default() {
        let marks = Marks::read(&schema()).unwrap();
        let settings = json!({"protocols": {"compact": {"endpoint": "127.0.0.1:6831"}}});
        let listeners = marks.listeners(&settings);
        let shown: Vec<String> = listeners
            .iter()
            .map(|l| format!("{} {:?} {} {}", l.name, l.kind, l.address, l.pointer))
            .collect();
        assert_eq!(marks.listen[1].pointer().as_deref(), Some("/protocols/compact/endpoint"));
        assert_eq!(marks.listen[0].default_address(), Some("127.0.0.1:9411"));
        assert_eq!(
            shown,
            ["main Http 127.0.0.1:9411 ", "compact Udp 127.0.0.1:6831 /protocols/compact/endpoint"]
        );
    }

    /// Scenario: a mark with a typo, a reference to nowhere, a schema that refers to itself.
    /// Guarantees: each is an error, not a silent absence of a power or a hang.
    #[test]
    fn a_mark_that_nobody_knows_is_an_error() {
        let marked = |mark: Value| Marks::read(&json!({"properties": {"a": {"x-weir": mark}}}));
        assert!(marked(json!("secrt")).is_err());
        assert!(marked(json!({"listen": "tcp"})).is_err());
        assert!(marked(json!(["secret"])).is_err());
        assert!(Marks::read(&json!({"$ref": "#/nowhere"})).is_err());
        assert!(Marks::read(&json!({"properties": {"a": {"$ref": "#"}}})).is_err());
    }
}

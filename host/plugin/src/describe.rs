//! What a plugin says about itself: its descriptor, the schema of its settings and the marks in it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use weir_model::Signal;

use crate::schema::Unfolded;
use crate::words::tame;

/// Bytes of a settings schema: hand-written ones are a few thousand.
const SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the other texts of a descriptor, and of what an error says of it.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;

/// How deep settings may nest.
const DEPTH_MAX: usize = 16;

/// Marked places in one schema.
const MARKS_MAX: usize = 256;

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
        let tame = |text: &str| tame(text, TEXT_BYTES_MAX);
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

    /// How often a schema's default holds at this place: where what holds the setting is written and does not say it, a
    /// null as well; and once where nothing is written under the first key, for who names none of some doors means all.
    fn defaults(&self, settings: &Value) -> usize {
        let Some((last, before)) = self.0.split_last() else { return usize::from(!settings.is_string()) };
        let Step::Key(last) = last else { return 0 };
        if let Some(Step::Key(first)) = before.first()
            && settings.get(first).is_none()
        {
            // A list or a map that is not there has no items.
            return usize::from(!before.contains(&Step::Each));
        }
        let holders = Self(before.to_vec());
        let lacks = |value: &Value| match value {
            Value::Null => true,
            Value::Object(map) => map.get(last).is_none_or(Value::is_null),
            // Settings that do not have the schema's shape.
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
        };
        holders.find(settings).into_iter().filter(|(_, value)| lacks(value)).count()
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

    /// The interface of the contract that takes what arrives there.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Http => "http-receiver",
            Self::Grpc => "grpc-receiver",
            Self::Udp => "datagram-receiver",
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

    /// What the plugin is told with each message.
    pub fn name(&self) -> &str {
        &self.name
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
        Self::unfold(schema).map(|(marks, _)| marks)
    }

    /// The marks, and what the schema comes to with its references unfolded.
    pub(crate) fn unfold(schema: &Value) -> Result<(Self, Unfolded<'_>), DescriptorError> {
        let (mut marks, mut unfolded) = (Self::default(), Unfolded::default());
        one_document(schema, true, names_by_id(schema))?;
        marks.walk(schema, schema, &mut Vec::new(), 0, &mut unfolded)?;
        Ok((marks, unfolded))
    }

    fn walk<'a>(
        &mut self,
        root: &'a Value,
        schema: &'a Value,
        at: &mut Vec<Step>,
        depth: usize,
        unfolded: &mut Unfolded<'a>,
    ) -> Result<(), DescriptorError> {
        let Value::Object(schema) = schema else {
            return Ok(());
        };
        unfolded.place()?;
        if depth > DEPTH_MAX {
            return Err(DescriptorError(format!(
                "settings-schema nests deeper than {DEPTH_MAX}, or refers to itself"
            )));
        }
        if let Some(mark) = schema.get("x-weir") {
            self.mark(mark, schema.get("default"), at)?;
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            // A validator reads `%2F` as `/`: the same text must not mean two places.
            let pointer = reference.strip_prefix('#').filter(|pointer| !pointer.contains('%'));
            let target = pointer.and_then(|pointer| root.pointer(pointer)).ok_or_else(|| {
                let reference = tame(reference, TEXT_BYTES_MAX);
                DescriptorError(format!("settings-schema refers to {reference}, which it does not hold"))
            })?;
            self.walk(root, target, at, depth + 1, unfolded)?;
        }
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (key, property) in properties {
                at.push(Step::Key(key.clone()));
                self.walk(root, property, at, depth + 1, unfolded)?;
                at.pop();
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(each) = schema.get(key) {
                at.push(Step::Each);
                self.walk(root, each, at, depth + 1, unfolded)?;
                at.pop();
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for branch in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.walk(root, branch, at, depth + 1, unfolded)?;
            }
        }
        for key in ["then", "else"] {
            if let Some(branch) = schema.get(key) {
                self.walk(root, branch, at, depth + 1, unfolded)?;
            }
        }
        unfolded.keywords(schema)
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

    /// JSON pointers of the URLs that these settings say the plugin sends to.
    pub fn destinations(&self, settings: &Value) -> Vec<String> {
        self.egress.iter().flat_map(|path| path.find(settings)).map(|(pointer, _)| pointer).collect()
    }

    /// The addresses to bind for these settings. A schema's default counts where what holds the setting is written
    /// (`thrift_http:` with nothing is written), or where nothing is under the first key of its place.
    pub fn listeners(&self, settings: &Value) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for mark in &self.listen {
            let written = mark.path.find(settings);
            let written =
                written.iter().filter_map(|(pointer, value)| Some((pointer.clone(), value.as_str()?)));
            let mut found: Vec<(String, &str)> = written.collect();
            if let Some(default) = &mark.default {
                let times = mark.path.defaults(settings);
                found.extend((0..times).map(|_| (String::new(), default.as_str())));
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

/// Whether the schema's draft names a part of it with `id`, as draft 4 did; later ones do with `$id` only.
fn names_by_id(schema: &Value) -> bool {
    schema.get("$schema").and_then(Value::as_str).is_some_and(|draft| draft.contains("draft-04"))
}

/// A part with a name of its own is a document of its own to a validator: `#/…` in it means another place than here.
/// As deep as JSON is read at all: 128 levels.
fn one_document(value: &Value, is_root: bool, ids: bool) -> Result<(), DescriptorError> {
    match value {
        Value::Object(map) => {
            let names = ["$id", "$schema", "id"].into_iter().filter(|key| ids || *key != "id");
            let mut named = names.filter(|key| map.get(*key).is_some_and(Value::is_string));
            if !is_root && let Some(key) = named.next() {
                return Err(DescriptorError(format!(
                    "settings-schema has {key:?} in a part of it: only the whole may have one, for references are \
                     read from there"
                )));
            }
            map.values().try_for_each(|value| one_document(value, false, ids))
        }
        Value::Array(list) => list.iter().try_for_each(|value| one_document(value, false, ids)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn unknown(mark: &Value) -> DescriptorError {
    let mark = tame(&mark.to_string(), 200);
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

    /// Scenario: doors below one key, each with a default, of which the operator writes none, some, one with nothing in
    /// it, one in a map of another shape; and a list of doors.
    /// Guarantees: who writes nothing gets all of them at their defaults; who writes some gets these and no others; a
    /// setting at the top has its default whenever it is absent.
    #[test]
    fn a_default_counts_where_its_door_is_written() {
        let door = |kind: &str, default: &str| {
            let listen = json!({"type": "string", "default": default, "x-weir": {"listen": kind}});
            json!({"type": ["object", "null"], "properties": {"endpoint": listen}})
        };
        let doors =
            json!({"compact": door("udp", "a:1"), "http": door("http", "a:2"), "grpc": door("grpc", "a:3")});
        let schema = json!({"properties": {
            "protocols": {"properties": doors},
            "doors": {"items": door("http", "a:4")},
            "endpoint": {"type": "string", "default": "a:5", "x-weir": {"listen": "http"}},
        }});
        let marks = Marks::read(&schema).unwrap();
        let all = "a:1 a:2 a:3 a:5";
        for (settings, expected) in [
            (json!(null), all),
            (json!({}), all),
            (json!({"endpoint": "b:1"}), "a:1 a:2 a:3 b:1"),
            (json!({"endpoint": null}), all),
            (json!({"protocols": {"http": {}}}), "a:2 a:5"),
            (json!({"protocols": {"http": null}}), "a:2 a:5"),
            (json!({"protocols": {"http": {"endpoint": null}, "grpc": {"endpoint": "b:2"}}}), "b:2 a:2 a:5"),
            (json!({"protocols": {}}), "a:5"),
            (json!({"protocols": null}), "a:5"),
            (json!({"protocols": {"http": "b:3"}}), "a:5"),
            (json!({"protocols": {}, "doors": [{}, {"endpoint": "b:4"}]}), "a:5 b:4 a:4"),
        ] {
            let mut bound: Vec<String> =
                marks.listeners(&settings).into_iter().map(|listener| listener.address).collect();
            let mut expected: Vec<&str> = expected.split(' ').collect();
            bound.sort_unstable();
            expected.sort_unstable();
            assert_eq!(bound, expected, "{settings}");
        }
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

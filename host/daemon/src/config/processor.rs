//! `processors:` what happens between receiving and handing on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::location::Located;
use super::section::{Field, Hints, Section, describe};
use super::tree::{Node, Value};
use super::{Id, Kind};

/// One processor.
#[derive(Debug, Clone, PartialEq)]
pub enum ProcessorConfig {
    /// `batch`.
    Batch(BatchConfig),
    /// `resource`.
    Resource(ResourceConfig),
}

/// `batch:` how much is handed to a backend at once. Nothing waits for it before its sender is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchConfig {
    /// `items`: spans, data points or log records that are joined at most. 8,192.
    pub items: u32,
    /// `bytes`: bytes of OTLP that are joined at most. 512 KiB: past it a larger request is no cheaper, and gRPC servers
    /// take 4 MiB.
    pub bytes: u64,
    /// `timeout`: how long a batch that is not full waits for more before it is handed on. 200 ms.
    pub timeout: Duration,
}

impl BatchConfig {
    /// What holds without the processor: joined as it lies there, and nothing waits.
    pub fn without_waiting() -> Self {
        Self { timeout: Duration::ZERO, ..Self::default() }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { items: 8_192, bytes: 512 << 10, timeout: Duration::from_millis(200) }
    }
}

/// `resource:` what the host adds to the resource of all that passes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceConfig {
    /// `attributes`: these, with these values.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// `detect`: what the host finds out by itself.
    pub detect: Vec<Detect>,
    /// `overwrite`: also over what the sender said. No.
    pub overwrite: bool,
}

/// What the host can find out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    /// `host.name`: the machine's name.
    HostName,
    /// `os.type`: `linux`, `darwin`, `windows`.
    OsType,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// Text, and all that was written in quotes.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Double(f64),
}

/// Attributes that one processor may add: each costs bytes in every request.
const ATTRIBUTES_MAX: usize = 64;

/// Characters of an attribute that is added.
const ATTRIBUTE_CHARS_MAX: usize = 1024;

const NATIVE: [&str; 2] = ["batch", "resource"];

/// What other programs' processors are here.
const TYPE_HINTS: Hints = &[
    ("memory_limiter", "memory is always bounded: `service: {memory: {limit_mib: …}}`"),
    ("attributes", "attributes of a resource are added by `resource`"),
    ("resourcedetection", "this is `resource: {detect: [host.name, os.type]}`"),
    ("augment", "this is `resource`"),
];

const BATCH_HINTS: Hints = &[
    ("send_batch_size", "this is `items`"),
    ("send_batch_max_size", "this is `items`"),
    ("linger", "this is `timeout`"),
];

/// Reads one processor, or says that there is none of this type.
pub(crate) fn read(id: &Id, field: &Field<'_>) -> Option<ProcessorConfig> {
    match id.type_name.as_str() {
        "batch" => Some(ProcessorConfig::Batch(batch(field.section()))),
        "resource" => Some(ProcessorConfig::Resource(resource(field.section()))),
        unknown => {
            let hint = TYPE_HINTS.iter().find(|(name, _)| *name == unknown).map(|(_, hint)| *hint);
            let near = super::nearest::nearest(unknown, NATIVE).map(|near| format!("did you mean `{near}`?"));
            let label = hint
                .map(str::to_owned)
                .or(near)
                .unwrap_or_else(|| "not a processor that is known".to_owned());
            field.problems.push(
                super::Diagnostic::error(
                    field.key_at,
                    field.path.clone(),
                    format!("unknown {} `{unknown}`", Kind::Processor),
                )
                .label(label)
                .note(format!("known processors: {}", NATIVE.join(", "))),
            );
            None
        }
    }
}

/// `batch:` as a processor and as a key of an exporter.
pub(crate) fn batch(mut section: Section<'_>) -> BatchConfig {
    let mut batch = BatchConfig::default();
    let items = section.field("items").and_then(|field| field.integer(1..=1_000_000));
    if let Some(items) = items.and_then(|items| u32::try_from(items).ok()) {
        batch.items = items;
    }
    if let Some(bytes) = section.field("bytes").and_then(|field| field.bytes(1024..=64 << 20)) {
        batch.bytes = bytes;
    }
    let times = Duration::ZERO..=Duration::from_secs(60);
    if let Some(timeout) = section.field("timeout").and_then(|field| field.duration(times)) {
        batch.timeout = timeout;
    }
    section.finish(BATCH_HINTS);
    batch
}

fn resource(mut section: Section<'_>) -> ResourceConfig {
    let attributes = section.field("attributes").map(|field| attributes(&field)).unwrap_or_default();
    let detected =
        section.field("detect").map(|field| field.list("`host.name` and `os.type`")).unwrap_or_default();
    let mut detect = Vec::new();
    for item in detected {
        let words = [("host.name", Detect::HostName), ("os.type", Detect::OsType)];
        match item.choice(&words) {
            Some(word) if !detect.contains(&word) => detect.push(word),
            Some(_) | None => {}
        }
    }
    let overwrite = section.field("overwrite").and_then(|field| field.boolean()).unwrap_or(false);
    section.finish(&[
        ("detectors", "this is `detect: [host.name, os.type]`"),
        ("override", "this is `overwrite`"),
    ]);
    ResourceConfig { attributes, detect, overwrite }
}

fn attributes(field: &Field<'_>) -> BTreeMap<String, AttributeValue> {
    if matches!(field.node.value, Value::List(_)) {
        field.wrong("expected a mapping of names to values: `attributes: {deployment.environment: prod}`");
        return BTreeMap::new();
    }
    let section = field.section();
    let mut read = BTreeMap::new();
    for (name, value) in section.fields() {
        if read.len() == ATTRIBUTES_MAX {
            value.wrong(format!("expected at most {ATTRIBUTES_MAX} attributes"));
            break;
        }
        if let Some(attribute) = attribute(&value) {
            read.insert(name.to_owned(), attribute);
        }
    }
    // Any name is an attribute's name, so there is nothing unknown to finish with.
    read
}

fn attribute(field: &Field<'_>) -> Option<AttributeValue> {
    let Node { value: Value::Scalar(scalar), .. } = field.node else {
        field.wrong("expected a text, a number, `true` or `false`");
        return None;
    };
    if scalar.is_null() || scalar.text.chars().count() > ATTRIBUTE_CHARS_MAX {
        let found = if scalar.is_null() { describe(field.node) } else { "a longer text".to_owned() };
        let error = field.error(format!("found {found}"));
        field
            .problems
            .push(error.label(format!("expected a value of at most {ATTRIBUTE_CHARS_MAX} characters")));
        return None;
    }
    Some(match scalar.json() {
        serde_json::Value::Bool(truth) => AttributeValue::Bool(truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => AttributeValue::Int(int),
            (None, Some(double)) => AttributeValue::Double(double),
            (None, None) => AttributeValue::Text(scalar.text.clone()),
        },
        // A foreign enum: a scalar gives nothing else.
        _ => AttributeValue::Text(scalar.text.clone()),
    })
}

/// A processor's place in a pipeline, once it is known.
pub(crate) fn is_batch(processor: &Located<ProcessorConfig>) -> bool {
    match &processor.value {
        ProcessorConfig::Batch(_) => true,
        ProcessorConfig::Resource(_) => false,
    }
}

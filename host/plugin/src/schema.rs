//! The schema of a plugin's settings: what it may cost the host, and an operator's settings against it.
//!
//! A schema is text from a stranger, and the host compiles it. References make much out of few bytes, and so do
//! patterns; both are counted with all references unfolded, before anything is compiled.
//!
//! Invariant: what a validator would follow, the walk in `describe.rs` has followed, or the schema is refused.

use std::collections::BTreeSet;

use jsonschema::PatternOptions;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value};

use crate::describe::{Descriptor, DescriptorError, Marks, SettingsError, TEXT_BYTES_MAX};
use crate::load::Flaw;
use crate::words::tame;

/// Places that a schema unfolds to, and items of the lists in it: references make trees out of small texts.
const PLACES_MAX: usize = 10_000;

/// Patterns in these places: a key with a pattern has a memory of its own wherever it stands.
const PATTERN_PLACES_MAX: usize = 256;

/// Different patterns: hand-written schemas have a few, and each is compiled.
const PATTERNS_MAX: usize = 64;

/// Bytes of all different patterns: they are read anew for each unusual escape in them.
const PATTERN_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a compiled pattern, of which there may be several forms. `.{1,255}`, which stands for every letter that there is,
/// comes to most of it; the library's own limit is 10 MiB.
const PATTERN_COMPILED_BYTES_MAX: usize = 512 * 1024;

/// Places of a schema times values of settings up to which each finding is told: each may hold to each.
const FINDINGS_COST_MAX: usize = 250_000;

/// Findings in one operator's settings that are reported at once.
const FINDINGS_MAX: usize = 64;

/// What a schema comes to with its references unfolded.
#[derive(Default)]
pub(crate) struct Unfolded<'a> {
    places: usize,
    pattern_places: usize,
    patterns: BTreeSet<&'a str>,
    pattern_bytes: usize,
}

/// Keywords whose schemas the walk follows, and definitions, which count where they are referred to.
const WALKED: [&str; 11] = [
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
];

/// Keywords that hold values, not schemas: a mark in them would mean nothing.
const VALUES: [&str; 4] = ["default", "examples", "enum", "const"];

/// Keywords whose members are named by the author: a property may be called as a keyword is.
const NAMES: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// Keywords that refer to schemas in ways that the walk does not follow.
const REFERS: [&str; 3] = ["$dynamicRef", "$recursiveRef", "discriminator"];

impl<'a> Unfolded<'a> {
    /// One more place.
    pub(crate) fn place(&mut self) -> Result<(), DescriptorError> {
        self.places += 1;
        if self.places > PLACES_MAX {
            return Err(DescriptorError(format!(
                "settings-schema unfolds to more than {PLACES_MAX} places: its author must refer to less, or list less"
            )));
        }
        Ok(())
    }

    /// The keywords of one place that the walk does not follow.
    ///
    /// A mark that is not found would be a secret that the guest sees: a schema with one in another place is refused, and so
    /// is one that refers from there, for behind a reference may be marks and any number of places.
    pub(crate) fn keywords(&mut self, schema: &'a Map<String, Value>) -> Result<(), DescriptorError> {
        for (key, value) in schema {
            let is_tuple = key == "items" && value.is_array();
            if REFERS.contains(&key.as_str()) {
                return Err(missed(key, key));
            }
            if VALUES.contains(&key.as_str()) {
                self.values(value)?;
            } else if is_tuple || !WALKED.contains(&key.as_str()) {
                self.unwalked(key, key, value)?;
            }
        }
        Ok(())
    }

    /// As deep as JSON is read at all: 128 levels.
    fn values(&mut self, value: &Value) -> Result<(), DescriptorError> {
        match value {
            Value::Object(map) => map.values().try_for_each(|value| {
                self.place()?;
                self.values(value)
            }),
            Value::Array(list) => list.iter().try_for_each(|value| {
                self.place()?;
                self.values(value)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    /// What stands `under` a keyword that the walk does not follow. As deep as JSON is read at all.
    fn unwalked(&mut self, under: &str, key: &str, value: &'a Value) -> Result<(), DescriptorError> {
        match value {
            Value::String(pattern) if key == "pattern" => self.pattern(pattern),
            Value::Object(map) => {
                if key == "patternProperties" {
                    map.keys().try_for_each(|pattern| self.pattern(pattern))?;
                }
                let are_names = NAMES.contains(&key);
                for (key, value) in map {
                    self.place()?;
                    let refers = matches!(key.as_str(), "x-weir" | "$ref") || REFERS.contains(&key.as_str());
                    if refers && !are_names {
                        return Err(missed(key, under));
                    }
                    // A name is no keyword, whatever it is.
                    self.unwalked(under, if are_names { "" } else { key }, value)?;
                }
                Ok(())
            }
            Value::Array(list) => list.iter().try_for_each(|value| {
                self.place()?;
                self.unwalked(under, "", value)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn pattern(&mut self, pattern: &'a str) -> Result<(), DescriptorError> {
        self.pattern_places += 1;
        if self.patterns.insert(pattern) {
            self.pattern_bytes += pattern.len();
        }
        let limits = [
            ("places with a pattern", self.pattern_places, PATTERN_PLACES_MAX),
            ("different patterns", self.patterns.len(), PATTERNS_MAX),
            ("bytes of patterns", self.pattern_bytes, PATTERN_BYTES_MAX),
        ];
        match limits.into_iter().find(|(_, found, limit)| found > limit) {
            Some((what, _, limit)) => Err(DescriptorError(format!(
                "settings-schema has more than {limit} {what}: its author must say less with patterns"
            ))),
            None => Ok(()),
        }
    }
}

fn missed(what: &str, under: &str) -> DescriptorError {
    let under = tame(under, TEXT_BYTES_MAX);
    DescriptorError(format!(
        "settings-schema has {what:?} in {under:?}, where no x-weir mark would be found: its author must say it with \
         properties, items or additionalProperties"
    ))
}

/// Settings against the schema of a plugin.
pub(crate) struct Schema {
    validator: jsonschema::Validator,
    /// See [`Unfolded`].
    places: usize,
}

impl Schema {
    /// Reads and compiles what a descriptor says of its settings, on a thread where it holds up nobody else.
    ///
    /// # Cancel safety
    /// May be dropped; what is being compiled then is compiled to its end.
    pub(crate) async fn read(descriptor: Descriptor) -> Result<(Descriptor, Marks, Self), Flaw> {
        let reading = tokio::task::spawn_blocking(move || {
            let marks = Marks::read(&descriptor.settings_schema)?;
            let schema = Self::compile(&descriptor.settings_schema)?;
            Ok((descriptor, marks, schema))
        });
        let gave_up =
            |error| Err(Flaw::Engine(format!("the reader of its settings-schema gave up: {error}")));
        reading.await.unwrap_or_else(gave_up)
    }

    /// Compiles a schema. It can refer to nothing outside itself, and its patterns run in linear time.
    ///
    /// # Errors
    /// [`DescriptorError`] where it is none, or would cost the host more than the limits above.
    pub(crate) fn compile(schema: &Value) -> Result<Self, DescriptorError> {
        let (_, Unfolded { places, .. }) = Marks::unfold(schema)?;
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(PATTERN_COMPILED_BYTES_MAX);
        let built = jsonschema::options().offline().with_pattern_options(patterns).build(schema);
        let validator = built.map_err(|error| {
            let message = tame(&error.to_string(), TEXT_BYTES_MAX);
            let limit = match error.kind() {
                ValidationErrorKind::Format { .. } => {
                    format!(
                        "; a pattern may have {PATTERN_COMPILED_BYTES_MAX} bytes when it is compiled, so its author must \
                         bound lengths with maxLength"
                    )
                }
                // Nothing to do with patterns.
                _ => String::new(),
            };
            DescriptorError(format!("settings-schema is not a JSON Schema: {message}{limit}"))
        })?;
        Ok(Self { validator, places })
    }

    /// Everything that is wrong with `settings`, without showing what stands at a place marked secret.
    pub(crate) fn check(&self, marks: &Marks, settings: &Value) -> Vec<SettingsError> {
        let secrets = marks.secrets(settings);
        let hidden = marks.hidden(settings);
        let mut found = self.findings(&hidden, settings);
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

    fn findings(&self, hidden: &[String], settings: &Value) -> Vec<SettingsError> {
        let (places, values) = (self.places, values(settings));
        // All findings are made before the first one is told, and there may be one for each place at each value.
        if places.saturating_mul(values) > FINDINGS_COST_MAX {
            if self.validator.is_valid(settings) {
                return Vec::new();
            }
            let message = format!(
                "does not fit the plugin's settings-schema; {values} values against {places} places are too many to say \
                 where, so try parts of it"
            );
            return vec![SettingsError { pointer: String::new(), message }];
        }
        let errors = self.validator.iter_errors(settings).take(FINDINGS_MAX);
        let findings = errors.map(|error| {
            let pointer = error.instance_path().as_str().to_owned();
            let hides = |secret: &String| *secret == pointer || secret.starts_with(&format!("{pointer}/"));
            // A composite's message prints the value, and with it what lies below.
            let message = if hidden.iter().any(hides) {
                error.masked_with("…").to_string()
            } else {
                error.to_string()
            };
            SettingsError { pointer, message: tame(&message, TEXT_BYTES_MAX) }
        });
        findings.collect()
    }
}

/// How many values there are in `value`, itself among them.
fn values(value: &Value) -> usize {
    1 + match value {
        Value::Object(map) => map.values().map(values).sum(),
        Value::Array(list) => list.iter().map(values).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(schema: &Value) -> String {
        match Schema::compile(schema) {
            Ok(_) => panic!("{schema} was taken"),
            Err(error) => error.to_string(),
        }
    }

    /// Scenario: schemas with thousands of patterns, with one used in many places, with one that is huge when it is compiled.
    /// Guarantees: each is refused, naming the limit, before it could take the host's memory.
    #[test]
    fn patterns_are_few_and_small() {
        let many = |count: usize| -> Value {
            let properties: Map<String, Value> =
                (0..count).map(|n| (format!("k{n}"), json!({"pattern": format!("[a-z]{{{n}}}")}))).collect();
            json!({ "properties": properties })
        };
        assert!(refusal(&many(10_000)).contains("more than 64 different patterns"));
        let keys: Map<String, Value> = (0..100).map(|n| (format!("^a{n}.*z"), json!({}))).collect();
        assert!(refusal(&json!({"patternProperties": keys})).contains("more than 64 different patterns"));
        let properties: Map<String, Value> =
            (0..300).map(|n| (format!("k{n}"), json!({"$ref": "#/$defs/p"}))).collect();
        let shared = json!({"properties": properties, "$defs": {"p": {"patternProperties": {"^a.*b": {}}}}});
        assert!(refusal(&shared).contains("more than 256 places with a pattern"));
        assert!(
            refusal(&json!({"not": {"pattern": "x".repeat(20_000)}})).contains("16384 bytes of patterns")
        );
        assert!(refusal(&json!({"pattern": "[a-z]{30000}"})).contains("524288 bytes when it is compiled"));
        for fine in [
            "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]{1,63}){0,9}$",
            "^\\S+$",
            "^[!-~]{1,255}$",
            "^.{1,255}$",
            "^[^/]{1,255}$",
        ] {
            Schema::compile(&json!({ "pattern": fine })).unwrap();
        }
        Schema::compile(&many(5)).unwrap();
    }

    /// Scenario: references that double at each step, behind keywords that are walked, that are not, and by other names.
    /// Guarantees: the schema is refused before a validator would follow them.
    #[test]
    fn references_can_not_multiply() {
        let mut defs = Map::from_iter([("a0".to_owned(), json!(false))]);
        for n in 1..=30 {
            let half = json!({"$ref": format!("#/$defs/a{}", n - 1)});
            defs.insert(format!("a{n}"), json!({"allOf": [half, half]}));
        }
        let bomb = json!({"$ref": "#/$defs/a30"});
        // Names of properties, which are no keywords.
        let named = json!({"if": {"properties": {"discriminator": {"const": "a"}, "$ref": {"const": "b"}}}});
        Schema::compile(&named).unwrap();
        let hidden = json!({"if": {"properties": {"properties": bomb}}, "$defs": {"a30": false}});
        assert!(refusal(&hidden).contains("$ref"));
        for (keyword, value) in [
            ("patternProperties", json!({"": bomb})),
            ("propertyNames", bomb.clone()),
            ("prefixItems", json!([bomb])),
            ("contains", bomb.clone()),
            ("if", json!({"not": bomb})),
            ("dependencies", json!({"a": bomb})),
            ("$dynamicRef", json!("#/$defs/a30")),
        ] {
            let schema = Map::from_iter([(keyword.to_owned(), value), ("$defs".to_owned(), json!(defs))]);
            let error = refusal(&Value::Object(schema));
            assert!(error.contains("no x-weir mark would be found"), "{keyword}: {error}");
        }
        let error = refusal(&json!({"properties": {"a": bomb}, "$defs": defs}));
        assert!(error.contains("nests deeper"), "{error}");
        let wide: Vec<Value> = (0..200).map(|_| json!({"$ref": "#/$defs/b"})).collect();
        let wide = json!({"allOf": wide, "$defs": {"b": {"not": {"enum": (0..100).collect::<Vec<_>>()}}}});
        assert!(refusal(&wide).contains("more than 10000 places"));
    }

    /// Scenario: a part of the schema with an `$id`, in which the same reference means another place; a reference in other
    /// letters.
    /// Guarantees: both are refused, for the validator and the walk would see different schemas.
    #[test]
    fn a_reference_means_one_place() {
        let inner = json!({"$id": "urn:inner", "$ref": "#/$defs/k", "$defs": {"k": {"x-weir": "secret"}}});
        let error = refusal(&json!({"properties": {"a": inner}, "$defs": {"k": {}}}));
        assert!(error.contains("\"$id\" in a part of it"), "{error}");
        let error = refusal(&json!({"$ref": "#/$defs/a%62", "$defs": {"ab": {}, "a%62": {}}}));
        assert!(error.contains("which it does not hold"), "{error}");
        Schema::compile(
            &json!({"$id": "urn:whole", "$ref": "#/$defs/k", "$defs": {"k": {"properties": {"id": {}}}}}),
        )
        .unwrap();
    }

    /// Scenario: settings of many values against a schema of many places, of which none fits.
    /// Guarantees: they are refused without a finding for each pair; small ones are told in full.
    #[test]
    fn findings_are_few() {
        let branches: Vec<Value> = (0..1_000).map(|_| json!({"type": "string"})).collect();
        let schema = json!({"additionalProperties": {"allOf": branches}});
        let (marks, compiled) = (Marks::read(&schema).unwrap(), Schema::compile(&schema).unwrap());
        let of = |count: usize| -> Value { (0..count).map(|n| (format!("k{n}"), json!(n))).collect() };
        let found = compiled.check(&marks, &of(1_000));
        assert!(found.len() == 1 && found[0].message.contains("too many to say where"), "{found:?}");
        assert_eq!(compiled.check(&marks, &of(1)).len(), FINDINGS_MAX);
    }

    /// Scenario: settings with an unknown key, a wrong type inside, a missing key, and a short secret.
    /// Guarantees: every finding has its JSON pointer, and a secret is not printed.
    #[test]
    fn findings_have_pointers_and_no_secrets() {
        let schema = json!({
            "additionalProperties": false,
            "required": ["endpoint"],
            "properties": {
                "endpoint": {"type": "string"},
                "timeout": {"$ref": "#/$defs/timeout"},
                "key": {"type": "string", "minLength": 20, "x-weir": "secret"},
            },
            "$defs": {"timeout": {"type": "integer", "minimum": 1}},
        });
        let (marks, compiled) = (Marks::read(&schema).unwrap(), Schema::compile(&schema).unwrap());
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
}

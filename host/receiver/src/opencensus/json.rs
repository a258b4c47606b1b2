//! The JSON of OpenCensus becomes its protobuf, so that the translation has one way only.
//!
//! Proto3 JSON: keys in lowerCamelCase or as in the .proto file, unknown keys are passed over, `null` is the default,
//! bytes are base64 of either alphabet, 64-bit numbers are strings or numbers, enumerations names or numbers,
//! timestamps RFC 3339, wrappers bare values. One thing more, because the only living browser library sends it: a trace
//! state as a plain object of strings.

mod schema;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use weir_model::Signal;
use weir_wire::Encoder;
use weir_wire::json::{JsonError, Lexer, Number, Text, Token};

use schema::{Kind, Member, Schema};

/// Web libraries write padding or leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Turns the one object in `json` into an `Export{Trace,Metrics}ServiceRequest`, at most a few times as long.
///
/// # Errors
/// [`JsonError`] where the text is no JSON, not the one object of this request, or has a value of the wrong kind.
pub(super) fn to_protobuf(signal: Signal, json: &[u8]) -> Result<Vec<u8>, JsonError> {
    let request = match signal {
        Signal::Traces | Signal::Logs => &schema::TRACE_REQUEST,
        Signal::Metrics => &schema::METRICS_REQUEST,
    };
    // Protobuf is shorter nearly always; half is a usual part.
    let mut transcoder = Transcoder { lexer: Lexer::new(json), out: Encoder::with_capacity(json.len() / 2) };
    transcoder.lexer.begin_object()?;
    transcoder.members(request)?;
    transcoder.lexer.end()?;
    Ok(transcoder.out.into_bytes())
}

struct Transcoder<'a> {
    lexer: Lexer<'a>,
    out: Encoder,
}

impl<'a> Transcoder<'a> {
    /// The members of an object, up to its end. The table is a tree, so the recursion ends where it does.
    fn members(&mut self, schema: &'static Schema) -> Result<(), JsonError> {
        let mut seen = 0_u32;
        while let Some(key) = self.lexer.key()? {
            let key_bytes = key.bytes();
            let Some(index) = schema.iter().position(|member| is_named(&key_bytes, member.name)) else {
                self.lexer.skip()?;
                continue;
            };
            let member = &schema[index];
            if seen & (1 << index) != 0 {
                return Err(self.wrong(member, "stands twice in one object"));
            }
            seen |= 1 << index;
            match self.lexer.next()? {
                Token::Null => {}
                Token::ArrayStart if member.is_repeated => {
                    while self.lexer.element()? {
                        let token = self.lexer.next()?;
                        self.value(member, member.number, member.kind, token)?;
                    }
                }
                _ if member.is_repeated => return Err(self.wrong(member, "expected an array")),
                token => self.value(member, member.number, member.kind, token)?,
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        member: &'static Member,
        field: u32,
        kind: Kind,
        token: Token<'a>,
    ) -> Result<(), JsonError> {
        match kind {
            Kind::Message(schema) => {
                let open = self.out.open(field);
                match token {
                    Token::ObjectStart => self.members(schema)?,
                    // An element of a list that is null.
                    Token::Null => {}
                    _ => return Err(self.wrong(member, "expected an object")),
                }
                self.out.close(open);
                Ok(())
            }
            Kind::Map(of) => self.map(member, field, *of, token),
            Kind::TraceState => self.trace_state(member, field, token),
            Kind::Wrapper(of) => {
                let open = self.out.open(field);
                self.value(member, 1, *of, token)?;
                self.out.close(open);
                Ok(())
            }
            Kind::Text => {
                let Token::String(text) = token else { return Err(self.wrong(member, "expected a string")) };
                self.out.bytes(field, text.bytes());
                Ok(())
            }
            Kind::Bytes => self.base64(member, field, token),
            Kind::Timestamp => self.timestamp(member, field, token),
            Kind::Bool | Kind::Int | Kind::Uint | Kind::Double | Kind::Enum(_) => {
                self.scalar(member, field, kind, token)
            }
        }
    }

    fn scalar(
        &mut self,
        member: &'static Member,
        field: u32,
        kind: Kind,
        token: Token<'a>,
    ) -> Result<(), JsonError> {
        match (kind, token) {
            (Kind::Bool, Token::Bool(value)) => self.out.bool(field, value),
            (Kind::Bool, _) => return Err(self.wrong(member, "expected true or false")),
            (Kind::Double, token) => match double(token) {
                Some(value) => self.out.double(field, value),
                None => return Err(self.wrong(member, "expected a number")),
            },
            (Kind::Int, token) => match number(token, |number| number.as_i64()) {
                Some(value) => self.out.int(field, value),
                None => return Err(self.wrong(member, "expected a whole number of 64 bits")),
            },
            (Kind::Uint, token) => match number(token, |number| number.as_u64()) {
                Some(value) => self.out.varint(field, value),
                None => return Err(self.wrong(member, "expected a whole number that is not negative")),
            },
            (Kind::Enum(names), Token::String(text)) => {
                match names.iter().position(|name| name.as_bytes() == &*text.bytes()) {
                    Some(index) => self.out.varint(field, index as u64),
                    None => {
                        return Err(self.wrong(member, "expected a name of the enumeration, or its number"));
                    }
                }
            }
            (Kind::Enum(_), token) => match number(token, |number| number.as_i64()) {
                Some(value) => self.out.int(field, value),
                None => return Err(self.wrong(member, "expected a name of the enumeration, or its number")),
            },
            (
                Kind::Message(_)
                | Kind::Map(_)
                | Kind::TraceState
                | Kind::Wrapper(_)
                | Kind::Text
                | Kind::Bytes
                | Kind::Timestamp,
                _,
            ) => return Err(self.wrong(member, "expected a number")),
        }
        Ok(())
    }

    /// `map<string, …>`: entries of key 1 and value 2.
    fn map(
        &mut self,
        member: &'static Member,
        field: u32,
        of: Kind,
        token: Token<'a>,
    ) -> Result<(), JsonError> {
        let Token::ObjectStart = token else { return Err(self.wrong(member, "expected an object")) };
        while let Some(key) = self.lexer.key()? {
            let token = self.lexer.next()?;
            let open = self.out.open(field);
            self.out.bytes(1, key.bytes());
            if token != Token::Null {
                self.value(member, 2, of, token)?;
            }
            self.out.close(open);
        }
        Ok(())
    }

    /// A trace state as its message says, `{"entries": [{"key": …, "value": …}]}`, or as `{"key": "value"}`.
    fn trace_state(
        &mut self,
        member: &'static Member,
        field: u32,
        token: Token<'a>,
    ) -> Result<(), JsonError> {
        let Token::ObjectStart = token else { return Err(self.wrong(member, "expected an object")) };
        let open = self.out.open(field);
        while let Some(key) = self.lexer.key()? {
            match (key.raw(), self.lexer.next()?) {
                (b"entries", Token::ArrayStart) => {
                    while self.lexer.element()? {
                        let token = self.lexer.next()?;
                        self.value(member, 1, Kind::Message(&schema::TRACE_STATE_ENTRY), token)?;
                    }
                }
                (_, Token::String(value)) => self.out.message(1, |entry| {
                    entry.bytes(1, key.bytes());
                    entry.bytes(2, value.bytes());
                }),
                (_, Token::ObjectStart | Token::ArrayStart) => {
                    return Err(self.wrong(member, "expected entries, or keys with strings"));
                }
                // Unknown keys are passed over.
                (_, _) => {}
            }
        }
        self.out.close(open);
        Ok(())
    }

    fn base64(&mut self, member: &'static Member, field: u32, token: Token<'a>) -> Result<(), JsonError> {
        let Token::String(text) = token else {
            return Err(self.wrong(member, "expected a string in base64"));
        };
        let mut standard = text.bytes().into_owned();
        for letter in &mut standard {
            *letter = match *letter {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            };
        }
        match BASE64.decode(standard) {
            Ok(bytes) => self.out.bytes(field, bytes),
            Err(_) => return Err(self.wrong(member, "expected a string in base64")),
        }
        Ok(())
    }

    fn timestamp(&mut self, member: &'static Member, field: u32, token: Token<'a>) -> Result<(), JsonError> {
        let moment = match token {
            Token::String(text) => moment(&text.bytes()),
            _ => None,
        };
        let Some((seconds, nanos)) = moment else {
            return Err(self.wrong(member, "expected a time as 2024-01-31T23:59:59.123Z"));
        };
        self.out.message(field, |timestamp| {
            timestamp.int(1, seconds);
            timestamp.varint(2, u64::from(nanos));
        });
        Ok(())
    }

    #[cold]
    fn wrong(&self, member: &'static Member, what: &'static str) -> JsonError {
        JsonError { field: member.name, ..self.lexer.error(what) }
    }
}

/// Whether `key` is `name` (lowerCamelCase), or the same with underscores.
fn is_named(key: &[u8], name: &str) -> bool {
    let mut rest = key;
    for letter in name.bytes() {
        rest = match rest {
            [first, rest @ ..] if *first == letter => rest,
            [b'_', first, rest @ ..]
                if letter.is_ascii_uppercase() && *first == letter.to_ascii_lowercase() =>
            {
                rest
            }
            _ => return false,
        };
    }
    rest.is_empty()
}

/// A number, or a string that is one.
fn number<T>(token: Token<'_>, read: impl FnOnce(Number<'_>) -> Option<T>) -> Option<T> {
    match token {
        Token::Number(number) => read(number),
        Token::String(text) => read(Number::parse(&text.bytes())?),
        _ => None,
    }
}

fn double(token: Token<'_>) -> Option<f64> {
    let named = |text: Text<'_>| match text.raw() {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    match token {
        Token::String(text) => named(text).or_else(|| number(token, |number| number.as_f64())),
        _ => number(token, |number| number.as_f64()),
    }
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 time between the years 1 and 9999.
fn moment(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let (date_and_time, rest) = text.split_at_checked(19)?;
    let bytes = date_and_time.as_bytes();
    let is_shaped = (bytes[4], bytes[7], bytes[13], bytes[16]) == (b'-', b'-', b':', b':')
        && matches!(bytes[10], b'T' | b't' | b' ');
    let part = |from: usize, to: usize| -> Option<i64> {
        bytes[from..to]
            .iter()
            .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit & 15)))
    };
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let is_time = hour < 24 && minute < 60 && second < 60;
    let days = days(year, month, day).filter(|_| is_shaped && is_time)?;
    let digits = rest
        .strip_prefix('.')
        .map_or("", |rest| &rest[..rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len())]);
    let zone = if rest.starts_with('.') { &rest[1 + digits.len()..] } else { rest };
    if digits.len() > 9 || (rest.starts_with('.') && digits.is_empty()) {
        return None;
    }
    let nanos = format!("{digits:0<9}").parse().ok()?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    Some((seconds, nanos))
}

/// Seconds east of UTC: `Z`, `+01:00`, `-05:30`.
fn offset(zone: &str) -> Option<i64> {
    match zone.as_bytes() {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let pair = |high: &u8, low: &u8| {
                (high.is_ascii_digit() && low.is_ascii_digit())
                    .then(|| i64::from(high & 15) * 10 + i64::from(low & 15))
            };
            let (hours, minutes) = (pair(h1, h2)?, pair(m1, m2)?);
            let east = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
            Some(if *sign == b'+' { east } else { -east })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if year < 1 || day < 1 || day > in_month {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use weir_proto::opencensus::proto::agent::metrics::v1::ExportMetricsServiceRequest;
    use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest;
    use weir_proto::opencensus::proto::metrics::v1::point;
    use weir_proto::opencensus::proto::trace::v1::attribute_value::Value;
    use weir_proto::opencensus::proto::trace::v1::span::time_event;

    use super::*;

    fn traces(json: &str) -> ExportTraceServiceRequest {
        let bytes = to_protobuf(Signal::Traces, json.as_bytes()).expect(json);
        ExportTraceServiceRequest::decode(&*bytes).expect("OpenCensus")
    }

    fn refused(json: &str) -> String {
        to_protobuf(Signal::Traces, json.as_bytes()).expect_err(json).to_string()
    }

    /// Scenario: what the browser library sends: numbers for enumerations, doubles for all numbers, a trace state as a plain
    /// object, an empty parent, nine digits of a second, a bare wrapper.
    /// Guarantees: every field of it is in the protobuf.
    #[test]
    fn the_browser_library_is_understood() {
        let request = traces(
            r#"{"spans":[{"traceId":"rqbH3mTHPyqbQ6Ubrqp3Gg==","spanId":"wUUi4aZmmoM=","tracestate":{"a":"1","b":"2"},
            "parentSpanId":"","name":{"value":"nav"},"kind":2,"startTime":"2019-02-01T18:40:39.041000000Z",
            "endTime":"2019-02-01T18:40:39.543999993Z",
            "attributes":{"attributeMap":{"size":{"doubleValue":12},"path":{"stringValue":{"value":"/"}}},"droppedAttributesCount":1},
            "timeEvents":{"timeEvent":[{"time":"2019-02-01T18:40:39Z","annotation":{"description":{"value":"x"}}},
            {"time":"2019-02-01T18:40:39Z","messageEvent":{"type":2,"id":"7","uncompressedSize":22}}]},
            "links":{"link":[{"traceId":"rqbH3mTHPyqbQ6Ubrqp3Gg","spanId":"wUUi4aZmmoM","type":2}]},
            "status":{"code":0},"sameProcessAsParentSpan":true,"childSpanCount":3}],
            "node":{"libraryInfo":{"language":10,"coreLibraryVersion":"0.0.7"},"attributes":{"k":"v"}}}"#,
        );
        let node = request.node.expect("a node");
        assert_eq!(node.library_info.map(|library| library.language), Some(10));
        assert_eq!(node.attributes["k"], "v");
        let span = &request.spans[0];
        assert_eq!(span.trace_id[..3], [0xae, 0xa6, 0xc7]);
        assert_eq!((span.span_id.len(), span.parent_span_id.len(), span.kind), (8, 0, 2));
        let entries = &span.tracestate.as_ref().expect("a state").entries;
        assert_eq!((entries.len(), entries[1].key.as_str(), entries[1].value.as_str()), (2, "b", "2"));
        let start = span.start_time.as_ref().expect("a time");
        assert_eq!((start.seconds, start.nanos), (1_549_046_439, 41_000_000));
        let attributes = span.attributes.as_ref().expect("attributes");
        assert_eq!(attributes.dropped_attributes_count, 1);
        assert_eq!(attributes.attribute_map["size"].value, Some(Value::DoubleValue(12.0)));
        let events = &span.time_events.as_ref().expect("events").time_event;
        let Some(time_event::Value::MessageEvent(message)) = &events[1].value else {
            panic!("a message event")
        };
        assert_eq!((message.r#type, message.id, message.uncompressed_size), (2, 7, 22));
        assert_eq!(span.links.as_ref().expect("links").link[0].trace_id, span.trace_id);
        assert_eq!(span.same_process_as_parent_span.as_ref().map(|same| same.value), Some(true));
        assert_eq!(span.child_span_count.as_ref().map(|count| count.value), Some(3));
    }

    /// Scenario: keys in snake case, unknown keys of every kind, names of enumerations, numbers as strings, nulls.
    /// Guarantees: proto3 JSON is read as gateways read it.
    #[test]
    fn proto3_json_is_read_as_gateways_read_it() {
        let request = traces(
            r#"{"node": {"identifier": {"host_name": "h", "pid": 7, "start_timestamp": "1970-01-01T00:00:01+00:00"}},
            "unknown": {"a": [1, {"b": null}]}, "resource": null,
            "spans": [{"trace_id": "AQ==", "span_id": "_-8=", "kind": "SERVER", "more": 1,
            "attributes": {"attribute_map": {"n": {"int_value": "55"}, "b": {"bool_value": false}, "u": {}}},
            "tracestate": {"entries": [{"key": "k", "value": "v"}]}, "status": {"code": -1}}, null]}"#,
        );
        let identifier = request.node.and_then(|node| node.identifier).expect("an identifier");
        assert_eq!((identifier.host_name.as_str(), identifier.pid), ("h", 7));
        assert_eq!(identifier.start_timestamp.map(|start| start.seconds), Some(1));
        let span = &request.spans[0];
        assert_eq!((span.kind, &span.span_id[..], request.spans.len()), (1, &[0xff, 0xef][..], 2));
        let attributes = &span.attributes.as_ref().expect("attributes").attribute_map;
        assert_eq!(attributes["n"].value, Some(Value::IntValue(55)));
        assert_eq!(attributes["b"].value, Some(Value::BoolValue(false)));
        assert_eq!(attributes["u"].value, None);
        assert_eq!(span.tracestate.as_ref().expect("a state").entries[0].key, "k");
        assert_eq!(span.status.as_ref().map(|status| status.code), Some(-1));
    }

    /// Scenario: metrics of each kind of value in JSON.
    /// Guarantees: descriptor, labels, points, buckets and wrappers are in the protobuf.
    #[test]
    fn metrics_are_read_too() {
        let json = r#"{"metrics": [{"metricDescriptor": {"name": "n", "type": "CUMULATIVE_DISTRIBUTION", "labelKeys": [{"key": "k"}]},
            "timeseries": [{"startTimestamp": "2024-01-01T00:00:00Z", "labelValues": [{"value": "v", "hasValue": true}], "points": [
            {"timestamp": "2024-02-29T00:00:00.5Z", "distributionValue": {"count": "3", "sum": 1.5, "bucketOptions": {"explicit":
            {"bounds": [1, "2.5"]}}, "buckets": [{"count": 1, "exemplar": {"value": "NaN", "attachments": {"a": "b"}}}, {}, {"count": "2"}]}},
            {"int64Value": "-1"}, {"doubleValue": 0}, {"summaryValue": {"count": "4", "sum": 2, "snapshot":
            {"percentileValues": [{"percentile": 99, "value": 1}]}}}]}]}]}"#;
        let bytes = to_protobuf(Signal::Metrics, json.as_bytes()).expect("JSON");
        let request = ExportMetricsServiceRequest::decode(&*bytes).expect("OpenCensus");
        let metric = &request.metrics[0];
        assert_eq!(metric.metric_descriptor.as_ref().map(|descriptor| descriptor.r#type), Some(6));
        let points = &metric.timeseries[0].points;
        let Some(point::Value::DistributionValue(value)) = &points[0].value else { panic!("a distribution") };
        assert_eq!((value.count, value.buckets.len(), value.buckets[2].count), (3, 3, 2));
        assert!(value.buckets[0].exemplar.as_ref().expect("an exemplar").value.is_nan());
        assert_eq!(points[1].value, Some(point::Value::Int64Value(-1)));
        assert_eq!(points[2].value, Some(point::Value::DoubleValue(0.0)));
        let Some(point::Value::SummaryValue(value)) = &points[3].value else { panic!("a summary") };
        assert_eq!(value.count.as_ref().map(|count| count.value), Some(4));
    }

    /// Scenario: texts that are no request: cut off, several objects, values of the wrong kind, a key twice, bad times.
    /// Guarantees: each is refused with its place and what was expected.
    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(refused("[]"), "line 1, column 1: expected an object");
        assert_eq!(refused("{}\n{}"), "line 2, column 1: something stands behind the value");
        assert_eq!(
            refused("{\"spans\": [\n {\"traceId\": \"?\"}]}"),
            "line 2, column 14: traceId: expected a string in base64"
        );
        assert!(refused(r#"{"spans": {}}"#).ends_with("spans: expected an array"));
        assert!(refused(r#"{"spans": [{"kind": "NONE"}]}"#).contains("kind: expected a name"));
        assert!(refused(r#"{"spans": [{"childSpanCount": -1}]}"#).contains("not negative"));
        assert!(refused(r#"{"node": {}, "node": {}}"#).contains("stands twice"));
        assert!(refused(r#"{"spans": [{"startTime": "yesterday"}]}"#).contains("expected a time"));
        assert!(refused(r#"{"spans": [{"tracestate": {"a": {}}}]}"#).contains("expected entries"));
        refused("");
        refused(r#"{"spans": ["#);
    }

    /// Scenario: times at the edges, with offsets, with too many digits, on days that do not exist.
    /// Guarantees: what RFC 3339 allows is read exactly, anything else is refused.
    #[test]
    fn times_are_read_as_rfc_3339_says() {
        assert_eq!(moment(b"1970-01-01T00:00:00Z"), Some((0, 0)));
        assert_eq!(moment(b"2000-02-29T23:59:59.5Z"), Some((951_868_799, 500_000_000)));
        assert_eq!(moment(b"2023-11-14T23:13:20.000000001+01:00"), Some((1_700_000_000, 1)));
        assert_eq!(moment(b"1969-12-31T23:59:59-00:30"), Some((1799, 0)));
        assert_eq!(moment(b"9999-12-31T23:59:59Z"), Some((253_402_300_799, 0)));
        for wrong in [
            "",
            "2023-02-29T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00.1234567890Z",
            "0000-01-01T00:00:00Z",
            "2023-01-01T00:00:00+1:00",
            "2023-13-01T00:00:00Z",
            "2023-01-01T00:00:00Zjunk",
            "2023/01/01T00:00:00Z",
            "2023-01-01T00:00:0éZ",
        ] {
            assert_eq!(moment(wrong.as_bytes()), None, "{wrong}");
        }
    }
}

//! Invented requests, made from bytes: proptest shrinks the bytes, and fewer or smaller bytes make a plainer
//! request.

use crate::oracle::*;

/// Choices, taken one after the other; when they run out, everything is empty.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *byte
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn u64(&mut self) -> u64 {
        match self.byte() % 6 {
            0 => 0,
            1 => u64::from(self.byte()),
            2 => u64::from(self.byte()) << 7,
            3 => u64::from(u32::MAX) + u64::from(self.byte()),
            4 => u64::MAX - u64::from(self.byte()),
            _ => 1_795_289_031_192_000_000 + u64::from(self.byte()),
        }
    }

    fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    fn i32(&mut self) -> i32 {
        self.u64() as i32
    }

    fn i64(&mut self) -> i64 {
        self.u64().cast_signed()
    }

    /// No negative zero: prost takes it for the default, the wire does not.
    fn f64(&mut self) -> f64 {
        match self.byte() % 8 {
            0 => 0.0,
            1 => f64::from(self.byte()) / 3.0,
            2 => f64::NAN,
            3 => f64::INFINITY,
            4 => f64::NEG_INFINITY,
            5 => 1e300 / (f64::from(self.byte()) + 1.0),
            6 => -f64::from(self.byte()) - 0.5,
            _ => 5e-324,
        }
    }

    fn string(&mut self) -> String {
        const PIECES: [&str; 8] =
            ["", "a", "\"\\\n", "é", "😀", "\u{1}\u{1f}", "service.name", "0123456789abcdef"];
        let count = self.byte() % 4;
        (0..count).map(|_| PIECES[usize::from(self.byte() % 8)]).collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = self.byte() % 20;
        (0..count).map(|_| self.byte()).collect()
    }

    fn id(&mut self, length: usize) -> Vec<u8> {
        match self.byte() % 16 {
            0 => vec![],
            1 => vec![0; length],
            2 => vec![7; length - 1],
            3 => vec![7; length + 1],
            byte => vec![byte; length],
        }
    }

    fn some<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| one(self))
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = self.byte() % 4;
        (0..count).map(|_| one(self)).collect()
    }

    // === requests ===

    pub(crate) fn traces(&mut self) -> Traces {
        Traces {
            resource_spans: self.list(|it| ResourceSpans {
                resource: it.some(Self::resource),
                scope_spans: it.list(|it| ScopeSpans {
                    scope: it.some(Self::scope),
                    spans: it.list(Self::span),
                    schema_url: it.string(),
                }),
                schema_url: it.string(),
            }),
        }
    }

    pub(crate) fn metrics(&mut self) -> Metrics {
        Metrics {
            resource_metrics: self.list(|it| ResourceMetrics {
                resource: it.some(Self::resource),
                scope_metrics: it.list(|it| ScopeMetrics {
                    scope: it.some(Self::scope),
                    metrics: it.list(Self::metric),
                    schema_url: it.string(),
                }),
                schema_url: it.string(),
            }),
        }
    }

    pub(crate) fn logs(&mut self) -> Logs {
        Logs {
            resource_logs: self.list(|it| ResourceLogs {
                resource: it.some(Self::resource),
                scope_logs: it.list(|it| ScopeLogs {
                    scope: it.some(Self::scope),
                    log_records: it.list(Self::log_record),
                    schema_url: it.string(),
                }),
                schema_url: it.string(),
            }),
        }
    }

    fn resource(&mut self) -> Resource {
        Resource {
            attributes: self.attributes(),
            dropped_attributes_count: self.u32(),
            entity_refs: self.list(|it| EntityRef {
                schema_url: it.string(),
                kind: it.string(),
                id_keys: it.list(Self::string),
                description_keys: it.list(Self::string),
            }),
        }
    }

    fn scope(&mut self) -> Scope {
        Scope {
            name: self.string(),
            version: self.string(),
            attributes: self.attributes(),
            dropped_attributes_count: self.u32(),
        }
    }

    fn attributes(&mut self) -> Vec<KeyValue> {
        self.list(|it| it.key_value(3))
    }

    fn key_value(&mut self, depth: u8) -> KeyValue {
        KeyValue { key: self.string(), value: self.some(|it| it.any_value(depth)) }
    }

    fn any_value(&mut self, depth: u8) -> AnyValue {
        let value = match self.byte() % 8 {
            0 => None,
            1 => Some(Any::String(self.string())),
            2 => Some(Any::Bool(self.flag())),
            3 => Some(Any::Int(self.i64())),
            4 => Some(Any::Double(self.f64())),
            5 if depth > 0 => {
                Some(Any::Array(ArrayValue { values: self.list(|it| it.any_value(depth - 1)) }))
            }
            6 if depth > 0 => {
                Some(Any::Map(KeyValueList { values: self.list(|it| it.key_value(depth - 1)) }))
            }
            _ => Some(Any::Bytes(self.bytes())),
        };
        AnyValue { value }
    }

    fn span(&mut self) -> Span {
        Span {
            trace_id: self.id(16),
            span_id: self.id(8),
            trace_state: self.string(),
            parent_span_id: if self.flag() { self.id(8) } else { vec![] },
            name: self.string(),
            kind: self.i32(),
            start_time_unix_nano: self.u64(),
            end_time_unix_nano: self.u64(),
            attributes: self.attributes(),
            dropped_attributes_count: self.u32(),
            events: self.list(|it| Event {
                time_unix_nano: it.u64(),
                name: it.string(),
                attributes: it.attributes(),
                dropped_attributes_count: it.u32(),
            }),
            dropped_events_count: self.u32(),
            links: self.list(|it| Link {
                trace_id: it.id(16),
                span_id: it.id(8),
                trace_state: it.string(),
                attributes: it.attributes(),
                dropped_attributes_count: it.u32(),
                flags: it.u32(),
            }),
            dropped_links_count: self.u32(),
            status: self.some(|it| Status { message: it.string(), code: it.i32() }),
            flags: self.u32(),
        }
    }

    fn metric(&mut self) -> Metric {
        Metric {
            name: self.string(),
            description: self.string(),
            unit: self.string(),
            data: match self.byte() % 6 {
                0 => None,
                1 => Some(Data::Gauge(Gauge { data_points: self.list(Self::number_point) })),
                2 => Some(Data::Sum(Sum {
                    data_points: self.list(Self::number_point),
                    aggregation_temporality: self.i32(),
                    is_monotonic: self.flag(),
                })),
                3 => Some(Data::Histogram(Histogram {
                    data_points: self.list(Self::histogram_point),
                    aggregation_temporality: self.i32(),
                })),
                4 => Some(Data::Exponential(Exponential {
                    data_points: self.list(Self::exponential_point),
                    aggregation_temporality: self.i32(),
                })),
                _ => Some(Data::Summary(Summary { data_points: self.list(Self::summary_point) })),
            },
            metadata: self.attributes(),
        }
    }

    fn number_point(&mut self) -> NumberPoint {
        NumberPoint {
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            value: match self.byte() % 3 {
                0 => None,
                1 => Some(PointValue::Double(self.f64())),
                _ => Some(PointValue::Int(self.i64())),
            },
            exemplars: self.list(Self::exemplar),
            attributes: self.attributes(),
            flags: self.u32(),
        }
    }

    fn histogram_point(&mut self) -> HistogramPoint {
        HistogramPoint {
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            count: self.u64(),
            sum: self.some(Self::f64),
            bucket_counts: self.list(Self::u64),
            explicit_bounds: self.list(Self::f64),
            exemplars: self.list(Self::exemplar),
            attributes: self.attributes(),
            flags: self.u32(),
            min: self.some(Self::f64),
            max: self.some(Self::f64),
        }
    }

    fn exponential_point(&mut self) -> ExponentialPoint {
        ExponentialPoint {
            attributes: self.attributes(),
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            count: self.u64(),
            sum: self.some(Self::f64),
            scale: self.i32(),
            zero_count: self.u64(),
            positive: self.some(|it| Buckets { offset: it.i32(), bucket_counts: it.list(Self::u64) }),
            negative: self.some(|it| Buckets { offset: it.i32(), bucket_counts: it.list(Self::u64) }),
            flags: self.u32(),
            exemplars: self.list(Self::exemplar),
            min: self.some(Self::f64),
            max: self.some(Self::f64),
            zero_threshold: self.f64(),
        }
    }

    fn summary_point(&mut self) -> SummaryPoint {
        SummaryPoint {
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            count: self.u64(),
            sum: self.f64(),
            quantile_values: self.list(|it| Quantile { quantile: it.f64(), value: it.f64() }),
            attributes: self.attributes(),
            flags: self.u32(),
        }
    }

    fn exemplar(&mut self) -> Exemplar {
        Exemplar {
            time_unix_nano: self.u64(),
            value: match self.byte() % 3 {
                0 => None,
                1 => Some(ExemplarValue::Double(self.f64())),
                _ => Some(ExemplarValue::Int(self.i64())),
            },
            span_id: if self.flag() { self.id(8) } else { vec![] },
            trace_id: if self.flag() { self.id(16) } else { vec![] },
            filtered_attributes: self.attributes(),
        }
    }

    fn log_record(&mut self) -> LogRecord {
        LogRecord {
            time_unix_nano: self.u64(),
            severity_number: self.i32(),
            severity_text: self.string(),
            body: self.some(|it| it.any_value(3)),
            attributes: self.attributes(),
            dropped_attributes_count: self.u32(),
            flags: self.u32(),
            trace_id: if self.flag() { self.id(16) } else { vec![] },
            span_id: if self.flag() { self.id(8) } else { vec![] },
            observed_time_unix_nano: self.u64(),
            event_name: self.string(),
        }
    }
}

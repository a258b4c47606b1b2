//! Requests of the formats that are written byte by byte: Jaeger's thrift, points in OTLP and in remote write.

use bytes::Bytes;
use weir_wire::Encoder;

use crate::corpus::{key, mixed, name, span_id, start_micros, trace_id, value};

/// Series of one metric.
const SERIES: u32 = 100;

/// Labels of a series beside its metric's name, `job` and `instance`.
const LABELS: u32 = 4;

/// When all points were taken, in milliseconds since the epoch.
const POINT_MILLIS: u64 = 1_790_000_000_000;

// Types of thrift's binary protocol.
const STOP: u8 = 0;
const I32: u8 = 8;
const I64: u8 = 10;
const STRING: u8 = 11;
const STRUCT: u8 = 12;
const LIST: u8 = 15;

/// A thrift struct in the binary protocol, field by field.
#[derive(Default)]
struct Thrift(Vec<u8>);

impl Thrift {
    fn field(&mut self, kind: u8, id: u16) {
        self.0.push(kind);
        self.0.extend(id.to_be_bytes());
    }

    fn long(&mut self, id: u16, value: u64) {
        self.field(I64, id);
        self.0.extend(value.to_be_bytes());
    }

    fn int(&mut self, id: u16, value: u32) {
        self.field(I32, id);
        self.0.extend(value.to_be_bytes());
    }

    fn text(&mut self, id: u16, value: &str) {
        self.field(STRING, id);
        self.0.extend(length(value.len()));
        self.0.extend(value.as_bytes());
    }

    fn list(&mut self, id: u16, items: u32, mut write: impl FnMut(&mut Self, u32)) {
        self.field(LIST, id);
        self.0.push(STRUCT);
        self.0.extend(items.to_be_bytes());
        for item in 0..items {
            write(self, item);
            self.0.push(STOP);
        }
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a corpus is far smaller than 4 GiB").to_be_bytes()
}

/// A batch of Jaeger's thrift with 8 tags a span, as its clients post it.
pub(crate) fn jaeger(node: u32, spans: u32) -> Bytes {
    let mut out = Thrift::default();
    out.field(STRUCT, 1);
    out.text(1, &format!("checkout-{node}"));
    out.0.push(STOP);
    out.list(2, spans, |out, index| {
        let trace = trace_id(node, index);
        let (high, low) = trace.split_at(8);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        out.long(1, number(low));
        out.long(2, number(high));
        out.long(3, number(&span_id(node, index)));
        out.long(4, number(&span_id(node, index / 2)));
        out.text(5, name(index));
        out.int(7, 1);
        out.long(8, start_micros(node, index));
        out.long(9, 1500);
        out.list(10, 8, |out, tag| {
            out.text(1, &key(tag));
            out.int(2, 0);
            out.text(3, &value(node, index, tag, 24));
        });
    });
    out.0.push(STOP);
    Bytes::from(out.0)
}

/// Gauges of 100 series each, as OTLP.
pub(crate) fn points(node: u32, points: u32) -> Vec<u8> {
    let mut out = Encoder::with_capacity(points as usize * 256);
    out.message(1, |group| {
        group.message(1, |resource| {
            resource.attribute_str(1, "service.name", "checkout");
            resource.attribute_str(1, "service.instance.id", format!("instance-{node}"));
        });
        group.message(2, |scope| {
            for metric in 0..points / SERIES {
                scope.message(2, |out| {
                    out.string(1, &metric_name(metric));
                    out.string(2, "Of the load.");
                    out.message(5, |gauge| {
                        for series in 0..SERIES {
                            gauge.message(1, |point| {
                                point.fixed64(3, POINT_MILLIS * 1_000_000);
                                point.double(4, figure(node, metric, series));
                                for label in 0..LABELS {
                                    point.attribute_str(
                                        7,
                                        label_name(label),
                                        value(metric, series, label, 12),
                                    );
                                }
                            });
                        }
                    });
                });
            }
        });
    });
    out.into_bytes()
}

/// The same as a remote write of version 1, in snappy's block format.
pub(crate) fn written(node: u32, points: u32) -> Bytes {
    let mut out = Encoder::with_capacity(points as usize * 256);
    for metric in 0..points / SERIES {
        for series in 0..SERIES {
            out.message(1, |one| {
                let mut label = |name: &str, value: &str| {
                    one.message(1, |label| {
                        label.string(1, name);
                        label.string(2, value);
                    });
                };
                label("__name__", &metric_name(metric));
                label("instance", &format!("instance-{node}"));
                label("job", "checkout");
                for number in 0..LABELS {
                    label(&label_name(number), &value(metric, series, number, 12));
                }
                one.message(2, |sample| {
                    sample.double(1, figure(node, metric, series));
                    sample.varint(2, POINT_MILLIS);
                });
            });
        }
    }
    let packed = snap::raw::Encoder::new().compress_vec(out.as_bytes());
    Bytes::from(packed.expect("a corpus is far smaller than 4 GiB"))
}

/// A page of 100 series as a target shows it: half of them counters, no two targets with the same values.
pub(crate) fn page(target: u32) -> Bytes {
    let mut out = String::with_capacity(16 * 1024);
    for metric in 0..10 {
        let (kind, suffix) = if metric % 2 == 0 { ("counter", "_total") } else { ("gauge", "") };
        let name = format!("{}{suffix}", metric_name(metric));
        out.push_str(&format!("# HELP {name} Of the load.\n# TYPE {name} {kind}\n"));
        for series in 0..10 {
            let path = value(metric, series, 0, 12);
            let figure = mixed(target, metric, series) >> 40;
            out.push_str(&format!("{name}{{code=\"200\",method=\"GET\",path=\"/{path}\"}} {figure}\n"));
        }
    }
    Bytes::from(out)
}

fn metric_name(metric: u32) -> String {
    format!("load_{}_{metric:02}", ["requests", "queue_items", "bytes"][(metric % 3) as usize])
}

fn label_name(label: u32) -> String {
    format!("label_{label}")
}

fn figure(node: u32, metric: u32, series: u32) -> f64 {
    (mixed(node, metric, series) >> 40) as f64 / 8.0
}

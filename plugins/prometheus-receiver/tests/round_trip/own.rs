//! Bodies that always are here.

use weir_guest::wire::Encoder;

/// Series that [`body`] tells.
pub(crate) const SERIES: usize = 28;

/// A family behind its length.
fn family(name: &str, kind: u64, unit: &str, metrics: &[&dyn Fn(&mut Encoder)]) -> Vec<u8> {
    let mut family = Encoder::new();
    family.string(1, name);
    family.string(2, &format!("About \\ {name}\n\"."));
    family.varint(3, kind);
    for metric in metrics {
        family.message(4, metric);
    }
    family.nonempty_bytes(5, unit);
    let mut out = Encoder::new();
    out.raw_varint(family.len() as u64);
    out.raw(family.as_bytes());
    out.into_bytes()
}

fn label(out: &mut Encoder, name: &str, value: &str) {
    out.message(1, |label| {
        label.string(1, name);
        label.string(2, value);
    });
}

fn time(out: &mut Encoder, field: u32, seconds: u64) {
    out.message(field, |time| {
        time.varint(1, seconds);
        time.varint(2, 5_000_000);
    });
}

fn exemplar(out: &mut Encoder, field: u32, value: f64, has_time: bool) {
    out.message(field, |exemplar| {
        label(exemplar, "trace_id", "0af7651916cd43dd8448eb211c80319c");
        label(exemplar, "k\u{e9}", "v");
        exemplar.double(2, value);
        if has_time {
            time(exemplar, 3, 1_749_999_999);
        }
    });
}

fn bucket(out: &mut Encoder, count: u64, bound: f64, of: Option<f64>) {
    out.message(3, |out| {
        out.varint(1, count);
        out.double(2, bound);
        if let Some(value) = of {
            exemplar(out, 3, value, value < 1.0);
        }
    });
}

fn side(out: &mut Encoder, field: u32, spans: &[(i64, u64)], deltas: &[i64]) {
    for (offset, length) in spans {
        out.message(field, |span| {
            span.sint(1, *offset);
            span.varint(2, *length);
        });
    }
    for delta in deltas {
        out.sint(field + 1, *delta);
    }
}

fn counter() -> Vec<u8> {
    family(
        "req_seconds_total",
        0,
        "",
        &[
            &|metric| {
                label(metric, "a", "\u{fc}\"\\\n");
                label(metric, "empty", "");
                label(metric, "job", "of the exposed");
                metric.message(3, |out| {
                    out.double(1, 5.5);
                    exemplar(out, 2, 0.5, true);
                    time(out, 3, 1_749_000_000);
                });
            },
            &|metric| {
                label(metric, "a", "2");
                metric.message(3, |out| {
                    out.double(1, 9_007_199_254_740_993.0);
                    exemplar(out, 2, 2.0, false);
                });
                metric.int(6, 1_749_999_999_001);
            },
            &|metric| metric.message(3, |_| {}),
        ],
    )
}

fn numbers() -> Vec<u8> {
    let gauge = family(
        "g.with dots_celsius",
        1,
        "celsius",
        &[
            &|metric| metric.message(2, |out| out.double(1, f64::NAN)),
            &|metric| {
                label(metric, "sign", "minus");
                metric.message(2, |out| out.double(1, -0.0));
            },
            &|metric| {
                label(metric, "sign", "infinite");
                metric.message(2, |out| out.double(1, f64::NEG_INFINITY));
                metric.int(6, 1_749_999_999_999);
            },
        ],
    );
    let untyped = family("u", 3, "", &[&|metric| metric.message(5, |out| out.double(1, 1e-300))]);
    [gauge, untyped].concat()
}

fn summary() -> Vec<u8> {
    family(
        "s_bytes",
        2,
        "bytes",
        &[&|metric| {
            metric.message(4, |out| {
                out.varint(1, 2);
                out.double(2, 3.5);
                for (quantile, value) in [(0.5, 1.0), (0.99, f64::NAN)] {
                    out.message(3, |out| {
                        out.double(1, quantile);
                        out.double(2, value);
                    });
                }
                time(out, 4, 1_749_000_001);
            });
        }],
    )
}

fn classic() -> Vec<u8> {
    family(
        "h_seconds",
        4,
        "seconds",
        &[
            &|metric| {
                label(metric, "end", "said");
                metric.message(7, |out| {
                    out.varint(1, 7);
                    out.double(2, 9.25);
                    bucket(out, 2, 0.1, Some(0.05));
                    bucket(out, 5, 1.0, None);
                    bucket(out, 7, f64::INFINITY, Some(4.0));
                    time(out, 15, 1_749_000_002);
                });
            },
            &|metric| {
                label(metric, "end", "open");
                metric.message(7, |out| {
                    out.varint(1, 3);
                    bucket(out, 3, 1e9, None);
                });
            },
            &|metric| {
                label(metric, "end", "none");
                metric.message(7, |out| {
                    out.varint(1, 4);
                    out.double(2, 1.0);
                });
            },
        ],
    )
}

/// Native histograms: with gaps of each length, below zero, beside classic buckets, of both ends of the schemas, empty, infinite.
fn native() -> Vec<u8> {
    family(
        "n_seconds",
        4,
        "seconds",
        &[
            &|metric| {
                label(metric, "which", "gaps");
                metric.message(7, |out| {
                    out.varint(1, 23);
                    out.double(2, 3.25);
                    out.sint(5, 3);
                    out.double(6, 0.001);
                    out.varint(7, 1);
                    side(out, 9, &[(-2, 1)], &[2]);
                    side(out, 12, &[(-9, 2), (1, 1), (2, 2), (40, 1)], &[3, 2, -4, 0, 3, 1]);
                    time(out, 15, 1_749_000_003);
                    exemplar(out, 16, 0.5, true);
                    exemplar(out, 16, 2.0, false);
                });
            },
            &|metric| {
                label(metric, "which", "beside");
                metric.message(7, |out| {
                    out.varint(1, 3);
                    out.double(2, 4.5);
                    bucket(out, 1, 0.5, Some(0.25));
                    bucket(out, 3, 2.0, None);
                    out.sint(5, 0);
                    out.double(6, 0.25);
                    side(out, 12, &[(0, 2)], &[1, 1]);
                });
            },
            &|metric| {
                label(metric, "which", "finest");
                metric.message(7, |out| {
                    out.varint(1, 1);
                    out.double(2, 1.0);
                    out.sint(5, 8);
                    side(out, 12, &[(7, 1)], &[1]);
                });
                metric.int(6, 1_749_999_999_002);
            },
            &|metric| {
                label(metric, "which", "coarsest, infinite");
                metric.message(7, |out| {
                    out.varint(1, 5);
                    out.double(2, f64::INFINITY);
                    out.sint(5, -4);
                    side(out, 12, &[(-3, 1), (66, 2)], &[1, 2, -2]);
                });
            },
            &|metric| {
                label(metric, "which", "empty");
                metric.message(7, |out| side(out, 12, &[(0, 0)], &[]));
            },
        ],
    )
}

/// A family of each type, and each with what is easy to lose.
pub(crate) fn body() -> Vec<u8> {
    [counter(), numbers(), summary(), classic(), native()].concat()
}

/// Bodies with a counter and a histogram that OTLP has not, and how many series each tells.
pub(crate) fn lost() -> Vec<(&'static str, Vec<u8>, usize)> {
    let counter = family("c_total", 0, "", &[&|metric| metric.message(3, |out| out.double(1, 1.0))]);
    let histogram = |kind: u64, schema: i64, count_float: f64, has_classic: bool| {
        let histogram = family(
            "x",
            kind,
            "",
            &[&|metric| {
                metric.message(7, |out| {
                    out.varint(1, 3);
                    out.double(2, 4.5);
                    if count_float > 0.0 {
                        out.double(4, count_float);
                    }
                    if has_classic {
                        bucket(out, 1, 0.5, Some(0.25));
                        bucket(out, 3, 2.0, None);
                    }
                    out.sint(5, schema);
                    side(out, 12, &[(0, 2)], &[1, 1]);
                });
            }],
        );
        [counter.clone(), histogram].concat()
    };
    vec![
        ("floats", histogram(4, 1, 3.0, false), 1),
        ("floats and classic", histogram(4, 1, 3.0, true), 6),
        ("schema 9", histogram(4, 9, 0.0, false), 1),
        ("schema 9 and classic", histogram(4, 9, 0.0, true), 6),
        ("custom buckets", histogram(4, -53, 0.0, false), 4),
        ("custom buckets and classic", histogram(4, -53, 0.0, true), 6),
        ("gauge", histogram(5, 1, 0.0, false), 1),
        ("gauge and classic", histogram(5, 1, 0.0, true), 1),
    ]
}

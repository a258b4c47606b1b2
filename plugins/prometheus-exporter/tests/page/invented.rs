//! Random metrics, and what a strict reader says of their page.

use std::time::Instant;

use weir_guest::Outcome;
use weir_guest::wire::Encoder;

use crate::fetch::{absorb, check_all, exporter};
use crate::vectors::SETTINGS;

/// Names and keys that have something about them.
const NAMES: [&str; 22] = [
    "a",
    "a.b",
    "a_b",
    "a__b",
    "a_total",
    "a_created",
    "a_info",
    "a_count",
    "a_sum",
    "a_bucket",
    "total",
    "le",
    "quantile",
    "__name__",
    "job",
    "é.ü",
    "1st",
    "with \"quotes\"\n",
    "back\\slash",
    "weir_page_series",
    "seconds",
    "",
];

const UNITS: [&str; 8] = ["", "s", "1", "By/s", "{x}", "%", "a\"b", "KiBy/{y}"];

const KINDS: [&str; 6] = ["", "gauge", "unknown", "info", "stateset", "counter"];

struct Inventor(fastrand::Rng);

impl Inventor {
    fn pick<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.0.usize(..from.len())]
    }

    fn number(&mut self) -> f64 {
        match self.0.u8(..12) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -1.5,
            4 => 0.0,
            5 => f64::MIN_POSITIVE,
            6 => f64::from_bits(self.0.u64(..)),
            _ => f64::from(self.0.u32(..100)) / 4.0,
        }
    }

    fn attributes(&mut self, out: &mut Encoder, field: u32, most: usize) {
        for _ in 0..self.0.usize(..=most) {
            let key = self.pick(&NAMES);
            match self.0.u8(..7) {
                0 => out.attribute_int(field, key, self.0.i64(..)),
                1 => out.attribute_double(field, key, self.number()),
                2 => out.attribute_bool(field, key, self.0.bool()),
                3 => out.attribute_bytes(field, key, [0xff, 0, b'"', b'\n']),
                4 => out.attribute_str(field, key, [0xff, 0xfe, b'"']),
                _ => out.attribute_str(field, key, self.pick(&NAMES)),
            }
        }
    }

    fn times(&mut self, out: &mut Encoder) {
        out.nonzero_fixed64(2, self.0.u64(..4));
        out.nonzero_fixed64(3, self.0.u64(..6));
    }

    fn exemplars(&mut self, out: &mut Encoder, field: u32) {
        for _ in 0..self.0.usize(..3) {
            out.message(field, |out| {
                out.fixed64(2, self.0.u64(..));
                out.double(3, self.number());
                out.bytes(4, [self.0.u8(..2); 8]);
                out.bytes(5, [self.0.u8(..2); 16]);
                self.attributes(out, 7, 3);
            });
        }
    }

    /// A point of the kind of data of a field.
    fn point(&mut self, out: &mut Encoder, field: u32) {
        if field != 10 {
            self.times(out);
        }
        let flags = u64::from(self.0.u8(..20) == 0);
        match field {
            5 | 7 => {
                if self.0.bool() {
                    out.double(4, self.number())
                } else {
                    out.fixed64(6, self.0.u64(..))
                }
                self.exemplars(out, 5);
                self.attributes(out, 7, 4);
                out.nonzero_varint(8, flags);
            }
            9 => {
                let counts: Vec<u64> = (0..self.0.usize(..6)).map(|_| self.0.u64(..9)).collect();
                let bounds = counts.len().saturating_sub(usize::from(self.0.u8(..9) > 0));
                let bounds: Vec<f64> = (0..bounds).map(|at| at as f64 - f64::from(self.0.u8(..2))).collect();
                out.fixed64(4, counts.iter().sum());
                if self.0.bool() {
                    out.double(5, self.number());
                }
                out.packed_fixed64(6, counts.into_iter());
                out.packed_double(7, bounds.into_iter());
                self.exemplars(out, 8);
                self.attributes(out, 9, 4);
                out.nonzero_varint(10, flags);
            }
            10 => self.exponential(out, flags),
            _ => {
                out.fixed64(4, self.0.u64(..9));
                out.double(5, self.number());
                for _ in 0..self.0.usize(..4) {
                    out.message(6, |out| {
                        out.double(1, self.number());
                        out.double(2, self.number());
                    });
                }
                self.attributes(out, 7, 4);
                out.nonzero_varint(8, flags);
            }
        }
    }

    fn exponential(&mut self, out: &mut Encoder, flags: u64) {
        let sides = [(); 2].map(|()| (0..self.0.usize(..9)).map(|_| self.0.u64(..4)).collect::<Vec<u64>>());
        let zero = self.0.u64(..3);
        self.attributes(out, 1, 4);
        self.times(out);
        out.fixed64(4, zero + sides.iter().flatten().sum::<u64>());
        if self.0.bool() {
            out.double(5, self.number());
        }
        let scale = if self.0.u8(..5) == 0 { self.0.i32(..) } else { self.0.i32(-4..10) };
        out.sint(6, i64::from(scale));
        out.fixed64(7, zero);
        for (field, counts) in (8..).zip(sides) {
            let offset = if self.0.u8(..5) == 0 { self.0.i32(..) } else { self.0.i32(-9..9) };
            out.message(field, |out| {
                out.sint(1, i64::from(offset));
                out.packed_varint(2, counts);
            });
        }
        out.nonzero_varint(10, flags);
        self.exemplars(out, 11);
        out.double(14, f64::from(self.0.u8(..3)));
    }

    fn metric(&mut self, out: &mut Encoder) {
        out.string(1, self.pick(&NAMES));
        out.string(2, self.pick(&NAMES));
        out.string(3, self.pick(&UNITS));
        let field = [5, 7, 7, 9, 10, 11][self.0.usize(..6)];
        out.message(field, |data| {
            for _ in 0..self.0.usize(..5) {
                data.message(1, |point| self.point(point, field));
            }
            data.nonzero_varint(2, self.0.u64(..4).min(2));
            if field == 7 && self.0.bool() {
                data.bool(3, true);
            }
        });
        out.attribute_str(12, "prometheus.type", self.pick(&KINDS));
    }

    fn batch(&mut self) -> Vec<u8> {
        let mut out = Encoder::new();
        for _ in 0..self.0.usize(1..3) {
            out.message(1, |group| {
                group.message(1, |resource| {
                    for key in ["service.name", "service.namespace", "service.instance.id"] {
                        if self.0.bool() {
                            resource.attribute_str(1, key, self.pick(&NAMES));
                        }
                    }
                    self.attributes(resource, 1, 3);
                });
                for _ in 0..self.0.usize(..3) {
                    group.message(2, |group| {
                        group.message(1, |scope| {
                            scope.string(1, self.pick(&NAMES));
                            self.attributes(scope, 3, 2);
                        });
                        for _ in 0..self.0.usize(..4) {
                            group.message(2, |metric| self.metric(metric));
                        }
                    });
                }
            });
        }
        out.into_bytes()
    }
}

/// Scenario: batches of random metrics with odd names, values, times, types and counts, one after the other, by each setting.
/// Guarantees: nothing is refused as a whole, and after each few every page is one that a strict reader reads. The seed is
/// printed.
#[test]
fn pages_of_random_metrics_are_read_by_strict_readers() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut inventor = Inventor(fastrand::Rng::with_seed(seed));
    for settings in SETTINGS {
        for _ in 0..12 {
            let mut exporter = exporter(settings);
            for round in 0..4 {
                for _ in 0..3 {
                    let outcome = absorb(&mut exporter, inventor.batch(), round);
                    assert!(matches!(outcome, Outcome::Accepted | Outcome::Partial(_)), "{outcome:?}");
                }
                check_all(&mut exporter, round, settings);
            }
        }
    }
}

/// Scenario: batches of random metrics with random bytes changed, cut off, put in, for a second.
/// Guarantees: no panic; what is left is a page that a strict reader reads. The seed is printed.
#[test]
fn broken_batches_leave_a_whole_page() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut inventor = Inventor(fastrand::Rng::with_seed(seed));
    let mut exporter = exporter(r#"{"series_max": 1000}"#);
    let started = Instant::now();
    let mut batches = 0_u64;
    while started.elapsed().as_millis() < 1_000 {
        let mut body = inventor.batch();
        for _ in 0..inventor.0.usize(1..6) {
            if body.is_empty() {
                break;
            }
            let at = inventor.0.usize(..body.len());
            match inventor.0.u8(..8) {
                0 => body.truncate(at),
                1 => body.insert(at, inventor.0.u8(..)),
                _ => body[at] = inventor.0.u8(..),
            }
        }
        drop(absorb(&mut exporter, body, batches));
        batches += 1;
    }
    check_all(&mut exporter, batches, "broken batches");
    assert!(batches > 10, "{batches}");
}

/// Scenario: a batch of a thousand points with ten attributes, absorbed again and again.
/// Guarantees: it is said how long that takes; no machine is held to it.
#[test]
fn a_thousand_points_are_timed() {
    let mut out = Encoder::new();
    out.message(1, |group| {
        group.message(1, |resource| resource.attribute_str(1, "service.name", "shop"));
        group.message(2, |group| {
            for metric in 0..20 {
                group.message(2, |out| {
                    out.string(1, &format!("http.server.requests.{metric}"));
                    out.message(7, |data| {
                        for point in 0..50 {
                            data.message(1, |out| {
                                out.fixed64(2, 1);
                                out.fixed64(3, 2);
                                out.fixed64(6, 5);
                                for key in 0..9 {
                                    out.attribute_str(7, format!("http.attribute.{key}"), "some value");
                                }
                                out.attribute_int(7, "point", point);
                            });
                        }
                        data.varint(2, 2);
                        data.bool(3, true);
                    });
                });
            }
        });
    });
    let body = out.into_bytes();
    let mut exporter = exporter("{}");
    let rounds = 20;
    let started = Instant::now();
    for _ in 0..rounds {
        assert_eq!(absorb(&mut exporter, body.clone(), 1), Outcome::Accepted);
    }
    println!("{:?} for 1,000 points", started.elapsed() / rounds);
}

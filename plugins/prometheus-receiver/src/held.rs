//! Points that are made of several samples, held until the scrape is over: a histogram's buckets, a counter and its start.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use weir_guest::wire::Encoder;
use weir_prometheus::family::{Histogram, Summary, Value};

use crate::families::Role;
use crate::room::{PART_COST, POINT_COST};
use crate::series::AsIs;

/// Buckets or quantiles of one point; clients have a dozen.
const PARTS_MAX: usize = 16_384;

/// Which point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'k> {
    pub(crate) metric: usize,
    pub(crate) hash: u64,
    pub(crate) time: Option<i64>,
    pub(crate) attributes: &'k [u8],
}

/// A point.
pub(crate) struct Point {
    pub(crate) metric: usize,
    pub(crate) hash: u64,
    pub(crate) time: Option<i64>,
    pub(crate) start: u64,
    pub(crate) value: Option<Value>,
    pub(crate) samples: u16,
    /// Encoded.
    pub(crate) exemplars: Encoder,
    from: usize,
    to: usize,
}

/// What a sample has of a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) value: f64,
    /// Of a bucket, or which quantile.
    pub(crate) bound: f64,
    /// What the point is.
    pub(crate) of: Of,
}

/// What a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Number,
    Histogram,
    Summary,
}

/// Points by metric, attributes and time.
#[derive(Default)]
pub(crate) struct Held {
    points: Vec<Point>,
    by_key: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    bytes: Vec<u8>,
    /// What is in the points, beside their attributes.
    parts_bytes: usize,
}

impl Held {
    /// What all points cost.
    pub(crate) fn bytes(&self) -> usize {
        self.points.len() * POINT_COST + self.bytes.len() * 2 + self.parts_bytes
    }

    /// Counts what a point has got.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.parts_bytes += bytes;
    }

    /// All points, in the order of their first samples.
    pub(crate) fn take(self) -> impl Iterator<Item = (Point, Vec<u8>)> {
        let bytes = self.bytes;
        self.points.into_iter().map(move |point| {
            let attributes = bytes[point.from..point.to].to_vec();
            (point, attributes)
        })
    }

    /// The point of a sample, new or not.
    pub(crate) fn point(&mut self, key: Key<'_>) -> &mut Point {
        let place = self.find(key).unwrap_or_else(|| {
            let from = self.bytes.len();
            self.bytes.extend_from_slice(key.attributes);
            self.by_key.insert(hash_at(key), self.points.len());
            self.points.push(Point {
                metric: key.metric,
                hash: key.hash,
                time: key.time,
                start: 0,
                value: None,
                samples: 0,
                exemplars: Encoder::new(),
                from,
                to: self.bytes.len(),
            });
            self.points.len() - 1
        });
        &mut self.points[place]
    }

    fn find(&self, key: Key<'_>) -> Option<usize> {
        let is_it = |place: &usize| {
            self.points.get(*place).is_some_and(|point| {
                point.metric == key.metric
                    && point.time == key.time
                    && self.bytes[point.from..point.to] == *key.attributes
            })
        };
        let last = self.points.len().checked_sub(1).filter(is_it);
        last.or_else(|| self.by_key.get(&hash_at(key)).copied().filter(is_it))
    }
}

/// A hash of a series and a time.
pub(crate) fn hash_at(key: Key<'_>) -> u64 {
    let time = key.time.map_or(0, |time| time.cast_unsigned() | 1);
    key.hash ^ time.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Point {
    /// Takes a sample's part; returns what it costs.
    ///
    /// # Errors
    /// Why it has no place.
    pub(crate) fn set(&mut self, part: Part) -> Result<usize, &'static str> {
        let Part { role, value, bound, of } = part;
        self.samples = self.samples.saturating_add(1);
        if role == Role::Start {
            // Seconds; before 1970 nothing was measured, and a double has no nanoseconds beyond.
            self.start = if value > 0.0 && value < 1.8e10 { (value * 1e9) as u64 } else { 0 };
            return Ok(0);
        }
        if of == Of::Number {
            return match self.value.replace(Value::Number(value)) {
                Some(first) => {
                    self.value = Some(first);
                    Err(TWICE)
                }
                None => Ok(0),
            };
        }
        let held = self.value.get_or_insert_with(|| match of {
            Of::Number | Of::Histogram => Value::Histogram(Histogram::default()),
            Of::Summary => Value::Summary(Summary::default()),
        });
        match (held, role) {
            (Value::Histogram(Histogram { buckets: list, .. }), Role::Bucket)
            | (Value::Summary(Summary { quantiles: list, .. }), Role::Value) => {
                if list.len() == PARTS_MAX {
                    return Err("a bucket or quantile more than are taken");
                }
                list.push((bound, value));
                Ok(PART_COST)
            }
            (Value::Histogram(Histogram { count: held, .. }), Role::Count)
            | (Value::Summary(Summary { count: held, .. }), Role::Count)
            | (Value::Histogram(Histogram { sum: held, .. }), Role::Sum)
            | (Value::Summary(Summary { sum: held, .. }), Role::Sum) => match held {
                Some(_) => Err(TWICE),
                None => {
                    *held = Some(value);
                    Ok(0)
                }
            },
            _ => Err("a sample that its family has not"),
        }
    }
}

/// Why a sample is dropped whose series has had one at that time.
pub(crate) const TWICE: &str = "a duplicate of a series";

//! Metrics and their data points.

use super::{Each, KeyValues, View, Window};
use crate::reader::{Field, Malformed, Reader, Value, unzigzag, varint};

/// A `Metric`.
#[derive(Clone, Debug)]
pub struct MetricView<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// For a person.
    pub description: &'a [u8],
    /// UCUM.
    pub unit: &'a [u8],
    /// Its kind and its points.
    pub data: MetricData<'a>,
    message: &'a [u8],
    metadata: Window,
}

/// The data of a metric. A temporality is 0 unspecified, 1 delta, 2 cumulative.
#[derive(Clone, Debug)]
pub enum MetricData<'a> {
    /// None, or of a kind that this version does not know.
    Empty,
    /// `gauge`.
    Gauge(Each<'a, NumberPointView<'a>>),
    /// `sum`.
    Sum {
        /// Its points.
        points: Each<'a, NumberPointView<'a>>,
        /// How points follow on each other.
        temporality: i32,
        /// Whether it only grows.
        is_monotonic: bool,
    },
    /// `histogram`.
    Histogram {
        /// Its points.
        points: Each<'a, HistogramPointView<'a>>,
        /// How points follow on each other.
        temporality: i32,
    },
    /// `exponential_histogram`.
    ExponentialHistogram {
        /// Its points.
        points: Each<'a, ExponentialPointView<'a>>,
        /// How points follow on each other.
        temporality: i32,
    },
    /// `summary`.
    Summary(Each<'a, SummaryPointView<'a>>),
}

/// The number of a point or an exemplar.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Number {
    /// None was given.
    #[default]
    Empty,
    /// `as_int`.
    Int(i64),
    /// `as_double`.
    Double(f64),
}

/// A `NumberDataPoint`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberPointView<'a> {
    /// Nanoseconds since 1970; 0 is unknown.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// The value.
    pub value: Number,
    /// Bit 0: no recorded value.
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
    exemplars: Window,
}

/// A `HistogramDataPoint`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistogramPointView<'a> {
    /// Nanoseconds since 1970; 0 is unknown.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// Values in the population.
    pub count: u64,
    /// Sum of the values, where it means something.
    pub sum: Option<f64>,
    /// Least value.
    pub min: Option<f64>,
    /// Greatest value.
    pub max: Option<f64>,
    /// Bit 0: no recorded value.
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
    exemplars: Window,
    bucket_counts: Window,
    explicit_bounds: Window,
}

/// An `ExponentialHistogramDataPoint`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExponentialPointView<'a> {
    /// Nanoseconds since 1970; 0 is unknown.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// Values in the population.
    pub count: u64,
    /// Sum of the values, where it means something.
    pub sum: Option<f64>,
    /// The base is 2^(2^-scale).
    pub scale: i32,
    /// Values in the bucket around zero.
    pub zero_count: u64,
    /// Half the width of the bucket around zero.
    pub zero_threshold: f64,
    /// Positive values.
    pub positive: BucketsView<'a>,
    /// Negative values.
    pub negative: BucketsView<'a>,
    /// Least value.
    pub min: Option<f64>,
    /// Greatest value.
    pub max: Option<f64>,
    /// Bit 0: no recorded value.
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
    exemplars: Window,
}

/// The `Buckets` of an exponential histogram.
#[derive(Clone, Copy, Debug, Default)]
pub struct BucketsView<'a> {
    /// Index of the first bucket.
    pub offset: i32,
    message: &'a [u8],
    counts: Window,
}

/// A `SummaryDataPoint`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SummaryPointView<'a> {
    /// Nanoseconds since 1970; 0 is unknown.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// Values in the population.
    pub count: u64,
    /// Sum of the values.
    pub sum: f64,
    /// Bit 0: no recorded value.
    pub flags: u32,
    message: &'a [u8],
    attributes: Window,
    quantiles: Window,
}

/// A `ValueAtQuantile`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuantileView {
    /// 0 to 1.
    pub quantile: f64,
    /// The value there.
    pub value: f64,
}

/// An `Exemplar`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExemplarView<'a> {
    /// Nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// The value.
    pub value: Number,
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    message: &'a [u8],
    filtered_attributes: Window,
}

/// A repeated `fixed64`, packed or not. Doubles come as their bits.
#[derive(Clone, Debug)]
pub struct Fixed64s<'a> {
    reader: Reader<'a>,
    number: u32,
    chunk: &'a [u8],
}

/// A repeated `uint64`, packed or not.
#[derive(Clone, Debug)]
pub struct Varints<'a> {
    reader: Reader<'a>,
    number: u32,
    chunk: &'a [u8],
}

// === impl MetricView ===

impl<'a> View<'a> for MetricView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self {
            name: &[],
            description: &[],
            unit: &[],
            data: MetricData::Empty,
            message,
            metadata: Window::default(),
        };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(name)) => view.name = name,
                (2, Value::Bytes(description)) => view.description = description,
                (3, Value::Bytes(unit)) => view.unit = unit,
                (5 | 7 | 9 | 10 | 11, Value::Bytes(data)) => {
                    view.data = MetricData::parse(field.number, data)
                        .map_err(|malformed| malformed.shifted(field.end - data.len()))?;
                }
                (12, _) => view.metadata.widen(&field),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> MetricView<'a> {
    /// Reads a `Metric` message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        View::parse(message)
    }

    /// What else is known of it.
    #[must_use]
    pub fn metadata(&self) -> KeyValues<'a> {
        KeyValues::new(self.metadata.of(self.message), 12)
    }
}

// === impl MetricData ===

impl<'a> MetricData<'a> {
    fn parse(number: u32, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut temporality = 0;
        let mut is_monotonic = false;
        let mut reader = Reader::new(data);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Varint(value)) => temporality = value as i32,
                (3, Value::Varint(value)) => is_monotonic = value != 0,
                _ => {}
            }
        }
        Ok(match number {
            5 => Self::Gauge(Each::new(data, 1)),
            7 => Self::Sum { points: Each::new(data, 1), temporality, is_monotonic },
            9 => Self::Histogram { points: Each::new(data, 1), temporality },
            10 => Self::ExponentialHistogram { points: Each::new(data, 1), temporality },
            11 => Self::Summary(Each::new(data, 1)),
            // The caller asks for these five only.
            _ => Self::Empty,
        })
    }
}

// === impl points ===

impl<'a> View<'a> for NumberPointView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(bits)) => view.value = Number::Double(f64::from_bits(bits)),
                (5, _) => view.exemplars.widen(&field),
                (6, Value::Fixed64(bits)) => view.value = Number::Int(bits.cast_signed()),
                (7, _) => view.attributes.widen(&field),
                (8, Value::Varint(flags)) => view.flags = flags as u32,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> NumberPointView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 7)
    }

    /// Its exemplars.
    #[must_use]
    pub fn exemplars(&self) -> Each<'a, ExemplarView<'a>> {
        Each::new(self.exemplars.of(self.message), 5)
    }
}

impl<'a> View<'a> for HistogramPointView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(count)) => view.count = count,
                (5, Value::Fixed64(bits)) => view.sum = Some(f64::from_bits(bits)),
                (6, _) => view.bucket_counts.widen_packed(&field)?,
                (7, _) => view.explicit_bounds.widen_packed(&field)?,
                (8, _) => view.exemplars.widen(&field),
                (9, _) => view.attributes.widen(&field),
                (10, Value::Varint(flags)) => view.flags = flags as u32,
                (11, Value::Fixed64(bits)) => view.min = Some(f64::from_bits(bits)),
                (12, Value::Fixed64(bits)) => view.max = Some(f64::from_bits(bits)),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> HistogramPointView<'a> {
    /// Values in each bucket.
    #[must_use]
    pub fn bucket_counts(&self) -> Fixed64s<'a> {
        Fixed64s::new(self.bucket_counts.of(self.message), 6)
    }

    /// Upper bounds of the buckets but the last.
    pub fn explicit_bounds(&self) -> impl Iterator<Item = f64> + Clone + use<'a> {
        Fixed64s::new(self.explicit_bounds.of(self.message), 7).map(f64::from_bits)
    }

    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 9)
    }

    /// Its exemplars.
    #[must_use]
    pub fn exemplars(&self) -> Each<'a, ExemplarView<'a>> {
        Each::new(self.exemplars.of(self.message), 8)
    }
}

impl<'a> View<'a> for ExponentialPointView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, _) => view.attributes.widen(&field),
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(count)) => view.count = count,
                (5, Value::Fixed64(bits)) => view.sum = Some(f64::from_bits(bits)),
                (6, Value::Varint(scale)) => view.scale = unzigzag(u64::from(scale as u32)) as i32,
                (7, Value::Fixed64(count)) => view.zero_count = count,
                (8, Value::Bytes(buckets)) => view.positive = BucketsView::parse_in(&field, buckets)?,
                (9, Value::Bytes(buckets)) => view.negative = BucketsView::parse_in(&field, buckets)?,
                (10, Value::Varint(flags)) => view.flags = flags as u32,
                (11, _) => view.exemplars.widen(&field),
                (12, Value::Fixed64(bits)) => view.min = Some(f64::from_bits(bits)),
                (13, Value::Fixed64(bits)) => view.max = Some(f64::from_bits(bits)),
                (14, Value::Fixed64(bits)) => view.zero_threshold = f64::from_bits(bits),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> ExponentialPointView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 1)
    }

    /// Its exemplars.
    #[must_use]
    pub fn exemplars(&self) -> Each<'a, ExemplarView<'a>> {
        Each::new(self.exemplars.of(self.message), 11)
    }
}

impl<'a> View<'a> for BucketsView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(offset)) => view.offset = unzigzag(u64::from(offset as u32)) as i32,
                (2, Value::Bytes(packed)) => {
                    let mut at = 0;
                    while at < packed.len() {
                        (_, at) = varint(packed, at)
                            .map_err(|malformed| malformed.shifted(field.end - packed.len()))?;
                    }
                    view.counts.widen(&field);
                }
                (2, Value::Varint(_)) => view.counts.widen(&field),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> BucketsView<'a> {
    fn parse_in(field: &Field<'_>, message: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(message).map_err(|malformed| malformed.shifted(field.end - message.len()))
    }

    /// Values in each bucket.
    #[must_use]
    pub fn counts(&self) -> Varints<'a> {
        Varints { reader: Reader::new(self.counts.of(self.message)), number: 2, chunk: &[] }
    }
}

impl<'a> View<'a> for SummaryPointView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Fixed64(time)) => view.start_time_unix_nano = time,
                (3, Value::Fixed64(time)) => view.time_unix_nano = time,
                (4, Value::Fixed64(count)) => view.count = count,
                (5, Value::Fixed64(bits)) => view.sum = f64::from_bits(bits),
                (6, _) => view.quantiles.widen(&field),
                (7, _) => view.attributes.widen(&field),
                (8, Value::Varint(flags)) => view.flags = flags as u32,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> SummaryPointView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 7)
    }

    /// Its quantiles.
    #[must_use]
    pub fn quantiles(&self) -> Each<'a, QuantileView> {
        Each::new(self.quantiles.of(self.message), 6)
    }
}

impl View<'_> for QuantileView {
    fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut view = Self::default();
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Fixed64(bits)) => view.quantile = f64::from_bits(bits),
                (2, Value::Fixed64(bits)) => view.value = f64::from_bits(bits),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> View<'a> for ExemplarView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (2, Value::Fixed64(time)) => view.time_unix_nano = time,
                (3, Value::Fixed64(bits)) => view.value = Number::Double(f64::from_bits(bits)),
                (4, Value::Bytes(id)) => view.span_id = id,
                (5, Value::Bytes(id)) => view.trace_id = id,
                (6, Value::Fixed64(bits)) => view.value = Number::Int(bits.cast_signed()),
                (7, _) => view.filtered_attributes.widen(&field),
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> ExemplarView<'a> {
    /// The attributes that the point does not have.
    #[must_use]
    pub fn filtered_attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.filtered_attributes.of(self.message), 7)
    }
}

// === numbers ===

impl Window {
    /// For packed eight-byte numbers, so that going through them later cannot fail.
    fn widen_packed(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        if field.value.bytes().is_some_and(|packed| !packed.len().is_multiple_of(8)) {
            return Err(Malformed { at: field.start, what: "a packed list ends inside a number" });
        }
        self.widen(field);
        Ok(())
    }
}

impl<'a> Fixed64s<'a> {
    fn new(message: &'a [u8], number: u32) -> Self {
        Self { reader: Reader::new(message), number, chunk: &[] }
    }
}

impl Iterator for Fixed64s<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            if let Some((number, rest)) = self.chunk.split_first_chunk::<8>() {
                self.chunk = rest;
                return Some(u64::from_le_bytes(*number));
            }
            // The frames were read when the view was made.
            let field = self.reader.next().ok().flatten()?;
            match field.value {
                Value::Bytes(packed) if field.number == self.number => self.chunk = packed,
                Value::Fixed64(number) if field.number == self.number => return Some(number),
                _ => {}
            }
        }
    }
}

impl Iterator for Varints<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            if !self.chunk.is_empty() {
                // The chunk was read when the view was made.
                let (number, at) = varint(self.chunk, 0).ok()?;
                self.chunk = &self.chunk[at..];
                return Some(number);
            }
            let field = self.reader.next().ok().flatten()?;
            match field.value {
                Value::Bytes(packed) if field.number == self.number => self.chunk = packed,
                Value::Varint(number) if field.number == self.number => return Some(number),
                _ => {}
            }
        }
    }
}

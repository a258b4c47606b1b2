//! Metrics.
//!
//! ```text
//! Metric             metric_descriptor = 1 · timeseries = 2, repeated · resource = 3
//! MetricDescriptor   name = 1 · description = 2 · unit = 3 · type = 4 · label_keys = 5, repeated { key = 1 }
//! TimeSeries         start_timestamp = 1 · label_values = 2, repeated { value = 1 · has_value = 2 } · points = 3, repeated
//! Point              timestamp = 1 · int64 = 2 or double = 3 or distribution = 4 or summary = 5
//! ```
//!
//! Each point of each series becomes a data point with the labels of its series, whose form the descriptor's type decides:
//!
//! | OpenCensus | OTLP |
//! |---|---|
//! | GAUGE_INT64, GAUGE_DOUBLE | Gauge 5 |
//! | CUMULATIVE_INT64, CUMULATIVE_DOUBLE | Sum 7, cumulative, monotonic |
//! | CUMULATIVE_DISTRIBUTION | Histogram 9, cumulative |
//! | SUMMARY | Summary 11 |
//! | any other, and none | left out and counted |

use std::borrow::Cow;

use weir_wire::{Encoder, Field, Malformed, Reader, Value};

use super::value::{Slot, double, entry, hex, message, number, put, unix_nanos, wrapped, wrapped_double};
use super::{Output, TranslateError};

/// The point is known and has no value at its time.
const NO_RECORDED_VALUE: u64 = 1;

/// Sums and histograms count from their start time on.
const CUMULATIVE: u64 = 2;

/// What a point costs beside what it copies: numbers, keys, lengths.
const POINT_BYTES_MAX: usize = 256;

/// The data points in a request; what cannot be read does not count.
pub(super) fn points(request: &[u8]) -> u64 {
    members(request, 2).map(points_of).sum()
}

fn points_of(metric: &[u8]) -> u64 {
    members(metric, 2).map(|series| members(series, 3).count() as u64).sum()
}

/// The messages of a repeated field, up to the first that cannot be read.
fn members(of: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(of);
    std::iter::from_fn(move || {
        while let Ok(Some(field)) = reader.next() {
            if field.number == number {
                return field.value.bytes();
            }
        }
        None
    })
}

/// What a metric's points become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    IntGauge,
    DoubleGauge,
    IntSum,
    DoubleSum,
    Histogram,
    Summary,
}

impl Form {
    fn of_type(descriptor_type: u64) -> Option<Self> {
        match descriptor_type {
            1 => Some(Self::IntGauge),
            2 => Some(Self::DoubleGauge),
            4 => Some(Self::IntSum),
            5 => Some(Self::DoubleSum),
            6 => Some(Self::Histogram),
            7 => Some(Self::Summary),
            _ => None,
        }
    }

    /// The field of OTLP's `Metric` that holds the points.
    fn data_field(self) -> u32 {
        match self {
            Self::IntGauge | Self::DoubleGauge => 5,
            Self::IntSum | Self::DoubleSum => 7,
            Self::Histogram => 9,
            Self::Summary => 11,
        }
    }

    /// The field of the data point that holds its attributes.
    fn attributes_field(self) -> u32 {
        match self {
            Self::IntGauge | Self::DoubleGauge | Self::IntSum | Self::DoubleSum | Self::Summary => 7,
            Self::Histogram => 9,
        }
    }

    /// The field of the data point that holds its flags.
    fn flags_field(self) -> u32 {
        match self {
            Self::IntGauge | Self::DoubleGauge | Self::IntSum | Self::DoubleSum | Self::Summary => 8,
            Self::Histogram => 10,
        }
    }
}

/// What a descriptor says.
#[derive(Default)]
struct Descriptor<'a> {
    name: &'a [u8],
    description: &'a [u8],
    unit: &'a [u8],
    of_type: u64,
    /// The first keys, as many as a point may have labels.
    keys: Vec<&'a [u8]>,
    keys_count: usize,
}

impl<'a> Descriptor<'a> {
    fn read(descriptor: &'a [u8], keys_max: usize) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut reader = Reader::new(descriptor);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => read.name = message(&field)?,
                2 => read.description = message(&field)?,
                3 => read.unit = message(&field)?,
                4 => read.of_type = number(&field)?,
                5 => {
                    let (key, _) = entry(message(&field)?)?;
                    read.keys_count += 1;
                    if read.keys.len() < keys_max {
                        read.keys.push(key);
                    }
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

/// The keys of a metric's labels, as they are written: looked at once, however many series there are.
struct Keys<'a> {
    /// The first ones, as many as a point may have labels.
    written: Vec<Cow<'a, [u8]>>,
    /// How many the descriptor names.
    count: usize,
}

/// What a series' points have in common.
struct Series<'l> {
    form: Form,
    start: u64,
    /// The labels, encoded as attributes of a point.
    labels: &'l [u8],
}

/// The value of a point.
#[derive(Default)]
enum Measured<'a> {
    #[default]
    Nothing,
    Int(i64),
    Double(f64),
    Distribution(Slot<'a>),
    Summary(Slot<'a>),
}

/// A histogram's numbers.
#[derive(Default)]
struct Distribution {
    count: u64,
    sum: f64,
    bounds: Vec<f64>,
    counts: Vec<u64>,
}

/// The text of a label's value; none where the value is missing.
fn label_text(value: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let (mut text, mut has_value): (&[u8], bool) = (&[], false);
    let mut reader = Reader::new(value);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => text = message(&field)?,
            2 => has_value = number(&field)? != 0,
            _ => {}
        }
    }
    Ok(has_value.then_some(text))
}

impl Output<'_> {
    /// Writes one metric into the group of its resource; `labels` is room for the labels of a series.
    pub(super) fn metric(&mut self, metric: &[u8], labels: &mut Encoder) -> Result<(), TranslateError> {
        let (mut descriptor, mut resource): (Slot<'_>, Slot<'_>) = (None, None);
        let mut reader = Reader::new(metric);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut descriptor, message(&field)?),
                2 => {
                    message(&field)?;
                }
                3 => put(&mut resource, message(&field)?),
                _ => {}
            }
        }
        let descriptor =
            Descriptor::read(descriptor.as_deref().unwrap_or_default(), self.limits.attributes_max as usize)?;
        let points = points_of(metric);
        let Some(form) = Form::of_type(descriptor.of_type) else {
            self.tally.metrics_untranslatable += 1;
            let points = u32::try_from(points).unwrap_or(u32::MAX);
            self.tally.points_untranslatable = self.tally.points_untranslatable.saturating_add(points);
            return Ok(());
        };
        if points == 0 {
            return Ok(());
        }
        self.enter(&resource)?;
        self.room(
            descriptor.name.len() + descriptor.description.len() + descriptor.unit.len() + POINT_BYTES_MAX,
        )?;
        let open = self.out.open(2);
        for (field, raw) in [(1, descriptor.name), (2, descriptor.description), (3, descriptor.unit)] {
            let text = self.text(raw);
            self.out.nonempty_bytes(field, text);
        }
        let written = descriptor.keys.iter().map(|key| self.text(key)).collect();
        let keys = Keys { written, count: descriptor.keys_count };
        let data = self.out.open(form.data_field());
        let mut reader = Reader::new(metric);
        while let Some(field) = reader.next()? {
            if field.number == 2 {
                self.series(form, message(&field)?, &keys, labels)?;
            }
        }
        match form {
            Form::IntSum | Form::DoubleSum => {
                self.out.varint(2, CUMULATIVE);
                self.out.bool(3, true);
            }
            Form::Histogram => self.out.varint(2, CUMULATIVE),
            Form::IntGauge | Form::DoubleGauge | Form::Summary => {}
        }
        self.out.close(data);
        self.out.close(open);
        Ok(())
    }

    fn series(
        &mut self,
        form: Form,
        series: &[u8],
        keys: &Keys<'_>,
        labels: &mut Encoder,
    ) -> Result<(), TranslateError> {
        labels.clear();
        // A series without points is read, because the message is taken whole or not at all, and nothing is written for it.
        let has_points = members(series, 3).next().is_some();
        let mut start: Slot<'_> = None;
        let mut index = 0;
        let mut reader = Reader::new(series);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut start, message(&field)?),
                2 => {
                    let text = label_text(message(&field)?)?;
                    // A value goes with the key at its place; one for which there is no key is no label.
                    match (keys.written.get(index), text) {
                        (Some(key), Some(text)) if has_points => {
                            let text = self.text(text);
                            labels.attribute_str(form.attributes_field(), key, text);
                        }
                        (None, Some(_)) if index < keys.count => self.tally.attributes_cut += 1,
                        (Some(_) | None, Some(_) | None) => {}
                    }
                    index += 1;
                }
                3 => {
                    message(&field)?;
                }
                _ => {}
            }
        }
        let common = Series { form, start: unix_nanos(start.as_deref())?, labels: labels.as_bytes() };
        for point in members(series, 3) {
            self.point(&common, point)?;
        }
        Ok(())
    }

    fn point(&mut self, series: &Series<'_>, point: &[u8]) -> Result<(), TranslateError> {
        if self.tally.items == self.limits.items_max {
            return Err(TranslateError::TooMany { limit: self.limits.items_max });
        }
        self.room(point.len() + series.labels.len() + POINT_BYTES_MAX)?;
        let mut time: Slot<'_> = None;
        let mut measured = Measured::default();
        let mut reader = Reader::new(point);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut time, message(&field)?),
                2..=5 => measured = measured.and(&field)?,
                _ => {}
            }
        }
        let open = self.out.open(1);
        self.out.nonzero_fixed64(2, series.start);
        self.out.nonzero_fixed64(3, unix_nanos(time.as_deref())?);
        match (series.form, measured) {
            (Form::IntGauge | Form::IntSum, Measured::Int(value)) => {
                self.out.fixed64(6, value.cast_unsigned())
            }
            (Form::DoubleGauge | Form::DoubleSum, Measured::Double(value)) => self.out.double(4, value),
            (Form::Histogram, Measured::Distribution(value)) => {
                self.distribution(&value.unwrap_or_default())?
            }
            (Form::Summary, Measured::Summary(value)) => self.summary(&value.unwrap_or_default())?,
            (
                Form::IntGauge
                | Form::DoubleGauge
                | Form::IntSum
                | Form::DoubleSum
                | Form::Histogram
                | Form::Summary,
                Measured::Nothing
                | Measured::Int(_)
                | Measured::Double(_)
                | Measured::Distribution(_)
                | Measured::Summary(_),
            ) => {
                self.tally.points_unset += 1;
                self.out.varint(series.form.flags_field(), NO_RECORDED_VALUE);
            }
        }
        self.out.raw(series.labels);
        self.out.close(open);
        self.tally.items += 1;
        Ok(())
    }

    fn distribution(&mut self, value: &[u8]) -> Result<(), TranslateError> {
        let Distribution { count, sum, bounds, counts } = Distribution::read(value)?;
        self.room((bounds.len() + counts.len()) * 8 + POINT_BYTES_MAX)?;
        self.out.nonzero_fixed64(4, count);
        self.out.double(5, sum);
        let rises = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if rises && counts.len() == bounds.len() + 1 {
            self.out.packed_fixed64(6, counts.iter().copied());
            self.out.packed_double(7, bounds.iter().copied());
        } else if !counts.is_empty() || !bounds.is_empty() {
            self.tally.buckets_cut += 1;
        }
        for bucket in members(value, 5) {
            let mut exemplar: Slot<'_> = None;
            let mut reader = Reader::new(bucket);
            while let Some(field) = reader.next()? {
                if field.number == 2 {
                    put(&mut exemplar, message(&field)?);
                }
            }
            if let Some(exemplar) = &exemplar {
                self.exemplar(exemplar)?;
            }
        }
        Ok(())
    }

    /// `Exemplar   value double = 1 · timestamp = 2 · attachments = 3, map`
    fn exemplar(&mut self, exemplar: &[u8]) -> Result<(), TranslateError> {
        self.room(exemplar.len() + POINT_BYTES_MAX)?;
        let mut value = 0.0;
        let mut time: Slot<'_> = None;
        let mut attachments = 0;
        let open = self.out.open(8);
        let mut reader = Reader::new(exemplar);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => value = double(&field)?,
                2 => put(&mut time, message(&field)?),
                3 => {
                    let (key, text) = entry(message(&field)?)?;
                    if attachments == self.limits.attributes_max {
                        self.tally.attributes_cut += 1;
                    } else {
                        attachments += 1;
                        self.attachment(key, text);
                    }
                }
                _ => {}
            }
        }
        self.out.nonzero_fixed64(2, unix_nanos(time.as_deref())?);
        self.out.double(3, value);
        self.out.close(open);
        Ok(())
    }

    /// The well-known attachments become ids where they are some.
    fn attachment(&mut self, key: &[u8], text: &[u8]) {
        match key {
            b"trace_id" if let Some(id) = hex::<16>(text).filter(|id| *id != [0; 16]) => {
                self.out.bytes(5, id)
            }
            b"span_id" if let Some(id) = hex::<8>(text).filter(|id| *id != [0; 8]) => self.out.bytes(4, id),
            _ => {
                let (key, text) = (self.text(key), self.text(text));
                self.out.attribute_str(7, key, text);
            }
        }
    }

    /// ```text
    /// SummaryValue   count Int64Value = 1 · sum DoubleValue = 2 · snapshot = 3
    /// Snapshot       percentile_values = 3, repeated { percentile = 1 · value = 2 }
    /// ```
    fn summary(&mut self, value: &[u8]) -> Result<(), TranslateError> {
        let (mut count, mut sum, mut snapshot): (Slot<'_>, Slot<'_>, Slot<'_>) = (None, None, None);
        let mut reader = Reader::new(value);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => put(&mut count, message(&field)?),
                2 => put(&mut sum, message(&field)?),
                3 => put(&mut snapshot, message(&field)?),
                _ => {}
            }
        }
        if let Some(count) = &count {
            self.out.nonzero_fixed64(4, at_least_zero(wrapped(count)?));
        }
        if let Some(sum) = &sum {
            self.out.double(5, wrapped_double(sum)?);
        }
        let mut reader = Reader::new(snapshot.as_deref().unwrap_or_default());
        while let Some(field) = reader.next()? {
            if field.number == 3 {
                self.quantile(message(&field)?)?;
            }
        }
        Ok(())
    }

    fn quantile(&mut self, value_at_percentile: &[u8]) -> Result<(), TranslateError> {
        // Two bytes of an empty one become twenty.
        self.room(POINT_BYTES_MAX)?;
        let (mut percentile, mut value) = (0.0, 0.0);
        let mut reader = Reader::new(value_at_percentile);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => percentile = double(&field)?,
                2 => value = double(&field)?,
                _ => {}
            }
        }
        let open = self.out.open(6);
        self.out.double(1, percentile / 100.0);
        self.out.double(2, value);
        self.out.close(open);
        Ok(())
    }
}

impl<'a> Measured<'a> {
    /// Of a oneof the last counts; a message that comes again is merged.
    fn and(self, field: &Field<'a>) -> Result<Self, Malformed> {
        Ok(match (field.number, self) {
            (2, _) => Self::Int(number(field)?.cast_signed()),
            (3, _) => Self::Double(double(field)?),
            (4, Self::Distribution(mut before)) => {
                put(&mut before, message(field)?);
                Self::Distribution(before)
            }
            (4, _) => Self::Distribution(Some(message(field)?.into())),
            (5, Self::Summary(mut before)) => {
                put(&mut before, message(field)?);
                Self::Summary(before)
            }
            (5, _) => Self::Summary(Some(message(field)?.into())),
            (_, before) => before,
        })
    }
}

impl Distribution {
    /// ```text
    /// DistributionValue   count int64 = 1 · sum = 2 · bucket_options = 4 · buckets = 5, repeated
    /// BucketOptions       explicit = 1 { bounds = 1, repeated double }
    /// Bucket              count int64 = 1 · exemplar = 2
    /// ```
    fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut reader = Reader::new(value);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => read.count = at_least_zero(number(&field)?),
                2 => read.sum = double(&field)?,
                4 => read.options(message(&field)?)?,
                // The wrapper of an int64 is a message with a number in field 1, and so is a bucket.
                5 => read.counts.push(at_least_zero(wrapped(message(&field)?)?)),
                _ => {}
            }
        }
        Ok(read)
    }

    fn options(&mut self, options: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(options);
        while let Some(field) = reader.next()? {
            if field.number != 1 {
                continue;
            }
            let mut explicit = Reader::new(message(&field)?);
            while let Some(field) = explicit.next()? {
                match (field.number, field.value) {
                    (1, Value::Bytes(packed)) => {
                        let (bounds, rest) = packed.as_chunks::<8>();
                        if !rest.is_empty() {
                            return Err(Malformed {
                                at: field.start,
                                what: "packed doubles end inside a number",
                            });
                        }
                        self.bounds.extend(bounds.iter().map(|bits| f64::from_le_bytes(*bits)));
                    }
                    (1, _) => self.bounds.push(double(&field)?),
                    (_, _) => {}
                }
            }
        }
        Ok(())
    }
}

/// A count that is not negative; a negative one is none.
fn at_least_zero(count: u64) -> u64 {
    u64::try_from(count.cast_signed()).unwrap_or(0)
}

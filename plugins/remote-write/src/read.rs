//! A message of either version, series by series.

use weir_exposition::Kind;
use weir_wire::Reader;
use weir_wire::reader::{Value, varint};

use crate::series::{Exemplar, Sample, Series};
use crate::{Fault, Version, histogram};

/// Labels, samples, exemplars, spans and buckets of one series, all in all. They are held until it is complete: 32 bytes each at
/// most, so 8 MiB. Senders cut their requests at some thousand samples.
const ENTRIES_MAX: usize = 1 << 18;

/// A native histogram with nothing in it takes as much as so many samples.
const HISTOGRAM_ENTRIES: usize = 8;

/// Texts of a request of version 2.0: a hundred times what Prometheus sends. A slice of each is held.
const SYMBOLS_MAX: usize = 1 << 20;

/// Metadata of a request of version 1.0: Prometheus sends 2,000 at once. They are held until its series are read.
const METADATA_MAX: usize = 1 << 16;

/// A request that has been looked at from outside: its frames are whole, its series are not read yet.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    version: Version,
    body: &'a [u8],
    /// None for what is no UTF-8.
    symbols: Vec<Option<&'a str>>,
    metadata: Vec<Metadata<'a>>,
}

/// What a request of version 1.0 says of a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata<'a> {
    /// Of OpenMetrics' counters without `_total`.
    pub family: &'a str,
    /// What it is.
    pub kind: Kind,
    /// For a person.
    pub help: &'a str,
    /// In Prometheus' words.
    pub unit: &'a str,
}

/// How much of one series is held.
#[derive(Debug, Default)]
pub(crate) struct Entries(usize);

impl Entries {
    pub(crate) fn add(&mut self, count: usize) -> Result<(), Fault> {
        self.0 = self.0.saturating_add(count);
        if self.0 > ENTRIES_MAX {
            return Err(Fault::beyond(format!(
                "one series has more than {ENTRIES_MAX} labels, samples and buckets; send smaller requests"
            )));
        }
        Ok(())
    }
}

impl<'a> Request<'a> {
    /// Looks at a decoded body.
    ///
    /// # Errors
    /// [`Fault`] for what is no message, or beyond a limit.
    pub fn parse(body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let mut request = Self { version, body, symbols: Vec::new(), metadata: Vec::new() };
        let mut fields = Reader::new(body);
        while let Some(field) = fields.next()? {
            match (version, field.number, field.value) {
                (Version::V1, 3, Value::Bytes(metadata)) => {
                    if request.metadata.len() == METADATA_MAX {
                        return Err(Fault::beyond(format!(
                            "a request has more than {METADATA_MAX} metadata"
                        )));
                    }
                    request.metadata.extend(read_metadata(metadata)?);
                }
                (Version::V2, 4, Value::Bytes(symbol)) => {
                    if request.symbols.len() == SYMBOLS_MAX {
                        return Err(Fault::beyond(format!("a request has more than {SYMBOLS_MAX} symbols")));
                    }
                    request.symbols.push(str::from_utf8(symbol).ok());
                }
                _ => {}
            }
        }
        match request.symbols.first() {
            None | Some(Some("")) => Ok(request),
            Some(_) => Err(Fault::unreadable("the first of the symbols must be the empty text")),
        }
    }

    /// What it says of metrics apart from their series (1.0).
    #[must_use]
    pub fn metadata(&self) -> &[Metadata<'a>] {
        &self.metadata
    }

    /// Whether this text stands anywhere in it, as far as that can be found out quickly; where it does not, no label has it as its
    /// value.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        match self.version {
            Version::V1 => self.body.windows(text.len()).any(|window| window == text.as_bytes()),
            Version::V2 => self.symbols.contains(&Some(text)),
        }
    }

    /// Hands on its series, in their order, each with its labels settled.
    ///
    /// # Errors
    /// [`Fault`] for a series that is no message or beyond a limit, and what `take` returns.
    pub fn each(&self, mut take: impl FnMut(&Series<'a>) -> Result<(), Fault>) -> Result<(), Fault> {
        let timeseries = match self.version {
            Version::V1 => 1,
            Version::V2 => 5,
        };
        let mut series = Series::default();
        let mut fields = Reader::new(self.body);
        while let Some(field) = fields.next()? {
            if let (Some(message), true) = (field.value.bytes(), field.number == timeseries) {
                series.clear();
                match self.version {
                    Version::V1 => read_v1(message, &mut series)?,
                    Version::V2 => self.read_v2(message, &mut series)?,
                }
                series.settle();
                take(&series)?;
            }
        }
        Ok(())
    }

    fn read_v2(&self, message: &'a [u8], series: &mut Series<'a>) -> Result<(), Fault> {
        let mut entries = Entries::default();
        let mut refs = Refs::default();
        let mut fields = Reader::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, value) => {
                    let Series { labels, fault, .. } = series;
                    refs.read(value, &mut entries, &self.symbols, labels, fault)?;
                }
                (2, Value::Bytes(sample)) => {
                    entries.add(1)?;
                    series.samples.push(read_sample(sample, self.version)?);
                }
                (3, Value::Bytes(message)) => {
                    entries.add(HISTOGRAM_ENTRIES)?;
                    series.histograms.push(histogram::read(message, self.version, &mut entries)?);
                }
                (4, Value::Bytes(exemplar)) => {
                    entries.add(1)?;
                    // One that cannot be read is not there; its series is as good as before.
                    series.exemplars.extend(self.read_exemplar_v2(exemplar, &mut entries)?);
                }
                (5, Value::Bytes(metadata)) => self.read_metadata_v2(metadata, series)?,
                _ => {}
            }
        }
        if refs.name.is_some() {
            series.fault = Some("the last of the label references has no partner");
        }
        Ok(())
    }

    fn read_exemplar_v2(
        &self,
        message: &'a [u8],
        entries: &mut Entries,
    ) -> Result<Option<Exemplar<'a>>, Fault> {
        let mut exemplar = Exemplar::default();
        let mut refs = Refs::default();
        let mut fault = None;
        let mut fields = Reader::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, value) => {
                    refs.read(value, entries, &self.symbols, &mut exemplar.labels, &mut fault)?;
                }
                (2, Value::Fixed64(bits)) => exemplar.value = f64::from_bits(bits),
                (3, Value::Varint(time)) => exemplar.timestamp = time.cast_signed(),
                _ => {}
            }
        }
        Ok((fault.is_none() && refs.name.is_none()).then_some(exemplar))
    }

    fn read_metadata_v2(&self, message: &[u8], series: &mut Series<'a>) -> Result<(), Fault> {
        let symbol = |place: u64, fault: &mut Option<&'static str>| {
            symbol(&self.symbols, place).unwrap_or_else(|what| {
                *fault = Some(what);
                ""
            })
        };
        let mut fields = Reader::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(number)) => series.kind = kind(number),
                (3, Value::Varint(place)) => series.help = symbol(place, &mut series.fault),
                (4, Value::Varint(place)) => series.unit = symbol(place, &mut series.fault),
                _ => {}
            }
        }
        Ok(())
    }
}

/// References into the symbols, a name's and a value's in turn.
#[derive(Default)]
struct Refs<'a> {
    /// A name whose value has not come yet.
    name: Option<&'a str>,
}

impl<'a> Refs<'a> {
    fn read(
        &mut self,
        value: Value<'a>,
        entries: &mut Entries,
        symbols: &[Option<&'a str>],
        labels: &mut Vec<(&'a str, &'a str)>,
        fault: &mut Option<&'static str>,
    ) -> Result<(), Fault> {
        let mut take = |place: u64| {
            let text = symbol(symbols, place).unwrap_or_else(|what| {
                *fault = Some(what);
                ""
            });
            match self.name.take() {
                None => self.name = Some(text),
                Some(name) => {
                    entries.add(1)?;
                    labels.push((name, text));
                }
            }
            Ok(())
        };
        match value {
            Value::Varint(place) => take(place),
            Value::Bytes(packed) => {
                let mut at = 0;
                while at < packed.len() {
                    let (place, end) = varint(packed, at)?;
                    take(place)?;
                    at = end;
                }
                Ok(())
            }
            Value::Fixed64(_) | Value::Fixed32(_) => Ok(()),
        }
    }
}

fn symbol<'a>(symbols: &[Option<&'a str>], place: u64) -> Result<&'a str, &'static str> {
    let symbol = usize::try_from(place).ok().and_then(|place| symbols.get(place));
    symbol.ok_or("a reference leads to no symbol")?.ok_or("a label is not UTF-8")
}

fn read_v1<'a>(message: &'a [u8], series: &mut Series<'a>) -> Result<(), Fault> {
    let mut entries = Entries::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(label)) => {
                entries.add(1)?;
                match read_label(label)? {
                    Some(label) => series.labels.push(label),
                    None => series.fault = Some("a label is not UTF-8"),
                }
            }
            (2, Value::Bytes(sample)) => {
                entries.add(1)?;
                series.samples.push(read_sample(sample, Version::V1)?);
            }
            (3, Value::Bytes(exemplar)) => {
                entries.add(1)?;
                series.exemplars.extend(read_exemplar_v1(exemplar, &mut entries)?);
            }
            (4, Value::Bytes(message)) => {
                entries.add(HISTOGRAM_ENTRIES)?;
                series.histograms.push(histogram::read(message, Version::V1, &mut entries)?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// None for what is no UTF-8.
fn read_label(message: &[u8]) -> Result<Option<(&str, &str)>, Fault> {
    let (mut name, mut value) = (&[][..], &[][..]);
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = text,
            (2, Value::Bytes(text)) => value = text,
            _ => {}
        }
    }
    Ok(str::from_utf8(name).ok().zip(str::from_utf8(value).ok()))
}

fn read_sample(message: &[u8], version: Version) -> Result<Sample, Fault> {
    let mut sample = Sample::default();
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Fixed64(bits)) => sample.value = f64::from_bits(bits),
            (2, Value::Varint(time)) => sample.timestamp = time.cast_signed(),
            (3, Value::Varint(time)) if version == Version::V2 => sample.start = time.cast_signed(),
            _ => {}
        }
    }
    Ok(sample)
}

/// None for one with a label that is no UTF-8.
fn read_exemplar_v1<'a>(message: &'a [u8], entries: &mut Entries) -> Result<Option<Exemplar<'a>>, Fault> {
    let mut exemplar = Exemplar::default();
    let mut is_text = true;
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Bytes(label)) => {
                entries.add(1)?;
                let label = read_label(label)?;
                is_text &= label.is_some();
                exemplar.labels.extend(label);
            }
            (2, Value::Fixed64(bits)) => exemplar.value = f64::from_bits(bits),
            (3, Value::Varint(time)) => exemplar.timestamp = time.cast_signed(),
            _ => {}
        }
    }
    Ok(is_text.then_some(exemplar))
}

/// None for one with a text that is no UTF-8.
fn read_metadata(message: &[u8]) -> Result<Option<Metadata<'_>>, Fault> {
    let mut metadata = Metadata::default();
    let mut is_text = true;
    let mut text = |bytes| {
        let text = str::from_utf8(bytes);
        is_text &= text.is_ok();
        text.unwrap_or_default()
    };
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(number)) => metadata.kind = kind(number),
            (2, Value::Bytes(bytes)) => metadata.family = text(bytes),
            (4, Value::Bytes(bytes)) => metadata.help = text(bytes),
            (5, Value::Bytes(bytes)) => metadata.unit = text(bytes),
            _ => {}
        }
    }
    Ok(is_text.then_some(metadata))
}

/// Both versions number the kinds alike; what nobody knows is unknown.
const KINDS: [Kind; 8] = [
    Kind::Unknown,
    Kind::Counter,
    Kind::Gauge,
    Kind::Histogram,
    Kind::GaugeHistogram,
    Kind::Summary,
    Kind::Info,
    Kind::StateSet,
];

fn kind(number: u64) -> Kind {
    usize::try_from(number).ok().and_then(|number| KINDS.get(number)).copied().unwrap_or_default()
}

/// The number of a kind on the wire.
pub(crate) fn number(kind: Kind) -> u64 {
    KINDS.iter().position(|candidate| *candidate == kind).map_or(0, |number| number as u64)
}

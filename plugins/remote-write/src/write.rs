//! A message of either version, written.

use std::collections::BTreeMap;

use weir_wire::Encoder;

use crate::read::{Metadata, number};
use crate::series::{Exemplar, Sample, Series};
use crate::{Version, histogram, snappy};

/// Writes a request, series by series. The caller sorts labels by their names and samples by their times.
#[derive(Debug, Default)]
pub struct Writer {
    version: Version,
    series: Encoder,
    metadata: Encoder,
    symbols: Symbols,
}

/// Texts and their places.
#[derive(Debug, Default)]
struct Symbols {
    places: BTreeMap<String, u64>,
    out: Encoder,
}

impl Symbols {
    fn place(&mut self, text: &str) -> u64 {
        // The first symbol is the empty text.
        if text.is_empty() {
            return 0;
        }
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.places.len() as u64 + 1;
        self.places.insert(text.to_owned(), place);
        self.out.string(4, text);
        place
    }
}

impl Writer {
    /// A request without series.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self { version, ..Self::default() }
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.metadata.is_empty()
    }

    /// Bytes of the request before compression.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len() + self.metadata.len() + self.symbols.out.len()
    }

    /// Adds a series. What its metadata are, version 2.0 says here and version 1.0 with [`Writer::metadata`].
    pub fn series(&mut self, series: &Series<'_>) {
        match self.version {
            Version::V1 => self.series_v1(series),
            Version::V2 => self.series_v2(series),
        }
    }

    /// Adds metadata; version 2.0 has them in its series.
    pub fn metadata(&mut self, metadata: &Metadata<'_>) {
        let Metadata { family, kind, help, unit } = metadata;
        if self.version == Version::V1 {
            self.metadata.message(3, |out| {
                out.nonzero_varint(1, number(*kind));
                out.string(2, family);
                out.nonempty_bytes(4, help);
                out.nonempty_bytes(5, unit);
            });
        }
    }

    /// The request as a message, not compressed.
    #[must_use]
    pub fn into_message(self) -> Vec<u8> {
        let Self { version, series, metadata, symbols } = self;
        let mut out = Encoder::with_capacity(series.len() + metadata.len() + symbols.out.len() + 2);
        if version == Version::V2 {
            out.string(4, "");
            out.raw(symbols.out.as_bytes());
        }
        out.raw(series.as_bytes());
        out.raw(metadata.as_bytes());
        out.into_bytes()
    }

    /// The request as the body to send; nothing where it is larger than any receiver takes.
    #[must_use]
    pub fn into_body(self) -> Option<Vec<u8>> {
        snappy::encode(&self.into_message())
    }

    fn series_v1(&mut self, series: &Series<'_>) {
        let out = &mut self.series;
        let message = out.open(1);
        write_labels(out, &series.labels);
        for sample in &series.samples {
            write_sample(out, sample, Version::V1);
        }
        for Exemplar { labels, value, timestamp } in &series.exemplars {
            out.message(3, |out| {
                write_labels(out, labels);
                out.double(2, *value);
                out.int(3, *timestamp);
            });
        }
        for histogram in &series.histograms {
            histogram::write(out, 4, histogram, Version::V1);
        }
        out.close(message);
    }

    fn series_v2(&mut self, series: &Series<'_>) {
        let Self { series: out, symbols, .. } = self;
        let message = out.open(5);
        out.packed_varint(1, refs(&series.labels, symbols));
        for sample in &series.samples {
            write_sample(out, sample, Version::V2);
        }
        for histogram in &series.histograms {
            histogram::write(out, 3, histogram, Version::V2);
        }
        for Exemplar { labels, value, timestamp } in &series.exemplars {
            out.message(4, |out| {
                out.packed_varint(1, refs(labels, symbols));
                out.double(2, *value);
                out.int(3, *timestamp);
            });
        }
        let (help, unit) = (symbols.place(series.help), symbols.place(series.unit));
        out.message(5, |out| {
            out.nonzero_varint(1, number(series.kind));
            out.nonzero_varint(3, help);
            out.nonzero_varint(4, unit);
        });
        out.close(message);
    }
}

fn refs(labels: &[(&str, &str)], symbols: &mut Symbols) -> Vec<u64> {
    labels.iter().flat_map(|(name, value)| [symbols.place(name), symbols.place(value)]).collect()
}

fn write_labels(out: &mut Encoder, labels: &[(&str, &str)]) {
    for (name, value) in labels {
        out.message(1, |out| {
            out.string(1, name);
            out.string(2, value);
        });
    }
}

fn write_sample(out: &mut Encoder, sample: &Sample, version: Version) {
    let Sample { value, timestamp, start } = sample;
    out.message(2, |out| {
        out.double(1, *value);
        out.int(2, *timestamp);
        if version == Version::V2 && *start != 0 {
            out.int(3, *start);
        }
    });
}

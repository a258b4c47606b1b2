//! A body, sample by sample.

use weir_exposition::{Dialect, Kind, Reader, Record};
use weir_prometheus::family::{self, Family, Histogram, Labels, Point, Summary, Value};
use weir_prometheus::native::Native;
use weir_prometheus::{Format, protobuf};

use crate::intake::{Exemplar, Intake, Sample};

/// Reads a body to its end.
///
/// # Errors
/// Where it is at fault and in what way; the scrape is worth nothing then.
pub(crate) fn read(body: &[u8], format: Format, intake: &mut Intake<'_>) -> Result<(), String> {
    match format {
        Format::Text(dialect) => text(body, dialect, intake)?,
        Format::Protobuf => {
            let mut fault = Ok(());
            let wanted = intake.job.wanted;
            let read = protobuf::read(body, wanted, |family| {
                if fault.is_ok() {
                    fault = add(&family, intake);
                }
            });
            read.map_err(|fault| fault.to_string())?;
            fault?;
        }
    }
    intake.close()
}

/// The room of a list for another one, whose items live elsewhere.
fn emptied<'p>(mut list: Vec<(&str, &str)>) -> Vec<(&'p str, &'p str)> {
    list.clear();
    // In place: the list is as large as it was, and has nothing of what was in it.
    list.into_iter().map(|_| ("", "")).collect()
}

fn text(body: &[u8], dialect: Dialect, intake: &mut Intake<'_>) -> Result<(), String> {
    let fault = |fault: weir_exposition::Fault| fault.to_string();
    let mut reader = Reader::new(body, dialect).map_err(fault)?;
    let mut spare = Vec::new();
    while let Some(record) = reader.next().map_err(fault)? {
        let families = &mut intake.families;
        let sample = match record {
            Record::Help { family, text } => {
                families.set_help(&family, &text);
                None
            }
            Record::Type { family, kind } => {
                families.set_kind(&family, kind);
                None
            }
            Record::Unit { family, unit } => {
                families.set_unit(&family, &unit);
                None
            }
            Record::Sample(sample) => Some(sample),
        };
        let Some(sample) = sample else {
            intake.fits(0).map_err(|what| format!("line {}: {what}", reader.line()))?;
            continue;
        };
        let mut labels = emptied(spare);
        labels.extend(reader.labels().iter().map(|label| (&*label.name, &*label.value)));
        let exemplar = sample.exemplar.map(|exemplar| {
            let labels = reader.exemplar_labels().iter().map(|label| (&*label.name, &*label.value));
            Exemplar { value: exemplar.value, time: exemplar.time, labels: labels.collect() }
        });
        let taken = intake.sample(
            &sample.name,
            &mut labels,
            Sample {
                value: sample.value,
                native: None,
                time: sample.time,
                start: None,
                exemplars: exemplar.as_slice(),
            },
        );
        taken.map_err(|what| format!("line {}: {what}", reader.line()))?;
        spare = emptied(labels);
    }
    Ok(())
}

// === protobuf ===

/// Takes a family's points, as the samples that a text has of them.
fn add(family: &Family, intake: &mut Intake<'_>) -> Result<(), String> {
    intake.families.set_kind(&family.name, family.kind);
    intake.families.set_help(&family.name, &family.help);
    intake.families.set_unit(&family.name, &family.unit);
    intake.fits(0)?;
    let is_gauge = family.kind == Kind::GaugeHistogram;
    let name = |suffix: &str| format!("{}{suffix}", family.name);
    let names = Names {
        own: &family.name,
        bucket: name("_bucket"),
        sum: name(if is_gauge { "_gsum" } else { "_sum" }),
        count: name(if is_gauge { "_gcount" } else { "_count" }),
    };
    family.points.iter().try_for_each(|point| match &point.value {
        Value::Number(value) => names.sample(names.own, None, *value, None, point, &point.exemplars, intake),
        Value::Histogram(histogram) => names.histogram(histogram, point, intake),
        Value::Summary(summary) => names.summary(summary, point, intake),
        Value::Native(native) => {
            let mut native = (**native).clone();
            if !native.is_float && !native.coarsen(intake.job.buckets_max, intake.job.bucket_factor_min) {
                return Err("histogram bucket limit exceeded".to_owned());
            }
            let value = native.count as f64;
            names.sample(names.own, None, value, Some(native), point, &point.exemplars, intake)
        }
    })
}

/// What the samples of a family are called.
struct Names<'n> {
    own: &'n str,
    bucket: String,
    sum: String,
    count: String,
}

impl Names<'_> {
    fn histogram(&self, histogram: &Histogram, point: &Point, intake: &mut Intake<'_>) -> Result<(), String> {
        let Histogram { buckets, count, sum } = histogram;
        let mut below = f64::NEG_INFINITY;
        for (bound, value) in buckets {
            // An exemplar belongs to the first bucket that it is not above.
            let own: Vec<family::Exemplar> = point
                .exemplars
                .iter()
                .filter(|exemplar| exemplar.value > below && exemplar.value <= *bound)
                .cloned()
                .collect();
            below = *bound;
            self.sample(&self.bucket, Some(("le", *bound)), *value, None, point, &own, intake)?;
        }
        let above: Vec<family::Exemplar> =
            point.exemplars.iter().filter(|exemplar| exemplar.value > below).cloned().collect();
        if let Some(sum) = sum {
            self.sample(&self.sum, None, *sum, None, point, &[], intake)?;
        }
        match count {
            Some(count) => self.sample(&self.count, None, *count, None, point, &above, intake),
            None => Ok(()),
        }
    }

    fn summary(&self, summary: &Summary, point: &Point, intake: &mut Intake<'_>) -> Result<(), String> {
        let Summary { quantiles, count, sum } = summary;
        for (quantile, value) in quantiles {
            self.sample(self.own, Some(("quantile", *quantile)), *value, None, point, &[], intake)?;
        }
        for (name, value) in [(&self.sum, sum), (&self.count, count)] {
            if let Some(value) = value {
                self.sample(name, None, *value, None, point, &[], intake)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a sample has that many parts")]
    fn sample(
        &self,
        name: &str,
        own: Option<(&str, f64)>,
        value: f64,
        native: Option<Native>,
        point: &Point,
        exemplars: &[family::Exemplar],
        intake: &mut Intake<'_>,
    ) -> Result<(), String> {
        let bound = own.map(|(label, bound)| (label, written(bound)));
        let mut labels = borrowed(&point.labels);
        labels.extend(bound.iter().map(|(label, bound)| (*label, &**bound)));
        let exemplars: Vec<Exemplar<'_>> = exemplars
            .iter()
            .map(|exemplar| Exemplar {
                value: exemplar.value,
                time: exemplar.time,
                labels: borrowed(&exemplar.labels),
            })
            .collect();
        let Point { time, start, .. } = *point;
        intake.sample(name, &mut labels, Sample { value, native, time, start, exemplars: &exemplars })
    }
}

fn borrowed(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (&**name, &**value)).collect()
}

/// A bound as OpenMetrics writes it.
fn written(bound: f64) -> String {
    if bound == f64::INFINITY {
        "+Inf".to_owned()
    } else if bound == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        format!("{bound:?}")
    }
}

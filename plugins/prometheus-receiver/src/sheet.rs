//! The points of one scrape by metric, and the batches that they become.

use weir_guest::wire::encode::Open;
use weir_guest::wire::{Encoder, Reader};
use weir_guest::{Batch, Encoding, Signal};
use weir_prometheus::otlp::{Url, write_resource};
use weir_prometheus::point::{self, Head, Shape};

use crate::room::LIST_COST;
use crate::series::{Gone, Series};

/// Points of one batch: half of what the pipeline takes of a request.
const BATCH_POINTS_MAX: usize = 32_768;

/// Bytes from which on a batch is complete: what grows is copied, and an instance has no room for the copies of a large one.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Points that are written into a batch at once.
const PIECE_POINTS_MAX: usize = 1_024;

/// Bytes of all points of one scrape: three quarters of what can be handed to the host at once, the rest is for what is around
/// them.
pub(crate) const POINTS_BYTES_MAX: usize = 24 << 20;

/// Points by metric, whose numbers are those of [`Series`].
#[derive(Default)]
pub(crate) struct Sheet {
    points: Vec<Encoder>,
    bytes: usize,
    /// For what has to be known before its length.
    scratch: Encoder,
}

impl Sheet {
    /// Bytes of all points.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What all points cost: twice their bytes while they grow.
    pub(crate) fn cost(&self) -> usize {
        self.points.len() * LIST_COST + self.bytes * 2
    }

    /// Forgets all points.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The points of a metric.
    fn of(&mut self, metric: usize) -> &mut Encoder {
        if self.points.len() <= metric {
            self.points.resize_with(metric + 1, Encoder::new);
        }
        &mut self.points[metric]
    }

    /// Writes a number; `exemplars` are encoded.
    pub(crate) fn number(
        &mut self,
        metric: usize,
        attributes: &[u8],
        times: (u64, u64),
        value: f64,
        exemplars: &[u8],
    ) {
        let (start, time) = times;
        let fixed = 9 * (1 + usize::from(start != 0) + usize::from(time != 0));
        let length = attributes.len() + fixed + exemplars.len();
        let out = self.of(metric);
        let before = out.len();
        out.raw_varint(1 << 3 | 2);
        out.raw_varint(length as u64);
        out.raw(attributes);
        out.nonzero_fixed64(2, start);
        out.nonzero_fixed64(3, time);
        out.double(4, value);
        out.raw(exemplars);
        let written = out.len() - before;
        self.bytes += written;
    }

    /// Writes a point whose fields `write` writes.
    ///
    /// # Errors
    /// Those of `write`; nothing is written then.
    pub(crate) fn point<T>(
        &mut self,
        metric: usize,
        write: impl FnOnce(&mut Encoder) -> Result<T, &'static str>,
    ) -> Result<T, &'static str> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let result = write(&mut scratch);
        if result.is_ok() {
            let out = self.of(metric);
            let before = out.len();
            out.bytes(1, scratch.as_bytes());
            let written = out.len() - before;
            self.bytes += written;
        }
        self.scratch = scratch;
        result
    }

    /// How long the points of a metric are, for [`Sheet::take_back`].
    pub(crate) fn mark(&mut self, metric: usize) -> usize {
        self.of(metric).len()
    }

    /// Takes points of a metric back that were written since a mark.
    pub(crate) fn take_back(&mut self, metric: usize, mark: usize) {
        let out = self.of(metric);
        let taken = out.len().saturating_sub(mark);
        out.truncate(mark);
        self.bytes -= taken;
    }

    /// Writes that a series is gone; says whether there was room: `most` bytes of all points.
    pub(crate) fn marker(&mut self, gone: Gone<'_>, time: u64, most: usize) -> bool {
        let Gone { metric, shape, attributes, bounds } = gone;
        if self.bytes + attributes.len() + bounds.len() * 16 > most {
            return false;
        }
        let written = self.point(metric, |out| {
            out.raw(attributes);
            point::write_times(out, 0, time);
            point::write_stale(out, shape, bounds);
            Ok(())
        });
        written.is_ok()
    }

    /// All points as batches; `own` is the number of the resource that the URL is of.
    pub(crate) fn finish(mut self, series: &Series, own: usize, url: Option<&Url<'_>>) -> Vec<Batch> {
        let mut metrics: Vec<usize> =
            (0..self.points.len()).filter(|id| !self.points[*id].is_empty()).collect();
        let place = |id: &usize| {
            let home = series.metrics[*id].key.home;
            (series.homes[home].resource, home)
        };
        metrics.sort_by_key(place);
        let mut batches = Batches::default();
        for group in metrics.chunk_by(|left, right| place(left) == place(right)) {
            let (resource, home) = place(&group[0]);
            let head = &series.resources[resource];
            let mut around = Encoder::new();
            let info = head.info.iter().map(|(name, value)| (&**name, &**value));
            write_resource(&mut around, &head.job, &head.instance, url.filter(|_| resource == own), info);
            let around = Around { home, resource: around.as_bytes(), scope: &series.homes[home].scope };
            for &id in group {
                let metric = &series.metrics[id];
                let (name, unit, help) = (&*metric.key.name, &*metric.key.unit, &*metric.help);
                let head = Head { name, kind: metric.kind, help, unit };
                // A list is gone once it is written: there is no room for all of it twice.
                let list = std::mem::take(&mut self.points[id]);
                for (piece, points) in pieces(list.as_bytes()) {
                    batches.add(around, &head, metric.key.shape, piece, points);
                }
            }
        }
        batches.finish()
    }
}

/// Points in pieces with their numbers.
fn pieces(points: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut reader = Reader::new(points);
    std::iter::from_fn(move || {
        let (from, mut count) = (reader.at(), 0);
        while count < PIECE_POINTS_MAX && matches!(reader.next(), Ok(Some(_))) {
            count += 1;
        }
        (count > 0).then(|| (&points[from..reader.at()], count))
    })
}

/// Batches that are written.
#[derive(Default)]
struct Batches {
    done: Vec<Batch>,
    out: Encoder,
    points: usize,
    /// The group that is being written, with its home.
    open: Option<(usize, Open, Open)>,
}

/// Where a metric belongs.
#[derive(Clone, Copy)]
struct Around<'a> {
    home: usize,
    resource: &'a [u8],
    scope: &'a [u8],
}

impl Batches {
    fn add(&mut self, around: Around<'_>, head: &Head<'_>, shape: Shape, piece: &[u8], points: usize) {
        let is_full =
            self.points + points > BATCH_POINTS_MAX || self.out.len() + piece.len() > BATCH_BYTES_MAX;
        if is_full && self.points > 0 {
            self.close();
        }
        if self.open.as_ref().is_none_or(|(home, ..)| *home != around.home) {
            self.close_group();
            let group = self.out.open_large(1);
            self.out.raw(around.resource);
            let scope_group = self.out.open_large(2);
            self.out.raw(around.scope);
            self.open = Some((around.home, group, scope_group));
        }
        point::write_metric(&mut self.out, head, shape, piece);
        self.points += points;
    }

    fn close_group(&mut self) {
        if let Some((_, group, scope_group)) = self.open.take() {
            self.out.close(scope_group);
            self.out.close(group);
        }
    }

    fn close(&mut self) {
        self.close_group();
        let body = std::mem::take(&mut self.out).into_bytes();
        self.done.push(Batch { signal: Signal::Metrics, encoding: Encoding::Protobuf, body });
        self.points = 0;
    }

    fn finish(mut self) -> Vec<Batch> {
        if self.points > 0 {
            self.close();
        }
        self.done
    }
}

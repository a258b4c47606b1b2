//! A page on its way to a scraper, piece by piece.
//!
//! The page is never there as a whole: the cursor knows the family and the labels of the last series that it wrote, and goes on
//! behind them. What is absorbed between two pieces does not disturb it: a series is written with all of its lines or not at
//! all, in the order of names and labels, each once.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;

use weir_exposition::Dialect;

use crate::escape::{Scheme, rewrite};
use crate::page::{Family, Page};
use crate::write::{Face, Samples, Style};

/// Bytes of a piece: half of what the host takes at once, and enough that calls do not count.
pub(crate) const PIECE_BYTES: usize = 512 * 1024;

/// Where a page has got to.
#[derive(Debug)]
pub(crate) struct Cursor {
    style: Style,
    stage: Stage,
    /// The family at hand, and the labels of the last series of it that was written.
    at: Option<At>,
    /// Names that are taken, where an escaping may make two the same.
    taken: HashSet<String>,
    hasher: RandomState,
    /// What was written and is more than a piece.
    pending: String,
    left_out: u64,
}

#[derive(Debug)]
struct At {
    name: Box<str>,
    face: Face,
    after: Option<Box<str>>,
    /// Hashes of labels, where an escaping may make two the same.
    written: HashSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Own,
    Families,
    End,
    Done,
}

impl Cursor {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            stage: Stage::Own,
            at: None,
            taken: HashSet::new(),
            hasher: RandomState::new(),
            pending: String::new(),
            left_out: 0,
        }
    }

    /// Samples that OpenMetrics does not allow and families and series that an escaping makes the same, so far.
    pub(crate) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The next piece, at most [`PIECE_BYTES`]; empty at the end, and only there.
    pub(crate) fn piece(&mut self, page: &Page, now: u64) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.pending);
        while out.len() < PIECE_BYTES && self.stage != Stage::Done {
            self.step(page, now, &mut out);
        }
        if out.len() > PIECE_BYTES {
            // Cut between characters, for the rest is text, too.
            let cut = (0..=PIECE_BYTES).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(out.len());
            self.pending = out.split_off(cut);
        }
        out.into_bytes()
    }

    /// Writes up to the end of a family, or until there is a piece.
    fn step(&mut self, page: &Page, now: u64, out: &mut String) {
        match self.stage {
            Stage::Own => {
                for (name, family) in page.own() {
                    self.begin(page, name, &family, out);
                    self.series(page, &family, now, out);
                }
                self.at = None;
                self.stage = Stage::Families;
            }
            Stage::Families => self.families(page, now, out),
            Stage::End => {
                if self.style.format.dialect == Dialect::OpenMetrics {
                    out.push_str("# EOF\n");
                }
                self.stage = Stage::Done;
            }
            Stage::Done => {}
        }
    }

    fn families(&mut self, page: &Page, now: u64, out: &mut String) {
        // A family that has gone, or become another, is behind us.
        let at_hand =
            self.at.as_ref().and_then(|at| page.family(&at.name).filter(|it| it.kind == at.face.kind));
        if let Some(family) = at_hand
            && self.series(page, family, now, out)
        {
            return;
        }
        let last = self.at.take().map(|at| at.name);
        match page.behind(last.as_deref()) {
            None => self.stage = Stage::End,
            Some((name, family)) => {
                let is_alive = family.series.values().any(|series| page.is_alive(series, now));
                if is_alive {
                    self.begin(page, name, family, out);
                } else {
                    self.at = Some(At::behind(name, Face::of(name, family.kind, self.style, |_| false)));
                }
            }
        }
    }

    /// Writes what stands before a family's series.
    fn begin(&mut self, page: &Page, name: &str, family: &Family, out: &mut String) {
        let face = Face::of(name, family.kind, self.style, |name| page.is_taken(name));
        if self.style.is_open() && page.is_start_of_another(name) {
            self.left_out += family.series.len() as u64;
            self.at = Some(At::behind(name, face));
            return;
        }
        if self.may_clash() {
            if face.names().any(|name| self.taken.contains(&name)) {
                self.left_out += family.series.len() as u64;
                self.at = Some(At::behind(name, face));
                return;
            }
            self.taken.extend(face.names());
        }
        face.head(family, self.style, out);
        self.at = Some(At { name: name.into(), face, after: None, written: HashSet::new() });
    }

    /// Whether two names may become one by escaping.
    fn may_clash(&self) -> bool {
        self.style.has_all_of_utf8 && self.style.format.scheme != Scheme::AllowUtf8
    }

    /// Writes series until the family is done or there is a piece; says whether the latter.
    fn series(&mut self, page: &Page, family: &Family, now: u64, out: &mut String) -> bool {
        let may_clash = self.may_clash();
        let Self { style, at, hasher, left_out, .. } = self;
        let Some(At { face, after, written, .. }) = at else { return false };
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (labels, series) in family.series.range::<str, _>((from, Bound::Unbounded)) {
            if out.len() >= PIECE_BYTES {
                break;
            }
            last = Some(labels);
            if !page.is_alive(series, now) {
                continue;
            }
            if may_clash && !written.insert(hasher.hash_one(rewrite(style.format.scheme, labels))) {
                *left_out += 1;
                continue;
            }
            Samples { face, style: *style, out, left_out }.series(labels, series);
        }
        if let Some(last) = last {
            *after = Some(last.clone());
        }
        out.len() >= PIECE_BYTES
    }
}

impl At {
    /// Behind a family of which nothing is written.
    fn behind(name: &str, face: Face) -> Self {
        // No labels are behind those: text has no such character.
        let after = Some(char::MAX.to_string().into());
        Self { name: name.into(), face, after, written: HashSet::new() }
    }
}

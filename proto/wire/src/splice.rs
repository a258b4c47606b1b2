//! Change a request and leave every other byte as it was.
//!
//! Unknown fields, foreign spellings of lengths, order: all stay, because nothing is decoded and encoded
//! again. Only the lengths around a change are written anew.

use std::borrow::Cow;

use crate::encode::Encoder;
use crate::otlp::KeyValueView;
use crate::reader::{Malformed, Reader, Value};
use crate::shape::{self, OWNER, Verdict};
use crate::walk::{ResourcePart, Walk};

/// Attributes that [`augment`] takes at most: a configuration has a handful, and a set of them fits one
/// machine word.
pub const ADDITIONS_MAX: usize = 64;

// === cut ===

/// Takes the invalid items out of the body that was walked. Scopes, metrics and resources of which nothing is
/// left go too.
///
/// The places in `walk` are those of the old body: walk the result where they are needed again. Such requests
/// are rare.
///
/// # Errors
/// [`Malformed`] when `body` is not what was walked.
pub fn cut<'a>(body: &'a [u8], walk: &Walk) -> Result<Cow<'a, [u8]>, Malformed> {
    if walk.invalid.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    let verdict = |record: &core::ops::Range<usize>| {
        // The invalid items are in order and don't overlap: the first that ends behind the record's start
        // decides.
        let next = walk.invalid.partition_point(|invalid| invalid.range.end <= record.start);
        match walk.invalid.get(next) {
            Some(invalid) if invalid.range == *record => Verdict::Drop,
            Some(invalid) if invalid.range.start < record.end => Verdict::Part,
            _ => Verdict::Keep,
        }
    };
    shape::select(walk.signal, body, &verdict).map(Cow::Owned)
}

// === augment ===

/// An attribute for [`augment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    key: Vec<u8>,
    /// The attribute as field 1 of a `Resource`: key byte, length, `KeyValue`.
    record: Vec<u8>,
}

impl Addition {
    /// A string attribute.
    #[must_use]
    pub fn string(key: &str, value: &str) -> Self {
        Self::new(key, |out| out.attribute_str(1, key, value))
    }

    /// An integer attribute.
    #[must_use]
    pub fn int(key: &str, value: i64) -> Self {
        Self::new(key, |out| out.attribute_int(1, key, value))
    }

    /// A boolean attribute.
    #[must_use]
    pub fn bool(key: &str, value: bool) -> Self {
        Self::new(key, |out| out.attribute_bool(1, key, value))
    }

    /// A floating point attribute.
    #[must_use]
    pub fn double(key: &str, value: f64) -> Self {
        Self::new(key, |out| out.attribute_double(1, key, value))
    }

    /// An attribute whose `AnyValue` message is encoded already.
    #[must_use]
    pub fn any(key: &str, any_value: &[u8]) -> Self {
        Self::new(key, |out| out.attribute_any(1, key, any_value))
    }

    fn new(key: &str, write: impl FnOnce(&mut Encoder)) -> Self {
        let mut out = Encoder::new();
        write(&mut out);
        Self { key: key.as_bytes().to_vec(), record: out.into_bytes() }
    }

    /// The attribute's key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Adds attributes to every resource of a request, of any signal; a group without a resource gets one. A key
/// that the sender has used stays as he said, or is replaced where it first stands when `overwrite` says so.
/// Additions beyond [`ADDITIONS_MAX`] and those whose key an earlier addition has are left out.
///
/// The body comes back as it was, uncopied, where nothing has to change.
///
/// # Errors
/// [`Malformed`] when the frames around the resources are broken or a group has two resources.
pub fn augment<'a>(
    body: &'a [u8],
    additions: &[Addition],
    overwrite: bool,
) -> Result<Cow<'a, [u8]>, Malformed> {
    let additions = &additions[..additions.len().min(ADDITIONS_MAX)];
    if additions.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    let mut out = Encoder::new();
    let mut resource = Vec::new();
    let most = augmented_bytes_max(body, additions)?;
    // Everything before has been copied to `out`.
    let mut copied = 0;
    let mut reader = Reader::new(body);
    while let Some(field) = reader.next()? {
        let (1, Value::Bytes(group)) = (field.number, field.value) else {
            continue;
        };
        let base = field.end - group.len();
        let owner = owner_of(group).map_err(|error| error.shifted(base))?;
        resource.clear();
        if !augment_resource(owner.resource, additions, overwrite, &mut resource)
            .map_err(|error| error.shifted(base + owner.start))?
        {
            continue;
        }
        if copied == 0 {
            out = Encoder::with_capacity(most);
        }
        out.raw(&body[copied..field.start]);
        let grown = 1 + crate::encode::varint_len(resource.len() as u64) + resource.len();
        let open = out.open_for(1, group.len() - (owner.end - owner.start) + grown);
        out.raw(&group[..owner.start]);
        out.bytes(OWNER, &resource);
        out.raw(&group[owner.end..]);
        out.close_exact(open);
        copied = field.end;
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(body));
    }
    out.raw(&body[copied..]);
    Ok(Cow::Owned(out.into_bytes()))
}

/// Bytes that [`augment`] may make of a body, at most: what to pay for before it does. Every resource grows, and a body
/// of two bytes for each group may become hundreds of times as long.
///
/// # Errors
/// [`Malformed`] when the outermost frames are broken.
pub fn augmented_bytes_max(body: &[u8], additions: &[Addition]) -> Result<usize, Malformed> {
    let added: usize = additions.iter().take(ADDITIONS_MAX).map(|addition| addition.record.len()).sum();
    let mut groups = 0_usize;
    let mut reader = Reader::new(body);
    while let Some(field) = reader.next()? {
        groups += usize::from(matches!((field.number, field.value), (1, Value::Bytes(_))));
    }
    Ok(body.len().saturating_add(groups.saturating_mul(added.saturating_add(FRAME_BYTES_MAX))))
}

/// What the frames around a resource may take beside it: its own key and length where there was none, and a group's
/// length that needs more bytes than before.
const FRAME_BYTES_MAX: usize = 16;

/// Where a group's resource stands, as a record; at the very beginning and empty where there is none.
struct Owner<'a> {
    start: usize,
    end: usize,
    resource: &'a [u8],
}

fn owner_of(group: &[u8]) -> Result<Owner<'_>, Malformed> {
    let mut owner = None;
    let mut reader = Reader::new(group);
    while let Some(field) = reader.next()? {
        if let (OWNER, Value::Bytes(resource)) = (field.number, field.value)
            && owner.replace(Owner { start: field.start, end: field.end, resource }).is_some()
        {
            return Err(Malformed { at: field.start, what: "a group has two resources" });
        }
    }
    Ok(owner.unwrap_or(Owner { start: 0, end: 0, resource: &[] }))
}

/// Writes the augmented resource to `out`; says whether it differs.
fn augment_resource(
    resource: &[u8],
    additions: &[Addition],
    overwrite: bool,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    // Bit i: the key of addition i stands in the resource, or in an earlier addition.
    let mut present = 0u64;
    let mut changed = false;
    for (index, addition) in additions.iter().enumerate() {
        if additions[..index].iter().any(|earlier| earlier.key == addition.key) {
            present |= 1 << index;
        }
    }
    let mut reader = Reader::new(resource);
    while let Some(field) = reader.next()? {
        let record = &resource[field.start..field.end];
        let addition = match (field.number, field.value) {
            (1, Value::Bytes(pair)) => {
                let key =
                    KeyValueView::key_of(pair).map_err(|error| error.shifted(field.end - pair.len()))?;
                additions.iter().position(|addition| addition.key == key)
            }
            _ => None,
        };
        match addition {
            Some(index) if overwrite => {
                let replacement = &additions[index].record;
                if present >> index & 1 == 0 {
                    out.extend_from_slice(replacement);
                    changed |= replacement != record;
                } else {
                    // The same key once more: with both left in, readers would differ on which one counts.
                    changed = true;
                }
                present |= 1 << index;
            }
            Some(index) => {
                out.extend_from_slice(record);
                present |= 1 << index;
            }
            None => out.extend_from_slice(record),
        }
    }
    for (index, addition) in additions.iter().enumerate() {
        if present >> index & 1 == 0 {
            out.extend_from_slice(&addition.record);
            changed = true;
        }
    }
    Ok(changed)
}

// === group ===

/// Sorts the resource groups of a walked body into requests: part `i` goes to request `group_of[i]`, in
/// order. A request whose parts stand side by side is a slice of the body; one that holds every part is the
/// body. Unknown fields between parts go with the part behind them, those at the end with the last one. A
/// number of `group_of` that is not below `groups`, like a part without a number, counts as 0.
///
/// # Panics
/// When `parts` are not those of `body`: a mistake of the program, never of its input.
#[must_use]
pub fn group<'a>(
    body: &'a [u8],
    parts: &[ResourcePart],
    group_of: &[usize],
    groups: usize,
) -> Vec<Cow<'a, [u8]>> {
    let mut requests = vec![Cow::Borrowed(&body[..0]); groups];
    if requests.is_empty() {
        return requests;
    }
    // The run of neighbours that go to the same request.
    let mut run_group = 0;
    let mut run_start = 0;
    let mut run_end = 0;
    for (index, part) in parts.iter().enumerate() {
        let group = group_of.get(index).copied().filter(|group| *group < groups).unwrap_or(0);
        if index > 0 && group != run_group {
            append(&mut requests[run_group], &body[run_start..run_end]);
            run_start = run_end;
        }
        run_group = group;
        run_end = part.record.end;
    }
    append(&mut requests[run_group], &body[run_start..]);
    requests
}

fn append<'a>(request: &mut Cow<'a, [u8]>, run: &'a [u8]) {
    if request.is_empty() {
        *request = Cow::Borrowed(run);
    } else {
        request.to_mut().extend_from_slice(run);
    }
}

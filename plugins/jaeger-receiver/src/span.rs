//! A Jaeger span, whatever it was spelled in.

use std::borrow::Cow;

/// Tags, log fields, logs and references of one span, each. They are held until the span is whole, at a multiple of what
/// they take in a body; Jaeger's clients send some twenty.
pub(crate) const PARTS_MAX: usize = 16 << 10;

/// Bytes of one text: as much as a whole datagram's worth many times over, and far below what an instance holds.
pub(crate) const TEXT_BYTES_MAX: usize = 4 << 20;

/// Text of a request, borrowed where it needed no change.
pub(crate) type Text<'a> = Cow<'a, [u8]>;

/// Who sent spans.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Process<'a> {
    pub(crate) service: Text<'a>,
    pub(crate) tags: Vec<Tag<'a>>,
}

/// A span as it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Span<'a> {
    pub(crate) trace_id: [u8; 16],
    pub(crate) id: [u8; 8],
    /// All zeros: none, or only among the references.
    pub(crate) parent_id: [u8; 8],
    pub(crate) references: Vec<Reference>,
    pub(crate) name: Text<'a>,
    /// See [`SAMPLED`], [`DEBUG`] and [`FIREHOSE`].
    pub(crate) flags: u32,
    /// Nanoseconds since the Unix epoch.
    pub(crate) start: u64,
    /// Nanoseconds.
    pub(crate) duration: u64,
    pub(crate) tags: Vec<Tag<'a>>,
    pub(crate) logs: Vec<Log>,
    /// The fields of all logs, one log after the other.
    pub(crate) fields: Vec<Tag<'a>>,
}

/// The flag of a span that its sender sampled.
pub(crate) const SAMPLED: u32 = 1;

/// The flag of a span that is to be kept whatever it costs.
pub(crate) const DEBUG: u32 = 2;

/// The flag of a span that is not to be indexed.
pub(crate) const FIREHOSE: u32 = 8;

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tag<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) value: Value<'a>,
}

/// What a tag says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(Text<'a>),
    Double(f64),
    Bool(bool),
    Int(i64),
    Bytes(&'a [u8]),
}

/// Something that happened at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Log {
    /// Nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    /// How many of the span's fields are before those of this log.
    pub(crate) fields_from: usize,
}

/// Another span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reference {
    pub(crate) kind: ReferenceKind,
    pub(crate) trace_id: [u8; 16],
    pub(crate) id: [u8; 8],
}

/// What another span is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReferenceKind {
    ChildOf,
    FollowsFrom,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// 400, or 413 for what is beyond a limit.
    pub(crate) status: u16,
    /// For the sender's log.
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { status: 400, text: text.into() }
    }

    pub(crate) fn too_much(text: impl Into<String>) -> Self {
        Self { status: 413, text: text.into() }
    }
}

impl<'a> Span<'a> {
    /// Forgets everything and keeps the room.
    pub(crate) fn clear(&mut self) {
        let Self { references, tags, logs, fields, .. } = self;
        references.clear();
        tags.clear();
        logs.clear();
        fields.clear();
        self.trace_id = [0; 16];
        self.id = [0; 8];
        self.parent_id = [0; 8];
        self.name = Text::default();
        self.flags = 0;
        self.start = 0;
        self.duration = 0;
    }

    /// The fields of its log of this number.
    pub(crate) fn fields_of(&self, number: usize) -> &[Tag<'a>] {
        let from = self.logs[number].fields_from;
        let to = self.logs.get(number + 1).map_or(self.fields.len(), |next| next.fields_from);
        &self.fields[from..to]
    }

    /// The span that this one is a part of: among the references the first of its own trace that it is a child of, else the
    /// first that it follows. With it which reference that was.
    pub(crate) fn parent(&self) -> ([u8; 8], Option<usize>) {
        let own = |kind| {
            let is = |reference: &Reference| {
                reference.kind == kind
                    && reference.trace_id == self.trace_id
                    && (self.parent_id == [0; 8] || reference.id == self.parent_id)
            };
            self.references.iter().position(is)
        };
        let child_of = own(ReferenceKind::ChildOf);
        if self.parent_id != [0; 8] {
            return (self.parent_id, child_of);
        }
        let found = child_of.or_else(|| own(ReferenceKind::FollowsFrom));
        // What a span only follows stays a link as well: the kind would be lost.
        (found.map_or([0; 8], |place| self.references[place].id), child_of)
    }
}

/// Adds a part to those of a span.
pub(crate) fn add<T>(parts: &mut Vec<T>, part: T) -> Result<(), Fault> {
    if parts.len() == PARTS_MAX {
        return Err(Fault::too_much(format!("more than {PARTS_MAX} tags, logs or references in one span")));
    }
    parts.push(part);
    Ok(())
}

/// A string; what is not UTF-8 becomes U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> Result<Text<'_>, Fault> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(Fault::too_much(format!("a text is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

//! Tags that all spans of a scope have: what the resource and the scope say.
//!
//! They are spelled once a scope and copied once a span. A span's own attribute of the same key wins over
//! them, a scope's attribute over a resource's.

use weir_guest::json::JsonWriter;
use weir_guest::text;
use weir_guest::wire::Malformed;
use weir_guest::wire::otlp::{KeyValueView, ResourceGroup, ScopeView};

use crate::encode::{Spelling, TEXT_BYTES_MAX, Tag};

/// Resource attributes that name a service, in the order in which they are asked; only the first is one by
/// OpenTelemetry's rules, the others are what the Collector's exporter falls back to.
const SERVICE_NAMES: [&[u8]; 4] =
    [b"service.name", b"faas.name", b"k8s.deployment.name", b"process.executable.name"];

/// The service of a resource that names none, as OpenTelemetry's default resource has it.
const UNKNOWN_SERVICE: &[u8] = b"unknown_service";

/// The Collector's mark for a service that was not named by `service.name`; `zipkin-receiver` reads it.
const SERVICE_SOURCE: &[u8] = b"otlp.service.name.source";

/// What a resource says.
pub(crate) struct Resource<'a> {
    pub(crate) service: &'a [u8],
    /// Where the name of the service comes from.
    source: Option<&'static [u8]>,
    attributes: Vec<KeyValueView<'a>>,
}

/// Tags in one spelling, sorted by key.
pub(crate) struct CommonTags<'a, S> {
    spelled: S,
    tags: Vec<CommonTag<'a>>,
    /// One bit for each tag: a key whose bit is not set is no common tag.
    filter: u64,
    overflowed: bool,
}

struct CommonTag<'a> {
    key: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Resource<'a> {
    pub(crate) fn parse(group: &ResourceGroup<'a>) -> Result<Self, Malformed> {
        let view = group.resource_view();
        let source = SERVICE_NAMES.into_iter().find(|key| view.get_str(key).is_some());
        let service = source.and_then(|key| view.get_str(key)).unwrap_or(UNKNOWN_SERVICE);
        let attributes = view
            .attributes()
            .filter(|attribute| !matches!(attribute, Ok(attribute) if Some(attribute.key) == source))
            .collect::<Result<_, _>>()?;
        Ok(Self { service, source, attributes })
    }
}

impl<'a, S: Spelling> CommonTags<'a, S> {
    pub(crate) fn new(resource: &Resource<'a>, scope: &ScopeView<'a>) -> Result<Self, Malformed> {
        let text = weir_guest::wire::otlp::AnyValue::String;
        let mut attributes = Vec::with_capacity(resource.attributes.len() + 8);
        let marked = resource.source.filter(|source| *source != SERVICE_NAMES[0]);
        attributes.extend(marked.map(|source| KeyValueView { key: SERVICE_SOURCE, value: text(source) }));
        // Both pairs, the second being deprecated, must be written (OpenTelemetry, "mapping to non-OTLP
        // formats").
        let pairs: [(&[u8], &[u8]); 4] = [
            (b"otel.scope.name", scope.name),
            (b"otel.scope.version", scope.version),
            (b"otel.library.name", scope.name),
            (b"otel.library.version", scope.version),
        ];
        let written = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        attributes.extend(written.map(|(key, value)| KeyValueView { key, value: text(value) }));
        for attribute in scope.attributes() {
            attributes.push(attribute?);
        }
        attributes.extend(resource.attributes.iter().cloned());
        // The sort is stable, so of equal keys the first stays.
        attributes.sort_by(|left, right| left.key.cmp(right.key));
        attributes.dedup_by(|later, earlier| later.key == earlier.key);

        let tags = Vec::with_capacity(attributes.len());
        let mut common = Self { spelled: S::default(), tags, filter: 0, overflowed: false };
        let mut scratch = JsonWriter::default().limited(TEXT_BYTES_MAX);
        for KeyValueView { key, value } in attributes {
            let start = common.spelled.len();
            common.spelled.tag(&Tag { key, value: text::of(&value, &mut scratch)? });
            common.tags.push(CommonTag { key, start, end: common.spelled.len() });
            common.filter |= bit(key);
            if common.spelled.overflowed() || scratch.overflowed() {
                // Where its tags begin and end is not known any more.
                common.overflowed = true;
                break;
            }
        }
        Ok(common)
    }

    /// Whether they alone are more than a body may have; they can not be written then.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Which common tag has this key.
    #[inline]
    pub(crate) fn index(&self, key: &[u8]) -> Option<usize> {
        if self.filter & bit(key) == 0 { None } else { self.search(key) }
    }

    #[inline(never)]
    fn search(&self, key: &[u8]) -> Option<usize> {
        self.tags.binary_search_by(|tag| tag.key.cmp(key)).ok()
    }

    /// Writes them all but those whose indexes are in `overridden`, which is sorted by it.
    #[inline]
    pub(crate) fn write(&self, out: &mut S, overridden: &mut Vec<usize>) {
        let spelled = self.spelled.as_bytes();
        if overridden.is_empty() {
            return out.spelled_tags(spelled);
        }
        overridden.sort_unstable();
        let mut skipped = overridden.iter().copied().peekable();
        for (index, tag) in self.tags.iter().enumerate() {
            while skipped.next_if(|&skip| skip < index).is_some() {}
            if skipped.peek() != Some(&index) {
                out.spelled_tags(&spelled[tag.start..tag.end]);
            }
        }
        overridden.clear();
    }
}

/// Keys differ mostly in length, first and last byte.
#[inline]
fn bit(key: &[u8]) -> u64 {
    match key {
        [] => 1,
        [first, .., last] => 1 << ((key.len() as u32 ^ u32::from(*last) << 1 ^ u32::from(*first) << 3) & 63),
        [only] => 1 << (only & 63),
    }
}

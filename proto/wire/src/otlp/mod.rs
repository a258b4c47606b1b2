//! Views: OTLP messages that borrow the bytes they are in.
//!
//! A view reads its message once, when it is made; it holds the numbers and the slices that it met, and goes
//! through the bytes again for what is repeated. Strings are bytes: UTF-8 where the sender kept to the rules,
//! which nobody has checked. Unknown fields and fields with a foreign wire type are passed over, as
//! protobuf's own readers do; of a single field that stands twice the last counts.
//!
//! ```ignore
//! for resource in resource_groups(body) {
//!     for scope in resource?.scopes() {
//!         for span in scope?.spans() {
//!             let span = span?;
//!             for attribute in span.attributes() {
//!                 let attribute = attribute?;
//!             }
//!         }
//!     }
//! }
//! ```

mod log;
mod metric;
mod trace;
mod value;

use core::marker::PhantomData;

pub use log::LogRecordView;
pub use metric::{
    BucketsView, ExemplarView, ExponentialPointView, Fixed64s, HistogramPointView, MetricData, MetricView,
    Number, NumberPointView, QuantileView, SummaryPointView, Varints,
};
pub use trace::{EventView, LinkView, SpanView, StatusView};
pub use value::{AnyValue, ArrayValues, DEPTH_MAX, KeyValueView, KeyValues};

use crate::reader::{Field, Malformed, Reader, Value};
use crate::resource::ResourceView;
use crate::shape::{MEMBERS, OWNER};

/// A message that can be looked at.
pub trait View<'a>: Sized {
    /// Reads the message once.
    ///
    /// # Errors
    /// [`Malformed`] when it is not made of whole fields.
    fn parse(message: &'a [u8]) -> Result<Self, Malformed>;
}

/// The resource groups of a request of any signal: `ResourceSpans`, `ResourceMetrics`, `ResourceLogs`.
#[must_use]
pub const fn resource_groups(body: &[u8]) -> Each<'_, ResourceGroup<'_>> {
    Each::new(body, 1)
}

/// A `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResourceGroup<'a> {
    /// The `Resource` message; empty where there is none.
    pub resource: &'a [u8],
    /// Schema of the resource.
    pub schema_url: &'a [u8],
    /// The whole group.
    pub message: &'a [u8],
    scopes: Window,
}

/// A `ScopeSpans`, `ScopeMetrics` or `ScopeLogs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopeGroup<'a> {
    /// The `InstrumentationScope` message; empty where there is none. [`ScopeView`] reads it.
    pub scope: &'a [u8],
    /// Schema of the scope and its items.
    pub schema_url: &'a [u8],
    /// The whole group.
    pub message: &'a [u8],
    items: Window,
}

/// An `InstrumentationScope`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopeView<'a> {
    /// Name of the library.
    pub name: &'a [u8],
    /// Version of the library.
    pub version: &'a [u8],
    /// Attributes that the sender has left out.
    pub dropped_attributes_count: u32,
    message: &'a [u8],
    attributes: Window,
}

// === impl ResourceGroup ===

impl<'a> View<'a> for ResourceGroup<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (OWNER, Value::Bytes(resource)) => view.resource = resource,
                (MEMBERS, _) => view.scopes.widen(&field),
                (3, Value::Bytes(schema_url)) => view.schema_url = schema_url,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> ResourceGroup<'a> {
    /// Its resource.
    #[must_use]
    pub const fn resource_view(&self) -> ResourceView<'a> {
        ResourceView::new(self.resource)
    }

    /// Its scope groups.
    #[must_use]
    pub fn scopes(&self) -> Each<'a, ScopeGroup<'a>> {
        Each::new(self.scopes.of(self.message), MEMBERS)
    }
}

// === impl ScopeGroup ===

impl<'a> View<'a> for ScopeGroup<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (OWNER, Value::Bytes(scope)) => view.scope = scope,
                (MEMBERS, _) => view.items.widen(&field),
                (3, Value::Bytes(schema_url)) => view.schema_url = schema_url,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> ScopeGroup<'a> {
    /// Its scope.
    ///
    /// # Errors
    /// [`Malformed`] when that message is.
    pub fn scope_view(&self) -> Result<ScopeView<'a>, Malformed> {
        ScopeView::parse(self.scope)
    }

    /// The messages of its spans, metrics or log records.
    #[must_use]
    pub fn items(&self) -> Repeated<'a> {
        Repeated::new(self.items.of(self.message), MEMBERS)
    }

    /// Its spans, if it is a `ScopeSpans`.
    #[must_use]
    pub fn spans(&self) -> Each<'a, SpanView<'a>> {
        Each::new(self.items.of(self.message), MEMBERS)
    }

    /// Its metrics, if it is a `ScopeMetrics`.
    #[must_use]
    pub fn metrics(&self) -> Each<'a, MetricView<'a>> {
        Each::new(self.items.of(self.message), MEMBERS)
    }

    /// Its log records, if it is a `ScopeLogs`.
    #[must_use]
    pub fn log_records(&self) -> Each<'a, LogRecordView<'a>> {
        Each::new(self.items.of(self.message), MEMBERS)
    }
}

// === impl ScopeView ===

impl<'a> View<'a> for ScopeView<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut view = Self { message, ..Self::default() };
        let mut reader = Reader::new(message);
        while let Some(field) = reader.next()? {
            match (field.number, field.value) {
                (1, Value::Bytes(name)) => view.name = name,
                (2, Value::Bytes(version)) => view.version = version,
                (3, _) => view.attributes.widen(&field),
                (4, Value::Varint(count)) => view.dropped_attributes_count = count as u32,
                _ => {}
            }
        }
        Ok(view)
    }
}

impl<'a> ScopeView<'a> {
    /// Its attributes.
    #[must_use]
    pub fn attributes(&self) -> KeyValues<'a> {
        KeyValues::new(self.attributes.of(self.message), 3)
    }
}

// === iterators ===

/// The messages in one repeated field, in order. After an error it ends.
#[derive(Clone, Debug)]
pub struct Repeated<'a> {
    reader: Reader<'a>,
    number: u32,
}

impl<'a> Repeated<'a> {
    /// The fields numbered `number` of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8], number: u32) -> Self {
        Self { reader: Reader::new(message), number }
    }
}

impl<'a> Iterator for Repeated<'a> {
    type Item = Result<&'a [u8], Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.reader.next() {
                Ok(Some(Field { number, value: Value::Bytes(bytes), .. })) if number == self.number => {
                    return Some(Ok(bytes));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(malformed) => {
                    self.reader = Reader::new(&[]);
                    return Some(Err(malformed));
                }
            }
        }
    }
}

/// The messages in one repeated field, each looked at. A message that is malformed in itself does not end the
/// iteration.
#[derive(Clone, Debug)]
pub struct Each<'a, V> {
    messages: Repeated<'a>,
    view: PhantomData<fn() -> V>,
}

impl<'a, V> Each<'a, V> {
    /// The fields numbered `number` of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8], number: u32) -> Self {
        Self { messages: Repeated::new(message, number), view: PhantomData }
    }
}

impl<'a, V: View<'a>> Iterator for Each<'a, V> {
    type Item = Result<V, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.messages.next()? {
            Ok(message) => Some(V::parse(message).map_err(|malformed| {
                malformed.shifted(self.messages.reader.at().saturating_sub(message.len()))
            })),
            Err(malformed) => Some(Err(malformed)),
        }
    }
}

/// From the first to the last record of a repeated field: where to look when it is gone through again.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    start: usize,
    end: usize,
}

impl Window {
    #[inline]
    fn widen(&mut self, field: &Field<'_>) {
        if self.end == 0 {
            self.start = field.start;
        }
        self.end = field.end;
    }

    #[inline]
    fn of(self, message: &[u8]) -> &[u8] {
        // A window is made of fields of the message that it is asked about.
        &message[self.start..self.end]
    }
}

//! Zipkin JSON: what v1 and v2 have in common, and v2.
//!
//! The rules for values are those of the reader that the reference server uses: a string may be a number, a
//! number may be in a string, `null` is absent but for ids, members that nobody knows are passed over.

use std::borrow::Cow;

use weir_guest::keys::KeyTable;
use weir_guest::scan::{Next, Scanner, Stop};
use weir_guest::wire::json::{JsonError, Number};

use crate::span::{
    Annotation, Endpoint, Fault, Kind, Span, Tag, Text, add, hex_id, lower_case, micros, not_zero, quoted,
};

/// Bytes of one string.
///
/// What a span's longest tags have is SQL and stack traces, a tenth of this.
pub(crate) const STRING_BYTES_MAX: usize = 64 << 10;

/// Members of a v2 span.
#[derive(Clone, Copy)]
enum Member {
    TraceId,
    Id,
    ParentId,
    Kind,
    Name,
    Timestamp,
    Duration,
    LocalEndpoint,
    RemoteEndpoint,
    Annotations,
    Tags,
    Debug,
    Shared,
    BinaryAnnotations,
}

static MEMBERS: KeyTable<Member, 14> = KeyTable::new([
    (b"traceId", Member::TraceId),
    (b"id", Member::Id),
    (b"parentId", Member::ParentId),
    (b"kind", Member::Kind),
    (b"name", Member::Name),
    (b"timestamp", Member::Timestamp),
    (b"duration", Member::Duration),
    (b"localEndpoint", Member::LocalEndpoint),
    (b"remoteEndpoint", Member::RemoteEndpoint),
    (b"annotations", Member::Annotations),
    (b"tags", Member::Tags),
    (b"debug", Member::Debug),
    (b"shared", Member::Shared),
    (b"binaryAnnotations", Member::BinaryAnnotations),
]);

/// A body, value by value. A [`Stop`] leaves its fault here.
pub(crate) struct Values<'a> {
    pub(crate) scanner: Scanner<'a>,
    fault: Option<Fault>,
}

/// Reads a v2 list and hands on each of its spans, complete.
pub(crate) fn read_v2<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&mut Span<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut span = Span::default();
    Values::of(body, |values| {
        values.scanner.begin_list()?;
        while values.scanner.element()? {
            span.clear();
            values.span(&mut span)?;
            values.check(span.complete())?;
            values.check(take(&mut span))?;
        }
        values.scanner.end()
    })
}

impl<'a> Values<'a> {
    /// Reads a body.
    pub(crate) fn of(body: &'a [u8], read: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Fault> {
        let mut values = Self { scanner: Scanner::new(body), fault: None };
        match (read(&mut values), values.fault, values.scanner.error()) {
            (Ok(()), ..) => Ok(()),
            (Err(Stop), Some(fault), _) => Err(fault),
            (Err(Stop), None, Some(JsonError { line, column, what, .. })) => {
                Err(Fault::malformed(format!("line {line} column {column}: {what}")))
            }
            (Err(Stop), None, None) => Err(Fault::malformed("")),
        }
    }

    // === v2 ===

    fn span(&mut self, span: &mut Span<'a>) -> Result<(), Stop> {
        self.scanner.begin_object()?;
        while let Some(key) = self.key()? {
            let Some(member) = MEMBERS.get(&key) else {
                self.scanner.skip()?;
                continue;
            };
            match member {
                Member::TraceId => span.trace_id = self.id("traceId")?,
                Member::Id => span.id = self.id("id")?,
                Member::ParentId => {
                    if let Some(hex) = self.string_or_null()? {
                        span.parent_id = self.check(hex_id("parentId", &hex))?;
                    }
                }
                Member::Kind => {
                    if let Some(name) = self.string_or_null()? {
                        span.kind = Some(self.check(Kind::named(&name))?);
                    }
                }
                Member::Name => span.name = self.name_or_null()?,
                Member::Timestamp => span.timestamp = micros(self.long_or_null()?.unwrap_or(0)),
                Member::Duration => span.duration = micros(self.long_or_null()?.unwrap_or(0)),
                Member::LocalEndpoint => self.endpoint(&mut span.local)?,
                Member::RemoteEndpoint => self.endpoint(&mut span.remote)?,
                Member::Annotations => self.annotations(&mut span.annotations)?,
                Member::Tags => self.tags(&mut span.tags)?,
                Member::Debug => span.debug |= self.bool_or_null()?,
                Member::Shared => span.shared |= self.bool_or_null()?,
                Member::BinaryAnnotations => self.not_of_this_version("JSON_V2", "JSON_V1")?,
            }
        }
        Ok(())
    }

    fn id<const N: usize>(&mut self, name: &str) -> Result<[u8; N], Stop> {
        let hex = self.string()?;
        self.check(hex_id(name, &hex).and_then(|id| not_zero(name, id)))
    }

    fn annotations(&mut self, annotations: &mut Vec<Annotation<'a>>) -> Result<(), Stop> {
        if !self.begin_list_or_null()? {
            return Ok(());
        }
        while self.scanner.element()? {
            self.scanner.begin_object()?;
            let (mut timestamp, mut value) = (None, None);
            while let Some(key) = self.key()? {
                match &*key {
                    b"timestamp" => timestamp = Some(self.long()?),
                    b"value" => value = Some(self.string()?),
                    _ => self.scanner.skip()?,
                }
            }
            let annotation = self.annotation(timestamp, value)?;
            self.check(add(annotations, annotation))?;
        }
        Ok(())
    }

    /// An annotation, if both of its parts are there.
    pub(crate) fn annotation(
        &mut self,
        timestamp: Option<i64>,
        value: Option<Text<'a>>,
    ) -> Result<Annotation<'a>, Stop> {
        match (timestamp, value) {
            (Some(timestamp), Some(value)) => Ok(Annotation { timestamp, value }),
            (_, _) => Err(self.fail(|place| Fault::new(format!("Incomplete annotation at {place}")))),
        }
    }

    fn tags(&mut self, tags: &mut Vec<Tag<'a>>) -> Result<(), Stop> {
        if !self.begin_object_or_null()? {
            return Ok(());
        }
        while let Some(key) = self.key()? {
            let Some(value) = self.string_or_null()? else {
                return Err(
                    self.fail(|place| Fault::new(format!("No value at $.tags.{} at {place}", quoted(&key))))
                );
            };
            self.check(add(tags, Tag { key, value }))?;
        }
        Ok(())
    }

    /// An endpoint; absent members, and all of it, may be null.
    pub(crate) fn endpoint(&mut self, endpoint: &mut Endpoint<'a>) -> Result<(), Stop> {
        *endpoint = Endpoint::default();
        if !self.begin_object_or_null()? {
            return Ok(());
        }
        while let Some(key) = self.key()? {
            match &*key {
                b"serviceName" => endpoint.service = self.name_or_null()?,
                b"ipv4" | b"ipv6" => endpoint.read_address(self.string_or_null()?.unwrap_or_default()),
                b"port" => {
                    let port = self.long_or_null()?.unwrap_or(0);
                    self.check(endpoint.take_port(port))?;
                }
                _ => self.scanner.skip()?,
            }
        }
        Ok(())
    }

    /// A member that only spans of another version have; null is none.
    pub(crate) fn not_of_this_version(&mut self, expected: &str, received: &str) -> Result<(), Stop> {
        if self.scanner.upcoming()? == Next::Null {
            return self.scanner.skip();
        }
        Err(self
            .fail(|_| Fault::new(format!("Expected a {expected} encoded list, but received: {received}\n"))))
    }

    // === values ===

    /// A name is in lower case.
    pub(crate) fn name_or_null(&mut self) -> Result<Text<'a>, Stop> {
        Ok(lower_case(self.string_or_null()?.unwrap_or_default()))
    }

    pub(crate) fn string_or_null(&mut self) -> Result<Option<Text<'a>>, Stop> {
        if self.is_null()? { Ok(None) } else { self.string().map(Some) }
    }

    /// A string. A number is one too, as it stands.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Stop> {
        match self.scanner.upcoming()? {
            Next::String => {
                let text = self.scanner.string()?;
                self.of_bearable_length(text)
            }
            Next::Number => {
                let number = self.scanner.number()?;
                self.of_bearable_length(Cow::Borrowed(number))
            }
            other @ (Next::Object | Next::List | Next::Bool | Next::Null) => {
                Err(self.unexpected("a string", other))
            }
        }
    }

    #[inline]
    fn of_bearable_length(&mut self, text: Text<'a>) -> Result<Text<'a>, Stop> {
        if text.len() <= STRING_BYTES_MAX {
            return Ok(text);
        }
        Err(self.fail(|place| {
            Fault::too_much(format!("a string is longer than {STRING_BYTES_MAX} bytes at {place}"))
        }))
    }

    pub(crate) fn long_or_null(&mut self) -> Result<Option<i64>, Stop> {
        if self.is_null()? { Ok(None) } else { self.long().map(Some) }
    }

    /// A whole number, which may stand in a string.
    pub(crate) fn long(&mut self) -> Result<i64, Stop> {
        if let Some(number) = self.scanner.plain_number() {
            // At most 18 digits.
            return Ok(number.cast_signed());
        }
        let text = match self.scanner.upcoming()? {
            Next::Number => Cow::Borrowed(self.scanner.number()?),
            Next::String => self.scanner.string()?,
            other @ (Next::Object | Next::List | Next::Bool | Next::Null) => {
                return Err(self.unexpected("a long", other));
            }
        };
        match Number::parse(&text).and_then(Number::as_i64) {
            Some(number) => Ok(number),
            None => Err(self
                .fail(|place| Fault::new(format!("Expected a long but was {} at {place}", quoted(&text))))),
        }
    }

    /// `true`, or `false` or `null`.
    pub(crate) fn bool_or_null(&mut self) -> Result<bool, Stop> {
        match self.scanner.upcoming()? {
            Next::Bool => self.scanner.bool(),
            Next::Null => self.scanner.skip().map(|()| false),
            other @ (Next::Object | Next::List | Next::String | Next::Number) => {
                Err(self.unexpected("a boolean", other))
            }
        }
    }

    /// Takes a null, if that is what comes.
    pub(crate) fn is_null(&mut self) -> Result<bool, Stop> {
        if self.scanner.upcoming()? != Next::Null {
            return Ok(false);
        }
        self.scanner.skip().map(|()| true)
    }

    // === objects and lists ===

    #[inline]
    pub(crate) fn key(&mut self) -> Result<Option<Text<'a>>, Stop> {
        match self.scanner.key()? {
            None => Ok(None),
            Some(key) => self.of_bearable_length(key).map(Some),
        }
    }

    fn begin_object_or_null(&mut self) -> Result<bool, Stop> {
        match self.scanner.upcoming()? {
            Next::Object => self.scanner.begin_object().map(|()| true),
            Next::Null => self.scanner.skip().map(|()| false),
            other @ (Next::List | Next::String | Next::Number | Next::Bool) => {
                Err(self.unexpected("BEGIN_OBJECT", other))
            }
        }
    }

    pub(crate) fn begin_list_or_null(&mut self) -> Result<bool, Stop> {
        match self.scanner.upcoming()? {
            Next::List => self.scanner.begin_list().map(|()| true),
            Next::Null => self.scanner.skip().map(|()| false),
            other @ (Next::Object | Next::String | Next::Number | Next::Bool) => {
                Err(self.unexpected("BEGIN_ARRAY", other))
            }
        }
    }

    // === faults ===

    /// Keeps a fault.
    #[inline]
    pub(crate) fn check<T>(&mut self, result: Result<T, Fault>) -> Result<T, Stop> {
        result.map_err(|fault| {
            self.fault = Some(fault);
            Stop
        })
    }

    /// Keeps a fault of the last value.
    #[cold]
    pub(crate) fn fail(&mut self, fault: impl FnOnce(&str) -> Fault) -> Stop {
        let JsonError { line, column, .. } = self.scanner.place();
        self.fault = Some(fault(&format!("line {line} column {column}")));
        Stop
    }

    #[cold]
    fn unexpected(&mut self, expected: &str, next: Next) -> Stop {
        let was = match next {
            Next::Object => "BEGIN_OBJECT",
            Next::List => "BEGIN_ARRAY",
            Next::String => "STRING",
            Next::Number => "NUMBER",
            Next::Bool => "BOOLEAN",
            Next::Null => "NULL",
        };
        self.fail(|place| Fault::new(format!("Expected {expected} but was {was} at {place}")))
    }
}

//! Zipkin v1 JSON.
//!
//! A v1 span has no local endpoint; the member `localEndpoint`, which some senders add, is passed over, as every unknown
//! member is.

use weir_guest::scan::{Next, Stop};

use crate::json::Values;
use crate::span::{Endpoint, Fault, Span, Tag, hex_id};
use crate::v1::V1;

/// Reads a v1 list and hands on the v2 spans of each of its spans, complete.
pub(crate) fn read<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&mut Span<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    Values::of(body, |values| {
        values.scanner.begin_list()?;
        while values.scanner.element()? {
            let spans = span(values)?.finish();
            for mut span in values.check(spans)? {
                values.check(take(&mut span))?;
            }
        }
        values.scanner.end()
    })
}

fn span<'a>(values: &mut Values<'a>) -> Result<V1<'a>, Stop> {
    let mut span = V1::default();
    values.scanner.begin_object()?;
    while let Some(key) = values.key()? {
        match &*key {
            b"traceId" => span.trace_id = id(values, "traceId")?,
            b"id" => span.id = id(values, "id")?,
            b"parentId" if values.is_null()? => {}
            b"parentId" => span.parent_id = id(values, "parentId")?,
            b"name" => span.name = values.name_or_null()?,
            b"timestamp" => span.timestamp = values.long_or_null()?.unwrap_or(0),
            b"duration" => span.duration = values.long_or_null()?.unwrap_or(0),
            b"debug" => span.debug |= values.bool_or_null()?,
            b"annotations" => annotations(values, &mut span)?,
            b"binaryAnnotations" => binary_annotations(values, &mut span)?,
            b"tags" | b"kind" | b"shared" | b"remoteEndpoint" => {
                values.not_of_this_version("JSON_V1", "JSON_V2")?
            }
            _ => values.scanner.skip()?,
        }
    }
    Ok(span)
}

fn annotations<'a>(values: &mut Values<'a>, span: &mut V1<'a>) -> Result<(), Stop> {
    if !values.begin_list_or_null()? {
        return Ok(());
    }
    while values.scanner.element()? {
        values.scanner.begin_object()?;
        let (mut timestamp, mut value, mut endpoint) = (None, None, None);
        while let Some(key) = values.key()? {
            match &*key {
                b"timestamp" => timestamp = Some(values.long()?),
                b"value" => value = Some(values.string()?),
                b"endpoint" => endpoint = present(values)?,
                _ => values.scanner.skip()?,
            }
        }
        let annotation = values.annotation(timestamp, value)?;
        values.check(span.annotate(annotation, endpoint))?;
    }
    Ok(())
}

fn binary_annotations<'a>(values: &mut Values<'a>, span: &mut V1<'a>) -> Result<(), Stop> {
    if !values.begin_list_or_null()? {
        return Ok(());
    }
    while values.scanner.element()? {
        values.scanner.begin_object()?;
        let (mut key, mut text, mut flag, mut endpoint) = (None, None, false, None);
        while let Some(member) = values.key()? {
            match &*member {
                b"key" => key = values.string_or_null()?,
                b"value" => match values.scanner.upcoming()? {
                    Next::String => text = Some(values.string()?),
                    Next::Bool => flag = values.scanner.bool()?,
                    // Numbers and bytes of the old types are passed over, as in the reference server.
                    Next::Number | Next::Object | Next::List | Next::Null => values.scanner.skip()?,
                },
                b"endpoint" => endpoint = present(values)?,
                _ => values.scanner.skip()?,
            }
        }
        let Some(key) = key else {
            return Err(values.fail(|place| Fault::new(format!("No key at {place}"))));
        };
        if let Some(value) = text {
            values.check(span.tag(Tag { key, value }, endpoint))?;
        } else if let Some(endpoint) = endpoint
            && flag
        {
            span.address(&key, endpoint);
        }
    }
    Ok(())
}

fn id<const N: usize>(values: &mut Values<'_>, name: &str) -> Result<[u8; N], Stop> {
    let hex = values.string()?;
    values.check(hex_id(name, &hex))
}

/// An endpoint of which something is known.
fn present<'a>(values: &mut Values<'a>) -> Result<Option<Endpoint<'a>>, Stop> {
    let mut endpoint = Endpoint::default();
    values.endpoint(&mut endpoint)?;
    Ok(Some(endpoint).filter(|endpoint| !endpoint.is_absent()))
}

//! The collector's side under test: the pure parts by scenario and by seed, the whole over loopback.

mod certificates;
mod heirs;
mod model;
mod registry;
mod session;
mod streams;

use bytes::Bytes;
use prost::Message as _;
use weir_model::{Held, Receipt, Seq};
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};
use weir_proto::weir::link::v1::{BundleHead, DataPart, Hello, LogFacts};

use super::hello::{Facts, Who};
use crate::limits::{STARTS_MAX, VERSION};
use crate::names::to_wire;

/// A log of a Hello: name, numbering, next, first of the epoch, settled.
type Said<'a> = (&'a str, u128, u64, u64, u64);

/// What `identity` says at this start of this life. Each earlier start had its epoch for its boot.
fn hello(identity: &str, incarnation: u128, epoch: u64, boot: u128, logs: &[Said<'_>]) -> Hello {
    let facts = |(name, incarnation, next, epoch_first, settled): &Said<'_>| LogFacts {
        name: (*name).to_owned(),
        incarnation: to_wire(*incarnation),
        next: *next,
        epoch_first: *epoch_first,
        settled: *settled,
        firsts: Vec::new(),
    };
    let boots = (epoch.saturating_sub(STARTS_MAX as u64 - 1).max(1)..epoch).map(u128::from).chain([boot]);
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        identity: identity.to_owned(),
        incarnation: to_wire(incarnation),
        epoch,
        boot: to_wire(boot),
        boots: boots.map(to_wire).collect(),
        logs: logs.iter().map(facts).collect(),
        store: Vec::new(),
        host: "host-1".to_owned(),
        program: "weir test".to_owned(),
        encodings: Vec::new(),
    }
}

fn facts(hello: Hello) -> Facts {
    Facts::read(hello, &Who::Local).expect("the hello is in order")
}

/// A proof, as a log would make it.
fn receipt() -> Receipt {
    Receipt::Held(Held::vouch(Seq(1)))
}

/// A bundle of these records, each a place and its bytes, in one part.
fn bundle(ordinal: u64, log: u32, lane: u32, records: &[(u64, &[u8])]) -> DataPart {
    let body: Vec<u8> = records.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let head = BundleHead {
        ordinal,
        log,
        lane,
        signal: 1,
        seqs: records.iter().map(|(seq, _)| *seq).collect(),
        items: records.iter().map(|_| 1).collect(),
        lengths: records.iter().map(|(_, bytes)| bytes.len() as u32).collect(),
        sent_bytes: body.len() as u64,
        bytes: body.len() as u64,
        crc: crc32c::crc32c(&body),
        again: false,
    };
    DataPart { head: Some(head), body: Bytes::from(body) }
}

/// A request of one span with this name.
fn span(name: &str) -> Vec<u8> {
    let span = Span { trace_id: vec![7; 16], span_id: vec![8; 8], name: name.to_owned(), ..Span::default() };
    let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

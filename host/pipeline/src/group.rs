//! One request into batches by lane, and the nodes that spoke in it.
//!
//! Nearly every request has one resource, or several of one node: it stays whole, and no byte is copied.

use std::borrow::Cow;

use bytes::Bytes;
use weir_model::{Lane, Node, NodeId};
use weir_wire::walk::ResourcePart;
use weir_wire::{Malformed, Reader, ResourceView, Signal, Value, WalkError, WalkLimits, walk};

/// A part of a request whose nodes share a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Where order is kept.
    pub lane: Lane,
    /// Its items.
    pub items: u32,
    /// A whole request of its own.
    pub body: Bytes,
}

/// What one node said in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoke {
    /// Who.
    pub node: Node,
    /// How many items.
    pub items: u32,
}

/// Nodes of one request that are told apart for the registry; items of further ones count for the last.
///
/// A gateway's batch may hold thousands; the table of nodes has a bound of its own and needs no help to reach it.
const NODES_MAX: usize = 256;

/// Sorts a request by lane.
///
/// # Errors
/// [`Malformed`] where the frames down to the items are broken, which a door has refused before.
pub fn by_lane(signal: Signal, body: &Bytes, items: u32) -> Result<(Vec<Group>, Vec<Spoke>), Malformed> {
    if let Some(node) = only_node(body)? {
        let group = Group { lane: Lane::of(node.id), items, body: body.clone() };
        return Ok((vec![group], vec![Spoke { node, items }]));
    }
    // The limits were the door's business; what it let through is not refused here.
    let limits = WalkLimits { items_max: usize::MAX, attributes_max: usize::MAX, resources_max: usize::MAX };
    let walked = walk(signal, body, &limits).map_err(|error| match error {
        WalkError::Malformed(malformed) => malformed,
        WalkError::TooMany { what, .. } => Malformed { at: 0, what },
    })?;
    Ok(split(body, &walked.resources))
}

/// The node of a request with one resource; nothing where there are several (or none: nobody speaks then).
fn only_node(body: &[u8]) -> Result<Option<Node>, Malformed> {
    let mut reader = Reader::new(body);
    let mut node = None;
    while let Some(field) = reader.next()? {
        let Value::Bytes(part) = field.value else { continue };
        if field.number != 1 {
            continue;
        }
        let this = node_of(resource_of(part)?);
        match &node {
            None => node = Some(this),
            Some(first) if first.id == this.id => (),
            Some(_) => return Ok(None),
        }
    }
    Ok(Some(node.unwrap_or_default()))
}

/// The bytes of the `Resource` in a resource group: field 1 of each of the three kinds.
fn resource_of(part: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(part);
    while let Some(field) = reader.next()? {
        if let (1, Value::Bytes(resource)) = (field.number, field.value) {
            return Ok(resource);
        }
    }
    Ok(&[])
}

/// The node that a resource names.
fn node_of(resource: &[u8]) -> Node {
    let view = ResourceView::new(resource);
    let text = |key: &str| String::from_utf8_lossy(view.get_str(key).unwrap_or_default());
    Node::of_resource(&text("service.name"), &text("service.instance.id"), &text("host.name"))
}

fn split(body: &Bytes, parts: &[ResourcePart]) -> (Vec<Group>, Vec<Spoke>) {
    let mut lanes: Vec<(Lane, u32)> = Vec::new();
    let mut spoke: Vec<Spoke> = Vec::new();
    let mut group_of = Vec::with_capacity(parts.len());
    for part in parts {
        let node = node_of(&body[part.resource.clone()]);
        let items = u32::try_from(part.items).unwrap_or(u32::MAX);
        let lane = Lane::of(node.id);
        let index = lanes.iter().position(|(known, _)| *known == lane).unwrap_or_else(|| {
            lanes.push((lane, 0));
            lanes.len() - 1
        });
        lanes[index].1 = lanes[index].1.saturating_add(items);
        group_of.push(index);
        note(&mut spoke, node, items);
    }
    let bodies = weir_wire::group(body, parts, &group_of, lanes.len());
    let groups = lanes.into_iter().zip(bodies).map(|((lane, items), part)| {
        let body = match part {
            Cow::Borrowed(slice) => body.slice_ref(slice),
            Cow::Owned(joined) => Bytes::from(joined),
        };
        Group { lane, items, body }
    });
    (groups.filter(|group| group.items > 0).collect(), spoke)
}

fn note(spoke: &mut Vec<Spoke>, node: Node, items: u32) {
    let known: Option<NodeId> = Some(node.id);
    if let Some(row) = spoke.iter_mut().find(|row| Some(row.node.id) == known) {
        row.items = row.items.saturating_add(items);
    } else if spoke.len() < NODES_MAX {
        spoke.push(Spoke { node, items });
    } else if let Some(last) = spoke.last_mut() {
        last.items = last.items.saturating_add(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_wire::Encoder;

    /// A trace request with one span for each named service, in this order.
    fn request(services: &[&str]) -> Bytes {
        let mut out = Encoder::new();
        for (number, service) in services.iter().enumerate() {
            out.message(1, |group| {
                group.message(1, |resource| resource.attribute_str(1, "service.name", service));
                group.message(2, |scope| {
                    scope.message(2, |span| {
                        span.bytes(1, [1; 16]);
                        span.bytes(2, [1 + number as u8; 8]);
                    });
                });
            });
        }
        Bytes::from(out.into_bytes())
    }

    /// Scenario: two resources of one service.
    /// Guarantees: the request stays whole, and not a byte is copied.
    #[test]
    fn the_request_of_one_node_is_not_touched() {
        let body = request(&["shop", "shop"]);
        let (groups, spoke) = by_lane(Signal::Traces, &body, 2).unwrap();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].body.as_ptr(), body.as_ptr());
        assert_eq!(spoke, [Spoke { node: Node::of_resource("shop", "", ""), items: 2 }]);
    }

    /// Scenario: forty services in one request, each twice.
    /// Guarantees: each lane gets whole resources in the order of the request, all items are there, each node is told.
    #[test]
    fn a_mixed_request_is_sorted_by_lane() {
        let names: Vec<String> = (0..40).map(|number| format!("service-{number}")).collect();
        let twice: Vec<&str> = names.iter().chain(&names).map(String::as_str).collect();
        let body = request(&twice);
        let (groups, spoke) = by_lane(Signal::Traces, &body, 80).unwrap();
        assert!(groups.len() > 1 && groups.len() <= weir_model::LANES);
        assert_eq!(groups.iter().map(|group| group.items).sum::<u32>(), 80);
        assert_eq!(spoke.len(), 40);
        for group in &groups {
            let walked = walk(Signal::Traces, &group.body, &WalkLimits::default()).unwrap();
            assert_eq!(walked.items as u32, group.items);
            for part in &walked.resources {
                assert_eq!(Lane::of(node_of(&group.body[part.resource.clone()]).id), group.lane);
            }
        }
    }
}

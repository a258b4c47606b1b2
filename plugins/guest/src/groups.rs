//! Items of a request by resource and scope: what a receiver writes whose senders say both with each item, or several times.
//!
//! ```text
//! head   Resource in field 1 · InstrumentationScope in field 2
//! group  one ResourceSpans (ResourceMetrics, ResourceLogs) with one scope, items in the order in which they came
//! ```
//!
//! A body with several groups is their concatenation, since a repeated field is one wherever its parts stand.

use std::collections::BTreeMap;
use std::rc::Rc;

use weir_wire::encode::Open;
use weir_wire::{Encoder, Reader, Value};

/// Bytes up to which the groups of a request are joined into one body; beyond, each is a body of its own, since an instance
/// has no room for all of them twice.
const JOINED_BYTES_MAX: usize = 8 << 20;

/// Bytes of items from which on a group is closed and goes on in a body of its own: what grows is copied, and an instance has
/// no room for the copies of a large one. What it begins with is not reckoned, since each body begins with it again.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// The groups of a request.
#[derive(Default)]
pub struct Groups {
    groups: Vec<Group>,
    /// Groups that were closed since they had become large.
    closed: Vec<Vec<u8>>,
    /// Groups by the bytes that they begin with. Senders choose those, hence a tree.
    by_head: BTreeMap<Rc<[u8]>, usize>,
    /// Bytes that all groups begin with, together.
    head_bytes: usize,
    /// The group that was found last; most requests have one.
    last: Option<usize>,
}

/// One group that is being written.
struct Group {
    head: Rc<[u8]>,
    items: usize,
    out: Encoder,
    resource: Open,
    scope: Open,
}

impl Groups {
    /// The group of a resource and a scope, `head`; its number holds for this request.
    pub fn find(&mut self, head: &[u8]) -> usize {
        if let Some(last) = self.last
            && *self.groups[last].head == *head
        {
            return last;
        }
        let group = match self.by_head.get(head) {
            Some(&group) => group,
            None => {
                let head: Rc<[u8]> = head.into();
                self.head_bytes += head.len();
                self.by_head.insert(Rc::clone(&head), self.groups.len());
                self.groups.push(Group::new(head));
                self.groups.len() - 1
            }
        };
        self.last = Some(group);
        group
    }

    /// Bytes that all groups begin with, together. Each is held twice until the end: a receiver whose senders choose what many
    /// groups begin with bounds it.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Writes an item into a group, as a field 2 of the message that holds a scope and its items.
    ///
    /// # Panics
    /// Where `group` did not come from [`Groups::find`].
    pub fn add(&mut self, group: usize, write: impl FnOnce(&mut Encoder)) {
        let Group { head, out, items, .. } = &mut self.groups[group];
        *items += 1;
        write(out);
        if out.len() > GROUP_BYTES_MAX + head.len() {
            let head = Rc::clone(head);
            let full = core::mem::replace(&mut self.groups[group], Group::new(head));
            let mut body = full.finish();
            body.shrink_to_fit();
            self.closed.push(body);
        }
    }

    /// The bodies: none for no items, several where one would be too large.
    #[must_use]
    pub fn finish(self) -> Vec<Vec<u8>> {
        let mut bodies = self.closed;
        bodies.extend(self.groups.into_iter().filter(|group| group.items > 0).map(Group::finish));
        if bodies.len() > 1 && bodies.iter().map(Vec::len).sum::<usize>() <= JOINED_BYTES_MAX {
            bodies = vec![bodies.concat()];
        }
        bodies
    }
}

impl Group {
    fn new(head: Rc<[u8]>) -> Self {
        let (mut resource, mut scope): (&[u8], &[u8]) = (&[], &[]);
        let mut fields = Reader::new(&head);
        while let Ok(Some(field)) = fields.next() {
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => resource = bytes,
                (_, Value::Bytes(bytes)) => scope = bytes,
                (_, Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_)) => {}
            }
        }
        let mut out = Encoder::new();
        let open_resource = out.open_large(1);
        out.nonempty_bytes(1, resource);
        let open_scope = out.open_large(2);
        out.nonempty_bytes(1, scope);
        Self { head, items: 0, out, resource: open_resource, scope: open_scope }
    }

    fn finish(self) -> Vec<u8> {
        let Self { mut out, resource, scope, items: _, head: _ } = self;
        out.close(scope);
        out.close(resource);
        out.into_bytes()
    }
}

//! A state as it lies on disk, and its names.
//!
//! ```text
//! "h"                              ▶ id of the store u128 · floor u64
//! "s" agent · 0 · kind · 0 · key   ▶ version u64 · incarnation u128 · revision u64 · epoch u128, u64 · ttl in ms u64
//!                                    · standing u8 · value
//! ```
//!
//! Numbers are big-endian. The map below checks that a value is what was written.

use std::time::{Duration, Instant};

use weir_model::SOURCE_NAME_BYTES_MAX;

use crate::state::keep::Change;
use crate::state::resource::{Order, SEPARATOR, check};

pub(super) const HEADER: &[u8] = b"h";
pub(super) const ROW: u8 = b's';
/// Bytes before the value.
const FIXED: usize = 8 + 16 + 8 + 16 + 8 + 8 + 1;

/// How a state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Live,
    /// The agent said that the resource is gone.
    Deleted,
    /// Its time ran out, or the agent does not have it any more, or the agent was forgotten.
    Expired,
}

/// A resource of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::state) struct Resource {
    pub(in crate::state) agent: String,
    pub(in crate::state) kind: String,
    pub(in crate::state) key: String,
}

/// What is known of a resource, but for its value.
#[derive(Debug, Clone)]
pub(in crate::state) struct Row {
    /// Rises with each change of any row of the store.
    pub(in crate::state) version: u64,
    pub(in crate::state) order: Order,
    /// The stream that brought it: incarnation and epoch of the agent.
    pub(in crate::state) epoch: (u128, u64),
    pub(in crate::state) standing: Standing,
    pub(in crate::state) ttl: Duration,
    pub(in crate::state) expires: Option<Instant>,
    /// Bytes of names and value.
    pub(in crate::state) bytes: usize,
    /// The last inventory that listed it.
    pub(in crate::state) gather: u64,
}

impl Resource {
    /// The key of its row.
    pub(super) fn row_key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(3 + self.bytes());
        key.push(ROW);
        key.extend_from_slice(self.agent.as_bytes());
        key.push(SEPARATOR);
        key.extend_from_slice(self.kind.as_bytes());
        key.push(SEPARATOR);
        key.extend_from_slice(self.key.as_bytes());
        key
    }

    /// From the key of a row.
    pub(super) fn of_row(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key.strip_prefix(&[ROW])?).ok()?;
        let mut parts = text.split(char::from(SEPARATOR));
        let (agent, kind, key) = (parts.next()?, parts.next()?, parts.next()?);
        let is_one = parts.next().is_none() && check(kind, key).is_ok() && check_agent(agent).is_ok();
        is_one.then(|| Self { agent: agent.to_owned(), kind: kind.to_owned(), key: key.to_owned() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.agent.len() + self.kind.len() + self.key.len()
    }
}

/// Says what is wrong with an agent's name.
pub(super) fn check_agent(agent: &str) -> Result<(), String> {
    if (1..=SOURCE_NAME_BYTES_MAX).contains(&agent.len()) && !agent.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("an agent's identity has 1 to {SOURCE_NAME_BYTES_MAX} bytes without control characters"))
}

impl Row {
    /// The change that writes it.
    pub(super) fn change(&self, resource: &Resource, value: &[u8]) -> Change {
        let mut row = Vec::with_capacity(FIXED + value.len());
        row.extend_from_slice(&self.version.to_be_bytes());
        row.extend_from_slice(&self.order.incarnation.to_be_bytes());
        row.extend_from_slice(&self.order.revision.to_be_bytes());
        row.extend_from_slice(&self.epoch.0.to_be_bytes());
        row.extend_from_slice(&self.epoch.1.to_be_bytes());
        row.extend_from_slice(&u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
        row.push(match self.standing {
            Standing::Live => 0,
            Standing::Deleted => 1,
            Standing::Expired => 2,
        });
        row.extend_from_slice(value);
        (resource.row_key(), Some(row))
    }

    /// What was written, and its value. A time to live begins anew: how long nobody looked is not known, for clocks jump.
    pub(super) fn read<'a>(resource: &Resource, row: &'a [u8], now: Instant) -> Option<(Self, &'a [u8])> {
        let mut rest = row;
        let version = number(&mut rest)?;
        let order = Order { incarnation: id(&mut rest)?, revision: number(&mut rest)? };
        let epoch = (id(&mut rest)?, number(&mut rest)?);
        let ttl = Duration::from_millis(number(&mut rest)?);
        let (standing, value) = rest.split_first()?;
        let standing = match standing {
            0 => Standing::Live,
            1 => Standing::Deleted,
            2 => Standing::Expired,
            _ => return None,
        };
        let bytes = resource.bytes() + value.len();
        let expires = expires(standing, ttl, now);
        Some((Self { version, order, epoch, standing, ttl, expires, bytes, gather: 0 }, value))
    }
}

/// When a state stops to count. A time that no clock reaches is never.
pub(super) fn expires(standing: Standing, ttl: Duration, now: Instant) -> Option<Instant> {
    (standing == Standing::Live && !ttl.is_zero()).then(|| now.checked_add(ttl)).flatten()
}

/// The change that writes the header.
pub(super) fn header(id: u128, floor: u64) -> Change {
    let mut value = id.to_be_bytes().to_vec();
    value.extend_from_slice(&floor.to_be_bytes());
    (HEADER.to_vec(), Some(value))
}

pub(super) fn read_header(value: &[u8]) -> Option<(u128, u64)> {
    let mut rest = value;
    Some((id(&mut rest)?, number(&mut rest)?))
}

pub(super) fn number(rest: &mut &[u8]) -> Option<u64> {
    rest.split_off(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
}

pub(super) fn id(rest: &mut &[u8]) -> Option<u128> {
    rest.split_off(..16).and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a row is written and read; it is cut at each byte; its key has parts too few and too many.
    /// Guarantees: it comes back as it was, with a time to live that begins now; what is cut before the value is no row.
    #[test]
    fn a_row_comes_back_as_it_was() {
        let resource = Resource { agent: "spiffe://a/ü".into(), kind: "app".into(), key: "k/1".into() };
        let now = Instant::now();
        let row = Row {
            version: 7,
            order: Order { incarnation: 1 << 100, revision: 9 },
            epoch: (3, 4),
            standing: Standing::Live,
            ttl: Duration::from_secs(5),
            expires: None,
            bytes: 0,
            gather: 8,
        };
        let (key, value) = row.change(&resource, b"value");
        let value = value.unwrap();
        assert_eq!(Resource::of_row(&key), Some(resource.clone()));
        let (read, content) = Row::read(&resource, &value, now).unwrap();
        assert_eq!((read.version, read.order, read.epoch, content), (7, row.order, (3, 4), &b"value"[..]));
        assert_eq!((read.expires, read.bytes), (Some(now + row.ttl), resource.bytes() + 5));
        for length in 0..FIXED {
            assert!(Row::read(&resource, &value[..length], now).is_none(), "{length}");
        }
        for key in ["", "s", "sa", "sa\0k", "sa\0k\0", "sa\0k\0x\0y", "xa\0k\0x"] {
            assert_eq!(Resource::of_row(key.as_bytes()), None, "{key:?}");
        }
    }
}

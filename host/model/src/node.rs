//! The process that speaks.
//!
//! OpenCensus says it outright (`Node`: host, pid, start time); an OTLP resource says it by `service.name`,
//! `service.instance.id` and `host.name` (DESIGN 1.2).

use std::fmt;

/// Bytes kept of one text that a sender said about itself; longer ones are cut for display, never for the hash.
const TEXT_BYTES_MAX: usize = 256;

/// Which process speaks: a hash of its identifying attributes, the same after a restart of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a sender said about the process that it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Hash over the identifying attributes.
    pub id: NodeId,
    /// Host name, or empty.
    pub host: String,
    /// Process id, or 0.
    pub pid: u32,
    /// Start of the process in nanoseconds since the Unix epoch, or 0.
    pub start_unix_nanos: u64,
    /// Service name, or empty.
    pub service: String,
    /// Service instance, or empty.
    pub instance: String,
    /// Library and version that speaks, or empty.
    pub library: String,
}

impl Node {
    /// A node as an OpenCensus library says it: identified by host, pid and start time.
    pub fn of_process(host: &str, pid: u32, start_unix_nanos: u64, service: &str, library: &str) -> Self {
        let mut hash = Fnv::new(b"process");
        hash.add(host.as_bytes());
        hash.add(&pid.to_le_bytes());
        hash.add(&start_unix_nanos.to_le_bytes());
        // Senders without an identifier (web pages, the Collector's exporter) differ by their service at least.
        if host.is_empty() && pid == 0 && start_unix_nanos == 0 {
            hash.add(service.as_bytes());
        }
        Self {
            id: hash.finish(),
            host: cut(host),
            pid,
            start_unix_nanos,
            service: cut(service),
            instance: String::new(),
            library: cut(library),
        }
    }

    /// A node as an OTLP resource says it: identified by service name, service instance and host name.
    pub fn of_resource(service: &str, instance: &str, host: &str) -> Self {
        Self {
            id: Self::resource_id(service, instance, host),
            host: cut(host),
            service: cut(service),
            instance: cut(instance),
            ..Self::default()
        }
    }

    /// The id that [`Node::of_resource`] would give, without building it.
    pub fn resource_id(service: &str, instance: &str, host: &str) -> NodeId {
        let mut hash = Fnv::new(b"resource");
        hash.add(service.as_bytes());
        hash.add(instance.as_bytes());
        hash.add(host.as_bytes());
        hash.finish()
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// FNV-1a with a final mix: stable over releases, because lanes on disk depend on it.
struct Fnv(u64);

impl Fnv {
    fn new(domain: &[u8]) -> Self {
        let mut hash = Self(0xcbf2_9ce4_8422_2325);
        hash.add(domain);
        hash
    }

    /// Adds a text and its length, so that ("ab", "c") and ("a", "bc") differ.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(self) -> NodeId {
        let mut mixed = self.0;
        mixed ^= mixed >> 33;
        mixed = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^= mixed >> 33;
        NodeId(mixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: records on disk carry the lane that an earlier release gave to their node.
    /// Guarantees: the hash of a node does not change from release to release.
    #[test]
    fn a_node_keeps_its_id_over_releases() {
        assert_eq!(Node::resource_id("shop", "1", "a").to_string(), "9c273e53144ebb92");
    }

    /// Scenario: texts whose concatenation is the same.
    /// Guarantees: they are different nodes.
    #[test]
    fn borders_between_texts_count() {
        assert_ne!(Node::resource_id("ab", "c", ""), Node::resource_id("a", "bc", ""));
        assert_ne!(Node::of_process("a", 1, 2, "", "").id, Node::of_process("a", 2, 1, "", "").id);
    }

    /// Scenario: a sender calls itself by a mebibyte of two-byte letters.
    /// Guarantees: what we keep of it is bounded, and cut between letters.
    #[test]
    fn what_is_kept_of_a_name_is_bounded() {
        let node = Node::of_resource(&"é".repeat(1 << 19), "", "");
        assert!(node.service.len() <= TEXT_BYTES_MAX);
    }
}

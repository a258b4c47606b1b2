//! Origins that come and go while the process runs: what an operator's lists of targets name.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::address::Origin;

/// A list that is exchanged as a whole. Clones are one: what is exchanged in one holds for all.
#[derive(Debug, Clone, Default)]
pub struct Listed(Arc<RwLock<HashSet<Origin>>>);

impl Listed {
    /// From now on these are listed, and no others.
    pub fn exchange(&self, origins: HashSet<Origin>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = origins;
    }

    /// Whether this one is listed now.
    pub fn holds(&self, origin: &Origin) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(origin)
    }
}

/// Two are equal where they are one list.
impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Listed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Denied, Egress};

    /// Scenario: a list with names and literal addresses, then another list.
    /// Guarantees: only what is listed now is reached; link-local and metadata addresses only where they are written as such,
    /// loopback only where it is meant.
    #[test]
    fn a_list_grants_what_stands_in_it_and_no_address_behind_a_name() {
        let listed = Listed::default();
        let egress = Egress::of_listed(listed.clone());
        let origins =
            ["http://node:9100", "http://169.254.169.254:80", "http://localhost:9100", "http://[fe80::1]:1"];
        listed.exchange(origins.iter().map(|text| text.parse().unwrap()).collect());
        let judge = |url: &str, ip: &str| egress.judge(&url.parse().unwrap(), ip.parse().unwrap());
        assert_eq!(judge("http://node:9100/metrics", "10.0.0.1"), Ok(()));
        assert_eq!(judge("http://169.254.169.254/latest", "169.254.169.254"), Ok(()));
        assert_eq!(judge("http://[fe80::1]:1", "fe80::1"), Ok(()));
        assert_eq!(judge("http://localhost:9100", "127.0.0.1"), Ok(()));
        for ip in ["169.254.169.254", "127.0.0.1", "fe80::1", "0.0.0.0", "fd00:ec2::254"] {
            assert!(matches!(judge("http://node:9100", ip), Err(Denied::Address { .. })), "{ip}");
        }
        let other = judge("http://node:9101", "10.0.0.1").unwrap_err();
        assert!(other.to_string().contains("the targets of its configuration"), "{other}");
        listed.exchange(HashSet::new());
        assert!(matches!(judge("http://node:9100", "10.0.0.1"), Err(Denied::NotGranted { .. })));
    }
}

//! Connections whose clients have shown a certificate: judged again while they live, and cut when it holds no more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;

use super::ServerTls;
use crate::certificate::{Identity, chain_ends};

/// One such connection.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) addr: SocketAddr,
    pub(super) identity: Arc<Identity>,
    /// What it showed, its own certificate first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The first of its certificates ends then.
    pub(super) ends: UnixTime,
    /// The reading of the files by which it was found good last.
    pub(super) found_good_by: AtomicU64,
    pub(super) cut: CancellationToken,
}

impl Seat {
    pub(super) fn new(
        addr: SocketAddr,
        identity: Arc<Identity>,
        chain: Vec<CertificateDer<'static>>,
        reading: u64,
        cut: CancellationToken,
    ) -> Self {
        let ends = chain_ends(&chain);
        Self { addr, identity, chain, ends, found_good_by: AtomicU64::new(reading), cut }
    }
}

/// All of one listener: as many as it has connections, which its limits bound.
#[derive(Debug, Default)]
pub(crate) struct Live {
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    numbers: AtomicU64,
}

impl Live {
    pub(super) fn add(&self, seat: Arc<Seat>) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).insert(number, seat);
        number
    }

    fn remove(&self, number: u64) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// All that live now. Judging takes its time, so nobody who comes or goes waits for it.
    pub(super) fn all(&self) -> Vec<Arc<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

/// A connection's place among the living, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seated {
    pub(super) tls: Arc<ServerTls>,
    pub(super) number: u64,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.tls.live.remove(self.number);
    }
}

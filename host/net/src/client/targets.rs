//! The client for what is fetched from: many origins, one request at a time to each, answers that stay paid for.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use weir_model::Claim;

use super::{Client, ClientError, Outlet, Room, SendLimits, from_pool};
use crate::address::Egress;
use crate::budget;
use crate::client_tls::ClientTls;

/// Fetches under way at once, each with a socket of its own. A dead target holds one for its timeout: of 10,000 targets with an
/// interval of 15 s a tenth may be dead (10 s timeout: 667 at a time), and of the rest some tens are under way. Twice as many dead
/// ones still leave a third of it; sockets and buffers of 2,000 are some 50 MB at worst.
pub const FETCHES_MAX: usize = 2_000;

/// Connections that an outlet for targets holds at once: each fetch's, and one idle for each of as many targets again.
const CONNECTIONS_MAX: usize = 2 * FETCHES_MAX;

/// Lookups of names at once, of all outlets for targets of a client together (a job has two): at 20 ms each, 3,000 targets a second;
/// an eighth of the process's blocking threads (512).
pub(super) const LOOKUPS_MAX: usize = 64;

/// An idle connection is kept beyond the interval that nearly everybody has (1 min), and a little.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Whether connections are kept from one fetch of a target to its next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// One for each origin. Whoever asks for it bounds the origins.
    One,
    /// None: each fetch makes its own.
    None,
}

/// A response with the claim that pays for its body.
#[derive(Debug)]
pub struct Paid {
    /// Status and headers, and the body as it came.
    pub response: http::Response<Bytes>,
    /// Pays for the body.
    pub claim: Claim,
}

impl Client {
    /// The client for fetching from listed targets.
    pub fn outlet_of_targets(&self, egress: Egress, tls: impl Into<ClientTls>, keeping: Keeping) -> Outlet {
        let room = Room {
            connections_max: CONNECTIONS_MAX,
            idle_per_origin: match keeping {
                Keeping::One => 1,
                Keeping::None => 0,
            },
            idle_timeout: IDLE_TIMEOUT,
            lookups: Arc::clone(&self.shared.target_lookups),
        };
        self.outlet_of(egress, tls.into(), room)
    }
}

impl Outlet {
    /// As [`Outlet::send`], and the body stays paid for. It is paid for as a request's body is, so that many large answers leave
    /// room for small senders.
    ///
    /// # Errors
    /// As [`Outlet::send`].
    ///
    /// # Cancel safety
    /// As [`Outlet::send`].
    pub async fn fetch(
        &self,
        request: http::Request<Bytes>,
        limits: SendLimits,
    ) -> Result<Paid, ClientError> {
        self.judge(&request)?;
        let fetching = async {
            let response = self.pool.request(request.map(Full::new)).await.map_err(from_pool)?;
            let (head, body) = response.into_parts();
            let (body, claim) = self.read_paid(body, limits.response_bytes_max).await?;
            Ok(Paid { response: http::Response::from_parts(head, body), claim })
        };
        match tokio::time::timeout(limits.timeout, fetching).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout(limits.timeout)),
        }
    }

    async fn read_paid(&self, mut body: Incoming, bytes_max: usize) -> Result<(Bytes, Claim), ClientError> {
        let announced = body.size_hint().lower();
        if announced > bytes_max as u64 {
            return Err(ClientError::ResponseTooLarge(bytes_max));
        }
        let mut claim = budget::claim(&self.ledger, announced.min(budget::ANNOUNCED_BYTES_MAX))?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Transport(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = whole.len() + data.len();
            if length > bytes_max {
                return Err(ClientError::ResponseTooLarge(bytes_max));
            }
            // A buffer that grows has twice the bytes while it is moved.
            budget::grow_to(&self.ledger, &mut claim, 2 * length as u64, 2 * bytes_max as u64)?;
            whole.extend_from_slice(&data);
        }
        if whole.capacity() > whole.len() + whole.len() / 8 {
            whole = BytesMut::from(whole.as_ref());
        }
        claim.shrink_to(whole.len() as u64);
        Ok((whole.freeze(), claim))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use weir_model::Ledger;

    use super::super::{BoxFuture, ClientSettings, Resolve};
    use super::*;
    use crate::roots::client_config;

    /// Counts lookups that have begun, and ends none.
    #[derive(Default)]
    struct Mute(AtomicUsize);

    impl Resolve for Mute {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        }
    }

    /// Scenario: a resolver that never answers, and three jobs, each with two outlets and more names than may be looked up at once.
    /// Guarantees: all outlets together have no more lookups under way than the named number, and reach it.
    #[tokio::test]
    async fn lookups_of_all_jobs_together_are_bounded() {
        let mute = Arc::new(Mute::default());
        let resolver = Arc::clone(&mute) as Arc<dyn Resolve>;
        let client = Client::new(ClientSettings { resolver, ..ClientSettings::new(Ledger::new(64 << 20)) });
        let tls = client_config(None).unwrap();
        let limits = SendLimits { timeout: Duration::from_millis(100), response_bytes_max: 1000 };
        let mut fetches = JoinSet::new();
        for job in 0..3 {
            let url = |name: usize| format!("http://target-{name}.job-{job}.example/");
            let origins: Vec<_> = (0..LOOKUPS_MAX).map(|name| url(name).parse().unwrap()).collect();
            for keeping in [Keeping::One, Keeping::None] {
                let egress = Egress::new(origins.clone()).unwrap();
                let outlet = client.outlet_of_targets(egress, tls.clone(), keeping);
                for name in 0..LOOKUPS_MAX {
                    let (outlet, mut request) = (outlet.clone(), http::Request::new(Bytes::new()));
                    *request.uri_mut() = url(name).parse().unwrap();
                    fetches.spawn(async move { outlet.fetch(request, limits).await });
                }
            }
        }
        while let Some(fetched) = fetches.join_next().await {
            assert!(matches!(fetched.unwrap(), Err(ClientError::Timeout(_))));
        }
        assert_eq!(mute.0.load(Ordering::SeqCst), LOOKUPS_MAX);
    }
}

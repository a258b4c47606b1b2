//! A plugin seen as an exporter that is fetched from: one instance takes what is pushed and answers for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weir_model::{BoxFuture, Exporter, Ledger, Outcome, PageServer, Push, Refusal, SMALL_BYTES_MAX, http};
use weir_net::budget;

use crate::as_exporter::{Encoded, encoded, entered, told};
use crate::ask::{Asking, Unfit};
use crate::end::{ABSORB, End, SERVE};
use crate::instance::Instance;
use crate::slot::Slot;
use crate::under_way::{PageRoom, Stay, held};
use crate::wanted::shows_its_slot;

/// How long a request for the page waits for the instance: as long as Prometheus waits for an answer by default.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Bytes of one part of a page (`wit/plugin.wit`, `page.more`).
const PART_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a whole page: a million series of 250 bytes each. The memory budget of the process usually ends it sooner.
const PAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Parts of a page after the first: those of [`PAGE_BYTES_MAX`] where each has 16 KiB.
const PARTS_MAX: usize = PAGE_BYTES_MAX / (16 * 1024);

/// One configured id whose page is a plugin's.
pub struct PluginPage {
    pub(crate) slot: Arc<Slot>,
    /// Pays for pages.
    pub(crate) ledger: Arc<Ledger>,
    /// What it shares with all other pages.
    pub(crate) room: Arc<PageRoom>,
}

shows_its_slot!(PluginPage);

impl PluginPage {
    /// Unlike an exporter's push it goes on when nobody waits for it any more: it waits for no backend, and an instance
    /// that was cut in it would take with it what it remembers.
    async fn try_push(&self, push: Push) -> Outcome {
        let (generation, turn) = match entered(&self.slot, &push).await {
            Ok(entered) => entered,
            Err(outcome) => return outcome,
        };
        let Encoded { encoding, body, claim } = match encoded(&push, &generation) {
            Ok(encoded) => encoded,
            Err(outcome) => return outcome,
        };
        let absorbed = generation.pool.call(turn, ABSORB, move |instance| {
            Box::pin(async move {
                let absorbed = instance.absorb(&push, encoding, &body).await;
                drop(claim);
                absorbed
            })
        });
        told(absorbed.await)
    }
}

impl Exporter for PluginPage {
    fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let items = push.items;
            let outcome = self.try_push(push).await;
            self.counts().outcomes.count(&outcome, items);
            outcome
        })
    }

    fn in_flight_max(&self) -> usize {
        self.slot.instances_max()
    }

    fn generation(&self) -> u64 {
        self.slot.generation()
    }

    fn found_at_fault(&self) {
        self.slot.try_now();
    }
}

impl PageServer for PluginPage {
    fn serve(&self, request: http::Request) -> BoxFuture<'_, Result<http::Page, Refusal>> {
        let (ledger, room) = (Arc::clone(&self.ledger), Arc::clone(&self.room));
        let longest = self.slot.limits().call_deadline;
        let asking = Asking { what: "page", call: SERVE, wait_max: WAIT_MAX };
        Box::pin(self.slot.ask(asking, move |instance| {
            Box::pin(async move {
                let parts = Parts::new(ledger, room.enter(), longest);
                served(instance, &request, parts).await
            })
        }))
    }
}

/// Asks for the page until there is no more of it.
async fn served(
    instance: &mut Instance,
    request: &http::Request,
    mut parts: Parts,
) -> Result<Result<http::Page, Unfit>, End> {
    let first = instance.serve(request).await?.map_err(Unfit::from);
    let first = first.and_then(|response| {
        let body = parts.pay(response.body)?;
        Ok(http::Response { body, ..response })
    });
    let response = match first {
        Ok(response) => response,
        Err(unfit) => return Ok(Err(unfit)),
    };
    loop {
        let part = instance.more().await?;
        if part.is_empty() {
            return Ok(Ok(parts.end(response)));
        }
        if let Err(unfit) = parts.add(part) {
            return Ok(Err(unfit));
        }
    }
}

/// What has come of a page.
struct Parts {
    ledger: Arc<Ledger>,
    stay: Stay,
    /// How long all of it may take, and until when that is.
    longest: Duration,
    ends_at: Instant,
    bytes: usize,
    rest: Vec<Bytes>,
}

impl Parts {
    fn new(ledger: Arc<Ledger>, stay: Stay, longest: Duration) -> Self {
        Self { ledger, stay, longest, ends_at: Instant::now() + longest, bytes: 0, rest: Vec::new() }
    }

    fn add(&mut self, part: Vec<u8>) -> Result<(), Unfit> {
        if part.len() > PART_BYTES_MAX {
            let bytes = part.len();
            return Err(format!("a part of a page of {bytes} bytes, at most {PART_BYTES_MAX} fit").into());
        }
        if self.rest.len() == PARTS_MAX {
            return Err(format!("a page of more than {PARTS_MAX} parts").into());
        }
        if Instant::now() >= self.ends_at {
            return Err(format!("a page that takes longer than call_deadline {:?}", self.longest).into());
        }
        let paid = self.pay(part.into())?;
        self.rest.push(paid);
        Ok(())
    }

    /// Pays for a part: it comes back when the part was sent.
    fn pay(&mut self, part: Bytes) -> Result<Bytes, Unfit> {
        self.bytes += part.len();
        if self.bytes > PAGE_BYTES_MAX {
            return Err(format!("a page of more than {PAGE_BYTES_MAX} bytes").into());
        }
        self.stay.grow_to(self.bytes as u64).map_err(Unfit::NoMemory)?;
        let bytes = part.len() as u64;
        // The small parts of a large page are not small requests: what is kept for those is not for them.
        let asked = if self.bytes as u64 > SMALL_BYTES_MAX { bytes.max(SMALL_BYTES_MAX + 1) } else { bytes };
        let mut claim = budget::claim(&self.ledger, asked).map_err(Unfit::NoMemory)?;
        claim.shrink_to(bytes);
        Ok(budget::paid(part, claim))
    }

    /// There is no more of it.
    fn end(self, response: http::Response) -> http::Page {
        let Self { stay, rest, .. } = self;
        let mut parts = held(std::iter::once(response.body).chain(rest), stay);
        let body = parts.remove(0);
        http::Page { response: http::Response { body, ..response }, rest: parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn parts(ledger: &Arc<Ledger>) -> Parts {
        Parts::new(Arc::clone(ledger), PageRoom::new(ledger.limit()).enter(), Duration::from_secs(3600))
    }

    fn why(unfit: Unfit) -> String {
        match unfit {
            Unfit::NotValid(why) => why,
            Unfit::NoMemory(exhausted) => exhausted.to_string(),
        }
    }

    /// Scenario: parts at the limit and over it; more of them than fit, in bytes and in number; one that comes too late.
    /// Guarantees: each is told by its limit, and whatever came is paid for until it is let go.
    #[test]
    fn a_page_is_bounded_and_paid_for() {
        let ledger = Ledger::new(4 * PAGE_BYTES_MAX as u64);
        let mut page = parts(&ledger);
        page.pay(vec![0; MIB].into()).unwrap();
        assert_eq!(ledger.used(), 0, "a part that was let go is not paid for");
        page.add(vec![0; MIB]).unwrap();
        assert_eq!(ledger.used(), MIB as u64);
        assert!(why(page.add(vec![0; MIB + 1]).unwrap_err()).contains("1048577 bytes, at most 1048576 fit"));
        while page.bytes < PAGE_BYTES_MAX {
            page.add(vec![0; MIB]).unwrap();
        }
        assert_eq!(why(page.add(vec![0]).unwrap_err()), "a page of more than 268435456 bytes");
        drop(page);
        assert_eq!(ledger.used(), 0);

        let mut page = parts(&ledger);
        (0..PARTS_MAX).for_each(|_| page.add(vec![0]).unwrap());
        assert_eq!(ledger.used(), PARTS_MAX as u64);
        assert_eq!(why(page.add(vec![0]).unwrap_err()), "a page of more than 16384 parts");

        let mut late = Parts::new(ledger, PageRoom::new(0).enter(), Duration::ZERO);
        assert_eq!(why(late.add(vec![0]).unwrap_err()), "a page that takes longer than call_deadline 0ns");
    }

    /// Scenario: a budget of 8 MiB, of which large requests have three eighths; a page in parts of 10 KiB.
    /// Guarantees: it ends where large requests end, and leaves the rest to small ones; a small page is one of those.
    #[test]
    fn a_page_in_small_parts_is_a_large_one() {
        let ledger = Ledger::new(8 * MIB as u64);
        let mut page = parts(&ledger);
        let unfit = (0..1_000).find_map(|_| page.add(vec![0; 10 * 1024]).err()).unwrap();
        assert!(matches!(unfit, Unfit::NoMemory(_)), "{unfit:?}");
        assert!(ledger.used() <= 3 * MIB as u64, "{}", ledger.used());
        parts(&ledger).pay(vec![0; 10 * 1024].into()).unwrap();
    }
}

//! The calls that parts make into an instance: one for each function of the contract.

use bytes::Bytes;
use tracing::warn;
use weir_model::scrape::{Fetched, Target};
use weir_model::{Outcome, Push, Signal, http, unary};

use super::{Call, Instance, absent};
use crate::convert;
use crate::describe::Encoding;
use crate::end::{
    ABSORB, DIGEST, End, EndKind, FORGET, MORE, Named, PREPARE, PUSH, RECEIVE, RECEIVE_CALL,
    RECEIVE_DATAGRAM, SERVE,
};

/// A guest's answer, or what is not valid about it, for the log.
type Checked<T> = Result<T, String>;

// === exporter ===

impl Instance {
    /// `exporter.push` of a body in the encoding that the plugin asked for.
    ///
    /// # Errors
    /// [`End`].
    pub(crate) async fn push(
        &mut self,
        push: &Push,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Outcome, End> {
        let call = Call::begin(PUSH, &self.engine, &mut self.store).of(&push.id);
        let Some(exporter) = &self.interfaces.exporter else {
            return Err(absent(self.store.data(), call.named));
        };
        let (batch, delivery) = convert::push(push, encoding, body);
        let said =
            call.run(&mut self.store, async |store| exporter.call_push(store, batch, delivery).await).await?;
        Ok(convert::outcome(said, self.store.data().secrets()))
    }

    /// The end of a call of `exporter.push` that was dropped half done.
    pub(crate) fn cut(&self, push: &Push) -> End {
        let named = Named { call: PUSH, delivery: Some(&push.id) };
        End::told(&self.store.data().about, named, EndKind::Cut, "cut, nobody waits for it any more")
    }
}

// === page ===

impl Instance {
    /// `page.absorb` of a body in the encoding that the plugin asked for.
    ///
    /// # Errors
    /// [`End`].
    pub(crate) async fn absorb(
        &mut self,
        push: &Push,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Outcome, End> {
        let call = Call::begin(ABSORB, &self.engine, &mut self.store).of(&push.id);
        let Some(page) = &self.interfaces.page else {
            return Err(absent(self.store.data(), call.named));
        };
        let (batch, delivery) = convert::push(push, encoding, body);
        let said =
            call.run(&mut self.store, async |store| page.call_absorb(store, batch, delivery).await).await?;
        Ok(convert::outcome(said, self.store.data().secrets()))
    }

    /// `page.serve`: the first part of a page.
    ///
    /// # Errors
    /// [`End`] outside, a response that is not valid inside.
    pub(crate) async fn serve(&mut self, request: &http::Request) -> Result<Checked<http::Response>, End> {
        let call = Call::begin(SERVE, &self.engine, &mut self.store);
        let Some(page) = &self.interfaces.page else {
            return Err(absent(self.store.data(), call.named));
        };
        let headers = convert::headers(&request.headers);
        let wit = convert::request(request, &headers);
        let said = call.run(&mut self.store, async |store| page.call_serve(store, wit).await).await?;
        Ok(self.redacted(convert::response(said)))
    }

    /// `page.more`: the next part of the page, empty where there is none.
    ///
    /// # Errors
    /// [`End`].
    pub(crate) async fn more(&mut self) -> Result<Vec<u8>, End> {
        let call = Call::begin(MORE, &self.engine, &mut self.store);
        let Some(page) = &self.interfaces.page else {
            return Err(absent(self.store.data(), call.named));
        };
        call.run(&mut self.store, async |store| page.call_more(store).await).await
    }
}

// === receivers ===

impl Instance {
    /// `http-receiver.receive`.
    ///
    /// # Errors
    /// [`End`] outside, an answer that is not valid inside.
    pub(crate) async fn receive(
        &mut self,
        listener: &str,
        request: &http::Request,
    ) -> Result<Checked<http::Answer>, End> {
        let call = Call::begin(RECEIVE, &self.engine, &mut self.store);
        let Some(receiver) = &self.interfaces.http_receiver else {
            return Err(absent(self.store.data(), call.named));
        };
        let headers = convert::headers(&request.headers);
        let wit = convert::request(request, &headers);
        let said = call
            .run(&mut self.store, async |store| receiver.call_receive(store, listener, wit).await)
            .await?;
        Ok(self.redacted(convert::answer(said)))
    }

    /// `datagram-receiver.receive`.
    ///
    /// # Errors
    /// [`End`] outside; batches that are not valid in the middle; inside, why the datagram is no telemetry.
    pub(crate) async fn receive_datagram(
        &mut self,
        listener: &str,
        datagram: &[u8],
    ) -> Result<Checked<Result<Vec<(Signal, Bytes)>, String>>, End> {
        let call = Call::begin(RECEIVE_DATAGRAM, &self.engine, &mut self.store);
        let Some(receiver) = &self.interfaces.datagram_receiver else {
            return Err(absent(self.store.data(), call.named));
        };
        let said = call
            .run(&mut self.store, async |store| receiver.call_receive(store, listener, datagram).await)
            .await?;
        let said = convert::of_datagram(said, self.store.data().secrets());
        Ok(self.redacted(said))
    }

    /// `grpc-receiver.receive`.
    ///
    /// # Errors
    /// [`End`] outside; an answer that is not valid in the middle; inside, the status that the caller gets.
    pub(crate) async fn receive_call(
        &mut self,
        listener: &str,
        unary: &unary::Call,
    ) -> Result<Checked<Result<unary::Received, unary::Status>>, End> {
        let call = Call::begin(RECEIVE_CALL, &self.engine, &mut self.store);
        let Some(receiver) = &self.interfaces.grpc_receiver else {
            return Err(absent(self.store.data(), call.named));
        };
        let metadata = convert::headers(&unary.metadata);
        let (method, message) = (unary.method.as_str(), &unary.message[..]);
        let said = call
            .run(&mut self.store, async |store| {
                receiver.call_receive(store, listener, method, &metadata, message).await
            })
            .await?;
        let guest = self.store.data();
        if let Err(status) = &said
            && !convert::is_error_code(status.code)
        {
            warn!(plugin = %guest.about, code = status.code, "status of a plugin is no error of gRPC, INTERNAL is sent");
        }
        let said = convert::of_call(said, guest.secrets());
        Ok(self.redacted(said))
    }
}

// === scraper ===

impl Instance {
    /// `scraper.prepare`.
    ///
    /// # Errors
    /// [`End`] outside, a request that is not for this target inside.
    pub(crate) async fn prepare(&mut self, target: &Target) -> Result<Checked<http::Request>, End> {
        let call = Call::begin(PREPARE, &self.engine, &mut self.store);
        let Some(scraper) = &self.interfaces.scraper else {
            return Err(absent(self.store.data(), call.named));
        };
        let labels = convert::headers(&target.labels);
        let wit = convert::target(target, &labels);
        let said = call.run(&mut self.store, async |store| scraper.call_prepare(store, wit).await).await?;
        Ok(self.redacted(convert::prepared(said, target)))
    }

    /// `scraper.digest`.
    ///
    /// # Errors
    /// [`End`] outside, batches that are not valid inside.
    pub(crate) async fn digest(
        &mut self,
        target: &Target,
        fetched: &Fetched,
    ) -> Result<Checked<Vec<(Signal, Bytes)>>, End> {
        let call = Call::begin(DIGEST, &self.engine, &mut self.store);
        let Some(scraper) = &self.interfaces.scraper else {
            return Err(absent(self.store.data(), call.named));
        };
        let labels = convert::headers(&target.labels);
        let headers = fetched.answer.as_ref().map_or(&[][..], |answer| &answer.headers);
        let headers = convert::headers(headers);
        let (target, fetched) = (convert::target(target, &labels), convert::fetched(fetched, &headers));
        let said = call
            .run(&mut self.store, async |store| scraper.call_digest(store, target, fetched).await)
            .await?;
        Ok(self.redacted(convert::batches(said)))
    }

    /// `scraper.forget`; `at` is now, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Instance::digest`].
    pub(crate) async fn forget(
        &mut self,
        target: &Target,
        at: u64,
    ) -> Result<Checked<Vec<(Signal, Bytes)>>, End> {
        let call = Call::begin(FORGET, &self.engine, &mut self.store);
        let Some(scraper) = &self.interfaces.scraper else {
            return Err(absent(self.store.data(), call.named));
        };
        let labels = convert::headers(&target.labels);
        let wit = convert::target(target, &labels);
        let said = call.run(&mut self.store, async |store| scraper.call_forget(store, wit, at).await).await?;
        Ok(self.redacted(convert::batches(said)))
    }

    /// What is not valid about an answer, without secrets.
    fn redacted<T>(&self, said: Checked<T>) -> Checked<T> {
        said.map_err(|why| self.store.data().secrets().redact(&why).into_owned())
    }
}

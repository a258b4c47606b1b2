//! A plugin seen as a receiver: of HTTP requests, of gRPC calls, of datagrams. All doors of an id share its instances.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_model::{BoxFuture, DatagramReceiver, GrpcReceiver, HttpReceiver, Refusal, Signal, http, unary};

use crate::ask::{Asking, Unfit};
use crate::end::{RECEIVE, RECEIVE_CALL, RECEIVE_DATAGRAM};
use crate::slot::Slot;
use crate::wanted::shows_its_slot;

/// How long a sender waits for an instance. It will try again; it must not hold its connection for minutes.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// One configured id whose receiver is a plugin.
pub struct PluginReceiver {
    pub(crate) slot: Arc<Slot>,
}

shows_its_slot!(PluginReceiver);

fn asking(call: &'static str) -> Asking {
    Asking { what: "receiver", call, wait_max: WAIT_MAX }
}

impl HttpReceiver for PluginReceiver {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        request: http::Request,
    ) -> BoxFuture<'a, Result<http::Answer, Refusal>> {
        let listener = listener.to_owned();
        Box::pin(self.slot.ask(asking(RECEIVE), move |instance| {
            Box::pin(async move { Ok(instance.receive(&listener, &request).await?.map_err(Unfit::from)) })
        }))
    }
}

impl DatagramReceiver for PluginReceiver {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        datagram: Bytes,
    ) -> BoxFuture<'a, Result<Result<Vec<(Signal, Bytes)>, String>, Refusal>> {
        let listener = listener.to_owned();
        Box::pin(self.slot.ask(asking(RECEIVE_DATAGRAM), move |instance| {
            Box::pin(async move {
                Ok(instance.receive_datagram(&listener, &datagram).await?.map_err(Unfit::from))
            })
        }))
    }
}

impl GrpcReceiver for PluginReceiver {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        call: unary::Call,
    ) -> BoxFuture<'a, Result<Result<unary::Received, unary::Status>, Refusal>> {
        let listener = listener.to_owned();
        Box::pin(self.slot.ask(asking(RECEIVE_CALL), move |instance| {
            Box::pin(async move { Ok(instance.receive_call(&listener, &call).await?.map_err(Unfit::from)) })
        }))
    }
}

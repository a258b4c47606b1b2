//! One instance of a component: how it is made and configured, and what a call into it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};
use weir_model::Ledger;

use crate::convert;
use crate::describe::{Descriptor, DescriptorError, SettingsError};
use crate::end::{End, EndKind, INSTANTIATE, Named};
use crate::engine::{GuestEngine, Running};
use crate::grant::Powers;
use crate::guest::{Guest, Identity};
use crate::interfaces::{Indices, Interfaces};
use crate::limits::{ANSWER_GRACE, HANDLES_MAX, HANDOVER_BYTES_MAX, Limits};
use crate::pool::Idlers;
use crate::said;
use crate::scan::Scan;
use crate::workers::Load;

mod calls;

/// How long after the call deadline a host function that knows no deadline (WASI's poll) is cut: later than a guest that
/// computes would have been.
const CUT_GRACE: Duration = ANSWER_GRACE.saturating_mul(2);

/// A component ready to be instantiated: linked, its exports looked up.
pub(crate) struct Blueprint {
    pre: InstancePre<Guest>,
    indices: Indices,
}

impl Blueprint {
    /// Looks the exports up by name and checks their types.
    ///
    /// # Errors
    /// Where an interface that the component exports under our name is not ours.
    pub(crate) fn new(pre: InstancePre<Guest>, scan: &Scan) -> wasmtime::Result<Self> {
        Ok(Self { indices: Indices::new(&pre, scan)?, pre })
    }
}

/// What each instance of an id is made of.
pub(crate) struct Mold {
    pub(crate) engine: GuestEngine,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) identity: Identity,
    pub(crate) powers: Powers,
    pub(crate) limits: Limits,
    /// Who gives memory back where this one has none.
    pub(crate) idlers: Idlers,
}

/// One instance: a store with a component in it. After an [`End`] it must be dropped.
pub(crate) struct Instance {
    store: Store<Guest>,
    /// When it was made.
    born: Instant,
    /// Calls that it has answered for whoever it serves; describing and configuring do not count.
    pub(crate) served: u64,
    engine: GuestEngine,
    interfaces: Interfaces,
}

impl Instance {
    /// Makes an instance; its start code runs under the same deadlines as a call.
    ///
    /// # Errors
    /// [`End`].
    pub(crate) async fn new(mold: &Mold) -> Result<Self, End> {
        Self::with_load(mold, Arc::default()).await
    }

    /// As [`Instance::new`]; how long the guest computes is told to `load`, from its start code on.
    ///
    /// # Errors
    /// [`End`].
    pub(crate) async fn with_load(mold: &Mold, load: Arc<Load>) -> Result<Self, End> {
        let Mold { engine, ledger, blueprint, identity, powers, limits, idlers } = mold;
        identity.counts.instances.add(1);
        let mut store =
            Store::new(engine.engine(), Guest::new(engine, ledger, identity, powers, limits, idlers));
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(HANDOVER_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().timer.tick() {
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            } else {
                UpdateDeadline::Interrupt
            })
        });
        store.data_mut().timer.report_to(load);
        let call = Call::begin(INSTANTIATE, engine, &mut store);
        let made = call.run(&mut store, async |store| blueprint.pre.instantiate_async(store).await).await?;
        match blueprint.indices.load(&mut store, &made) {
            Ok(interfaces) => {
                let (engine, born) = (engine.clone(), Instant::now());
                Ok(Self { store, born, served: 0, engine, interfaces })
            }
            Err(error) => Err(End::of(named(INSTANTIATE), &error, store.data_mut())),
        }
    }

    /// Bytes of memory that it has.
    pub(crate) fn bytes(&self) -> usize {
        self.store.data().limiter.bytes()
    }

    /// How old it is.
    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// How long the guest computes is told to `load` from now on.
    pub(crate) fn report_to(&mut self, load: Arc<Load>) {
        self.store.data_mut().timer.report_to(load);
    }

    /// `plugin.describe`.
    ///
    /// # Errors
    /// [`End`] outside, a descriptor that is not valid inside.
    pub(crate) async fn describe(&mut self) -> Result<Result<Descriptor, DescriptorError>, End> {
        let call = Call::begin("plugin.describe", &self.engine, &mut self.store);
        let plugin = &self.interfaces.plugin;
        let said = call.run(&mut self.store, async |store| plugin.call_describe(store).await).await?;
        Ok(Descriptor::check(said))
    }

    /// `plugin.configure`.
    ///
    /// # Errors
    /// [`End`] outside, the guest's objections inside.
    pub(crate) async fn configure(&mut self, settings: &str) -> Result<Result<(), Vec<SettingsError>>, End> {
        let call = Call::begin("plugin.configure", &self.engine, &mut self.store);
        let plugin = &self.interfaces.plugin;
        let said =
            call.run(&mut self.store, async |store| plugin.call_configure(store, settings).await).await?;
        Ok(said.map_err(|said| convert::objections(said, self.store.data().secrets())))
    }
}

/// A call of an interface that the component does not export; the facade hands out no part that could make one.
fn absent(guest: &Guest, named: Named<'_>) -> End {
    End::told(&guest.about, named, EndKind::Trap, "it does not export the interface")
}

fn named(call: &'static str) -> Named<'static> {
    Named { call, delivery: None }
}

/// A call under way: its name, and the ticking clock.
struct Call<'a> {
    named: Named<'a>,
    _running: Running,
}

impl<'a> Call<'a> {
    fn begin(call: &'static str, engine: &GuestEngine, store: &mut Store<Guest>) -> Self {
        let running = engine.running();
        store.data_mut().begin();
        store.set_epoch_deadline(1);
        Self { named: named(call), _running: running }
    }

    /// The call makes this delivery.
    fn of(mut self, delivery: &'a str) -> Self {
        self.named.delivery = Some(delivery);
        self
    }

    /// Runs `f` in the store until it returns or the call's time is over.
    async fn run<R>(
        self,
        store: &mut Store<Guest>,
        f: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, End> {
        let ends_at = store.data().timer.ends_at() + CUT_GRACE;
        let done = tokio::time::timeout_at(ends_at, f(store)).await;
        let error = match done {
            Ok(Ok(value)) => {
                // A refused growth that the guest survived is its own business.
                store.data_mut().limiter.take_refused();
                said::tell_printed(store.data_mut());
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                store.data_mut().timer.cut();
                wasmtime::Error::msg("cut in a host function")
            }
        };
        Err(End::of(self.named, &error, store.data_mut()))
    }
}

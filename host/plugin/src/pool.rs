//! The instances of one configured id: as many as may be under way at once, made when they are needed.
//!
//! An instance that has ended is dropped and the next call gets a fresh one. A call that has begun is finished even if
//! nobody waits for it any more, unless the call itself asks whether somebody does, as an exporter's push.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use weir_model::{BoxFuture, LANES};

use crate::end::{End, EndKind};
use crate::instance::{Instance, Mold};
use crate::rate::Bucket;

/// Instances of one id. One call is at most under way for each lane; four keep two cores and a slow backend busy.
const INSTANCES_DEFAULT: usize = 4;

/// Calls of one instance: a fresh one costs as much as some ten calls, a leak of a byte a call is then a megabyte.
const CALLS_MAX_DEFAULT: u64 = 1_000_000;

/// Age of one instance.
const AGE_MAX_DEFAULT: Duration = Duration::from_secs(3600);

/// An instance that was idle for so long gives its memory back. A guest's memory never shrinks.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// An instance this small is kept even when the process is short of memory: making it anew would cost as much.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Ends that are logged at once; then one for each [`END_LOG_INTERVAL`]. All are counted.
const END_LOGS_BURST: u32 = 5;

/// See [`END_LOGS_BURST`].
const END_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How many instances an id may have (`pool:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Calls under way at once, 1 to [`LANES`].
    pub instances: usize,
    /// Calls after which an instance is retired: whatever it leaks is gone with it.
    pub calls_max: u64,
    /// Age at which an instance is retired.
    pub age_max: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { instances: INSTANCES_DEFAULT, calls_max: CALLS_MAX_DEFAULT, age_max: AGE_MAX_DEFAULT }
    }
}

/// Instances of one configured id, all made of the same mold and with the same settings.
pub(crate) struct Pool {
    mold: Mold,
    settings: String,
    instances_max: usize,
    permits: Arc<Semaphore>,
    /// The last one used is taken first, so that those deep down grow old and go.
    idle: Mutex<Vec<(Instant, Instance)>>,
    logs: Mutex<Bucket>,
    /// Whether a task waits to retire idle instances.
    sweeping: AtomicBool,
    tasks: Tasks,
}

/// The tasks of all pools of a host. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    running: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Waits for calls under way; nothing else is waited for.
    pub(crate) async fn drain(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl Pool {
    /// A pool without instances yet; each will be configured with `settings`.
    pub(crate) fn new(mold: Mold, settings: String, pool: &PoolSettings, tasks: Tasks) -> Arc<Self> {
        let instances_max = pool.instances.clamp(1, LANES);
        Arc::new(Self {
            mold,
            settings,
            instances_max,
            permits: Arc::new(Semaphore::new(instances_max)),
            idle: Mutex::new(Vec::with_capacity(instances_max)),
            logs: Mutex::new(Bucket::new(END_LOGS_BURST, END_LOG_INTERVAL)),
            sweeping: AtomicBool::new(false),
            tasks,
        })
    }

    pub(crate) fn instances_max(&self) -> usize {
        self.instances_max
    }

    pub(crate) fn mold(&self) -> &Mold {
        &self.mold
    }

    /// Waits until one more call may be under way.
    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("the pool never closes its semaphore")
    }

    /// Calls `f` with an instance of its own.
    ///
    /// # Errors
    /// [`End`]: the instance is gone.
    ///
    /// # Cancel safety
    /// A call that was dropped goes on to its end; only its answer is lost.
    pub(crate) async fn call<R: Send + 'static>(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<R, End>> + Send + 'static,
    ) -> Result<R, End> {
        let pool = Arc::clone(self);
        let task = self.tasks.running.spawn(async move {
            let started = Instant::now();
            let served = pool.serve(f).await;
            pool.mold.identity.counts.called(started.elapsed());
            drop(permit);
            served.inspect_err(|end| pool.ended(end))
        });
        task.await.unwrap_or_else(|error| Err(self.lost(&error)))
    }

    async fn serve<R>(
        self: &Arc<Self>,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<R, End>>,
    ) -> Result<R, End> {
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => self.make().await?,
        };
        let value = f(&mut instance).await?;
        self.put_back(instance);
        Ok(value)
    }

    async fn make(&self) -> Result<Instance, End> {
        let mut instance = Instance::new(&self.mold).await?;
        match instance.configure(&self.settings).await? {
            Ok(()) => Ok(instance),
            Err(objections) => {
                let first = objections.first().map_or("no reason given", |error| error.message.as_str());
                let Mold { identity, .. } = &self.mold;
                let message = format!(
                    "plugin {} ({}): settings that it had taken: {first}",
                    identity.plugin, identity.id
                );
                Err(End { kind: EndKind::Configure, message })
            }
        }
    }

    fn take_idle(&self) -> Option<Instance> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|(_, instance)| instance)
    }

    fn put_back(self: &Arc<Self>, instance: Instance) {
        let Mold { ledger, limits, .. } = &self.mold;
        let short = ledger.used() > ledger.limit() / 4 * 3 && instance.bytes() > KEPT_BYTES;
        if short || instance.bytes() > limits.memory_bytes / 2 {
            // Its next call might find no room to grow, or leave none for others.
            return;
        }
        self.lock_idle().push((Instant::now(), instance));
        if !self.sweeping.swap(true, Ordering::AcqRel) {
            let (pool, stop) = (Arc::downgrade(self), self.tasks.stop.clone());
            self.tasks.running.spawn(async move { stop.run_until_cancelled(sweep(pool)).await });
        }
    }

    /// Drops instances that were idle for [`IDLE_MAX`]; says whether others are left.
    fn retire_idle(&self) -> bool {
        let mut idle = self.lock_idle();
        let old = idle.iter().take_while(|(since, _)| since.elapsed() >= IDLE_MAX).count();
        let retired: Vec<_> = idle.drain(..old).collect();
        let left = !idle.is_empty();
        drop(idle);
        // Unmapping memory takes a while; nobody waits for the lock meanwhile.
        drop(retired);
        left
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<(Instant, Instance)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of guest memory in idle instances.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.lock_idle().iter().map(|(_, instance)| instance.bytes()).sum()
    }

    fn ended(&self, end: &End) {
        let Mold { identity, .. } = &self.mold;
        identity.counts.ends.of(end.kind).add(1);
        if self.logs.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            warn!(plugin = %identity.plugin, id = %identity.id, kind = end.kind.name(), error = %end, "plugin instance ended");
        }
    }

    /// A host function has panicked, or the runtime is gone: the instance went with it.
    fn lost(&self, error: &tokio::task::JoinError) -> End {
        let end =
            End { kind: EndKind::Trap, message: format!("plugin {}: {error}", self.mold.identity.plugin) };
        self.ended(&end);
        end
    }
}

/// Retires idle instances until none is left, or the pool is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_MAX).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.retire_idle() {
            // An instance that is put back from here on starts a sweep of its own.
            pool.sweeping.store(false, Ordering::Release);
            if pool.lock_idle().is_empty() || pool.sweeping.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}

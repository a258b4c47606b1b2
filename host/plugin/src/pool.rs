//! The instances of one configured id: as many as may be under way at once, made when they are needed.
//!
//! An instance that has ended is dropped and the next call gets a fresh one; so is one that has grown old or large. A
//! call that has begun is finished even if nobody waits for it any more, unless the call itself asks whether somebody
//! does, as an exporter's push.
//!
//! A *pinned* pool has one instance, which remembers: it is kept whatever its calls, age, size or idleness. What it
//! remembers ends with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use weir_model::{BoxFuture, LANES};

use crate::counts::Retirement;
use crate::end::{End, EndKind, Named};
use crate::instance::{Instance, Mold};
use crate::quarantine::{Admission, Quarantine, QuarantineSettings, Quarantined};
use crate::rate::Bucket;
use crate::workers::{Habit, Load, Ran, Workers};

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
    /// When an instance is retired; none: never.
    retirement: Option<Bounds>,
    quarantine: Arc<Quarantine>,
    habit: Habit,
    permits: Arc<Semaphore>,
    /// The last one used is taken first, so that those deep down grow old and go.
    idle: Mutex<Vec<(Instant, Instance)>>,
    logs: Mutex<Bucket>,
    /// Whether a task waits to retire idle instances.
    sweeping: AtomicBool,
    tasks: Tasks,
}

/// Of one instance.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    calls_max: u64,
    age_max: Duration,
}

/// The tasks of all pools of a host, and their threads for long calls. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    running: TaskTracker,
    stop: CancellationToken,
    workers: Arc<Workers>,
    idlers: Idlers,
}

/// The pools of a host, for their idle instances: those give their memory back where another instance has none. Cloning shares
/// them.
#[derive(Clone, Default)]
pub(crate) struct Idlers(Arc<Mutex<Vec<Weak<Pool>>>>);

impl Idlers {
    /// Drops the idle instances of all pools; says whether there were any.
    pub(crate) fn give_back(&self) -> bool {
        let pools: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let given = pools.iter().map(|pool| pool.drop_idle()).sum::<usize>();
        given > 0
    }

    fn join(&self, pool: &Arc<Pool>) {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call: room for it, and leave.
#[must_use]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    admission: Admission,
}

/// Why there is no turn.
#[derive(Debug)]
pub(crate) enum NoTurn {
    /// The id is in quarantine.
    Kept(Quarantined),
    /// Another pool has taken over.
    Retired,
}

impl Tasks {
    pub(crate) fn idlers(&self) -> Idlers {
        self.idlers.clone()
    }

    /// Waits for calls under way; nothing else is waited for.
    pub(crate) async fn drain(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl Pool {
    /// A pool without instances yet; each will be configured with `settings`.
    pub(crate) fn new(
        mold: Mold,
        settings: String,
        pool: &PoolSettings,
        quarantine: QuarantineSettings,
        tasks: Tasks,
    ) -> Arc<Self> {
        let PoolSettings { instances, calls_max, age_max } = *pool;
        let idlers = tasks.idlers();
        let bounds = Bounds { calls_max, age_max };
        let pool = Self::of(mold, settings, instances.clamp(1, LANES), Some(bounds), quarantine, tasks);
        idlers.join(&pool);
        pool
    }

    /// A pinned pool: one instance at most, kept while it behaves. Nobody else gets its memory back.
    pub(crate) fn pinned(
        mold: Mold,
        settings: String,
        quarantine: QuarantineSettings,
        tasks: Tasks,
    ) -> Arc<Self> {
        Self::of(mold, settings, 1, None, quarantine, tasks)
    }

    fn of(
        mold: Mold,
        settings: String,
        instances_max: usize,
        retirement: Option<Bounds>,
        quarantine: QuarantineSettings,
        tasks: Tasks,
    ) -> Arc<Self> {
        let quarantine = Quarantine::new(quarantine, mold.identity.counts.clone());
        Arc::new(Self {
            mold,
            settings,
            instances_max,
            retirement,
            quarantine,
            habit: Habit::default(),
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

    /// Waits until one more call may be under way; `searching` as [`weir_model::Push::searching`].
    ///
    /// # Errors
    /// [`NoTurn`].
    pub(crate) async fn turn(&self, searching: bool) -> Result<Turn, NoTurn> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_closed| NoTurn::Retired)?;
        let admission = self.quarantine.admit(searching, Instant::now()).map_err(NoTurn::Kept)?;
        Ok(Turn { _permit: permit, admission })
    }

    /// The quarantine that the id is in.
    pub(crate) fn quarantine(&self) -> Option<Quarantined> {
        self.quarantine.kept(Instant::now())
    }

    /// The record was found that ended instances: a call that comes now may try whether the quarantine is over.
    pub(crate) fn try_now(&self) {
        self.quarantine.try_now(Instant::now());
    }

    /// Another pool has taken over: whoever waits for a turn looks again and finds that one, calls under way finish, and
    /// how they end is held against nobody. For a pool that serves no more: else those that wait would look for ever.
    pub(crate) fn retire(&self) {
        self.permits.close();
        self.quarantine.retire();
        self.drop_idle();
    }

    /// What a caller is told who comes in quarantine.
    pub(crate) fn refusal(&self, quarantined: &Quarantined) -> String {
        let Mold { identity, .. } = &self.mold;
        format!("plugin {} of id {} is {quarantined}", identity.plugin, identity.id)
    }

    /// Calls `f` with an instance of its own; `call` is what it is called where the host itself breaks.
    ///
    /// # Errors
    /// [`End`]: the instance is gone.
    ///
    /// # Cancel safety
    /// A call that was dropped goes on to its end; only its answer is lost.
    pub(crate) async fn call<R: Send + 'static>(
        self: &Arc<Self>,
        turn: Turn,
        call: &'static str,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<R, End>> + Send + 'static,
    ) -> Result<R, End> {
        let pool = Arc::clone(self);
        let task = self.tasks.running.spawn(async move {
            let Turn { _permit, admission } = turn;
            let started = Instant::now();
            let served = pool.work(call, f).await;
            pool.mold.identity.counts.called(started.elapsed());
            match &served {
                Ok(_) => pool.answered(admission),
                Err(end) => pool.ended(end, Some(admission)),
            }
            served
        });
        task.await.unwrap_or_else(|error| {
            let end = self.lost(call, &error);
            self.ended(&end, None);
            Err(end)
        })
    }

    /// Serves a call where it is, or on the threads for long ones.
    async fn work<R: Send + 'static>(
        self: &Arc<Self>,
        call: &'static str,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<R, End>> + Send + 'static,
    ) -> Result<R, End> {
        let load = Arc::new(Load::default());
        let serving: BoxFuture<'static, Result<R, End>> = {
            let (pool, load) = (Arc::clone(self), Arc::clone(&load));
            Box::pin(async move { pool.serve(&load, f).await })
        };
        let ran = self.tasks.workers.run(serving, &load, self.habit.is_long()).await;
        self.habit.learn(&load);
        match ran {
            Ran::Here(served) => served,
            Ran::Moved(served) => {
                self.mold.identity.counts.moved.add(1);
                served.unwrap_or_else(|error| Err(self.lost(call, &error)))
            }
        }
    }

    async fn serve<R>(
        self: &Arc<Self>,
        load: &Arc<Load>,
        f: impl for<'a> FnOnce(&'a mut Instance) -> BoxFuture<'a, Result<R, End>>,
    ) -> Result<R, End> {
        let mut instance = match self.take_idle() {
            Some(mut instance) => {
                instance.report_to(Arc::clone(load));
                instance
            }
            None => self.make(load).await?,
        };
        let value = f(&mut instance).await?;
        instance.served += 1;
        self.put_back(instance);
        Ok(value)
    }

    async fn make(&self, load: &Arc<Load>) -> Result<Instance, End> {
        let mut instance = Instance::with_load(&self.mold, Arc::clone(load)).await?;
        match instance.configure(&self.settings).await? {
            Ok(()) => Ok(instance),
            Err(objections) => {
                let first = objections.first().map_or("no reason given", |error| error.message.as_str());
                let cause = format!("it refuses settings that it had taken: {first}");
                Err(self.told("plugin.configure", EndKind::Configure, &cause))
            }
        }
    }

    fn take_idle(&self) -> Option<Instance> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|(_, instance)| instance)
    }

    fn put_back(self: &Arc<Self>, instance: Instance) {
        if let Some(why) = self.retires(&instance) {
            self.mold.identity.counts.retired.of(why).add(1);
            return;
        }
        let mut idle = self.lock_idle();
        // Looked at under the lock: what retires a pool closes it first, and then drops what is idle.
        if self.permits.is_closed() {
            drop(idle);
            return drop(instance);
        }
        idle.push((Instant::now(), instance));
        drop(idle);
        if self.retirement.is_some() && !self.sweeping.swap(true, Ordering::AcqRel) {
            let (pool, stop) = (Arc::downgrade(self), self.tasks.stop.clone());
            self.tasks.running.spawn(async move { stop.run_until_cancelled(sweep(pool)).await });
        }
    }

    fn retires(&self, instance: &Instance) -> Option<Retirement> {
        let Bounds { calls_max, age_max } = self.retirement?;
        let Mold { ledger, limits, .. } = &self.mold;
        let short = ledger.used() > ledger.limit() / 4 * 3 && instance.bytes() > KEPT_BYTES;
        if short || instance.bytes() > limits.memory_bytes / 2 {
            // Its next call might find no room to grow, or leave none for others.
            return Some(Retirement::Memory);
        }
        if instance.served >= calls_max {
            return Some(Retirement::Calls);
        }
        (instance.age() >= age_max).then_some(Retirement::Age)
    }

    /// Drops instances that were idle for [`IDLE_MAX`]; says whether others are left.
    fn retire_idle(&self) -> bool {
        let mut idle = self.lock_idle();
        let old = idle.iter().take_while(|(since, _)| since.elapsed() >= IDLE_MAX).count();
        let retired: Vec<_> = idle.drain(..old).collect();
        let left = !idle.is_empty();
        drop(idle);
        self.mold.identity.counts.retired.of(Retirement::Idle).add(retired.len() as u64);
        // Unmapping memory takes a while; nobody waits for the lock meanwhile.
        drop(retired);
        left
    }

    /// Drops all idle instances and says how many; those in calls go on.
    fn drop_idle(&self) -> usize {
        let dropped = std::mem::take(&mut *self.lock_idle());
        self.mold.identity.counts.retired.of(Retirement::Memory).add(dropped.len() as u64);
        dropped.len()
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<(Instant, Instance)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of guest memory in idle instances.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.lock_idle().iter().map(|(_, instance)| instance.bytes()).sum()
    }

    fn answered(&self, admission: Admission) {
        if admission.answered() {
            let Mold { identity, .. } = &self.mold;
            info!(plugin = %identity.plugin, id = %identity.id, "plugin answers again, quarantine is over");
        }
    }

    fn ended(&self, end: &End, admission: Option<Admission>) {
        let Mold { identity, .. } = &self.mold;
        let End { kind, call, delivery, message } = end;
        identity.counts.ends.of(*kind).add(1);
        let now = Instant::now();
        if self.logs.lock().unwrap_or_else(PoisonError::into_inner).take(now) {
            let (plugin, version, id) = (&identity.plugin, &identity.version, &identity.id);
            let kind = kind.name();
            warn!(%plugin, %version, %id, kind, call, delivery, error = message, "plugin instance ended");
            if self.retirement.is_none() {
                warn!(%plugin, %id, "plugin starts empty: what it remembered ended with its instance");
            }
        }
        let admission = admission.filter(|_| kind.is_the_plugins());
        if let Some(kept) = admission.and_then(|admission| admission.ended(message, now)) {
            let (plugin, version, id) = (&identity.plugin, &identity.version, &identity.id);
            let cure = format!("replace the plugin's file, or try it at once: weir plugin release {id}");
            let (secs, error) = (kept.retry_after().as_secs(), kept.why.as_str());
            error!(%plugin, %version, %id, secs, ends = kept.ends, tries = kept.tries, error, cure, "plugin in quarantine");
        }
    }

    /// A host function has panicked, or the runtime is gone: the instance went with it.
    fn lost(&self, call: &'static str, error: &tokio::task::JoinError) -> End {
        self.told(call, EndKind::Trap, &error.to_string())
    }

    fn told(&self, call: &'static str, kind: EndKind, cause: &str) -> End {
        End::told(&self.mold.identity.about(), Named { call, delivery: None }, kind, cause)
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

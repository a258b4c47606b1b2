//! Threads for guests that compute for long, so that those which move bytes stay free.
//!
//! A call begins where it is: most take a fraction of a millisecond, and a hop would cost a good part of that. When the
//! clock's tick meets its guest at work, the call moves, half done as it is: a guest runs on a fiber of its own, and a
//! fiber does not mind its thread. An id whose last calls were long begins here.
//!
//! The threads have a lower priority, since a guest that computes can wait for a connection that is accepted, and not the
//! other way round.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::Poll;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, warn};
use weir_model::BoxFuture;

/// How much nicer the threads are than the process.
const NICER: i32 = 5;

/// The nicest that there is.
const NICEST: i32 = 19;

/// Ticks that met a guest at work in a call after which the call was a long one: it has computed for a whole tick.
const LONG_TICKS: u32 = 2;

/// What a long call adds to the memory of its id; a short one takes one away.
const LONG_WEIGHT: u8 = 4;

/// From here on calls begin on the workers: after two long ones in a row, until eight or more short ones.
const LONG_FROM: u8 = 8;

/// The memory's bound: an id that was always long is tried in its place again after eight short calls.
const LONG_MOST: u8 = 16;

/// The threads, made when they are needed first.
#[derive(Default)]
pub(crate) struct Workers {
    /// Nothing in it: there were no threads to be had, and calls stay where they are.
    runtime: OnceLock<Option<Runtime>>,
}

/// How a call that ran on the workers came back, or did not.
pub(crate) enum Ran<T> {
    /// It has never left its place.
    Here(T),
    /// It was moved. A host function may have panicked.
    Moved(Result<T, JoinError>),
}

impl Workers {
    /// Runs a call: here, until `load` says that its guest computes for long; from then on, or from its beginning if
    /// `at_once`, on the workers.
    ///
    /// # Cancel safety
    /// The call is dropped too, at its next wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        mut call: BoxFuture<'static, T>,
        load: &Load,
        at_once: bool,
    ) -> Ran<T> {
        if !at_once {
            let here = poll_fn(|context| match call.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if load.ticks() > 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(done) = here.await {
                return Ran::Here(done);
            }
        }
        let Some(workers) = self.handle() else { return Ran::Here(call.await) };
        Ran::Moved(AbortOnDropHandle::new(workers.spawn(call.in_current_span())).await)
    }

    fn handle(&self) -> Option<&Handle> {
        let made = self.runtime.get_or_init(|| match runtime() {
            Ok(runtime) => Some(runtime),
            Err(error) => {
                warn!(%error, "no threads for plugins that compute for long, they share those of the doors");
                None
            }
        });
        made.as_ref().map(Runtime::handle)
    }
}

impl Drop for Workers {
    /// The last owner may be a task, which must not wait for threads; these end by themselves.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take().flatten() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    let priority = nicer();
    Builder::new_multi_thread()
        .worker_threads(available_parallelism().map_or(1, usize::from))
        .thread_name("weir-guests")
        .on_thread_start(move || step_back(priority))
        .enable_all()
        .build()
}

/// The priority that is [`NICER`] than that of this thread.
fn nicer() -> i32 {
    rustix::process::getpriority_process(None).map_or(NICER, |now| (now + NICER).min(NICEST))
}

/// Linux knows priorities of threads; elsewhere it would be the whole process that steps back.
#[cfg(target_os = "linux")]
fn step_back(priority: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, priority) {
        tracing::debug!(%error, "threads of plugins keep the priority of the process");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back(_: i32) {}

/// How often the clock's tick has met the guest at work in one call, seen from outside of its store.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

impl Load {
    pub(crate) fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn ticks(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the last calls of an id were like.
#[derive(Debug, Default)]
pub(crate) struct Habit(AtomicU8);

impl Habit {
    /// Whether the next call is likely to be long.
    pub(crate) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LONG_FROM
    }

    /// A call is over. Calls that learn at the same time may lose a step.
    pub(crate) fn learn(&self, load: &Load) {
        let before = self.0.load(Ordering::Relaxed);
        let after = if load.ticks() >= LONG_TICKS {
            before.saturating_add(LONG_WEIGHT).min(LONG_MOST)
        } else {
            before.saturating_sub(1)
        };
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A call that computes for `ticks`, yielding at each, and says on which threads and at which priority it was polled.
    fn call(load: &Arc<Load>, ticks: usize) -> BoxFuture<'static, Vec<(String, i32)>> {
        let load = Arc::clone(load);
        let here = || {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            (thread, rustix::process::getpriority_process(None).unwrap())
        };
        Box::pin(async move {
            let mut seen = vec![here()];
            for _ in 0..ticks {
                load.tick();
                tokio::task::yield_now().await;
                seen.push(here());
            }
            seen
        })
    }

    /// Scenario: a call that is over before a tick, one that goes on for three, one of an id that is known for it.
    /// Guarantees: the first stays, the second leaves at its first tick, the third begins elsewhere; there the
    /// priority is lower.
    #[tokio::test]
    async fn a_long_call_leaves_the_thread_of_the_doors() {
        let workers = Workers::default();
        let own = rustix::process::getpriority_process(None).unwrap();
        for (ticks, at_once, stays) in [(0, false, 1), (3, false, 1), (3, true, 0)] {
            let load = Arc::new(Load::default());
            let (seen, moved) = match workers.run(call(&load, ticks), &load, at_once).await {
                Ran::Here(seen) => (seen, false),
                Ran::Moved(seen) => (seen.unwrap(), true),
            };
            assert_eq!(moved, ticks > 0);
            assert_eq!(seen.len(), ticks + 1);
            for (number, (thread, priority)) in seen.iter().enumerate() {
                assert_eq!(thread == "weir-guests", number >= stays, "poll {number} was on {thread}");
                if cfg!(target_os = "linux") && number >= stays {
                    assert_eq!(*priority, (own + NICER).min(NICEST));
                }
            }
        }
    }

    /// Scenario: a call panics after it was moved; another one is dropped; the workers are dropped by one of their own.
    /// Guarantees: the panic comes back as an error, nothing hangs, no thread is waited for in a task.
    #[tokio::test]
    async fn workers_end_without_being_waited_for() {
        let workers = Arc::new(Workers::default());
        let load = Load::default();
        let panics: BoxFuture<'static, ()> = Box::pin(async { panic!("by design") });
        let Ran::Moved(Err(error)) = workers.run(panics, &load, true).await else { panic!("it came back") };
        assert!(error.is_panic());
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let endless: BoxFuture<'static, ()> = Box::pin(async move {
            let _holds = holds;
            std::future::pending().await
        });
        let waited =
            tokio::time::timeout(std::time::Duration::from_millis(1), workers.run(endless, &load, true));
        assert!(waited.await.is_err());
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        let last = Arc::clone(&workers);
        let (gone, went) = tokio::sync::oneshot::channel();
        let drops: BoxFuture<'static, ()> = Box::pin(async move {
            // Not before the test has let go of its own.
            while Arc::strong_count(&last) > 1 {
                tokio::task::yield_now().await;
            }
            drop(last);
            gone.send(()).unwrap();
        });
        let handle = workers.handle().unwrap().spawn(drops);
        drop(workers);
        went.await.unwrap();
        drop(handle);
    }

    /// Scenario: short calls, long ones, short ones again.
    /// Guarantees: two long calls in a row are a habit; it takes as many short ones as it was deep to lose it.
    #[test]
    fn a_habit_grows_fast_and_fades() {
        let (habit, short, long) = (Habit::default(), Load::default(), Load::default());
        (0..LONG_TICKS).for_each(|_| long.tick());
        habit.learn(&short);
        habit.learn(&long);
        assert!(!habit.is_long());
        habit.learn(&long);
        assert!(habit.is_long());
        habit.learn(&short);
        assert!(!habit.is_long());
        (0..1000).for_each(|_| habit.learn(&long));
        assert_eq!(
            (0..1000)
                .take_while(|_| {
                    habit.learn(&short);
                    habit.is_long()
                })
                .count(),
            8
        );
    }
}

//! Samples of the host: cpu, memory, disks and network, once a second, with a bounded history.
//!
//! Sampling is done by a task on a blocking thread, which puts each set into a shared history and wakes who follows it;
//! the actor owns that task, answers pings, and is what the supervisor restarts. A failure loses the history's rates
//! for one second and nothing else.

mod own;
mod sample;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use own::{Process, own_process};
pub use sample::{Attributes, CpuPoint, NetworkPoint, SampleSet, UsePoint, attributes};

use crate::call::{CallError, Handle, Reply, Slot, blocking};
use crate::live::Live;
use crate::supervision::ChildSpec;
use crate::units::Span;

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Time between two sets of samples.
    pub interval: Span,
    /// How long samples are kept.
    pub history: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Span::seconds(1), history: Span::seconds(300) }
    }
}

/// Sets that are kept at most, whatever is configured.
const MAX_SETS: usize = 86_400;
/// How long a ping may take.
const PING_DEADLINE: Duration = Duration::from_secs(5);
/// Pings that may wait at once.
const PING_LIMIT: usize = 1024;

/// What the actor is told.
#[derive(Debug)]
enum StatsMsg {
    /// Tells the clock, Unix milliseconds.
    Ping { reply: Reply<i64, CallError> },
}

/// The samples as the rest of the engine sees them.
#[derive(Clone, Debug)]
pub struct Stats {
    handle: Handle<StatsMsg>,
    settings: Live<Settings>,
    history: Arc<History>,
}

#[derive(Debug)]
struct History {
    sets: Mutex<VecDeque<Arc<SampleSet>>>,
    newest: watch::Sender<Option<Arc<SampleSet>>>,
}

impl Stats {
    /// The handle, before its actor runs.
    #[must_use]
    pub fn new(settings: Live<Settings>) -> Self {
        let history = History { sets: Mutex::new(VecDeque::new()), newest: watch::Sender::new(None) };
        let handle = Handle::new(Slot::new("stats"), PING_DEADLINE, PING_LIMIT);
        Self { handle, settings, history: Arc::new(history) }
    }

    /// How the supervisor starts it.
    #[must_use]
    pub fn child(&self) -> ChildSpec {
        let (stats, handle) = (self.clone(), self.handle.clone());
        ChildSpec::worker("stats", move |supervisor| {
            let stats = stats.clone();
            async move {
                let (actor, _) = Actor::spawn_linked(None, StatsActor, stats, supervisor).await?;
                Ok(actor.get_cell())
            }
        })
        .mailbox(move || handle.waiting())
    }

    /// Tells the clock in Unix milliseconds at the moment the actor answered.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ping(&self) -> Result<i64, CallError> {
        self.handle.ask(|reply| StatsMsg::Ping { reply }).await
    }

    /// The sets of the last `duration`, oldest first.
    #[must_use]
    pub fn history(&self, duration: Duration) -> Vec<Arc<SampleSet>> {
        let since = crate::time::unix_millis() - i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2);
        let sets = self.history.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter().filter(|set| set.time >= since).cloned().collect()
    }

    /// The newest set, as soon as there is one.
    pub async fn last(&self) -> Option<Arc<SampleSet>> {
        let mut newest = self.history.newest.subscribe();
        newest.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Follows the newest set; one that follows too slowly misses sets and holds nothing up.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<SampleSet>>> {
        self.history.newest.subscribe()
    }
}

impl History {
    fn add(&self, set: SampleSet, keep: usize) {
        let set = Arc::new(set);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        while sets.len() >= keep {
            sets.pop_front();
        }
        sets.push_back(Arc::clone(&set));
        drop(sets);
        self.newest.send_replace(Some(set));
    }
}

struct StatsActor;

/// The task that samples; it ends with its actor.
struct Sampler(JoinHandle<()>);

impl Drop for Sampler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for StatsActor {
    type Msg = StatsMsg;
    type State = (Stats, Sampler);
    type Arguments = Stats;

    async fn pre_start(&self, myself: ActorRef<StatsMsg>, stats: Stats) -> Result<Self::State, ActorProcessingErr> {
        let settings = stats.settings.get();
        let interval = settings.interval.0.max(Duration::from_millis(100));
        let keep = (settings.history.0.as_millis() / interval.as_millis()).clamp(1, MAX_SETS as u128) as usize;
        let history = Arc::clone(&stats.history);
        let watched = myself.get_cell();
        let sampler = tokio::spawn(async move {
            let mut counters = sample::Counters::default();
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let taken = blocking(move || {
                    let set = sample::take(&mut counters);
                    (set, counters)
                });
                match taken.await {
                    Ok((set, used)) => {
                        counters = used;
                        history.add(set, keep);
                    }
                    Err(panic) => {
                        tracing::error!(panic, "sampling panicked");
                        // What cannot be sampled is for the supervisor to try again.
                        watched.kill();
                        return;
                    }
                }
            }
        });
        stats.handle.slot().publish(myself);
        Ok((stats, Sampler(sampler)))
    }

    async fn post_stop(&self, myself: ActorRef<StatsMsg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.0.handle.slot().withdraw(&myself);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<StatsMsg>,
        message: StatsMsg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point("stats");
        match message {
            StatsMsg::Ping { reply } => {
                let _ = reply.send(Ok(crate::time::unix_millis()));
            }
        }
        Ok(())
    }
}

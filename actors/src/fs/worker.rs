//! The workers for archives: a bounded number of jobs at once, each on a thread of its own, under supervision.
//!
//! A worker takes one job; when all have one, the next is refused at once, and small operations go on. A job that panics
//! costs itself only: its worker fails, the supervisor starts another in its place, and the client gets a 500.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::call::Slot;
use crate::supervision::ChildSpec;

/// A job: it reports to whoever waits for it by itself.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What a worker is told.
pub(super) enum WorkerMsg {
    /// Runs a job; the permit is given back when it has ended.
    Run { job: Job, permit: OwnedSemaphorePermit, panicked: oneshot::Sender<String> },
    /// The job has ended, with what it said if it panicked.
    Ended { panic: Option<String> },
}

impl std::fmt::Debug for WorkerMsg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Run { .. } => "Run",
            Self::Ended { .. } => "Ended",
        })
    }
}

/// All workers, as the handle sees them.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    slots: Arc<[Arc<Slot<WorkerMsg>>]>,
    /// One permit for each worker, of its own: which one is free is which one can be acquired.
    idle: Arc<[Arc<Semaphore>]>,
}

impl Workers {
    pub(super) fn new(count: usize) -> Self {
        let count = count.max(1);
        Self {
            slots: (0..count).map(|n| Slot::new(format!("files/worker-{n}"))).collect(),
            idle: (0..count).map(|_| Arc::new(Semaphore::new(1))).collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// How the supervisor starts them.
    pub(super) fn children(&self) -> Vec<ChildSpec> {
        let spec = |slot: &Arc<Slot<WorkerMsg>>| {
            let slot = Arc::clone(slot);
            ChildSpec::worker(Arc::clone(slot.name()), move |supervisor| {
                let slot = Arc::clone(&slot);
                async move {
                    let (actor, _) = Actor::spawn_linked(None, FsWorker, slot, supervisor).await?;
                    Ok(actor.get_cell())
                }
            })
        };
        self.slots.iter().map(spec).collect()
    }

    /// Gives a job to an idle worker; `None` when there is none. The receiver tells of a panic.
    pub(super) fn run(&self, job: Job) -> Option<oneshot::Receiver<String>> {
        let (panicked, receiver) = oneshot::channel();
        let mut message = (job, panicked);
        for (slot, idle) in self.slots.iter().zip(self.idle.iter()) {
            let Some(actor) = slot.present() else { continue };
            let Ok(permit) = Arc::clone(idle).try_acquire_owned() else { continue };
            let (job, panicked) = message;
            match actor.send_message(WorkerMsg::Run { job, permit, panicked }) {
                Ok(()) => return Some(receiver),
                Err(ractor::MessagingErr::SendErr(WorkerMsg::Run { job, panicked, .. })) => message = (job, panicked),
                Err(_) => return None,
            }
        }
        None
    }
}

struct FsWorker;

impl Actor for FsWorker {
    type Msg = WorkerMsg;
    type State = Arc<Slot<WorkerMsg>>;
    type Arguments = Arc<Slot<WorkerMsg>>;

    async fn pre_start(
        &self,
        myself: ActorRef<WorkerMsg>,
        slot: Arc<Slot<WorkerMsg>>,
    ) -> Result<Self::State, ActorProcessingErr> {
        slot.publish(myself);
        Ok(slot)
    }

    async fn post_stop(&self, myself: ActorRef<WorkerMsg>, slot: &mut Self::State) -> Result<(), ActorProcessingErr> {
        slot.withdraw(&myself);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<WorkerMsg>,
        message: WorkerMsg,
        slot: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point(slot.name());
        match message {
            WorkerMsg::Run { job, permit, panicked } => {
                // On its own: a stop of the worker lets the job end.
                tokio::spawn(async move {
                    let panic = crate::call::blocking(job).await.err();
                    if let Some(panic) = &panic {
                        let _ = panicked.send(panic.clone());
                    }
                    drop(permit);
                    let _ = myself.send_message(WorkerMsg::Ended { panic });
                });
                Ok(())
            }
            WorkerMsg::Ended { panic: None } => Ok(()),
            WorkerMsg::Ended { panic: Some(panic) } => {
                slot.withdraw(&myself);
                Err(format!("a job panicked: {panic}").into())
            }
        }
    }
}

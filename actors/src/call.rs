//! How the rest of the engine speaks to an actor: a [`Handle`] that outlives the actor's restarts.
//!
//! A [`Slot`] holds the address of the present generation of one actor. The actor publishes itself when it starts; a
//! handle reads the slot for every call, so that a restarted actor is found without anybody being told. While there is
//! no generation (a restart is under way) a call waits for the next, until its deadline, instead of failing.
//!
//! ractor's mailboxes are unbounded, so admission is counted here: each handle admits a fixed number of calls at once,
//! and refuses the next at once with [`CallError::Overloaded`].
//!
//! A call that timed out, or whose actor died with it, **may still have happened**. A call that finds the mailbox closed
//! waits for the next generation; one that is in the mailbox of an actor that fails is lost with it, unless the handle
//! sends [one at a time](Handle::one_at_a_time).

use std::sync::Arc;
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::error::{ErrorKind, Failure};

/// A reply port whose answer may be an error of the domain.
pub type Reply<T, E> = RpcReplyPort<Result<T, E>>;

/// Why a call to an actor has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// No answer within the deadline; the work may still happen.
    #[error("`{actor}` did not answer in time; the request may still take effect")]
    TimedOut {
        /// The actor's name.
        actor: Arc<str>,
    },
    /// The actor ended while it held the request; it may have taken effect.
    #[error("`{actor}` failed while it handled the request; look at the state before you try again")]
    Dropped {
        /// The actor's name.
        actor: Arc<str>,
    },
    /// The actor is not there, and did not come back within the deadline.
    #[error("`{actor}` is not running")]
    NotRunning {
        /// The actor's name.
        actor: Arc<str>,
    },
    /// As many calls as are admitted are already waiting.
    #[error("`{actor}` has {limit} requests waiting already; try again")]
    Overloaded {
        /// The actor's name.
        actor: Arc<str>,
        /// The number of calls admitted at once.
        limit: usize,
    },
}

impl Failure for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TimedOut { .. } => ErrorKind::Timeout,
            Self::Dropped { .. } => ErrorKind::Internal,
            Self::NotRunning { .. } => ErrorKind::Unavailable,
            Self::Overloaded { .. } => ErrorKind::Overloaded,
        }
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } => "timed-out",
            Self::Dropped { .. } => "actor-failed",
            Self::NotRunning { .. } => "not-running",
            Self::Overloaded { .. } => "overloaded",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Overloaded { .. } | Self::NotRunning { .. }).then_some(Duration::from_secs(1))
    }
}

/// Where one actor's present address is kept, through all its generations.
#[derive(Debug)]
pub struct Slot<M> {
    name: Arc<str>,
    actor: watch::Sender<Option<ActorRef<M>>>,
}

impl<M: Message> Slot<M> {
    /// An empty slot for the actor called `name`.
    pub fn new(name: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), actor: watch::Sender::new(None) })
    }

    /// Makes `actor` the present generation. Called by the actor itself, first thing in `pre_start`'s success or
    /// `post_start`.
    pub fn publish(&self, actor: ActorRef<M>) {
        self.actor.send_replace(Some(actor));
    }

    /// Empties the slot if `actor` is what it holds: calls wait for the next generation from now on.
    pub fn withdraw(&self, actor: &ActorRef<M>) {
        self.actor.send_if_modified(|present| {
            let own = present.as_ref().is_some_and(|present| present.get_id() == actor.get_id());
            if own {
                *present = None;
            }
            own
        });
    }

    /// The present generation, if there is one.
    pub fn present(&self) -> Option<ActorRef<M>> {
        self.actor.borrow().clone()
    }

    /// The actor's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// How long a handler waits for an actor that is away.
pub(crate) const HANDLER_PATIENCE: Duration = Duration::from_millis(50);

/// The address of an actor as the rest of the engine holds it.
#[derive(Debug)]
pub struct Handle<M> {
    slot: Arc<Slot<M>>,
    deadline: Duration,
    admission: Arc<Semaphore>,
    limit: usize,
    /// Whose turn it is, where one call waits for the one before.
    turn: Option<Arc<Semaphore>>,
    /// How long an actor that is away is waited for; none: as long as for the answer.
    patience: Option<Duration>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            deadline: self.deadline,
            admission: Arc::clone(&self.admission),
            limit: self.limit,
            turn: self.turn.clone(),
            patience: self.patience,
        }
    }
}

impl<M: Message> Handle<M> {
    /// A handle on `slot` whose calls wait at most `deadline`, of which `limit` may wait at once.
    pub fn new(slot: Arc<Slot<M>>, deadline: Duration, limit: usize) -> Self {
        Self { slot, deadline, admission: Arc::new(Semaphore::new(limit)), limit, turn: None, patience: None }
    }

    /// Sends one call at a time: the others wait here and not in the mailbox, which is lost with an actor that fails. So a
    /// panic costs the call that it hit and no other. For actors that answer from within `handle`.
    #[must_use]
    pub fn one_at_a_time(mut self) -> Self {
        self.turn = Some(Arc::new(Semaphore::new(1)));
        self
    }

    /// For calls from within a handler: an actor that is away is waited for only briefly. While it is being restarted the
    /// one that calls may have to be restarted too, and must end what it does for that.
    #[must_use]
    pub fn in_handlers(mut self) -> Self {
        self.patience = Some(HANDLER_PATIENCE);
        self
    }

    /// How many calls wait for an answer.
    pub fn waiting(&self) -> usize {
        self.limit.saturating_sub(self.admission.available_permits())
    }

    /// The slot behind the handle.
    pub fn slot(&self) -> &Arc<Slot<M>> {
        &self.slot
    }

    /// Sends the message that `build` makes around a reply port, and waits for the answer.
    ///
    /// # Errors
    /// What the actor answers, or a [`CallError`] when it does not.
    pub async fn ask<T, E>(&self, build: impl Fn(Reply<T, E>) -> M) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CallError> + Send + 'static,
    {
        self.ask_within(self.deadline, build).await
    }

    /// As [`ask`](Self::ask), with a deadline of its own.
    ///
    /// # Errors
    /// What the actor answers, or a [`CallError`] when it does not.
    pub async fn ask_within<T, E>(&self, deadline: Duration, build: impl Fn(Reply<T, E>) -> M) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CallError> + Send + 'static,
    {
        let actor = || Arc::clone(&self.slot.name);
        let Ok(_permit) = self.admission.try_acquire() else {
            return Err(CallError::Overloaded { actor: actor(), limit: self.limit }.into());
        };
        let until = Instant::now() + deadline;
        let _turn = match &self.turn {
            Some(turn) => match tokio::time::timeout_at(until, turn.acquire()).await {
                Ok(Ok(turn)) => Some(turn),
                Ok(Err(_)) | Err(_) => {
                    return Err(CallError::Overloaded { actor: actor(), limit: self.limit }.into());
                }
            },
            None => None,
        };
        let mut generations = self.slot.actor.subscribe();
        let give_up = self.patience.map_or(until, |patience| until.min(Instant::now() + patience));
        loop {
            let present = generations.borrow_and_update().clone();
            if let Some(target) = present {
                let (sender, receiver) = ractor::concurrency::oneshot();
                let port = RpcReplyPort::from((sender, until.saturating_duration_since(Instant::now())));
                if target.send_message(build(port)).is_ok() {
                    return match tokio::time::timeout_at(until, receiver).await {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(_)) => Err(CallError::Dropped { actor: actor() }.into()),
                        Err(_) => Err(CallError::TimedOut { actor: actor() }.into()),
                    };
                }
            }
            match tokio::time::timeout_at(give_up, generations.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(CallError::NotRunning { actor: actor() }.into()),
            }
        }
    }

    /// Sends a message that needs no answer; `false` if there is no actor to take it.
    pub fn cast(&self, message: M) -> bool {
        self.slot.present().is_some_and(|actor| actor.send_message(message).is_ok())
    }
}

/// Ends a task when it is dropped, at the task's next await.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` on a blocking thread; a panic in it is an error, not an abort of the caller.
///
/// # Errors
/// The panic's message, when `work` panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let handle: JoinHandle<T> = tokio::task::spawn_blocking(work);
    handle.await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => panic_message(&*panic),
        Err(error) => error.to_string(),
    })
}

/// What a panic said, as far as it can be known.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

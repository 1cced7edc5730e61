//! The supervisor of all shells, and its first child: the registrar, who knows what the keeper holds.
//!
//! The registrar lists the keeper's shells when it starts, so that they are there before anything after it in the tree, and
//! starts an actor for each. From then on it passes the keeper's events on to the shells that they are about. When events
//! may have been missed, or the connection to the keeper was lost, it lists again.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::broadcast;

use super::handle::Shells;
use super::messages::ShellMsg;
use crate::call::AbortOnDrop;
use crate::keeper::{KeeperEvent, Record};
use crate::supervision::{ChildSpec, Strategy, Supervisor, SupervisorSpec};

/// How long all shells together may take to stop.
const SHUTDOWN: Duration = Duration::from_secs(20);
/// When a list that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_millis(500);

/// How the tree starts the supervisor of all shells.
pub(super) fn child(shells: &Shells) -> ChildSpec {
    let shells = shells.clone();
    ChildSpec::supervisor("shell-supervisor", move |parent| {
        let shells = shells.clone();
        async move {
            let registrar = {
                let shells = shells.clone();
                ChildSpec::worker("shell-registrar", move |supervisor| {
                    let shells = shells.clone();
                    async move { Ok(Actor::spawn_linked(None, Registrar, shells, supervisor).await?.0.get_cell()) }
                })
            };
            let gave_up = {
                let shells = shells.clone();
                Arc::new(move |id: &str, reason: &str| shells.gave_up(id, reason))
            };
            let spec = SupervisorSpec::new("shell-supervisor", Strategy::OneForOne, vec![registrar]).per_child(gave_up);
            // The registrar needs the supervisor only once it runs: its first message comes after this.
            let handle = Supervisor::spawn_linked(spec, parent).await?;
            let cell = handle.cell();
            shells.supervise(handle);
            Ok(cell)
        }
    })
    .shutdown(SHUTDOWN)
}

/// The actor.
struct Registrar;

/// What the registrar is told.
#[derive(Debug)]
enum RegistrarMsg {
    /// Every shell of the registry needs an actor.
    StartActors,
    /// The keeper has something to say.
    Heard(KeeperEvent),
    /// Events may have been missed.
    List,
}

struct RegistrarState {
    shells: Shells,
    _listener: AbortOnDrop,
}

impl Actor for Registrar {
    type Msg = RegistrarMsg;
    type State = RegistrarState;
    type Arguments = Shells;

    async fn pre_start(
        &self,
        myself: ActorRef<RegistrarMsg>,
        shells: Shells,
    ) -> Result<RegistrarState, ActorProcessingErr> {
        // Before the list, so that nothing falls between the two.
        let events = shells.0.keeper.events();
        shells.reconcile(shells.0.keeper.list().await?);
        let listener = tokio::spawn(listen(events, myself.clone())).abort_handle();
        myself.cast(RegistrarMsg::StartActors)?;
        Ok(RegistrarState { shells, _listener: AbortOnDrop(listener) })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistrarMsg>,
        message: RegistrarMsg,
        state: &mut RegistrarState,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point("shell-registrar");
        match message {
            RegistrarMsg::StartActors => state.start_actors(),
            RegistrarMsg::Heard(KeeperEvent::Exited { id, generation, status, usage }) => {
                if let Ok(session) = state.shells.get(&id) {
                    // An actor that is away just now finds the status with the keeper when it comes back.
                    session.actor.cast(ShellMsg::Exited { generation, status, usage });
                }
            }
            RegistrarMsg::Heard(KeeperEvent::Reconnected) | RegistrarMsg::List => state.list(&myself).await,
        }
        Ok(())
    }
}

impl RegistrarState {
    /// In a task: the supervisor starts one child after the other, and events must not wait for that.
    fn start_actors(&self) {
        let shells = self.shells.clone();
        tokio::spawn(async move {
            for session in shells.all() {
                shells.start_actor(&session).await;
            }
        });
    }

    async fn list(&self, myself: &ActorRef<RegistrarMsg>) {
        match self.shells.0.keeper.list().await {
            Ok(records) => {
                self.tell_ends(&records);
                self.shells.reconcile(records);
                self.start_actors();
            }
            Err(error) => {
                tracing::warn!(error = crate::error::chain(&error), "the keeper's shells could not be listed");
                myself.send_after(LIST_AGAIN, || RegistrarMsg::List);
            }
        }
    }

    fn tell_ends(&self, records: &[Record]) {
        for record in records.iter().filter(|record| !record.status.is_running()) {
            if let Ok(session) = self.shells.get(&record.id) {
                let (generation, status, usage) = (record.generation, record.status.clone(), record.usage);
                session.actor.cast(ShellMsg::Exited { generation, status, usage });
            }
        }
    }
}

async fn listen(mut events: broadcast::Receiver<KeeperEvent>, registrar: ActorRef<RegistrarMsg>) {
    loop {
        let message = match events.recv().await {
            Ok(event) => RegistrarMsg::Heard(event),
            Err(broadcast::error::RecvError::Lagged(_)) => RegistrarMsg::List,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if registrar.cast(message).is_err() {
            return;
        }
    }
}

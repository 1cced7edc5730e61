//! The actor that holds the engine's connection to the keeper process.
//!
//! It owns the requests that wait for an answer, and the connection's tasks. When the connection is lost it fails what
//! was under way (it may have happened), connects anew, and starts a keeper when there is none; requests that come
//! meanwhile wait, and are refused in words when the keeper cannot be had. It knows nothing about shells.
//!
//! Failure: a panic ends the connection; the keeper does not mind, and the next generation connects anew.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use super::link::{self, Link};
use super::protocol::{self, Command, Message, Outcome, Request};
use super::types::{Adopted, KeeperEvent, Record};
use super::{KeeperError, MAX_WAITING, Settings};
use crate::call::{Reply, Slot};
use crate::live::Live;
use crate::output_log::OutputLog;

/// The first pause before it is tried again to reach a keeper that could not be had.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before it is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What came back from the keeper.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Shell(Box<Adopted>),
    Shells { records: Vec<Record>, more: bool },
}

/// What the actor is told.
#[derive(Debug)]
pub(super) enum KeeperMsg {
    /// Asks the keeper process.
    Ask { command: Command, reply: Reply<Answer, KeeperError> },
    /// An attempt to connect is over.
    Connected { result: Result<Box<Link>, String> },
    /// It is time to try again.
    ConnectTick,
    /// The keeper has said something on the connection of this number.
    Received { connection: u64, message: Box<Message>, descriptors: Vec<OwnedFd> },
    /// The connection of this number has ended.
    Lost { connection: u64, reason: String },
}

/// What a generation is started with.
#[derive(Clone, Debug)]
pub(super) struct KeeperArgs {
    pub(super) settings: Live<Settings>,
    pub(super) data_dir: PathBuf,
    pub(super) slot: std::sync::Arc<Slot<KeeperMsg>>,
    pub(super) events: broadcast::Sender<KeeperEvent>,
    /// Set once a generation has been connected: a later connection is a reconnection.
    pub(super) connected_before: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Connection {
    number: u64,
    frames: mpsc::Sender<Vec<u8>>,
    _task: Task,
}

#[derive(Debug)]
pub(super) struct KeeperState {
    args: KeeperArgs,
    settings: std::sync::Arc<Settings>,
    connection: Option<Connection>,
    connections: u64,
    next_id: u64,
    /// Asked, not answered.
    pending: HashMap<u64, Reply<Answer, KeeperError>>,
    /// Not asked yet, for want of a connection.
    waiting: VecDeque<(Command, Reply<Answer, KeeperError>)>,
    connecting: Option<Task>,
    pause: Duration,
}

/// The actor.
#[derive(Debug)]
pub(super) struct KeeperActor;

impl Actor for KeeperActor {
    type Msg = KeeperMsg;
    type State = KeeperState;
    type Arguments = KeeperArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<KeeperMsg>,
        args: KeeperArgs,
    ) -> Result<KeeperState, ActorProcessingErr> {
        let mut state = KeeperState {
            settings: args.settings.get(),
            args,
            connection: None,
            connections: 0,
            next_id: 0,
            pending: HashMap::new(),
            waiting: VecDeque::new(),
            connecting: None,
            pause: FIRST_PAUSE,
        };
        state.connect_tick(&myself);
        state.args.slot.publish(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<KeeperMsg>,
        message: KeeperMsg,
        state: &mut KeeperState,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point("keeper");
        match message {
            KeeperMsg::Ask { command, reply } => state.ask(command, reply),
            KeeperMsg::Connected { result } => state.connected(&myself, result),
            KeeperMsg::ConnectTick => state.connect_tick(&myself),
            KeeperMsg::Received { connection, message, descriptors } => {
                state.received(connection, *message, descriptors);
            }
            KeeperMsg::Lost { connection, reason } => state.lost(&myself, connection, &reason),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<KeeperMsg>,
        _: SupervisionEvent,
        _: &mut KeeperState,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children.
        Ok(())
    }

    async fn post_stop(&self, myself: ActorRef<KeeperMsg>, state: &mut KeeperState) -> Result<(), ActorProcessingErr> {
        state.args.slot.withdraw(&myself);
        Ok(())
    }
}

fn unavailable(reason: &str) -> KeeperError {
    KeeperError::Unavailable { reason: reason.into() }
}

impl KeeperState {
    fn connect_tick(&mut self, myself: &ActorRef<KeeperMsg>) {
        if self.connection.is_some() {
            return;
        }
        let (data_dir, program) = (self.args.data_dir.clone(), self.settings.program.clone());
        let (timeout, myself) = (self.settings.start_timeout.0, myself.clone());
        self.connecting = Some(Task(tokio::spawn(async move {
            let result = link::connect(&data_dir, program, timeout).await.map(Box::new);
            let _ = myself.send_message(KeeperMsg::Connected { result });
        })));
    }

    fn connected(&mut self, myself: &ActorRef<KeeperMsg>, result: Result<Box<Link>, String>) {
        self.connecting = None;
        let link = match result {
            Ok(link) => link,
            Err(reason) => {
                tracing::warn!(reason, "cannot reach the keeper");
                for (_, reply) in self.waiting.drain(..) {
                    let _ = reply.send(Err(unavailable(&reason)));
                }
                myself.send_after(self.pause, || KeeperMsg::ConnectTick);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                return;
            }
        };
        self.pause = FIRST_PAUSE;
        self.connections += 1;
        let number = self.connections;
        tracing::info!(pid = link.pid, instance = link.instance, "connected to the keeper");
        let (frames, queue) = mpsc::channel(MAX_WAITING);
        let myself = myself.clone();
        let task = tokio::spawn(async move {
            let deliver = |message, descriptors| {
                let message = Box::new(message);
                myself.send_message(KeeperMsg::Received { connection: number, message, descriptors }).is_ok()
            };
            let reason = link.run(queue, deliver).await;
            let _ = myself.send_message(KeeperMsg::Lost { connection: number, reason });
        });
        self.connection = Some(Connection { number, frames, _task: Task(task) });
        if self.args.connected_before.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let _ = self.args.events.send(KeeperEvent::Reconnected);
        }
        for (command, reply) in std::mem::take(&mut self.waiting) {
            self.ask(command, reply);
        }
    }

    fn ask(&mut self, command: Command, reply: Reply<Answer, KeeperError>) {
        if reply.is_closed() {
            return;
        }
        let Some(connection) = &self.connection else {
            self.waiting.retain(|(_, reply)| !reply.is_closed());
            self.waiting.push_back((command, reply));
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let frame = match protocol::encode(&Request::Ask { id, command }, 0) {
            Ok(frame) => frame,
            Err(error) => {
                let reason = format!("the request is too long: {error}");
                let _ = reply.send(Err(KeeperError::Invalid { reason }));
                return;
            }
        };
        if connection.frames.try_send(frame).is_err() {
            let _ = reply.send(Err(unavailable("it does not take requests as fast as they come")));
            return;
        }
        if self.pending.len() >= MAX_WAITING {
            self.pending.retain(|_, reply| !reply.is_closed());
        }
        self.pending.insert(id, reply);
    }

    fn received(&mut self, connection: u64, message: Message, descriptors: Vec<OwnedFd>) {
        if self.connection.as_ref().is_none_or(|present| present.number != connection) {
            return;
        }
        match message {
            Message::Answer { id, outcome } => {
                // Its caller may have gone: then the descriptors are closed here.
                if let Some(reply) = self.pending.remove(&id)
                    && !reply.is_closed()
                {
                    let _ = reply.send(answer(outcome, descriptors));
                }
            }
            Message::Exited { shell: id, generation, status, usage } => {
                let _ = self.args.events.send(KeeperEvent::Exited { id, generation, status, usage });
            }
            Message::Refused { reason } => tracing::warn!(reason, "the keeper refuses"),
            Message::Welcome { .. } => {}
        }
    }

    fn lost(&mut self, myself: &ActorRef<KeeperMsg>, connection: u64, reason: &str) {
        if self.connection.as_ref().is_none_or(|present| present.number != connection) {
            return;
        }
        tracing::warn!(reason, "the connection to the keeper was lost");
        self.connection = None;
        for (_, reply) in self.pending.drain() {
            let _ = reply.send(Err(unavailable(&format!("{reason}; the request may have taken effect"))));
        }
        self.connect_tick(myself);
    }
}

/// Makes of an answer what the engine works with.
fn answer(outcome: Outcome, descriptors: Vec<OwnedFd>) -> Result<Answer, KeeperError> {
    match outcome {
        Outcome::Done => Ok(Answer::Done),
        Outcome::Shells { records, more } => Ok(Answer::Shells { records, more }),
        Outcome::Refused { refusal } => Err(refusal.into()),
        Outcome::Shell { record, pty } => {
            let mut descriptors = descriptors.into_iter();
            let memory = descriptors.next().ok_or_else(|| unavailable("an answer without its descriptors"))?;
            let log = OutputLog::map(memory).map_err(|error| unavailable(&format!("cannot map a log: {error}")))?;
            Ok(Answer::Shell(Box::new(Adopted { record: *record, pty: descriptors.next().filter(|_| pty), log })))
        }
    }
}

//! Keys, challenges and tokens: who may use the engine.
//!
//! The actor makes every change, one after the other: it is on the disk, and in the snapshot that everybody reads, before
//! it is answered. Reading needs no message: [`Keys::verify_token`] looks at the snapshot, so that a token stops working
//! the moment its key does. Challenges are kept beside the actor and outlive its restarts, as sign-ins do.
//!
//! Failure: after a change whose fate is unknown (the database failed with it) the keys are read anew, behind whatever
//! still waits to be written; where that fails too the actor ends, and its next generation reads them.

mod challenge;
mod der;
mod error;
mod handle;
mod key_files;
mod public_key;
mod records;
mod signature;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

pub use self::challenge::Challenge;
pub use self::error::KeyError;
use self::handle::Shared;
pub use self::handle::{Attempt, Issued, Keys, Session};
pub use self::public_key::PublicKey;
use self::records::Records;
pub use self::records::{Change, KeyRecord};
use crate::call::{self, CallError, Reply};
use crate::ids::KeyId;
use crate::permission::Permissions;
use crate::store::StoreError;
use crate::units::Span;

/// The name in the supervision tree.
pub const NAME: &str = "key-registry";
/// The shortest lifetime of a token.
pub const SHORTEST_TOKEN: Duration = Duration::from_secs(60);
/// The longest lifetime of a token.
pub const LONGEST_TOKEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a challenge may wait for its answer.
    pub challenge_lifetime: Span,
    /// How many challenges may be open at once; past it the oldest is forgotten.
    pub max_challenges: u32,
    /// How long a token is good where the client does not say; 1 minute to 24 hours.
    pub token_lifetime: Span,
    /// How many keys may be registered.
    pub max_keys: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            challenge_lifetime: Span::seconds(60),
            max_challenges: 65_536,
            token_lifetime: Span::seconds(3600),
            max_keys: 1_024,
        }
    }
}

/// What the actor is told.
#[derive(Debug)]
pub enum KeyRegistryMsg {
    /// Registers a key.
    Register {
        /// Its name.
        identity: KeyId,
        /// The key.
        key: PublicKey,
        /// What it may do.
        permissions: Permissions,
        /// Answered with the record once it is on the disk.
        reply: Reply<Arc<KeyRecord>, KeyError>,
    },
    /// Changes a key.
    Update {
        /// Its name.
        identity: KeyId,
        /// What of it.
        change: Change,
        /// Answered with the record once it is on the disk.
        reply: Reply<Arc<KeyRecord>, KeyError>,
    },
    /// Removes a key.
    Unregister {
        /// Its name.
        identity: KeyId,
        /// Answered once it is gone from the disk.
        reply: Reply<(), KeyError>,
    },
    /// Notes that a key has signed in.
    NoteSignIn {
        /// The registration whose signature was good.
        record: Arc<KeyRecord>,
        /// Answered with the record as it is now, if it still may.
        reply: Reply<Arc<KeyRecord>, KeyError>,
    },
    /// What is on the disk is not known, and could not be read.
    ReloadFailed {
        /// Why.
        reason: String,
    },
    /// Asks whether the actor answers.
    Ping {
        /// Answered at once.
        reply: Reply<(), KeyError>,
    },
}

struct KeyRegistry;

impl Actor for KeyRegistry {
    type Msg = KeyRegistryMsg;
    type State = Arc<Shared>;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<KeyRegistryMsg>,
        shared: Arc<Shared>,
    ) -> Result<Arc<Shared>, ActorProcessingErr> {
        let data_dir = shared.data_dir.clone();
        let signing = call::blocking(move || key_files::signing_key(&data_dir)).await??;
        // By the writer, so that it comes after what a generation before may have left in its queue.
        let mut records = shared.store.write(records::load).await?;
        if records.all().is_empty() {
            records = register_admin(&shared).await?;
        }
        shared.begin(records, signing);
        shared.slot.publish(myself);
        Ok(shared)
    }

    async fn handle(
        &self,
        myself: ActorRef<KeyRegistryMsg>,
        message: KeyRegistryMsg,
        shared: &mut Arc<Shared>,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point(NAME);
        match message {
            KeyRegistryMsg::Register { identity, key, permissions, reply } => {
                let result = shared.register(&identity, key, permissions).await;
                answer(reply, result, &myself, shared);
            }
            KeyRegistryMsg::Update { identity, change, reply } => {
                let result = shared.update(&identity, change).await;
                answer(reply, result, &myself, shared);
            }
            KeyRegistryMsg::Unregister { identity, reply } => {
                let result = shared.unregister(&identity).await;
                answer(reply, result, &myself, shared);
            }
            KeyRegistryMsg::NoteSignIn { record, reply } => {
                let result = shared.note_sign_in(&record).await;
                answer(reply, result, &myself, shared);
            }
            KeyRegistryMsg::ReloadFailed { reason } => return Err(reason.into()),
            KeyRegistryMsg::Ping { reply } => answer(reply, Ok(()), &myself, shared),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<KeyRegistryMsg>,
        shared: &mut Arc<Shared>,
    ) -> Result<(), ActorProcessingErr> {
        shared.slot.withdraw(&myself);
        Ok(())
    }
}

/// Answers; after a result that leaves open what is on the disk the keys are read anew.
///
/// Not by the handler: the database may be down because it and everything after it, this actor too, is being restarted.
fn answer<T>(
    reply: Reply<T, KeyError>,
    result: Result<T, KeyError>,
    myself: &ActorRef<KeyRegistryMsg>,
    shared: &Arc<Shared>,
) {
    let unknown = matches!(
        result,
        Err(KeyError::Store(StoreError::Call(CallError::TimedOut { .. } | CallError::Dropped { .. })))
    );
    // The caller may have left.
    let _ = reply.send(result);
    if unknown {
        let (myself, shared) = (myself.clone(), Arc::clone(shared));
        tokio::spawn(async move {
            match shared.store.write(records::load).await {
                Ok(records) => shared.replace(records),
                Err(error) => {
                    // Fails only when the actor has ended; then the next generation has read them.
                    let _ = myself.send_message(KeyRegistryMsg::ReloadFailed { reason: crate::error::chain(&error) });
                }
            }
        });
    }
}

/// Makes the first MASTER key of an empty registry. A key file that is there already (the database was moved away) is
/// registered again.
async fn register_admin(shared: &Shared) -> Result<Records, KeyError> {
    let data_dir = shared.data_dir.clone();
    let key = call::blocking(move || key_files::admin_key(&data_dir)).await.map_err(KeyError::Panicked)??;
    let identity: KeyId = key_files::ADMIN.parse().expect("`admin` is an identity");
    let public = key_files::public_half(&key);
    let now = crate::time::unix_now();
    let work = move |transaction: &Transaction<'_>| {
        records::insert(transaction, &identity, &public, Permissions::MASTER, 1, now)
    };
    let records = shared.store.write(work).await?;
    shared.note_made_admin();
    Ok(records)
}

impl Shared {
    async fn register(
        &self,
        identity: &KeyId,
        key: PublicKey,
        permissions: Permissions,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        let limit = self.settings.get().max_keys as usize;
        let (name, now) = (identity.clone(), crate::time::unix_now());
        let records = self
            .store
            .write_in_handler(move |transaction| records::insert(transaction, &name, &key, permissions, limit, now))
            .await?;
        self.replace(records);
        tracing::info!(key = %identity, ?permissions, "a key was registered");
        self.record(identity)
    }

    async fn update(&self, identity: &KeyId, change: Change) -> Result<Arc<KeyRecord>, KeyError> {
        if change == Change::default() {
            return Err(KeyError::NothingToChange);
        }
        let name = identity.clone();
        let records =
            self.store.write_in_handler(move |transaction| records::change(transaction, &name, change)).await?;
        self.replace(records);
        tracing::info!(key = %identity, ?change, "a key was changed");
        self.record(identity)
    }

    async fn unregister(&self, identity: &KeyId) -> Result<(), KeyError> {
        let name = identity.clone();
        let records = self.store.write_in_handler(move |transaction| records::remove(transaction, &name)).await?;
        self.replace(records);
        tracing::info!(key = %identity, "a key was unregistered");
        Ok(())
    }

    async fn note_sign_in(&self, record: &KeyRecord) -> Result<Arc<KeyRecord>, KeyError> {
        let (identity, serial, now) = (record.identity.clone(), Arc::clone(&record.serial), crate::time::unix_now());
        self.store
            .write_in_handler(move |transaction| records::note_sign_in(transaction, &identity, &serial, now))
            .await?;
        self.used(&record.identity, now);
        self.record(&record.identity)
    }
}

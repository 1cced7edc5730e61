//! The key registry as the rest of the engine sees it, and what it shares with its actor.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use ractor::Actor;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::challenge::{Challenge, Challenges};
use super::error::KeyError;
use super::public_key::PublicKey;
use super::records::{Change, KeyRecord, Records};
use super::signature::Presented;
use super::token::{self, Claims};
use super::{KeyRegistry, KeyRegistryMsg, LONGEST_TOKEN, NAME, SHORTEST_TOKEN, Settings, key_files};
use crate::call::{self, Handle, Slot};
use crate::ids::KeyId;
use crate::live::Live;
use crate::permission::Permissions;
use crate::store::Store;
use crate::supervision::ChildSpec;

/// How long a change may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long it is waited for in a stop: longer than a write may take.
const SHUTDOWN: Duration = Duration::from_secs(12);
/// How many changes may wait at once.
const WAITING: usize = 256;
/// How many sign-ins are checked at once; a check costs some 50 µs for each registered key.
const CHECKS: usize = 2;
/// How long a sign-in may wait for its check.
const CHECK_WAIT: Duration = Duration::from_secs(5);
/// How many tokens are remembered as well signed, so that a request costs a hash and not a signature.
const VERIFIED: usize = 8_192;
/// The longest that a watched session sleeps before it looks at the clock, which may have been set.
const WATCH_LOOK: Duration = Duration::from_secs(30);

/// The key registry as the rest of the engine sees it; cheap to clone, good through restarts.
#[derive(Clone, Debug)]
pub struct Keys {
    shared: Arc<Shared>,
    handle: Handle<KeyRegistryMsg>,
}

/// Who a good token speaks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The key.
    pub key: KeyId,
    /// What the token allows.
    pub permissions: Permissions,
    /// When it ends, Unix seconds.
    pub expires_at: i64,
    /// The token's own name.
    pub jti: Arc<str>,
}

/// An answer to a challenge.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The challenge's identity.
    pub challenge: String,
    /// The signature over its nonce, in one of the kinds that are taken.
    pub signature: String,
    /// How long the token is to be good; by the settings if not said.
    pub lifetime: Option<Duration>,
}

/// A token that was issued.
#[derive(Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// Who it speaks for.
    pub session: Session,
}

/// Without the token: it is as good as a password.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What everybody may read at one moment.
#[derive(Clone)]
struct Snapshot {
    records: Arc<Records>,
    signing: SigningKey,
}

/// What the handles and the actor share; outlives the actor's restarts.
pub(super) struct Shared {
    pub(super) data_dir: PathBuf,
    pub(super) settings: Live<Settings>,
    pub(super) store: Store,
    pub(super) slot: Arc<Slot<KeyRegistryMsg>>,
    /// None before the first start. Changes are told to who watches, except that a key was used.
    snapshot: watch::Sender<Option<Snapshot>>,
    challenges: Mutex<Challenges>,
    /// What tokens with a good signature say, by their hash. Whether they still are good is looked up each time.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
    checks: Semaphore,
    made_admin: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keys {
    /// The registry of this data directory; nothing is read before its [`child`](Self::child) starts.
    pub fn new(settings: Live<Settings>, store: Store, data_dir: &Path) -> Self {
        let slot = Slot::new(NAME);
        let shared = Shared {
            data_dir: data_dir.to_owned(),
            settings,
            store,
            slot: Arc::clone(&slot),
            snapshot: watch::Sender::new(None),
            challenges: Mutex::default(),
            verified: Mutex::default(),
            checks: Semaphore::new(CHECKS),
            made_admin: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), handle: Handle::new(slot, DEADLINE, WAITING).one_at_a_time() }
    }

    /// How the supervisor starts a generation. The store must run.
    pub fn child(&self) -> ChildSpec {
        let shared = Arc::clone(&self.shared);
        ChildSpec::worker(NAME, move |supervisor| {
            let shared = Arc::clone(&shared);
            async move {
                let (actor, _) = Actor::spawn_linked(None, KeyRegistry, shared, supervisor).await?;
                Ok(actor.get_cell())
            }
        })
        .shutdown(SHUTDOWN)
    }

    /// Whether this start of the engine made the first MASTER key.
    pub fn made_admin_key(&self) -> bool {
        self.shared.made_admin.load(Ordering::Relaxed)
    }

    /// Asks whether the actor answers.
    ///
    /// # Errors
    /// A [`CallError`](crate::call::CallError) when it does not.
    pub async fn ping(&self) -> Result<(), KeyError> {
        self.handle.ask(|reply| KeyRegistryMsg::Ping { reply }).await
    }

    /// Makes a challenge.
    pub fn challenge(&self) -> Challenge {
        let settings = self.shared.settings.get();
        let limit = settings.max_challenges as usize;
        lock(&self.shared.challenges).make(settings.challenge_lifetime.0, limit, Instant::now())
    }

    /// Checks the answer to a challenge, which uses the challenge up, and issues a token.
    ///
    /// # Errors
    /// [`KeyError::Lifetime`], which uses nothing up; [`KeyError::SignIn`] for everything that is wrong with the answer,
    /// after the same work; [`KeyError::Busy`]; and what keeps the database from noting it.
    pub async fn sign_in(&self, attempt: Attempt) -> Result<Issued, KeyError> {
        let lifetime = self.lifetime(attempt.lifetime)?;
        let permit = tokio::time::timeout(CHECK_WAIT, self.shared.checks.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(KeyError::Busy) };
        let nonce = lock(&self.shared.challenges).take(&attempt.challenge, Instant::now());
        let snapshot = self.shared.snapshot().ok_or(KeyError::SignIn)?;
        let records = snapshot.records;
        let check = move || check(&attempt.signature, nonce.as_deref(), &records);
        let found = call::blocking(check).await.map_err(KeyError::Panicked)?.ok_or(KeyError::SignIn)?;
        self.shared.store.ready().await?;
        let record = self.handle.ask(|reply| KeyRegistryMsg::NoteSignIn { record: Arc::clone(&found), reply }).await?;
        let now = crate::time::unix_now();
        let ends = now + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims::new(&record.identity, &record.serial, record.permissions, now, ends);
        let token = token::issue(&snapshot.signing, &claims);
        tracing::info!(key = %record.identity, "signed in");
        Ok(Issued { token, session: Session::of(&claims) })
    }

    fn lifetime(&self, asked: Option<Duration>) -> Result<Duration, KeyError> {
        let (least, most) = (SHORTEST_TOKEN, LONGEST_TOKEN);
        match asked {
            None => Ok(self.shared.settings.get().token_lifetime.0.clamp(least, most)),
            Some(asked) if (least..=most).contains(&asked) => Ok(asked),
            Some(_) => Err(KeyError::Lifetime { least, most }),
        }
    }

    /// Who a token speaks for, if it is good at this moment. Costs a hash, and a signature the first time.
    ///
    /// # Errors
    /// [`KeyError::Token`], whatever is wrong with it.
    pub fn verify_token(&self, token: &str) -> Result<Session, KeyError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = lock(&self.shared.verified).get(&hash).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => self.shared.verify(token, hash).ok_or(KeyError::Token)?,
        };
        let session = Session::of(&claims);
        let good = self.shared.snapshot.borrow().as_ref().is_some_and(|snapshot| session.is_good(&snapshot.records));
        if good { Ok(session) } else { Err(KeyError::Token) }
    }

    /// Resolves when the session is over: its token ended, or its key was unregistered, disabled, or lost permissions.
    pub fn watch(&self, session: &Session) -> impl Future<Output = ()> + Send + 'static {
        let mut snapshots = self.shared.snapshot.subscribe();
        let session = session.clone();
        async move {
            loop {
                let good =
                    snapshots.borrow_and_update().as_ref().is_some_and(|snapshot| session.is_good(&snapshot.records));
                if !good {
                    return;
                }
                let left = session.expires_at.saturating_mul(1000).saturating_sub(crate::time::unix_millis());
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0).saturating_add(1));
                tokio::select! {
                    changed = snapshots.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(left.min(WATCH_LOOK)) => {}
                }
            }
        }
    }

    /// All registered keys, in the order of their registration.
    pub fn list(&self) -> Vec<Arc<KeyRecord>> {
        self.shared.snapshot.borrow().as_ref().map(|snapshot| snapshot.records.all().to_vec()).unwrap_or_default()
    }

    /// Registers a key.
    ///
    /// # Errors
    /// When the identity or the key is there, when there are too many, or when it could not be kept.
    pub async fn register(
        &self,
        identity: &KeyId,
        key: &PublicKey,
        permissions: Permissions,
    ) -> Result<Arc<KeyRecord>, KeyError> {
        self.shared.store.ready().await?;
        self.handle
            .ask(|reply| KeyRegistryMsg::Register { identity: identity.clone(), key: key.clone(), permissions, reply })
            .await
    }

    /// Makes an Ed25519 pair and registers its public half; the private half, an OpenSSH text, is returned and kept
    /// nowhere.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub async fn generate(
        &self,
        identity: &KeyId,
        permissions: Permissions,
    ) -> Result<(Arc<KeyRecord>, String), KeyError> {
        let key = key_files::generate();
        let record = self.register(identity, &key_files::public_half(&key), permissions).await?;
        Ok((record, key_files::to_openssh(&key, identity.as_str())))
    }

    /// Changes a key; where that takes something away, its tokens are no longer good when this returns.
    ///
    /// # Errors
    /// When there is no such key, when it is the last that manages keys, or when it could not be kept.
    pub async fn update(&self, identity: &KeyId, change: Change) -> Result<Arc<KeyRecord>, KeyError> {
        self.shared.store.ready().await?;
        self.handle.ask(|reply| KeyRegistryMsg::Update { identity: identity.clone(), change, reply }).await
    }

    /// Removes a key; its tokens are no longer good when this returns.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn unregister(&self, identity: &KeyId) -> Result<(), KeyError> {
        self.shared.store.ready().await?;
        self.handle.ask(|reply| KeyRegistryMsg::Unregister { identity: identity.clone(), reply }).await
    }
}

/// Whose signature it is, if it is a good one over this nonce of somebody who may sign in.
///
/// Every registered key is tried, and an SSH signature is checked for the key it names whether that is registered or
/// not: how long it takes tells nothing about the challenge or the registry.
fn check(signature: &str, nonce: Option<&str>, records: &Records) -> Option<Arc<KeyRecord>> {
    // A challenge that is not there has a nonce that nobody can have signed.
    let message = nonce.map_or_else(|| format!("no challenge {}", crate::ids::random_name()), str::to_owned);
    let presented = Presented::parse(signature);
    let signer = match &presented {
        Presented::Ssh(ssh) => {
            let named = PublicKey::from_ssh(ssh.public_key()).ok();
            named.filter(|key| presented.is_good(key, message.as_bytes()))
        }
        Presented::Raw(_) | Presented::Nothing => records
            .all()
            .iter()
            .filter(|record| presented.is_good(&record.key, message.as_bytes()))
            .fold(None, |first, record| first.or_else(|| Some(record.key.clone()))),
    }?;
    let record = records.all().iter().find(|record| record.key == signer)?;
    (nonce.is_some() && !record.disabled).then(|| Arc::clone(record))
}

impl Session {
    fn of(claims: &Claims) -> Self {
        Self {
            key: claims.identity().clone(),
            permissions: claims.permissions,
            expires_at: claims.exp,
            jti: claims.jti.as_str().into(),
        }
    }

    /// Whether it is good at this moment.
    fn is_good(&self, records: &Records) -> bool {
        crate::time::unix_now() < self.expires_at
            && records.get(&self.key).is_some_and(|record| {
                !record.disabled
                    && *record.serial == *token::serial_of(&self.jti)
                    && record.permissions.covers(self.permissions)
            })
    }
}

impl Shared {
    fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Begins a generation of the actor.
    pub(super) fn begin(&self, records: Records, signing: SigningKey) {
        // The file may be another one than before.
        lock(&self.verified).clear();
        self.snapshot.send_replace(Some(Snapshot { records: Arc::new(records), signing }));
    }

    /// Makes these the keys that everybody sees, unless newer ones are there, and tells who watches.
    pub(super) fn replace(&self, records: Records) {
        self.snapshot.send_if_modified(|snapshot| match snapshot {
            Some(snapshot) if records.is_newer_than(&snapshot.records) => {
                snapshot.records = Arc::new(records);
                true
            }
            _ => false,
        });
    }

    /// Notes that a key was used; nobody who watches needs to know.
    pub(super) fn used(&self, identity: &KeyId, now: i64) {
        self.snapshot.send_if_modified(|snapshot| {
            if let Some(snapshot) = snapshot {
                Arc::make_mut(&mut snapshot.records).used(identity, now);
            }
            false
        });
    }

    /// The record of a key that is there.
    pub(super) fn record(&self, identity: &KeyId) -> Result<Arc<KeyRecord>, KeyError> {
        let snapshot = self.snapshot.borrow();
        let record = snapshot.as_ref().and_then(|snapshot| snapshot.records.get(identity)).cloned();
        record.ok_or_else(|| KeyError::NotFound(identity.clone()))
    }

    pub(super) fn note_made_admin(&self) {
        self.made_admin.store(true, Ordering::Relaxed);
    }

    /// Checks a token's signature, and remembers it.
    fn verify(&self, token: &str, hash: [u8; 32]) -> Option<Arc<Claims>> {
        let key = self.snapshot.borrow().as_ref()?.signing.verifying_key();
        let claims = Arc::new(token::read(&key, token)?);
        let mut verified = lock(&self.verified);
        if verified.len() >= VERIFIED {
            let now = crate::time::unix_now();
            verified.retain(|_, claims| claims.exp > now);
            if verified.len() >= VERIFIED {
                verified.clear();
            }
        }
        verified.insert(hash, Arc::clone(&claims));
        Some(claims)
    }
}

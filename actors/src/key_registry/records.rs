//! The registered keys: what is known of each, the rules for changing them, and their rows in the database.
//!
//! Every change is one transaction that checks the rules against what the database holds, makes the change, and reads all
//! keys back: what the rest of the engine then sees is what is on the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{OptionalExtension, Transaction};

use super::error::KeyError;
use super::public_key::PublicKey;
use crate::ids::KeyId;
use crate::permission::{Permission, Permissions};

/// One registered key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyRecord {
    /// Its name.
    pub identity: KeyId,
    /// The key itself.
    pub key: PublicKey,
    /// What it may do.
    pub permissions: Permissions,
    /// Whether it may not sign in for now.
    pub disabled: bool,
    /// Names this registration in tokens; another one after each change that takes something away.
    pub serial: Arc<str>,
    /// Unix seconds.
    pub created_at: i64,
    /// When it last signed in, Unix seconds.
    pub last_used_at: Option<i64>,
}

impl KeyRecord {
    /// Whether it can sign in and change keys.
    pub fn manages(&self) -> bool {
        !self.disabled && self.permissions.contains(Permission::Master) && self.permissions.writable()
    }
}

/// Counts what [`load`] read: a later one is newer, since one thread writes.
static LOADS: AtomicU64 = AtomicU64::new(1);

/// All registered keys at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// When it was read, in the order of the database's changes.
    version: u64,
    by_identity: HashMap<KeyId, Arc<KeyRecord>>,
    /// In the order of registration.
    ordered: Vec<Arc<KeyRecord>>,
}

impl Records {
    /// Whether it was read after `other`.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.version > other.version
    }

    /// The key of this name.
    pub(super) fn get(&self, identity: &KeyId) -> Option<&Arc<KeyRecord>> {
        self.by_identity.get(identity)
    }

    /// Notes when a key last signed in.
    pub(super) fn used(&mut self, identity: &KeyId, now: i64) {
        let Some(record) = self.by_identity.get_mut(identity) else { return };
        let mut used = KeyRecord::clone(record);
        used.last_used_at = Some(now);
        *record = Arc::new(used);
        if let Some(place) = self.ordered.iter_mut().find(|record| record.identity == *identity) {
            *place = Arc::clone(record);
        }
    }

    /// All, in the order of registration.
    pub(super) fn all(&self) -> &[Arc<KeyRecord>] {
        &self.ordered
    }
}

/// Reads all keys. In a write, so that nothing changes between its number and what it reads.
pub(super) fn load(transaction: &Transaction<'_>) -> Result<Records, KeyError> {
    let mut statement = transaction.prepare(
        "SELECT identity, key, permissions, disabled, serial, created_at, last_used_at FROM keys ORDER BY created_at, rowid",
    )?;
    let mut rows = statement.query([])?;
    let mut records = Records { version: LOADS.fetch_add(1, Ordering::SeqCst), ..Records::default() };
    while let Some(row) = rows.next()? {
        let (identity, key): (String, String) = (row.get(0)?, row.get(1)?);
        // The file may have been edited: what is not a key any more is left out, not a reason not to start.
        let (Ok(identity), Ok(key)) = (identity.parse::<KeyId>(), PublicKey::parse(&key)) else {
            tracing::error!(identity, "the database holds a key that cannot be read; it cannot sign in");
            continue;
        };
        let record = Arc::new(KeyRecord {
            identity: identity.clone(),
            key,
            permissions: Permissions::from_bits(row.get(2)?),
            disabled: row.get(3)?,
            serial: row.get::<_, String>(4)?.into(),
            created_at: row.get(5)?,
            last_used_at: row.get(6)?,
        });
        records.ordered.push(Arc::clone(&record));
        records.by_identity.insert(identity, record);
    }
    Ok(records)
}

/// Registers a key.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    identity: &KeyId,
    key: &PublicKey,
    permissions: Permissions,
    limit: usize,
    now: i64,
) -> Result<Records, KeyError> {
    let text = key.to_string();
    let holder: Option<String> = transaction
        .query_row("SELECT identity FROM keys WHERE identity = ?1", [identity.as_str()], |row| row.get(0))
        .optional()?;
    if holder.is_some() {
        return Err(KeyError::IdentityTaken(identity.clone()));
    }
    let holder: Option<String> =
        transaction.query_row("SELECT identity FROM keys WHERE key = ?1", [&text], |row| row.get(0)).optional()?;
    if let Some(holder) = holder {
        return Err(KeyError::KeyTaken(holder.parse().unwrap_or_else(|_| identity.clone())));
    }
    let count: i64 = transaction.query_row("SELECT count(*) FROM keys", [], |row| row.get(0))?;
    if usize::try_from(count).unwrap_or(usize::MAX) >= limit {
        return Err(KeyError::TooMany { limit });
    }
    transaction.execute(
        "INSERT INTO keys (identity, key, permissions, serial, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (identity.as_str(), &text, permissions.bits(), crate::ids::random_name(), now),
    )?;
    load(transaction)
}

/// What is changed of a key; `None` stays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// What it may do.
    pub permissions: Option<Permissions>,
    /// Whether it may sign in.
    pub disabled: Option<bool>,
}

/// Changes a key.
pub(super) fn change(transaction: &Transaction<'_>, identity: &KeyId, change: Change) -> Result<Records, KeyError> {
    let records = load(transaction)?;
    let before = records.get(identity).ok_or_else(|| KeyError::NotFound(identity.clone()))?;
    let mut after = KeyRecord::clone(before);
    after.permissions = change.permissions.unwrap_or(before.permissions);
    after.disabled = change.disabled.unwrap_or(before.disabled);
    if before.manages() && !after.manages() {
        another_manages(&records, identity)?;
    }
    // Tokens carry what the key was allowed when they were issued. Where that is no longer so they must end, and must
    // not come back when the change is undone.
    let takes_away = !after.permissions.covers(before.permissions) || (after.disabled && !before.disabled);
    if takes_away {
        after.serial = crate::ids::random_name().into();
    }
    transaction.execute(
        "UPDATE keys SET permissions = ?2, disabled = ?3, serial = ?4 WHERE identity = ?1",
        (identity.as_str(), after.permissions.bits(), after.disabled, &*after.serial),
    )?;
    load(transaction)
}

/// Removes a key.
pub(super) fn remove(transaction: &Transaction<'_>, identity: &KeyId) -> Result<Records, KeyError> {
    let records = load(transaction)?;
    let before = records.get(identity).ok_or_else(|| KeyError::NotFound(identity.clone()))?;
    if before.manages() {
        another_manages(&records, identity)?;
    }
    transaction.execute("DELETE FROM keys WHERE identity = ?1", [identity.as_str()])?;
    load(transaction)
}

/// Notes that a key signed in, if it still is the registration that was found, and may.
pub(super) fn note_sign_in(
    transaction: &Transaction<'_>,
    identity: &KeyId,
    serial: &str,
    now: i64,
) -> Result<(), KeyError> {
    let noted = transaction.execute(
        "UPDATE keys SET last_used_at = ?3 WHERE identity = ?1 AND serial = ?2 AND disabled = 0",
        (identity.as_str(), serial, now),
    )?;
    if noted == 0 { Err(KeyError::SignIn) } else { Ok(()) }
}

fn another_manages(records: &Records, identity: &KeyId) -> Result<(), KeyError> {
    let another = records.all().iter().any(|record| record.identity != *identity && record.manages());
    another.then_some(()).ok_or_else(|| KeyError::LastMaster(identity.clone()))
}

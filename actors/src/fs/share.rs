//! Shares: links that let anybody with the signature download one object, or upload in its place.
//!
//! A share is a row that names the key which made it, the object, and the version that was shared; it is good while that
//! registration of the key is there and enabled, while the object is that version, until its time, and for its uses. The
//! signature is 256 random bits of which the database keeps only the digest. Whatever is wrong with a signature, the
//! refusal is the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::OptionalExtension;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::error::FsError;
use super::path::ObjectPath;
use super::volume::{Kind, Volume, etag, kind};
use crate::permission::{Permission, Permissions};
use crate::store::{Store, StoreError};
use crate::time::unix_now;

/// A share that was just made.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Shared {
    /// The object.
    pub identity: String,
    /// What opens it; told this once.
    pub signature: String,
    /// Unix seconds.
    pub expires_at: i64,
}

/// A share as lists show it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ShareInfo {
    /// Names the share.
    pub id: String,
    /// The object.
    pub identity: String,
    /// The key that made it.
    pub key: Option<String>,
    /// Whether it is for upload; else for download.
    pub writable: bool,
    /// Uses that are left, if they are counted.
    pub uses: Option<i64>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
}

/// What a signature opens.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The share.
    pub id: String,
    /// The object.
    pub path: ObjectPath,
    /// Keeps one of its uses, until it is given back or spent.
    pub usage: Usage,
}

/// Uses of shares that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses(Arc<Mutex<HashMap<String, i64>>>);

/// One use under way; given back when dropped.
#[derive(Debug)]
pub struct Usage {
    uses: Uses,
    id: String,
}

impl Clone for Usage {
    fn clone(&self) -> Self {
        *self.uses.0.lock().unwrap_or_else(PoisonError::into_inner).entry(self.id.clone()).or_default() += 1;
        Self { uses: self.uses.clone(), id: self.id.clone() }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = uses.get_mut(&self.id) {
            *count -= 1;
            if *count <= 0 {
                uses.remove(&self.id);
            }
        }
    }
}

impl Uses {
    /// Takes one of `left` uses, if not all are under way.
    fn take(&self, id: &str, left: Option<i64>) -> Option<Usage> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = uses.entry(id.to_owned()).or_default();
        if left.is_some_and(|left| *count >= left) {
            if *count == 0 {
                uses.remove(id);
            }
            return None;
        }
        *count += 1;
        drop(uses);
        Some(Usage { uses: self.clone(), id: id.to_owned() })
    }
}

fn digest(signature: &str) -> Vec<u8> {
    Sha256::digest(signature.as_bytes()).to_vec()
}

/// What is shared, and how.
#[derive(Clone, Debug)]
pub struct ShareRequest {
    /// The objects.
    pub paths: Vec<ObjectPath>,
    /// The key; none for the owner's socket.
    pub key: Option<String>,
    /// How long, in seconds.
    pub lifetime: i64,
    /// Whether for upload.
    pub writable: bool,
    /// For how many uses.
    pub uses: Option<u32>,
}

pub(super) async fn create(store: &Store, volume: &Volume, request: ShareRequest) -> Result<Vec<Shared>, FsError> {
    let looking = volume.clone();
    let looked = crate::call::blocking(move || {
        let mut versions = Vec::new();
        for path in &request.paths {
            let stat = looking.stat(path)?;
            match kind(&stat) {
                Kind::File => {}
                Kind::Directory if !request.writable => {}
                _ => return Err(FsError::Kind { identity: path.to_string(), is: "not a file" }),
            }
            versions.push(version(&looking, path, &stat)?);
        }
        Ok((request, versions))
    });
    let (request, versions) = looked.await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))??;
    let now = unix_now();
    let expires_at = now + request.lifetime;
    let mut shared = Vec::new();
    let mut rows = Vec::new();
    for (path, version) in request.paths.iter().zip(versions) {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| FsError::Fault(std::io::Error::other(error)))?;
        let signature = URL_SAFE_NO_PAD.encode(bytes);
        rows.push((crate::ids::random_name(), digest(&signature), path.to_string(), version));
        shared.push(Shared { identity: path.to_string(), signature, expires_at });
    }
    store
        .write(move |transaction| {
            transaction.execute("DELETE FROM shares WHERE expires_at <= ?1", [now]).map_err(StoreError::from)?;
            for (id, digest, identity, version) in rows {
                let made = transaction.execute(
                    "INSERT INTO shares (id, digest, identity, version, key, serial, writable, uses, created_at, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, (SELECT serial FROM keys WHERE identity = ?5), ?6, ?7, ?8, ?9)",
                    (id, digest, identity, version, request.key.clone(), request.writable, request.uses, now, expires_at),
                );
                made.map_err(StoreError::from)?;
            }
            Ok::<_, FsError>(())
        })
        .await?;
    Ok(shared)
}

/// Names the version that is shared: of a file its content, of a directory itself. A directory is known by when it was
/// made beside its number, which file systems give to the next one.
fn version(volume: &Volume, path: &ObjectPath, stat: &rustix::fs::Stat) -> Result<String, FsError> {
    Ok(match kind(stat) {
        Kind::Directory => format!("d{:x}-{:x}", stat.st_ino, volume.made_at(path)?),
        _ => etag(stat),
    })
}

/// The condition under which a share is good, of its row and its key's.
const GOOD: &str = "expires_at > ?1 AND (uses IS NULL OR uses > 0) AND (shares.key IS NULL OR EXISTS (
    SELECT 1 FROM keys WHERE keys.identity = shares.key AND keys.serial = shares.serial AND keys.disabled = 0))";

pub(super) async fn list(store: &Store, key: Option<String>, all: bool) -> Result<Vec<ShareInfo>, FsError> {
    let now = unix_now();
    store
        .read(move |connection| {
            let mut statement = connection
                .prepare(&format!(
                    "SELECT id, identity, key, writable, uses, created_at, expires_at FROM shares
                     WHERE {GOOD} AND (?2 OR key IS ?3) ORDER BY created_at, id"
                ))
                .map_err(StoreError::from)?;
            let rows = statement.query_map((now, all, key), |row| {
                Ok(ShareInfo {
                    id: row.get(0)?,
                    identity: row.get(1)?,
                    key: row.get(2)?,
                    writable: row.get(3)?,
                    uses: row.get(4)?,
                    created_at: row.get(5)?,
                    expires_at: row.get(6)?,
                })
            });
            let rows = rows.and_then(Iterator::collect).map_err(StoreError::from)?;
            Ok::<_, FsError>(rows)
        })
        .await
}

/// How a share to revoke is named.
#[derive(Clone, Debug)]
pub enum ShareName {
    /// By its id.
    Id(String),
    /// By its signature.
    Signature(String),
}

/// Revokes a share of `key`, or with `all` anybody's; returns its id.
pub(super) async fn revoke(store: &Store, name: ShareName, key: Option<String>, all: bool) -> Result<String, FsError> {
    let (id, digest) = match name {
        ShareName::Id(id) => (Some(id), None),
        ShareName::Signature(signature) => (None, Some(digest(&signature))),
    };
    store
        .write(move |transaction| {
            let found: Option<String> = transaction
                .query_row(
                    "SELECT id FROM shares WHERE (id = ?1 OR digest = ?2) AND (?3 OR key IS ?4)",
                    (id, digest, all, key),
                    |row| row.get(0),
                )
                .optional()
                .map_err(StoreError::from)?;
            let found = found.ok_or_else(|| FsError::NotFound("that share".into()))?;
            transaction.execute("DELETE FROM shares WHERE id = ?1", [&found]).map_err(StoreError::from)?;
            Ok(found)
        })
        .await
}

/// A share's row, as far as opening it needs.
struct Row {
    id: String,
    identity: String,
    version: String,
    writable: bool,
    uses: Option<i64>,
    keyed: bool,
    permissions: Option<u8>,
}

/// What a signature opens, in this direction; one refusal for all that is not so.
pub(super) async fn open(
    store: &Store,
    volume: &Volume,
    uses: &Uses,
    signature: &str,
    upload: bool,
) -> Result<Opened, FsError> {
    if signature.len() > 128 {
        return Err(FsError::Signature);
    }
    let (digest, now) = (digest(signature), unix_now());
    let row = store
        .read(move |connection| {
            let sql = format!(
                "SELECT id, identity, version, writable, uses, key IS NOT NULL,
                    (SELECT permissions FROM keys WHERE keys.identity = shares.key)
                 FROM shares WHERE digest = ?2 AND {GOOD}"
            );
            let row = connection.query_row(&sql, (now, digest), |row| {
                Ok(Row {
                    id: row.get(0)?,
                    identity: row.get(1)?,
                    version: row.get(2)?,
                    writable: row.get(3)?,
                    uses: row.get(4)?,
                    keyed: row.get(5)?,
                    permissions: row.get(6)?,
                })
            });
            Ok::<_, FsError>(row.optional().map_err(StoreError::from)?)
        })
        .await?;
    let row = row.ok_or(FsError::Signature)?;
    let may = !row.keyed
        || row.permissions.map(Permissions::from_bits).is_some_and(|permissions| {
            permissions.grants(Permission::Object) && (permissions.writable() || !row.writable)
        });
    if row.writable != upload || !may {
        return Err(FsError::Signature);
    }
    let path = ObjectPath::parse(&row.identity).map_err(|_| FsError::Signature)?;
    let (looking, looked_at) = (volume.clone(), path.clone());
    let looked = crate::call::blocking(move || version(&looking, &looked_at, &looking.stat(&looked_at)?));
    let version = looked.await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))?;
    if version.map_err(|_| FsError::Signature)? != row.version {
        return Err(FsError::Signature);
    }
    let usage = uses.take(&row.id, row.uses).ok_or(FsError::Signature)?;
    Ok(Opened { id: row.id, path, usage })
}

/// Counts a use that has come to its end; after an upload the share is of what is there now.
pub(super) async fn spend(store: &Store, volume: &Volume, opened: Opened, upload: bool) -> Result<(), FsError> {
    let id = opened.id.clone();
    let version = if upload {
        let (looking, path) = (volume.clone(), opened.path.clone());
        let looked = crate::call::blocking(move || version(&looking, &path, &looking.stat(&path)?));
        looked.await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))?.ok()
    } else {
        None
    };
    store
        .write(move |transaction| {
            transaction
                .execute(
                    "UPDATE shares SET uses = uses - 1, version = coalesce(?2, version) WHERE id = ?1",
                    (id, version),
                )
                .map_err(StoreError::from)?;
            Ok::<_, FsError>(())
        })
        .await?;
    drop(opened);
    Ok(())
}

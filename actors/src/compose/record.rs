//! What the database keeps of a workflow: its file and what the file was read with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::{OptionalExtension, Transaction};
use schemars::JsonSchema;
use serde::Serialize;

use super::error::WorkflowError;
use crate::ids::WorkflowId;
use crate::store::{Store, StoreError};

/// A workflow that was made here.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) identity: WorkflowId,
    pub(crate) content: String,
    pub(crate) source: Option<String>,
    pub(crate) directory: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) profiles: Vec<String>,
    /// How many containers each service should have.
    pub(crate) services: BTreeMap<String, usize>,
    pub(crate) created_at: i64,
    /// The number of the file that applies, from 1.
    pub(crate) revision: i64,
}

/// A file that was applied.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Revision {
    /// Its number, from 1.
    pub revision: i64,
    /// When it was applied, ISO 8601.
    pub applied_at: String,
    /// Where it was among the objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether it is the one that applies.
    pub current: bool,
}

const COLUMNS: &str = "identity, content, source, directory, env, profiles, services, created_at, revision";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    fn json<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
        serde_json::from_str(text).unwrap_or_default()
    }
    let identity: String = row.get(0)?;
    let wrong = |error: crate::ids::IdError| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    };
    Ok(Record {
        identity: identity.parse().map_err(wrong)?,
        content: row.get(1)?,
        source: row.get(2)?,
        directory: PathBuf::from(row.get::<_, String>(3)?),
        env: json(&row.get::<_, String>(4)?),
        profiles: json(&row.get::<_, String>(5)?),
        services: json(&row.get::<_, String>(6)?),
        created_at: row.get(7)?,
        revision: row.get(8)?,
    })
}

pub(crate) async fn get(store: &Store, id: &WorkflowId) -> Result<Option<Record>, WorkflowError> {
    let name = id.as_str().to_owned();
    let found = store.read::<Option<Record>, StoreError, _>(move |connection| {
        let sql = format!("SELECT {COLUMNS} FROM workflows WHERE identity = ?1");
        Ok(connection.query_row(&sql, [&name], read).optional()?)
    });
    Ok(found.await?)
}

pub(crate) async fn all(store: &Store) -> Result<Vec<Record>, WorkflowError> {
    let found = store.read::<Vec<Record>, StoreError, _>(|connection| {
        let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM workflows"))?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    });
    Ok(found.await?)
}

/// Keeps a workflow's first revision.
pub(crate) async fn insert(store: &Store, record: &Record) -> Result<(), WorkflowError> {
    let record = record.clone();
    let kept = store.write::<(), StoreError, _>(move |transaction| {
        transaction.execute(
            "INSERT INTO workflows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            (
                record.identity.as_str(),
                &record.content,
                &record.source,
                record.directory.to_string_lossy(),
                json(&record.env),
                json(&record.profiles),
                json(&record.services),
                record.created_at,
                record.revision,
            ),
        )?;
        keep_revision(transaction, &record, record.created_at)
    });
    Ok(kept.await?)
}

/// Keeps what applies from now on as the next revision, and says its number. Of the revisions the last `most` stay.
pub(crate) async fn apply(store: &Store, record: &Record, most: u32) -> Result<i64, WorkflowError> {
    let mut record = record.clone();
    let now = crate::time::unix_now();
    let kept = store.write::<i64, StoreError, _>(move |transaction| {
        let name = record.identity.as_str().to_owned();
        record.revision = transaction.query_row(
            "SELECT 1 + MAX(revision) FROM workflow_revisions WHERE identity = ?1",
            [&name],
            |row| row.get(0),
        )?;
        transaction.execute(
            "UPDATE workflows SET content = ?2, source = ?3, directory = ?4, env = ?5, profiles = ?6, services = ?7,
             revision = ?8 WHERE identity = ?1",
            (
                &name,
                &record.content,
                &record.source,
                record.directory.to_string_lossy(),
                json(&record.env),
                json(&record.profiles),
                json(&record.services),
                record.revision,
            ),
        )?;
        keep_revision(transaction, &record, now)?;
        transaction.execute(
            "DELETE FROM workflow_revisions WHERE identity = ?1 AND revision <= ?2",
            (&name, record.revision - i64::from(most.max(1))),
        )?;
        Ok(record.revision)
    });
    Ok(kept.await?)
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn keep_revision(transaction: &Transaction<'_>, record: &Record, at: i64) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO workflow_revisions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            record.identity.as_str(),
            record.revision,
            &record.content,
            &record.source,
            record.directory.to_string_lossy(),
            json(&record.env),
            json(&record.profiles),
            json(&record.services),
            at,
        ),
    )?;
    Ok(())
}

/// One revision of a workflow.
pub(crate) async fn revision(store: &Store, id: &WorkflowId, number: i64) -> Result<Option<Record>, WorkflowError> {
    let name = id.as_str().to_owned();
    let found = store.read::<Option<Record>, StoreError, _>(move |connection| {
        let sql = "SELECT identity, content, source, directory, env, profiles, services, applied_at, revision
                   FROM workflow_revisions WHERE identity = ?1 AND revision = ?2";
        Ok(connection.query_row(sql, (&name, number), read).optional()?)
    });
    Ok(found.await?)
}

/// The revisions of a workflow that are kept, newest first.
pub(crate) async fn revisions(store: &Store, id: &WorkflowId) -> Result<Vec<Revision>, WorkflowError> {
    let name = id.as_str().to_owned();
    let found = store.read::<Vec<Revision>, StoreError, _>(move |connection| {
        let sql = "SELECT r.revision, r.applied_at, r.source, r.revision = w.revision FROM workflow_revisions r
                   JOIN workflows w USING (identity) WHERE identity = ?1 ORDER BY r.revision DESC";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([&name], |row| {
            Ok(Revision {
                revision: row.get(0)?,
                applied_at: crate::time::iso(row.get(1)?),
                source: row.get(2)?,
                current: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    });
    Ok(found.await?)
}

pub(crate) async fn delete(store: &Store, id: &WorkflowId) -> Result<(), WorkflowError> {
    let name = id.as_str().to_owned();
    let gone = store.write::<(), StoreError, _>(move |transaction| {
        transaction.execute("DELETE FROM workflows WHERE identity = ?1", [&name])?;
        transaction.execute("DELETE FROM workflow_revisions WHERE identity = ?1", [&name])?;
        Ok(())
    });
    Ok(gone.await?)
}

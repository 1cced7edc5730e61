//! What the database keeps of a workflow: its file and what the file was read with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::OptionalExtension;

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
}

const COLUMNS: &str = "identity, content, source, directory, env, profiles, services, created_at";

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

pub(crate) async fn insert(store: &Store, record: &Record) -> Result<(), WorkflowError> {
    let record = record.clone();
    let kept = store.write::<(), StoreError, _>(move |transaction| {
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        transaction.execute(
            "INSERT INTO workflows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                record.identity.as_str(),
                &record.content,
                &record.source,
                record.directory.to_string_lossy(),
                json(serde_json::to_string(&record.env)),
                json(serde_json::to_string(&record.profiles)),
                json(serde_json::to_string(&record.services)),
                record.created_at,
            ),
        )?;
        Ok(())
    });
    Ok(kept.await?)
}

pub(crate) async fn delete(store: &Store, id: &WorkflowId) -> Result<(), WorkflowError> {
    let name = id.as_str().to_owned();
    let gone = store.write::<(), StoreError, _>(move |transaction| {
        transaction.execute("DELETE FROM workflows WHERE identity = ?1", [&name])?;
        Ok(())
    });
    Ok(gone.await?)
}

//! The audit: append-only records, each chained to the one before it by a hash.
//!
//! A record's hash is SHA-256 over the hash of its predecessor, its number and all that it says. Whoever changes, removes
//! or inserts a record breaks the chain at that place, and [`Store::audit_verify`] names it. Records that are kept long
//! enough are removed from the front only; the *anchor* (the number and hash of the last one removed) is where the chain
//! begins then. What the chain alone cannot show is the loss of everything after some moment by somebody who owns the
//! file: note the head elsewhere from time to time, and have it looked for.

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Store, StoreError};
use crate::units::Span;

/// Every so many records it is looked for ones that have been kept long enough.
const PRUNE_EVERY: i64 = 64;
/// How many are removed at once: more than come in between, little enough for one transaction.
const PRUNE_AT_ONCE: i64 = 1024;
/// How many records one step of a verification reads.
const VERIFY_STEP: i64 = 5_000;
/// Where the anchor is kept: `<id>:<hash in hex>`.
const ANCHOR: &str = "audit_anchor";

/// How long the audit is kept.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long records are kept.
    pub retention: Span,
    /// How many records are kept at most; past it the oldest go.
    pub max_records: u64,
    /// Refusals a second that are recorded, for each address; the next record counts those that were not.
    pub refusal_rate: u32,
    /// How many of them may come at once.
    pub refusal_burst: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retention: Span(std::time::Duration::from_secs(365 * 24 * 3600)),
            max_records: 1_000_000,
            refusal_rate: 1,
            refusal_burst: 50,
        }
    }
}

/// One entry of the audit, as it is written.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// The key's identity; `unix` for the owner's socket; `-` for nobody.
    pub caller: String,
    /// Where the request came from.
    pub peer: String,
    /// What was asked (`PUT /shell/resize`).
    pub action: String,
    /// What it was asked of, as far as that is known.
    pub subject: String,
    /// What became of it: a status.
    pub outcome: String,
    /// The request id.
    pub request: String,
}

/// One entry of the audit, as it is kept.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Its number; one after the other, without gaps.
    pub id: i64,
    /// When, Unix milliseconds.
    pub at: i64,
    /// What it says.
    pub record: AuditRecord,
    /// SHA-256 in hex that chains it to the one before; none for those from before there was a chain.
    pub hash: Option<String>,
}

impl AuditEntry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get("at")?,
            record: AuditRecord {
                caller: row.get("caller")?,
                peer: row.get("peer")?,
                action: row.get("action")?,
                subject: row.get("subject")?,
                outcome: row.get("outcome")?,
                request: row.get("request")?,
            },
            hash: row.get::<_, Option<Vec<u8>>>("hash")?.map(hex::encode),
        })
    }

    /// The hash that it must have after a record with this one. Each part is preceded by its length, so that no two
    /// records read alike.
    fn hash_after(&self, previous: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        let AuditRecord { caller, peer, action, subject, outcome, request } = &self.record;
        let numbers = [self.id.to_le_bytes(), self.at.to_le_bytes()];
        let texts = [caller, peer, action, subject, outcome, request];
        let parts = [previous, &numbers[0], &numbers[1]].into_iter().chain(texts.iter().map(|text| text.as_bytes()));
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// Which entries are asked for.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only those of this caller.
    pub caller: Option<String>,
    /// Only those of this request id.
    pub request: Option<String>,
}

/// A place in the chain: a record's number, and its hash in hex.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainHead {
    /// The number; 0 before the first.
    pub id: i64,
    /// The hash; empty before the first.
    pub hash: String,
}

/// What a verification found.
#[derive(Clone, Debug)]
pub struct AuditVerdict {
    /// How many records were good.
    pub records: u64,
    /// The last good one.
    pub head: ChainHead,
    /// The first record that is not as it was written, and what is wrong with it.
    pub broken: Option<(i64, String)>,
}

impl Store {
    /// Appends to the audit; it is on the disk when this returns. Now and then it removes what has been kept long enough.
    ///
    /// # Errors
    /// A [`StoreError`] when it could not be kept.
    pub async fn audit(&self, record: AuditRecord, settings: Settings) -> Result<(), StoreError> {
        let at = crate::time::unix_millis();
        self.write(move |transaction| append(transaction, at, record, settings)).await
    }

    /// A page of the audit, the newest first; `before` gives those before this number, `offset` leaves out so many.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub async fn audit_page(
        &self,
        filter: AuditFilter,
        before: i64,
        offset: u64,
        limit: u64,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM audit WHERE id < ?1 AND (?2 IS NULL OR caller = ?2) AND (?3 IS NULL OR request = ?3)
                 ORDER BY id DESC LIMIT ?4 OFFSET ?5",
            )?;
            let (limit, offset) = (i64::try_from(limit).unwrap_or(i64::MAX), i64::try_from(offset).unwrap_or(i64::MAX));
            let rows = statement.query_map((before, filter.caller, filter.request, limit, offset), AuditEntry::read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many records there are that the filter lets through, and the number that the next one will have.
    ///
    /// # Errors
    /// A [`StoreError`].
    pub async fn audit_count(&self, filter: AuditFilter) -> Result<(u64, i64), StoreError> {
        self.read(move |connection| {
            let (count, last): (i64, i64) = connection.query_row(
                "SELECT COUNT(*), (SELECT COALESCE(MAX(id), 0) FROM audit) FROM audit
                 WHERE (?1 IS NULL OR caller = ?1) AND (?2 IS NULL OR request = ?2)",
                (filter.caller, filter.request),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            Ok((count.unsigned_abs(), last + 1))
        })
        .await
    }

    /// Follows the chain from its anchor to its end, in steps, so that writers are not held up. With `expected`, a head
    /// that was noted earlier must still be there.
    ///
    /// # Errors
    /// A [`StoreError`] when the file cannot be read.
    pub async fn audit_verify(&self, expected: Option<ChainHead>) -> Result<AuditVerdict, StoreError> {
        let anchor = self.read(anchor).await?;
        let first = anchor.id;
        let mut verdict = AuditVerdict { records: 0, head: anchor, broken: None };
        let mut noted = expected.as_ref().is_none_or(|expected| *expected == verdict.head);
        loop {
            let (head, expected) = (verdict.head.clone(), expected.clone());
            let step = self.read(move |connection| verify_step(connection, head, expected.as_ref())).await?;
            verdict.records += step.good;
            verdict.head = step.head;
            verdict.broken = step.broken;
            noted |= step.noted;
            if verdict.broken.is_some() {
                return Ok(verdict);
            }
            if step.ended {
                break;
            }
        }
        if let Some(expected) = expected.filter(|_| !noted) {
            let reason = if expected.id < first {
                "the noted head was removed: it had been kept long enough, or somebody removed it"
            } else {
                "the noted head is not there: records were removed or written anew since"
            };
            verdict.broken = Some((expected.id, reason.into()));
        }
        Ok(verdict)
    }
}

fn append(transaction: &Transaction<'_>, at: i64, record: AuditRecord, settings: Settings) -> Result<(), StoreError> {
    let anchor = anchor(transaction)?;
    let last = transaction
        .prepare("SELECT id, hash FROM audit WHERE id > ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([anchor.id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)))
        .optional()?;
    let (last_id, previous) = match last {
        Some((id, hash)) => (id, hash.unwrap_or_default()),
        None => (anchor.id, hex::decode(&anchor.hash).unwrap_or_default()),
    };
    // Where records were cut off behind, the gap stays: their numbers are not given again.
    let id = written(transaction)?.max(last_id) + 1;
    let entry = AuditEntry { id, at, record, hash: None };
    let AuditRecord { caller, peer, action, subject, outcome, request } = &entry.record;
    transaction
        .prepare(
            "INSERT INTO audit (id, at, caller, peer, action, subject, outcome, request, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((entry.id, at, caller, peer, action, subject, outcome, request, entry.hash_after(&previous)))?;
    if entry.id % PRUNE_EVERY == 0 {
        prune(transaction, entry.id, at, settings)?;
    }
    Ok(())
}

/// Removes from the front what has been kept long enough, and moves the anchor.
fn prune(transaction: &Transaction<'_>, last: i64, now: i64, settings: Settings) -> Result<(), StoreError> {
    let kept_from = now.saturating_sub(i64::try_from(settings.retention.0.as_millis()).unwrap_or(i64::MAX));
    let first_young: i64 = transaction.query_row(
        "SELECT COALESCE((SELECT id FROM audit WHERE at >= ?1 ORDER BY id LIMIT 1), ?2)",
        (kept_from, last),
        |row| row.get(0),
    )?;
    let too_many = last.saturating_sub(i64::try_from(settings.max_records).unwrap_or(i64::MAX));
    let oldest: i64 = transaction.query_row("SELECT COALESCE(MIN(id), 0) FROM audit", [], |row| row.get(0))?;
    let until = (first_young - 1).max(too_many).min(oldest + PRUNE_AT_ONCE).min(last - 1);
    if until < oldest {
        return Ok(());
    }
    let hash: Option<Vec<u8>> =
        transaction.query_row("SELECT hash FROM audit WHERE id = ?1", [until], |row| row.get(0)).optional()?.flatten();
    // The trigger lets go only what is not after the anchor.
    if until > anchor(transaction)?.id {
        let anchor = format!("{until}:{}", hex::encode(hash.unwrap_or_default()));
        transaction.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", (ANCHOR, anchor))?;
    }
    transaction.execute("DELETE FROM audit WHERE id <= ?1", [until])?;
    Ok(())
}

fn anchor(connection: &Connection) -> Result<ChainHead, StoreError> {
    let text: Option<String> = connection
        .prepare("SELECT value FROM meta WHERE name = ?1")?
        .query_row([ANCHOR], |row| row.get(0))
        .optional()?;
    let parts = text.as_deref().and_then(|text| text.split_once(':'));
    let id = parts.and_then(|(id, _)| id.parse().ok()).unwrap_or(0);
    Ok(ChainHead { id, hash: parts.map_or("", |(_, hash)| hash).to_owned() })
}

/// The number of the last record that was ever written.
fn written(connection: &Connection) -> Result<i64, StoreError> {
    let mut statement = connection.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// What one step of a verification found.
struct Step {
    good: u64,
    head: ChainHead,
    /// Whether a head that was noted earlier was passed.
    noted: bool,
    broken: Option<(i64, String)>,
    ended: bool,
}

fn verify_step(connection: &Connection, head: ChainHead, noted: Option<&ChainHead>) -> Result<Step, StoreError> {
    let mut statement = connection.prepare("SELECT * FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let entries: Vec<AuditEntry> =
        statement.query_map((head.id, VERIFY_STEP), AuditEntry::read)?.collect::<Result<_, _>>()?;
    let mut step = Step { good: 0, head, noted: false, broken: None, ended: entries.is_empty() };
    for entry in entries {
        let expected = step.head.id + 1;
        if entry.id != expected {
            step.broken = Some((expected, format!("it is missing; the next is {}", entry.id)));
            return Ok(step);
        }
        let previous = hex::decode(&step.head.hash).unwrap_or_default();
        let hash = hex::encode(entry.hash_after(&previous));
        if entry.hash.as_deref() != Some(&hash) {
            step.broken = Some((entry.id, "it is not as it was written, or the one before it was replaced".into()));
            return Ok(step);
        }
        step.head = ChainHead { id: entry.id, hash };
        step.noted |= noted == Some(&step.head);
        step.good += 1;
    }
    if step.ended {
        let written = written(connection)?;
        // One that came after this step read is for the next.
        let newer: i64 =
            connection.query_row("SELECT COUNT(*) FROM audit WHERE id > ?1", [step.head.id], |row| row.get(0))?;
        if newer > 0 {
            step.ended = false;
        } else if written > step.head.id {
            step.broken = Some((step.head.id + 1, format!("it and all up to {written} are missing")));
        }
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Connection {
        let mut connection = Connection::open_in_memory().expect("opens");
        super::super::migrations::migrate(&mut connection).expect("the steps apply");
        connection
    }

    fn add(connection: &mut Connection, n: i64, settings: Settings) {
        let transaction = connection.transaction().expect("begins");
        let text = |what: &str| format!("{what}{n}");
        let record = AuditRecord {
            caller: text("caller"),
            peer: text("peer"),
            action: text("action"),
            subject: text("subject"),
            outcome: text("outcome"),
            request: text("request"),
        };
        append(&transaction, n, record, settings).expect("appended");
        transaction.commit().expect("kept");
    }

    fn verify(connection: &Connection) -> (u64, Option<i64>) {
        let (mut good, mut head) = (0, anchor(connection).expect("read"));
        loop {
            let step = verify_step(connection, head, None).expect("read");
            good += step.good;
            head = step.head;
            if step.broken.is_some() || step.ended {
                return (good, step.broken.map(|(id, _)| id));
            }
        }
    }

    #[test]
    fn any_change_is_found_where_it_was_made() {
        let columns = ["at", "caller", "peer", "action", "subject", "outcome", "request", "hash"];
        for column in columns {
            let mut connection = open();
            (1..=20).for_each(|n| add(&mut connection, n, Settings::default()));
            assert_eq!(verify(&connection), (20, None));
            assert!(connection.execute("UPDATE audit SET at = 1 WHERE id = 7", []).is_err(), "append-only");
            assert!(connection.execute("DELETE FROM audit WHERE id = 7", []).is_err(), "append-only");
            connection.execute_batch("DROP TRIGGER audit_is_append_only").expect("by force");
            let value = if column == "at" { "9" } else { "x'00'" };
            let value = if column == "hash" || column == "at" { value.to_owned() } else { "'x'".into() };
            connection.execute(&format!("UPDATE audit SET {column} = {value} WHERE id = 7"), []).expect("changed");
            assert_eq!(verify(&connection), (6, Some(7)), "{column}");
        }
    }

    #[test]
    fn removal_is_found_in_front_in_the_middle_and_at_the_end() {
        for (removed, found) in [("id = 1", 1), ("id = 9", 9), ("id = 20", 20), ("id > 15", 16), ("id > 0", 1)] {
            let mut connection = open();
            (1..=20).for_each(|n| add(&mut connection, n, Settings::default()));
            connection.execute_batch("DROP TRIGGER audit_is_kept").expect("by force");
            connection.execute(&format!("DELETE FROM audit WHERE {removed}"), []).expect("removed");
            assert_eq!(verify(&connection).1, Some(found), "{removed}");
        }
    }

    #[test]
    fn what_was_kept_long_enough_goes_and_the_chain_holds() {
        let mut connection = open();
        let few = Settings { max_records: 10, ..Settings::default() };
        (1..=1000).for_each(|n| add(&mut connection, n, few));
        let count: i64 = connection.query_row("SELECT COUNT(*) FROM audit", [], |row| row.get(0)).expect("counted");
        assert!((10..10 + PRUNE_EVERY).contains(&count), "{count}");
        assert_eq!(verify(&connection), (count.unsigned_abs(), None));
        let short = Settings { retention: Span(std::time::Duration::from_millis(100)), ..Settings::default() };
        (1001..=2000).for_each(|n| add(&mut connection, n, short));
        let oldest: i64 = connection.query_row("SELECT MIN(at) FROM audit", [], |row| row.get(0)).expect("read");
        assert!(oldest >= 2000 - 100 - PRUNE_EVERY, "{oldest}");
        assert_eq!(verify(&connection).1, None);
    }
}

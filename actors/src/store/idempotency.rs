//! Answers that are kept so that a request which is sent again has one effect and the same answer.
//!
//! ```text
//! (nothing) ──begin──► begun ──keep──► kept ──lifetime──► (nothing)
//!                        └───forget───► (nothing)
//! ```
//!
//! A request is written down before it is carried out. One that is found `begun` by a process that is not carrying it out
//! was cut off by the end of an earlier one: whether it had an effect is not known, and it is never carried out again by
//! itself. Answers are kept sealed: what opens them is the client's own key, of which only a digest is here.

use rusqlite::{OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::units::{Size, Span};

/// How many records that are past their lifetime go with each new one.
const EXPIRE_AT_ONCE: i64 = 64;

/// How answers are kept for requests that are sent again.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long an answer is kept.
    pub lifetime: Span,
    /// How many are kept for one key; more are refused with 429 until the oldest have gone.
    pub max_records_per_key: u64,
    /// How many are kept in all; more are refused with 503.
    pub max_records: u64,
    /// How many bytes of answers are kept in all; more are refused with 503.
    pub max_bytes: Size,
    /// The longest answer that is kept; of a longer one only that it was given.
    pub max_answer: Size,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Span(std::time::Duration::from_secs(24 * 3600)),
            max_records_per_key: 20_000,
            max_records: 200_000,
            max_bytes: Size(256 << 20),
            max_answer: Size(64 << 10),
        }
    }
}

/// Which request: whose, and the digest of the key that the client gave it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RequestKey {
    /// Whose.
    pub caller: String,
    /// SHA-256 of the client's key.
    pub digest: [u8; 32],
}

/// What is known of a request that is to be carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Begun {
    /// Nothing: it is written down now, and may be carried out.
    New,
    /// It was begun and never answered.
    Unanswered,
    /// It was answered so.
    Answered {
        /// The status.
        status: u16,
        /// The rest, sealed; none where it was too long.
        sealed: Option<Vec<u8>>,
    },
    /// The key stands for another request.
    Another,
    /// This caller has as many as one may.
    CallerFull,
    /// There are as many as there may be.
    Full,
}

impl Store {
    /// Writes down that a request is being carried out, unless it is there; on the disk when this returns.
    ///
    /// # Errors
    /// A [`StoreError`] when it could not be kept: then it must not be carried out.
    pub async fn begin_once(
        &self,
        key: RequestKey,
        fingerprint: [u8; 32],
        settings: Settings,
    ) -> Result<Begun, StoreError> {
        let now = crate::time::unix_millis();
        self.write(move |transaction| begin(transaction, &key, fingerprint, now, settings)).await
    }

    /// Keeps the answer of a request that was begun; on the disk when this returns. Without `sealed` only that there was one.
    ///
    /// # Errors
    /// A [`StoreError`] when it could not be kept.
    pub async fn keep_answer(&self, key: RequestKey, status: u16, sealed: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.write(move |transaction| {
            transaction
                .prepare("UPDATE idempotent SET status = ?3, sealed = ?4 WHERE caller = ?1 AND key = ?2")?
                .execute((&key.caller, key.digest, status, sealed))?;
            Ok(())
        })
        .await
    }

    /// Forgets a request that was begun and had no effect.
    ///
    /// # Errors
    /// A [`StoreError`] when it could not be forgotten.
    pub async fn forget_request(&self, key: RequestKey) -> Result<(), StoreError> {
        self.write(move |transaction| {
            transaction
                .prepare("DELETE FROM idempotent WHERE caller = ?1 AND key = ?2")?
                .execute((&key.caller, key.digest))?;
            Ok(())
        })
        .await
    }
}

fn begin(
    transaction: &Transaction<'_>,
    key: &RequestKey,
    fingerprint: [u8; 32],
    now: i64,
    settings: Settings,
) -> Result<Begun, StoreError> {
    let lifetime = i64::try_from(settings.lifetime.0.as_millis()).unwrap_or(i64::MAX);
    let expired = now.saturating_sub(lifetime);
    transaction
        .prepare(
            "DELETE FROM idempotent WHERE rowid IN
             (SELECT rowid FROM idempotent WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
        )?
        .execute((expired, EXPIRE_AT_ONCE))?;
    let found = transaction
        .prepare("SELECT fingerprint, status, sealed, created_at FROM idempotent WHERE caller = ?1 AND key = ?2")?
        .query_row((&key.caller, key.digest), |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Option<u16>>(1)?,
                row.get::<_, Option<Vec<u8>>>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .optional()?;
    match found {
        Some((.., created_at)) if created_at < expired => {
            transaction.execute("DELETE FROM idempotent WHERE caller = ?1 AND key = ?2", (&key.caller, key.digest))?;
        }
        Some((known, ..)) if known != fingerprint => return Ok(Begun::Another),
        Some((_, Some(status), sealed, _)) => return Ok(Begun::Answered { status, sealed }),
        Some((_, None, ..)) => return Ok(Begun::Unanswered),
        None => {}
    }
    let (own, all, bytes): (u64, u64, u64) = transaction
        .prepare(
            "SELECT COALESCE((SELECT records FROM idempotent_use WHERE caller = ?1), 0),
                    COALESCE(SUM(records), 0), COALESCE(SUM(bytes), 0) FROM idempotent_use",
        )?
        .query_row([&key.caller], |row| {
            let number = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
            Ok((number(0)?, number(1)?, number(2)?))
        })?;
    if own >= settings.max_records_per_key {
        return Ok(Begun::CallerFull);
    }
    if all >= settings.max_records || bytes >= settings.max_bytes.0 {
        return Ok(Begun::Full);
    }
    transaction
        .prepare("INSERT INTO idempotent (caller, key, fingerprint, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((&key.caller, key.digest, fingerprint, now))?;
    Ok(Begun::New)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn key(n: u8) -> RequestKey {
        RequestKey { caller: "admin".into(), digest: [n; 32] }
    }

    #[test]
    fn a_request_is_begun_once_until_its_lifetime_ends_and_is_counted_exactly() {
        let mut connection = Connection::open_in_memory().expect("opens");
        super::super::migrations::migrate(&mut connection).expect("the steps apply");
        let settings = Settings {
            lifetime: Span(std::time::Duration::from_millis(100)),
            max_records_per_key: 3,
            ..Settings::default()
        };
        let transaction = connection.transaction().expect("begins");
        let at = |now, n, print: u8| begin(&transaction, &key(n), [print; 32], now, settings).expect("asked");
        assert_eq!(at(0, 1, 1), Begun::New);
        assert_eq!(at(10, 1, 1), Begun::Unanswered);
        assert_eq!(at(10, 1, 2), Begun::Another);
        assert_eq!(at(10, 2, 1), Begun::New);
        assert_eq!(at(10, 3, 1), Begun::New);
        assert_eq!(at(10, 4, 1), Begun::CallerFull);
        assert_eq!(at(101, 1, 2), Begun::New, "the first is past its lifetime");
        let sealed = Some(vec![0; 1000]);
        transaction
            .execute("UPDATE idempotent SET status = 200, sealed = ?1 WHERE key = ?2", (&sealed, [2; 32]))
            .expect("kept");
        assert_eq!(at(102, 2, 1), Begun::Answered { status: 200, sealed });
        let used = || {
            transaction.query_row("SELECT records, bytes FROM idempotent_use", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
        };
        assert_eq!(used().expect("counted"), (3, 1000));
        transaction.execute("DELETE FROM idempotent WHERE key = ?1", [[2; 32]]).expect("removed");
        assert_eq!(used().expect("counted"), (2, 0));
        let few = Settings { max_records: 2, ..Settings::default() };
        assert_eq!(begin(&transaction, &key(9), [1; 32], 103, few).expect("asked"), Begun::Full);
    }
}

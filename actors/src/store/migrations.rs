//! The database's schema, as the ordered list of the steps that made it.
//!
//! `PRAGMA user_version` says how many steps a file has seen. A step that was released is never changed: append another.
//! A file that has seen more steps than this program knows is refused, never guessed at.

use rusqlite::Connection;

use super::StoreError;

/// Every step, in order. Append; never change one that was released.
const STEPS: &[&str] = &[
    // 1: keys, and who did what.
    "CREATE TABLE keys (
        identity     TEXT PRIMARY KEY NOT NULL,
        -- The OpenSSH line, without a comment: one text for one key.
        key          TEXT NOT NULL UNIQUE,
        permissions  INTEGER NOT NULL,
        disabled     INTEGER NOT NULL DEFAULT 0,
        -- Names this registration: tokens of an earlier key of the same identity are not good for it.
        serial       TEXT NOT NULL,
        -- Tokens issued before this moment (Unix milliseconds) are no longer good: permissions have shrunk since.
        not_before   INTEGER NOT NULL DEFAULT 0,
        -- Unix seconds.
        created_at   INTEGER NOT NULL,
        last_used_at INTEGER
    ) STRICT;
    CREATE TABLE audit (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        -- Unix milliseconds.
        at      INTEGER NOT NULL,
        -- The key's identity; `unix` for the owner's socket; `-` for nobody.
        caller  TEXT NOT NULL,
        peer    TEXT NOT NULL,
        action  TEXT NOT NULL,
        subject TEXT NOT NULL,
        outcome TEXT NOT NULL,
        -- The request id.
        request TEXT NOT NULL
    ) STRICT;
    CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
    CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) STRICT;",
    // 2: uploads that can be resumed, and shares.
    "CREATE TABLE uploads (
        identity   TEXT NOT NULL,
        -- The client's name for it.
        upload     TEXT NOT NULL,
        -- The temporary file, beside where the object will be.
        file       TEXT NOT NULL,
        total      INTEGER NOT NULL,
        -- The file's inode, from just before it gets its name.
        placing    INTEGER,
        sha256     TEXT,
        -- Unix seconds.
        touched_at INTEGER NOT NULL,
        PRIMARY KEY (identity, upload)
    ) STRICT;
    CREATE TABLE shares (
        id         TEXT PRIMARY KEY NOT NULL,
        -- SHA-256 of the signature, which is nowhere.
        digest     BLOB NOT NULL UNIQUE,
        identity   TEXT NOT NULL,
        -- The version that was shared.
        version    TEXT NOT NULL,
        -- The key that made it, and which registration of it; none for the owner's socket.
        key        TEXT,
        serial     TEXT,
        writable   INTEGER NOT NULL,
        -- Uses that are left, if they are counted.
        uses       INTEGER,
        -- Unix seconds.
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT;",
    // 3: compose workflows.
    "CREATE TABLE workflows (
        identity   TEXT PRIMARY KEY NOT NULL,
        -- The compose file, and where it was among the objects.
        content    TEXT NOT NULL,
        source     TEXT,
        -- What its relative paths are relative to.
        directory  TEXT NOT NULL,
        -- JSON: the variables and profiles that it was read with, and how many containers each service has.
        env        TEXT NOT NULL,
        profiles   TEXT NOT NULL,
        services   TEXT NOT NULL,
        -- Unix seconds.
        created_at INTEGER NOT NULL
    ) STRICT;
    -- Containers that somebody has stopped: their exit code does not tell.
    CREATE TABLE stopped_containers (container TEXT PRIMARY KEY NOT NULL) STRICT;",
    // 4: the audit as a chain. What is there already stands before its anchor.
    "ALTER TABLE audit ADD COLUMN hash BLOB;
    INSERT INTO meta (name, value) SELECT 'audit_anchor', MAX(id) || ':' FROM audit HAVING COUNT(*) > 0;
    CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
        WHEN OLD.id > COALESCE((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'audit_anchor'), 0)
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;",
    // 5: requests that are carried out once, and their answers.
    "CREATE TABLE idempotent (
        caller      TEXT NOT NULL,
        -- SHA-256 of the client's key, and of the request with it.
        key         BLOB NOT NULL,
        fingerprint BLOB NOT NULL,
        -- None while it is not answered.
        status      INTEGER,
        -- The answer, sealed with the client's key, which is nowhere; none where it was too long.
        sealed      BLOB,
        -- Unix milliseconds.
        created_at  INTEGER NOT NULL,
        PRIMARY KEY (caller, key)
    ) STRICT;
    CREATE INDEX idempotent_by_age ON idempotent (created_at);
    -- How many each caller has, kept by the triggers.
    CREATE TABLE idempotent_use (caller TEXT PRIMARY KEY NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    CREATE TRIGGER idempotent_comes AFTER INSERT ON idempotent BEGIN
        INSERT INTO idempotent_use VALUES (NEW.caller, 1, COALESCE(LENGTH(NEW.sealed), 0))
            ON CONFLICT (caller) DO UPDATE SET records = records + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER idempotent_changes AFTER UPDATE ON idempotent BEGIN
        UPDATE idempotent_use SET bytes = bytes + COALESCE(LENGTH(NEW.sealed), 0) - COALESCE(LENGTH(OLD.sealed), 0)
            WHERE caller = NEW.caller;
    END;
    CREATE TRIGGER idempotent_goes AFTER DELETE ON idempotent BEGIN
        UPDATE idempotent_use SET records = records - 1, bytes = bytes - COALESCE(LENGTH(OLD.sealed), 0)
            WHERE caller = OLD.caller;
        DELETE FROM idempotent_use WHERE caller = OLD.caller AND records <= 0;
    END;",
    // 6: revisions of workflows. The row in `workflows` is the one that applies.
    "ALTER TABLE workflows ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE workflow_revisions (
        identity   TEXT NOT NULL,
        -- Counted from 1; never used again.
        revision   INTEGER NOT NULL,
        content    TEXT NOT NULL,
        source     TEXT,
        directory  TEXT NOT NULL,
        env        TEXT NOT NULL,
        profiles   TEXT NOT NULL,
        services   TEXT NOT NULL,
        -- When it was applied, Unix seconds.
        applied_at INTEGER NOT NULL,
        PRIMARY KEY (identity, revision)
    ) STRICT;
    INSERT INTO workflow_revisions
        SELECT identity, 1, content, source, directory, env, profiles, services, created_at FROM workflows;",
];

/// Brings the database to the newest version; each step is one transaction.
///
/// # Errors
/// [`StoreError::Newer`] for a file of a later program; else what SQLite says.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).expect("a list of steps is short");
    let seen: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if seen > known {
        return Err(StoreError::Newer { found: seen, known });
    }
    let done = usize::try_from(seen).unwrap_or(0);
    for (index, step) in STEPS.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(known))?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_applies_once() {
        let mut connection = Connection::open_in_memory().expect("opens");
        migrate(&mut connection).expect("the steps apply");
        migrate(&mut connection).expect("a second time is nothing");
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("read");
        assert_eq!(version, STEPS.len() as i64);
        connection
            .execute("INSERT INTO audit VALUES (NULL, 1, 'a', 'b', 'c', 'd', 'e', 'f', x'00')", [])
            .expect("inserted");
        assert!(connection.execute("UPDATE audit SET caller = 'x'", []).is_err(), "the audit is append-only");
    }

    #[test]
    fn a_newer_database_is_refused() {
        let mut connection = Connection::open_in_memory().expect("opens");
        connection.pragma_update(None, "user_version", 99).expect("set");
        let refused = migrate(&mut connection);
        assert!(matches!(refused, Err(StoreError::Newer { found: 99, .. })), "{refused:?}");
    }
}

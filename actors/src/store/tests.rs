//! The store as its users see it.

use std::sync::Arc;

use super::*;
use crate::supervision::{Strategy, Supervisor, SupervisorHandle, SupervisorSpec};

async fn start(store: &Store) -> SupervisorHandle {
    Supervisor::spawn(SupervisorSpec::new("test", Strategy::OneForOne, vec![store.child()])).await.expect("it starts")
}

async fn put(store: &Store, name: &str, value: &str) -> Result<(), StoreError> {
    let (name, value) = (name.to_owned(), value.to_owned());
    store
        .write(move |transaction| {
            transaction.execute("INSERT INTO meta VALUES (?1, ?2)", (&name, &value))?;
            if value == "undo" {
                return Err(StoreError::Panicked("undone".into()));
            }
            assert_ne!(value, "panic", "a panic on purpose");
            Ok(())
        })
        .await
}

async fn names(store: &Store) -> Vec<String> {
    store
        .read(|connection| {
            let mut statement = connection.prepare("SELECT name FROM meta ORDER BY name")?;
            let names = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok::<_, StoreError>(names)
        })
        .await
        .expect("read")
}

#[tokio::test]
async fn what_is_answered_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::new(directory.path());
    let supervisor = start(&store).await;
    let writes = (0..200).map(|n| {
        let store = store.clone();
        async move { put(&store, &format!("{n:03}"), if n % 2 == 0 { "keep" } else { "undo" }).await }
    });
    let results = futures_util::future::join_all(writes).await;
    let kept = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(kept, 100);
    assert!(put(&store, "000", "twice").await.is_err());
    let there = names(&store).await;
    assert_eq!(there.len(), 100);
    assert!(there.iter().all(|name| name.parse::<u32>().expect("a number") % 2 == 0));
    store.ping().await.expect("it answers");
    for file in ["dxflow.db", "dxflow.db-wal", "dxflow.db-shm"] {
        let mode = std::fs::metadata(directory.path().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    drop(supervisor);
}

#[tokio::test]
async fn a_panic_in_the_work_costs_that_work_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::new(directory.path());
    let supervisor = start(&store).await;
    put(&store, "before", "x").await.expect("kept");
    let panicked = put(&store, "never", "panic").await;
    assert!(matches!(panicked, Err(StoreError::Call(CallError::Dropped { .. }))), "{panicked:?}");
    put(&store, "after", "x").await.expect("the next generation takes it");
    assert_eq!(names(&store).await, ["after", "before"]);
    drop(supervisor);
}

#[tokio::test]
async fn a_newer_database_stops_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    Connection::open(directory.path().join(FILE))
        .and_then(|connection| connection.pragma_update(None, "user_version", 999))
        .expect("made");
    let store = Store::new(directory.path());
    let spec = SupervisorSpec::new("test", Strategy::OneForOne, vec![store.child()]);
    let error = Supervisor::spawn(spec).await.expect_err("it does not start");
    let text = crate::error::chain(&error);
    assert!(text.contains("newer version"), "{text}");
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::new(directory.path());
    let supervisor = start(&store).await;
    let gate = Arc::new(std::sync::Barrier::new(2));
    let (entered, mut is_in) = tokio::sync::mpsc::channel(1);
    let held = {
        let (store, gate) = (store.clone(), Arc::clone(&gate));
        tokio::spawn(async move {
            store
                .write(move |_| {
                    let _ = entered.blocking_send(());
                    gate.wait();
                    Ok::<_, StoreError>(())
                })
                .await
        })
    };
    is_in.recv().await.expect("the writer holds the first");
    let mut writes: Vec<_> = (0..QUEUE).map(|_| Box::pin(store.write(|_| Ok::<_, StoreError>(())))).collect();
    for write in &mut writes {
        assert!(futures_util::poll!(write).is_pending());
    }
    let refused = store.write(|_| Ok::<_, StoreError>(())).await;
    assert!(matches!(refused, Err(StoreError::Call(CallError::Overloaded { .. }))), "{refused:?}");
    gate.wait();
    held.await.expect("joined").expect("kept");
    for write in writes {
        write.await.expect("kept");
    }
    drop(supervisor);
}

#[tokio::test]
async fn the_audit_keeps_what_it_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::new(directory.path());
    let supervisor = start(&store).await;
    let record = AuditRecord {
        caller: "admin".into(),
        peer: "127.0.0.1".into(),
        action: "DELETE /shell".into(),
        subject: "s".into(),
        outcome: "200".into(),
        request: "r".into(),
    };
    store.audit(record, audit::Settings::default()).await.expect("kept");
    let caller: String = store
        .read(|connection| Ok::<_, StoreError>(connection.query_row("SELECT caller FROM audit", [], |row| row.get(0))?))
        .await
        .expect("read");
    assert_eq!(caller, "admin");
    drop(supervisor);
}

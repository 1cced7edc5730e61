//! The thread that is the database's only writer.
//!
//! It takes what waits in its queue, runs each piece of work in a savepoint of one transaction, commits once, and answers
//! only then: an answer means that the change is on the disk, and many small writes share one sync. A piece that fails
//! is rolled back alone. One that panics is rolled back too, its neighbours are kept, and then the thread ends: the actor
//! above fails with it and is started again on a fresh connection.

use std::panic::AssertUnwindSafe;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::mpsc;

use super::StoreError;
use super::error::is_full;

/// How many pieces of work share one transaction at most.
const BATCH: usize = 64;

/// Answers the caller, once it is known whether the transaction was committed.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What a piece of work came to: whether its changes are kept, and how to answer.
pub(super) struct Outcome {
    pub(super) keep: bool,
    pub(super) answer: Answer,
}

/// One piece of work; it is told when there is no transaction for it.
pub(super) type Job = Box<dyn FnOnce(Result<&Transaction<'_>, StoreError>) -> Outcome + Send>;

/// Runs until the queue is closed, or a piece of work panics; returns the panic's message then. What waited in the queue
/// is done in any case; what comes later goes to the next generation.
pub(super) fn run(mut connection: Connection, mut queue: mpsc::Receiver<Job>) -> Option<String> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut panicked = None;
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        if let Some(panic) = commit(&mut connection, batch.drain(..)) {
            queue.close();
            panicked = Some(panic);
        }
    }
    panicked
}

/// Runs the jobs in one transaction and answers each; the message of a panic if there was one.
fn commit(connection: &mut Connection, jobs: impl Iterator<Item = Job>) -> Option<String> {
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            tracing::error!(error = %error, "the database begins no transaction");
            for job in jobs {
                refuse(job, &error);
            }
            return None;
        }
    };
    let mut answers: Vec<Answer> = Vec::new();
    let mut panicked = None;
    for job in jobs {
        // SQLite itself rolls all back on some failures (no space): nothing may run outside a transaction then.
        if transaction.is_autocommit() {
            refuse(job, &rusqlite::Error::InvalidQuery);
            continue;
        }
        match run_one(&transaction, job) {
            Ok(answer) => answers.push(answer),
            Err(panic) => panicked = Some(panic),
        }
    }
    let failure = transaction.commit().err();
    for answer in answers {
        answer(failure.as_ref().map_or(Ok(()), |error| Err(not_kept(error))));
    }
    panicked
}

fn not_kept(error: &rusqlite::Error) -> StoreError {
    StoreError::Commit { reason: error.to_string(), full: is_full(error) }
}

/// Answers a job that cannot run.
fn refuse(job: Job, error: &rusqlite::Error) {
    let outcome = job(Err(not_kept(error)));
    (outcome.answer)(Ok(()));
}

/// Runs one job in its savepoint; the message of its panic if it panicked.
///
/// Where a savepoint itself fails the whole transaction has, and its commit will say so to everybody.
fn run_one(transaction: &Transaction<'_>, job: Job) -> Result<Answer, String> {
    let say = |sql: &str| drop(transaction.execute_batch(sql));
    say("SAVEPOINT job");
    let run = std::panic::catch_unwind(AssertUnwindSafe(|| {
        crate::fault::point("store");
        job(Ok(transaction))
    }));
    match run {
        Ok(outcome) => {
            if !outcome.keep {
                say("ROLLBACK TO job");
            }
            say("RELEASE job");
            Ok(outcome.answer)
        }
        Err(panic) => {
            say("ROLLBACK TO job; RELEASE job");
            Err(crate::call::panic_message(&*panic))
        }
    }
}

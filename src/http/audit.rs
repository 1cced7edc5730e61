//! The audit: one record of every call that changes something, with who, what, and what became of it.
//!
//! The record is on the disk before the answer goes out. A call whose record cannot be kept is answered all the same, and
//! the log says so: an engine whose disk is full must still let shells be killed and files be deleted.

use std::sync::{Arc, OnceLock};

use actors::ids::KeyId;
use actors::store::{AuditRecord, Store};
use http::Method;

use super::auth::SignedIn;
use super::request::{Peer, Request};
use super::route::{Answer, Route};

/// The longest subject that is kept.
const MAX_SUBJECT: usize = 256;

/// What a call is about, noted as it becomes known: from the path, the query, or the body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject(Arc<OnceLock<String>>);

impl Subject {
    /// Notes it; what was noted first stays.
    pub(crate) fn note(&self, subject: &str) {
        let _ = self.0.set(subject.chars().take(MAX_SUBJECT).collect());
    }

    /// Notes what a body says that it is about.
    pub(crate) fn note_fields(&self, fields: &serde_json::Map<String, serde_json::Value>) {
        match (fields.get("identity"), fields.get("identities")) {
            (Some(serde_json::Value::String(identity)), _) => self.note(identity),
            (_, Some(serde_json::Value::Array(identities))) => {
                let names: Vec<_> = identities.iter().filter_map(serde_json::Value::as_str).take(16).collect();
                self.note(&names.join(","));
            }
            _ => {}
        }
    }
}

/// A record that waits for the outcome. Dropped without one, it says that the client left: what it asked for may still
/// have happened.
pub(crate) struct Pending {
    store: Store,
    subject: Subject,
    record: Option<AuditRecord>,
}

impl Pending {
    /// Begins a record, if the route changes something.
    pub(crate) fn begin(route: &Route, method: &Method, request: &Request) -> Option<Self> {
        if !route.changes {
            return None;
        }
        let subject = request.subject.clone();
        if let Some((_, value)) = request.params.first() {
            subject.note(value);
        } else if let Some((_, value)) = request.query.iter().find(|(name, _)| name == "identity") {
            subject.note(value);
        }
        let (caller, peer) = match request.peer {
            Peer::Owner { pid } => (request.caller.name(), format!("pid {pid}")),
            Peer::Tcp(address) => (request.caller.key.as_ref().map_or("-", KeyId::as_str), address.to_string()),
        };
        let record = AuditRecord {
            caller: caller.to_owned(),
            peer,
            action: format!("{method} {}", route.path),
            subject: String::new(),
            outcome: "the client left".into(),
            request: request.id.to_string(),
        };
        Some(Self { store: request.engine.store.clone(), subject, record: Some(record) })
    }

    /// Keeps the record.
    pub(crate) async fn end(mut self, answer: &Answer) {
        let Some(mut record) = self.record.take() else { return };
        let status = match answer {
            Ok(response) => {
                if let Some(SignedIn(key)) = response.extensions().get() {
                    record.caller = key.to_string();
                }
                response.status()
            }
            Err(problem) => problem.status,
        };
        record.outcome = status.as_str().to_owned();
        keep(&self.store, record, &self.subject).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let (store, subject) = (self.store.clone(), self.subject.clone());
            tokio::spawn(async move { keep(&store, record, &subject).await });
        }
    }
}

async fn keep(store: &Store, mut record: AuditRecord, subject: &Subject) {
    record.subject = subject.0.get().cloned().unwrap_or_default();
    if let Err(error) = store.audit(record).await {
        tracing::error!(error = actors::error::chain(&error), "the audit could not be kept");
    }
}

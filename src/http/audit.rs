//! The audit's records: one of every call that changes something, of every sign-in, of every terminal that is attached,
//! and of every refusal; with who, what, and what became of it.
//!
//! The record of what was done is on the disk before the answer goes out. A call whose record cannot be kept is answered
//! all the same, and the log says so: an engine whose disk is full must still let shells be killed and files be deleted.
//! Refusals cost whoever sends them nothing, so their records are limited by address and not waited for, and counted past
//! the limit: nobody pushes the others' records out by being refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actors::ids::KeyId;
use actors::store::AuditRecord;
use http::{Method, StatusCode};

use super::App;
use super::rate::Limiter;
use super::request::{Peer, Request};
use super::route::{Access, Answer, Route};
use super::subject::{SignedIn, Subject};

/// Which refusals are recorded, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    limiter: Limiter,
    left_out: AtomicU64,
}

impl Refusals {
    /// Whether one from this address is recorded; with how many were not since the last one that was.
    fn admit(&self, app: &App, address: Option<IpAddr>) -> Option<u64> {
        let settings = app.config.get().audit;
        let address = address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        match self.limiter.take(address, settings.refusal_rate, settings.refusal_burst, Instant::now()) {
            Ok(()) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Records that a request was refused before its handler ran: it is not signed in, lacks the right, or comes from a page
/// that may not.
pub(crate) fn refused(
    app: &Arc<App>,
    action: String,
    peer: Peer,
    caller: Option<&KeyId>,
    status: StatusCode,
    id: &str,
) {
    let address = address_of(peer);
    let Some(left_out) = app.refusals.admit(app, address) else { return };
    let record = AuditRecord {
        caller: caller.map_or("-", KeyId::as_str).to_owned(),
        peer: address.map_or_else(|| "unix".into(), |address| address.to_string()),
        action,
        subject: String::new(),
        outcome: outcome(status, left_out),
        request: id.to_owned(),
    };
    let app = Arc::clone(app);
    tokio::spawn(async move { keep(&app, record).await });
}

fn outcome(status: StatusCode, left_out: u64) -> String {
    match left_out {
        0 => status.as_str().to_owned(),
        more => format!("{} ({more} refusals before it were not recorded)", status.as_str()),
    }
}

const fn address_of(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(address) => Some(address),
        Peer::Owner { .. } => None,
    }
}

/// A record that waits for the outcome. Dropped without one, it says that the client left: what it asked for may still
/// have happened.
pub(crate) struct Pending {
    app: Arc<App>,
    subject: Subject,
    record: Option<AuditRecord>,
    public: bool,
    peer: Peer,
}

impl Pending {
    /// Begins a record, if the route changes something or the request attaches a terminal.
    pub(crate) fn begin(route: &Route, method: &Method, request: &Request) -> Option<Self> {
        let attaches = !route.changes && super::websocket::is_wanted(request);
        if !route.changes && !attaches {
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
            action: format!("{method} {}{}", route.path, if attaches { " (WebSocket)" } else { "" }),
            subject: String::new(),
            outcome: "the client left".into(),
            request: request.id.to_string(),
        };
        let public = route.access == Access::Public;
        Some(Self { app: Arc::clone(&request.app), subject, record: Some(record), public, peer: request.peer })
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
        if self.public && status.is_client_error() {
            let Some(left_out) = self.app.refusals.admit(&self.app, address_of(self.peer)) else { return };
            record.outcome = outcome(status, left_out);
        }
        record.subject = self.subject.text();
        keep(&self.app, record).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.subject = self.subject.text();
            let app = Arc::clone(&self.app);
            tokio::spawn(async move { keep(&app, record).await });
        }
    }
}

async fn keep(app: &App, record: AuditRecord) {
    if let Err(error) = app.engine.store.audit(record, app.config.get().audit).await {
        tracing::error!(error = actors::error::chain(&error), "the audit could not be kept");
    }
}

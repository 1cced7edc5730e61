//! The audit as it is read: page by page, and verified.

use actors::store::{AuditEntry, AuditFilter, ChainHead};
use actors::time::iso_millis;
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};

/// How many records are answered where the client does not say.
const LIMIT: i64 = 100;
/// How many are read at once.
const PAGE: u64 = 512;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/engine/audit", Access::MASTER, list)
            .says("Who signed in, was refused, attached a terminal or changed something; the newest first.")
            .query::<AuditQuery>()
            .answers::<Vec<Entry>>(200),
        Route::get("/engine/audit/verify", Access::MASTER, verify)
            .says("Follows the chain of the audit's hashes, and names the first record that is not as it was written.")
            .query::<VerifyQuery>()
            .answers::<Verdict>(200),
    ]
}

/// Which records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct AuditQuery {
    /// How many of the newest are left out.
    offset: u64,
    /// How many at most; -1 for all.
    limit: i64,
    /// Only those of this key.
    caller: Option<String>,
    /// Only that of this request id.
    request: Option<String>,
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self { offset: 0, limit: LIMIT, caller: None, request: None }
    }
}

/// One record.
#[derive(Debug, JsonSchema, Serialize)]
struct Entry {
    /// Its number; one after the other, without gaps.
    id: i64,
    /// When, ISO 8601.
    time: String,
    /// The key's identity; `unix` for the owner's socket; `-` for nobody.
    caller: String,
    /// The address, or the process on the owner's socket.
    peer: String,
    /// Method and route.
    action: String,
    /// What it was asked of, as far as that is known.
    subject: String,
    /// The answer's status, or why there is none.
    outcome: String,
    /// The request id.
    request: String,
    /// What chains it to the record before it: SHA-256 in hex.
    hash: Option<String>,
}

impl Entry {
    fn new(entry: AuditEntry) -> Self {
        let record = entry.record;
        Self {
            id: entry.id,
            time: iso_millis(entry.at),
            caller: record.caller,
            peer: record.peer,
            action: record.action,
            subject: record.subject,
            outcome: record.outcome,
            request: record.request,
            hash: entry.hash,
        }
    }
}

async fn list(request: Request) -> Answer {
    let AuditQuery { offset, limit, caller, request: id } = request.query()?;
    let limit = match limit {
        -1 => u64::MAX,
        0.. => limit.unsigned_abs(),
        _ => return Err(Problem::bad_request("query parameter `limit`: must be -1 or more")),
    };
    let filter = AuditFilter { caller, request: id };
    let store = request.engine.store.clone();
    let (total, newest) = store.audit_count(filter.clone()).await?;
    // Pages go on from a record's number: what comes meanwhile moves nothing.
    let pages = stream::unfold(Some((newest, offset, limit)), move |state| {
        let (store, filter) = (store.clone(), filter.clone());
        async move {
            let (before, offset, left) = state.filter(|(_, _, left)| *left > 0)?;
            match store.audit_page(filter, before, offset, left.min(PAGE)).await {
                Ok(page) => {
                    let next = page.last().map(|last| (last.id, 0, left - page.len() as u64));
                    Some((stream::iter(page.into_iter().map(|entry| Ok(Entry::new(entry))).collect::<Vec<_>>()), next))
                }
                Err(error) => Some((stream::iter(vec![Err(Problem::from(error))]), None)),
            }
        }
    });
    request.list(Some(total), pages.flatten()).await
}

/// What else must be there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct VerifyQuery {
    /// A head that an earlier verification gave (`<id>:<hash>`): it must still be in the chain.
    head: Option<String>,
}

/// How the chain is.
#[derive(Debug, JsonSchema, Serialize)]
struct Verdict {
    /// Whether every record is as it was written.
    intact: bool,
    /// How many were found good.
    records: u64,
    /// The last good one, `<id>:<hash>`: noted elsewhere, it proves later that nothing up to it was written anew.
    head: String,
    /// The first record that is not as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<Broken>,
}

/// The first record that is not as it was written.
#[derive(Debug, JsonSchema, Serialize)]
struct Broken {
    /// Its number.
    id: i64,
    /// What is wrong.
    reason: String,
}

async fn verify(request: Request) -> Answer {
    let VerifyQuery { head } = request.query()?;
    let head = head.map(|text| parse_head(&text)).transpose()?;
    let verdict = request.engine.store.audit_verify(head).await?;
    request.ok(&Verdict {
        intact: verdict.broken.is_none(),
        records: verdict.records,
        head: format!("{}:{}", verdict.head.id, verdict.head.hash),
        broken: verdict.broken.map(|(id, reason)| Broken { id, reason }),
    })
}

fn parse_head(text: &str) -> Result<ChainHead, Problem> {
    let parsed = text.split_once(':').and_then(|(id, hash)| {
        let id = id.parse().ok().filter(|id| *id >= 0)?;
        let good = hash.is_empty() || hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| ChainHead { id, hash: hash.to_ascii_lowercase() })
    });
    parsed.ok_or_else(|| Problem::bad_request("query parameter `head`: must be `<id>:<64 hexadecimal digits>`"))
}

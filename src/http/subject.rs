//! What a call is about and who it turned out to be, for the audit: below the request, which carries it.

use std::sync::{Arc, OnceLock};

use actors::ids::KeyId;

/// Who signed in with this answer; the audit cannot know it from the request.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn(pub(crate) KeyId);

/// The longest subject that is kept.
const MAX_SUBJECT: usize = 256;

/// What a call is about, noted as it becomes known: from the path, the query, or the body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject(Arc<OnceLock<String>>);

impl Subject {
    /// What was noted; nothing where nothing is known.
    pub(crate) fn text(&self) -> String {
        self.0.get().cloned().unwrap_or_default()
    }

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

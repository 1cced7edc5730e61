//! The configuration: file, then environment, then flags; checked once, into typed values.

use actors::units::Size;
use serde::{Deserialize, Serialize};

/// Everything that can be configured. `config.toml` in the repository documents every key; a test holds it to this.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The HTTP server.
    pub server: Server,
    /// Keys and sign-in.
    pub auth: actors::key_registry::Settings,
    /// The keeper.
    pub keeper: actors::keeper::Settings,
    /// Shells.
    pub shell: actors::shell::Settings,
    /// Files.
    pub object: actors::fs::Settings,
    /// Compose workflows.
    pub workflow: actors::compose::Settings,
    /// Samples of the host.
    pub stat: actors::stats::Settings,
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The longest JSON body that is read.
    pub max_json_body: Size,
}

impl Default for Server {
    fn default() -> Self {
        Self { max_json_body: Size(1 << 20) }
    }
}

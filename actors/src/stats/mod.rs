//! Samples of the host.

use serde::{Deserialize, Serialize};

/// Its part of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

/// The samples as the rest of the engine sees them.
#[derive(Clone, Debug)]
pub struct Stats {}

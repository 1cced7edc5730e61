//! Keys, challenges and tokens.

use serde::{Deserialize, Serialize};

/// Its part of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

/// The key registry as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Keys {}

//! Compose workflows: projects of containers, run as Docker Compose runs them.
//!
//! ```text
//!  Workflows (handle) ── records in the database: file, variables, profiles
//!  workflow-supervisor
//!  ├── docker-hub         client and event stream, healed by itself
//!  └── ComposeSupervisor  one per workflow: one operation at a time
//!      └── Watcher        the workflow's own events
//! ```
//!
//! file → `Project` → what Docker has (`observe`) → `plan`, a pure function → `up` carries it out. Docker's
//! labels, which are those of Docker Compose, are the only truth about containers: nothing of them is remembered but that
//! somebody stopped one, which an exit code alone does not tell. Projects that `docker compose` made are listed and handled
//! by their labels.
//!
//! Failure: an operation is a task that its ComposeSupervisor owns; when that fails, or the engine goes down, the task is
//! broken off and the next start does what is left.

mod body;
mod error;
mod exec;
pub(crate) mod file;
mod handle;
mod hub;
mod logs;
mod observe;
mod ops;
mod plan;
mod record;
mod supervisor;
mod up;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::WorkflowError;
pub use exec::{Executed, Execution, Written};
pub use file::{Fault, Warning};
pub use handle::{Workflow, WorkflowDescription, Workflows};
pub use logs::{LogLine, LogQuery};
pub use observe::{Container, WorkflowState};
pub use plan::Step;
pub use record::Revision;
pub use supervisor::{CreateSpec, Operation, Request, UpdateSpec, WorkflowEvent};

use crate::ids::WorkflowId;
use crate::units::{Size, Span};

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where Docker is.
    pub docker: String,
    /// How many calls that change something Docker gets at once.
    pub concurrency: usize,
    /// How long a service is waited for that others depend on.
    pub patience: Span,
    /// How many revisions of each workflow are kept.
    pub revisions: u32,
    /// The most output of a command that is answered.
    pub execute_output: Size,
    /// Directories beneath which binds may be, beside the volume and the workflow's own directory.
    pub allow_binds: Vec<PathBuf>,
    /// Whether `privileged` and options that take protection away are allowed.
    pub allow_privileged: bool,
    /// Whether devices of the host are allowed.
    pub allow_devices: bool,
    /// Whether capabilities may be added.
    pub allow_cap_add: bool,
    /// Whether namespaces of the host, or of containers of others, are allowed.
    pub allow_host_namespaces: bool,
    /// Whether Docker may fetch contexts of builds from elsewhere.
    pub allow_remote: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            docker: "unix:///var/run/docker.sock".into(),
            concurrency: 8,
            patience: Span::seconds(600),
            revisions: 100,
            execute_output: Size(1 << 20),
            allow_binds: Vec::new(),
            allow_privileged: false,
            allow_devices: false,
            allow_cap_add: false,
            allow_host_namespaces: false,
            allow_remote: false,
        }
    }
}

/// How far a part of an operation has come.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Progress {
    /// The container, network, volume or image.
    pub name: String,
    /// Its service, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// What became of it.
    pub state: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a workflow, and how it is now.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Outcome {
    /// Which.
    pub identity: WorkflowId,
    /// A state, or `removed`.
    pub state: String,
    /// Its containers.
    pub containers: Vec<Container>,
    /// The revision that applies now, where one was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// What was changed for it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<Step>>,
    /// What became of each service, or of what else failed.
    pub services: Vec<ServiceOutcome>,
    /// What in its file is not honoured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// What became of a service.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ServiceOutcome {
    /// Which.
    pub service: String,
    /// Its state.
    pub state: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

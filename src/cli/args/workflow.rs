//! `dxflow workflow …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::variable;

#[derive(Debug, Subcommand)]
pub(crate) enum Workflow {
    /// List the workflows.
    #[command(visible_alias = "ls")]
    List {
        /// Stopped and ended ones too.
        #[arg(long, short = 'a')]
        all: bool,
    },
    /// Make a workflow of a compose file.
    Create(WorkflowCreate),
    /// Describe a workflow: its file, revisions, and what would change.
    Show { identity: String },
    /// Apply another file to it; only what the file changes is made anew.
    Update(WorkflowUpdate),
    /// Apply the file of an earlier revision.
    Rollback {
        identity: String,
        /// Its number [default: the one before that which applies].
        revision: Option<u32>,
    },
    /// Start it.
    Start(WorkflowAction),
    /// Stop it.
    Stop(WorkflowAction),
    /// Restart it.
    Restart(WorkflowAction),
    /// Hold it.
    Pause(WorkflowAction),
    /// Let it go on.
    Unpause(WorkflowAction),
    /// Send it a signal.
    Kill(WorkflowAction),
    /// Run a command in a container; its exit code becomes that of this command.
    Execute(WorkflowExecute),
    /// What its containers write.
    Logs(WorkflowLogs),
    /// What happens to it, until you leave.
    Events { identity: String },
    /// Its containers.
    #[command(visible_alias = "ps")]
    Containers { identity: String },
    /// Remove workflows: containers and networks.
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(required = true)]
        identities: Vec<String>,
        /// Volumes too.
        #[arg(long)]
        volumes: bool,
        /// Refuse where it runs.
        #[arg(long)]
        no_stop: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct WorkflowCreate {
    /// The compose file, here; `-` is the standard input.
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "source")]
    pub(crate) file: Option<PathBuf>,
    /// The compose file, or its directory, among the engine's objects.
    #[arg(long, value_name = "OBJECT", conflicts_with = "file")]
    pub(crate) source: Option<String>,
    /// Its name [default: the name of the file's directory].
    #[arg(long, short = 'i', value_name = "ID")]
    pub(crate) identity: Option<String>,
    /// A variable for the file.
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// A compose profile to switch on.
    #[arg(long = "with-profile", value_name = "PROFILE")]
    pub(crate) profiles: Vec<String>,
    /// Start it too.
    #[arg(long, short = 's')]
    pub(crate) start: bool,
    /// When to pull images: always, missing or never.
    #[arg(long)]
    pub(crate) pull: Option<String>,
    /// Build images first.
    #[arg(long)]
    pub(crate) build: bool,
    /// Remove containers of services that are no longer in the file.
    #[arg(long)]
    pub(crate) remove_orphans: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WorkflowUpdate {
    pub(crate) identity: String,
    /// The compose file, here; `-` is the standard input.
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "source")]
    pub(crate) file: Option<PathBuf>,
    /// The compose file, or its directory, among the engine's objects.
    #[arg(long, value_name = "OBJECT", conflicts_with = "file")]
    pub(crate) source: Option<String>,
    /// A variable for the file; with any, those it has are forgotten.
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Start it too, although nothing of it runs.
    #[arg(long, short = 's')]
    pub(crate) start: bool,
    /// When to pull images: always, missing or never.
    #[arg(long)]
    pub(crate) pull: Option<String>,
    /// Remove containers of services that no file of it had.
    #[arg(long)]
    pub(crate) remove_orphans: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WorkflowAction {
    pub(crate) identity: String,
    /// Only these services.
    pub(crate) services: Vec<String>,
    /// Seconds that a container gets to stop by itself.
    #[arg(long, short = 't', value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// The signal.
    #[arg(long)]
    pub(crate) signal: Option<String>,
    /// Return at once; `workflow events` tells the rest.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WorkflowExecute {
    pub(crate) identity: String,
    /// In which service; needed where there are several.
    #[arg(long, short = 's')]
    pub(crate) service: Option<String>,
    /// In which of its containers, from 1.
    #[arg(long)]
    pub(crate) index: Option<u32>,
    #[arg(long, short = 'u')]
    pub(crate) user: Option<String>,
    #[arg(long)]
    pub(crate) workdir: Option<String>,
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Do not wait for its end.
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// One word is run by `sh -c`, several as they are.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct WorkflowLogs {
    pub(crate) identity: String,
    /// Only of these services.
    #[arg(long, short = 's')]
    pub(crate) service: Vec<String>,
    /// Go on as more is written.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only the last lines.
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(crate) tail: Option<String>,
    /// Only what is newer.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only what is older.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// With the time of each line.
    #[arg(long)]
    pub(crate) timestamps: bool,
}

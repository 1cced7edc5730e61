//! The actors of dxflow, and nothing of HTTP or the command line.
//!
//! ```text
//! Engine (root supervisor, rest_for_one)
//! ├── Store              the embedded database's single writer
//! ├── KeyRegistry        keys, challenges, tokens, revocation
//! ├── Keeper             the connection to the keeper process
//! ├── ShellSupervisor    one Shell per session
//! ├── FsPool             FsWorkers: zip, unzip, list, delete
//! ├── WorkflowSupervisor one ComposeSupervisor per workflow
//! └── Stats              samples of cpu, memory, disks, network
//! ```
//!
//! Every actor is reached by a handle ([`call::Handle`]) that outlives its restarts; its messages and its state are its
//! own. Bad input is an `Err` in the reply; an `Err` or a panic out of a handler means "restart me".

pub mod call;
pub mod compose;
pub mod engine;
pub mod error;
pub mod fault;
pub mod fs;
pub mod ids;
pub mod keeper;
pub mod key_registry;
pub mod live;
pub mod output_log;
pub mod permission;
pub mod shell;
pub mod stats;
pub mod store;
pub mod supervision;
pub mod time;
pub mod units;

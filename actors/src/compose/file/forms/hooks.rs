//! `post_start` and `pre_stop`: what is run in a container after its start and before its stop.

use super::super::decode::section;
use super::{Pairs, Words};

section! {
    /// A command that is run in a container at a point of its life.
    Hook { command: Words, user: Option<String>, privileged: bool, working_dir: Option<String>, environment: Pairs }
}

//! The reader of compose files, where it thinks that it is.

#[path = "../../../actors/src/compose/file/mod.rs"]
pub(crate) mod file;

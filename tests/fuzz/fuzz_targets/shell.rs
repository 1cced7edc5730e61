//! The modules of `actors/src/shell` that make screens.

#![allow(dead_code, reason = "the engine uses all of it, this does not")]

#[path = "../../../actors/src/shell/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../../../actors/src/shell/modes.rs"]
mod modes;
#[path = "../../../actors/src/shell/screen.rs"]
mod screen;
#[path = "../../../actors/src/shell/skip.rs"]
mod skip;
#[path = "../../../actors/src/shell/timeline.rs"]
mod timeline;

//! Output through the log, the screen and a snapshot into a fresh terminal, which must equal one that was there all along.
//!
//! Only the modules in question are built, with what they need: the whole of `dxflow-actors` under a sanitizer takes long.

#![no_main]

#[path = "../../../actors/src/output_log.rs"]
#[allow(dead_code, reason = "the engine uses all of it, this does not")]
mod output_log;
mod shell;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shell::fuzzing::terminal(data));

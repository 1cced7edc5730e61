//! Black-box tests: the real program, over the network, as a user has it.
#![allow(unreachable_pub, reason = "`support` is written as a library is, and no test uses all of it")]

mod audit;
mod auth;
mod boot;
mod cli;
mod cli_objects;
mod cli_terminal;
mod examples;
mod execute;
mod faults;
mod http;
mod idempotency;
mod keys;
mod leaks;
mod limits;
mod objects_api;
mod objects_archives;
mod objects_formats;
mod objects_hostile;
mod objects_scale;
mod objects_uploads;
mod readme;
mod rights;
mod screens;
mod sessions;
mod shell;
mod sign_in;
mod support;
mod survival;
mod terminal;
mod viewers;
mod workflow;

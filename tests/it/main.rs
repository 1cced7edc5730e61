//! Black-box tests: the real program, over the network, as a user has it.

mod auth;
mod boot;
mod cli;
mod cli_terminal;
mod examples;
mod http;
mod keys;
mod support;

//! Black-box tests: the real program, over the network, as a user has it.

mod boot;
mod examples;
mod execute;
mod http;
mod shell;
mod support;
mod survival;
mod terminal;

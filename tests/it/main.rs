//! Black-box tests: the real program, over the network, as a user has it.

mod auth;
mod boot;
mod examples;
mod http;
mod keys;
mod support;

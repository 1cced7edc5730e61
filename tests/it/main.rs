//! Black-box tests: the real program, over the network, as a user has it.

mod boot;
mod examples;
mod http;
mod support;

//! Black-box tests: the real program, over the network, as a user has it.

mod support;

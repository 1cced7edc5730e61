//! dxflow turns a machine into a remotely controlled compute node.

pub mod config;
pub mod http;

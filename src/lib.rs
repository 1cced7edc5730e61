//! dxflow turns a machine into a remotely controlled compute node.

pub mod boot;
pub mod cli;
pub mod config;
pub mod http;
pub mod sd_notify;

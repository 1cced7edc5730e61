//! The `dxflow` program.

fn main() {}

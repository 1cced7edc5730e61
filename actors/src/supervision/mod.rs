//! Supervision as OTP has it, over ractor. Generic: knows no actor of this product.
//!
//! A [`Supervisor`] starts its children in order and stops them in reverse. When one fails, its [`Strategy`] says who is
//! started again with it, and its [`Intensity`] how often that may happen; past that it gives up and fails itself, so
//! that the next supervisor above decides. Where children are objects of their own (shells, workflows), each has an
//! intensity to itself: one that exceeds it becomes `failed`, and its siblings notice nothing.
//!
//! What ractor does by itself is not this: its default is to stop the parent when a child ends, however it ended.

mod child_spec;
mod intensity;
mod strategy;
mod supervisor;
#[cfg(test)]
mod tests;

pub use child_spec::{ChildKind, ChildSpec, Gauge, Restart, Start};
pub use intensity::Intensity;
pub use strategy::Strategy;
pub use supervisor::{ChildInfo, ChildState, GaveUp, SupervisionError, Supervisor, SupervisorHandle, SupervisorSpec};

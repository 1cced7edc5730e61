//! Supervision as OTP has it, over ractor. Generic: knows no actor of this product.

mod child_spec;

pub use child_spec::{ChildKind, ChildSpec, Restart, Start};

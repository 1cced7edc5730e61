//! The route table: every route of the engine, joined from the resources.

use super::route::Route;
use super::{auth, engine, objects, shells, workflows};

/// Every route, in the order in which the OpenAPI document lists them.
pub(crate) fn all() -> Vec<Route> {
    [auth::routes(), engine::routes(), objects::routes(), shells::routes(), workflows::routes()].concat()
}

//! The route table: every route of the engine, joined from the resources.

use super::route::Route;
use super::{audit_log, auth, engine, metrics, objects, openapi, shells, workflows};

/// Every route, in the order in which the OpenAPI document lists them.
pub(crate) fn all() -> Vec<Route> {
    [
        auth::routes(),
        engine::routes(),
        audit_log::routes(),
        shells::routes(),
        objects::routes(),
        workflows::routes(),
        metrics::routes(),
        openapi::routes(),
    ]
    .concat()
}

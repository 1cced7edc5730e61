//! Routes.

use super::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    Vec::new()
}

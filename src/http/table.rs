//! The route table made ready for dispatch: which route a method and a path mean.

use std::collections::HashMap;

use http::Method;

use super::problem::Problem;
use super::route::Route;

/// All routes, indexed by path.
pub(crate) struct Table {
    /// Paths without a varying segment.
    fixed: HashMap<&'static str, Vec<Route>>,
    /// Paths with one, as segments.
    varying: Vec<(Vec<&'static str>, Vec<Route>)>,
}

/// What a path means.
pub(crate) struct Found<'a> {
    routes: &'a [Route],
    /// The segments that vary, decoded.
    pub(crate) params: Vec<(&'static str, String)>,
}

impl Table {
    /// Indexes `routes`.
    pub(crate) fn new(routes: Vec<Route>) -> Self {
        let mut table = Self { fixed: HashMap::new(), varying: Vec::new() };
        for route in routes {
            if !route.path.contains('{') {
                table.fixed.entry(route.path).or_default().push(route);
                continue;
            }
            let segments: Vec<&'static str> = route.path.split('/').skip(1).collect();
            match table.varying.iter_mut().find(|(known, _)| *known == segments) {
                Some((_, routes)) => routes.push(route),
                None => table.varying.push((segments, vec![route])),
            }
        }
        table
    }

    /// Finds the routes of `path`, which begins after the base and may end in one slash.
    ///
    /// # Errors
    /// 404 when there is none; 400 when a segment cannot be decoded.
    pub(crate) fn find(&self, path: &str) -> Result<Found<'_>, Problem> {
        let path = path.strip_suffix('/').unwrap_or(path);
        if let Some(routes) = self.fixed.get(path) {
            return Ok(Found { routes, params: Vec::new() });
        }
        let unknown = || Problem::not_found("there is no such route; `/api/docs` lists them all");
        let segments: Vec<&str> = path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
        for (pattern, routes) in &self.varying {
            if pattern.len() != segments.len() {
                continue;
            }
            let matches = pattern
                .iter()
                .zip(&segments)
                .all(|(part, segment)| if part.starts_with('{') { !segment.is_empty() } else { part == segment });
            if !matches {
                continue;
            }
            let mut params = Vec::new();
            for (part, segment) in pattern.iter().zip(&segments) {
                if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                    let decoded = percent_encoding::percent_decode_str(segment)
                        .decode_utf8()
                        .map_err(|_| Problem::bad_request("a segment of the path is not UTF-8"))?;
                    params.push((name, decoded.into_owned()));
                }
            }
            return Ok(Found { routes, params });
        }
        Err(unknown())
    }
}

impl<'a> Found<'a> {
    /// The route for `method`; GET's answers HEAD where HEAD has none of its own.
    ///
    /// # Errors
    /// 405 with `Allow`.
    pub(crate) fn route(&self, method: &Method) -> Result<&'a Route, Problem> {
        let of = |method: &Method| self.routes.iter().find(|route| route.method == *method);
        of(method).or_else(|| (*method == Method::HEAD).then(|| of(&Method::GET)).flatten()).ok_or_else(|| {
            let mut allow: Vec<&str> = self.routes.iter().map(|route| route.method.as_str()).collect();
            if allow.contains(&"GET") && !allow.contains(&"HEAD") {
                allow.push("HEAD");
            }
            let allow = allow.join(", ");
            Problem::new(http::StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("this path takes {allow}"))
                .header(http::header::ALLOW, &allow)
        })
    }
}

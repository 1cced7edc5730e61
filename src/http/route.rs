//! What a route is: one entry of a static table from which dispatch, 405, permissions and the OpenAPI document all come.
//!
//! Each resource module has a `routes()`; `super::routes` joins them. A route cannot be made without saying who may use
//! it, so that one without a rule does not compile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actors::permission::Permission;
use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use warp::reply::Response;

use super::problem::Problem;
use super::request::Request;

/// Who may use a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Anybody; rate-limited by address.
    Public,
    /// Whoever has a valid token, whatever it may do.
    SignedIn,
    /// Whoever has this permission, or MASTER.
    Needs(Permission),
}

impl Access {
    /// MASTER alone.
    pub(crate) const MASTER: Self = Self::Needs(Permission::Master);
    /// SHELL or MASTER.
    pub(crate) const SHELL: Self = Self::Needs(Permission::Shell);
    /// OBJECT or MASTER.
    pub(crate) const OBJECT: Self = Self::Needs(Permission::Object);
    /// WORKFLOW or MASTER.
    pub(crate) const WORKFLOW: Self = Self::Needs(Permission::Workflow);
}

pub(crate) type Answer = Result<Response, Problem>;
type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One entry of the route table.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// The path after the base, without a trailing slash, `{name}` for a segment that varies.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// Whether it creates, changes or deletes; READ_ONLY may not.
    pub(crate) changes: bool,
    pub(crate) handler: Handler,
    pub(crate) docs: Docs,
}

/// What the OpenAPI document says of a route.
#[derive(Clone, Default)]
pub(crate) struct Docs {
    pub(crate) summary: &'static str,
    /// A body of JSON, and its schema.
    pub(crate) body: Option<SchemaOf>,
    /// A body of bytes.
    pub(crate) raw_body: bool,
    /// The query's parameters, as the properties of an object.
    pub(crate) query: Option<SchemaOf>,
    /// Successful answers: status, media type, schema.
    pub(crate) answers: Vec<(StatusCode, &'static str, Option<SchemaOf>)>,
    /// Statuses of refusals that this route may answer with beside the general ones.
    pub(crate) refusals: Vec<StatusCode>,
}

impl Route {
    fn new<H, F>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let changes = !matches!(method, Method::GET | Method::HEAD);
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        Self { method, path, access, changes, handler, docs: Docs::default() }
    }

    /// A route for GET; HEAD is answered by it too, without the body.
    pub(crate) fn get<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::GET, path, access, handler)
    }

    /// A route for HEAD alone, where it means something else than GET without a body.
    pub(crate) fn head<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::HEAD, path, access, handler)
    }

    /// A route for POST.
    pub(crate) fn post<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::POST, path, access, handler)
    }

    /// A route for PUT.
    pub(crate) fn put<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::PUT, path, access, handler)
    }

    /// A route for PATCH.
    pub(crate) fn patch<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::PATCH, path, access, handler)
    }

    /// A route for DELETE.
    pub(crate) fn delete<H, F>(path: &'static str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(Method::DELETE, path, access, handler)
    }

    /// Says in one sentence what the route does.
    #[must_use]
    pub(crate) fn says(mut self, summary: &'static str) -> Self {
        self.docs.summary = summary;
        self
    }

    /// Names the type of the JSON body.
    #[must_use]
    pub(crate) fn takes<T: JsonSchema>(mut self) -> Self {
        self.docs.body = Some(|generator| generator.subschema_for::<T>());
        self
    }

    /// The body is bytes.
    #[must_use]
    pub(crate) fn takes_bytes(mut self) -> Self {
        self.docs.raw_body = true;
        self
    }

    /// Names the type of the query.
    #[must_use]
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.docs.query = Some(|generator| T::json_schema(generator));
        self
    }

    /// Names an answer: a status and the type of its JSON.
    #[must_use]
    pub(crate) fn answers<T: JsonSchema>(mut self, status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of the table is a number from 100 to 999");
        self.docs.answers.push((status, "application/json", Some(|generator| generator.subschema_for::<T>())));
        self
    }

    /// Names an answer that is not JSON.
    #[must_use]
    pub(crate) fn answers_as(mut self, status: u16, media_type: &'static str) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of the table is a number from 100 to 999");
        self.docs.answers.push((status, media_type, None));
        self
    }

    /// Names statuses of refusals beside 400, 401, 403, 404, 405, 421, 429, 500 and 503, which every route may give.
    #[must_use]
    pub(crate) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.docs.refusals.extend(statuses.iter().filter_map(|status| StatusCode::from_u16(*status).ok()));
        self
    }
}

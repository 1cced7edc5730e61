//! The OpenAPI 3.1 document, made of the route table, and a page to read it.
//!
//! What is not in the table cannot be in the document, and the other way round; a test asks the running engine for both.

use http::{HeaderValue, StatusCode, header};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::answer;
use super::dispatch::permission_of;
use super::request::Request;
use super::route::{Access, Answer, Route};

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/openapi.json", Access::Public, document_of)
            .says("The OpenAPI 3.1 document of this engine.")
            .answers_as(200, "application/json"),
        Route::get("/docs", Access::Public, page)
            .says("A page to read the OpenAPI document.")
            .answers_as(200, "text/html"),
    ]
}

async fn document_of(request: Request) -> Answer {
    Ok(answer::bytes(StatusCode::OK, "application/json", request.app.openapi.clone()))
}

async fn page(_: Request) -> Answer {
    let mut response = answer::bytes(StatusCode::OK, "text/html; charset=utf-8", include_str!("docs.html"));
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    );
    Ok(response)
}

/// Statuses with which any route may refuse.
const ANY_REFUSAL: [u16; 7] = [400, 405, 408, 413, 421, 500, 503];

/// The document of these routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dxflow",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Turns a machine into a remotely controlled compute node. Every path also answers under \
                            `/api`, with or without a trailing slash. `Accept: application/stream+json` or \
                            `?stream=true` asks for the stream form of any answer: one JSON array of chunks, one a line.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/api/v1" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "authorization" },
            },
            "responses": {
                "Problem": {
                    "description": "A refusal (RFC 9457).",
                    "headers": {
                        "X-Request-Id": { "schema": { "type": "string" } },
                        "X-Error-Message": { "schema": { "type": "string" } },
                    },
                    "content": {
                        "application/problem+json": { "schema": {
                            "type": "object",
                            "properties": {
                                "type": { "type": "string" },
                                "title": { "type": "string" },
                                "status": { "type": "integer" },
                                "detail": { "type": "string" },
                                "instance": { "type": "string" },
                            },
                            "required": ["type", "title", "status", "detail", "instance"],
                        } },
                        "application/stream+json": { "schema": { "type": "array" } },
                    },
                },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let tag = route.path.split('/').nth(1).unwrap_or("");
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.docs.summary,
        "tags": [tag],
        "x-changes": route.changes,
        "parameters": parameters(route, generator),
        "responses": responses(route, generator),
    });
    match route.access {
        Access::Public => operation["security"] = json!([]),
        Access::SignedIn | Access::Needs(_) => operation["security"] = json!([{ "bearer": [] }, { "cookie": [] }]),
    }
    if let Some(permission) = permission_of(route.access) {
        operation["x-permission"] = permission.name().into();
    }
    if let Some(body) = route.docs.body {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": body(generator) } } });
    } else if route.docs.raw_body {
        operation["requestBody"] = json!({
            "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
        });
    }
    operation
}

/// `PUT /shell/resize` is `put_shell_resize`.
fn operation_id(route: &Route) -> String {
    let path: String = route.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{}{}", route.method.as_str().to_ascii_lowercase(), path.replace("__", "_").trim_end_matches('_'))
}

fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(query) = route.docs.query {
        let schema = query(generator).to_value();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let mut property = property.clone();
            let description = property.as_object_mut().and_then(|property| property.remove("description"));
            let mut parameter = json!({
                "name": name, "in": "query", "required": required.contains(&name.as_str()), "schema": property,
            });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            parameters.push(parameter);
        }
    }
    if takes_idempotency_key(route) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
            "description": "Names this request: sent again, it has one effect and gets the same answer for a day \
                            (`Idempotency-Replayed: true`). Another request with it is a 422; while the first is being \
                            carried out, or where its outcome is not known, a 409.",
        }));
    }
    Value::Array(parameters)
}

fn takes_idempotency_key(route: &Route) -> bool {
    route.changes && route.access != Access::Public
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for (status, media_type, schema) in &route.docs.answers {
        let mut content = Map::new();
        match schema {
            Some(schema) => {
                content.insert((*media_type).into(), json!({ "schema": schema(generator) }));
                content.insert(answer::STREAM_TYPE.into(), json!({ "schema": { "type": "array" } }));
            }
            None => {
                content.insert((*media_type).into(), json!({}));
            }
        }
        let description = status.canonical_reason().unwrap_or("Answer");
        let entry = responses
            .entry(status.as_u16().to_string())
            .or_insert_with(|| json!({ "description": description, "content": {} }));
        if let Some(all) = entry["content"].as_object_mut() {
            all.extend(content);
        }
    }
    let signed_in: &[u16] = if route.access == Access::Public { &[403, 429] } else { &[401, 403] };
    let refusals = route.docs.refusals.iter().map(StatusCode::as_u16);
    let once: &[u16] = if takes_idempotency_key(route) { &[409, 422, 429] } else { &[] };
    for status in refusals.chain(signed_in.iter().copied()).chain(once.iter().copied()).chain(ANY_REFUSAL) {
        responses.entry(status.to_string()).or_insert_with(|| json!({ "$ref": "#/components/responses/Problem" }));
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_route_is_in_the_document_once_and_says_what_it_does() {
        let routes = super::super::routes::all();
        let document = document(&routes);
        let mut ids = HashSet::new();
        for route in &routes {
            let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
            assert!(operation.is_object(), "{} {}", route.method, route.path);
            assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
            assert!(route.docs.summary.ends_with('.'), "{} {} has a sentence", route.method, route.path);
            assert!(!route.docs.answers.is_empty(), "{} {} says what it answers", route.method, route.path);
            assert!(!route.path.ends_with('/'), "{}", route.path);
        }
        let count: usize = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .map(|path| path.as_object().expect("operations").len())
            .sum();
        assert_eq!(count, routes.len());
    }

    #[test]
    fn nothing_that_is_read_changes_anything() {
        for route in super::super::routes::all() {
            let reads = matches!(route.method, http::Method::GET | http::Method::HEAD);
            assert!(route.changes != reads, "{} {}", route.method, route.path);
        }
    }
}

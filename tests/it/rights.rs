//! The table of rights: every route against every kind of caller, made from the engine's own OpenAPI document.
//!
//! What the document says of a route is first held against what the API promises of its resource: a new route with the
//! wrong right fails here, and one that forgot its check as well.

use http::Method;
use serde_json::{Value, json};

use crate::support::credentials::{Forger, HEADER, claims_of};
use crate::support::{Engine, within};

/// One route, as the document has it.
#[derive(Debug)]
struct Route {
    method: Method,
    path: String,
    /// A path that the route answers, with `victim` for what varies.
    concrete: String,
    public: bool,
    permission: Option<String>,
    changes: bool,
    takes_bytes: bool,
}

async fn routes(engine: &Engine) -> Vec<Route> {
    let document = engine.anonymous().get("/api/openapi.json").send().await.expect(200);
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            routes.push(Route {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                // By default its three pings take two seconds.
                concrete: path
                    .replace("{kind}", "cpu")
                    .replace("{identity}", "victim")
                    .replace("/engine/ping", "/engine/ping?count=1"),
                public: operation["security"] == json!([]),
                permission: operation["x-permission"].as_str().map(str::to_owned),
                changes: operation["x-changes"].as_bool().expect("`x-changes`"),
                takes_bytes: operation["requestBody"]["content"]["application/octet-stream"].is_object(),
            });
        }
    }
    assert!(routes.iter().all(|route| !route.concrete.contains('{')), "a varying segment that this test does not know");
    routes
}

const PUBLIC: [&str; 8] = [
    "GET /auth/challenge",
    "POST /auth/verify",
    "GET /engine/healthcheck",
    "GET /object/fs/presigned/download",
    "HEAD /object/fs/presigned/download",
    "PUT /object/fs/presigned/upload",
    "GET /openapi.json",
    "GET /docs",
];

/// What the API promises of a route: `public`, `signed in`, or the permission.
fn promised(method: &Method, path: &str) -> &'static str {
    let path = path.replacen("/artifact/", "/object/", 1);
    let name = format!("{method} {path}");
    if PUBLIC.contains(&name.as_str()) {
        return "public";
    }
    let resource = path.split('/').nth(1).unwrap_or("");
    match resource {
        "auth" if path == "/auth/inspect" => "signed in",
        "auth" => "MASTER",
        "engine" => {
            let master = ["/engine/key", "/engine/restart", "/engine/supervision", "/engine/fault", "/engine/audit"];
            if master.iter().any(|master| path.starts_with(master)) { "MASTER" } else { "signed in" }
        }
        "metrics" => "signed in",
        "object" => "OBJECT",
        "shell" => "SHELL",
        "workflow" => "WORKFLOW",
        _ => panic!("`{name}` is of a resource that the API does not have"),
    }
}

#[tokio::test]
async fn every_route_has_the_right_that_the_api_promises() {
    let engine = Engine::start().await;
    for route in routes(&engine).await {
        let right = if route.public { "public" } else { route.permission.as_deref().unwrap_or("signed in") };
        assert_eq!(right, promised(&route.method, &route.path), "{} {}", route.method, route.path);
        let reads = matches!(route.method, Method::GET | Method::HEAD);
        assert_eq!(route.changes, !reads, "{} {}", route.method, route.path);
    }
}

/// A caller: what its token allows, or none where the token is no good.
struct Caller {
    name: String,
    token: Option<String>,
    permissions: Option<Vec<&'static str>>,
}

impl Caller {
    /// The refusal that this caller must get, or none where the route is open to it.
    fn refused(&self, route: &Route) -> Option<u16> {
        if route.public {
            return None;
        }
        let Some(permissions) = &self.permissions else { return Some(401) };
        let holds = |name: &str| permissions.contains(&name);
        let needed = route.permission.as_deref();
        if needed.is_some_and(|needed| !holds(needed) && !holds("MASTER")) || route.changes && holds("READ_ONLY") {
            return Some(403);
        }
        None
    }
}

const PERMISSIONS: [&str; 7] = ["MASTER", "SHELL", "OBJECT", "WORKFLOW", "PLATFORM", "PROXY", "BRIDGE"];

async fn callers(engine: &Engine) -> Vec<Caller> {
    let mut callers = Vec::new();
    let mut sets: Vec<Vec<&'static str>> = vec![vec![], vec!["READ_ONLY"], PERMISSIONS[1..].to_vec()];
    for permission in PERMISSIONS {
        sets.extend([vec![permission], vec![permission, "READ_ONLY"]]);
    }
    for (n, permissions) in sets.into_iter().enumerate() {
        let token = engine.token_with(&format!("caller{n}"), &permissions).await;
        callers.push(Caller { name: format!("{permissions:?}"), token: Some(token), permissions: Some(permissions) });
    }
    let mut dead = |name: &str, token: Option<String>| {
        callers.push(Caller { name: name.into(), token, permissions: None });
    };
    let master = &engine.token;
    let forger = Forger::of(engine);
    dead("nobody", None);
    dead("an empty token", Some(String::new()));
    dead("garbage", Some("a.b.c".into()));
    dead("a token that ended this moment", Some(forger.redate(master, -60, 0)));
    dead("another algorithm", Some(forger.sign(r#"{"alg":"none","typ":"JWT"}"#, &claims_of(master))));
    let stranger = Forger(crate::support::credentials::Ed25519::generate());
    dead("another signer", Some(stranger.sign(HEADER, &claims_of(master))));
    for (name, change) in [
        ("unregistered", None),
        ("disabled", Some(json!({ "disabled": true }))),
        ("demoted", Some(json!({ "permissions": PERMISSIONS[1..] }))),
        ("made READ_ONLY", Some(json!({ "permissions": ["MASTER", "READ_ONLY"] }))),
    ] {
        let identity = format!("was-{}", name.split(' ').next().unwrap_or(name));
        let token = engine.token_with(&identity, &["MASTER"]).await;
        match change {
            None => engine.delete("/auth/key/", json!({ "identity": identity })).await.expect(200),
            Some(mut change) => {
                change["identity"] = identity.into();
                engine.patch("/auth/key/", change).await.expect(200)
            }
        };
        dead(name, Some(token));
    }
    callers
}

/// What the refused requests would have changed.
async fn state(engine: &Engine) -> (Value, Value, Vec<String>) {
    let names = engine.volume().read_dir().map(|entries| {
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.collect::<Vec<_>>()
    });
    let mut shells = engine.get("/shell/").await.expect(200);
    for shell in shells.as_array_mut().expect("shells") {
        // The prompt may still come.
        shell["bytes_out"] = Value::Null;
    }
    (engine.get("/auth/key/?all").await.expect(200), shells, names.unwrap_or_default())
}

/// Sends what the route would act on, were it allowed; the answer's status as soon as its head is there.
async fn ask(engine: &Engine, route: &Route, method: &Method, token: Option<&str>, body: &Value) -> u16 {
    let client = token.map_or_else(|| engine.anonymous(), |token| engine.client(token));
    let request = client.request(method.clone(), &route.concrete);
    let request = if matches!(*method, Method::GET | Method::HEAD) {
        request
    } else if route.takes_bytes {
        request.body("bytes")
    } else {
        request.json(body)
    };
    let what = format!("{method} {}", route.path);
    within(&what, request.open()).await.unwrap_or_else(|error| panic!("{what}: {error}")).status().as_u16()
}

#[tokio::test]
async fn every_route_is_open_to_whom_it_says_and_to_nobody_else() {
    let engine = Engine::start().await;
    engine.post("/auth/key/", json!({ "identity": "victim" })).await.expect(201);
    engine.post("/shell/", json!({ "identity": "victim", "command": "/bin/sh" })).await.expect(201);
    std::fs::create_dir_all(engine.volume()).expect("made");
    std::fs::write(engine.volume().join("victim"), "alive").expect("written");
    let (routes, callers) = (routes(&engine).await, callers(&engine).await);
    let before = state(&engine).await;
    let harmful = json!({ "identity": "victim", "identities": ["victim"] });
    let mut refused = 0;
    for route in &routes {
        for caller in &callers {
            let Some(status) = caller.refused(route) else { continue };
            let got = ask(&engine, route, &route.method, caller.token.as_deref(), &harmful).await;
            assert_eq!(got, status, "{} {} by {}", route.method, route.path, caller.name);
            if route.method == Method::GET {
                let got = ask(&engine, route, &Method::HEAD, caller.token.as_deref(), &harmful).await;
                assert_eq!(got, status, "HEAD {} by {}", route.path, caller.name);
            }
            refused += 1;
        }
    }
    assert!(refused > 300, "{refused}");
    assert_eq!(state(&engine).await, before, "what was refused changed something");
    // To the others the routes are open: what they refuse then is the body.
    let harmless = json!({ "no_such_field": 1 });
    for route in routes.iter().filter(|route| !route.path.contains("/presigned/")) {
        for caller in &callers {
            if caller.refused(route).is_none() {
                let got = ask(&engine, route, &route.method, caller.token.as_deref(), &harmless).await;
                assert!(![401, 403, 500].contains(&got), "{} {} by {}: {got}", route.method, route.path, caller.name);
            }
        }
    }
}

#[tokio::test]
async fn a_route_is_refused_before_its_body_is_looked_at() {
    let engine = Engine::start().await;
    let reader = engine.token_with("reader", &["SHELL", "READ_ONLY"]).await;
    for body in ["", "{", "[]", "{\"identity\":{}}"] {
        for (client, status) in [(engine.anonymous(), 401), (engine.client(&reader), 403)] {
            let request = client.post("/shell/").header("content-type", "application/json").body(body);
            request.send().await.refusal(status);
            client.delete("/auth/key/?nothing=1").body(body).send().await.refusal(status);
        }
    }
}

//! What holds for every route: bases, forms, refusals, hosts, origins, limits, the OpenAPI document.

use serde_json::{Value, json};

use crate::support::{Engine, within};

#[tokio::test]
async fn every_path_answers_under_both_bases_with_and_without_the_slash() {
    let engine = Engine::start().await;
    for path in [
        "/api/engine/healthcheck",
        "/api/engine/healthcheck/",
        "/api/v1/engine/healthcheck",
        "/api/v1/engine/healthcheck/",
    ] {
        let health = engine.anonymous().get(path).send().await.expect(200);
        assert_eq!(health["version"], env!("CARGO_PKG_VERSION"), "{path}");
    }
    for path in [
        "/api/v2/engine/healthcheck",
        "/api//engine/healthcheck",
        "/api/engine//healthcheck",
        "/api/engine/healthcheck//",
        "/api/nothing",
        "/apiengine/healthcheck",
        "/api/engine/../engine/healthcheck",
        "/api/engine/%2e%2e/healthcheck",
    ] {
        engine.master().get(path).send().await.refusal(404);
    }
}

#[tokio::test]
async fn a_wrong_method_says_which_are_right() {
    let engine = Engine::start().await;
    let answer = engine.master().patch("/shell/").send().await;
    answer.refusal(405);
    let mut allow: Vec<&str> = answer.header("allow").split(", ").collect();
    allow.sort_unstable();
    assert_eq!(allow, ["DELETE", "GET", "HEAD", "POST"]);
    let head = engine.master().head("/engine/healthcheck/").send().await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn the_stream_form_is_asked_for_by_header_or_query() {
    let engine = Engine::start().await;
    let by_header = engine.master().get("/auth/key/").stream().send().await;
    assert_eq!(by_header.header("content-type"), "application/stream+json");
    let chunks = by_header.chunks();
    assert_eq!(chunks[0], json!({ "kind": "status", "payload": { "code": 200, "message": "OK" } }));
    assert_eq!(chunks[1], json!({ "kind": "total", "payload": { "value": 1 } }));
    assert_eq!(chunks[2]["kind"], "entity");
    assert_eq!(chunks[2]["payload"]["identity"], "admin");
    let by_query = engine.get("/auth/key/?stream=true").await;
    assert_eq!(by_query.chunks().len(), 3);
    let neither = engine.master().get("/auth/key/?stream=false").stream().send().await;
    assert_eq!(neither.header("x-total-count"), "1");
    assert_eq!(neither.expect(200)[0]["identity"], "admin");
    let refused = engine.anonymous().get("/auth/key/").stream().send().await;
    assert_eq!(refused.status, 401);
    let chunks = refused.chunks();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0]["payload"]["code"], 401);
}

#[tokio::test]
async fn bad_bodies_are_refused_by_name() {
    let engine = Engine::start().await;
    let send = |body: &str| {
        engine.master().post("/shell/").header("content-type", "application/json").body(body.to_owned()).send()
    };
    for (body, named) in [
        ("{\"identiti\": \"a\"}", "identiti"),
        ("{\"identity\": \"a\", \"identity\": \"b\"}", "identity"),
        ("{\"identity\": 7}", "identity"),
        ("{\"identity\": \"../a\"}", "identity"),
        ("{\"config\": {\"columns\": \"wide\"}}", "config.columns"),
        ("{\"config\": {\"env\": {\"A\": 1}}}", "config.env.A"),
        ("{", "JSON"),
        ("[]", "body"),
        ("\"x\"", "body"),
    ] {
        let detail = send(body).await.refusal(400);
        assert!(detail.contains(named), "{body}: {detail}");
    }
    let deep = format!("{{\"config\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    send(&deep).await.refusal(400);
    let large = format!("{{\"identity\": \"{}\"}}", "a".repeat(2 << 20));
    send(&large).await.refusal(413);
    // Refused before the body is looked at, while it is still being sent.
    for _ in 0..20 {
        let body = vec![b'a'; 8 << 20];
        let refused = engine.anonymous().put("/object/fs/upload/?identity=a").body(body).send().await;
        refused.refusal(401);
        send(&large).await.refusal(413);
    }
    let media = engine.master().post("/shell/").header("content-type", "application/xml").body("<a/>").send().await;
    media.refusal(415);
    let detail = engine.get("/shell/?offset=1&nothing=2").await.refusal(400);
    assert!(detail.contains("`nothing`"), "{detail}");
    engine.get("/shell/?offset=x").await.refusal(400);
    let shells = engine.get("/shell/").await.expect(200);
    assert_eq!(shells, json!([]), "no refusal left anything behind");
}

#[tokio::test]
async fn only_its_own_hosts_are_answered() {
    let engine = Engine::options().config("[server]\nhosts = [\"node.example\"]").start().await;
    let port = engine.address.port();
    for host in ["localhost", "127.0.0.1", "node.example", &format!("localhost:{port}"), "node.example:1"] {
        engine.anonymous().get("/engine/healthcheck/").header("host", host).send().await.expect(200);
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"] {
        engine.master().get("/engine/healthcheck/").header("host", host).send().await.refusal(421);
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let engine = Engine::options().config("[server]\norigins = [\"https://console.example\"]").start().await;
    let cookie = format!("authorization={}", engine.token);
    let own = format!("http://{}", engine.address);
    let put = |origin: Option<&str>| {
        let request =
            engine.anonymous().put("/shell/kill/").json(&json!({ "identity": "none" })).header("cookie", &cookie);
        match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        }
    };
    put(Some(&own)).send().await.refusal(404);
    let answer = put(Some("https://console.example")).send().await;
    answer.refusal(404);
    assert_eq!(answer.header("access-control-allow-origin"), "https://console.example");
    for origin in [
        None,
        Some("null"),
        Some("https://console.example.evil"),
        Some("http://evil.example"),
        Some("http://127.0.0.1"),
        Some("https://user@console.example"),
    ] {
        put(origin).send().await.refusal(403);
    }
    // Reading by cookie needs no Origin, and nobody else's page can read what comes back.
    let read = engine
        .anonymous()
        .get("/shell/")
        .header("cookie", &cookie)
        .header("origin", "http://evil.example")
        .send()
        .await;
    read.expect(200);
    assert_eq!(read.header("access-control-allow-origin"), "");
    // 401 comes before 403.
    let nobody = engine.anonymous().put("/shell/kill/").json(&json!({ "identity": "none" }));
    nobody.header("cookie", "authorization=bad").header("origin", "http://evil.example").send().await.refusal(401);
}

#[tokio::test]
async fn tokens_are_never_taken_from_a_url() {
    let engine = Engine::start().await;
    for name in ["authorization", "token"] {
        let path = format!("/shell/?{name}={}", engine.token);
        engine.anonymous().get(&path).send().await.refusal(401);
        engine.get(&path).await.expect(200);
    }
    assert!(!engine.log().contains(&engine.token), "no token in the log");
}

#[tokio::test]
async fn public_endpoints_are_limited_by_address() {
    let engine = Engine::options()
        .environment("DXFLOW_SERVER_PUBLIC_RATE", "1")
        .environment("DXFLOW_SERVER_PUBLIC_BURST", "5")
        .start()
        .await;
    let mut refused = None;
    for _ in 0..8 {
        let answer = engine.anonymous().get("/auth/challenge/").send().await;
        if answer.status == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("the burst is spent");
    refused.refusal(429);
    assert!(refused.header("retry-after").parse::<u32>().expect("seconds") >= 1);
    engine.get("/shell/").await.expect(200);
}

#[tokio::test]
async fn what_an_error_says_fits_a_header() {
    let engine = Engine::start().await;
    let answer = engine.get("/shell/%E2%82%AC%0A/").await;
    assert!(answer.status.is_client_error());
    let header = answer.header("x-error-message");
    assert!(header.is_ascii() && !header.is_empty(), "{header}");
}

#[tokio::test]
async fn the_document_describes_the_routes_that_are_there() {
    let engine = Engine::start().await;
    let document = engine.anonymous().get("/api/openapi.json").send().await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{identity}", "nobody").replace("{kind}", "cpu");
        for (method, operation) in operations.as_object().expect("operations") {
            let method: http::Method = method.to_uppercase().parse().expect("a method");
            let public = operation["security"] == json!([]);
            let answer = engine.anonymous().request(method.clone(), &concrete).send().await;
            if public {
                assert!(
                    ![401, 404, 405].contains(&answer.status.as_u16()) || path.contains("presigned"),
                    "{method} {path}: {}",
                    answer.status
                );
            } else {
                assert_eq!(answer.status, 401, "{method} {path}");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    let page = engine.anonymous().get("/api/docs").send().await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
}

#[tokio::test]
async fn raw_garbage_is_refused_and_the_engine_goes_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let engine = Engine::start().await;
    for garbage in [
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"GET /api HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_vec(),
        b"GET /api HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /api/shell HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /api/shell HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_vec(),
        b"POST /api/shell HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat(),
        [b"GET /api HTTP/1.1\r\nHost: localhost\r\n".as_slice(), &b"X: y\r\n".repeat(5000), b"\r\n"].concat(),
    ] {
        let mut stream = tokio::net::TcpStream::connect(engine.address).await.expect("connected");
        // The engine may close while we still write; that is an answer too.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
        let head = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || head.starts_with("HTTP/1.1 4"), "{head}");
    }
    let health: Value = engine.anonymous().get("/engine/healthcheck/").send().await.expect(200);
    assert_ne!(health["status"], "unhealthy");
}

#[tokio::test]
async fn metrics_are_told_with_a_token_or_on_a_listener_of_their_own() {
    // A port that was free a moment ago: the listener tells its address only in the log.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let listen = format!("127.0.0.1:{port}");
    let engine = Engine::options().environment("DXFLOW_SERVER_METRICS_LISTEN", &listen).start().await;
    engine.post("/shell/", json!({"identity": "one", "config": {"command": "cat"}})).await.expect(201);
    let own = engine.address.to_string();
    assert_eq!(raw(&own, "GET /metrics HTTP/1.1").await.0, 401);
    let by_token = raw(&own, &format!("GET /metrics HTTP/1.1\r\nAuthorization: Bearer {}", engine.token)).await;
    for (status, text) in [by_token, raw(&listen, "GET /metrics HTTP/1.1").await] {
        assert_eq!(status, 200);
        for line in [
            "# TYPE dxflow_shells gauge",
            "dxflow_shells{state=\"executed\"} 1",
            "dxflow_generation 1",
            "dxflow_component_healthy{component=\"keeper\"} 1",
            "dxflow_answers_total{class=\"4xx\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        // Every line is a comment or a name, labels and a number.
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let number = line.rsplit_once(' ').and_then(|(_, number)| number.parse::<f64>().ok());
            assert!(number.is_some() && line.starts_with("dxflow_"), "{line}");
        }
    }
    for (request, expected) in [
        ("GET /api/v1/shell/ HTTP/1.1", 404),
        ("GET / HTTP/1.1", 404),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 0", 405),
    ] {
        assert_eq!(raw(&listen, request).await.0, expected, "{request}");
    }
}

/// Sends one request over a connection of its own; its status and all that came.
async fn raw(address: &str, head: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").expect("a head").1.to_owned();
    (status, body)
}

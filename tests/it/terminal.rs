//! The WebSocket: every way to attach, what is on the screen then, and what a slow or odd client costs.

use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::{Event, Socket};
use crate::support::{Engine, until, within};

async fn cat(engine: &Engine, identity: &str) {
    let config = json!({"command": "sh", "args": ["-c", "stty -echo; echo ready; exec cat"]});
    engine.post("/shell/", json!({"identity": identity, "config": config})).await.expect(201);
    let (mut socket, _) = Socket::attach(engine, identity, "?since=0").await;
    socket.read_until(b"ready\r\n").await;
}

async fn script(engine: &Engine, identity: &str, text: &str) {
    let config = json!({"command": "sh", "args": ["-c", text]});
    engine.post("/shell/", json!({"identity": identity, "config": config})).await.expect(201);
}

#[tokio::test]
async fn what_is_typed_comes_back_in_every_form() {
    let engine = Engine::start().await;
    cat(&engine, "echo").await;
    let (mut control, attached) = Socket::attach(&engine, "echo", "").await;
    assert_eq!((&attached["snapshot"], &attached["mode"]), (&json!(true), &json!("control")));
    control.type_bytes("héllo\r".as_bytes()).await;
    control.read_until("héllo\r\n".as_bytes()).await;

    let mut text = Socket::open(&engine, "echo", "", &engine.token, "").await.expect("an upgrade");
    assert_eq!(text.protocol, "");
    let Event::Text(screen) = text.next().await else { panic!("text expected") };
    assert!(screen.contains("héllo"), "{screen:?}");
    text.send_text("plain\r").await;
    assert_eq!(text.next().await, Event::Text("plain\r\n".into()));

    let mut base64 = Socket::open(&engine, "echo", "?encoding=base64", &engine.token, "").await.expect("an upgrade");
    base64.next().await;
    base64.send_text("b64\r").await;
    let Event::Text(coded) = base64.next().await else { panic!("text expected") };
    let decoded = base64::engine::general_purpose::STANDARD.decode(coded).expect("base64");
    assert_eq!(decoded, b"b64\r\n");
}

#[tokio::test]
async fn characters_are_never_split_in_text_frames() {
    let engine = Engine::start().await;
    script(
        &engine,
        "utf8",
        r"for i in 1 2 3; do printf '\303'; sleep 0.1; printf '\251'; done; printf '\377x'; exec cat",
    )
    .await;
    let mut socket = Socket::open(&engine, "utf8", "?since=0", &engine.token, "").await.expect("an upgrade");
    let mut all = String::new();
    while !all.contains('x') {
        let Event::Text(text) = socket.next().await else { panic!("text expected") };
        all.push_str(&text);
    }
    assert_eq!(all, "ééé\u{fffd}x");
}

#[tokio::test]
async fn subprotocols_are_answered_and_tokens_never_echoed() {
    let engine = Engine::start().await;
    cat(&engine, "p").await;
    let bearer = format!("bearer.{}", engine.token);
    for (offered, chosen) in [
        (format!("bearer, {bearer}"), "bearer"),
        (bearer.clone(), "bearer"),
        (format!("bearer, {bearer}, dxflow.pty.v1"), "dxflow.pty.v1"),
    ] {
        // A client library refuses an answer that it did not offer, so what is chosen is looked at where it may be.
        match Socket::open(&engine, "p", "", "", &offered).await {
            Ok(socket) => assert_eq!(socket.protocol, chosen, "{chosen}"),
            Err(error) => assert!(!offered.contains("bearer,"), "{error}"),
        }
    }
    for query in ["?token=", "?authorization="] {
        let refused = Socket::open(&engine, "p", &format!("{query}{}", engine.token), "", "").await;
        assert!(refused.is_err(), "a token in a URL is none");
    }
    assert!(Socket::open(&engine, "none", "", &engine.token, "").await.is_err());
    engine.get("/shell/p/?nonsense=1").await.expect(400);
}

#[tokio::test]
async fn a_view_never_types_nor_resizes() {
    let engine = Engine::start().await;
    cat(&engine, "view").await;
    let (mut view, attached) = Socket::attach(&engine, "view", "?mode=view").await;
    assert_eq!(attached["mode"], "view");
    view.type_bytes(b"never\r").await;
    view.control(&json!({"type": "resize", "columns": 33, "rows": 11})).await;
    view.control(&json!({"type": "signal", "signal": "KILL"})).await;
    let (mut typist, _) = Socket::attach(&engine, "view", "").await;
    let shell = until("both to be counted", async || {
        let shell = engine.get("/shell/view/").await.expect(200);
        (shell["sessions"] == 2).then_some(shell)
    })
    .await;
    assert_eq!((&shell["columns"], &shell["state"]), (&json!(80), &json!("executed")));
    typist.type_bytes(b"typed\r").await;
    let seen = view.read_until(b"typed\r\n").await;
    assert!(!seen.windows(5).any(|window| window == b"never"));
    drop(view);
    drop(typist);
    until("nobody to be counted", async || {
        (engine.get("/shell/view/").await.expect(200)["sessions"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_size_follows_the_last_who_typed() {
    let engine = Engine::start().await;
    cat(&engine, "latest").await;
    let (mut one, _) = Socket::attach(&engine, "latest", "").await;
    let (mut two, _) = Socket::attach(&engine, "latest", "").await;
    one.control(&json!({"type": "resize", "columns": 100, "rows": 30})).await;
    assert_eq!(two.control_of("resized").await["columns"], 100);
    two.control(&json!({"type": "resize", "columns": 90, "rows": 20})).await;
    assert_eq!(two.control_of("resized").await["columns"], 90);
    one.type_bytes(b"x\r").await;
    assert_eq!(two.control_of("resized").await["columns"], 100);
}

#[tokio::test]
async fn a_wrong_control_message_closes_with_its_reason() {
    let engine = Engine::start().await;
    cat(&engine, "wrong").await;
    for message in [
        "",
        "{}",
        r#"{"type":"shout"}"#,
        r#"{"type":"resize","columns":0,"rows":5}"#,
        r#"{"type":"signal","signal":"NO"}"#,
    ] {
        let (mut socket, _) = Socket::attach(&engine, "wrong", "").await;
        socket.send_text(message).await;
        let (code, reason) = socket.closed().await;
        assert_eq!(code, 1008, "{message}: {reason}");
        assert!(!reason.is_empty(), "{message}");
    }
    let (mut socket, _) = Socket::attach(&engine, "wrong", "").await;
    // More than a frame may hold.
    let _ = socket.raw().send(Message::Binary(vec![b'x'; 100_000].into())).await;
    let (code, _) = socket.closed().await;
    assert!(code == 1008 || code == 1006, "{code}");
    engine.get("/shell/wrong/").await.expect(200);
}

#[tokio::test]
async fn what_has_ended_shows_its_last_screen_and_closes() {
    let engine = Engine::start().await;
    script(&engine, "ended", "echo the last words; exit 5").await;
    until("the end of the program", async || {
        (engine.get("/shell/ended/").await.expect(200)["state"] == "exited").then_some(())
    })
    .await;
    let (mut socket, attached) = Socket::attach(&engine, "ended", "").await;
    assert_eq!(attached["snapshot"], true);
    let exit = socket.control_of("exit").await;
    assert_eq!((&exit["code"], &exit["signal"]), (&json!(5), &json!(null)));
    assert!(String::from_utf8_lossy(&socket.bytes).contains("the last words"));
    assert_eq!(socket.closed().await.0, 1000);
}

#[tokio::test]
async fn bytes_resume_exactly_where_they_were() {
    let engine = Engine::start().await;
    script(
        &engine,
        "resume",
        "read x; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo the-end; exec cat",
    )
    .await;
    let mut offset = 0;
    let mut all = Vec::new();
    let mut began = false;
    let mut cut = 1;
    while !all.windows(7).any(|window| window == b"the-end") {
        let (mut socket, attached) = Socket::attach(&engine, "resume", &format!("?since={offset}")).await;
        assert_eq!((&attached["snapshot"], &attached["offset"]), (&json!(false), &json!(offset)));
        if !began {
            socket.type_bytes(b"go\r").await;
            began = true;
        }
        // Some frames, then the connection is cut.
        for _ in 0..cut {
            match within("a frame", socket.next()).await {
                Event::Bytes(bytes) => all.extend(bytes),
                other => panic!("{other:?}"),
            }
            if all.ends_with(b"the-end\r\n") {
                break;
            }
        }
        cut = cut % 4 + 1;
        offset = all.len() as u64;
    }
    let text = String::from_utf8_lossy(&all);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(lines.len(), 3000);
    assert!(lines.iter().enumerate().all(|(number, line)| *line == format!("line {number}")));
}

#[tokio::test]
async fn a_frozen_viewer_costs_nobody_anything_and_ends_on_the_exact_screen() {
    let engine = Engine::start().await;
    script(
        &engine,
        "flood",
        "read x; i=0; while [ $i -lt 20 ]; do seq 1 20000; i=$((i+1)); done; echo the-end; exec cat",
    )
    .await;
    // It takes the window's worth and no more, whatever the kernel would buffer for it.
    let (mut frozen, attached) = Socket::attach(&engine, "flood", "").await;
    frozen.control(&json!({"type": "ack", "offset": attached["offset"]})).await;
    let (mut fast, _) = Socket::attach(&engine, "flood", "").await;
    let started = Instant::now();
    fast.type_bytes(b"go\r").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"the-end\r\n") {
        match fast.next().await {
            Event::Bytes(bytes) => seen.extend(bytes),
            other => panic!("the fast one misses nothing: {other:?}"),
        }
    }
    assert!(started.elapsed() < crate::support::PATIENCE, "{:?}", started.elapsed());
    assert_eq!(seen.windows(8).filter(|window| window == b"\n20000\r\n").count(), 20);
    // The frozen one wakes up: a gap, and a snapshot after it.
    frozen.control(&json!({"type": "ack", "offset": u64::from(u32::MAX)})).await;
    let gap = frozen.control_of("gap").await;
    assert!(gap["to"].as_u64() > gap["from"].as_u64(), "{gap}");
    frozen.bytes.clear();
    frozen.read_until(b"the-end").await;
}

#[tokio::test]
async fn acknowledgements_bound_what_is_in_flight() {
    let engine = Engine::options().config("[shell]\nwebsocket_window = \"16KiB\"").start().await;
    script(&engine, "acks", "read x; seq 1 100000; echo the-end; exec cat").await;
    let (mut slow, attached) = Socket::attach(&engine, "acks", "").await;
    let base = attached["offset"].as_u64().expect("an offset");
    slow.control(&json!({"type": "ack", "offset": base})).await;
    slow.next().await;
    slow.type_bytes(b"go\r").await;
    slow.read_until(b"\n100\r\n").await;
    // Nothing is acknowledged: no more than the window comes.
    let mut quiet = false;
    while !quiet {
        match tokio::time::timeout(Duration::from_millis(500), slow.next()).await {
            Ok(Event::Bytes(bytes)) => slow.bytes.extend(bytes),
            Ok(other) => panic!("{other:?}"),
            Err(_) => quiet = true,
        }
    }
    assert!(slow.bytes.len() <= 20 << 10, "{}", slow.bytes.len());
}

#[tokio::test]
async fn control_c_gets_through_a_flood() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({"identity": "yes", "config": {"command": "sh"}})).await.expect(201);
    let (mut socket, _) = Socket::attach(&engine, "yes", "").await;
    socket.type_bytes(b"yes; echo st''opped\r").await;
    socket.read_until(b"y\r\ny\r\ny\r\n").await;
    let started = Instant::now();
    socket.type_bytes(b"\x03").await;
    socket.type_bytes(b"echo st''ill-here\r").await;
    socket.read_until(b"still-here").await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn control_c_gets_past_input_that_nobody_reads() {
    let engine = Engine::start().await;
    script(
        &engine,
        "deaf",
        "trap 'echo interrupted' INT; stty -icanon -echo; echo ready; while :; do sleep 0.05; done",
    )
    .await;
    let (mut socket, _) = Socket::attach(&engine, "deaf", "?since=0").await;
    socket.read_until(b"ready").await;
    for _ in 0..40 {
        socket.type_bytes(&[b'x'; 1000]).await;
    }
    socket.type_bytes(b"\x03").await;
    socket.read_until(b"interrupted").await;
}

#[tokio::test]
async fn who_is_signed_out_is_cut_off() {
    let engine = Engine::start().await;
    cat(&engine, "out").await;
    let generated = engine.post("/auth/key/", json!({"identity": "guest", "permissions": ["SHELL"]})).await.expect(201);
    let token = engine.sign_in_with(generated["private_key"].as_str().expect("a key")).await;
    let mut socket = Socket::open(&engine, "out", "", &token, "dxflow.pty.v1").await.expect("an upgrade");
    let started = Instant::now();
    engine.delete("/auth/key/", json!({"identity": "guest"})).await.expect(200);
    assert_eq!(socket.closed().await.0, 1008);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn read_only_looks_and_does_not_type() {
    let engine = Engine::start().await;
    cat(&engine, "look").await;
    let body = json!({"identity": "reader", "permissions": ["SHELL", "READ_ONLY"]});
    let generated = engine.post("/auth/key/", body).await.expect(201);
    let token = engine.sign_in_with(generated["private_key"].as_str().expect("a key")).await;
    let mut socket = Socket::open(&engine, "look", "", &token, "dxflow.pty.v1").await.expect("an upgrade");
    socket.type_bytes(b"never\r").await;
    let (mut typist, _) = Socket::attach(&engine, "look", "").await;
    typist.type_bytes(b"typed\r").await;
    let seen = socket.read_until(b"typed\r\n").await;
    assert!(!seen.windows(5).any(|window| window == b"never"));
}

#[tokio::test]
async fn a_stop_says_that_it_closes() {
    let mut engine = Engine::start().await;
    cat(&engine, "stop").await;
    let (mut socket, _) = Socket::attach(&engine, "stop", "").await;
    let stopping = async { engine.stop().await };
    let closing = async {
        let closing = socket.control_of("closing").await;
        (closing, socket.closed().await)
    };
    let (_, (closing, (code, _))) = tokio::join!(stopping, closing);
    assert_eq!((&closing["retry"], code), (&json!(false), 1001));
}

//! Many who watch one flood, and connections that break in the middle of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::proxy::Proxy;
use crate::support::socket::{Event, Socket};
use crate::support::{Engine, process, until, within};

/// What ends every flood.
const END: &[u8] = b"the-end\r\n";
/// The bytes of a flood's line on the terminal.
const LINE: usize = 100;
/// How many fast viewers there are.
const FAST: usize = 8;
/// How much the engine may grow, in KiB.
const GROWTH: u64 = 16 << 10;

fn long() -> bool {
    std::env::var_os("DXFLOW_IT_LONG").is_some()
}

/// Line `number` of a flood.
fn line(number: usize) -> String {
    format!("{number:08} {}\r\n", "x".repeat(LINE - 11))
}

/// A shell that writes so many lines once a line is typed, and then stays.
async fn flood(engine: &Engine, identity: &str, lines: usize) {
    flood_as(engine, identity, lines, false).await;
}

/// As [`flood`], perhaps recorded; the recording's name.
async fn flood_as(engine: &Engine, identity: &str, lines: usize, record: bool) -> Option<String> {
    let fill = "x".repeat(LINE - 11);
    // awk writes in large pieces, so that it is not what limits the flood.
    let program =
        format!("BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%08d %s\\n\", i, \"{fill}\"; print \"the-end\" }}");
    let script = format!("stty -echo; echo ready; read x; awk '{program}'; exec cat");
    let config = json!({"command": "sh", "args": ["-c", script], "columns": 120, "rows": 30, "record": record});
    let made = engine.post("/shell/", json!({"identity": identity, "config": config})).await.expect(201);
    let (mut socket, _) = Socket::attach(engine, identity, "?since=0").await;
    socket.read_until(b"ready\r\n").await;
    made["recording"].as_str().map(str::to_owned)
}

/// What one has of a flood: the bytes since the last snapshot, that included.
#[derive(Debug, Default)]
struct Seen {
    /// Bytes of output.
    bytes: usize,
    gaps: usize,
    /// What draws the screen; only its end is kept while nobody asks for more.
    screen: Vec<u8>,
    took: Duration,
}

impl Seen {
    /// Follows a flood to its end.
    async fn follow(mut self, mut socket: Socket, began: Instant) -> Self {
        let mut snapshot = true;
        while snapshot || !shows_end(&self.screen) {
            match socket.next().await {
                Event::Bytes(bytes) if snapshot => {
                    snapshot = false;
                    self.screen = bytes;
                }
                Event::Bytes(bytes) => {
                    self.bytes += bytes.len();
                    self.screen.extend(bytes);
                    // As many lines as no screen shows.
                    if self.screen.len() > 1 << 20 && self.gaps == 0 {
                        let at = self.screen.len() - (100 << 10);
                        self.screen.drain(..at);
                    }
                }
                Event::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("a control message is JSON");
                    assert_eq!(message["type"], "gap", "{message}");
                    self.gaps += 1;
                    snapshot = true;
                }
                Event::Closed(code, reason) => panic!("closed: {code} {reason}"),
            }
        }
        self.took = began.elapsed();
        self
    }
}

/// Whether the end is on the screen, and the line's end behind it.
fn shows_end(screen: &[u8]) -> bool {
    let tail = &screen[screen.len().saturating_sub(400)..];
    let word = &END[..END.len() - 2];
    let at = tail.windows(word.len()).position(|window| window == word);
    at.is_some_and(|at| tail[at..].contains(&b'\n'))
}

/// The lines on the screen, and the cursor.
fn shown(bytes: &[u8]) -> (Vec<String>, avt::Cursor) {
    let mut terminal = avt::Terminal::new(120, 30).expect("a size");
    terminal.feed(String::from_utf8_lossy(bytes).as_ref());
    (terminal.screen().visible_lines().map(avt::Line::text).collect(), terminal.cursor())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_viewers_cost_nobody_anything_and_end_on_the_exact_screen() {
    let lines = if long() { 1_000_000 } else { 60_000 };
    let engine = Engine::start().await;
    flood(&engine, "alone", lines).await;
    let (mut socket, _) = Socket::attach(&engine, "alone", "").await;
    socket.type_bytes(b"go\r").await;
    let alone = Seen::default().follow(socket, Instant::now()).await;
    engine.delete("/shell/", json!({"identity": "alone"})).await.expect(200);

    flood(&engine, "flood", lines).await;
    let (frozen, slow) = (Proxy::start(engine.address).await, Proxy::start(engine.address).await);
    let mut late = Vec::new();
    for (proxy, rate) in [(&frozen, 0), (&slow, 1000)] {
        let socket = Socket::open_at(proxy.address, "flood", "?mode=view", &engine.token, "dxflow.pty.v1").await;
        let mut socket = socket.expect("an upgrade");
        assert!(matches!(socket.next().await, Event::Text(_)), "`attached` comes first");
        proxy.limit(Some(rate));
        late.push(socket);
    }
    let mut sockets = Vec::new();
    for _ in 0..FAST {
        sockets.push(Socket::attach(&engine, "flood", "").await.0);
    }
    let before = process::private_kib(engine.pid());
    sockets[0].type_bytes(b"go\r").await;
    let began = Instant::now();
    let fast: Vec<_> = sockets.into_iter().map(|socket| tokio::spawn(Seen::default().follow(socket, began))).collect();
    let late: Vec<_> = late.into_iter().map(|socket| tokio::spawn(late_screen(socket))).collect();
    let all = futures_util::future::join_all(fast);
    tokio::pin!(all);
    let mut most = before;
    let fast = loop {
        tokio::select! {
            fast = &mut all => break fast,
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(process::private_kib(engine.pid())),
        }
    };
    let fast: Vec<Seen> = fast.into_iter().map(|seen| seen.expect("no panic")).collect();

    let megabytes = (lines * LINE) as f64 / 1e6;
    let rate = |seen: &Seen| megabytes / seen.took.as_secs_f64();
    let slowest = fast.iter().map(rate).fold(f64::INFINITY, f64::min);
    println!(
        "one alone {:.1} MB/s; the slowest of {FAST} {slowest:.1} MB/s, {} gaps, {:.1} % of the bytes; ratio {:.2}; the engine grew by {} KiB",
        rate(&alone),
        fast.iter().map(|seen| seen.gaps).sum::<usize>(),
        fast.iter().map(|seen| seen.bytes).min().unwrap_or(0) as f64 / megabytes / 1e4,
        slowest / rate(&alone),
        most - before,
    );
    assert!(most - before < GROWTH, "the engine grew by {} KiB", most - before);

    // The late ones may read again.
    frozen.limit(None);
    slow.limit(None);
    let (mut last, _) = Socket::attach(&engine, "flood", "").await;
    let Event::Bytes(snapshot) = last.next().await else { panic!("a snapshot expected") };
    let last = shown(&snapshot);
    assert!(last.0.iter().any(|line| line.starts_with("the-end")), "{last:?}");
    for (name, late) in ["frozen", "slow"].into_iter().zip(late) {
        let (gaps, screen) = within("the late one's last screen", late).await.expect("no panic");
        assert!(gaps > 0, "{name} was not left behind");
        assert_eq!(shown(&screen), last, "{name}");
    }
    for seen in &fast {
        assert_eq!(shown(&seen.screen), last);
    }
}

/// Follows a flood to its end over a connection that may stand still for long; the gaps and what draws the last screen.
async fn late_screen(mut socket: Socket) -> (usize, Vec<u8>) {
    let (mut gaps, mut snapshot, mut screen) = (0, true, Vec::new());
    while snapshot || !shows_end(&screen) {
        match socket.next_after(Duration::from_secs(600)).await {
            Event::Bytes(bytes) if std::mem::take(&mut snapshot) => screen = bytes,
            Event::Bytes(bytes) => screen.extend(bytes),
            Event::Text(_) => {
                gaps += 1;
                snapshot = true;
            }
            Event::Closed(code, reason) => panic!("closed: {code} {reason}"),
        }
    }
    (gaps, screen)
}

/// The output in a recording, up to its last whole line.
fn recorded(cast: &str) -> String {
    let events = cast.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event[1] == "o").map(|event| event[2].as_str().expect("text").to_owned()).collect()
}

/// Tells what recording costs a flood; the long form alone says something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_flood_is_recorded_whole() {
    let (lines, rounds) = if long() { (500_000, 5) } else { (20_000, 1) };
    // As much as the recorder may be behind.
    let engine = Engine::options().config("[shell]\nlog_size = \"64MiB\"").start().await;
    let mut best = [Duration::MAX; 2];
    for round in 0..rounds {
        for (record, best) in [false, true].into_iter().zip(&mut best) {
            let identity = format!("flood-{round}-{record}");
            let name = flood_as(&engine, &identity, lines, record).await;
            let (mut socket, _) = Socket::attach(&engine, &identity, "").await;
            socket.type_bytes(b"go\r").await;
            let seen = Seen::default().follow(socket, Instant::now()).await;
            *best = seen.took.min(*best);
            if let Some(name) = name {
                let path = format!("/shell/recording/{name}");
                let text = until("the recording's end", async || {
                    let text = recorded(&engine.get(&path).await.text());
                    text.ends_with("the-end\r\n").then_some(text)
                })
                .await;
                let expected: String = (0..lines).map(line).collect();
                assert!(text == format!("ready\r\n{expected}the-end\r\n"), "{} bytes", text.len());
            }
            engine.delete("/shell/", json!({"identity": identity})).await.expect(200);
        }
    }
    let cost = best[1].as_secs_f64() / best[0].as_secs_f64() - 1.0;
    println!("the best of {rounds}: {:?} not recorded, {:?} recorded; {:.1} % more", best[0], best[1], cost * 100.0);
}

#[tokio::test]
async fn a_connection_that_is_cut_at_any_byte_loses_none_and_repeats_none() {
    let cuts = if long() { 1000 } else { 50 };
    // The flood waits for the client; what it has not seen yet stays in the ring.
    let engine = Engine::options().config("[shell]\nlog_size = \"64MiB\"").start().await;
    let lines = cuts * 300;
    flood(&engine, "cut", lines).await;
    let proxy = Proxy::start(engine.address).await;
    let (mut typist, attached) = Socket::attach(&engine, "cut", "").await;
    let began = usize::try_from(attached["offset"].as_u64().expect("an offset")).expect("it fits");
    typist.type_bytes(b"go\r").await;
    drop(typist);
    let expected: Vec<u8> =
        (0..lines).flat_map(|number| line(number).into_bytes()).chain(END.iter().copied()).collect();
    let mut random = 1_u64;
    let mut all: Vec<u8> = Vec::new();
    let mut done = 0;
    while all.len() < expected.len() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Anywhere: in the upgrade's answer, in a frame's header, in the middle of its bytes.
        proxy.cut_after(if done < cuts { (random >> 33) as usize % 60_000 } else { usize::MAX });
        let query = format!("?since={}", began + all.len());
        let opened = Socket::open_at(proxy.address, "cut", &query, &engine.token, "dxflow.pty.v1").await;
        done += 1;
        let Ok(mut socket) = opened else { continue };
        loop {
            match socket.next().await {
                Event::Bytes(bytes) => {
                    all.extend(bytes);
                    if all.len() >= expected.len() {
                        break;
                    }
                }
                Event::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("a control message is JSON");
                    assert_eq!(
                        (&message["type"], &message["snapshot"]),
                        (&json!("attached"), &json!(false)),
                        "{message}"
                    );
                    assert_eq!(message["offset"], json!(began + all.len()));
                }
                Event::Closed(..) => break,
            }
        }
    }
    println!("{done} connections, {} bytes", all.len());
    assert!(done >= cuts, "{done}");
    let differs = all.iter().zip(&expected).position(|(left, right)| left != right);
    assert_eq!((differs, all.len()), (None, expected.len()), "after {done} connections");
}

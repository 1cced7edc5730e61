//! Whatever dies, the shells do not: kills, restarts and panics under load, with every line seen exactly once.

use std::time::Duration;

use serde_json::json;

use crate::support::socket::{Event, Socket};
use crate::support::{Engine, until};

/// Prints numbered lines for as long as it lives.
const COUNTER: &str = "i=0; while :; do echo line $i; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.1; done";

async fn counters(engine: &Engine, count: usize) {
    for number in 0..count {
        let config = json!({"command": "sh", "args": ["-c", COUNTER]});
        engine.post("/shell/", json!({"identity": format!("s{number}"), "config": config})).await.expect(201);
    }
}

/// What one client has seen of one counter.
#[derive(Default)]
struct Seen {
    offset: u64,
    rest: Vec<u8>,
    next: u64,
}

impl Seen {
    fn take(&mut self, shell: &str, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in self.rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            assert_eq!(line, format!("line {}\r\n", self.next), "{shell}: every line once, in order");
            self.next += 1;
        }
        self.rest.drain(..whole);
    }

    /// Reads until `more` further lines have come.
    async fn read(&mut self, engine: &Engine, shell: &str, more: u64) {
        let (mut socket, attached) = Socket::attach(engine, shell, &format!("?since={}", self.offset)).await;
        assert_eq!((&attached["snapshot"], &attached["offset"]), (&json!(false), &json!(self.offset)), "{shell}");
        let until = self.next + more;
        while self.next < until {
            match socket.next().await {
                Event::Bytes(bytes) => self.take(shell, &bytes),
                other => panic!("{shell}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn ten_kills_of_the_engine_lose_no_line_of_fifty_shells() {
    let mut engine = Engine::options().config("[shell]\nlog_size = \"4MiB\"").start().await;
    counters(&engine, 50).await;
    let mut seen: Vec<Seen> = (0..50).map(|_| Seen::default()).collect();
    for _ in 0..10 {
        for (number, seen) in seen.iter_mut().enumerate() {
            seen.read(&engine, &format!("s{number}"), 5).await;
        }
        engine.kill().await;
        engine.boot().await;
    }
    for (number, seen) in seen.iter_mut().enumerate() {
        seen.read(&engine, &format!("s{number}"), 40).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_tree_is_not_seen_by_those_who_are_attached() {
    let engine = Engine::start().await;
    counters(&engine, 10).await;
    let mut sockets = Vec::new();
    for number in 0..10 {
        let (socket, _) = Socket::attach(&engine, &format!("s{number}"), "?since=0").await;
        sockets.push((socket, Seen::default()));
    }
    for round in 0..3 {
        let generation = engine.get("/engine/healthcheck/").await.expect(200)["generation"].as_u64().expect("a number");
        engine.put("/engine/restart/", json!({})).await.expect(200);
        until("the next generation", async || {
            let now = engine.get("/engine/healthcheck/").await;
            (now.expect(now.status.as_u16())["generation"].as_u64() > Some(generation)).then_some(())
        })
        .await;
        for (number, (socket, seen)) in sockets.iter_mut().enumerate() {
            let until = seen.next + 60;
            while seen.next < until {
                match socket.next().await {
                    Event::Bytes(bytes) => seen.take(&format!("s{number}"), &bytes),
                    other => panic!("round {round}, s{number}: {other:?}"),
                }
            }
        }
    }
    // And one still types.
    engine.post("/shell/", json!({"identity": "cat", "config": {"command": "cat"}})).await.expect(201);
    let (mut socket, _) = Socket::attach(&engine, "cat", "").await;
    engine.put("/engine/restart/", json!({})).await.expect(200);
    socket.type_bytes(b"during\r").await;
    socket.read_until(b"during\r\nduring\r\n").await;
}

/// Prints a numbered line every 10 ms, without a process for each.
const METRONOME: &str = "import sys, time
i, due = 0, time.monotonic()
while True:
    sys.stdout.write(f'line {i}\\n')
    sys.stdout.flush()
    i, due = i + 1, due + 0.01
    time.sleep(max(0, due - time.monotonic()))
";

/// One request of a mixed load; whatever it asks, it is answered.
async fn one_of(engine: &crate::support::Client, number: u64) -> (String, u16) {
    let shell = format!("s{}", number % 50);
    let request = match number % 6 {
        0 => engine.get("/shell/"),
        1 => engine.get(&format!("/shell/{shell}/")),
        2 => engine.put("/shell/resize/").json(&json!({"identity": shell, "columns": 80 + number % 9, "rows": 24})),
        3 => engine.get("/engine/ping/"),
        4 => engine.get("/object/fs/"),
        _ => engine.post("/auth/key/").json(&json!({"identity": format!("load-{number}")})),
    };
    let answer = request.try_send().await.unwrap_or_else(|error| panic!("request {number}: {error}"));
    (answer.text(), answer.status.as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_refuses_nothing_and_loses_no_line() {
    let engine = Engine::start().await;
    let mut sockets = Vec::new();
    for number in 0..50 {
        let (name, config) = (format!("s{number}"), json!({"command": "python3", "args": ["-c", METRONOME]}));
        engine.post("/shell/", json!({"identity": name, "config": config})).await.expect(201);
        let (socket, _) = Socket::attach(&engine, &name, "?since=0").await;
        sockets.push((name, socket, Seen::default()));
    }
    // 200 requests a second, whether or not those before have been answered.
    let client = engine.master();
    let load = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..1000 {
            ticks.tick().await;
            let client = client.clone();
            requests.spawn(async move { one_of(&client, number).await });
        }
        requests.join_all().await
    });
    for generation in 2..=4 {
        engine.put("/engine/restart/", json!({})).await.expect(200);
        until("the next generation", async || {
            let health = engine.get("/engine/healthcheck/").await;
            (serde_json::from_slice::<serde_json::Value>(&health.body).ok()?["generation"] == generation).then_some(())
        })
        .await;
        for (name, socket, seen) in &mut sockets {
            let until = seen.next + 100;
            while seen.next < until {
                match socket.next().await {
                    Event::Bytes(bytes) => seen.take(name, &bytes),
                    Event::Text(_) => {}
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    }
    let answers = load.await.expect("the load ran to its end");
    assert_eq!(answers.len(), 1000);
    for (text, status) in answers {
        assert!((200..300).contains(&status), "{status}: {text}");
    }
}

#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_shell_whose_actor_panics_goes_on() {
    let engine = Engine::start().await;
    counters(&engine, 2).await;
    let mut seen = Seen::default();
    let (mut socket, _) = Socket::attach(&engine, "s0", "?since=0").await;
    for size in 0..3_u16 {
        engine.post("/engine/fault", json!({"actor": "shell/s0"})).await.expect(200);
        // The message that panics has no answer; the next one has.
        let _ = engine.put("/shell/resize/", json!({"identity": "s0", "columns": 90 + size, "rows": 30})).await;
        let until = seen.next + 60;
        while seen.next < until {
            match socket.next().await {
                Event::Bytes(bytes) => seen.take("s0", &bytes),
                Event::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    engine.put("/shell/resize/", json!({"identity": "s0", "columns": 77, "rows": 30})).await.expect(200);
    assert_eq!(engine.get("/shell/s0/").await.expect(200)["columns"], 77);
}

#[tokio::test]
async fn a_recording_goes_on_after_a_kill_without_a_gap() {
    let mut engine = Engine::options().config("[shell]\nrecord = true").start().await;
    counters(&engine, 1).await;
    let name = engine.get("/shell/s0/").await.expect(200)["recording"].as_str().expect("it is recorded").to_owned();
    let recorded = async |engine: &Engine| {
        let text = engine.get(&format!("/shell/recording/{name}")).await.text();
        let events = text.lines().skip(1).map(|line| serde_json::from_str(line).expect("each line is an event"));
        let output = events.filter(|event: &serde_json::Value| event[1] == "o");
        output.map(|event| event[2].as_str().expect("text").to_owned()).collect::<String>()
    };
    for _ in 0..3 {
        let before = recorded(&engine).await.len();
        until("more to be recorded", async || (recorded(&engine).await.len() > before + 500).then_some(())).await;
        engine.kill().await;
        engine.boot().await;
    }
    let before = recorded(&engine).await.len();
    until("more to be recorded", async || (recorded(&engine).await.len() > before + 500).then_some(())).await;
    let text = recorded(&engine).await;
    let mut seen = Seen::default();
    seen.take("the recording", text.as_bytes());
    assert!(seen.next > 50);
    asciinema_reads_it(&engine, &name).await;
}

/// asciinema prints and plays a recording that has been through all that, to its last whole line.
async fn asciinema_reads_it(engine: &Engine, name: &str) {
    let mut cast = engine.get(&format!("/shell/recording/{name}")).await.text();
    cast.truncate(cast.rfind('\n').map_or(0, |end| end + 1));
    let path = engine.scratch().join("recording.cast");
    std::fs::write(&path, &cast).expect("written");
    let events = cast.lines().skip(1).map(|line| serde_json::from_str(line).expect("each line is an event"));
    let output = events.filter(|event: &serde_json::Value| event[1] == "o");
    let output: String = output.map(|event| event[2].as_str().expect("text").to_owned()).collect();
    // In a terminal, as it wants one.
    let env = json!({"HOME": engine.home(), "LANG": "C.UTF-8"});
    engine.post("/shell/", json!({"identity": "player", "config": {"command": "sh", "env": env}})).await.expect(201);
    for arguments in ["cat", "play --speed 100000 --idle-time-limit 0.001"] {
        let command = format!("asciinema {arguments} {}", path.display());
        let body = json!({"identity": "player", "command": command, "wait": true, "timeout": "60s"});
        let result = engine.put("/shell/execute/", body).await.expect(200);
        if result["exit_code"] == 127 {
            return;
        }
        assert_eq!(result["exit_code"], 0, "{arguments}: {result}");
        let shown = result["output"].as_str().expect("text").replace('\r', "");
        assert!(shown.contains(&output.replace('\r', "")), "{arguments}: {shown:?}");
    }
}

#[tokio::test]
async fn the_screen_after_a_kill_is_the_screen_before() {
    let mut engine = Engine::options().config("[shell]\nlog_size = \"64KiB\"").start().await;
    // Set-up sequences that leave the ring long before the kill: alternate screen, colours, a title, mouse mode.
    let script = r"printf '\033]2;the title\007\033[?1049h\033[?1003h\033[44m\033[2J\033[5;10Hmarker'
        i=0; while [ $i -lt 3000 ]; do printf '\033[10;1Hcounter %d and a filler that makes the ring go round' $i; i=$((i+1)); done
        printf '\033[20;3Hdone'; exec cat";
    let config = json!({"command": "sh", "args": ["-c", script]});
    engine.post("/shell/", json!({"identity": "full", "config": config})).await.expect(201);
    let screen = async |engine: &Engine| {
        let mut socket = Socket::open(engine, "full", "", &engine.token, "").await.expect("an upgrade");
        match socket.next().await {
            Event::Text(text) => text,
            other => panic!("{other:?}"),
        }
    };
    let before = until("the program to be done", async || {
        let text = screen(&engine).await;
        text.contains("done").then_some(text)
    })
    .await;
    for wanted in ["marker", "counter 2999", "the title", "\u{1b}[?1003h", "\u{1b}[?1047h"] {
        assert!(before.contains(wanted), "{wanted:?} in {before:?}");
    }
    for _ in 0..2 {
        engine.kill().await;
        engine.boot().await;
        assert_eq!(screen(&engine).await, before);
    }
}

//! Full-screen programs: whoever attaches at any moment has the screen of one that never left, cell by cell and in every mode.
//!
//! Each program runs at three sizes while keys are typed into it at random (from a seed, so that a failure repeats). One
//! viewer follows from the first byte. At random moments a fresh one attaches; a fresh terminal that is fed nothing but its
//! snapshot must equal one that was fed every byte up to the snapshot's offset. Two emulators judge: avt, cell by cell with
//! all its hidden state, and vt100, which shares nothing with the engine, for the title, the modes and the text.

use std::num::NonZeroU16;
use std::time::Duration;

use serde_json::json;
use unicode_width::UnicodeWidthChar;

use crate::support::socket::{Event, Socket};
use crate::support::{Engine, within};

/// How many viewers come to each program at each size.
const MOMENTS: usize = 20;
/// Bytes below this are a program that has not drawn anything yet.
const DRAWN: usize = 100;

/// A program, and what is typed into it.
struct Program {
    name: &'static str,
    args: &'static [&'static str],
    keys: &'static [&'static str],
}

/// Random numbers that repeat (an LCG with Knuth's constants).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A file to look at and to edit: short and long lines, tabs, wide characters, combining ones, emoji.
fn text() -> String {
    let line = |number: usize| match number % 7 {
        0 => format!("{number}\ttab\tand tab tcp"),
        1 => format!("{number} {}", "a long line that goes on and on ".repeat(1 + number % 9)),
        2 => format!("{number} 漢字かな交じり文 {}", "漢".repeat(number % 50)),
        3 => String::new(),
        4 => format!("{number} e\u{301}a\u{308} naïve 🙂🙃 tcp"),
        5 => format!("int f{number}(void) {{ return \"{}\"[0]; }} /* tcp */", "x".repeat(number % 80)),
        _ => format!("{number} ─│┌┐└┘ end"),
    };
    (0..400).map(|number| line(number) + "\n").collect()
}

/// Feeds what is whole of `bytes`: an unfinished character at the end says nothing yet.
fn decode(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        let is_tail = invalid.is_empty() || unfinished && chunks.peek().is_none();
        if !is_tail {
            text.push('\u{fffd}');
        }
    }
    text
}

fn avt_of(bytes: &[u8], (columns, rows): (u16, u16)) -> avt::Terminal {
    let mut terminal = avt::Terminal::new(columns.into(), rows.into()).expect("a size");
    // avt would give marks a column of their own.
    terminal.feed(without_marks(&decode(bytes)).as_str());
    terminal
}

/// The text without what takes no column: combining marks, joiners, variation selectors.
fn without_marks(text: &str) -> String {
    text.chars().filter(|next| *next <= '\u{ad}' || next.width() != Some(0)).collect()
}

/// Remembers the title, which vt100 only tells.
#[derive(Default)]
struct Title(Vec<u8>);

impl vt100::Callbacks for Title {
    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.0 = title.to_vec();
    }
}

/// What vt100 makes of `bytes`: the title and the modes, and the text, without marks.
fn vt100_of(bytes: &[u8], (columns, rows): (u16, u16)) -> (String, Vec<String>) {
    let size = |length| NonZeroU16::new(length).expect("a size");
    let mut parser = vt100::Parser::new_with_callbacks(size(rows), size(columns), 0, Title::default());
    // It knows the alternate screen by its oldest name only.
    parser.process(decode(bytes).replace("\u{1b}[?1047", "\u{1b}[?47").as_bytes());
    let (title, screen) = (&parser.callbacks().0, parser.screen());
    let modes = format!(
        "title {:?} alternate {} keypad {} cursor keys {} hidden {} paste {} mouse {:?} {:?}",
        String::from_utf8_lossy(title),
        screen.alternate_screen(),
        screen.application_keypad(),
        screen.application_cursor(),
        screen.hide_cursor(),
        screen.bracketed_paste(),
        screen.mouse_protocol_mode(),
        screen.mouse_protocol_encoding(),
    );
    (modes, screen.rows(0, columns).map(|row| without_marks(&row).trim_end().to_owned()).collect())
}

/// Checks that a terminal that is fed `snapshot` equals one that was fed `all`.
fn compare(all: &[u8], snapshot: &[u8], size: (u16, u16), when: &str) {
    let (live, fresh) = (avt_of(all, size), avt_of(snapshot, size));
    for (row, (live, fresh)) in live.screen().visible_lines().zip(fresh.screen().visible_lines()).enumerate() {
        assert_eq!(live.text(), fresh.text(), "{when}: row {row}");
        for (column, (live, fresh)) in live.cells().iter().zip(fresh.cells()).enumerate() {
            assert_eq!(live, fresh, "{when}: row {row}, column {column}");
        }
    }
    assert_eq!(live.cursor(), fresh.cursor(), "{when}");
    assert_eq!(live.active_screen_kind(), fresh.active_screen_kind(), "{when}");
    assert_eq!(live.cursor_key_app_mode(), fresh.cursor_key_app_mode(), "{when}");
    // Margins, tabs, character sets, saved cursors, the pen, and the unfinished sequence.
    assert_eq!(live.dump(), fresh.dump(), "{when}");
    assert_eq!(vt100_of(all, size), vt100_of(snapshot, size), "{when}");
}

/// Gathers what comes until there are `wanted` bytes in all, or nothing has come for a moment.
async fn follow(socket: &mut Socket, wanted: usize, moment: Duration) {
    while socket.bytes.len() < wanted {
        match tokio::time::timeout(moment, socket.next()).await {
            Ok(Event::Bytes(bytes)) => socket.bytes.extend(bytes),
            Ok(Event::Text(_)) => {}
            Ok(Event::Closed(code, reason)) => panic!(
                "the program ended ({code} {reason}): {:?}",
                String::from_utf8_lossy(&socket.bytes[socket.bytes.len().saturating_sub(300)..])
            ),
            Err(_) => return,
        }
    }
}

async fn watch(engine: &Engine, program: &Program, size: (u16, u16), seed: u64) {
    let (columns, rows) = size;
    let identity = format!("{}-{columns}", program.name);
    let scratch = engine.scratch().join(&identity);
    std::fs::create_dir(&scratch).expect("a directory");
    std::fs::write(scratch.join("text.c"), text()).expect("a file");
    let env = json!({"TERM": "xterm-256color", "LANG": "C.UTF-8", "TMUX_TMPDIR": scratch, "LESS": ""});
    let config = json!({
        "command": program.name, "args": program.args, "env": env, "cwd": scratch, "columns": columns, "rows": rows,
    });
    engine.post("/shell/", json!({"identity": identity, "config": config})).await.expect(201);
    let (mut follower, _) = Socket::attach(engine, &identity, "?since=0").await;
    within("the program's first screen", async {
        while follower.bytes.len() < DRAWN {
            follow(&mut follower, DRAWN, Duration::from_secs(1)).await;
        }
    })
    .await;
    let mut random = Random(seed);
    for moment in 0..MOMENTS {
        for _ in 0..=random.below(3) {
            let key = program.keys[random.below(program.keys.len())];
            follower.type_bytes(key.as_bytes()).await;
        }
        // Into the middle of what it draws for them, or behind it.
        let more = random.below(2000);
        let wanted = follower.bytes.len() + more;
        follow(&mut follower, wanted, Duration::from_millis(15)).await;
        let (mut fresh, attached) = Socket::attach(engine, &identity, "?mode=view").await;
        assert_eq!(attached["snapshot"], true, "{attached}");
        let offset = usize::try_from(attached["offset"].as_u64().expect("an offset")).expect("it fits");
        let Event::Bytes(snapshot) = fresh.next().await else { panic!("a snapshot expected") };
        while follower.bytes.len() < offset {
            follow(&mut follower, offset, crate::support::PATIENCE).await;
        }
        let when = format!("{identity}, seed {seed}, moment {moment}, offset {offset}");
        compare(&follower.bytes[..offset], &snapshot, size, &when);
    }
    engine.delete("/shell/", json!({"identity": identity})).await.expect(200);
}

/// Whether the program is there; `test.sh` installs them all.
fn installed(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

async fn exact(program: Program) {
    if !installed(program.name) {
        return;
    }
    // Nothing leaves the ring, so that the follower has it all.
    let engine = Engine::options().config("[shell]\nlog_size = \"16MiB\"").start().await;
    let seeds: &[u64] = if std::env::var_os("DXFLOW_IT_LONG").is_some() { &[1, 2, 3, 4, 5] } else { &[1] };
    for seed in seeds {
        let sizes = [(80, 24), (120, 40), (37, 11)];
        let [one, two, three] = sizes.map(|size| Box::pin(watch(&engine, &program, size, *seed)));
        tokio::join!(one, two, three);
        for (columns, _) in sizes {
            std::fs::remove_dir_all(engine.scratch().join(format!("{}-{columns}", program.name))).expect("removed");
        }
    }
}

#[tokio::test]
async fn vim_is_exact() {
    let keys = &[
        "ihello\rworld\x1b",
        "\x06",
        "\x02",
        "dd",
        "u",
        "yyp",
        "G",
        "gg",
        "5j",
        "10l",
        ":set number!\r",
        ":syntax on\r",
        ":split\r",
        ":vsplit\r",
        ":only\r",
        "\x17w",
        "Vjj",
        "\x1b",
        ">>",
        "/tcp\r",
        "n",
        "A éß漢字🙂\x1b",
        "\x0c",
        ":set wrap!\r",
        ":set list!\r",
        "RReplaced\x1b",
        "O\tabove\x1b",
        "\x05",
        "\x19",
        ":set hlsearch!\r",
        "zz",
        "~w.",
        ":help\r",
        ":echo 'one' | echo 'two'\r",
        "xxxx",
        "J",
        ":set mouse=a\r",
        ":set cursorline!\r",
        ":set title\r",
    ];
    exact(Program { name: "vim", args: &["-u", "NONE", "text.c"], keys }).await;
}

#[tokio::test]
async fn less_is_exact() {
    let keys = &[
        " ", "b", "G", "g", "/tcp\r", "n", "N", "j", "k", "5j", "\x06", "\x02", "-S\r", "-N\r", "-i", "\x1b[B",
        "\x1b[C", "\x1b[D", "d", "u", "\x0c", "50%", "?end\r", "=", "ma", "'a", "&tcp\r", "&\r", "\x1bu",
    ];
    exact(Program { name: "less", args: &["text.c"], keys }).await;
}

#[tokio::test]
async fn htop_is_exact() {
    // Nothing that signals, traces or renices what is selected.
    let keys = &[
        "\x1b[B", "\x1b[A", "t", "H", "K", "\x1b[6~", "\x1b[5~", "P", "M", "T", "I", "p", "/sh\x1b", "\\a\x1b",
        "\x1b[C", "\x1b[D", "\x1b[H", "\x1b[F", "+", "-", "h", " ", "U", "\t",
    ];
    exact(Program { name: "htop", args: &["-d", "2"], keys }).await;
}

#[tokio::test]
async fn nano_is_exact() {
    let keys = &[
        "hello ",
        "\r",
        "\x16",
        "\x19",
        "\x0b",
        "\x15",
        "\x1b[B",
        "\x1b[A",
        "\x1b[C",
        "\x1b[F",
        "\x1b[H",
        "\x1b#",
        "\x17tcp\r",
        "\x0c",
        "漢字🙂é",
        "\t",
        "\x7f",
        "\x1b[3~",
        "\x1bu",
        "\x1be",
        "\x1b/",
        "\x1b\\",
        "\x1b$",
        "\x1bx",
        "\x1b6",
        "\x1b}",
    ];
    exact(Program { name: "nano", args: &["text.c"], keys }).await;
}

#[tokio::test]
async fn mc_is_exact() {
    let keys = &[
        "\x1b[B", "\x1b[A", "\t", "\x1b[6~", "\x1b[5~", "\x1b9", "\x1b\x1b", "\x1b[2~", "\x1bt", "\x1b,", "echo hi",
        "\x15", "\x0c", "\x1b[C", "\x1b[D", "\x18i", "\x18q", "\x1b3", "\x1b1", "\x1b7", "\x1bs", "tex",
    ];
    exact(Program { name: "mc", args: &["-u"], keys }).await;
}

#[tokio::test]
async fn tmux_is_exact() {
    let keys = &[
        "ls\r",
        "\x02%",
        "\x02\"",
        "\x02o",
        "\x02 ",
        "seq 50\r",
        "\x02c",
        "\x02n",
        "\x02[",
        "\x1b[5~",
        "\x1b[A",
        "q",
        "printf '\\033[3%dmcoloured\\033[m\\n' 1 2 3\r",
        "\x02z",
        "clear\r",
        "cat text.c\r",
        "\x02t",
        "\x02w",
        "\x02?",
        "\x02:set mouse on\r",
        "\x02:set set-titles on\r",
        "\x02:resize-pane -L 3\r",
        "echo 漢字🙂é\r",
    ];
    exact(Program { name: "tmux", args: &["-f", "/dev/null", "new-session", "sh"], keys }).await;
}

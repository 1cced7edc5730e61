//! `dxflow shell connect` in a real terminal: given over, followed, left, and given back on every way out.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::support::{Engine, process, until, until_true, within};

/// A terminal with the program in it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    child: Option<Child>,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Opens a terminal of 80 columns and 24 rows, and runs the program there.
    fn run(engine: &Engine, arguments: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it can be used");
        let name = ptsname(&ours, Vec::new()).expect("a name");
        let theirs =
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("a tty");
        let mut terminal = Self { ours: ours.into(), theirs, child: None, shown: Arc::default() };
        terminal.set_size(80, 24);
        let end = || terminal.theirs.try_clone().expect("a copy");
        let mut command = engine.command(arguments);
        command.stdin(end()).stdout(end()).stderr(end());
        terminal.child = Some(command.spawn().expect("the program starts"));
        let (mut reader, shown) = (terminal.ours.try_clone().expect("a copy"), Arc::clone(&terminal.shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().expect("no panic").extend_from_slice(&buffer[..length]);
            }
        });
        terminal
    }

    fn set_size(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.theirs, size).expect("a size");
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).expect("a pid fits")
    }

    fn type_in(&self, text: &str) {
        (&self.ours).write_all(text.as_bytes()).expect("it is read");
    }

    fn shows(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).contains(text)
    }

    async fn until_shows(&self, text: &str) {
        until_true(&format!("`{text}` on the terminal"), || self.shows(text)).await;
    }

    /// Whether lines are edited and echoed here, as in a terminal that nobody took.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.theirs).expect("its modes").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    async fn until_raw(&self) {
        until_true("the raw mode", || !self.is_cooked()).await;
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let ended = tokio::task::spawn_blocking(move || child.wait().expect("it can be waited for"));
        within("the end of the program", ended).await.expect("no panic").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the terminal shows\n{}", String::from_utf8_lossy(&self.shown.lock().expect("no panic")));
        }
    }
}

async fn with_shell() -> Engine {
    let engine = Engine::start().await;
    let config = json!({ "command": "/bin/sh", "env": { "PS1": "prompt> " } });
    engine.post("/shell/", json!({ "identity": "t", "config": config })).await.expect(201);
    engine
}

#[tokio::test]
async fn the_detach_keys_leave_and_the_shell_runs_on() {
    let engine = with_shell().await;
    let mut terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
    terminal.until_raw().await;
    terminal.until_shows("prompt> ").await;
    terminal.type_in("echo typed-''here\r");
    terminal.until_shows("typed-here").await;
    terminal.type_in("\x1c\x1c");
    assert_eq!(terminal.exit_code().await, Some(0));
    assert!(terminal.is_cooked());
    terminal.until_shows("left t").await;
    let shell = engine.get("/shell/t/").await.expect(200);
    assert_eq!(shell["state"], "executed");
    // Who returns sees the screen as it is.
    let mut again = Terminal::run(&engine, &["shell", "connect", "t", "--detach-keys", "ctrl-a d"]);
    again.until_shows("typed-here").await;
    again.type_in("\x01d");
    assert_eq!(again.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_shells_end_is_ours() {
    let engine = with_shell().await;
    let mut terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
    terminal.until_shows("prompt> ").await;
    terminal.type_in("exit 9\r");
    assert_eq!(terminal.exit_code().await, Some(9));
    assert!(terminal.is_cooked());
}

#[tokio::test]
async fn the_size_is_followed() {
    let engine = with_shell().await;
    let terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
    terminal.until_shows("prompt> ").await;
    terminal.type_in("stty size\r");
    terminal.until_shows("24 80").await;
    terminal.set_size(101, 37);
    process::signal(terminal.pid(), Signal::WINCH);
    until("the new size", || async {
        let shell = engine.get("/shell/t/").await.expect(200);
        (shell["columns"] == 101 && shell["rows"] == 37).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back() {
    let engine = with_shell().await;
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
        terminal.until_raw().await;
        terminal.until_shows("prompt> ").await;
        process::signal(terminal.pid(), signal);
        assert_eq!(terminal.exit_code().await, Some(code), "{signal:?}");
        assert!(terminal.is_cooked(), "{signal:?}");
    }
}

#[tokio::test]
async fn what_a_program_did_to_the_terminal_is_undone_on_leaving() {
    let engine = with_shell().await;
    let mut terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
    terminal.until_shows("prompt> ").await;
    terminal.type_in("printf '\\033[?1049h\\033[?25l\\033[?1000hfull-''screen'\r");
    terminal.until_shows("full-screen").await;
    terminal.type_in("\x1c\x1c");
    assert_eq!(terminal.exit_code().await, Some(0));
    for undone in ["\x1b[?25h", "\x1b[?1000l", "\x1b[?1049l"] {
        terminal.until_shows(undone).await;
    }
}

#[tokio::test]
async fn who_only_watches_types_nothing() {
    let engine = with_shell().await;
    let mut viewer = Terminal::run(&engine, &["shell", "connect", "t", "--view"]);
    viewer.until_shows("prompt> ").await;
    viewer.type_in("echo never\r");
    engine.put("/shell/execute/", json!({ "identity": "t", "command": "echo from-''elsewhere" })).await.expect(200);
    viewer.until_shows("from-elsewhere").await;
    assert!(!viewer.shows("never"));
    viewer.type_in("\x03");
    assert_eq!(viewer.exit_code().await, Some(0));
    assert!(viewer.is_cooked());
}

#[tokio::test]
async fn a_broken_connection_comes_back_by_itself() {
    let mut engine = with_shell().await;
    let mut terminal = Terminal::run(&engine, &["shell", "connect", "t"]);
    terminal.until_shows("prompt> ").await;
    engine.kill().await;
    terminal.until_shows("connecting again").await;
    engine.boot().await;
    until("the new connection", || async {
        let shell = engine.get("/shell/t/").await.expect(200);
        (shell["sessions"] == 1).then_some(())
    })
    .await;
    terminal.type_in("echo here-''again\r");
    terminal.until_shows("here-again").await;
    engine.kill().await;
    terminal.until_shows("Ctrl-C leaves").await;
    terminal.type_in("\x03");
    assert_eq!(terminal.exit_code().await, Some(0));
    assert!(terminal.is_cooked());
}

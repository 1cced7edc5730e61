//! What the README promises, done as it says: its quick start in a terminal.

use std::process::Command;

use crate::support::{Engine, program, until};

const README: &str = include_str!("../../README.md");

/// The fenced lines that follow a comment.
fn block(comment: &str) -> String {
    let after = README.split_once(comment).unwrap_or_else(|| panic!("the README has `{comment}`")).1;
    let fenced = after.split_once("```sh\n").expect("a fence").1;
    fenced.split_once("```").expect("its end").0.to_owned()
}

/// A terminal of its own, by tmux.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn start(engine: &Engine) -> Self {
        let terminal = Self { socket: engine.scratch().join("tmux.sock") };
        let made =
            terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "30", "env PS1='$ ' bash --norc --noprofile"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(arguments);
        command.output().expect("tmux runs")
    }

    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    async fn until_shows(&self, text: &str) {
        let shown = async {
            while !self.screen().contains(text) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let shown = tokio::time::timeout(crate::support::PATIENCE, shown).await;
        assert!(shown.is_ok(), "waited in vain for `{text}`:\n{}", self.screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[tokio::test]
async fn the_quick_start_ends_in_a_live_shell() {
    let engine = Engine::start().await;
    let terminal = Terminal::start(&engine);
    terminal.until_shows("$").await;
    terminal.type_line(&format!("export DXFLOW_DATA_DIR={}", engine.data_dir().display()));
    terminal.type_line("cd; clear");
    for line in block("<!-- quick-start:").lines() {
        // A fresh clone has the program where the README says; the tests have it elsewhere.
        let line = line.replace("target/release/dxflow", &program().display().to_string());
        terminal.type_line(&line);
    }
    terminal.until_shows("live-42").await;
    // Connected: what is typed now goes to the engine's shell, not to the terminal's own.
    until("an attached session", || async {
        let shell = engine.get("/shell/work/").await.expect(200);
        (shell["sessions"] == 1).then_some(())
    })
    .await;
    terminal.type_line("echo in-the-shell-$((6 * 7)); tty");
    terminal.until_shows("in-the-shell-42").await;
    terminal.tmux(&["send-keys", "C-\\", "C-\\"]);
    until("the session's end", || async {
        let shell = engine.get("/shell/work/").await.expect(200);
        (shell["sessions"] == 0 && shell["state"] == "executed").then_some(())
    })
    .await;
}

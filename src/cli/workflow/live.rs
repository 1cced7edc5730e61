//! What becomes of each service while an operation runs: a line each that changes in place on a terminal, a line for each
//! change elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::error::Done;
use crate::cli::output::{Output, Style, cell, clean};

/// How often the spinners move.
const TICK: Duration = Duration::from_millis(120);

/// The containers and services of one operation.
pub(super) struct Live {
    output: Output,
    bars: Option<MultiProgress>,
    lines: BTreeMap<String, ProgressBar>,
    shown: usize,
}

impl Live {
    pub(super) fn new(output: Output) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { output, bars, lines: BTreeMap::new(), shown: 0 }
    }

    /// Shows a change.
    pub(super) fn show(&mut self, entity: &Value) -> Done {
        let name = ["name", "container", "service", "resource", "id", "image"]
            .iter()
            .map(|name| cell(&entity[*name]))
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        let state = ["state", "status", "action", "event"]
            .iter()
            .map(|name| cell(&entity[*name]))
            .find(|state| !state.is_empty())
            .unwrap_or_default();
        let error = cell(&entity["error"]);
        let detail =
            ["detail", "progress", "message"].iter().map(|name| cell(&entity[*name])).find(|text| !text.is_empty());
        let (name, state, error) = (clean(&name), clean(&state), clean(&error));
        let detail = clean(&detail.unwrap_or_default());
        self.shown += 1;
        let Some(bars) = &self.bars else {
            let words = [name, state, detail, error].into_iter().filter(|word| !word.is_empty());
            return self.output.line(words.collect::<Vec<_>>().join("\t"));
        };
        let line = self.lines.entry(name.clone()).or_insert_with(|| {
            let line = bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {prefix:24} {wide_msg}");
            line.set_style(style.expect("our template is well-formed"));
            line.set_prefix(name);
            line.enable_steady_tick(TICK);
            line
        });
        let style = if error.is_empty() { Style::of_state(&state) } else { Style::Bad };
        let words = [self.output.paint(style, &state), detail, error].into_iter().filter(|word| !word.is_empty());
        line.set_message(words.collect::<Vec<_>>().join("  "));
        Ok(())
    }

    /// Ends; the last states stay on the terminal. Gives how many lines there are.
    pub(super) fn finish(&mut self) -> usize {
        for line in self.lines.values() {
            line.abandon();
        }
        if self.bars.is_some() { self.lines.len() } else { self.shown }
    }
}

//! Bars for transfers: one for the whole, one for each large file on its way. Only on a terminal, only on the standard
//! error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::output::{Output, clean, duration, size};

/// Smaller files are over before their bar is read.
const OWN_BAR: u64 = 8 << 20;
/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// The progress of one command.
pub(crate) struct Progress {
    bars: Option<(MultiProgress, ProgressBar)>,
    output: Output,
    started: Instant,
}

impl Progress {
    /// Begins. `bytes` is how many there will be, as far as it is known.
    pub(crate) fn new(output: Output, what: &'static str, bytes: Option<u64>) -> Self {
        let bars = (std::io::stderr().is_terminal() && !output.json).then(|| {
            let all = MultiProgress::new();
            let total = all.add(ProgressBar::new(bytes.unwrap_or(0)));
            let style = match bytes {
                Some(_) => "{prefix:>12} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left{msg}",
                None => "{prefix:>12} {spinner} {binary_bytes} {binary_bytes_per_sec}{msg}",
            };
            total.set_style(style_of(style));
            total.set_prefix(what);
            total.enable_steady_tick(TICK);
            (all, total)
        });
        Self { bars, output, started: Instant::now() }
    }

    /// More is to be done than was known.
    pub(crate) fn expect(&self, bytes: u64) {
        if let Some((_, total)) = &self.bars {
            total.inc_length(bytes);
        }
    }

    /// Says how far it is in words, behind the bar.
    pub(crate) fn say(&self, text: &str) {
        if let Some((_, total)) = &self.bars {
            total.set_message(format!("  {}", clean(text)));
        }
    }

    /// Sets how far the whole is.
    pub(crate) fn set(&self, done: u64, of: Option<u64>) {
        if let Some((_, total)) = &self.bars {
            if let Some(of) = of {
                total.set_length(of);
            }
            total.set_position(done);
        }
    }

    /// The bar of one file.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> FileBar {
        let own = self.bars.as_ref().filter(|_| bytes >= OWN_BAR).map(|(all, _)| {
            let bar = all.add(ProgressBar::new(bytes));
            bar.set_style(style_of(
                "{msg:>24.dim} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
            ));
            let name = clean(name);
            let short: String = name.chars().rev().take(24).collect::<Vec<_>>().into_iter().rev().collect();
            bar.set_message(short);
            (all.clone(), bar)
        });
        FileBar { own, total: self.bars.as_ref().map(|(_, total)| total.clone()), counted: 0 }
    }

    /// Writes a line without tearing the bars.
    pub(crate) fn note(&self, text: &str) {
        match &self.bars {
            Some((all, _)) => all.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }

    /// Ends, and says in a line what was done.
    pub(crate) fn finish(self, what: &str, files: usize, bytes: u64) {
        let Some((all, total)) = self.bars else { return };
        total.finish_and_clear();
        let _ = all.clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = size((bytes as f64 / seconds.max(0.001)) as u64);
        self.output.note(format!("{files} file(s) {what}, {} in {} ({rate}/s)", size(bytes), duration(seconds)));
    }

    /// Ends without a word.
    pub(crate) fn clear(self) {
        if let Some((all, total)) = self.bars {
            total.finish_and_clear();
            let _ = all.clear();
        }
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("our templates are well-formed").progress_chars("=> ")
}

/// How far one file is.
pub(crate) struct FileBar {
    own: Option<(MultiProgress, ProgressBar)>,
    total: Option<ProgressBar>,
    counted: u64,
}

impl FileBar {
    /// Sets how much of the file is done; less than before after a try that failed.
    pub(crate) fn set(&mut self, done: u64) {
        if let Some((_, bar)) = &self.own {
            bar.set_position(done);
        }
        if let Some(total) = &self.total {
            if done >= self.counted {
                total.inc(done - self.counted);
            } else {
                total.set_position(total.position().saturating_sub(self.counted - done));
            }
        }
        self.counted = done;
    }
}

impl Drop for FileBar {
    fn drop(&mut self) {
        if let Some((all, bar)) = &self.own {
            bar.finish_and_clear();
            all.remove(bar);
        }
    }
}

//! `dxflow load shells`: opens many shells, drives them, and tells how long everything took.
//!
//! ```text
//! opening (at a rate) ─► driving (for a duration) ─► stopping ─► removing ─► table, JSON, report
//! ```
//!
//! The shells are made, attached to and removed over the API like anybody's. They are removed on Ctrl-C too. Any error
//! makes the exit code 1.

mod histogram;
mod report;
mod usage;
mod worker;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::histogram::Histogram;
use self::usage::{Processes, Usage};
use self::worker::{Measured, Phase, lock};
use super::args::{LoadShells, Workload};
use super::client::{Call, Client, Endpoint};
use super::error::{CliError, Done, REFUSED};
use super::output::{Align, Output, Style, Table, duration, size};
use super::settings::Settings;

/// How many shells are being made at once where no rate is asked for.
const MAKING: usize = 32;
/// How often it is looked at.
const SAMPLE: Duration = Duration::from_secs(1);
/// How often the line of progress changes.
const TICK: Duration = Duration::from_millis(200);
/// How many shells one call removes.
const REMOVED_AT_ONCE: usize = 50;
/// How long the sessions may take to let go.
const LETTING_GO: Duration = Duration::from_secs(15);
/// The parts of all that the table tells.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// The state of things at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Seconds since the start.
    pub(crate) at: f64,
    pub(crate) open: usize,
    /// Bytes a second since the sample before.
    pub(crate) rate: f64,
    /// Seconds that 50 and 99 % of the echoes since then did not exceed.
    pub(crate) echo: Option<(f64, f64)>,
    pub(crate) usage: Option<Usage>,
}

/// Everything that was found out.
pub(crate) struct Outcome {
    pub(crate) options: Arc<LoadShells>,
    pub(crate) address: String,
    pub(crate) latencies: Vec<(&'static str, Histogram)>,
    /// Bytes, and seconds, of the driving.
    pub(crate) driven: (u64, f64),
    pub(crate) opening: f64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// The most that were open at once.
    pub(crate) most: usize,
}

/// Runs the test.
pub(crate) async fn shells(options: LoadShells, client: Arc<Client>, settings: &Settings, output: Output) -> Done {
    raise_descriptor_limit(output);
    // Whether anybody answers, and whether we may, is told before a thousand errors do.
    client.value(Call::get("/shell/").query("limit", 1)).await?;
    let processes = match client.endpoint() {
        Endpoint::Unix(_) => Processes::find(&settings.data_dir),
        Endpoint::Tcp { .. } => None,
    };
    let test = Test {
        measured: Arc::default(),
        options: Arc::new(options),
        client,
        processes,
        data_dir: settings.data_dir.clone(),
        output,
        started: Instant::now(),
    };
    let (outcome, interrupted) = Box::pin(test.run()).await?;
    if let Some(path) = &outcome.options.report {
        std::fs::write(path, report::html(&outcome))
            .map_err(|error| CliError::failed(format!("failed to write `{}`", path.display()), error))?;
        output.note(format!("the report is in `{}`", path.display()));
    }
    tell(&outcome, output)?;
    if interrupted {
        return Err(CliError::Exit(130));
    }
    if outcome.errors.is_empty() { Ok(()) } else { Err(CliError::Exit(REFUSED)) }
}

struct Test {
    measured: Arc<Measured>,
    options: Arc<LoadShells>,
    client: Arc<Client>,
    processes: Option<Processes>,
    data_dir: std::path::PathBuf,
    output: Output,
    started: Instant,
}

impl Test {
    async fn run(mut self) -> Result<(Outcome, bool), CliError> {
        let bar = (std::io::stderr().is_terminal() && !self.output.json).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("our template is well-formed"));
            bar.enable_steady_tick(TICK);
            bar
        });
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .map_err(|error| CliError::failed("failed to listen for signals", error))?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| CliError::failed("failed to listen for signals", error))?;
        let (tell_phase, phase) = watch::channel(Phase::Opening);
        let mut sessions = JoinSet::new();
        let usage = self.processes.as_ref().and_then(Processes::usage);
        let (mut samples, mut most) = (vec![Sample { usage, ..Sample::default() }], 0);
        let mut last_sample = (self.started, 0_u64);
        let (mut opened_at, mut driven_from) = (None, 0_u64);
        let total = usize::try_from(self.options.number).unwrap_or(usize::MAX);
        let (mut spawned, mut stop) = (0_usize, false);
        let prefix = format!("load-{}", random_name()?);
        let mut ticks = tokio::time::interval(TICK);
        let mut opening = tokio::time::interval(self.opening_pause());
        opening.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        while !stop {
            let settled = self.measured.open.load(Ordering::Relaxed) + self.measured.failed.load(Ordering::Relaxed);
            let may_open = spawned < total && (self.options.rate > 0 || spawned.saturating_sub(settled) < MAKING);
            tokio::select! {
                _ = opening.tick(), if may_open => {
                    spawned += 1;
                    let identity = format!("{prefix}-{spawned:06}");
                    let (client, measured) = (Arc::clone(&self.client), Arc::clone(&self.measured));
                    sessions.spawn(worker::live(client, measured, identity, Arc::clone(&self.options), phase.clone()));
                }
                _ = ticks.tick() => {
                    let open = self.measured.open.load(Ordering::Relaxed);
                    most = most.max(open);
                    let settled = sessions.len() < spawned || spawned == total;
                    let failed = self.measured.failed.load(Ordering::Relaxed);
                    if opened_at.is_none() && settled && spawned == total && open + failed >= total {
                        opened_at = Some(Instant::now());
                        driven_from = self.measured.bytes.load(Ordering::Relaxed);
                        tell_phase.send_replace(Phase::Driving);
                    }
                    if last_sample.0.elapsed() >= SAMPLE {
                        samples.push(self.sample(&mut last_sample));
                    }
                    if let Some(bar) = &bar {
                        bar.set_message(self.status(total, opened_at, samples.last()));
                    }
                    // With nothing left to drive there is nothing to wait for.
                    stop = opened_at.is_some_and(|at| at.elapsed() >= self.options.duration.0 || open == 0);
                }
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        let ended = Instant::now();
        let bytes = self.measured.bytes.load(Ordering::Relaxed).saturating_sub(driven_from);
        samples.push(self.sample(&mut last_sample));
        tell_phase.send_replace(Phase::Stopping);
        if let Some(bar) = &bar {
            bar.set_message("letting go and removing");
        }
        let let_go = async { while sessions.join_next().await.is_some() {} };
        if tokio::time::timeout(LETTING_GO, let_go).await.is_err() && stop {
            self.measured.error("session", "it does not let go");
        }
        sessions.shutdown().await;
        self.remove().await;
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        let take = |histogram: &std::sync::Mutex<Histogram>| lock(histogram).clone();
        let outcome = Outcome {
            options: Arc::clone(&self.options),
            address: self.client.endpoint().to_string(),
            latencies: vec![
                ("create", take(&self.measured.create)),
                ("first byte", take(&self.measured.first_byte)),
                ("echo", take(&self.measured.echo)),
                ("remove", take(&self.measured.remove)),
            ],
            driven: (bytes, opened_at.map_or(0.0, |at| ended.duration_since(at).as_secs_f64())),
            opening: opened_at.unwrap_or(ended).duration_since(self.started).as_secs_f64(),
            samples,
            errors: self.measured.errors(),
            most,
        };
        Ok((outcome, !stop))
    }

    fn opening_pause(&self) -> Duration {
        match self.options.rate {
            0 => Duration::from_micros(100),
            rate => Duration::from_secs(1) / rate,
        }
    }

    fn sample(&mut self, last: &mut (Instant, u64)) -> Sample {
        if let Some(processes) = self.processes.as_mut().filter(|processes| !processes.has_keeper()) {
            *processes = processes.with_keeper(&self.data_dir);
        }
        let (now, bytes) = (Instant::now(), self.measured.bytes.load(Ordering::Relaxed));
        let seconds = now.duration_since(last.0).as_secs_f64().max(0.001);
        let recent = std::mem::take(&mut *lock(&self.measured.recent_echo));
        let sample = Sample {
            at: self.started.elapsed().as_secs_f64(),
            open: self.measured.open.load(Ordering::Relaxed),
            rate: bytes.saturating_sub(last.1) as f64 / seconds,
            echo: recent.quantile(0.5).zip(recent.quantile(0.99)),
            usage: self.processes.as_ref().and_then(Processes::usage),
        };
        *last = (now, bytes);
        sample
    }

    /// The line of progress.
    fn status(&self, total: usize, opened_at: Option<Instant>, last: Option<&Sample>) -> String {
        let open = self.measured.open.load(Ordering::Relaxed);
        let errors: u64 = self.measured.errors().values().sum();
        let what = match opened_at {
            None => format!("opening: {open} of {total}"),
            Some(at) => {
                let left = self.options.duration.0.saturating_sub(at.elapsed());
                format!("{open} shells, {} left", duration(left.as_secs_f64()))
            }
        };
        let mut text = what;
        if let Some(sample) = last {
            text.push_str(&format!(", {}/s", size(sample.rate as u64)));
            if let Some((half, most)) = sample.echo {
                text.push_str(&format!(", echo p50 {} p99 {}", duration(half), duration(most)));
            }
            if let Some(usage) = &sample.usage {
                text.push_str(&format!(", engine {}", size(usage.engine.memory)));
            }
        }
        text.push_str(&format!(", {errors} errors"));
        text
    }

    /// Removes the shells again.
    async fn remove(&self) {
        let made = std::mem::take(&mut *lock(&self.measured.made));
        for identities in made.chunks(REMOVED_AT_ONCE) {
            let started = Instant::now();
            let call = Call::delete("/shell/batch/").json(&json!({ "identities": identities }));
            match self.client.value(call).await {
                Ok(answer) => {
                    let each = started.elapsed() / u32::try_from(identities.len()).unwrap_or(1).max(1);
                    for item in answer.as_array().into_iter().flatten() {
                        if item["removed"] == Value::Bool(true) {
                            lock(&self.measured.remove).record(each);
                        } else {
                            self.measured.error("remove", super::output::cell(&item["error"]));
                        }
                    }
                }
                Err(error) => self.measured.error("remove", error),
            }
        }
    }
}

fn random_name() -> Result<String, CliError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| CliError::failed("failed to get random bytes", error))?;
    Ok(hex::encode(bytes))
}

/// Each shell needs a connection: as many as the system allows.
fn raise_descriptor_limit(output: Output) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        output.detail("the limit of open files cannot be raised");
    }
}

impl Outcome {
    /// Megabytes a second of output while it was driven.
    pub(crate) fn throughput(&self) -> f64 {
        let (bytes, seconds) = self.driven;
        if seconds > 0.0 { bytes as f64 / seconds / 1e6 } else { 0.0 }
    }

    /// The usage with the most memory, and how much of it each shell brought.
    pub(crate) fn peak(&self) -> Option<(Usage, f64)> {
        let used = |sample: &Sample| sample.usage.map_or(0, |usage| usage.engine.memory + usage.keeper.memory);
        let peak = self.samples.iter().max_by_key(|sample| used(sample))?;
        let first = self.samples.iter().find(|sample| sample.usage.is_some())?;
        let grown = used(peak).saturating_sub(used(first)) as f64;
        Some((peak.usage?, grown / (peak.open.saturating_sub(first.open)).max(1) as f64))
    }

    /// The processor time that engine and keeper took, as a part of one core.
    pub(crate) fn cpu(&self) -> Option<(f64, f64)> {
        let mut used = self.samples.iter().filter_map(|sample| Some((sample.at, sample.usage?)));
        let (from, first) = used.next()?;
        let (to, last) = used.next_back()?;
        let seconds = (to - from).max(0.001);
        Some(((last.engine.cpu - first.engine.cpu) / seconds, (last.keeper.cpu - first.keeper.cpu) / seconds))
    }

    fn json(&self) -> Value {
        let latencies: serde_json::Map<String, Value> = self
            .latencies
            .iter()
            .filter(|(_, histogram)| histogram.count() > 0)
            .map(|(name, histogram)| {
                let part = |part| histogram.quantile(part);
                let told = json!({
                    "count": histogram.count(), "p50": part(0.5), "p90": part(0.9), "p99": part(0.99),
                    "p999": part(0.999), "max": histogram.max(),
                });
                (name.replace(' ', "_"), told)
            })
            .collect();
        let usage = self.peak().map(|(usage, each)| {
            let process =
                |process: usage::Process| json!({ "memory": process.memory, "descriptors": process.descriptors });
            let cpu = self.cpu().unwrap_or_default();
            json!({
                "engine": process(usage.engine), "keeper": process(usage.keeper), "memory_per_shell": each,
                "engine_cpu": cpu.0, "keeper_cpu": cpu.1,
            })
        });
        json!({
            "shells": self.options.number,
            "most_at_once": self.most,
            "workload": workload(self.options.workload),
            "opening_seconds": self.opening,
            "driven_seconds": self.driven.1,
            "bytes": self.driven.0,
            "megabytes_per_second": self.throughput(),
            "latency_seconds": latencies,
            "usage": usage,
            "errors": self.errors,
        })
    }
}

pub(crate) fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::Idle => "idle",
        Workload::Echo => "echo",
        Workload::Flood => "flood",
        Workload::Redraw => "redraw",
    }
}

fn tell(outcome: &Outcome, output: Output) -> Done {
    if output.json {
        return output.json(&outcome.json());
    }
    let names = ["", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"];
    let mut columns = names.map(|name| (name, Align::Right));
    columns[0].1 = Align::Left;
    let mut table = Table::new(&columns);
    for (name, histogram) in outcome.latencies.iter().filter(|(_, histogram)| histogram.count() > 0) {
        let mut row = vec![((*name).to_owned(), Style::Plain), (histogram.count().to_string(), Style::Faint)];
        let parts = QUANTILES.iter().filter_map(|part| histogram.quantile(*part));
        row.extend(parts.chain([histogram.max()]).map(|seconds| (duration(seconds), Style::Plain)));
        table.row(row);
    }
    output.report(&table)?;
    let mut lines = vec![
        ("shells", format!("{} asked for, {} at once", outcome.options.number, outcome.most)),
        ("opened in", duration(outcome.opening)),
        ("throughput", format!("{:.2} MB/s", outcome.throughput())),
    ];
    if let Some((usage, each)) = outcome.peak() {
        let (engine, keeper) = outcome.cpu().unwrap_or_default();
        let words = |process: usage::Process, cpu: f64| {
            format!("{}, {} descriptors, {:.0} % of a core", size(process.memory), process.descriptors, cpu * 100.0)
        };
        lines.push(("engine", words(usage.engine, engine)));
        lines.push(("keeper", words(usage.keeper, keeper)));
        lines.push(("memory per shell", size(each as u64)));
    }
    let errors: u64 = outcome.errors.values().sum();
    lines.push(("errors", errors.to_string()));
    output.properties(&lines)?;
    for (kind, count) in &outcome.errors {
        output.note(format!("dxflow: {count} × {}", super::output::clean(kind)));
    }
    Ok(())
}

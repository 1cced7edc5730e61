//! The report of a load test: one HTML file with its drawings in it, that needs nothing else and no network.

use std::fmt::Write as _;

use super::{Outcome, QUANTILES, workload};
use crate::cli::output::{duration, size};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for the axes: left, right, top, bottom.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
const COLORS: [&str; 4] = ["#2563eb", "#d97706", "#059669", "#dc2626"];
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:760px;padding:0 1rem;color:#1f2937;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}table{border-collapse:collapse;width:100%}\
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e5e7eb}td:first-child,th:first-child{text-align:left}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#6b7280}.grid{stroke:#e5e7eb}.axis{stroke:#9ca3af}\
.bad{color:#dc2626}.note{color:#6b7280}\
@media(prefers-color-scheme:dark){body{color:#e5e7eb;background:#111827}td,th{border-color:#374151}.grid{stroke:#374151}}";

/// Writes the report.
pub(crate) fn html(outcome: &Outcome) -> String {
    let options = &outcome.options;
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = write!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width\"><title>dxflow load shells</title><style>{STYLE}</style></head><body>\
         <h1>{} shells, {}</h1><p class=\"note\">{} · dxflow {} · opened at {} a second in {}, driven for {} · {}</p>",
        options.number,
        workload(options.workload),
        escape(&outcome.address),
        env!("CARGO_PKG_VERSION"),
        if options.rate == 0 { "any number".to_owned() } else { options.rate.to_string() },
        duration(outcome.opening),
        duration(outcome.driven.1),
        escape(&options.command),
    );
    page.push_str(
        "<table><tr><th></th><th>count</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>",
    );
    for (name, histogram) in outcome.latencies.iter().filter(|(_, histogram)| histogram.count() > 0) {
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td>", histogram.count());
        for seconds in QUANTILES.iter().filter_map(|part| histogram.quantile(*part)).chain([histogram.max()]) {
            let _ = write!(page, "<td>{}</td>", duration(seconds));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    let errors: u64 = outcome.errors.values().sum();
    let _ = write!(
        page,
        "<p>Most at once: {}. Throughput: {:.2} MB/s. Errors: <span class=\"{}\">{errors}</span>.",
        outcome.most,
        outcome.throughput(),
        if errors > 0 { "bad" } else { "" },
    );
    if let Some((usage, each)) = outcome.peak() {
        let (engine, keeper) = outcome.cpu().unwrap_or_default();
        let _ = write!(
            page,
            " Engine: {} and {:.0} % of a core; keeper: {} and {:.0} %. Memory for each shell: {}.",
            size(usage.engine.memory),
            engine * 100.0,
            size(usage.keeper.memory),
            keeper * 100.0,
            size(each as u64),
        );
    }
    page.push_str("</p>");
    for (kind, count) in &outcome.errors {
        let _ = write!(page, "<p class=\"bad\">{count} × {}</p>", escape(kind));
    }
    page.push_str(&charts(outcome));
    page.push_str("</body></html>\n");
    page
}

fn charts(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Percentiles to the right, each step a nine more.
    let latencies: Vec<Series> = outcome
        .latencies
        .iter()
        .filter(|(name, histogram)| histogram.count() > 0 && *name != "remove")
        .map(|(name, histogram)| {
            let nines = (histogram.count() as f64).log10().clamp(1.0, 5.0);
            let points = (0..=100_u32).filter_map(|step| {
                let x = nines * f64::from(step) / 100.0;
                Some((x, histogram.quantile(1.0 - 10_f64.powf(-x))?.max(1e-5)))
            });
            Series { name: (*name).to_owned(), points: points.collect() }
        })
        .collect();
    let nines = |x: f64| match x.round() as i32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
    };
    text.push_str(&chart("Latency by percentile", &latencies, &Axis { log: true, label: &duration }, &nines));
    let seconds = |x: f64| format!("{x:.0} s");
    let over_time = |name: &str, value: &dyn Fn(&super::Sample) -> Option<f64>| Series {
        name: name.to_owned(),
        points: outcome.samples.iter().filter_map(|sample| Some((sample.at, value(sample)?))).collect(),
    };
    let echo = [over_time("p50", &|sample| Some(sample.echo?.0)), over_time("p99", &|sample| Some(sample.echo?.1))];
    text.push_str(&chart("Echo over time", &echo, &Axis { log: true, label: &duration }, &seconds));
    let open = [over_time("shells", &|sample| Some(sample.open as f64))];
    text.push_str(&chart("Open shells", &open, &Axis { log: false, label: &|value| format!("{value:.0}") }, &seconds));
    let rate = [over_time("output", &|sample| Some(sample.rate))];
    let bytes = |value: f64| size(value.max(0.0) as u64);
    text.push_str(&chart("Output a second", &rate, &Axis { log: false, label: &bytes }, &seconds));
    let memory = [
        over_time("engine", &|sample| Some(sample.usage?.engine.memory as f64)),
        over_time("keeper", &|sample| Some(sample.usage?.keeper.memory as f64)),
    ];
    text.push_str(&chart("Memory", &memory, &Axis { log: false, label: &bytes }, &seconds));
    let cpu = |of: fn(&super::Usage) -> f64| {
        let used: Vec<_> = outcome.samples.iter().filter_map(|sample| Some((sample.at, of(&sample.usage?)))).collect();
        used.windows(2)
            .map(|pair| (pair[1].0, (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0).max(0.001) * 100.0))
            .collect()
    };
    let cpu = [
        Series { name: "engine".into(), points: cpu(|usage| usage.engine.cpu) },
        Series { name: "keeper".into(), points: cpu(|usage| usage.keeper.cpu) },
    ];
    let percent = |value: f64| format!("{value:.0} %");
    text.push_str(&chart("Processor, of one core", &cpu, &Axis { log: false, label: &percent }, &seconds));
    text
}

struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Axis<'a> {
    log: bool,
    label: &'a dyn Fn(f64) -> String,
}

/// Draws lines over a grid; nothing where there are no points.
fn chart(title: &str, series: &[Series], axis: &Axis<'_>, x_label: &dyn Fn(f64) -> String) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    if points().count() < 2 {
        return String::new();
    }
    let x_max = points().map(|point| point.0).fold(1e-9, f64::max);
    let scaled = |value: f64| if axis.log { value.max(1e-9).log10() } else { value };
    let high = scaled(points().map(|point| point.1).fold(1e-9, f64::max));
    let low = if axis.log { points().map(|point| scaled(point.1)).fold(f64::INFINITY, f64::min) } else { 0.0 };
    let (low, high) = if axis.log { (low.floor(), high.ceil().max(low.floor() + 1.0)) } else { (0.0, nice(high)) };
    let x_of = |x: f64| LEFT + x / x_max * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - (scaled(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut text =
        format!("<h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
    let steps = if axis.log { (high - low).round() as u32 } else { 4 };
    for step in 0..=steps {
        let place = low + (high - low) * f64::from(step) / f64::from(steps);
        let value = if axis.log { 10_f64.powf(place) } else { place };
        let y = y_of(value);
        let _ = write!(
            text,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(&(axis.label)(value)),
        );
    }
    let marks = if x_max <= 6.0 { (x_max.floor() as u32).max(1) } else { 6 };
    for mark in 0..=marks {
        let at = if x_max <= 6.0 { f64::from(mark).min(x_max) } else { x_max * f64::from(mark) / f64::from(marks) };
        let _ = write!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x_of(at),
            HEIGHT - BOTTOM + 18.0,
            escape(&x_label(at)),
        );
    }
    let floor = HEIGHT - BOTTOM;
    let _ =
        write!(text, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{floor}\" y2=\"{floor}\"/>", WIDTH - RIGHT);
    for (index, series) in series.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let path: Vec<String> = series.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let _ = write!(
            text,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\" points=\"{}\"/>",
            path.join(" ")
        );
        let x = LEFT + 10.0 + 110.0 * index as f64;
        let _ = write!(
            text,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"3\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            TOP - 4.0,
            x + 14.0,
            TOP + 1.0,
            escape(&series.name),
        );
    }
    text.push_str("</svg>");
    text
}

/// The next number that reads well on an axis.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let step = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().find(|step| step * power >= value).unwrap_or(10.0);
    step * power
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::cli::args::{Cli, Command, Load};
    use crate::cli::load::histogram::Histogram;
    use crate::cli::load::{Sample, Usage};

    #[test]
    fn a_report_is_whole_and_needs_nothing_else() {
        let line = ["dxflow", "load", "shells", "-n", "3", "--command", "/bin/<sh>"];
        let Command::Load(Load::Shells(options)) = Cli::parse_from(line).command else { panic!("another command") };
        let mut echo = Histogram::default();
        (1..500).for_each(|number| echo.record(Duration::from_micros(number * 37)));
        let samples = (0..5).map(|number| Sample {
            at: f64::from(number),
            open: 3,
            rate: 1e6 * f64::from(number),
            echo: Some((0.001, 0.004)),
            usage: Some(Usage::default()),
        });
        let outcome = Outcome {
            options: Arc::new(options),
            address: "unix:///x".into(),
            latencies: vec![("create", Histogram::default()), ("echo", echo)],
            driven: (1_000_000, 2.0),
            opening: 0.1,
            samples: samples.collect(),
            errors: [("create: 503 <overloaded>".to_owned(), 2)].into(),
            most: 3,
        };
        let page = html(&outcome);
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(
            page.contains("0.50 MB/s") && page.contains("503 &lt;overloaded&gt;") && page.contains("/bin/&lt;sh&gt;")
        );
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.matches("<svg").count() >= 5);
        for outside in ["http://", "https://", "<script", "NaN", "inf"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn axes_end_on_numbers_that_read_well() {
        for (value, end) in [(0.0, 1e-9), (7.3, 8.0), (101.0, 200.0), (1000.0, 1000.0)] {
            assert!((nice(value) - end).abs() <= end * 1e-6, "{value}");
        }
    }
}

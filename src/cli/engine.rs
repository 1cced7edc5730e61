//! `dxflow engine …`: how an engine is, and its restart.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use super::args::{Engine, StatKind};
use super::client::{Call, Client};
use super::error::{CliError, Done, REFUSED};
use super::output::{Align, Output, Style, Table, cell, clean, duration, size, time};

/// Runs one of the commands.
pub(crate) async fn run(command: Engine, client: &Client, output: Output) -> Done {
    match command {
        Engine::Healthcheck => healthcheck(client, output).await,
        Engine::Ping { count, interval } => ping(client, output, count, interval).await,
        Engine::Restart { process } => {
            let mut call = Call::put("/engine/restart/");
            if process {
                call = call.json(&json!({ "mode": "process" }));
            }
            let answer = client.value(call).await?;
            if output.json { output.json(&answer) } else { output.line(clean(&cell(&answer))) }
        }
        Engine::Token { lifetime } => {
            let token = client.new_token(lifetime.map(|lifetime| lifetime.to_string())).await?;
            if output.json { output.json(&json!({ "token": token })) } else { output.line(token) }
        }
        Engine::Info => info(client, output).await,
        Engine::Stat { kinds, follow } => stat(client, output, &kinds, follow).await,
        Engine::Tree => tree(client, output).await,
    }
}

async fn healthcheck(client: &Client, output: Output) -> Done {
    let (health, well) = match client.value(Call::get("/engine/healthcheck/")).await {
        Ok(health) => (health, true),
        // What is down stands in the same description, with another status.
        Err(CliError::Refused { problem, .. }) if problem.get("components").is_some() => (problem, false),
        Err(error) => return Err(error),
    };
    if output.json {
        output.json(&health)?;
    } else {
        let status = cell(&health["status"]);
        output.properties(&[
            ("status", output.paint(Style::Plain, &status)),
            ("version", cell(&health["version"])),
            ("uptime", health["uptime"].as_f64().map_or_else(|| cell(&health["uptime"]), duration)),
            ("generation", cell(&health["generation"])),
        ])?;
        let mut table = Table::new(&[("COMPONENT", Align::Left), ("STATUS", Align::Left), ("DETAIL", Align::Left)]);
        for (name, component) in health["components"].as_object().into_iter().flatten() {
            let status = cell(&component["status"]);
            let style = Style::of_state(&status);
            table.row(vec![(name.clone(), Style::Plain), (status, style), (cell(&component["detail"]), Style::Faint)]);
        }
        output.table(&table)?;
    }
    if well { Ok(()) } else { Err(CliError::Exit(REFUSED)) }
}

async fn ping(client: &Client, output: Output, count: u32, interval: u32) -> Done {
    let call = Call::get("/engine/ping/").query("count", count).query("interval", interval).streamed();
    let started = Instant::now();
    let mut reply = client.send(call).await?;
    let mut times = Vec::new();
    while let Some(at) = reply.entity().await? {
        if !output.json {
            let milliseconds = at.as_i64().unwrap_or_default();
            output.line(format!(
                "pong {} from {}: engine's clock {}.{:03}",
                times.len() + 1,
                client.endpoint(),
                time(milliseconds / 1000).trim_end_matches('Z'),
                milliseconds.rem_euclid(1000),
            ))?;
        }
        times.push(at);
    }
    if output.json {
        return output.json(&Value::Array(times));
    }
    output.detail(format!("{} answers in {}", times.len(), duration(started.elapsed().as_secs_f64())));
    Ok(())
}

async fn info(client: &Client, output: Output) -> Done {
    let parameter = client.value(Call::get("/engine/parameter/")).await?;
    let attribute = client.value(Call::get("/engine/attribute/")).await?;
    if output.json {
        return output.json(&json!({ "parameter": parameter, "attribute": attribute }));
    }
    let (host, cpu) = (&attribute["host"], &attribute["cpu"]);
    let bytes = |value: &Value| value.as_u64().map(size).unwrap_or_default();
    let words =
        |values: &[&Value]| values.iter().map(|value| cell(value)).collect::<Vec<_>>().join(" ").trim().to_owned();
    output.properties(&[
        ("identity", cell(&parameter["identity"])),
        ("version", cell(&attribute["version"])),
        ("started", attribute["boot"].as_i64().map(time).unwrap_or_default()),
        ("directory", cell(&parameter["directory"])),
        ("volume", cell(&parameter["volume"])),
        ("profile", cell(&parameter["config_profile"])),
        ("host", words(&[&host["name"], &host["platform"], &host["version"], &host["arch"]])),
        ("host started", host["boot"].as_i64().map(time).unwrap_or_default()),
        ("cpu", format!("{} ({} cores)", cell(&cpu["model"]), cell(&cpu["cores"]))),
        ("memory", bytes(&attribute["memory"]["physical"])),
        ("swap", bytes(&attribute["memory"]["swap"])),
    ])?;
    for disk in attribute["disk"].as_array().into_iter().flatten() {
        output.properties(&[(
            "disk",
            format!("{} {} {}", cell(&disk["name"]), cell(&disk["path"]), bytes(&disk["size"])),
        )])?;
    }
    for network in attribute["network"].as_array().into_iter().flatten() {
        output.properties(&[("network", words(&[&network["name"], &network["address"]]))])?;
    }
    Ok(())
}

async fn stat(client: &Client, output: Output, kinds: &[StatKind], follow: bool) -> Done {
    let all = [StatKind::Cpu, StatKind::Memory, StatKind::Disk, StatKind::Network];
    let wanted: Vec<&str> = all
        .into_iter()
        .filter(|kind| kinds.is_empty() || kinds.contains(kind))
        .map(|kind| match kind {
            StatKind::Cpu => "cpu",
            StatKind::Memory => "memory",
            StatKind::Disk => "disk",
            StatKind::Network => "network",
        })
        .collect();
    if !follow {
        let mut samples = Vec::new();
        for kind in wanted {
            let sample = client.value(Call::get(format!("/engine/stat/last/{kind}/"))).await?;
            if !output.json {
                output.raw(describe_sample(kind, &sample).as_bytes())?;
            }
            samples.push(sample);
        }
        return if output.json { output.json(&Value::Array(samples)) } else { Ok(()) };
    }
    let mut reply = client.send(Call::get("/engine/stat/live/").query("duration", 0).streamed()).await?;
    while let Some(sample) = reply.entity().await? {
        let kind = cell(&sample["type"]);
        if !wanted.contains(&kind.as_str()) {
            continue;
        }
        if output.json {
            output.json(&sample)?;
        } else {
            output.raw(describe_sample(&kind, &sample).as_bytes())?;
        }
    }
    Ok(())
}

fn describe_sample(kind: &str, sample: &Value) -> String {
    let mut text = String::new();
    let points = sample.get("points").unwrap_or(sample);
    for (name, point) in points.as_object().into_iter().flatten() {
        let percent = |name: &str| point[name].as_f64().unwrap_or_default();
        let bytes = |name: &str| size(point[name].as_f64().unwrap_or_default().max(0.0) as u64);
        let line = match kind {
            "cpu" => format!("user {:5.1} %  system {:5.1} %", percent("user"), percent("system")),
            "network" => format!("sent {}/s  received {}/s", bytes("sent"), bytes("received")),
            _ => format!("{:5.1} %  {}", percent("percent"), bytes("value")),
        };
        let _ = writeln!(text, "{kind:<8} {:<16} {line}", clean(name));
    }
    text
}

async fn tree(client: &Client, output: Output) -> Done {
    let tree = client.value(Call::get("/engine/supervision/")).await?;
    if output.json {
        return output.json(&tree);
    }
    let mut text = String::new();
    match &tree {
        // The tree's root is the engine itself.
        Value::Array(_) => draw(&json!({ "name": "engine", "children": tree }), "", "", output, &mut text),
        root => draw(root, "", "", output, &mut text),
    }
    output.raw(text.as_bytes())
}

/// Draws a node and what is below it: `lead` stands before its own line, `below` before those of its children.
fn draw(node: &Value, lead: &str, below: &str, output: Output, text: &mut String) {
    let state = cell(&node["state"]);
    let name = clean(&cell(&node["name"]));
    let _ = write!(text, "{lead}{name}");
    if !state.is_empty() {
        let _ = write!(text, "  {}", output.paint(Style::of_state(&state), &clean(&state)));
    }
    let mut facts = Vec::new();
    if let Some(kind) = node["kind"].as_str().filter(|kind| *kind != name) {
        facts.push(clean(kind));
    }
    if let Some(age) = node["age"].as_f64() {
        facts.push(format!("for {}", duration(age)));
    }
    for (name, word) in [("restarts", "restarts"), ("mailbox", "waiting")] {
        if let Some(number) = node[name].as_u64().filter(|number| *number > 0) {
            facts.push(format!("{number} {word}"));
        }
    }
    let facts = facts.join(", ");
    let _ =
        writeln!(text, "{}", if facts.is_empty() { facts } else { output.paint(Style::Faint, &format!("  {facts}")) });
    let children = node["children"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let (branch, trunk) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        draw(child, &format!("{below}{branch}"), &format!("{below}{trunk}"), output, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn() {
        let tree = json!({
            "name": "engine", "kind": "supervisor", "state": "running", "restarts": 0, "mailbox": 0, "age": 61.0,
            "children": [
                { "name": "store", "kind": "store", "state": "running", "restarts": 2, "mailbox": 0, "children": [] },
                { "name": "shells", "kind": "supervisor", "state": "running", "children": [
                    { "name": "one", "kind": "shell", "state": "failed" },
                ] },
            ],
        });
        let output = Output { json: false, color: false, terminal: false, verbose: 0 };
        let mut text = String::new();
        draw(&tree, "", "", output, &mut text);
        assert_eq!(
            text,
            "engine  running  supervisor, for 1m 1s\n\
             ├── store  running  2 restarts\n\
             └── shells  running  supervisor\n    \
                 └── one  failed  shell\n"
        );
    }

    #[test]
    fn samples_read_well() {
        let sample = json!({ "type": "network", "points": { "eth0": { "sent": 2048, "received": 0.0 } } });
        assert_eq!(describe_sample("network", &sample), "network  eth0             sent 2.00 KiB/s  received 0 B/s\n");
        let sample = json!({ "points": { "core0": { "user": 1.25, "system": 100 } } });
        assert_eq!(describe_sample("cpu", &sample), "cpu      core0            user   1.2 %  system 100.0 %\n");
    }
}

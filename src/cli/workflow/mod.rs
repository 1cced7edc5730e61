//! `dxflow workflow …`: compose workflows of an engine.

mod live;

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use self::live::Live;
use super::args::{Workflow, WorkflowAction, WorkflowCreate, WorkflowExecute, WorkflowLogs, WorkflowUpdate};
use super::client::{Call, Client, encode};
use super::error::{CliError, Done, REFUSED};
use super::output::{Align, Output, Style, Table, cell, clean, output_error};
use super::shell::batch;

/// The longest compose file that is sent.
const LONGEST_FILE: u64 = 1 << 20;

/// Runs one of the commands.
pub(crate) async fn run(command: Workflow, client: &Client, output: Output) -> Done {
    match command {
        Workflow::List { all } => {
            let mut call = Call::get("/workflow/compose/");
            if all {
                call = call.query("all", true);
            }
            let workflows = client.value(call).await?;
            if output.json { output.json(&workflows) } else { output.table(&table(&workflows)) }
        }
        Workflow::Create(create) => self::create(&create, client, output).await,
        Workflow::Show { identity } => {
            let workflow = client.value(Call::get(format!("/workflow/compose/{}/", encode(&identity)))).await?;
            if output.json { output.json(&workflow) } else { show(&workflow, output) }
        }
        Workflow::Update(update) => self::update(&update, client, output).await,
        Workflow::Rollback { identity, revision } => {
            let mut body = json!({ "identity": identity });
            if let Some(revision) = revision {
                body["revision"] = revision.into();
            }
            watch(Call::put("/workflow/compose/rollback/").json(&body), "rolled back", client, output).await
        }
        Workflow::Start(action) => act("start", &action, client, output).await,
        Workflow::Stop(action) => act("stop", &action, client, output).await,
        Workflow::Restart(action) => act("restart", &action, client, output).await,
        Workflow::Pause(action) => act("pause", &action, client, output).await,
        Workflow::Unpause(action) => act("unpause", &action, client, output).await,
        Workflow::Kill(action) => act("kill", &action, client, output).await,
        Workflow::Execute(execute) => self::execute(&execute, client, output).await,
        Workflow::Logs(logs) => self::logs(&logs, client, output).await,
        Workflow::Events { identity } => events(&identity, client, output).await,
        Workflow::Containers { identity } => {
            let call = Call::get("/workflow/compose/containers/").query("identity", identity);
            let containers = client.value(call).await?;
            if output.json { output.json(&containers) } else { output.table(&container_table(&containers)) }
        }
        Workflow::Remove { identities, volumes, no_stop } => {
            let mut body = match identities.as_slice() {
                [identity] => json!({ "identity": identity }),
                identities => json!({ "identities": identities }),
            };
            if volumes {
                body["volumes"] = true.into();
            }
            if no_stop {
                body["stop"] = false.into();
            }
            if identities.len() > 1 {
                let answer = client.value(Call::delete("/workflow/compose/batch/").json(&body)).await?;
                return batch(&answer, "removed", output);
            }
            watch(Call::delete("/workflow/compose/").json(&body), "removed", client, output).await
        }
    }
}

/// Puts the compose file into a body: its text, or where it is among the engine's objects.
fn put_file(body: &mut Map<String, Value>, file: Option<&Path>, source: Option<&str>) -> Done {
    if let Some(source) = source {
        body.insert("source".into(), source.into());
    }
    if let Some(file) = file {
        body.insert("content".into(), read_file(file)?.into());
    }
    Ok(())
}

fn read_file(file: &Path) -> Result<String, CliError> {
    let failed = |error| CliError::failed(format!("failed to read `{}`", file.display()), error);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(LONGEST_FILE + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LONGEST_FILE + 1).read_to_string(&mut text))
    };
    match read {
        Ok(length) if length as u64 <= LONGEST_FILE => Ok(text),
        Ok(_) => Err(CliError::Failed(format!("`{}` is longer than {LONGEST_FILE} bytes", file.display()))),
        Err(error) => Err(failed(error)),
    }
}

async fn create(create: &WorkflowCreate, client: &Client, output: Output) -> Done {
    let mut body = Map::new();
    put_file(&mut body, create.file.as_deref(), create.source.as_deref())?;
    let identity = match &create.identity {
        Some(identity) => identity.clone(),
        None => {
            let named = body.get("content").and_then(Value::as_str).and_then(name_in);
            let place =
                create.file.as_deref().and_then(directory_of).or_else(|| create.source.as_deref().and_then(place_of));
            named
                .or_else(|| place.and_then(|place| project_name(&place)))
                .ok_or_else(|| CliError::Usage("say the workflow's name with -i".into()))?
        }
    };
    body.insert("identity".into(), identity.into());
    let env: Map<String, Value> =
        create.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let mut put = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    put("env", (!env.is_empty()).then(|| env.into()));
    put("profiles", (!create.profiles.is_empty()).then(|| create.profiles.clone().into()));
    put("pull", create.pull.as_deref().map(Value::from));
    put("start", create.start.then(|| true.into()));
    put("build", create.build.then(|| true.into()));
    put("remove_orphans", create.remove_orphans.then(|| true.into()));
    watch(Call::post("/workflow/compose/").json(&body), "created", client, output).await
}

async fn update(update: &WorkflowUpdate, client: &Client, output: Output) -> Done {
    let mut body = Map::new();
    put_file(&mut body, update.file.as_deref(), update.source.as_deref())?;
    body.insert("identity".into(), update.identity.as_str().into());
    let env: Map<String, Value> =
        update.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let mut put = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    put("env", (!env.is_empty()).then(|| env.into()));
    put("pull", update.pull.as_deref().map(Value::from));
    put("start", update.start.then(|| true.into()));
    put("remove_orphans", update.remove_orphans.then(|| true.into()));
    watch(Call::put("/workflow/compose/update/").json(&body), "updated", client, output).await
}

/// The `name:` that a compose file gives itself.
fn name_in(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("name:"))?;
    let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
    (!value.is_empty() && !value.contains('$')).then(|| value.to_owned())
}

/// The name of the directory that a local file is in.
fn directory_of(file: &Path) -> Option<String> {
    let whole =
        if file == Path::new("-") { std::env::current_dir().ok()? } else { std::fs::canonicalize(file).ok()? };
    let directory = if whole.is_dir() { whole.as_path() } else { whole.parent()? };
    directory.file_name()?.to_str().map(str::to_owned)
}

/// The name of an object that is a directory, or of the directory that it is in.
fn place_of(source: &str) -> Option<String> {
    let parts: Vec<&str> = source.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [.., directory, file] if file.ends_with(".yaml") || file.ends_with(".yml") => Some((*directory).to_owned()),
        [.., last] => Some((*last).to_owned()),
        [] => None,
    }
}

/// What Compose makes of a directory's name.
fn project_name(text: &str) -> Option<String> {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_' || *c == '-')
        .collect();
    let name: String = kept.trim_start_matches(['_', '-']).chars().take(63).collect();
    (!name.is_empty()).then_some(name)
}

async fn act(verb: &str, action: &WorkflowAction, client: &Client, output: Output) -> Done {
    let mut body = json!({ "identity": action.identity });
    if !action.services.is_empty() {
        body["service"] = action.services.clone().into();
    }
    if let Some(timeout) = action.timeout {
        body["timeout"] = timeout.into();
    }
    if let Some(signal) = &action.signal {
        body["signal"] = signal.as_str().into();
    }
    let call = Call::put(format!("/workflow/compose/{verb}/"));
    if action.no_wait {
        body["wait"] = false.into();
        let answer = client.value(call.json(&body)).await?;
        return if output.json { output.json(&answer) } else { output.line(clean(&cell(&answer["operation"]))) };
    }
    watch(call.json(&body), verb, client, output).await
}

/// An operation, with what becomes of each container as it happens.
async fn watch(call: Call, what: &str, client: &Client, output: Output) -> Done {
    if output.json {
        let answer = client.value(call).await?;
        output.json(&answer)?;
        return failures(&answer);
    }
    let mut reply = client.send(call.streamed()).await?;
    let mut live = Live::new(output);
    let mut result = Value::Null;
    loop {
        match reply.entity().await {
            Ok(None) => break,
            // The description of the whole has an identity; what happens to a part has a service.
            Ok(Some(entity)) if entity.get("identity").is_some() && entity.get("service").is_none() => result = entity,
            Ok(Some(entity)) => live.show(&entity)?,
            Err(error) => {
                live.finish();
                return Err(error);
            }
        }
    }
    let states = live.finish();
    if let Some(state) = result.get("state") {
        let state = cell(state);
        let identity = clean(&cell(&result["identity"]));
        let separator = if output.terminal { "  " } else { "\t" };
        output.line(format!("{identity}{separator}{}", output.paint(Style::of_state(&state), &clean(&state))))?;
    } else {
        output.detail(format!("{what}: {states} container(s)"));
    }
    failures(&result)
}

/// A result that names a failure of a service is a failure of the command.
fn failures(result: &Value) -> Done {
    let failed = |entry: &Value| entry.get("error").is_some_and(|error| !error.is_null());
    let parts = ["services", "containers", "results"].iter().filter_map(|name| result.get(*name)?.as_array());
    if failed(result) || parts.flatten().any(failed) { Err(CliError::Exit(REFUSED)) } else { Ok(()) }
}

fn show(workflow: &Value, output: Output) -> Done {
    output.properties(&[
        ("identity", cell(&workflow["identity"])),
        ("state", cell(&workflow["state"])),
        ("status", cell(&workflow["status"])),
        ("created", cell(&workflow["created_at"])),
        ("source", cell(&workflow["source"])),
        ("orphans", workflow["orphans"].as_array().map(|orphans| orphans.len().to_string()).unwrap_or_default()),
        (
            "revisions",
            workflow["revisions"].as_array().map(|revisions| revisions.len().to_string()).unwrap_or_default(),
        ),
    ])?;
    if workflow["containers"].as_array().is_some_and(|containers| !containers.is_empty()) {
        output.table(&container_table(&workflow["containers"]))?;
    }
    if workflow["plan"].as_array().is_some_and(|plan| !plan.is_empty()) {
        output.table(&plan_table(&workflow["plan"]))?;
    }
    Ok(())
}

async fn execute(execute: &WorkflowExecute, client: &Client, output: Output) -> Done {
    let command = match execute.command.as_slice() {
        [line] => Value::from(line.as_str()),
        words => words.into(),
    };
    let mut body = Map::from_iter([
        ("identity".to_owned(), Value::from(execute.identity.as_str())),
        ("command".to_owned(), command),
    ]);
    let env: Map<String, Value> =
        execute.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let mut put = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    put("service", execute.service.as_deref().map(Value::from));
    put("index", execute.index.map(Value::from));
    put("user", execute.user.as_deref().map(Value::from));
    put("workdir", execute.workdir.as_deref().map(Value::from));
    put("env", (!env.is_empty()).then(|| env.into()));
    put("detach", execute.detach.then(|| true.into()));
    let call = Call::put("/workflow/compose/execute/").json(&body);
    let mut code = None;
    if output.json {
        let answer = client.value(call).await?;
        output.json(&answer)?;
        code = answer["exit_code"].as_i64();
    } else {
        let mut reply = client.send(call.streamed()).await?;
        while let Some(entity) = reply.entity().await? {
            for (stream, bytes) in written(&entity) {
                match stream {
                    "stderr" => {
                        std::io::Write::write_all(&mut std::io::stderr(), bytes.as_bytes()).map_err(output_error)?
                    }
                    _ => output.raw(bytes.as_bytes())?,
                }
            }
            code = entity["exit_code"].as_i64().or(code);
        }
    }
    match code {
        None | Some(0) => Ok(()),
        Some(code) => Err(CliError::Exit(u8::try_from(code).unwrap_or(REFUSED))),
    }
}

/// What an entity of an execution says was written, and where to.
fn written(entity: &Value) -> Vec<(&str, &str)> {
    if let (Some(stream), Some(data)) =
        (entity["stream"].as_str(), ["data", "line", "output"].iter().find_map(|name| entity[*name].as_str()))
    {
        return vec![(stream, data)];
    }
    ["stdout", "stderr"].into_iter().filter_map(|stream| Some((stream, entity[stream].as_str()?))).collect()
}

async fn logs(logs: &WorkflowLogs, client: &Client, output: Output) -> Done {
    let mut call = Call::get("/workflow/compose/logs/")
        .query("identity", &logs.identity)
        .query_if("tail", logs.tail.as_ref())
        .query_if("since", logs.since.as_ref())
        .query_if("until", logs.until.as_ref());
    for service in &logs.service {
        call = call.query("service", service);
    }
    if logs.follow {
        call = call.query("follow", true);
    }
    let mut reply = client.send(call.streamed()).await?;
    let mut seen: Vec<String> = Vec::new();
    while let Some(entry) = reply.entity().await? {
        if output.json {
            output.json(&entry)?;
            continue;
        }
        let from = entry["container"].as_str().or(entry["service"].as_str()).unwrap_or_default();
        if !seen.iter().any(|name| name == from) {
            seen.push(from.to_owned());
        }
        output.line(log_line(&entry, from, &seen, logs.timestamps, output.color))?;
    }
    Ok(())
}

/// A line of a log behind the name of who wrote it, each in a colour of its own.
fn log_line(entry: &Value, from: &str, seen: &[String], timestamps: bool, color: bool) -> String {
    let place = seen.iter().position(|name| name == from).unwrap_or(0);
    let width = seen.iter().map(String::len).max().unwrap_or(0);
    let name = format!("{:<width$} |", clean(from));
    let name = if color { format!("\x1b[{}m{name}\x1b[0m", 31 + (place + 5) % 6) } else { name };
    let time = if timestamps { format!("{} ", clean(&cell(&entry["time"]))) } else { String::new() };
    // Programs colour their lines: on a terminal that stays, and what else steers it does not.
    let line = entry["line"].as_str().unwrap_or_default();
    let line = line.trim_end_matches(['\n', '\r']);
    let line = if color { keep_colors(line) } else { clean(line) };
    format!("{name} {time}{line}")
}

/// A line without control sequences but for those that colour.
fn keep_colors(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(start);
        kept.push_str(&clean(before));
        let length = sequence[2..].find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(sequence.len() - 2) + 2;
        if sequence[length..].starts_with('m') {
            kept.push_str(&sequence[..=length]);
            rest = &sequence[length + 1..];
        } else {
            kept.push_str(&clean(&sequence[..length]));
            rest = &sequence[length..];
        }
    }
    kept.push_str(&clean(rest));
    if kept.contains("\x1b[") {
        kept.push_str("\x1b[0m");
    }
    kept
}

async fn events(identity: &str, client: &Client, output: Output) -> Done {
    let call = Call::get("/workflow/compose/events/").query("identity", identity).streamed();
    let mut reply = client.send(call).await?;
    while let Some(event) = reply.entity().await? {
        if output.json {
            output.json(&event)?;
            continue;
        }
        let words = ["time", "service", "container", "action", "type", "event", "state", "detail"];
        let line: Vec<String> = words.iter().map(|name| cell(&event[*name])).filter(|word| !word.is_empty()).collect();
        let line = if line.is_empty() { event.to_string() } else { line.join("  ") };
        output.line(clean(&line))?;
    }
    Ok(())
}

fn table(workflows: &Value) -> Table {
    let mut table = Table::new(&[
        ("IDENTITY", Align::Left),
        ("STATE", Align::Left),
        ("STATUS", Align::Left),
        ("SERVICES", Align::Left),
        ("CONTAINERS", Align::Right),
        ("CREATED", Align::Left),
    ]);
    for workflow in workflows.as_array().into_iter().flatten() {
        let state = cell(&workflow["state"]);
        let style = Style::of_state(&state);
        let count = |value: &Value| value.as_array().map_or_else(|| cell(value), |items| items.len().to_string());
        table.row(vec![
            (cell(&workflow["identity"]), Style::Plain),
            (state, style),
            (cell(&workflow["status"]), Style::Plain),
            (service_names(&workflow["services"]), Style::Plain),
            (count(&workflow["containers"]), Style::Plain),
            (cell(&workflow["created_at"]), Style::Faint),
        ]);
    }
    table
}

/// The services' names, whether they come as names or as descriptions.
fn service_names(services: &Value) -> String {
    match services {
        Value::Array(services) => {
            let names = services.iter().map(|service| match service {
                Value::Object(_) => ["name", "service", "identity"]
                    .iter()
                    .map(|name| cell(&service[*name]))
                    .find(|name| !name.is_empty())
                    .unwrap_or_default(),
                other => cell(other),
            });
            names.collect::<Vec<_>>().join(" ")
        }
        Value::Object(services) => services.keys().cloned().collect::<Vec<_>>().join(" "),
        other => cell(other),
    }
}

fn container_table(containers: &Value) -> Table {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("STATUS", Align::Left),
        ("IMAGE", Align::Left),
        ("ID", Align::Left),
    ]);
    for container in containers.as_array().into_iter().flatten() {
        let state = cell(&container["state"]);
        let style = Style::of_state(&state);
        let id: String = cell(&container["id"]).chars().take(12).collect();
        table.row(vec![
            (cell(&container["service"]), Style::Plain),
            (cell(&container["name"]), Style::Plain),
            (state, style),
            (cell(&container["status"]), Style::Plain),
            (cell(&container["image"]), Style::Plain),
            (id, Style::Faint),
        ]);
    }
    table
}

fn plan_table(plan: &Value) -> Table {
    let mut table = Table::new(&[("CALL", Align::Left), ("RESOURCE", Align::Left), ("CAUSE", Align::Left)]);
    for step in plan.as_array().into_iter().flatten() {
        table.row(vec![
            (cell(&step["call"]), Style::Plain),
            (cell(&step["resource"]), Style::Plain),
            (cell(&step["cause"]), Style::Faint),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_gets_the_name_that_compose_gives_it() {
        for (text, name) in [("My App", Some("myapp")), ("_web-1", Some("web-1")), ("Ünï", Some("n")), ("--", None)] {
            assert_eq!(project_name(text).as_deref(), name, "{text}");
        }
        assert_eq!(name_in("services: {}\nname: \"shop\" # ours\n").as_deref(), Some("shop"));
        assert_eq!(name_in("name: ${X}\n"), None);
        assert_eq!(name_in("services:\n  name: x\n"), None);
        for (source, place) in [("a/b/compose.yaml", "b"), ("a/b", "b"), ("b/", "b")] {
            assert_eq!(place_of(source).as_deref(), Some(place));
        }
    }

    #[test]
    fn logs_keep_their_colours_and_nothing_else() {
        assert_eq!(keep_colors("a\x1b[31mb\x1b[2Jc"), "a\x1b[31mb\\u{1b}[2Jc\x1b[0m");
        assert_eq!(keep_colors("\x1b["), "\\u{1b}[");
        let entry = json!({ "line": "up\n", "time": "T" });
        let seen = ["api".to_owned(), "web-10".to_owned()];
        assert_eq!(log_line(&entry, "api", &seen, true, false), "api    | T up");
    }

    #[test]
    fn a_failed_service_is_a_failure() {
        assert!(failures(&json!({ "containers": [{ "state": "running" }] })).is_ok());
        assert!(failures(&json!({ "services": [{ "error": "no image" }] })).is_err());
        assert!(failures(&Value::Null).is_ok());
    }
}

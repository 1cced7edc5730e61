//! `dxflow shell …` but for `connect`: list, create, describe, execute, resize, kill, remove.

use serde_json::{Map, Value, json};

use super::args::{Shell, ShellCreate};
use super::client::{Call, Client, encode};
use super::error::{CliError, Done, REFUSED};
use super::output::{Align, Output, Style, Table, cell, clean, size, time};

/// Runs one of the commands.
pub(crate) async fn run(command: Shell, client: &Client, output: Output) -> Done {
    match command {
        Shell::List { offset, limit } => {
            let shells = client.value(Call::get("/shell/").query("offset", offset).query_if("limit", limit)).await?;
            if output.json { output.json(&shells) } else { output.table(&table(&shells)) }
        }
        Shell::Create(create) => {
            let shell = self::create(&create, client).await?;
            if output.json { output.json(&shell) } else { output.line(cell(&shell["identity"])) }
        }
        Shell::Show { identity } => {
            let shell = client.value(Call::get(format!("/shell/{}/", encode(&identity)))).await?;
            if output.json { output.json(&shell) } else { output.properties(&properties(&shell)) }
        }
        Shell::Execute { identity, wait, timeout, command } => {
            let mut body = json!({ "identity": identity });
            if !command.is_empty() {
                body["command"] = command_line(&command).into();
            } else if wait {
                return Err(CliError::Usage("say the command to wait for, after `--`".into()));
            }
            if wait {
                body["wait"] = true.into();
            }
            if let Some(timeout) = timeout {
                body["timeout"] = timeout.to_string().into();
            }
            let answer = client.value(Call::put("/shell/execute/").json(&body)).await?;
            executed(&answer, wait, output)
        }
        Shell::Resize { identity, columns, rows } => {
            let body = json!({ "identity": identity, "columns": columns, "rows": rows });
            let answer = client.value(Call::put("/shell/resize/").json(&body)).await?;
            confirmed(&answer, output)
        }
        Shell::Kill { identity, signal } => {
            let body = json!({ "identity": identity, "signal": signal });
            let answer = client.value(Call::put("/shell/kill/").json(&body)).await?;
            confirmed(&answer, output)
        }
        Shell::Remove { identities } => remove(&identities, client, output).await,
        Shell::Connect(_) => unreachable!("connecting is dispatched on its own"),
    }
}

/// Creates a shell and gives its description.
pub(crate) async fn create(create: &ShellCreate, client: &Client) -> Result<Value, CliError> {
    let mut config = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.into(), value);
        }
    };
    put("command", create.path.as_deref().map(Value::from));
    put("args", (!create.args.is_empty()).then(|| create.args.clone().into()));
    put("cwd", create.cwd.as_deref().map(Value::from));
    let env: Map<String, Value> =
        create.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    put("env", (!env.is_empty()).then_some(env.into()));
    put("columns", create.columns.map(Value::from));
    put("rows", create.rows.map(Value::from));
    put("start", create.no_start.then_some(false.into()));
    put("record", create.record.then_some(true.into()));
    let mut body = json!({ "config": config });
    if let Some(identity) = &create.identity {
        body["identity"] = identity.as_str().into();
    }
    client.value(Call::post("/shell/").json(&body)).await
}

fn executed(answer: &Value, waited: bool, output: Output) -> Done {
    if output.json {
        output.json(answer)?;
    } else if waited {
        output.raw(cell(&answer["output"]).as_bytes())?;
    } else {
        return confirmed(answer, output);
    }
    // A command that a signal ended has no code of its own; the engine tells 128 + n, and anything odd is a failure.
    match answer["exit_code"].as_i64() {
        None | Some(0) => Ok(()),
        Some(code) => Err(CliError::Exit(u8::try_from(code).unwrap_or(REFUSED))),
    }
}

fn confirmed(answer: &Value, output: Output) -> Done {
    if output.json {
        return output.json(answer);
    }
    let state = cell(&answer["state"]);
    let state = if output.terminal { output.paint(Style::of_state(&state), &clean(&state)) } else { clean(&state) };
    let separator = if output.terminal { "  " } else { "\t" };
    output.line(format!("{}{separator}{state}", clean(&cell(&answer["identity"]))))
}

async fn remove(identities: &[String], client: &Client, output: Output) -> Done {
    if let [identity] = identities {
        let answer = client.value(Call::delete("/shell/").json(&json!({ "identity": identity }))).await?;
        return confirmed(&answer, output);
    }
    let answer = client.value(Call::delete("/shell/batch/").json(&json!({ "identities": identities }))).await?;
    batch(&answer, "removed", output)
}

/// Tells the result of a batch, an item a line; what failed is told on the standard error and makes the exit code 1.
pub(crate) fn batch(answer: &Value, done: &str, output: Output) -> Done {
    if output.json {
        output.json(answer)?;
    }
    let mut failed = false;
    for item in answer.as_array().into_iter().flatten() {
        let identity = clean(&cell(&item["identity"]));
        if item[done] == Value::Bool(true) {
            if !output.json {
                output.line(&identity)?;
            }
        } else {
            failed = true;
            let reason = match &item["error"] {
                Value::Object(problem) => problem.get("detail").map(cell).unwrap_or_default(),
                other => cell(other),
            };
            output.note(format!("dxflow: {identity}: {}", clean(&reason)));
        }
    }
    if failed { Err(CliError::Exit(REFUSED)) } else { Ok(()) }
}

fn table(shells: &Value) -> Table {
    let mut table = Table::new(&[
        ("IDENTITY", Align::Left),
        ("STATE", Align::Left),
        ("COMMAND", Align::Left),
        ("PID", Align::Right),
        ("SIZE", Align::Right),
        ("SESSIONS", Align::Right),
        ("CREATED", Align::Left),
    ]);
    for shell in shells.as_array().into_iter().flatten() {
        let state = cell(&shell["state"]);
        let style = Style::of_state(&state);
        table.row(vec![
            (cell(&shell["identity"]), Style::Plain),
            (described_state(shell), style),
            (format!("{} {}", cell(&shell["path"]), cell(&shell["args"])).trim_end().to_owned(), Style::Plain),
            (cell(&shell["pid"]), Style::Faint),
            (format!("{}x{}", cell(&shell["columns"]), cell(&shell["rows"])), Style::Plain),
            (cell(&shell["sessions"]), Style::Plain),
            (shell["created_at"].as_i64().map(time).unwrap_or_default(), Style::Faint),
        ]);
    }
    table
}

/// The state, and with what it ended.
fn described_state(shell: &Value) -> String {
    let state = cell(&shell["state"]);
    let ended = match (&shell["exit_signal"], &shell["exit_code"]) {
        (Value::String(signal), _) => signal.clone(),
        (_, Value::Number(code)) => code.to_string(),
        _ => return state,
    };
    format!("{state} ({ended})")
}

fn properties(shell: &Value) -> Vec<(&str, String)> {
    let mut properties = Vec::new();
    for (name, value) in shell.as_object().into_iter().flatten() {
        let text = match name.as_str() {
            "created_at" | "ended_at" => value.as_i64().map(time).unwrap_or_default(),
            "bytes_in" | "bytes_out" => value.as_u64().map(size).unwrap_or_default(),
            _ => cell(value),
        };
        properties.push((name.as_str(), text));
    }
    properties
}

/// A command line of several words: each is quoted where a shell would read it otherwise; one word is a line as it is.
pub(crate) fn command_line(words: &[String]) -> String {
    if let [line] = words {
        return line.clone();
    }
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_for_a_shell() {
        for (words, line) in [
            (&["ls -la | wc"] as &[&str], "ls -la | wc"),
            (&["ls", "-la"], "ls -la"),
            (&["echo", "a b", "", "it's", "$HOME"], r"echo 'a b' '' 'it'\''s' '$HOME'"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(command_line(&words), line);
        }
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        let output = Output { json: false, color: false, terminal: false, verbose: 0 };
        for (answer, code) in [
            (json!({ "exit_code": 0, "output": "" }), None),
            (json!({ "exit_code": 42, "output": "" }), Some(42)),
            (json!({ "exit_code": -1, "output": "" }), Some(1)),
        ] {
            assert_eq!(executed(&answer, true, output).err().map(|error| error.exit_code()), code);
        }
    }
}

//! `dxflow audit …`: the audit's records, and whether they are as they were written.

use serde_json::Value;

use super::args::Audit;
use super::client::{Call, Client};
use super::error::{CliError, Done, REFUSED};
use super::output::{Align, Output, Style, Table, cell};

/// Runs one of the commands.
pub(crate) async fn run(command: Audit, client: &Client, output: Output) -> Done {
    match command {
        Audit::List { offset, limit, caller, request } => {
            let call = Call::get("/engine/audit/")
                .query_if("offset", offset)
                .query_if("limit", limit)
                .query_if("caller", caller)
                .query_if("request", request);
            let records = client.value(call).await?;
            if output.json { output.json(&records) } else { output.table(&table(&records)) }
        }
        Audit::Verify { head } => verify(client, output, head).await,
    }
}

fn table(records: &Value) -> Table {
    let columns = ["ID", "TIME", "CALLER", "FROM", "ACTION", "SUBJECT", "OUTCOME", "REQUEST"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for record in records.as_array().into_iter().flatten() {
        let done = record["outcome"].as_str().is_some_and(|outcome| outcome.starts_with(['1', '2']));
        table.row(vec![
            (cell(&record["id"]), Style::Faint),
            (cell(&record["time"]), Style::Faint),
            (cell(&record["caller"]), Style::Plain),
            (cell(&record["peer"]), Style::Plain),
            (cell(&record["action"]), Style::Plain),
            (cell(&record["subject"]), Style::Plain),
            (cell(&record["outcome"]), if done { Style::Good } else { Style::Bad }),
            (cell(&record["request"]), Style::Faint),
        ]);
    }
    table
}

async fn verify(client: &Client, output: Output, head: Option<String>) -> Done {
    let verdict = client.value(Call::get("/engine/audit/verify/").query_if("head", head)).await?;
    let intact = verdict["intact"] == Value::Bool(true);
    if output.json {
        output.json(&verdict)?;
    } else if intact {
        output.line(format!("intact: {} records; head {}", cell(&verdict["records"]), cell(&verdict["head"])))?;
    } else {
        let broken = &verdict["broken"];
        output.line(format!("broken at record {}: {}", cell(&broken["id"]), cell(&broken["reason"])))?;
    }
    if intact { Ok(()) } else { Err(CliError::Exit(REFUSED)) }
}

//! `dxflow object list`: a directory, however large, without holding it whole.

use std::io::Write;

use serde_json::Value;

use crate::cli::args::ObjectList;
use crate::cli::client::{Call, Client};
use crate::cli::error::Done;
use crate::cli::output::{Align, Output, Style, Table, cell, output_error, size, time};

/// Rows stand in columns with their neighbours; this many are neighbours.
const BATCH: usize = 1000;
/// As deep as the engine goes.
pub(super) const ALL_LEVELS: u32 = 1000;

pub(super) async fn run(list: &ObjectList, client: &Client, output: Output) -> Done {
    let depth = if list.recursive { Some(ALL_LEVELS) } else { list.depth };
    let mut call = Call::get("/object/fs/")
        .query("directory", &list.directory)
        .query_if("pattern", list.pattern.as_ref())
        .query_if("depth", depth)
        .query("offset", list.offset)
        .query_if("limit", list.limit);
    if list.all {
        call = call.query("all", true);
    }
    if output.json {
        // The engine's own array, as it arrives.
        let mut reply = client.send(call).await?;
        let mut out = std::io::stdout().lock();
        while let Some(bytes) = reply.bytes().await? {
            out.write_all(&bytes).map_err(output_error)?;
        }
        return out.write_all(b"\n").and_then(|()| out.flush()).map_err(output_error);
    }
    let mut reply = client.send(call.streamed()).await?;
    let mut rows = Vec::new();
    let mut first = true;
    loop {
        let object = reply.entity().await?;
        let last = object.is_none();
        rows.extend(object);
        if rows.len() >= BATCH || last && (first || !rows.is_empty()) {
            output.table(&table(&rows, first))?;
            rows.clear();
            first = false;
        }
        if last {
            return Ok(());
        }
    }
}

fn table(objects: &[Value], header: bool) -> Table {
    let columns =
        [("PERMISSION", Align::Left), ("SIZE", Align::Right), ("MODIFIED", Align::Left), ("IDENTITY", Align::Left)];
    let mut table = if header { Table::new(&columns) } else { Table::new(&columns.map(|(_, align)| ("", align))) };
    for object in objects {
        let directory = object["kind"] == "directory";
        let style = if directory { Style::Directory } else { Style::Plain };
        let slash = if directory { "/" } else { "" };
        table.row(vec![
            (cell(&object["permission"]), Style::Faint),
            (
                if directory { String::new() } else { object["size"].as_u64().map(size).unwrap_or_default() },
                Style::Plain,
            ),
            (object["modified_at"].as_i64().map(time).unwrap_or_default(), Style::Faint),
            (format!("{}{slash}", cell(&object["identity"])), style),
        ]);
    }
    table
}

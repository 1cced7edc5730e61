//! `dxflow boot down`: ends the engine of the data directory, and on request its shells.
//!
//! The engine is found by its lock, `engine.pid`, and told by a signal; its socket is asked only about shells, so that an
//! engine that no longer answers can still be stopped.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::error::{CliError, Done};
use super::output::Output;
use super::settings::Settings;
use crate::config::Config;

/// How much longer than its own deadline we wait for the engine to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many shells are removed with one call.
const REMOVED_AT_ONCE: usize = 500;

/// Stops the engine and waits until it is gone.
pub(crate) async fn down(settings: &Settings, kill_shells: bool, output: Output) -> Done {
    let process = running(&settings.data_dir)?;
    let client = Client::local(settings, output)?;
    let left = if kill_shells {
        kill_all(&client, output).await?;
        0
    } else {
        // An engine that does not answer is stopped all the same.
        living(&client).await.unwrap_or_default().len()
    };
    pidfd_send_signal(&process, Signal::TERM)
        .map_err(|error| CliError::failed("failed to tell the engine to stop", error))?;
    let file = settings.file_exists.then_some(settings.file.as_path());
    let deadline = Config::load(file, std::env::vars()).unwrap_or_default().engine.stop_deadline.0 + PATIENCE;
    let ended = tokio::task::spawn_blocking(move || wait(&process, deadline)).await;
    match ended {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            return Err(CliError::Failed(format!("the engine was told to stop, and has not ended after {deadline:?}")));
        }
        Ok(Err(error)) => return Err(CliError::failed("failed to wait for the engine", error)),
        Err(error) => return Err(CliError::failed("failed to wait for the engine", error)),
    }
    if output.json {
        return output.json(&json!({ "state": "stopped", "shells": left }));
    }
    output.note("the engine has stopped");
    if left > 0 {
        output.note(format!(
            "{left} shell(s) go on without it: `dxflow boot up` returns to them; to end them too, run \
             `dxflow boot down --kill-shells` while it runs"
        ));
    }
    Ok(())
}

/// The engine that holds the lock of this data directory.
fn running(data_dir: &Path) -> Result<OwnedFd, CliError> {
    let none = || CliError::Unreachable {
        address: format!("`{}`", data_dir.display()),
        reason: "no engine runs on this data directory".into(),
    };
    let path = data_dir.join("engine.pid");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        Err(error) => return Err(CliError::failed(format!("failed to open `{}`", path.display()), error)),
    };
    // The pid is only true while the lock is held: looked at before and after the process was taken hold of.
    let held = |file: &File| file.try_lock_shared().is_err();
    if !held(&file) {
        return Err(none());
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| CliError::failed(format!("failed to read `{}`", path.display()), error))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| {
        CliError::Failed(format!(
            "`{}` holds no pid: the engine is just starting or stopping, try again",
            path.display()
        ))
    })?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| none())?;
    if held(&file) { Ok(process) } else { Err(none()) }
}

/// Waits for the end of a process; false when it has not come in time.
fn wait(process: &OwnedFd, deadline: Duration) -> Result<bool, rustix::io::Errno> {
    let timeout = Timespec { tv_sec: deadline.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The identities of the shells that run.
async fn living(client: &Client) -> Result<Vec<Value>, CliError> {
    let shells = client.value(Call::get("/shell/")).await?;
    let running = |shell: &&Value| shell["state"] == "executed";
    Ok(shells.as_array().into_iter().flatten().filter(running).map(|shell| shell["identity"].clone()).collect())
}

async fn kill_all(client: &Client, output: Output) -> Done {
    let shells = client.value(Call::get("/shell/")).await?;
    let identities: Vec<Value> =
        shells.as_array().into_iter().flatten().map(|shell| shell["identity"].clone()).collect();
    for some in identities.chunks(REMOVED_AT_ONCE) {
        client.value(Call::delete("/shell/batch/").json(&json!({ "identities": some }))).await?;
    }
    output.detail(format!("{} shell(s) removed", identities.len()));
    match living(client).await?.len() {
        0 => Ok(()),
        left => Err(CliError::Failed(format!("{left} shell(s) could not be ended; the engine goes on"))),
    }
}

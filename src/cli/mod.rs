//! The command line: it reads what is asked, asks the engine over HTTP like everybody, and writes what it answers.
//!
//! Results go to the standard output, everything else to the standard error. Exit codes: 0 done, 1 the engine said no, 2
//! wrong usage, 3 the engine cannot be reached; where a command of the user's ran to its end (`shell connect`, `shell
//! execute --wait`, `workflow execute`), its own.

mod args;
mod attach;
mod audit;
mod boot;
mod client;
mod config_edit;
mod engine;
mod error;
mod key;
mod load;
mod object;
mod output;
pub mod settings;
mod shell;
mod workflow;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Boot, Cli, Command, Global, Key, Load, Shell, ShellConnect};
use self::client::Client;
use self::error::{CliError, Done};
use self::output::Output;
use self::settings::Settings;

/// Reads the command line, does what it says, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Whoever asked for help may have closed the pipe to it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(error::USAGE));
        }
    };
    let output = Output::new(global.json, global.no_color, global.verbose);
    match dispatch(&global, command, output) {
        Ok(code) => code,
        Err(error) => tell(&error, output),
    }
}

/// Tells why a command failed, and gives its exit code.
fn tell(error: &CliError, output: Output) -> ExitCode {
    match error {
        CliError::OutputClosed | CliError::Exit(_) => {}
        error if output.json => output.note(error.to_json().to_string()),
        error => output.note(format!("dxflow: {error}")),
    }
    ExitCode::from(error.exit_code())
}

fn dispatch(global: &Global, command: Command, output: Output) -> Result<ExitCode, CliError> {
    let done = |(): ()| ExitCode::SUCCESS;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "dxflow", &mut script);
        return output.raw(&script).map(done);
    }
    if let Command::Key(Key::Generate { name, kind }) = &command {
        return key::generate(name, *kind, output).map(done);
    }
    if let (Command::Keeper, Some(data_dir)) = (&command, &global.data_dir) {
        // Before anything is opened or started: it becomes a process of its own.
        return Ok(actors::keeper::process::run(data_dir));
    }
    let editing = matches!(command, Command::Config(_));
    let settings = Settings::load(global, editing, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    match command {
        Command::Boot(Boot::Up { listen, volume, daemon }) => Ok(crate::boot::up(&crate::boot::Up {
            config_file: settings.file_exists.then(|| settings.file.clone()),
            data_dir: settings.data_dir,
            profile: settings.profile.unwrap_or_default(),
            listen,
            volume,
            daemon,
            verbose: global.verbose,
            no_color: global.no_color,
        })),
        Command::Keeper => Ok(actors::keeper::process::run(&settings.data_dir)),
        Command::Config(command) => config_edit::run(command, &settings, output).map(done),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|error| CliError::failed("failed to start", error))?;
            let result = runtime.block_on(Box::pin(ask(command, &settings, output)));
            // A thread that still reads the standard input must not hold the process.
            runtime.shutdown_background();
            result.map(done)
        }
    }
}

/// The commands that talk to an engine.
async fn ask(command: Command, settings: &Settings, output: Output) -> Done {
    if let Command::Boot(Boot::Down { kill_shells }) = command {
        return boot::down(settings, kill_shells, output).await;
    }
    let client = Client::new(settings, output)?;
    match command {
        Command::Engine(command) => engine::run(command, &client, output).await,
        Command::Audit(command) => audit::run(command, &client, output).await,
        Command::Key(command) => key::run(command, &client, output).await,
        Command::Shell(Shell::Connect(connect)) => attach::run(&connect, &client, settings, output).await,
        Command::Shell(Shell::Create(create)) if create.connect => {
            let shell = shell::create(&create, &client).await?;
            let identity = shell["identity"].as_str().unwrap_or_default().to_owned();
            output.detail(format!("made the shell {identity}"));
            let connect =
                ShellConnect { identity, view: false, detach_keys: None, quiet: actors::units::Span::seconds(1) };
            attach::run(&connect, &client, settings, output).await
        }
        Command::Shell(command) => shell::run(command, &client, output).await,
        Command::Object(command) => object::run(command, &client, output).await,
        Command::Workflow(command) => workflow::run(command, &client, output).await,
        Command::Load(Load::Shells(options)) => load::shells(options, client, settings, output).await,
        Command::Boot(_) | Command::Config(_) | Command::Completions { .. } | Command::Keeper => {
            unreachable!("dispatched before an engine is asked")
        }
    }
}

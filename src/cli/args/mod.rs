//! The command line's grammar: every command, flag and default, as clap sees it.
//!
//! Nothing here acts. The names, the aliases and the exit codes are part of the product's contract.

mod object;
mod workflow;

use std::path::PathBuf;

use actors::permission::Permission;
use actors::units::Span;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub(crate) use self::object::{Download, Object, ObjectList, Upload};
pub(crate) use self::workflow::{
    Workflow, WorkflowAction, WorkflowCreate, WorkflowExecute, WorkflowLogs, WorkflowUpdate,
};

/// Turns a machine into a remotely controlled compute node: shells, files and compose workflows, over HTTP.
#[derive(Debug, Parser)]
#[command(name = "dxflow", version, propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 the engine said no, 2 wrong usage, 3 the engine cannot be reached.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The configuration file [default: ./config.toml if there, else $XDG_CONFIG_HOME/dxflow/config.toml].
    #[arg(long, global = true, env = "DXFLOW_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// The engine's data directory [default: $XDG_DATA_HOME/dxflow].
    #[arg(long, global = true, env = "DXFLOW_DATA_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
    /// A named set of settings: the tables [profile.NAME.…] of the configuration.
    #[arg(long, short = 'C', global = true, env = "DXFLOW_PROFILE", value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Write results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write without colours.
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Tell more of what is done, on the standard error; twice for more.
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start and stop the engine of this machine.
    #[command(subcommand)]
    Boot(Boot),
    /// Look at an engine, and restart it.
    #[command(subcommand)]
    Engine(Engine),
    /// Keys: who may use an engine.
    #[command(subcommand)]
    Key(Key),
    /// The audit: who signed in, was refused, or changed something.
    #[command(subcommand)]
    Audit(Audit),
    /// Shells: terminal sessions that outlive their viewers.
    #[command(subcommand)]
    Shell(Shell),
    /// Files of the engine's volume.
    #[command(subcommand, visible_alias = "fs")]
    Object(Object),
    /// Compose workflows.
    #[command(subcommand, visible_alias = "compose")]
    Workflow(Workflow),
    /// Load tests.
    #[command(subcommand)]
    Load(Load),
    /// Read and change the configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The process that holds the shells; the engine starts it.
    #[command(hide = true)]
    Keeper,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Boot {
    /// Run the engine; prints `ready http://ADDR` when it accepts requests.
    Up {
        /// Listen here; port 0 picks one.
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
        /// The directory beneath which all objects live.
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        volume: Option<PathBuf>,
        /// Put it in the background, and return when it is ready.
        #[arg(long)]
        daemon: bool,
    },
    /// Stop the engine of the data directory; its shells go on.
    Down {
        /// End the shells too.
        #[arg(long)]
        kill_shells: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The records, the newest first.
    #[command(visible_alias = "ls")]
    List {
        /// Leave out this many of the newest.
        #[arg(long)]
        offset: Option<u64>,
        /// How many [default: 100]; -1 for all.
        #[arg(long, allow_negative_numbers = true)]
        limit: Option<i64>,
        /// Only those of this key; `unix` for the engine's own socket, `-` for nobody.
        #[arg(long, value_name = "ID", allow_hyphen_values = true)]
        caller: Option<String>,
        /// Only that of this request id, as `X-Request-Id` tells it.
        #[arg(long, value_name = "ID")]
        request: Option<String>,
    },
    /// Follow the chain of hashes; names the first record that was changed or removed, and fails then.
    Verify {
        /// The head that an earlier verification printed: it must still be in the chain.
        #[arg(long, value_name = "ID:HASH")]
        head: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Engine {
    /// Whether the engine and its parts are well.
    Healthcheck,
    /// Ask the engine's actors for answers, and time them.
    Ping {
        /// How many.
        #[arg(long, short = 'c', default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=300))]
        count: u32,
        /// Milliseconds between them.
        #[arg(long, short = 'i', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=30_000))]
        interval: u32,
    },
    /// Start the engine anew; shells, connections and transfers go on.
    Restart {
        /// Replace the process too, by the program as it is installed now.
        #[arg(long)]
        process: bool,
    },
    /// Print a token to sign requests with.
    Token {
        /// How long it is good, 1m to 24h.
        #[arg(long, value_name = "DURATION")]
        lifetime: Option<Span>,
    },
    /// What the engine is and runs on.
    Info,
    /// Load of the machine.
    Stat {
        /// Only these.
        #[arg(value_enum)]
        kinds: Vec<StatKind>,
        /// Go on, one set a second.
        #[arg(long, short = 'f')]
        follow: bool,
    },
    /// The supervision tree as it is.
    Tree,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum StatKind {
    Cpu,
    Memory,
    Disk,
    Network,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum KeyType {
    Ed25519,
    Rsa,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key pair: NAME and NAME.pub.
    Generate {
        /// The file of the private key.
        #[arg(default_value = "dxflow_key", value_hint = ValueHint::FilePath)]
        name: PathBuf,
        /// Its type.
        #[arg(long = "type", short = 't', value_enum, default_value = "ed25519")]
        kind: KeyType,
    },
    /// Let a key sign in.
    Register {
        /// The public key (of a private one only the public half is sent).
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Its name at the engine [default: the file's name].
        #[arg(long, short = 'i', value_name = "ID")]
        identity: Option<String>,
        /// What it may do [default: all but MASTER and READ_ONLY].
        #[arg(long = "permission", short = 'p', value_name = "PERM", value_delimiter = ',', value_parser = permission)]
        permissions: Vec<Permission>,
    },
    /// List the keys.
    List {
        /// Disabled ones too.
        #[arg(long, short = 'a')]
        all: bool,
    },
    /// Change what a key may do.
    Update {
        identity: String,
        /// What it may do from now on.
        #[arg(long = "permission", short = 'p', value_name = "PERM", value_delimiter = ',', value_parser = permission)]
        permissions: Vec<Permission>,
        /// It may not sign in.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// It may sign in again.
        #[arg(long)]
        enable: bool,
    },
    /// Forget a key; whoever is signed in with it is signed out.
    #[command(visible_alias = "remove")]
    Unregister { identity: String },
}

/// Permissions are written in any case.
fn permission(text: &str) -> Result<Permission, String> {
    text.to_uppercase()
        .replace('-', "_")
        .parse()
        .map_err(|error: actors::permission::UnknownPermission| error.to_string())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Shell {
    /// List the shells, the newest first.
    List {
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// How many [default: all].
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Open a shell.
    Create(ShellCreate),
    /// Describe a shell.
    Show { identity: String },
    /// Give this terminal over to a shell.
    ///
    /// Leave it with the detach key (Ctrl-\ twice, or `client.detach_keys` of the configuration); the shell runs on.
    /// A connection that breaks is made again, and goes on at the byte where it broke. When the shell ends, its exit
    /// code becomes that of this command.
    ///
    /// Without a terminal on the standard input (`echo make | dxflow shell connect ID`) what comes in is typed, and the
    /// command ends when the shell ends, or when the input has ended and the shell has then been quiet for a while
    /// (--quiet).
    Connect(ShellConnect),
    /// Type a line into a shell, or start one that has ended.
    ///
    /// With --wait the command's output is written and its exit code becomes that of this command.
    Execute {
        identity: String,
        /// Wait for the command's end.
        #[arg(long, short = 'w')]
        wait: bool,
        /// Wait no longer; the command goes on.
        #[arg(long, value_name = "DURATION", requires = "wait")]
        timeout: Option<Span>,
        /// The command; several words are quoted where they must be.
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Change a shell's size.
    Resize {
        identity: String,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
        columns: u16,
        #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
        rows: u16,
    },
    /// Send a signal to what runs in a shell; its entry stays.
    Kill {
        identity: String,
        /// Its name.
        #[arg(long, short = 's', default_value = "KILL")]
        signal: String,
    },
    /// End shells and forget them.
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(required = true)]
        identities: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ShellCreate {
    /// Its name [default: the engine makes one].
    pub(crate) identity: Option<String>,
    /// The program [default: the configured shell].
    pub(crate) path: Option<String>,
    /// Its arguments.
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
    /// Start in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// A variable of its environment.
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) columns: Option<u16>,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rows: Option<u16>,
    /// Make it without starting it.
    #[arg(long)]
    pub(crate) no_start: bool,
    /// Record it.
    #[arg(long)]
    pub(crate) record: bool,
    /// Connect to it at once.
    #[arg(long, short = 'c')]
    pub(crate) connect: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShellConnect {
    pub(crate) identity: String,
    /// Watch only.
    #[arg(long)]
    pub(crate) view: bool,
    /// Leave with these keys instead, written as `ctrl-a d`.
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Without a terminal: how long the shell must be quiet after the input's end.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub(crate) quiet: Span,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write it like NAME=VALUE".into()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Open many shells, drive them, and tell the latencies.
    Shells(LoadShells),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Workload {
    /// Opened and left alone.
    Idle,
    /// A line typed, and waited for, again and again.
    Echo,
    /// As much output as goes.
    Flood,
    /// Whole screens, as full-screen programs draw them.
    Redraw,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LoadShells {
    /// How many shells.
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) number: u32,
    /// How many are opened a second; 0 opens them as fast as it goes.
    #[arg(long, short = 'r', default_value_t = 50)]
    pub(crate) rate: u32,
    /// How long they are driven once all are open.
    #[arg(long, short = 'd', default_value = "10s", value_name = "DURATION")]
    pub(crate) duration: Span,
    /// What is done in them.
    #[arg(long, short = 'w', value_enum, default_value = "echo")]
    pub(crate) workload: Workload,
    /// How many lines a second are typed into each shell (echo).
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) lines: u32,
    /// The program that runs in them.
    #[arg(long, default_value = "/bin/sh")]
    pub(crate) command: String,
    /// Also write an HTML report.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a setting; all that the file says without a key.
    Get {
        /// `section.key`, or `connection-address`, `connection-key`.
        key: Option<String>,
    },
    /// Change a setting; comments and order of the file stay.
    Set { key: String, value: String },
    /// Take a setting out, so that its default holds.
    Unset { key: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("dxflow").chain(line.split_whitespace()))
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_line_is_understood() {
        for line in [
            "boot up --listen 127.0.0.1:0 --volume /v --daemon",
            "boot down --kill-shells",
            "engine healthcheck",
            "engine ping --count 5 --interval 0",
            "engine restart --process",
            "engine token --lifetime 1h",
            "engine info",
            "engine stat cpu memory -f",
            "engine tree --json",
            "key generate",
            "key generate id --type rsa",
            "key register id.pub -i me -p shell,OBJECT",
            "key list -a",
            "key unregister me",
            "shell list",
            "shell create",
            "shell create one /bin/bash -- -l",
            "shell connect one --view",
            "shell execute one --wait -- ls -la",
            "shell execute one",
            "shell resize one 120 30",
            "shell kill one -s TERM",
            "shell remove one two",
            "object list",
            "fs list dir -a -R --pattern *.txt",
            "object create a/b --content x",
            "object upload a b c/ -f",
            "object download a -",
            "object rename a b",
            "object zip a b -o c.zip -l 9",
            "object unzip c.zip d",
            "object share a --lifetime 5m --writable --uses 1",
            "object delete a b",
            "workflow list -a",
            "compose create compose.yaml -i web --start -e A=1",
            "workflow start web api db -t 3",
            "workflow execute web -s api -- ls -la",
            "workflow logs web -f -n 10",
            "workflow events web",
            "workflow containers web",
            "workflow remove web --volumes",
            "load shells -n 100 --rate 20 --duration 1m --workload flood --report r.html",
            "config get",
            "config set connection-address http://127.0.0.1:8080",
            "config unset connection-key",
            "completions bash",
            "keeper --data-dir /d",
            "--json --no-color -vv -C far --config c.toml --data-dir d shell list",
            "shell list --json --data-dir d",
        ] {
            if let Err(error) = parse(line) {
                panic!("`{line}`: {error}");
            }
        }
    }

    #[test]
    fn wrong_lines_are_wrong_usage() {
        for line in [
            "shell",
            "shell connect",
            "shell resize one 0 30",
            "shell resize one 80 1001",
            "shell remove",
            "engine ping --count 0",
            "key register f -p NOTHING",
            "key generate x --type dsa",
            "object list --depth -1",
            "workflow create",
            "shell create --env NOVALUE",
            "load shells -n 0",
            "engine token --lifetime soon",
            "nothing",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}

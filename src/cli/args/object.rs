//! `dxflow object …`.

use actors::units::Span;
use clap::{Args, Subcommand, ValueHint};

#[derive(Debug, Subcommand)]
pub(crate) enum Object {
    /// List a directory.
    #[command(visible_alias = "ls")]
    List(ObjectList),
    /// Make a file, or a directory.
    Create {
        path: String,
        /// Make a directory.
        #[arg(long, short = 'd', conflicts_with = "content")]
        directory: bool,
        /// What the file holds; `-` takes the standard input.
        #[arg(long)]
        content: Option<String>,
        /// Replace what is there.
        #[arg(long, short = 'f')]
        force: bool,
        /// `read`, `write`, or octal.
        #[arg(long, value_name = "MODE")]
        permission: Option<String>,
    },
    /// Send files and directories.
    #[command(visible_alias = "put")]
    Upload(Upload),
    /// Fetch files and directories.
    #[command(visible_alias = "get")]
    Download(Download),
    /// Rename or move an object.
    #[command(visible_alias = "mv")]
    Rename {
        from: String,
        to: String,
        /// Replace what is there.
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// Pack objects into a zip archive on the engine.
    Zip {
        #[arg(required = true)]
        paths: Vec<String>,
        /// The archive [default: the engine names it after what it packs].
        #[arg(long, short = 'o')]
        destination: Option<String>,
        /// 0 stores, 9 packs the most.
        #[arg(long, short = 'l', value_parser = clap::value_parser!(u8).range(0..=9))]
        level: Option<u8>,
        /// Replace what is there.
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// Unpack a zip archive on the engine, whole or not at all.
    Unzip {
        archive: String,
        destination: Option<String>,
        /// Replace what is there.
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// Make signatures with which anybody may fetch (or send) these objects.
    Share {
        #[arg(required = true)]
        paths: Vec<String>,
        /// How long they are good.
        #[arg(long, value_name = "DURATION")]
        lifetime: Option<Span>,
        /// For sending instead of fetching.
        #[arg(long)]
        writable: bool,
        /// How often they may be used.
        #[arg(long)]
        uses: Option<u32>,
    },
    /// List what is shared.
    Shares,
    /// Revoke a share, by its id or signature.
    Unshare { id: String },
    /// Delete objects, directories with all that is in them.
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(required = true)]
        paths: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ObjectList {
    /// The directory.
    #[arg(default_value = ".")]
    pub(crate) directory: String,
    /// Hidden ones too.
    #[arg(long, short = 'a')]
    pub(crate) all: bool,
    /// Only names like this (`*.csv`); with a `/` it is held against paths.
    #[arg(long, short = 'p')]
    pub(crate) pattern: Option<String>,
    /// How many levels deeper.
    #[arg(long, short = 'd', conflicts_with = "recursive")]
    pub(crate) depth: Option<u32>,
    /// All levels.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: u64,
    /// How many [default: all].
    #[arg(long)]
    pub(crate) limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Upload {
    /// Local files and directories, and last the place on the engine where there is more than one argument; `-` is the
    /// standard input.
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<String>,
    /// Replace what is there.
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// How many files at once.
    #[arg(long, short = 'j', default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
}

#[derive(Args, Debug)]
pub(crate) struct Download {
    /// Objects, and last the local place where there is more than one argument; `-` is the standard output.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Replace what is there.
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// How many files at once.
    #[arg(long, short = 'j', default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
}

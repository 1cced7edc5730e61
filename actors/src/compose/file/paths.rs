//! Paths of the host that a file names: made absolute, followed through links, and held to the directories that are allowed.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::project::Project;

/// The longest file that is read for a project.
const LONGEST: u64 = 1 << 20;

/// The directories beneath which a project may name paths, links resolved.
#[derive(Clone, Debug)]
pub(crate) struct Roots(Vec<PathBuf>);

impl Roots {
    pub(crate) fn new(directory: &Path, others: &[PathBuf]) -> Self {
        let all = std::iter::once(directory).chain(others.iter().map(PathBuf::as_path));
        Self(all.map(|root| resolve_links(root).unwrap_or_else(|| root.to_owned())).collect())
    }

    /// The path with all links resolved, if it is beneath one of the directories.
    pub(crate) fn allowed(&self, path: &Path) -> Option<PathBuf> {
        let whole = resolve_links(path)?;
        self.0.iter().any(|root| whole.starts_with(root)).then_some(whole)
    }

    /// The text of a file beneath one of the directories.
    pub(crate) fn read(&self, path: &Path) -> Result<String, String> {
        let shown = path.display();
        let whole =
            self.allowed(path).ok_or_else(|| format!("the file `{shown}` is outside of what workflows may read"))?;
        let file =
            std::fs::File::open(&whole).map_err(|error| format!("the file `{shown}` cannot be read: {error}"))?;
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(format!("`{shown}` is not a file"));
        }
        let mut text = String::new();
        match file.take(LONGEST + 1).read_to_string(&mut text) {
            Ok(length) if length as u64 <= LONGEST => Ok(text),
            Ok(_) => Err(format!("the file `{shown}` is longer than {LONGEST} bytes")),
            Err(error) => Err(format!("the file `{shown}` cannot be read: {error}")),
        }
    }
}

/// The path that a file means: a relative one is beneath its directory, `~` is the home of the engine's user.
///
/// # Errors
/// When it has no home, or names somebody else's.
pub(crate) fn meant(directory: &Path, path: &str) -> Result<PathBuf, &'static str> {
    match path.strip_prefix('~') {
        None => Ok(absolute(directory, path)),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match std::env::var_os("HOME") {
            Some(home) if Path::new(&home).is_absolute() => {
                Ok(absolute(Path::new(&home), rest.trim_start_matches('/')))
            }
            _ => Err("`~` is nobody's home here: write the path out"),
        },
        Some(_) => Err("`~` with a name is nobody's home here: write the path out"),
    }
}

/// The path beneath `directory` without `.` and `..`; links are not looked at.
pub(crate) fn absolute(directory: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            other => whole.push(other),
        }
    }
    whole
}

/// Follows links as far as the path is there; what is not there yet stays as it is named. Nothing where it holds `..`.
fn resolve_links(path: &Path) -> Option<PathBuf> {
    let (mut present, mut rest) = (path.to_owned(), Vec::new());
    loop {
        match present.canonicalize() {
            Ok(whole) => return Some(rest.iter().rev().fold(whole, |whole, name| whole.join(name))),
            // A link to nowhere is there: what it points to may be made later, anywhere.
            Err(_) if present.symlink_metadata().is_ok() => return None,
            Err(_) => {
                rest.push(present.file_name()?.to_owned());
                present = present.parent()?.to_owned();
            }
        }
    }
}

/// Puts the path behind all links in the place of every path: what the policy looks at is what Docker gets.
pub(super) fn resolve(project: &mut Project, roots: &Roots) {
    let follow = |path: &mut String| {
        if let Some(whole) = roots.allowed(Path::new(path)) {
            *path = whole.to_string_lossy().into_owned();
        }
    };
    for service in project.services.values_mut() {
        let binds = service.volumes.iter_mut().filter(|mount| mount.kind == "bind");
        binds.filter_map(|mount| mount.source.as_mut()).for_each(follow);
        if let Some(build) = &mut service.build
            && !build.context.is_remote()
        {
            follow(&mut build.context.0);
        }
    }
    for volume in project.volumes.values_mut() {
        let binds =
            volume.driver_opts.get("o").is_some_and(|options| options.0.split(',').any(|flag| flag.ends_with("bind")));
        if let Some(device) = volume.driver_opts.get_mut("device").filter(|_| binds) {
            follow(&mut device.0);
        }
    }
    for content in project.secrets.values_mut().chain(project.configs.values_mut()) {
        if let Some(file) = &mut content.file {
            follow(&mut file.0);
        }
    }
}

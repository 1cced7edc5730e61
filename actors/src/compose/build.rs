//! Makes images with the builder in Docker Engine itself (the classic one). The context is streamed while it is read, and
//! read beneath its directory's descriptor: a link in it is sent as a link, whoever exchanges what meanwhile.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bollard::query_parameters::{BuildImageOptions, TagImageOptions};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use tokio::sync::mpsc;

use super::body::label;
use super::error::WorkflowError;
use super::file::forms::Build;
use super::ops::Work;

/// How much of a context goes out at once.
const CHUNK: usize = 256 << 10;
/// Pieces that may wait for Docker.
const AHEAD: usize = 4;
/// How deep a context may be.
const DEEPEST: usize = 128;
/// The longest `.dockerignore` or Dockerfile.
const LONGEST: u64 = 1 << 20;
/// How long Docker may take to read the context before it answers, in seconds.
const PATIENCE: u64 = 60 * 60;
/// Under which name a Dockerfile is sent that is not in the context.
const OWN_DOCKERFILE: &str = ".dxflow.Dockerfile";

impl Work {
    /// Builds the image of a service; its id.
    ///
    /// # Errors
    /// What Docker or a step of the Dockerfile says.
    pub(crate) async fn build(
        &self,
        service: &str,
        image: &str,
        build: &Build,
        platform: Option<&str>,
    ) -> Result<String, WorkflowError> {
        let what = || format!("build the image `{image}`");
        self.tell(image, service, "building", None);
        let failed = |error: io::Error| WorkflowError::Source { reason: format!("failed to {}: {error}", what()) };
        let remote = build.context.is_remote();
        let context = if remote { None } else { Some(Context::of(build).map_err(failed)?) };
        let mut labels: HashMap<String, String> = build.labels.filled().into_iter().collect();
        labels.insert(label::PROJECT.into(), self.project.clone());
        labels.insert(label::SERVICE.into(), service.into());
        let named = build.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into());
        let options = BuildImageOptions {
            dockerfile: context.as_ref().map_or(named, |context| context.dockerfile.clone()),
            t: Some(image.to_owned()),
            remote: remote.then(|| build.context.0.clone()),
            nocache: build.no_cache,
            pull: build.pull.then(|| "true".to_owned()),
            rm: true,
            forcerm: true,
            cachefrom: (!build.cache_from.0.is_empty()).then(|| build.cache_from.0.clone()),
            buildargs: Some(build.args.filled().into_iter().collect()),
            shmsize: build.shm_size.as_ref().and_then(|size| i32::try_from(size.0).ok()),
            labels: Some(labels),
            networkmode: build.network.clone(),
            platform: build.platforms.first().map(String::as_str).or(platform).unwrap_or("").to_owned(),
            target: build.target.clone().unwrap_or_default(),
            ..BuildImageOptions::default()
        };
        let body = context.map(|context| {
            let (sender, receiver) = mpsc::channel(AHEAD);
            tokio::task::spawn_blocking(move || context.send(sender));
            bollard::body_try_stream(stream::unfold(receiver, |mut receiver| async {
                let piece: io::Result<Bytes> = receiver.recv().await?;
                Some((piece, receiver))
            }))
        });
        let docker = self.docker.clone().with_timeout(std::time::Duration::from_secs(PATIENCE));
        let mut steps = Box::pin(docker.build_image(options, None, body));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| WorkflowError::docker(what(), error))?;
            if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
                return Err(WorkflowError::Docker { what: what(), message });
            }
        }
        for tag in &build.tags {
            let (repo, tag) = tag.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((tag, "latest"));
            let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(tag.to_owned()) };
            let tagged = self.docker.tag_image(image, Some(options)).await;
            tagged.map_err(|error| WorkflowError::docker(format!("tag the image `{image}`"), error))?;
        }
        self.tell(image, service, "built", None);
        let missing = || WorkflowError::Docker { what: what(), message: "it is not there after the build".into() };
        self.inspect_image(image).await?.ok_or_else(missing)
    }
}

/// The files for a build.
struct Context {
    root: OwnedFd,
    ignored: Ignored,
    /// The Dockerfile's name as the builder finds it.
    dockerfile: String,
    /// Its text, where it is not a file of the context.
    text: Option<Vec<u8>>,
}

impl Context {
    fn of(build: &Build) -> io::Result<Self> {
        let directory = Path::new(&build.context.0);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|error| io::Error::other(format!("`{}`: {error}", directory.display())))?;
        let ignored = match read_small(root.as_fd(), ".dockerignore") {
            Ok(text) => Ignored::read(&String::from_utf8_lossy(&text))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ignored::default(),
            Err(error) => return Err(error),
        };
        let named = build.dockerfile.as_deref().unwrap_or("Dockerfile");
        let place: PathBuf = directory.join(named).components().collect();
        let (dockerfile, text) = match (&build.dockerfile_inline, place.strip_prefix(directory)) {
            (Some(text), _) => (OWN_DOCKERFILE.to_owned(), Some(text.clone().into_bytes())),
            (None, Ok(inside)) if !inside.components().any(|part| part == std::path::Component::ParentDir) => {
                (inside.to_string_lossy().into_owned(), None)
            }
            (None, _) => {
                let text = std::fs::read(&place)
                    .map_err(|error| io::Error::other(format!("`{}`: {error}", place.display())))?;
                (OWN_DOCKERFILE.to_owned(), Some(text))
            }
        };
        Ok(Self { root, ignored, dockerfile, text })
    }

    /// Sends everything as a tar archive; an error ends it, so that nobody builds with half of it.
    fn send(self, sender: mpsc::Sender<io::Result<Bytes>>) {
        let out = Pieces { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
        let mut archive = tar::Builder::new(out);
        let sent = self.write(&mut archive).and_then(|()| archive.into_inner()).and_then(|mut out| out.flush());
        if let Err(error) = sent {
            let _ = sender.blocking_send(Err(error));
        }
    }

    fn write(&self, archive: &mut tar::Builder<Pieces>) -> io::Result<()> {
        self.write_directory(archive, self.root.as_fd(), "", 0)?;
        if let Some(text) = &self.text {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, OWN_DOCKERFILE, text.as_slice())?;
        }
        Ok(())
    }

    fn write_directory(
        &self,
        archive: &mut tar::Builder<Pieces>,
        directory: BorrowedFd<'_>,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("`{path}`: a context is at most {DEEPEST} directories deep")));
        }
        let mut names: Vec<_> = Dir::read_from(directory)?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        names.sort_unstable();
        for name in names {
            let Ok(text) = name.to_str() else {
                return Err(io::Error::other(format!("`{path}/{}`: the name is not UTF-8", name.to_string_lossy())));
            };
            let path = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
            let always = path == self.dockerfile || path == ".dockerignore";
            let ignored = !always && self.ignored.holds(&path);
            let stat = match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Gone since the directory was read.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut header = tar::Header::new_gnu();
            header.set_mode(stat.st_mode & 0o7777);
            header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    if !ignored {
                        header.set_entry_type(tar::EntryType::Directory);
                        header.set_size(0);
                        archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                    }
                    if !ignored || self.ignored.has_exceptions() || self.dockerfile.starts_with(&format!("{path}/")) {
                        let below = rustix::fs::openat(directory, &name, flags | OFlags::DIRECTORY, Mode::empty())?;
                        self.write_directory(archive, below.as_fd(), &path, depth + 1)?;
                    }
                }
                FileType::RegularFile if !ignored => {
                    let file = std::fs::File::from(rustix::fs::openat(directory, &name, flags, Mode::empty())?);
                    let size = file.metadata()?.len();
                    header.set_size(size);
                    let mut exactly = io::Read::take(io::Read::chain(file, io::repeat(0)), size);
                    archive.append_data(&mut header, &path, &mut exactly)?;
                }
                FileType::Symlink if !ignored => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    let target = rustix::fs::readlinkat(directory, &name, Vec::new())?;
                    archive.append_link(&mut header, &path, target.to_string_lossy().as_ref())?;
                }
                // Sockets, pipes and devices mean nothing elsewhere.
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_small(directory: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = std::fs::File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST), &mut text)?;
    Ok(text)
}

/// What `.dockerignore` keeps out of a context; of the patterns that hold, the last decides.
#[derive(Default)]
struct Ignored(Vec<Pattern>);

struct Pattern {
    itself: GlobMatcher,
    below: GlobMatcher,
    exception: bool,
}

impl Ignored {
    fn read(text: &str) -> io::Result<Self> {
        let mut patterns = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (line, exception) = line.strip_prefix('!').map_or((line, false), |rest| (rest.trim(), true));
            let pattern = line.trim_start_matches("./").trim_matches('/');
            if pattern.is_empty() {
                continue;
            }
            let glob = |pattern: &str| {
                let glob = GlobBuilder::new(pattern).literal_separator(true).build();
                glob.map(|glob| glob.compile_matcher())
                    .map_err(|error| io::Error::other(format!(".dockerignore: {error}")))
            };
            let pattern = if pattern == "." { "**" } else { pattern };
            patterns.push(Pattern { itself: glob(pattern)?, below: glob(&format!("{pattern}/**"))?, exception });
        }
        Ok(Self(patterns))
    }

    fn holds(&self, path: &str) -> bool {
        let found = self.0.iter().rev().find(|pattern| pattern.itself.is_match(path) || pattern.below.is_match(path));
        found.is_some_and(|pattern| !pattern.exception)
    }

    fn has_exceptions(&self) -> bool {
        self.0.iter().any(|pattern| pattern.exception)
    }
}

/// Gathers what is written into pieces for a stream.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)).into();
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "Docker takes no more of the context");
        self.sender.blocking_send(Ok(piece)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_holds_decides() {
        let ignored =
            Ignored::read("# words\n*.log\n/target/\ndocs/**\n!docs/keep.md\n**/*.tmp\n./a\n").expect("patterns");
        for (path, held) in [
            ("x.log", true),
            ("sub/x.log", false),
            ("target", true),
            ("target/debug/x", true),
            ("docs/a/b.md", true),
            ("docs/keep.md", false),
            ("a/b/c.tmp", true),
            ("a", true),
            ("b", false),
        ] {
            assert_eq!(ignored.holds(path), held, "{path}");
        }
        assert!(ignored.has_exceptions());
        assert!(Ignored::read(".\n!keep").expect("patterns").holds("anything/at/all"));
        assert!(Ignored::read("a[").is_err());
    }
}

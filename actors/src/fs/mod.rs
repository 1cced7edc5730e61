//! The volume: files beneath one directory, as objects.
//!
//! [`Files`] is what the rest of the engine sees. Small operations run on blocking threads, a bounded number at once;
//! archives are jobs of supervised workers. Bytes go through bounded channels between a connection and a thread, never
//! through a mailbox. No identity, link, archive entry or race leads out of the volume: the kernel resolves every path
//! beneath one descriptor.

mod archive;
mod error;
#[cfg(test)]
mod hostile;
mod list;
mod path;
mod resume;
mod share;
mod transfer;
mod volume;
mod worker;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use archive::{Step, Summary};
pub use error::FsError;
pub use list::{Listed, Listing, SORT_LIMIT};
pub use path::ObjectPath;
pub use resume::{Part, PartDone, Progress};
pub use share::{Opened, ShareInfo, ShareName, ShareRequest, Shared, Usage};
pub use transfer::{Segment, Sink, Uploaded, read};
pub use volume::{Kind, Object};

use crate::call::blocking;
use crate::live::Live;
use crate::store::Store;
use crate::supervision::{ChildSpec, Intensity, Strategy, Supervisor, SupervisorSpec};
use crate::units::{Size, Span};
use archive::Limits;
use transfer::Plan;
use volume::Volume;
use worker::Workers;

/// Its part of the configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many archives are made or unpacked at once; more are answered with 503. At most 64.
    pub workers: u32,
    /// How many uploads, downloads and listings there may be at once; more are answered with 503.
    pub max_transfers: u32,
    /// The largest object that may be uploaded.
    pub max_upload: Size,
    /// How long an unfinished upload is kept for its client to resume.
    pub upload_expiry: Span,
    /// How many entries an archive that is unpacked may have.
    pub max_archive_entries: u64,
    /// How many bytes an archive may unpack to.
    pub max_archive_bytes: Size,
    /// How many times larger than the archive its content may be.
    pub max_archive_ratio: u64,
    /// The longest lifetime of a share.
    pub max_share_lifetime: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 4,
            max_transfers: 256,
            max_upload: Size(1 << 40),
            upload_expiry: Span::seconds(86_400),
            max_archive_entries: 1_000_000,
            max_archive_bytes: Size(100 << 30),
            max_archive_ratio: 250,
            max_share_lifetime: Span::seconds(30 * 86_400),
        }
    }
}

/// Workers at most, whatever is configured.
const MAX_WORKERS: u32 = 64;
/// More restarts than the waits between them allow: a worker is always brought back.
const WORKER_INTENSITY: Intensity = Intensity { max: 1_000, period: Duration::from_secs(5) };
/// How often expired uploads are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Steps of a job that may wait for their reader; more are left out.
const STEPS: usize = 64;

/// The volume as the rest of the engine sees it.
#[derive(Clone, Debug)]
pub struct Files {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Live<Settings>,
    store: Store,
    directory: PathBuf,
    volume: OnceLock<Volume>,
    workers: Mutex<Workers>,
    transfers: Arc<Semaphore>,
    busy: resume::Busy,
    uses: share::Uses,
}

/// How something is to be created.
#[derive(Clone, Debug)]
pub struct Create {
    /// What.
    pub path: ObjectPath,
    /// Whether a directory.
    pub directory: bool,
    /// A file's content.
    pub content: Bytes,
    /// Whether something may be there.
    pub replace: bool,
    /// Its mode, if it is chosen.
    pub mode: Option<u32>,
}

/// An upload's parameters.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The object.
    pub path: ObjectPath,
    /// Whether something may be replaced.
    pub replace: bool,
    /// The announced length of this request's body.
    pub length: Option<u64>,
    /// What the whole content's SHA-256 must be.
    pub sha256: Option<[u8; 32]>,
}

impl Upload {
    fn plan(self, settings: &Settings) -> Plan {
        Plan {
            path: self.path,
            replace: self.replace,
            limit: settings.max_upload.0,
            length: self.length,
            sha256: self.sha256,
            mode: 0o644,
        }
    }
}

/// A part that is being received.
#[derive(Debug)]
pub enum PartSink {
    /// Its bytes are wanted.
    Wanted(Box<PartWriting>),
    /// The upload is complete already.
    Complete(Box<Uploaded>),
}

/// A part whose bytes are being written.
pub struct PartWriting {
    /// Where they go.
    pub sink: Sink<u64>,
    files: Files,
    plan: Plan,
    part: Part,
    claim: Arc<resume::Claim>,
}

impl std::fmt::Debug for PartWriting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartWriting").field("part", &self.part).finish_non_exhaustive()
    }
}

/// A file that is open for download.
#[derive(Debug)]
pub struct Download {
    /// The file.
    pub file: File,
    /// What it is.
    pub object: Object,
    /// All of it, when it is small: it was read while it was opened.
    pub whole: Option<Bytes>,
}

/// Up to how many bytes a file is read while it is opened.
const SMALL: u64 = 64 << 10;

/// What a job is to do.
#[derive(Clone, Debug)]
pub enum Job {
    /// Makes an archive.
    Zip {
        /// Of what.
        paths: Vec<ObjectPath>,
        /// Where.
        destination: ObjectPath,
        /// 0 (stored) to 9.
        level: i64,
        /// Whether something may be replaced.
        replace: bool,
    },
    /// Unpacks an archive.
    Unzip {
        /// Which.
        path: ObjectPath,
        /// Where.
        destination: ObjectPath,
        /// Whether files may be replaced.
        replace: bool,
    },
}

/// A job under way: its steps as they happen, and its end. Dropping it cancels it.
#[derive(Debug)]
pub struct Running {
    /// Steps; some are left out when nobody reads them fast enough.
    pub steps: mpsc::Receiver<Step>,
    end: oneshot::Receiver<Result<Done, FsError>>,
    panicked: oneshot::Receiver<String>,
}

/// What a job has done.
#[derive(Clone, Debug)]
pub struct Done {
    /// The archive, or where it was unpacked.
    pub destination: ObjectPath,
    /// Entries.
    pub entries: u64,
    /// Bytes: of the archive that was made, or of what was unpacked.
    pub size: u64,
}

impl Running {
    /// Waits for the end; steps are no longer told.
    ///
    /// # Errors
    /// What went wrong; nothing is left then.
    pub async fn end(self) -> Result<Done, FsError> {
        // The steps stay open until the end: closing them is how a job is cancelled.
        let Self { mut steps, end, panicked } = self;
        let drain = async {
            while steps.recv().await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = end => match ended {
                Ok(ended) => ended,
                Err(_) => Err(FsError::Fault(std::io::Error::other(panicked.await.unwrap_or_else(|_| "the job was lost".into())))),
            },
            () = drain => unreachable!("the drain never ends"),
        }
    }
}

impl Files {
    /// The handle, before its actors run.
    #[must_use]
    pub fn new(settings: Live<Settings>, store: Store, directory: PathBuf) -> Self {
        let present = settings.get();
        let workers = Workers::new(present.workers.min(MAX_WORKERS) as usize);
        let transfers = Arc::new(Semaphore::new(present.max_transfers.max(1) as usize));
        Self {
            inner: Arc::new(Inner {
                settings,
                store,
                directory,
                volume: OnceLock::new(),
                workers: Mutex::new(workers),
                transfers,
                busy: resume::Busy::default(),
                uses: share::Uses::default(),
            }),
        }
    }

    /// How the supervisor starts its actors.
    #[must_use]
    pub fn child(&self) -> ChildSpec {
        let files = self.clone();
        ChildSpec::supervisor("files", move |parent| {
            let files = files.clone();
            async move {
                if let Err(error) = files.volume() {
                    return Err(ractor::SpawnErr::StartupFailed(error.into()));
                }
                let workers = Workers::new(files.inner.settings.get().workers.min(MAX_WORKERS) as usize);
                *files.inner.workers.lock().unwrap_or_else(PoisonError::into_inner) = workers.clone();
                let mut children = workers.children();
                let sweeping = files.clone();
                children.push(ChildSpec::worker("files/sweeper", move |supervisor| {
                    let files = sweeping.clone();
                    async move {
                        let (actor, _) = Actor::spawn_linked(None, Sweeper, files, supervisor).await?;
                        Ok(actor.get_cell())
                    }
                }));
                let spec = SupervisorSpec::new("files", Strategy::OneForOne, children);
                // A worker for each bad archive that a client can think of: neither it nor the pool gives up for them,
                // and the growing waits between restarts keep them from costing more than their jobs.
                let spec = spec
                    .intensity(WORKER_INTENSITY)
                    .per_child(Arc::new(|id, reason| tracing::error!(id, reason, "a worker is gone for good")));
                Ok(Supervisor::spawn_linked(spec, parent).await?.cell())
            }
        })
    }

    fn volume(&self) -> Result<&Volume, FsError> {
        if let Some(volume) = self.inner.volume.get() {
            return Ok(volume);
        }
        let volume = Volume::open(&self.inner.directory).map_err(FsError::Fault)?;
        Ok(self.inner.volume.get_or_init(|| volume))
    }

    /// Runs a small operation on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volume) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        let volume = self.volume()?.clone();
        blocking(move || work(&volume)).await.map_err(|panic| FsError::Fault(std::io::Error::other(panic)))?
    }

    fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, FsError> {
        let busy = || FsError::Busy(self.inner.settings.get().max_transfers as usize);
        Arc::clone(&self.inner.transfers).try_acquire_owned().map_err(|_| busy())
    }

    /// The object called `path`.
    ///
    /// # Errors
    /// When it is not there or outside.
    pub async fn object(&self, path: ObjectPath) -> Result<Object, FsError> {
        self.run(move |volume| volume.object(&path)).await
    }

    /// Lists a directory; the objects come as the reader takes them.
    ///
    /// # Errors
    /// When the directory is not there, or the pattern is no glob.
    pub async fn list(&self, listing: Listing) -> Result<Listed, FsError> {
        let permit = self.permit()?;
        let volume = self.volume()?.clone();
        let (sender, objects) = mpsc::channel(2);
        let (head, told) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            listing.run(&volume, |total| drop(head.send(total)), &sender);
        });
        let total = told.await.map_err(|_| FsError::Fault(std::io::Error::other("the listing panicked")))??;
        Ok(Listed { total, objects })
    }

    /// Makes a file or a directory, and the directories it is in; says whether something was replaced.
    ///
    /// # Errors
    /// When something is there, or is of another kind.
    pub async fn create(&self, create: Create) -> Result<(Object, bool), FsError> {
        self.run(move |volume| {
            let identity = create.path.to_string();
            if create.path.is_volume() {
                return Err(FsError::Volume("created"));
            }
            let there = volume.look(&create.path).ok();
            if create.directory {
                let is_directory = there.as_ref().map(|stat| volume::kind(stat) == Kind::Directory);
                match is_directory {
                    Some(true) if create.replace => {}
                    Some(true) => return Err(FsError::Exists(identity)),
                    Some(false) => return Err(FsError::Kind { identity, is: "not a directory" }),
                    None => {}
                }
                let directory = volume.make_directories(&create.path)?;
                if let Some(mode) = create.mode {
                    rustix::fs::fchmod(&directory, rustix::fs::Mode::from_raw_mode(mode))
                        .map_err(|error| FsError::system(error, &identity))?;
                }
                volume::sync_directory(&directory);
                return Ok((volume.object(&create.path)?, there.is_some()));
            }
            let mut unplaced = transfer::Unplaced::create(volume, &create.path)?;
            unplaced.file.write_all(&create.content).map_err(|error| FsError::io(&error, &identity))?;
            let replaced = unplaced.place(&create.path, create.replace, create.mode.unwrap_or(0o644))?;
            if replaced && let Some(mode) = create.mode {
                let (file, _) = volume.file(&create.path)?;
                rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))
                    .map_err(|error| FsError::system(error, &identity))?;
            }
            Ok((volume.object(&create.path)?, replaced))
        })
        .await
    }

    /// Removes an object and all in it.
    ///
    /// # Errors
    /// When it is not there, or is the volume.
    pub async fn remove(&self, path: ObjectPath) -> Result<(), FsError> {
        self.run(move |volume| volume.remove(&path)).await
    }

    /// Renames an object in one step.
    ///
    /// # Errors
    /// When it is not there, or something is in its place.
    pub async fn rename(&self, from: ObjectPath, to: ObjectPath, replace: bool) -> Result<(), FsError> {
        self.run(move |volume| volume.rename(&from, &to, replace)).await
    }

    /// Opens a file for download.
    ///
    /// # Errors
    /// When it is not there or not a file.
    pub async fn open(&self, path: ObjectPath) -> Result<Download, FsError> {
        self.run(move |volume| {
            let (file, stat) = volume.file(&path)?;
            let object = volume::object(&path, &stat);
            let whole = (object.size <= SMALL).then(|| transfer::whole(&file, object.size)).flatten();
            Ok(Download { file, object, whole })
        })
        .await
    }

    /// What `path` leads to, a link's target in place of the link.
    ///
    /// # Errors
    /// When it is not there or outside.
    pub async fn target(&self, path: ObjectPath) -> Result<Object, FsError> {
        self.run(move |volume| Ok(volume::object(&path, &volume.stat(&path)?))).await
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// When it cannot be taken, before the first byte.
    pub async fn upload(&self, upload: Upload) -> Result<Sink<Uploaded>, FsError> {
        let permit = self.permit()?;
        let plan = upload.plan(&self.inner.settings.get());
        if plan.length.is_some_and(|length| length > plan.limit) {
            return Err(FsError::TooLarge { limit: plan.limit });
        }
        let (path, replace) = (plan.path.clone(), plan.replace);
        self.run(move |volume| {
            path.split("replaced")?;
            match volume.look(&path).map(|stat| volume::kind(&stat)) {
                Ok(Kind::Directory) => Err(FsError::Kind { identity: path.to_string(), is: "a directory" }),
                Ok(_) if !replace => Err(FsError::Exists(path.to_string())),
                Ok(_) | Err(FsError::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await?;
        let volume = self.volume()?.clone();
        Ok(Sink::start(move |source| {
            let _permit = permit;
            transfer::upload(&volume, &plan, source)
        }))
    }

    /// How far a resumable upload is; `None` when there is none of that name.
    ///
    /// # Errors
    /// When the name is no name.
    pub async fn upload_progress(&self, path: ObjectPath, upload: &str) -> Result<Option<Progress>, FsError> {
        resume::check_name(upload)?;
        resume::progress(&self.inner.store, self.volume()?, &path, upload).await
    }

    /// Begins a part of a resumable upload.
    ///
    /// # Errors
    /// When it does not begin where the upload stands, or another request writes it.
    pub async fn upload_part(&self, upload: Upload, part: Part) -> Result<PartSink, FsError> {
        resume::check_name(&part.upload)?;
        let permit = self.permit()?;
        let plan = upload.plan(&self.inner.settings.get());
        plan.path.split("replaced")?;
        let claim = Arc::new(self.inner.busy.claim(&plan.path, &part.upload)?);
        let mut file = match resume::begin(&self.inner.store, self.volume()?, &plan, &part).await? {
            resume::Ready::Write(file) => file,
            resume::Ready::Placed(uploaded) => return Ok(PartSink::Complete(Box::new(uploaded))),
        };
        let (writing, of, held) = (plan.clone(), part.clone(), Arc::clone(&claim));
        let sink = Sink::start(move |source| {
            // The claim ends with the writing, not with the connection: a client that comes back while the last bytes of
            // the broken one are still being written is told to wait.
            let _kept = (permit, held);
            resume::write(&mut file, &writing, &of, source)
        });
        Ok(PartSink::Wanted(Box::new(PartWriting { sink, files: self.clone(), plan, part, claim })))
    }

    /// Removes uploads that nobody has gone on with for as long as is configured.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn expire_uploads(&self) -> Result<usize, FsError> {
        let expiry = i64::try_from(self.inner.settings.get().upload_expiry.0.as_secs()).unwrap_or(i64::MAX / 2);
        let before = crate::time::unix_now() - expiry;
        resume::expire(&self.inner.store, self.volume()?, &self.inner.busy, before).await
    }

    /// Starts a job on a worker.
    ///
    /// # Errors
    /// [`FsError::Busy`] at once when none is idle.
    pub fn job(&self, job: Job) -> Result<Running, FsError> {
        let volume = self.volume()?.clone();
        let settings = self.inner.settings.get();
        let limits = Limits {
            entries: settings.max_archive_entries,
            bytes: settings.max_archive_bytes.0,
            ratio: settings.max_archive_ratio,
        };
        let (step_sender, steps) = mpsc::channel(STEPS);
        let (end_sender, end) = oneshot::channel();
        let work: worker::Job = Box::new(move || {
            let mut tell = |step| {
                let _ = step_sender.try_send(step);
                !step_sender.is_closed()
            };
            let done = perform(&volume, job, limits, &mut tell);
            let _ = end_sender.send(done);
        });
        let workers = self.inner.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let panicked = workers.run(work).ok_or_else(|| FsError::Busy(workers.count()))?;
        Ok(Running { steps, end, panicked })
    }

    /// Makes an archive of a directory while it is read; the archive breaks off where something goes wrong.
    ///
    /// # Errors
    /// When as many transfers as are allowed are under way.
    pub fn zip_stream(&self, path: ObjectPath) -> Result<mpsc::Receiver<std::io::Result<Bytes>>, FsError> {
        let permit = self.permit()?;
        let volume = self.volume()?.clone();
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let out = ChannelWriter { sender: sender.clone(), buffer: Vec::with_capacity(ZIP_CHUNK) };
            let writer = zip::ZipWriter::new_stream(out);
            let packed = archive::pack(&volume, &[path], 6, writer, &mut |_| !sender.is_closed());
            let ended = packed.map_err(std::io::Error::other).and_then(|(writer, _)| writer.into_inner().flush());
            if let Err(error) = ended {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(receiver)
    }

    /// Shares objects.
    ///
    /// # Errors
    /// When one is not there.
    pub async fn share(&self, request: ShareRequest) -> Result<Vec<Shared>, FsError> {
        let longest = i64::try_from(self.inner.settings.get().max_share_lifetime.0.as_secs()).unwrap_or(i64::MAX);
        if !(1..=longest).contains(&request.lifetime) {
            return Err(FsError::Invalid(format!(
                "`lifetime` must be from 1s to {}",
                self.inner.settings.get().max_share_lifetime
            )));
        }
        if request.uses == Some(0) {
            return Err(FsError::Invalid("`uses` must be at least 1".into()));
        }
        share::create(&self.inner.store, self.volume()?, request).await
    }

    /// The shares of a key, or with `all` everybody's.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn shares(&self, key: Option<String>, all: bool) -> Result<Vec<ShareInfo>, FsError> {
        share::list(&self.inner.store, key, all).await
    }

    /// Revokes a share; returns its id.
    ///
    /// # Errors
    /// When there is none of that name that the key may revoke.
    pub async fn revoke(&self, name: ShareName, key: Option<String>, all: bool) -> Result<String, FsError> {
        share::revoke(&self.inner.store, name, key, all).await
    }

    /// What a signature opens, in this direction.
    ///
    /// # Errors
    /// [`FsError::Signature`], whatever is wrong with it.
    pub async fn open_share(&self, signature: &str, upload: bool) -> Result<Opened, FsError> {
        share::open(&self.inner.store, self.volume()?, &self.inner.uses, signature, upload).await
    }

    /// Counts a use that has come to its end.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spend_share(&self, opened: Opened, upload: bool) -> Result<(), FsError> {
        share::spend(&self.inner.store, self.volume()?, opened, upload).await
    }
}

impl PartWriting {
    /// Ends the part and, if it was the last, the upload.
    ///
    /// # Errors
    /// What went wrong; what had come by then is kept.
    pub async fn finish(self) -> Result<PartDone, FsError> {
        let Self { sink, files, plan, part, claim } = self;
        let offset = sink.finish().await?;
        if offset < part.total {
            return Ok(PartDone::Partial(Progress { offset, total: part.total }));
        }
        let uploaded = resume::place(&files.inner.store, files.volume()?, &plan, &part, &claim).await?;
        Ok(PartDone::Complete(uploaded))
    }
}

/// Does a job: the work of a worker's thread.
fn perform(volume: &Volume, job: Job, limits: Limits, tell: &mut dyn FnMut(Step) -> bool) -> Result<Done, FsError> {
    match job {
        Job::Zip { paths, destination, level, replace } => {
            if !replace && volume.look(&destination).is_ok() {
                return Err(FsError::Exists(destination.to_string()));
            }
            for path in &paths {
                volume.stat(path)?;
            }
            let unplaced = transfer::Unplaced::create(volume, &destination)?;
            let out = unplaced.file.try_clone().map_err(FsError::Fault)?;
            let writer = zip::ZipWriter::new(std::io::BufWriter::with_capacity(ZIP_CHUNK, out));
            let (mut out, summary) = archive::pack(volume, &paths, level, writer, &mut |step| tell(step))?;
            out.flush().map_err(|error| FsError::io(&error, &destination.to_string()))?;
            drop(out);
            let size = unplaced.file.metadata().map_err(FsError::Fault)?.len();
            unplaced.place(&destination, replace, 0o644)?;
            Ok(Done { destination, entries: summary.entries, size })
        }
        Job::Unzip { path, destination, replace } => {
            let summary = archive::unpack(volume, &path, &destination, replace, limits, &mut |step| tell(step))?;
            Ok(Done { destination, entries: summary.entries, size: summary.bytes })
        }
    }
}

/// Bytes of an archive that go out at once.
const ZIP_CHUNK: usize = 256 * 1024;

/// Writes into a channel, in large pieces.
struct ChannelWriter {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= ZIP_CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(ZIP_CHUNK));
            self.sender.blocking_send(Ok(full.into())).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }
}

/// Looks for expired uploads now and then.
struct Sweeper;

/// What the sweeper is told.
#[derive(Debug)]
enum SweeperMsg {
    /// The interval is over.
    SweepTick,
}

impl Actor for Sweeper {
    type Msg = SweeperMsg;
    type State = Files;
    type Arguments = Files;

    async fn pre_start(&self, myself: ActorRef<SweeperMsg>, files: Files) -> Result<Files, ActorProcessingErr> {
        myself.send_message(SweeperMsg::SweepTick)?;
        myself.send_interval(SWEEP_INTERVAL, || SweeperMsg::SweepTick);
        Ok(files)
    }

    async fn handle(
        &self,
        _: ActorRef<SweeperMsg>,
        SweeperMsg::SweepTick: SweeperMsg,
        files: &mut Files,
    ) -> Result<(), ActorProcessingErr> {
        crate::fault::point("files/sweeper");
        let files = files.clone();
        tokio::spawn(async move {
            match files.expire_uploads().await {
                Ok(0) => {}
                Ok(expired) => tracing::info!(expired, "unfinished uploads expired"),
                Err(error) => {
                    tracing::warn!(error = crate::error::chain(&error), "expired uploads could not be removed")
                }
            }
        });
        Ok(())
    }
}

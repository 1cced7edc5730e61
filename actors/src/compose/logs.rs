//! What the containers of a workflow write: merged by time, or followed through restarts and replacements.

use std::collections::HashMap;
use std::pin::Pin;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{broadcast, mpsc};

use super::error::{WorkflowError, is_missing};
use super::handle::Workflows;
use super::hub::{DockerEvent, Hub};
use super::observe::Container;
use crate::ids::WorkflowId;

/// How many lines wait for a reader who is slow.
const QUEUE: usize = 256;

/// A line of a container's output.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct LogLine {
    /// The service.
    pub service: String,
    /// The container.
    pub container: String,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// When, ISO 8601 with nanoseconds.
    pub time: String,
    /// What, without the line's end.
    pub line: String,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Of which services; all when there are none.
    pub services: Vec<String>,
    /// Whether more is waited for.
    pub follow: bool,
    /// Only so many of the last of each container.
    pub tail: Option<u32>,
    /// Only from this moment on, Unix seconds.
    pub since: Option<i32>,
    /// Only up to this moment, Unix seconds.
    pub until: Option<i32>,
}

type Lines = Pin<Box<dyn Stream<Item = Result<LogLine, WorkflowError>> + Send>>;

impl Workflows {
    /// The lines that containers wrote, in the order of time; with `follow` also those that they write from now on.
    ///
    /// # Errors
    /// When there is no such workflow or service, or Docker is away.
    pub async fn logs(&self, id: &WorkflowId, query: LogQuery) -> Result<Lines, WorkflowError> {
        let events = self.hub().events();
        let work = self.work(id).await?;
        let containers: Vec<Container> =
            work.containers(&query.services).await?.into_iter().map(|seen| seen.container).collect();
        if !query.follow {
            let streams = containers.iter().map(|container| lines(&work.docker, container, &query, None)).collect();
            return Ok(merged(streams));
        }
        let (lines, receiver) = mpsc::channel(QUEUE);
        let follower = Follower { docker: work.docker, hub: self.hub().clone(), id: id.clone(), query, lines };
        tokio::spawn(follower.run(containers, events));
        Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (line, receiver))
        })))
    }
}

/// The lines of one container; only those after `last` where that is said.
fn lines(docker: &Docker, container: &Container, query: &LogQuery, last: Option<&str>) -> Lines {
    // Docker counts in whole seconds: what was seen already is left out by its time below.
    let seconds = last.and_then(|last| last.parse::<jiff::Timestamp>().ok()).map(|time| time.as_second());
    let since = seconds.and_then(|seconds| i32::try_from(seconds).ok());
    let options = LogsOptions {
        follow: query.follow,
        stdout: true,
        stderr: true,
        timestamps: true,
        since: since.or(query.since).unwrap_or(0),
        until: query.until.unwrap_or(0),
        tail: match (last, query.tail) {
            (None, Some(tail)) => tail.to_string(),
            _ => "all".into(),
        },
    };
    let (service, name, last) = (container.service.clone(), container.name.clone(), last.map(str::to_owned));
    let docker = docker.clone();
    let id = container.id.clone();
    // The client's stream borrows the client.
    let chunks = async_stream(docker, id, options);
    Box::pin(chunks.flat_map(move |chunk| {
        let lines: Vec<Result<LogLine, WorkflowError>> = match chunk {
            Err(error) if is_missing(&error) => Vec::new(),
            Err(error) => vec![Err(WorkflowError::docker("give logs", error))],
            Ok(chunk) => {
                let stream = if matches!(chunk, LogOutput::StdErr { .. }) { "stderr" } else { "stdout" };
                let text = String::from_utf8_lossy(chunk.as_ref()).into_owned();
                let split = text.split_terminator('\n').filter_map(|text| {
                    let (time, line) = text.split_once(' ').unwrap_or((text, ""));
                    if last.as_deref().is_some_and(|last| time <= last) {
                        return None;
                    }
                    Some(Ok(LogLine {
                        service: service.clone(),
                        container: name.clone(),
                        stream,
                        time: time.to_owned(),
                        line: line.trim_end_matches('\r').to_owned(),
                    }))
                });
                split.collect()
            }
        };
        futures_util::stream::iter(lines)
    }))
}

fn async_stream(
    docker: Docker,
    id: String,
    options: LogsOptions,
) -> Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>> {
    Box::pin(docker.logs(&id, Some(options)))
}

/// Several streams that are each in the order of time, as one that is.
fn merged(streams: Vec<Lines>) -> Lines {
    let heads: Vec<(Lines, Option<LogLine>)> = streams.into_iter().map(|stream| (stream, None)).collect();
    Box::pin(futures_util::stream::unfold(heads, |mut heads| async move {
        let mut ended = Vec::new();
        for (place, (stream, head)) in heads.iter_mut().enumerate() {
            if head.is_none() {
                match stream.next().await {
                    Some(Ok(line)) => *head = Some(line),
                    Some(Err(error)) => return Some((Err(error), Vec::new())),
                    None => ended.push(place),
                }
            }
        }
        for place in ended.into_iter().rev() {
            drop(heads.remove(place));
        }
        let first = heads
            .iter_mut()
            .min_by(|(_, a), (_, b)| a.as_ref().map(|line| &line.time).cmp(&b.as_ref().map(|line| &line.time)))?;
        let line = first.1.take()?;
        Some((Ok(line), heads))
    }))
}

/// Follows every container of a workflow, those too that are made later.
struct Follower {
    docker: Docker,
    hub: Hub,
    id: WorkflowId,
    query: LogQuery,
    lines: mpsc::Sender<Result<LogLine, WorkflowError>>,
}

impl Follower {
    async fn run(self, containers: Vec<Container>, mut events: broadcast::Receiver<DockerEvent>) {
        let mut followed: HashMap<String, tokio::task::JoinHandle<()>> = HashMap::new();
        for container in containers {
            followed.insert(container.id.clone(), self.follow(container));
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.lines.closed() => break,
            };
            match event {
                Ok(DockerEvent::Container(happened)) if happened.project == self.id.as_str() => {
                    let meant = self.query.services.is_empty() || self.query.services.contains(&happened.service);
                    if happened.action == "start" && meant && !followed.contains_key(&happened.id) {
                        let container = Container {
                            id: happened.id.clone(),
                            name: happened.name.clone(),
                            service: happened.service.clone(),
                            index: 1,
                            state: String::new(),
                            status: String::new(),
                            health: None,
                            exit_code: None,
                            image: String::new(),
                            created_at: String::new(),
                        };
                        followed.insert(happened.id.clone(), self.follow(container));
                    }
                    if happened.action == "destroy" {
                        // Its task reads what is left, and ends.
                        followed.remove(&happened.id);
                    }
                }
                Err(broadcast::error::RecvError::Closed) => break,
                _ => {}
            }
        }
        for task in followed.into_values() {
            task.abort();
        }
    }

    /// One container through all its starts.
    fn follow(&self, container: Container) -> tokio::task::JoinHandle<()> {
        let (docker, lines_to, query) = (self.docker.clone(), self.lines.clone(), self.query.clone());
        let mut events = self.hub.events();
        tokio::spawn(async move {
            let mut last: Option<String> = None;
            loop {
                let mut stream = lines(&docker, &container, &query, last.as_deref());
                while let Some(line) = stream.next().await {
                    // A broken stream is taken up again at the next start; Docker being away is no end.
                    let Ok(line) = line else { break };
                    last = Some(line.time.clone());
                    if lines_to.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
                loop {
                    let event = tokio::select! {
                        event = events.recv() => event,
                        () = lines_to.closed() => return,
                    };
                    match event {
                        Ok(DockerEvent::Container(happened)) if happened.id == container.id => {
                            match happened.action.as_str() {
                                "start" => break,
                                "destroy" => return,
                                _ => {}
                            }
                        }
                        Ok(DockerEvent::LookAnew) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                        Err(broadcast::error::RecvError::Closed) => return,
                        Ok(_) => {}
                    }
                }
            }
        })
    }
}

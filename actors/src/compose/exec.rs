//! Commands in running containers.

use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures_util::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;

use super::error::WorkflowError;
use super::handle::Workflows;
use crate::ids::WorkflowId;

/// A command for a container.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// Its words.
    pub command: Vec<String>,
    /// In which service; needed where there are several.
    pub service: Option<String>,
    /// In which of its containers, from 1.
    pub index: Option<u32>,
    /// As whom.
    pub user: Option<String>,
    /// Where.
    pub workdir: Option<String>,
    /// Added to its environment.
    pub env: Vec<String>,
}

/// A part of what a command wrote, or its end.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Written {
    /// It wrote something.
    Data {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// What.
        data: String,
    },
    /// It ended.
    Ended {
        /// With what; 126 and 127 where it could not be run.
        exit_code: i64,
    },
}

/// What came of a command.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Executed {
    /// What it ended with; 126 and 127 where it could not be run.
    pub exit_code: i64,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote as errors.
    pub stderr: String,
    /// There was more than is answered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Bytes that may end within a character.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    /// What is whole with these bytes; the begin of a character waits for its rest.
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.0) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }
}

impl Workflows {
    /// Runs a command in a container without waiting for its end.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_detached(&self, id: &WorkflowId, execution: Execution) -> Result<(), WorkflowError> {
        let docker = self.hub().client().await?;
        let exec = self.prepare(id, execution, false).await?;
        let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
        let started = docker.start_exec(&exec, Some(options)).await;
        started.map(drop).map_err(|error| WorkflowError::docker("run the command", error))
    }

    /// Runs a command in a container; what it writes comes as it is written, its exit code last.
    ///
    /// # Errors
    /// When there is no such container, or it does not run.
    pub async fn execute(
        &self,
        id: &WorkflowId,
        execution: Execution,
    ) -> Result<impl Stream<Item = Result<Written, WorkflowError>> + Send + 'static, WorkflowError> {
        let docker = self.hub().client().await?;
        let exec = self.prepare(id, execution, true).await?;
        let started = docker.start_exec(&exec, None::<StartExecOptions>).await;
        let started = started.map_err(|error| WorkflowError::docker("run the command", error))?;
        let StartExecResults::Attached { output, input } = started else { return Err(WorkflowError::BrokenOff) };
        // Nothing is typed into it.
        drop(input);
        let texts = (Text::default(), Text::default());
        Ok(futures_util::stream::unfold(Some((output, texts, docker, exec)), |state| async move {
            let (mut output, mut texts, docker, exec) = state?;
            loop {
                match output.next().await {
                    Some(Ok(chunk)) => {
                        let (stream, text, bytes) = match &chunk {
                            LogOutput::StdErr { message } => ("stderr", &mut texts.1, message),
                            LogOutput::StdOut { message }
                            | LogOutput::Console { message }
                            | LogOutput::StdIn { message } => ("stdout", &mut texts.0, message),
                        };
                        let data = text.take(bytes);
                        if !data.is_empty() {
                            return Some((Ok(Written::Data { stream, data }), Some((output, texts, docker, exec))));
                        }
                    }
                    Some(Err(error)) => return Some((Err(WorkflowError::docker("run the command", error)), None)),
                    None => {
                        let ended = docker.inspect_exec(&exec).await;
                        let ended = ended.map_err(|error| WorkflowError::docker("say how the command ended", error));
                        let ended = ended.map(|exec| Written::Ended { exit_code: exec.exit_code.unwrap_or(-1) });
                        return Some((ended, None));
                    }
                }
            }
        }))
    }

    async fn prepare(&self, id: &WorkflowId, execution: Execution, attach: bool) -> Result<String, WorkflowError> {
        let work = self.work(id).await?;
        let containers = work.containers(execution.service.as_slice()).await?;
        let mut services: Vec<&str> = containers.iter().map(|seen| seen.container.service.as_str()).collect();
        services.dedup();
        if services.len() > 1 {
            let reason = format!("say the `service`: workflow `{id}` has {}", services.join(", "));
            return Err(WorkflowError::Invalid { reason });
        }
        let state = |reason: String| WorkflowError::State { reason };
        let found = match execution.index {
            Some(index) => containers.iter().find(|seen| seen.container.index == index),
            None => containers.iter().find(|seen| seen.runs()).or(containers.first()),
        };
        let seen = found.ok_or_else(|| state(format!("workflow `{id}` has no such container; start it")))?;
        if !seen.runs() {
            let reason = format!("the container `{}` is {}, not running", seen.container.name, seen.container.state);
            return Err(state(reason));
        }
        let config = ExecConfig {
            attach_stdout: Some(attach),
            attach_stderr: Some(attach),
            cmd: Some(execution.command),
            user: execution.user,
            working_dir: execution.workdir,
            env: (!execution.env.is_empty()).then_some(execution.env),
            ..ExecConfig::default()
        };
        let made = work.docker.create_exec(&seen.container.id, config).await;
        Ok(made.map_err(|error| WorkflowError::docker("run the command", error))?.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_torn() {
        let mut text = Text::default();
        assert_eq!(text.take(&[b'a', 0xC3]), "a");
        assert_eq!(text.take(&[0xA9, b'b']), "éb");
        assert_eq!(text.take(&[0xFF, b'c']), "\u{FFFD}c");
    }
}

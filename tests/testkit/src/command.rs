use crate::process::dying_with_us;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// None: ended by a signal.
    pub code: Option<i32>,
}

impl Output {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// Runs a program to its end with `stdin`; killed after `deadline`.
pub fn run<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    env: &[(&str, String)],
    stdin: &[u8],
    deadline: Duration,
) -> Result<Output> {
    let mut command = dying_with_us(program);
    command.args(args).envs(env.iter().map(|(k, v)| (*k, v)));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // a program may end without reading all of it
            input.map(|mut input| input.write_all(stdin))
        });
        let stdout = scope.spawn(|| all_of(stdout));
        let stderr = scope.spawn(|| all_of(stderr));
        let status = crate::wait_until("the command's end", deadline, || Ok(child.try_wait()?));
        if status.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let stderr = String::from_utf8_lossy(&join(stderr)?).into_owned();
        let stdout = join(stdout)?;
        match status {
            Ok(status) => Ok(Output {
                stdout,
                stderr,
                code: status.code(),
            }),
            Err(e) => bail!("{} {:?}: {e:#}\n{stderr}", program.display(), words(args)),
        }
    })
}

pub(crate) fn words<S: AsRef<OsStr>>(args: &[S]) -> Vec<String> {
    args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect()
}

fn all_of(stream: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn join(thread: std::thread::ScopedJoinHandle<'_, std::io::Result<Vec<u8>>>) -> Result<Vec<u8>> {
    match thread.join() {
        Ok(bytes) => Ok(bytes?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

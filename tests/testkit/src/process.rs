use crate::wait::wait_until;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a process that is asked to end may take (`cairn mount` waits 10 s for a busy mount).
const END: Duration = Duration::from_secs(20);

/// A server or mount: how it is started, and the running process if there is one. It runs in a process group of its
/// own; its standard output and error go to a file. Dropped, it is killed; it dies too when the *thread* that started
/// it ends, so start it where it shall be used.
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet.
    pub fn new(name: &str, program: &Path, args: Vec<OsString>, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            log,
            child: None,
        }
    }

    /// Starts it (again), with the same arguments.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().append(true).create(true).open(&self.log)?;
        let mut command = dying_with_us(&self.program);
        let command = command.args(&self.args).process_group(0).stdin(Stdio::null());
        let command = command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it has printed, over all its lives.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Adds arguments for the next start.
    pub fn add_args<S: Into<OsString>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.args.extend(args.into_iter().map(Into::into));
    }

    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    pub fn pid(&self) -> Result<Pid> {
        let child = self
            .child
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))?;
        Pid::from_raw(child.id() as i32).context("a process id")
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// SIGKILL, and waits for it to be gone.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(END)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("{} does not run", self.name))?;
        let status = wait_until(&format!("end of {}", self.name), deadline, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may be gone already, and there is nobody to tell
        let _ = self.kill();
    }
}

/// A command that the kernel kills when the thread that starts it ends, however it ends.
pub(crate) fn dying_with_us(program: &Path) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

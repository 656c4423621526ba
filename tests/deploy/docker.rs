//! Docker and the image under test.
use cairn_testkit::{Output, run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

pub const IMAGE: &str = "cairn-test";
/// As deploy/Dockerfile.prebuilt has it.
const RUNTIME: &str = "cairn-runtime";
const BINARY: &str = env!("CARGO_BIN_EXE_cairn");
/// Installing one package in the runtime stage is the slowest.
const COMMAND: Duration = Duration::from_secs(300);

/// While it lives no other run of these tests uses the names and addresses that they share.
pub struct Alone(#[expect(dead_code, reason = "unlocked when dropped")] File);

/// The image is built, and the test has the machine's Docker for itself; None where that cannot be, said loudly.
pub fn ready(test: &str) -> Option<Alone> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let lock = File::create(std::env::temp_dir().join("cairn-deploy-test.lock")).unwrap();
    lock.lock().unwrap();
    match BUILT.get_or_init(build) {
        Ok(()) => Some(Alone(lock)),
        Err(missing) => {
            cairn_testkit::skip(test, missing);
            None
        }
    }
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn build() -> Result<(), String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("/dev/fuse is missing".into());
    }
    step(&["info"], "no Docker daemon answers")?;
    if compose_command().is_none() {
        return Err("neither `docker compose` nor docker-compose is installed".into());
    }
    let root = root();
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let args = [
        "build",
        "--quiet",
        "--file",
        &path(&root.join("deploy/Dockerfile")),
        "--target=runtime",
        "--tag",
        RUNTIME,
        &path(&root),
    ];
    step(
        &args,
        "the runtime stage (without an image registry, `sudo deploy/make-bases.sh --runtime` makes its base)",
    )?;
    let context = tempfile::tempdir().unwrap();
    let stripped = run_program(
        "strip",
        &["--strip-debug", "-o", &path(&context.path().join("cairn")), BINARY],
    );
    assert!(stripped.ok(), "{}", stripped.stderr);
    // the one of the last run, which would stay without a name
    try_docker(&["rmi", IMAGE]);
    let dockerfile = path(&root.join("deploy/Dockerfile.prebuilt"));
    let args = [
        "build",
        "--quiet",
        "--file",
        &dockerfile,
        "--tag",
        IMAGE,
        &path(context.path()),
    ];
    step(&args, "deploy/Dockerfile.prebuilt")?;
    step(
        &["run", "--rm", "--network=none", IMAGE, "--version"],
        "the binary built here does not run in the image, whose glibc may be older",
    )
}

fn step(args: &[&str], what: &str) -> Result<(), String> {
    let output = run(Path::new("docker"), args, &[], b"", COMMAND).map_err(|e| format!("{what}: {e:#}"))?;
    match output.ok() {
        true => Ok(()),
        false => Err(format!("{what}: {}{}", output.text(), output.stderr)),
    }
}

pub fn run_program(program: &str, args: &[&str]) -> Output {
    run(Path::new(program), args, &[], b"", COMMAND).unwrap()
}

/// `docker ARGS`, whatever comes of it.
pub fn try_docker(args: &[&str]) -> Output {
    run_program("docker", args)
}

/// `docker ARGS`, which must succeed; what it printed.
pub fn docker(args: &[&str]) -> String {
    let output = try_docker(args);
    assert!(output.ok(), "docker {args:?}: {}{}", output.text(), output.stderr);
    output.text().trim().to_owned()
}

/// The words that call Compose: version 2 if it is there, else version 1.
pub fn compose_command() -> Option<&'static [&'static str]> {
    static FOUND: OnceLock<Option<&[&str]>> = OnceLock::new();
    let commands: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    *FOUND.get_or_init(|| {
        commands.into_iter().find(|words| {
            let args = [&words[1..], &["version"]].concat();
            run(Path::new(words[0]), &args, &[], b"", COMMAND).is_ok_and(|output| output.ok())
        })
    })
}

/// The binary under test, on the host.
pub fn cairn_on_host(args: &[&str]) -> Output {
    run_program(BINARY, args)
}

pub fn sha256(file: &Path) -> String {
    let output = run_program("sha256sum", &[file.to_str().unwrap()]);
    assert!(output.ok(), "{}", output.stderr);
    output.text().split_whitespace().next().unwrap().to_owned()
}

/// A directory whose mounts containers and host share, as `docker-compose.host-mount.yml` wants it. Needs root.
pub struct SharedDirectory(TempDir);

impl SharedDirectory {
    /// None where this user may not mount.
    pub fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        if !run_program("mount", &["--bind", path, path]).ok() {
            return None;
        }
        let shared = run_program("mount", &["--make-rshared", path]);
        assert!(shared.ok(), "{}", shared.stderr);
        Some(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SharedDirectory {
    fn drop(&mut self) {
        let unmounted = run_program("umount", &["--recursive", "--lazy", self.path().to_str().unwrap()]);
        assert!(unmounted.ok() || std::thread::panicking(), "{}", unmounted.stderr);
    }
}

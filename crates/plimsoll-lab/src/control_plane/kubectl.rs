//! Questions and orders to the API server, by the kubectl that came with it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{Error, trying};
use crate::namespace::Namespace;

/// kubectl, in a namespace, as somebody.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    namespace: Namespace,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    pub(super) fn new(program: PathBuf, namespace: &Namespace, kubeconfig: &Path, cache: PathBuf) -> Kubectl {
        Kubectl { program, namespace: namespace.clone(), kubeconfig: kubeconfig.to_owned(), cache }
    }

    /// The same as somebody else, the one in this kubeconfig file.
    #[must_use]
    pub fn with(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.to_owned(), ..self.clone() }
    }

    /// Applies objects, YAML or JSON, on the server's side, and takes over fields that others own.
    pub fn apply(&self, objects: &str) -> Result<String, Error> {
        self.feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], objects)
    }

    /// Writes the status of objects, which [`Kubectl::apply`] leaves alone.
    pub fn apply_status(&self, objects: &str) -> Result<String, Error> {
        self.feed(
            &["apply", "--server-side", "--force-conflicts", "--subresource=status", "-f", "-"],
            objects,
        )
    }

    /// What a command prints: `["get", "service", "web", "-o", "json"]`.
    pub fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        self.feed(arguments, "")
    }

    /// The same, with this on its standard input.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let shown = arguments.join(" ");
        let failed = || trying(format!("running `kubectl {shown}`"));
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.namespace.start(&mut command).map_err(failed())?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let output = std::thread::scope(|scope| {
            // Written beside the reading, so that neither side waits for the other with a full pipe. What becomes of
            // it is told by the exit status.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        })
        .map_err(failed())?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Refused { command: shown, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kubectl with nothing but what tells it where and who; to be started in the right namespace.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache);
        command.args(["--request-timeout=30s"]);
        command
    }
}

//! The controllers of kube-controller-manager, and the scheduler.

use std::path::Path;
use std::time::Duration;

use super::error::Error;
use super::plane::ControlPlane;
use super::process::{Plan, Process, runs};
use super::programs::program;

const START: Duration = Duration::from_mins(1);
/// The controllers that tests use: those that make slices, those that make pods of Deployments and `DaemonSets`, and
/// the one that fills the roles `view`, `edit` and `admin`. Not those that watch over nodes, which would want heartbeats.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,\
    serviceaccount-controller,namespace-controller,deployment-controller,replicaset-controller,daemonset-controller,\
    garbage-collector-controller,disruption-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller";

/// Controllers; they are killed when this is dropped.
#[derive(Debug)]
pub struct ControllerManager {
    process: Option<Process>,
    plan: Plan,
}

impl ControllerManager {
    /// Starts the usual controllers (all, where Pods run) beside a control plane, and waits until they work.
    pub fn start(plane: &ControlPlane) -> Result<ControllerManager, Error> {
        let kubeconfig = plane.kubeconfig_for("system:kube-controller-manager", &[])?;
        let (kubeconfig, at) = (kubeconfig.display(), plane.directory().display());
        let arguments = vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--service-account-private-key-file={at}/service-accounts.key"),
            format!("--root-ca-file={at}/ca.crt"),
            format!("--controllers={}", if plane.runs_pods() { "*" } else { CONTROLLERS }),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            // Nobody asks it anything.
            "--secure-port=0".into(),
        ];
        let name = "kube-controller-manager";
        let plan = Plan::new(name, plane.namespace(), program(name)?, arguments, plane.directory());
        let mut manager = ControllerManager { process: None, plan };
        manager.start_again(plane)?;
        Ok(manager)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it if it does not run, and waits until a controller has done something.
    pub fn start_again(&mut self, plane: &ControlPlane) -> Result<(), Error> {
        let kubectl = plane.kubectl();
        if !runs(&mut self.process) {
            // Every namespace gets one, so a missing one shows whether anybody works.
            kubectl.run(&["delete", "serviceaccount", "default", "--ignore-not-found"])?;
            self.process = Some(self.plan.start()?);
        }
        let process = self.process.as_mut().expect("it was started");
        process.wait("making ServiceAccounts", START, || {
            kubectl.run(&["get", "serviceaccount", "default"]).is_ok()
        })
    }

    /// Its process number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.plan.log
    }
}

/// What gives Pods to nodes, where there is a kubelet to run them; it is killed when this is dropped.
#[derive(Debug)]
pub struct Scheduler {
    _process: Process,
}

impl Scheduler {
    /// Starts it beside a control plane.
    pub fn start(plane: &ControlPlane) -> Result<Scheduler, Error> {
        let kubeconfig = plane.kubeconfig_for("system:kube-scheduler", &[])?;
        let kubeconfig = kubeconfig.display();
        let arguments = vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ];
        let name = "kube-scheduler";
        let plan = Plan::new(name, plane.namespace(), program(name)?, arguments, plane.directory());
        Ok(Scheduler { _process: plan.start()? })
    }
}

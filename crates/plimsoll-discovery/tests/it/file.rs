//! A Services file that changes while it is watched, in all the ways files are replaced.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_core::service::{NodeName, ServiceChange};
use plimsoll_discovery::file::{Config as FileConfig, POLL};
use plimsoll_discovery::{Config, Discovery, Error, Health, build};
use tempfile::TempDir;

/// Long enough for a busy machine; nothing waits for it unless something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// A file with these Services, each `name last-byte-of-its-address`.
fn services(services: &[(&str, u8)]) -> String {
    let mut text = "services:\n".to_owned();
    for (name, address) in services {
        writeln!(
            text,
            "  - {{name: {name}, addresses: [10.96.0.{address}], ports: [{{port: 80}}], \
             endpoints: [{{address: 10.1.0.{address}}}]}}"
        )
        .unwrap();
    }
    text
}

/// A directory with a Services file, and its discovery after the first `All`.
struct Watched {
    directory: TempDir,
    discovery: Box<dyn Discovery>,
}

impl Watched {
    async fn new(text: &str) -> Watched {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("services.yaml"), text).unwrap();
        Watched::start(directory).await
    }

    async fn start(directory: TempDir) -> Watched {
        let discovery =
            build(&config(&directory.path().join("services.yaml")), &NodeName::new("n1"), Vec::new).unwrap();
        let mut watched = Watched { directory, discovery };
        assert!(matches!(watched.change().await, ServiceChange::All(_)), "the first answer is everything");
        watched
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("services.yaml")
    }

    /// Writes beside the file and renames over it.
    fn replace(&self, text: &str) {
        let beside = self.directory.path().join(".services.yaml.new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.path()).unwrap();
    }

    async fn change(&mut self) -> ServiceChange {
        tokio::time::timeout(DEADLINE, self.discovery.next()).await.expect("a change in time").unwrap()
    }

    /// The next changes, in short.
    async fn changes(&mut self, number: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..number {
            told.push(match self.change().await {
                ServiceChange::All(services) => {
                    let ids: Vec<String> = services.iter().map(|service| service.id.to_string()).collect();
                    format!("all {}", ids.join(" "))
                }
                ServiceChange::Set(service) => format!("set {} {}", service.id, service.endpoints[0].id),
                ServiceChange::Remove(id) => format!("remove {id}"),
            });
        }
        told
    }

    async fn health(&self, is: impl FnMut(&Health) -> bool) -> Health {
        let mut health = self.discovery.health();
        tokio::time::timeout(DEADLINE, health.wait_for(is)).await.expect("in time").unwrap().clone()
    }
}

fn config(path: &Path) -> Config {
    Config::File(FileConfig { path: path.to_owned() })
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let mut watched = Watched::new(&services(&[("a", 1), ("b", 2), ("c", 3)])).await;
    watched.replace(&services(&[("a", 1), ("c", 4), ("d", 5)]));
    assert_eq!(
        watched.changes(3).await,
        ["remove b/ipv4", "set c/ipv4 tcp/10.1.0.4:80", "set d/ipv4 tcp/10.1.0.5:80"]
    );
    // Nothing is left over from the change before.
    watched.replace(&services(&[("a", 6), ("c", 4), ("d", 5)]));
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.6:80"]);
}

#[tokio::test]
async fn a_key_that_passes_to_another_service_comes_with_everything() {
    let mut watched = Watched::new(&services(&[("a", 1), ("b", 2)])).await;
    watched.replace(&services(&[("a", 2), ("b", 1)]));
    assert_eq!(watched.changes(1).await, ["all a/ipv4 b/ipv4"]);
    watched.replace(&services(&[("c", 2), ("b", 1)]));
    assert_eq!(watched.changes(1).await, ["all b/ipv4 c/ipv4"]);
}

#[tokio::test]
async fn many_changes_pass_through_the_bounded_queue() {
    let many = |add: u8| (0..200u8).map(|i| (format!("s{i:03}"), i.wrapping_add(add))).collect::<Vec<_>>();
    let text = |add| {
        let many = many(add);
        services(&many.iter().map(|(name, address)| (name.as_str(), *address)).collect::<Vec<_>>())
    };
    let mut watched = Watched::new("services: []").await;
    watched.replace(&text(1));
    let told = watched.changes(200).await;
    assert_eq!(told[199], "set s199/ipv4 tcp/10.1.0.200:80");
}

#[tokio::test]
async fn a_file_written_in_place_is_read_again() {
    let mut watched = Watched::new(&services(&[("a", 1)])).await;
    fs::write(watched.path(), services(&[("a", 2)])).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.2:80"]);
}

#[tokio::test]
async fn a_file_that_is_deleted_and_comes_back_is_read_again() {
    let mut watched = Watched::new(&services(&[("a", 1)])).await;
    fs::remove_file(watched.path()).unwrap();
    let health = watched.health(|health| health.refused == 1).await;
    assert!(health.last_error.unwrap().contains("cannot read the Services file"));
    fs::write(watched.path(), services(&[("a", 2)])).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.2:80"]);
    watched.health(|health| health.last_error.is_none()).await;
}

#[tokio::test]
async fn a_switched_link_is_followed_as_in_a_mounted_config_map() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, address) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("services.yaml"), services(&[("a", address)])).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/services.yaml", at("services.yaml")).unwrap();
    let (new, data, old) = (at("..data_tmp"), at("..data"), at("..1"));
    let mut watched = Watched::start(directory).await;
    symlink("..2", &new).unwrap();
    fs::rename(&new, &data).unwrap();
    fs::remove_dir_all(&old).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.2:80"]);
}

#[tokio::test]
async fn a_link_into_another_directory_is_watched_there() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, services(&[("a", 1)])).unwrap();
    let directory = tempfile::tempdir().unwrap();
    symlink(&target, directory.path().join("services.yaml")).unwrap();
    let mut watched = Watched::start(directory).await;
    let beside = elsewhere.path().join("new.yaml");
    fs::write(&beside, services(&[("a", 2)])).unwrap();
    fs::rename(&beside, &target).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.2:80"]);
}

#[tokio::test]
async fn a_replaced_directory_is_found_by_looking() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("etc");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("services.yaml");
    fs::write(&path, services(&[("a", 1)])).unwrap();
    let discovery = build(&config(&path), &NodeName::new("n1"), Vec::new).unwrap();
    let mut watched = Watched { directory: above, discovery };
    watched.change().await;
    let other = watched.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("services.yaml"), services(&[("a", 2)])).unwrap();
    fs::rename(&directory, watched.directory.path().join("old")).unwrap();
    fs::rename(&other, &directory).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.2:80"]);
    // From then on the new directory is watched.
    fs::write(&path, services(&[("a", 3)])).unwrap();
    assert_eq!(watched.changes(1).await, ["set a/ipv4 tcp/10.1.0.3:80"]);
    assert!(POLL < DEADLINE);
}

#[tokio::test]
async fn an_invalid_reload_keeps_what_was_known_and_is_counted() {
    let mut watched = Watched::new(&services(&[("a", 1), ("b", 2)])).await;
    assert_eq!(watched.health(|_| true).await, Health { loaded: 1, refused: 0, last_error: None });
    watched.replace(&services(&[("a", 1), ("a", 2)]));
    let health = watched.health(|health| health.refused == 1).await;
    let error = health.last_error.unwrap();
    assert!(error.ends_with(
        "services.yaml:3:12: services[1].name: there is a Service `a` already, at services[0] (line 2); rename one"
    ));
    // What follows is told against what was known before the mistake.
    watched.replace(&services(&[("a", 1), ("b", 3)]));
    assert_eq!(watched.changes(1).await, ["set b/ipv4 tcp/10.1.0.3:80"]);
    let health = watched.health(|health| health.loaded == 2).await;
    assert_eq!(health, Health { loaded: 2, refused: 1, last_error: None });
}

#[tokio::test]
async fn nodes_are_told_and_kept_up_to_date() {
    let watched = Watched::new("nodes: [{name: node-1, zone: a}]\nservices: []").await;
    let mut nodes = watched.discovery.nodes();
    let names = |nodes: &[plimsoll_discovery::Node]| -> Vec<String> {
        nodes.iter().map(|node| format!("{} {:?}", node.name, node.zone.as_deref())).collect()
    };
    assert_eq!(names(&nodes.borrow_and_update()), [r#"node-1 Some("a")"#]);
    watched.replace("nodes: [{name: node-1}, {name: node-2}]\nservices: []");
    tokio::time::timeout(DEADLINE, nodes.changed()).await.expect("in time").unwrap();
    assert_eq!(names(&nodes.borrow()), ["node-1 None", "node-2 None"]);
}

#[tokio::test]
async fn a_discovery_that_is_dropped_ends_its_thread() {
    let watched = Watched::new("services: []").await;
    let mut health = watched.discovery.health();
    drop(watched);
    // The thread holds the other end.
    assert!(tokio::time::timeout(DEADLINE, health.changed()).await.expect("in time").is_err());
}

#[tokio::test]
async fn a_file_that_cannot_be_used_at_the_start_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.yaml");
    let error = |path: &Path| build(&config(path), &NodeName::new("n1"), Vec::new).err().unwrap();
    assert!(matches!(error(&path), Error::Unreadable { .. }));
    assert!(matches!(error(directory.path()), Error::Unreadable { .. }));
    fs::write(&path, "services:\n  - {name: a, ports: [{port: 0, node_port: 1}]}\n").unwrap();
    let told = error(&path).to_string();
    let expected = ":2:30: services[0].ports[0].port: nothing can listen on port 0; write 1 to 65535";
    assert_eq!(told, format!("{}{expected}", path.display()));
    fs::write(&path, b"services: []\n# \xff\n").unwrap();
    assert!(error(&path).to_string().ends_with(":2:1: this is not UTF-8 text; save the file as UTF-8"));
}

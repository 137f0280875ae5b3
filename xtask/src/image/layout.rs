//! An OCI image layout in a tar archive: one layer with one program. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::Result;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// What the image is to be.
pub(super) struct Image<'a> {
    /// The program's name; it becomes `/usr/bin/NAME`.
    pub(super) title: &'a str,
    /// The program's bytes.
    pub(super) program: &'a [u8],
    /// Other names by which it is found beside it.
    pub(super) links: &'a [&'a str],
    /// Its arguments, unless a Pod has others.
    pub(super) arguments: &'a [&'a str],
    /// As OCI calls it: `amd64`, `arm64`.
    pub(super) architecture: &'a str,
    pub(super) version: &'a str,
    /// The name under which it is imported, as in `plimsoll:0.1.0`.
    pub(super) name: &'a str,
}

/// Directories, and those that others mount something into.
const DIRECTORIES: [&str; 7] =
    ["etc", "etc/plimsoll", "run", "run/secrets", "run/secrets/plimsoll", "usr", "usr/bin"];

impl Image<'_> {
    /// Writes the archive; gives back the digest of the manifest, by which a registry knows the image.
    pub(super) fn write(&self, to: impl Write) -> Result<String> {
        let layer = self.layer()?;
        let layer_digest = name_of(&layer);
        let config = self.config(&layer_digest).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        // The first is OCI's word for it, the second containerd's.
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": self.version,
            "io.containerd.image.name": self.name,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        let digest = name_of(&manifest);
        let blobs: BTreeMap<String, Vec<u8>> = [config, layer, manifest]
            .into_iter()
            .map(|blob| (name_of(&blob).replace(':', "/"), blob))
            .collect();
        let mut archive = Builder::new(to);
        add(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(&mut archive, "index.json", 0o644, index.to_string().as_bytes())?;
        for directory in ["blobs", "blobs/sha256"] {
            add_directory(&mut archive, directory)?;
        }
        for (name, blob) in &blobs {
            add(&mut archive, &format!("blobs/{name}"), 0o644, blob)?;
        }
        archive.into_inner()?.flush()?;
        Ok(digest)
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for directory in DIRECTORIES {
            add_directory(&mut layer, directory)?;
        }
        add(&mut layer, &format!("usr/bin/{}", self.title), 0o755, self.program)?;
        for name in self.links {
            let mut link = header(EntryType::Symlink, 0o777, 0);
            layer.append_link(&mut link, format!("usr/bin/{name}"), self.title)?;
        }
        layer.into_inner()
    }

    fn config(&self, layer: &str) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            // When it was made is not part of what it is.
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": [format!("/usr/bin/{}", self.title)],
                "Cmd": self.arguments,
                "Env": ["PATH=/usr/bin"],
                "User": "0:0",
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": self.title,
                    "org.opencontainers.image.version": self.version,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        })
    }
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": name_of(blob), "size": blob.len()})
}

/// By which a blob is known.
fn name_of(blob: &[u8]) -> String {
    let mut name = "sha256:".to_owned();
    for byte in digest(&SHA256, blob).as_ref() {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add(archive: &mut Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

fn add_directory(archive: &mut Builder<impl Write>, path: &str) -> io::Result<()> {
    archive.append_data(&mut header(EntryType::Directory, 0o755, 0), format!("{path}/"), io::empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(program: &[u8]) -> (String, BTreeMap<String, Vec<u8>>, Vec<u8>) {
        let image = Image {
            title: "plimsoll",
            program,
            links: &["kubectl-plimsoll"],
            arguments: &["agent"],
            architecture: "amd64",
            version: "0.1.0",
            name: "plimsoll:0.1.0",
        };
        let mut bytes = Vec::new();
        let digest = image.write(&mut bytes).unwrap();
        (digest, files(&bytes), bytes)
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        });
        files.collect()
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        let (first, second, other) = (image(b"program"), image(b"program"), image(b"another"));
        assert!(first == second);
        assert_ne!(first.0, other.0);
    }

    #[test]
    fn everything_is_found_by_its_digest() {
        let (digest, files, _) = image(b"program");
        let read = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let blob = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(
                (name_of(blob), blob.len() as u64),
                (digest.into(), descriptor["size"].as_u64().unwrap())
            );
            blob.clone()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest = json(&read(&index["manifests"][0]));
        let config = json(&read(&manifest["config"]));
        let layer = read(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], name_of(&layer));
        let inside = self::files(&layer);
        assert_eq!(inside["usr/bin/plimsoll"], b"program");
        assert!(inside.contains_key("usr/bin/kubectl-plimsoll") && inside.contains_key("etc/plimsoll/"));
    }
}

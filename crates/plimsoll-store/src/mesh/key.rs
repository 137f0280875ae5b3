//! The mesh's keys: a file with one key per line, the first seals, all open.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many bytes a key has.
pub(crate) const KEY_BYTES: usize = 32;
/// More keys than this are a mistake: a rotation needs two.
const MAX_KEYS: usize = 8;
/// A key file larger than this is some other file.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// A secret that all nodes of a mesh share.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error(
        "cannot read the mesh's key file {path}: {source}; check that it exists and that the agent may read it"
    )]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a key.
    #[error(
        "{path}:{line}: {reason}; a line holds one key of 32 bytes in hex or base64, \
         as `openssl rand -base64 32` prints it"
    )]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds no key, or is not a key file at all.
    #[error("{path}: {reason}; make a key with `openssl rand -base64 32`")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads a key file.
pub(crate) fn read(path: &Path) -> Result<Vec<Key>, KeyError> {
    let bytes =
        std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &bytes)
}

/// What there is to say of a key file that others than its owner may read or write.
pub(crate) fn exposed(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        let path = path.display();
        format!("others can read or change the mesh's key file {path} (mode {mode:03o}); `chmod 600` it")
    })
}

/// Reads the bytes of a key file; `path` is for the errors.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Key>, KeyError> {
    let file = |reason| KeyError::File { path: path.to_owned(), reason };
    if bytes.len() > MAX_FILE_BYTES {
        return Err(file("it is larger than 64 KiB, so it is no key file"));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| file("it is not text; keys are written in hex or base64"))?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        let at = |reason| KeyError::Line { path: path.to_owned(), line: index + 1, reason };
        let key = Key(decode(words).map_err(at)?);
        if key.0 == [0; KEY_BYTES] {
            return Err(at("a key of zeros protects nothing".to_owned()));
        }
        if keys.contains(&key) {
            continue;
        }
        if keys.len() == MAX_KEYS {
            return Err(at(format!("more than {MAX_KEYS} keys")));
        }
        keys.push(key);
    }
    if keys.is_empty() { Err(file("it holds no key")) } else { Ok(keys) }
}

fn decode(text: &str) -> Result<[u8; KEY_BYTES], String> {
    let hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes = if hex && text.len() != 44 { decode_hex(text) } else { decode_base64(text) };
    let bytes = bytes.ok_or_else(|| "neither hex nor base64".to_owned())?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| format!("a key of {length} bytes instead of {KEY_BYTES}"))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    Some(digits?.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Base64 with either alphabet, with or without padding (RFC 4648).
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<Key>, String> {
        parse(Path::new("mesh.key"), text.as_bytes()).map_err(|error| error.to_string())
    }

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn hex_and_base64_are_the_same_key() {
        let wanted: [u8; 32] = std::array::from_fn(|index| index as u8);
        assert_eq!(check(HEX), Ok(vec![Key(wanted)]));
        assert_eq!(check(BASE64), Ok(vec![Key(wanted)]));
        assert_eq!(check(BASE64.trim_end_matches('=')), Ok(vec![Key(wanted)]));
    }

    #[test]
    fn comments_and_blank_lines() {
        let second = "ff".repeat(32);
        let keys = check(&format!("# ours\n\n{HEX}  # seals\r\n{second}\n{BASE64}\n")).unwrap();
        assert_eq!(keys.len(), 2, "the third line repeats the first key");
        assert_eq!(keys[1], Key([0xff; 32]));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, says) in [
            (format!("{HEX}\nabcd\n"), "mesh.key:2: a key of 2 bytes instead of 32"),
            (format!("{HEX}00"), "mesh.key:1: a key of 33 bytes instead of 32"),
            ("not a key!".to_owned(), "mesh.key:1: neither hex nor base64"),
            ("00".repeat(32), "mesh.key:1: a key of zeros protects nothing"),
            ("# nothing\n".to_owned(), "mesh.key: it holds no key"),
            (String::new(), "mesh.key: it holds no key"),
            ("ab\n".repeat(40_000), "mesh.key: it is larger than 64 KiB"),
        ] {
            let error = check(&text).unwrap_err();
            assert!(error.starts_with(says), "{error}");
            assert!(error.contains("openssl rand -base64 32"), "{error}");
        }
        let many: String = (1..10).map(|index| format!("{index:02x}").repeat(32) + "\n").collect();
        assert!(check(&many).unwrap_err().starts_with("mesh.key:9: more than 8 keys"));
        assert!(parse(Path::new("mesh.key"), &[0xff; 32]).is_err());
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", Key([7; 32])), "Key(..)");
    }
}

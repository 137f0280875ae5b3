//! Reading a file again at the cost of what changed in it.
//!
//! A large file takes a tenth of a second to read, and mostly one endpoint changes at a time. So a text in the
//! usual form is cut into pieces, one for each Service, and only pieces that were not there before are read. The
//! cut is made by lines alone and may be wrong, in a text of many lines between brackets or quotes, or with an alias
//! to another piece: then some piece cannot be read by itself, and the text is read as a whole. Errors, too, come
//! only from reading the whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::format::{File, Service};
use super::parse::{Contents, MAX_BYTES, Problems, parse, part};
use super::validate::validate;

/// Reads texts, each mostly like the one before.
#[derive(Default)]
pub struct Reader {
    /// What the pieces of the last text say.
    known: HashMap<Box<str>, Arc<Service>>,
}

impl Reader {
    /// The same as [`parse`], and faster where most of the text was read the last time.
    pub fn read(&mut self, text: &str) -> Result<Contents, Problems> {
        if text.len() <= MAX_BYTES
            && let Some(file) = self.by_pieces(text)
            && let Ok(contents) = validate(&file)
        {
            return Ok(contents);
        }
        parse(text)
    }

    /// What the pieces of the last text say, in no order.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> Vec<Arc<Service>> {
        self.known.values().cloned().collect()
    }

    fn by_pieces(&mut self, text: &str) -> Option<File> {
        let Pieces { frame, services } = cut(text)?;
        let mut file: File = part(&frame)?;
        let mut known = HashMap::with_capacity(services.len());
        for piece in services {
            let service = if let Some(service) = self.known.get(piece) {
                service.clone()
            } else {
                let [service] = <[Arc<Service>; 1]>::try_from(part::<Vec<_>>(piece)?).ok()?;
                service
            };
            file.services.push(service.clone());
            known.insert(piece.into(), service);
        }
        self.known = known;
        Some(file)
    }
}

/// A text, cut.
struct Pieces<'a> {
    /// All that is around the Services, with an empty list in their place.
    frame: String,
    /// Each Service, as a list of one.
    services: Vec<&'a str>,
}

/// Cuts a text in which `services:` stands on a line of its own and each Service begins on a line with a dash.
fn cut(text: &str) -> Option<Pieces<'_>> {
    let mut frame = String::new();
    let mut services = Vec::new();
    // Where the current piece begins and how far in its dash stands.
    let mut piece: Option<(usize, usize)> = None;
    let mut before = true;
    let mut within = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let content = line.trim_start_matches(' ');
        let depth = line.len() - content.len();
        // Only what is white space to YAML too: there is more in Unicode.
        let content = content.trim_end_matches([' ', '\r', '\n']);
        if before {
            if depth == 0 && content == "services:" {
                frame.push_str("services: []\n");
                (before, within) = (false, true);
            } else {
                frame.push_str(line);
            }
            continue;
        }
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if depth == 0 && (content.starts_with("---") || content.starts_with("...")) {
            return None;
        }
        let dash = content == "-" || content.starts_with("- ");
        let inside = piece.map_or(dash, |(_, first)| depth > first || (depth == first && dash));
        if within && inside {
            if piece.is_none_or(|(_, first)| depth == first) {
                services.extend(piece.map(|(begin, _)| &text[begin..start]));
                piece = Some((start, depth));
            }
            continue;
        }
        if within {
            services.extend(piece.take().map(|(begin, _)| &text[begin..start]));
            within = false;
        }
        frame.push_str(line);
    }
    services.extend(piece.map(|(begin, _)| &text[begin..]));
    (!services.is_empty()).then_some(Pieces { frame, services })
}

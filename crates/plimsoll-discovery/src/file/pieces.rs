//! Reading a file again at the cost of what changed in it.
//!
//! A large file takes a tenth of a second to read, and mostly one endpoint changes at a time. So a text in the
//! usual form is cut into pieces, one for each Service, and only pieces that were not there before are read. The
//! cut is made by lines alone and may be wrong, in a text of many lines between brackets or quotes, or with an alias
//! to another piece: then some piece cannot be read by itself, and the text is read as a whole. Errors, too, come
//! only from reading the whole.

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_core::service::Service;

use super::format::{self, File};
use super::parse::{Contents, MAX_BYTES, Problems, parse, part};
use super::validate::{Names, fit, validate, validate_alone};
use crate::Node;

/// Reads texts, each mostly like the one before.
#[derive(Default)]
pub struct Reader {
    /// The last text but for its Services, and what it says.
    frame: String,
    nodes: Vec<Node>,
    names: Names,
    /// The pieces of the last text.
    known: Vec<Piece>,
}

impl Reader {
    /// The same as [`parse`], and faster where most of the text was read the last time: what is said in the same
    /// words then is the very same Service now.
    pub fn read(&mut self, text: &str) -> Result<Contents, Problems> {
        if text.len() <= MAX_BYTES
            && let Some((reader, contents)) = std::mem::take(self).by_pieces(text)
        {
            *self = reader;
            return Ok(contents);
        }
        // Nothing is known any more, which costs the next good text some time.
        parse(text)
    }

    fn by_pieces(mut self, text: &str) -> Option<(Reader, Contents)> {
        let Pieces { frame, services: pieces } = cut(text)?;
        if self.frame != frame || self.known.is_empty() {
            let file: File = part(&frame)?;
            self.names = Names::default();
            self.nodes = validate(&file, &mut self.names).ok()?.nodes;
            self.frame = frame;
        }
        let before = std::mem::take(&mut self.known);
        let by_head: HashMap<&str, &Piece> = before.iter().map(|piece| (head(&piece.words), piece)).collect();
        for words in pieces {
            let known = by_head.get(head(words)).filter(|piece| *piece.words == *words);
            self.known.push(match known {
                Some(piece) => Piece::clone(piece),
                None => Piece::read(words, &mut self.names)?,
            });
        }
        let written = self.known.iter().map(|piece| &*piece.services);
        if !fit(&written, &self.names) {
            return None;
        }
        let mut services: Vec<Arc<Service>> = written.flatten().cloned().collect();
        services.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let contents = Contents { nodes: self.nodes.clone(), services };
        Some((self, contents))
    }
}

/// The text of a Service, and the Services that it stands for, checked alone.
#[derive(Clone)]
struct Piece {
    words: Arc<str>,
    services: Arc<[Arc<Service>]>,
}

impl Piece {
    fn read(words: &str, names: &mut Names) -> Option<Piece> {
        let [service] = <[format::Service; 1]>::try_from(part::<Vec<_>>(words)?).ok()?;
        Some(Piece { words: words.into(), services: validate_alone(&service, names)? })
    }
}

/// What pieces are looked up by: few have the beginning in common, and those are read anew.
fn head(words: &str) -> &str {
    &words[..words.floor_char_boundary(100)]
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

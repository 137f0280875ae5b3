//! Where in a YAML text a field stands, and which field stands at a place: found by reading the text once more,
//! which only errors need.

use std::fmt;

use serde_saphyr::granit_parser::{Event, Parser};

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the value of this key.
    Field(String),
    /// To the entry with this number, from 0.
    Index(usize),
}

/// The way from the top of the text to a value. Displays as `services[0].ports[1].port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    /// The whole text.
    pub const TOP: Path = Path(Vec::new());

    /// The value of a key inside this.
    #[must_use]
    pub fn field(&self, name: &str) -> Path {
        self.then(Step::Field(name.to_owned()))
    }

    /// An entry of this.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Path {
        Path(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if i == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Where the value at `path` begins; where it is not there (it came by an alias, or the field is missing), where
/// the innermost value around it begins.
pub fn place_of(text: &str, path: &Path) -> Place {
    let mut best = (0, Place { line: 1, column: 1 });
    walk(text, |steps, is_key, place| {
        let nearer = steps.len() >= best.0 && path.0.starts_with(steps);
        if nearer && !is_key {
            best = (steps.len(), place);
        }
        // Once the value itself is found, what follows cannot be nearer.
        !(nearer && !is_key && steps.len() == path.0.len())
    });
    best.1
}

/// The value that begins at `place`, or the last that begins before it. Where several begin there, the outermost
/// (a mapping begins where its first key begins) or the innermost.
pub fn path_at(text: &str, place: Place, outermost: bool) -> Path {
    let mut best = (Place { line: 0, column: 0 }, Path::TOP);
    walk(text, |steps, _, at| {
        if at > place {
            return false;
        }
        if at > best.0 || !outermost {
            best = (at, Path(steps.to_vec()));
        }
        true
    });
    best.1
}

/// A mapping or sequence that is being read.
enum Open {
    Sequence,
    /// With whether the next node is a key.
    Mapping(bool),
    /// A mapping or sequence that is itself a key: it has no path of its own.
    Key,
}

/// Calls `visit` for each key and value in the order of the text, with its path, whether it is a key, and where it
/// begins, until that answers `false` or the text is no longer YAML.
fn walk(text: &str, mut visit: impl FnMut(&[Step], bool, Place) -> bool) {
    let mut open: Vec<Open> = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { return };
        if matches!(event, Event::MappingEnd | Event::SequenceEnd) {
            if matches!(open.pop(), Some(Open::Mapping(_) | Open::Sequence)) {
                steps.pop();
            }
            continue;
        }
        if !event.is_node() {
            continue;
        }
        let mut is_key = false;
        match (open.last_mut(), steps.last_mut()) {
            (Some(Open::Mapping(expects_key)), Some(step)) => {
                is_key = *expects_key;
                *expects_key = !is_key;
                if is_key {
                    *step = Step::Field(event.scalar().map_or("?", |(text, _)| text).to_owned());
                }
            }
            (Some(Open::Sequence), Some(Step::Index(index))) => *index = index.wrapping_add(1),
            _ => {}
        }
        let in_key = open.iter().any(|o| matches!(o, Open::Key));
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        if !in_key && !visit(&steps, is_key, place) {
            return;
        }
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) if is_key || in_key => open.push(Open::Key),
            Event::MappingStart(..) => {
                open.push(Open::Mapping(true));
                steps.push(Step::Field(String::new()));
            }
            Event::SequenceStart(..) => {
                open.push(Open::Sequence);
                // One before the first entry.
                steps.push(Step::Index(usize::MAX));
            }
            _ => {}
        }
    }
}

//! The demo's live picture: a bar per endpoint, redrawn in place on a terminal; a line per phase elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use super::measure::Moment;
use super::world::World;
use crate::output;

/// A bar's width at the waterline; the longest bar is twice that.
const WATERLINE: usize = 14;

/// Draws on standard error, so that standard output stays data.
pub(super) struct Bars {
    live: bool,
    colour: bool,
    quiet: bool,
    title: String,
    /// How many lines are to be drawn over.
    drawn: usize,
}

impl Bars {
    pub(super) fn new(quiet: bool) -> Bars {
        let terminal = std::io::stderr().is_terminal();
        let colour = output::wants_colour(&std::io::stderr());
        Bars { live: terminal && !quiet, colour, quiet, title: String::new(), drawn: 0 }
    }

    /// Says something that stays.
    pub(super) fn say(&mut self, words: &str) {
        if !self.quiet {
            self.end();
            eprintln!("{words}");
        }
    }

    /// A new phase begins.
    pub(super) fn phase(&mut self, title: &str) {
        title.clone_into(&mut self.title);
        if !self.live {
            self.say(title);
        }
    }

    /// Leaves the picture as it is and goes on below it.
    pub(super) fn end(&mut self) {
        self.drawn = 0;
    }

    /// Draws the present moment over the last one.
    pub(super) fn draw(&mut self, world: &World, moment: &Moment) {
        if !self.live {
            return;
        }
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        let picture = self.picture(world, moment);
        self.drawn = picture.lines().count();
        for line in picture.lines() {
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        // A terminal that does not take it is no reason to stop.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn picture(&self, world: &World, moment: &Moment) -> String {
        let mut text = format!("\n{:6.1} s  {}\n\n", moment.at, self.title);
        let names = ["Plimsoll (waterline)", "static weights"];
        let width = 2 * WATERLINE + 1;
        let _ = writeln!(text, "  endpoint  size   {:<width$}   {:<width$}", names[0], names[1]);
        for (i, endpoint) in world.endpoints.iter().enumerate() {
            let label = format!("  {} node{}   {:>4}", endpoint.name, endpoint.node, endpoint.size);
            let bar = |service: usize| {
                moment.levels[service].get(i).map_or(String::new(), |level| self.bar(*level))
            };
            let (ours, fixed) = (bar(0), bar(1));
            let _ = writeln!(text, "{label}   {ours}{}   {fixed}", pad(moment.levels[0].get(i), width));
        }
        let [(opened, failed), (fixed_opened, fixed_failed)] = moment.totals;
        let _ = writeln!(
            text,
            "\n  the bars are open connections per size; | is the fair share\n  {} connections opened, {} failed",
            opened + fixed_opened,
            failed + fixed_failed
        );
        text
    }

    fn bar(&self, level: f64) -> String {
        let filled = length(level);
        let cell = |i: usize| match i {
            WATERLINE => '|',
            i if i < filled => '█',
            _ => ' ',
        };
        let bar: String = (0..=filled.max(WATERLINE)).map(cell).collect();
        if !self.colour {
            return bar;
        }
        let colour = if level > 1.25 {
            31
        } else if level < 0.75 {
            34
        } else {
            32
        };
        format!("\x1b[{colour}m{bar}\x1b[0m")
    }
}

fn length(level: f64) -> usize {
    ((level * WATERLINE as f64).round() as usize).min(2 * WATERLINE)
}

/// Blanks up to the width of a bar, which may contain escapes that have no width.
fn pad(level: Option<&f64>, width: usize) -> String {
    let used = level.map_or(0, |level| length(*level).max(WATERLINE) + 1);
    " ".repeat(width.saturating_sub(used))
}

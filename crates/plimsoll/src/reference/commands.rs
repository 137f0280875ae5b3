//! The commands with their options, as `--help` shows them.

use std::fmt::Write as _;

/// A section for the program and for each command that is not hidden.
pub(super) fn page(command: &clap::Command) -> String {
    let mut whole = command.clone();
    whole.build();
    let mut text =
        "# Commands\n\nWhat is found goes to the standard output, talk to the standard error. `NO_COLOR` \
                    is honoured.\n\n"
            .to_owned();
    section(&mut text, &whole);
    for command in
        whole.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        section(&mut text, command);
    }
    text
}

fn section(text: &mut String, command: &clap::Command) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    // What the environment holds where the page is made is of no interest.
    let help =
        command.clone().mut_args(|argument| argument.hide_env_values(true)).render_long_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "## `{name}`\n\n```text\n{}\n```\n\n", lines.join("\n"));
}

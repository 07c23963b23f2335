//! `shiplap completions` and `shiplap man`: made from the command line's own
//! definition, so that they always agree with it.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::ui::output;

const COMPLETIONS: &str = "\
Examples:
  bash
    shiplap completions bash > /etc/bash_completion.d/shiplap
  zsh, in a directory of $fpath
    shiplap completions zsh > ~/.zfunc/_shiplap
  fish
    shiplap completions fish > ~/.config/fish/completions/shiplap.fish";

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    shell: String,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let shell = match self.shell.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            _ => Shell::Fish,
        };
        let mut script = Vec::new();
        let mut command = super::Cli::command();
        clap_complete::generate(shell, &mut command, "shiplap", &mut script);
        output::result_bytes(&script)
    }
}

const MAN: &str = "\
Examples:
  Read one
    shiplap man build | man -l -
  Install all
    shiplap man --dir /usr/local/share/man/man1";

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub(super) struct ManArgs {
    /// The command whose page is printed; the program's own without it
    #[arg(value_name = "COMMAND")]
    page: Option<String>,
    /// Write the pages of all commands to a directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut program = super::Cli::command();
        program.build();
        let Some(dir) = &self.dir else {
            let command = match &self.page {
                None => &program,
                Some(name) => visible(&program)
                    .find(|c| c.get_name() == name)
                    .ok_or_else(|| super::error::Usage::error(format!("no command {name:?}")))?,
            };
            return output::result_bytes(&page(&program, command)?);
        };
        std::fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
        for command in std::iter::once(&program).chain(visible(&program)) {
            let file = dir.join(format!("{}.1", title(&program, command)));
            std::fs::write(&file, page(&program, command)?)
                .with_context(|| format!("can't write {}", file.display()))?;
        }
        Ok(())
    }
}

fn visible(program: &Command) -> impl Iterator<Item = &Command> {
    program
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
}

/// `shiplap` or `shiplap-build`.
fn title(program: &Command, command: &Command) -> String {
    if std::ptr::eq(program, command) {
        return "shiplap".into();
    }
    format!("shiplap-{}", command.get_name())
}

fn page(program: &Command, command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .title(title(program, command))
        .render(&mut page)?;
    Ok(page)
}

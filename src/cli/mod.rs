//! The command line: what a person or systemd says, and what is answered on stdout and stderr.
//!
//! | command | what |
//! |---|---|
//! | `run` | the agent; also plain `tfo-otel-agent --config=…`, as the original is started |
//! | `validate` | reads a configuration and says everything that is wrong with it |
//! | `print-config` | the configuration as it is read: merged, references resolved, secrets masked |
//! | `components` | what this build knows |
//! | `health` | asks a running agent how it is |
//! | `completions`, `man` | what a package installs beside the binary |
//! | `spool` | looking into a spool directory, and mending it |
//! | `demo` | agent, spool, far end, outage, crash, and the proof that nothing was lost |

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is where the program prints

mod demo;
mod health;
mod spool;

use crate::app::last_good::LastGood;
use crate::app::plan::{EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS};
use crate::app::run;
use crate::config::Locations;
use crate::config::problems::quote;
use crate::supervise::Exit;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

/// A supervised, outage-proof OpenTelemetry agent: what it acknowledged arrives, or is accounted for.
#[derive(Debug, Parser)]
#[command(name = "tfo-otel-agent", version, args_conflicts_with_subcommands = true, after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run(Run),
    /// Check a configuration and say everything that is wrong with it.
    Validate(From),
    /// Print the configuration as it is read: merged, its references resolved, secrets masked.
    #[command(name = "print-config")]
    PrintConfig(From),
    /// List the components this build knows.
    Components,
    /// Ask the agent that runs here how it is: 0 when it takes data.
    Health(health::Options),
    /// Print the completions of a shell: source them, or install them where it looks.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): `tfo-otel-agent man | man -l -`.
    Man,
    /// Watch it keep its promise: load, an outage, a crash, and the count at the far end.
    Demo(demo::Options),
    /// Look into a spool directory, also a copied or damaged one, or that of a running agent; mend it while none runs. Looking
    /// changes nothing in it.
    Spool(spool::Options),
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct From {
    /// A location: a path, file:PATH, env:NAME or yaml:TEXT; several are merged from left to right.
    #[arg(long = "config", value_name = "LOCATION")]
    configs: Vec<String>,
    /// One value, KEY.KEY=VALUE; applied last.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Taken as the original's command lines have it, without effect.
    #[arg(long = "feature-gates", value_name = "GATES", allow_hyphen_values = true)]
    feature_gates: Vec<String>,
}

/// By what the agent runs.
#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    from: From,
    /// Keep the configuration here once it is in service, as it was given; and start by what is kept here when the one
    /// given is invalid (said in the log, in health and in tfo_agent_config_fallback).
    #[arg(long, value_name = "FILE", env = "TFO_LAST_GOOD", hide_env_values = true)]
    last_good: Option<OsString>,
}

impl Run {
    fn orders(self) -> run::Orders {
        // A variable that is set to nothing names no file.
        let file = self.last_good.filter(|path| !path.is_empty());
        run::Orders { locations: self.from.locations(), last_good: file.map(|path| LastGood::at(PathBuf::from(path))) }
    }
}

/// To standard error, which may be closed or full: that is no reason to end otherwise.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl From {
    fn locations(self) -> Locations {
        self.unheeded().iter().for_each(|told| tell(told));
        Locations { configs: self.configs, sets: self.sets }
    }

    /// What was asked for and has no effect.
    fn unheeded(&self) -> Option<String> {
        let gates = self.feature_gates.join(",");
        let told = || format!("warning: --feature-gates has no effect: this agent has none, {} neither", quote(&gates));
        (!self.feature_gates.is_empty()).then(told)
    }
}

fn exit_codes() -> String {
    let lines = Exit::ALL.iter().map(|exit| format!("\n  {:>3}  {}", exit.code(), exit.meaning()));
    format!("Exit codes:{}", lines.collect::<String>())
}

/// Understands the command line and does what it says.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            // A closed pipe hears nothing, and that is no reason to fail.
            let _ = error.print();
            return if help { Exit::Clean } else { Exit::Usage };
        }
    };
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(run) => run::run(&run.orders(), |text| tell(text.trim_end())),
        Command::Validate(from) => validate(&from.locations()),
        Command::PrintConfig(from) => print_config(&from.locations()),
        Command::Components => components(),
        Command::Health(options) => health::main(&options),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
        Command::Demo(options) => demo::main(&options),
        Command::Spool(options) => spool::main(&options),
    }
}

fn validate(locations: &Locations) -> Exit {
    let outcome = run::load(locations);
    if !outcome.report.problems().is_empty() {
        eprint!("{}", outcome.report);
    }
    if outcome.config.is_some() { Exit::Clean } else { Exit::Config }
}

/// The configuration on stdout, problems on stderr; also what has errors is printed, to find them.
fn print_config(locations: &Locations) -> Exit {
    let outcome = run::load(locations);
    if !outcome.report.problems().is_empty() {
        eprint!("{}", outcome.report);
    }
    print!("{}", outcome.effective);
    if outcome.config.is_some() { Exit::Clean } else { Exit::Config }
}

fn completions(shell: clap_complete::Shell) -> Exit {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    put(&text)
}

fn man() -> Exit {
    put(manual().as_bytes())
}

/// The one page there is: every subcommand stands in it, and it names no other page.
fn manual() -> String {
    let mut command = Cli::command();
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    let mut text = rendered(|out| {
        page.render_title(out)?;
        page.render_name_section(out)?;
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)
    });
    text.push_str(".SH COMMANDS\n");
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let page = clap_mangen::Man::new(subcommand.clone());
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!(".SS {}\n{about}\n", subcommand.get_name()));
        // A section inside a section has no heading of its own.
        let options = rendered(|out| page.render_options_section(out));
        text.extend(options.lines().filter(|line| !line.starts_with(".SH")).map(|line| format!("{line}\n")));
    }
    text.push_str(".SH SPOOL COMMANDS\nEach says more with \\-\\-help.\n");
    let of_spool = command.find_subcommand("spool").into_iter().flat_map(clap::Command::get_subcommands);
    for of_spool in of_spool.filter(|one| !one.is_hide_set()) {
        let about = of_spool.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!(".TP\n\\fBspool {}\\fR\n{about}\n", of_spool.get_name()));
    }
    text.push_str(".SH EXIT STATUS\n");
    for exit in Exit::ALL {
        text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", exit.code(), exit.meaning()));
    }
    text
}

fn rendered(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("a vector takes every byte");
    String::from_utf8_lossy(&out).into_owned()
}

/// A closed pipe hears nothing, and that is no reason to fail.
fn put(text: &[u8]) -> Exit {
    let _ = std::io::stdout().write_all(text);
    Exit::Clean
}

/// As the original prints it: YAML with what can be named under each class.
fn components() -> Exit {
    println!("buildinfo:\n    command: tfo-otel-agent\n    version: {}", env!("CARGO_PKG_VERSION"));
    let classes = [
        ("receivers", RECEIVERS.names().collect::<Vec<_>>()),
        ("processors", PROCESSORS.names().collect()),
        ("exporters", EXPORTERS.names().collect()),
        ("extensions", EXTENSIONS.names().collect()),
    ];
    for (class, names) in classes {
        println!("{class}:");
        names.iter().for_each(|name| println!("    - name: {name}"));
    }
    Exit::Clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.88's command lines run: a unit file that sets gates need not be edited.
    #[test]
    fn feature_gates_are_taken_with_a_warning() {
        for (args, gates) in [
            (&["--config=a", "--feature-gates=+x,-y"][..], "+x,-y"),
            (&["--feature-gates", "-y", "--config", "a"], "-y"),
            (&["validate", "--config=a", "--feature-gates=x", "--feature-gates=z"], "x,z"),
        ] {
            let cli =
                Cli::try_parse_from([&["tfo-otel-agent"], args].concat()).unwrap_or_else(|e| panic!("{args:?}: {e}"));
            let from = match cli.command {
                Some(Command::Validate(from)) => from,
                _ => cli.run.from,
            };
            assert_eq!(from.configs, ["a"]);
            let expected = format!("warning: --feature-gates has no effect: this agent has none, `{gates}` neither");
            assert_eq!(from.unheeded(), Some(expected));
        }
        let cli = Cli::try_parse_from(["tfo-otel-agent", "--config=a"]).expect("it is a command line");
        assert_eq!(cli.run.from.unheeded(), None);
    }

    #[test]
    fn the_manual_is_one_page_with_every_command_in_it() {
        let text = manual();
        let others: Vec<_> = text.lines().filter(|line| line.contains("(1)")).collect();
        assert!(others.is_empty(), "these pages do not exist: {others:?}");
        for command in Cli::command().get_subcommands() {
            assert!(text.contains(&format!("\n.SS {}\n", command.get_name())), "{}\n{text}", command.get_name());
        }
        let validate = text.split(".SS validate\n").nth(1).unwrap_or_default().split(".SS").next().unwrap_or_default();
        assert!(validate.contains("\\-\\-config"), "{validate}");
        assert_eq!(text.matches(".SH OPTIONS").count(), 1, "{text}");
        assert!(text.contains(".SH \"EXIT STATUS\"\n") || text.contains(".SH EXIT STATUS\n"));
    }
}

//! The command line: what a person or systemd says, and what is answered on stdout and stderr.
//!
//! | command | what |
//! |---|---|
//! | `run` | the agent; also plain `tfo-otel-agent --config=…`, as the original is started |
//! | `validate` | reads a configuration and says everything that is wrong with it |
//! | `components` | what this build knows |
//! | `demo` | agent, spool, far end, outage, crash, and the proof that nothing was lost |

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is where the program prints

mod demo;

use crate::app::plan::{EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS};
use crate::app::run;
use crate::config::Locations;
use crate::supervise::Exit;
use clap::{Args, Parser, Subcommand};

/// A supervised, outage-proof OpenTelemetry agent: what it acknowledged arrives, or is accounted for.
#[derive(Debug, Parser)]
#[command(name = "tfo-otel-agent", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run(From),
    /// Check a configuration and say everything that is wrong with it.
    Validate(From),
    /// List the components this build knows.
    Components,
    /// Watch it keep its promise: load, an outage, a crash, and the count at the far end.
    Demo(demo::Options),
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
}

impl From {
    fn locations(self) -> Locations {
        Locations { configs: self.configs, sets: self.sets }
    }
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
    match cli.command.unwrap_or(Command::Run(cli.from)) {
        Command::Run(from) => run::run(&from.locations(), |text| eprintln!("{}", text.trim_end())),
        Command::Validate(from) => validate(&from.locations()),
        Command::Components => components(),
        Command::Demo(options) => demo::main(&options),
    }
}

fn validate(locations: &Locations) -> Exit {
    let outcome = run::load(locations);
    if !outcome.report.problems().is_empty() {
        eprint!("{}", outcome.report);
    }
    if outcome.config.is_some() { Exit::Clean } else { Exit::Config }
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

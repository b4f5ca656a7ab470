//! What the programs' command lines have in common: one line, and exit 2, for what is wrong with the flags or the
//! environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};

/// Parses the command line of this program. Help and version are printed as they are asked for.
///
/// # Errors
/// With what to exit: success after help and version, 2 after a line to standard error for wrong flags and variables.
pub fn parse<P: Parser>() -> Result<P, ExitCode> {
    let mut command = P::command();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed =
        command.try_get_matches_from_mut(&arguments).and_then(|matches| P::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() {
            eprintln!("{}", refusal(&command, &error, &arguments, |name| std::env::var_os(name)));
            return ExitCode::from(2);
        }
        // Nothing better can be done when the reader of the help is gone.
        let _ = error.print();
        ExitCode::SUCCESS
    })
}

/// Prints an answer, as it stands. Nobody may be reading it any more, which is no error of a program that has no more to
/// say than that.
pub fn print(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// What is wrong, in one line that names the flag, and the environment variable where the value came from there.
/// `arguments` are those of the program, its own name first; `variable` looks an environment variable up.
#[must_use]
pub fn refusal(
    command: &Command,
    error: &clap::Error,
    arguments: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> String {
    let chosen =
        arguments.iter().skip(1).find_map(|argument| command.find_subcommand(argument)).unwrap_or(command);
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return format!("error: no command is given; see {} --help", command.get_name());
        }
        ErrorKind::InvalidUtf8 => {
            let garbled =
                |arg: &&Arg| arg.get_env().and_then(&variable).is_some_and(|value| value.to_str().is_none());
            if let Some(name) = chosen.get_arguments().find(garbled).and_then(Arg::get_env) {
                return format!("error: the value of {} is no UTF-8", name.to_string_lossy());
            }
        }
        _ => {}
    }
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let mut line = lines.join(" ");
    if let Some(name) = source(chosen, error, arguments, &variable) {
        line = format!("{line} (from the environment variable {name})");
    }
    line
}

/// The variable that the value at fault was taken from; `None` if it stands on the command line.
fn source(
    command: &Command,
    error: &clap::Error,
    arguments: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    // It is shown as `--flag <VALUE>`.
    let flag = shown.split([' ', '=', '[']).next()?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"))?;
    let on_the_line = arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument == flag || argument.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
    });
    let name = arg.get_env().filter(|_| !on_the_line)?;
    variable(name)?;
    Some(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "program")]
    enum Cli {
        Run {
            #[arg(long)]
            image: String,
            #[arg(long, env = "PROGRAM_PORT", value_parser = clap::value_parser!(u16).range(1..))]
            port: Option<u16>,
        },
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn error(arguments: &[&str]) -> clap::Error {
        Cli::try_parse_from(arguments).unwrap_err()
    }

    #[test]
    fn a_wrong_flag_is_one_line_that_names_it() {
        for (arguments, named) in [
            (&["program"][..], "no command"),
            (&["program", "walk"], "walk"),
            (&["program", "run"], "--image"),
            (&["program", "run", "--image"], "--image"),
            (&["program", "run", "--image=a", "--port=0"], "--port"),
            (&["program", "run", "--image=a", "--colour=red"], "--colour"),
            (&["program", "run", "--image=a", "more"], "more"),
        ] {
            let mut command = Cli::command();
            command.build();
            let line = refusal(&command, &error(arguments), &words(arguments), |_| None);
            assert!(line.contains(named) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_value_of_the_environment_is_said_to_be_from_there() {
        let mut command = Cli::command();
        command.build();
        let set = |_: &OsStr| Some(OsString::from("soon"));
        let given = ["program", "run", "--image=a", "--port=soon"];
        // The same error, as if the value had come from elsewhere.
        let line = refusal(&command, &error(&given), &words(&["program", "run"]), set);
        assert!(line.contains("--port") && line.contains("PROGRAM_PORT"), "{line}");
        assert!(!refusal(&command, &error(&given), &words(&given), set).contains("PROGRAM_PORT"));
        let garbled = clap::Error::new(ErrorKind::InvalidUtf8);
        let line = refusal(&command, &garbled, &words(&["program", "run"]), |name| {
            (name == "PROGRAM_PORT").then(|| OsString::from_vec(vec![0xff]))
        });
        assert_eq!(line, "error: the value of PROGRAM_PORT is no UTF-8");
    }
}

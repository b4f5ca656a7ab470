//! One line for what is wrong with the command line or the environment.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

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

    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::Cli;

    fn refused(arguments: &[&str]) -> String {
        let mut command = Cli::command();
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let error = command
            .try_get_matches_from_mut(&arguments)
            .and_then(|matches| Cli::from_arg_matches(&matches))
            .unwrap_err();
        refusal(&command, &error, &arguments, |_| None)
    }

    #[test]
    fn a_wrong_flag_is_one_line_that_names_it() {
        for (arguments, named) in [
            (&["holdfast-operator"][..], "no command"),
            (&["holdfast-operator", "walk"], "walk"),
            (&["holdfast-operator", "run"], "--agent-image-repository"),
            (&["holdfast-operator", "run", "--namespace"], "--namespace"),
            (&["holdfast-operator", "run", "--namespace", "A"], "--namespace"),
            (&["holdfast-operator", "run", "--colour=red"], "--colour"),
            (&["holdfast-operator", "run", "--agent-image-pull-policy=Often"], "--agent-image-pull-policy"),
            (&["holdfast-operator", "test", "--timeout=soon"], "--timeout"),
        ] {
            let line = refused(arguments);
            assert!(line.contains(named) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_value_of_the_environment_is_said_to_be_from_there() {
        let command = Cli::command();
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let given = ["holdfast-operator", "test", "--timeout=soon"];
        let error = Cli::command().try_get_matches_from(given).unwrap_err();
        let set = |_: &OsStr| Some(OsString::from("soon"));
        // The same error, as if the value had come from elsewhere.
        let line = refusal(&command, &error, &arguments(&["holdfast-operator", "test"]), set);
        assert!(line.contains("HOLDFAST_TEST_TIMEOUT"), "{line}");
        assert!(!refusal(&command, &error, &arguments(&given), set).contains("HOLDFAST"));
        let garbled = clap::Error::new(ErrorKind::InvalidUtf8);
        let line = refusal(&command, &garbled, &arguments(&["holdfast-operator", "test"]), |name| {
            (name == "HOLDFAST_LEASE_NAME").then(|| OsString::from_vec(vec![0xff]))
        });
        assert_eq!(line, "error: the value of HOLDFAST_LEASE_NAME is no UTF-8");
    }
}

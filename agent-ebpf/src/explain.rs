//! `holdfast-agent explain FILE...`: whether one workload may reach another, or make a system call, and by which rule.
//!
//! Offline: the files hold the policies and what they are about, and the answer is the reference verdict's. Exit code 0
//! for allowed, 1 for denied, 2 where the question or the files are at fault.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use holdfast_crds::explain::{QuestionArgs, Scene};

/// What `explain` is told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML or JSON files of policies, workloads, Services and namespaces, as kubectl prints them; - is the standard
    /// input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    question: QuestionArgs,
    /// The namespace that Holdfast runs in, which cluster policies leave alone
    #[arg(long, env = "HOLDFAST_NAMESPACE", default_value = "holdfast-system")]
    namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Answers the question on the standard output.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    match explain(args, io::stdin().lock()) {
        Ok((text, allowed)) => {
            // Nobody reads it: the exit code still says it.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(!allowed))
        }
        Err(problem) => {
            let _ = io::stderr().write_all(problem.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// The answer, and whether everything is allowed; or what is wrong, in lines.
fn explain(args: &Args, stdin: impl Read) -> Result<(String, bool), String> {
    let scene = Scene::read(&args.files, stdin, &args.namespace).map_err(|errors| {
        errors.iter().fold(String::new(), |text, error| text + &error.to_string() + "\n")
    })?;
    let line = |problem: String| format!("error: {problem}\n");
    let answer = scene.answer(&args.question.question(), None).map_err(|error| line(error.to_string()))?;
    let text = match args.output {
        Format::Text => answer.text(),
        Format::Json => {
            serde_json::to_string_pretty(&answer).map_err(|error| line(error.to_string()))? + "\n"
        }
    };
    Ok((text, answer.allowed))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {containers: [{name: main, image: api}]}
---
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: api, namespace: shop}
spec: {selector: {}, syscalls: {rules: [{names: [mount], action: Deny}]}}
";

    fn ask(line: &str) -> Result<(String, bool), String> {
        let words = ["explain"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        explain(&cli.args, SHOP.as_bytes())
    }

    #[test]
    fn the_answer_says_whether_all_is_allowed() {
        let (text, allowed) = ask("- --from shop/api --syscall mount").unwrap();
        assert!(!allowed && text.contains("Deny by shop/api syscalls.rules[0]"), "{text}");
        let (text, allowed) = ask("- --from shop/api --syscall read -o json").unwrap();
        assert!(allowed && text.contains("\"allowed\": true"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_the_question_or_the_files_is_one_line() {
        for (line, expected) in [
            (
                "- --from shop/nobody --syscall mount",
                "error: there is no workload and no Service shop/nobody\n",
            ),
            ("- --from api --syscall mount", "error: \"api\" is neither NAMESPACE/NAME nor an address\n"),
        ] {
            assert_eq!(ask(line).unwrap_err(), expected);
        }
        let problem = ask("/nowhere --from shop/api --syscall read").unwrap_err();
        assert!(problem.starts_with("/nowhere: cannot be read: "), "{problem}");
    }
}

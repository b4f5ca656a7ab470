//! The flags that put a question, the same for every command that answers one.

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use holdfast_policy::model;
use holdfast_policy::syscalls::Abi;

use super::{Access, AccessAsked, CallAsked, FlowAsked, Question};

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("inside").multiple(true).args(["syscall", "executable", "file", "capability"]))]
pub struct QuestionArgs {
    /// Who opens the connection, makes the call, or runs. NS/KIND/NAME where several kinds have the name
    #[arg(long, value_name = "NS/NAME|ADDRESS")]
    from: String,
    /// Who is reached; a Service too
    #[arg(long, value_name = "NS/NAME|ADDRESS", requires = "port", required_unless_present = "inside")]
    to: Option<String>,
    /// The port that is reached
    #[arg(long, requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The protocol
    #[arg(long, value_enum, ignore_case = true, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// A system call by name
    #[arg(long, value_name = "NAME")]
    syscall: Option<String>,
    /// An argument of the system call by its index from 0, in decimal or with 0x; those not given are 0
    #[arg(long = "arg", value_name = "INDEX=VALUE", requires = "syscall", value_parser = parse_argument)]
    arguments: Vec<Argument>,
    /// An executable that is started, by its absolute path in the container
    #[arg(long = "exec", id = "executable", value_name = "PATH")]
    executable: Option<String>,
    /// The executable is not in the container's image
    #[arg(long, requires = "executable")]
    not_in_image: bool,
    /// A file or directory, by its absolute path in the container
    #[arg(long, value_name = "PATH", requires = "operation")]
    file: Option<String>,
    /// What is done to the file
    #[arg(long, requires = "file", ignore_case = true, value_parser = operation())]
    operation: Option<model::Operation>,
    /// The program that does it, by its absolute path; one that no rule excepts when absent
    #[arg(long, value_name = "PATH", requires = "file")]
    running: Option<String>,
    /// A capability that is used, by its name without CAP_
    #[arg(long, value_name = "NAME")]
    capability: Option<String>,
    /// The container that does it; each of the pod's when absent
    #[arg(long, requires = "inside")]
    container: Option<String>,
    /// The way into the kernel; that of this machine's 64-bit programs when absent
    #[arg(long, value_enum, requires = "syscall")]
    abi: Option<AbiName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// An operation by its name, in whatever case.
fn operation() -> impl TypedValueParser<Value = model::Operation> {
    PossibleValuesParser::new(model::Operation::ALL.map(model::Operation::name)).try_map(|name| {
        model::Operation::ALL
            .into_iter()
            .find(|operation| operation.name().eq_ignore_ascii_case(&name))
            .ok_or("no operation has this name")
    })
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AbiName {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "i386")]
    I386,
    #[value(name = "aarch64")]
    Aarch64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Argument {
    index: usize,
    value: u64,
}

fn parse_argument(text: &str) -> Result<Argument, String> {
    let (index, value) = text.split_once('=').ok_or("expected INDEX=VALUE")?;
    let index = index.parse().ok().filter(|index| *index < 6).ok_or("the index is from 0 to 5")?;
    let (negative, digits) = value.strip_prefix('-').map_or((false, value), |digits| (true, digits));
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let number = number.map_err(|error| format!("{value:?}: {error}"))?;
    Ok(Argument { index, value: if negative { number.wrapping_neg() } else { number } })
}

impl QuestionArgs {
    /// The ends that are named, as they were written.
    pub fn ends(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.from.as_str()).chain(self.to.as_deref())
    }

    /// The question.
    #[must_use]
    pub fn question(&self) -> Question {
        let flow = self.to.clone().zip(self.port).map(|(to, port)| FlowAsked {
            to,
            port,
            protocol: match self.protocol {
                Protocol::Tcp => model::Protocol::Tcp,
                Protocol::Udp => model::Protocol::Udp,
                Protocol::Sctp => model::Protocol::Sctp,
            },
        });
        let call = self.syscall.clone().map(|name| {
            let mut args = [0; 6];
            for argument in &self.arguments {
                if let Some(value) = args.get_mut(argument.index) {
                    *value = argument.value;
                }
            }
            CallAsked {
                name,
                args,
                abi: match self.abi {
                    Some(AbiName::I386) => Abi::I386,
                    Some(AbiName::Aarch64) => Abi::Aarch64,
                    None if cfg!(target_arch = "aarch64") => Abi::Aarch64,
                    Some(AbiName::X86_64) | None => Abi::X86_64,
                },
                container: self.container.clone(),
            }
        });
        Question { from: self.from.clone(), flow, call, accesses: self.accesses() }
    }

    fn accesses(&self) -> Vec<AccessAsked> {
        let executable =
            self.executable.clone().map(|path| Access::Executable { path, in_image: !self.not_in_image });
        let file = self.file.clone().zip(self.operation).map(|(path, operation)| Access::File {
            path,
            operation,
            running: self.running.clone(),
        });
        let capability = self.capability.clone().map(Access::Capability);
        let all = [executable, file, capability].into_iter().flatten();
        all.map(|access| AccessAsked { access, container: self.container.clone() }).collect()
    }
}

//! What the rows answer, read as the kernel programs read them, against what the compiler's own look-ups answer.

use holdfast_policy::arbitrary::{self, access};
use holdfast_policy::compile::lookup::{
    CallOutcome, lookup_capability, lookup_executable, lookup_file, lookup_move,
};
use holdfast_policy::compile::{self, Input};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// As `hf_cell`.
fn cell(tables: &Tables, automaton: &abi::PathAutomaton, state: u16, column: usize) -> u16 {
    let element = automaton.base
        + u32::from(state) * automaton.elements
        + u32::try_from(column / abi::ROW_CELLS).expect("small");
    tables.path_rows.get(&element).map_or(0, |row| row.cell[column % abi::ROW_CELLS])
}

/// As `hf_walk_path`.
fn walk(tables: &Tables, automaton: &abi::PathAutomaton, path: &[u8]) -> u16 {
    let mut state = 1;
    for byte in path {
        state = cell(tables, automaton, state, usize::from(automaton.column.0[usize::from(*byte)]));
        if state == 0 {
            break;
        }
    }
    state
}

/// As `hf_find_path`: state, outcome, reach.
fn find(
    tables: &Tables,
    automaton: &abi::PathAutomaton,
    path: Option<&[u8]>,
    below: bool,
) -> (u16, u16, u16) {
    let Some(path) = path.filter(|_| automaton.base != 0) else { return (0, 0, 0) };
    let mut state = walk(tables, automaton, path);
    if below {
        state = cell(tables, automaton, state, usize::from(automaton.column.0[usize::from(b'/')]));
    }
    (state, cell(tables, automaton, state, 0), cell(tables, automaton, state, 1))
}

/// What a row of the kernel says, in the words of the compiler.
fn said(set: &AccessSet, answer: Option<abi::AccessAnswer>) -> CallOutcome {
    let rule = |number: u16| set.rules[usize::from(number)].rule.clone();
    let action = |number| [Action::Allow, Action::Audit, Action::Deny, Action::Kill][usize::from(number)];
    let Some(answer) = answer else {
        return CallOutcome { action: Action::Allow, rule: None, audited: None };
    };
    CallOutcome {
        action: action(answer.action),
        rule: (answer.rule != abi::NO_RULE).then(|| rule(answer.rule)),
        audited: (answer.would_action > answer.action)
            .then(|| (action(answer.would_action), rule(answer.would_rule))),
    }
}

struct Kernel<'a> {
    tables: &'a Tables,
    set: &'a AccessSet,
    number: u32,
    /// As the workload's row has it.
    elsewhere: abi::Elsewhere,
}

impl Kernel<'_> {
    fn header(&self) -> &abi::Access {
        &self.tables.access_sets[&self.number]
    }

    fn row(&self, kind: u32, a: u16, b: u16) -> Option<abi::AccessRow> {
        self.tables.access_rows.get(&abi::AccessKey { set: self.number, a, b, kind }).copied()
    }

    fn executable(&self, path: Option<&[u8]>, in_image: bool) -> CallOutcome {
        let (_, outcome, _) = find(self.tables, &self.header().executables, path, false);
        let row = self.row(access_kind::EXECUTABLE, outcome, 0);
        said(self.set, row.map(|row| row.answer[usize::from(!in_image)]))
    }

    /// As `hf_is_elsewhere`.
    fn is_elsewhere(&self, path: &[u8]) -> bool {
        let mut names = path.split(|byte| *byte == b'/').skip(1);
        let is_not = |words: &[u64; abi::BEGINNING_WORDS], name: &[u8]| {
            let bit = abi::beginning_of(name);
            words[bit / 64] >> (bit % 64) & 1 != 0
        };
        match (names.next().filter(|name| !name.is_empty()), names.next().filter(|name| !name.is_empty())) {
            (None, _) => false,
            (Some(first), None) => is_not(&self.elsewhere.first, first),
            (Some(first), Some(second)) => {
                is_not(&self.elsewhere.first, first) || is_not(&self.elsewhere.second, second)
            }
        }
    }

    /// As the kernel answers an open, which looks at the beginnings of names first.
    fn file(&self, path: &[u8], operation: Operation, runs: Option<&[u8]>) -> CallOutcome {
        if self.is_elsewhere(path) {
            return said(self.set, None);
        }
        let (_, outcome, _) = find(self.tables, &self.header().files, Some(path), false);
        let (_, runs, _) = find(self.tables, &self.header().executables, runs, false);
        let row = (outcome != 0).then(|| self.row(access_kind::FILE, outcome, runs)).flatten();
        said(self.set, row.map(|row| row.answer[operation.index()]))
    }

    fn moves(&self, from: &[u8], to: &[u8], is_directory: bool, runs: Option<&[u8]>) -> CallOutcome {
        let (old, _, reach) = find(self.tables, &self.header().files, Some(from), is_directory);
        let (new, ..) = find(self.tables, &self.header().files, Some(to), is_directory);
        let (_, runs, _) = find(self.tables, &self.header().executables, runs, false);
        let concerned = reach != 0 && old != new;
        let row = concerned.then(|| self.row(access_kind::MOVE, reach, runs)).flatten();
        said(self.set, row.map(|row| row.answer[0]))
    }
}

/// Every hook, by LSM.
fn all_hooks() -> Mechanisms {
    Mechanisms {
        kernel: (6, 12),
        hooks: Hook::ALL.iter().map(|hook| (*hook, Mechanism::Lsm)).collect(),
        ..Mechanisms::default()
    }
}

fn scenarios() -> impl Strategy<Value = arbitrary::Scenario> {
    (arbitrary::scenario(), vec(access::halves(), 8)).prop_map(|(mut scenario, halves)| {
        for (policy, (processes, files, capabilities)) in scenario.policies.iter_mut().zip(halves) {
            (policy.network, policy.syscalls) = (None, None);
            (policy.processes, policy.files, policy.capabilities) = (processes, files, capabilities);
        }
        scenario
    })
}

#[test]
fn the_rows_answer_what_was_compiled() {
    let questions = (
        vec(access::executable(), 10),
        vec(access::file_access(), 20),
        vec(access::path(), 4),
        vec(access::capability(), 4),
    );
    let (mut refused, mut answered) = (0, 0);
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let cell = std::cell::RefCell::new((&mut refused, &mut answered));
    let result =
        runner.run(&(scenarios(), questions), |(scenario, (executables, files, paths, capabilities))| {
            let input = Input {
                policies: &scenario.policies,
                world: &scenario.world,
                workloads: &scenario.workloads,
                abis: &[],
            };
            let compiled =
                compile::compile(&input, None).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let (mut out, mut space) = (Lowered::default(), Space::of(&Tables::default(), 0));
            let numbers: HashMap<_, u32> =
                compiled.access_sets.iter().zip(7..).map(|(set, number)| (set.key.clone(), number)).collect();
            for set in &compiled.access_sets {
                lower_set(set, numbers[&set.key], &all_hooks(), &mut space, &mut out)
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
            for place in 0..scenario.workloads.len() {
                let Some(set) = compiled.access_set(place) else { continue };
                let elsewhere = set.files.as_ref().map_or(abi::Elsewhere::EVERYTHING, elsewhere);
                let kernel = Kernel { tables: &out.tables, set, number: numbers[&set.key], elsewhere };
                let same = |seen: CallOutcome, expected: CallOutcome| {
                    let mut met = cell.borrow_mut();
                    *met.1 += 1;
                    *met.0 += usize::from(expected.action.refuses());
                    prop_assert_eq!(seen, expected);
                    Ok(())
                };
                for executable in &executables {
                    same(
                        kernel.executable(executable.path.as_deref(), executable.in_image),
                        lookup_executable(&compiled, place, executable),
                    )?;
                }
                for access in &files {
                    same(
                        kernel.file(&access.path, access.operation, access.executable.as_deref()),
                        lookup_file(&compiled, place, access),
                    )?;
                }
                for (from, to) in paths.iter().zip(paths.iter().skip(1)) {
                    for is_directory in [false, true] {
                        let runs = executables.first().and_then(|executable| executable.path.as_deref());
                        same(
                            kernel.moves(from, to, is_directory, runs),
                            lookup_move(&compiled, place, from, to, is_directory, runs),
                        )?;
                    }
                }
                for capability in &capabilities {
                    let row = kernel.row(access_kind::CAPABILITY, u16::from(capability.number()), 0);
                    let denied = kernel.header().capabilities >> capability.number() & 1 != 0;
                    prop_assert_eq!(denied, row.is_some());
                    same(
                        said(set, row.map(|row| row.answer[0])),
                        lookup_capability(&compiled, place, *capability),
                    )?;
                }
            }
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(answered >= 2_000 && refused >= 100, "{refused} of {answered} refused");
}

#[test]
fn what_is_in_force_is_never_written_over() {
    let rows = |number: u16, size: usize| -> Rows {
        let mut row = abi::PathRow::default();
        row.cell[0] = number;
        vec![row; size]
    };
    let mut space = Space::of(&Tables::default(), 0);
    let first = space.place(&rows(1, 100)).expect("room");
    let second = space.place(&rows(2, 50)).expect("room");
    assert_eq!((first, second), (1, 101), "element 0 belongs to nobody");
    assert_eq!(space.place(&rows(1, 100)), Some(first), "equal rows share a place");
    let most = usize::try_from(abi::POLICY_PATH_ROWS).expect("small");
    assert_eq!(space.place(&rows(3, most)), None, "what does not fit is refused");
    let rest = most - 151;
    assert_eq!(space.place(&rows(4, rest)), Some(151));
    assert_eq!(space.place(&rows(5, 1)), None, "it is full");
}

#[test]
fn a_rule_is_given_what_it_asks_only_where_every_hook_it_takes_is_there() {
    let text = "
apiVersion: holdfast.dev/v1alpha1
kind: WorkloadPolicy
metadata: {name: a, namespace: shop, uid: u, generation: 1}
spec:
  selector: {}
  processes: {rules: [{notInImage: true, action: Kill}]}
  files: {rules: [{paths: [/etc/shadow], operations: [Read, Chmod], action: Deny}]}
  capabilities: {deny: [NET_RAW]}
";
    let parsed = holdfast_crds::document::parse("a.yaml", text.as_bytes());
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let holdfast_crds::document::Object::WorkloadPolicy(policy) = &parsed.documents[0].object else {
        panic!("{:?}", parsed.documents)
    };
    let policy = holdfast_crds::convert::workload_policy(policy).expect("a policy");
    let workload = holdfast_policy::model::Workload {
        namespace: "shop".to_owned(),
        name: "w".to_owned(),
        uid: "w".to_owned(),
        container: Some("c".to_owned()),
        labels: BTreeMap::default(),
        service_account: None,
        owner: None,
        named_ports: BTreeMap::default(),
        net: holdfast_policy::model::NetScope::Own,
    };
    let world = holdfast_policy::model::World::default();
    let input = Input {
        policies: std::slice::from_ref(&policy),
        world: &world,
        workloads: std::slice::from_ref(&workload),
        abis: &[],
    };
    let compiled = compile::compile(&input, None).expect("compiles");
    let policies = HashMap::from([(policy.id.clone(), policy)]);
    let of = |mechanisms: &Mechanisms| -> Vec<(Given, Option<&'static str>)> {
        let all = given(&compiled.access_sets[0], &policies, mechanisms);
        all.into_iter().map(|rule| (rule.given, rule.reason)).collect()
    };
    let whole = all_hooks();
    assert_eq!(of(&whole), [(Given::DenyAndKill, None), (Given::Deny, None), (Given::Deny, None)]);
    let mut without = whole.clone();
    without.hooks.remove(&Hook::PathChown);
    let lacks = (Given::NotCovered, Some("HookMissing"));
    assert_eq!(of(&without), [(Given::DenyAndKill, None), lacks, (Given::Deny, None)]);
    without.hooks.remove(&Hook::MoveMount);
    assert_eq!(of(&without), [lacks, lacks, (Given::Deny, None)]);
    let none = (Given::NotCovered, Some("NoLsmAndNoFmodRet"));
    assert_eq!(of(&Mechanisms::default()), [none; 3]);
}

use std::collections::BTreeSet;

use super::*;
use crate::compile::{Condition, Width};
use crate::model::ArgOp;

#[test]
fn names_are_sorted_and_unique() {
    assert!(names().is_sorted_by(|a, b| a < b));
    assert!(names().iter().all(|name| is_known(name)));
}

#[test]
fn no_two_calls_share_a_number() {
    for abi in Abi::ALL {
        let mut seen = BTreeSet::new();
        for call in names() {
            if let Some(number) = number(abi, call) {
                assert!(seen.insert(number), "{abi:?} {call} {number}");
                assert_eq!(name(abi, number), Some(*call));
            }
        }
        assert!(seen.len() > 300, "{abi:?} has only {} calls", seen.len());
    }
}

#[test]
fn every_call_exists_on_some_abi() {
    for call in names() {
        assert!(Abi::ALL.iter().any(|abi| number(*abi, call).is_some()), "{call}");
    }
}

#[test]
fn well_known_numbers_are_right() {
    #[rustfmt::skip]
    let known = [
        (Abi::X86_64, "read", 0), (Abi::X86_64, "getppid", 110), (Abi::X86_64, "mount", 165),
        (Abi::X86_64, "umount2", 166), (Abi::X86_64, "unshare", 272), (Abi::X86_64, "bpf", 321),
        (Abi::X86_64, "uretprobe", 335), (Abi::X86_64, "pidfd_send_signal", 424), (Abi::X86_64, "mseal", 462),
        (Abi::X86_64, "listns", 470), (Abi::I386, "exit", 1), (Abi::I386, "umount", 22),
        (Abi::I386, "umount2", 52), (Abi::I386, "socketcall", 102), (Abi::I386, "socket", 359),
        (Abi::I386, "semget", 393), (Abi::I386, "clock_settime64", 404), (Abi::I386, "mseal", 462),
        (Abi::Aarch64, "io_setup", 0), (Abi::Aarch64, "mount", 40), (Abi::Aarch64, "getppid", 173),
        (Abi::Aarch64, "socket", 198), (Abi::Aarch64, "clone", 220), (Abi::Aarch64, "clone3", 435),
        (Abi::Aarch64, "mseal", 462),
    ];
    for (abi, call, expected) in known {
        assert_eq!(number(abi, call), Some(expected), "{abi:?} {call}");
        assert_eq!(name(abi, expected), Some(call), "{abi:?} {expected}");
    }
    assert_eq!(number(Abi::X86_64, "umount"), None);
    assert_eq!(number(Abi::Aarch64, "open"), None);
    assert_eq!(number(Abi::X86_64, "no_such_call"), None);
    assert_eq!(name(Abi::X86_64, 400), None);
    assert_eq!(name(Abi::X86_64, u32::MAX), None);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn numbers_agree_with_the_kernel_headers() {
    let folder = std::path::Path::new("/usr/include/x86_64-linux-gnu/asm");
    for (abi, file) in [(Abi::X86_64, "unistd_64.h"), (Abi::I386, "unistd_32.h")] {
        let header = std::fs::read_to_string(folder.join(file)).expect("install the package linux-libc-dev");
        let mut checked = 0;
        for line in header.lines() {
            let Some((call, value)) =
                line.strip_prefix("#define __NR_").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let value: u32 = value.trim().parse().expect("a number");
            // Headers newer than the table may hold more, but nothing else.
            if value <= 470 {
                assert_eq!(number(abi, call), Some(value), "{abi:?} {call}");
                checked += 1;
            }
        }
        assert!(checked > 300, "{file} has only {checked} lines that define a number");
    }
}

#[test]
fn x32_numbers_are_found_with_and_without_their_bit() {
    assert_eq!(x32_name(X32_BIT + 59), Some("execve"));
    assert_eq!(x32_name(X32_BIT + 520), Some("execve"));
    assert_eq!(x32_name(521), Some("ptrace"));
    assert_eq!(x32_name(547), Some("pwritev2"));
    assert_eq!(x32_name(548), None);
    assert!(table::X32_ONLY.iter().all(|call| number(Abi::X86_64, call).is_some()));
}

#[test]
fn groups_are_sorted_and_hold_known_names_only() {
    let listed: Vec<_> = groups().map(|group| group.name).collect();
    assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
    assert_eq!(listed.len(), 30);
    for group in groups() {
        assert!(group.name.starts_with('@'));
        assert!(group.members.is_sorted_by(|a, b| a < b), "{}", group.name);
        for member in group.members {
            let found =
                if member.starts_with('@') { super::group(member).is_some() } else { is_known(member) };
            assert!(found, "{} has {member}", group.name);
        }
        let calls = expand(group.name);
        assert!(!calls.is_empty() && calls.is_sorted_by(|a, b| a < b), "{}", group.name);
        assert!(calls.iter().all(|call| is_known(call)));
    }
}

#[test]
fn expand_resolves_groups_in_groups() {
    assert_eq!(expand("@module"), ["delete_module", "finit_module", "init_module"]);
    let privileged = expand("@privileged");
    for inner in ["@module", "@clock", "@raw-io", "@reboot", "@swap", "@chown"] {
        assert!(expand(inner).iter().all(|call| privileged.contains(call)), "{inner}");
    }
    assert_eq!(expand("@known"), names());
    assert_eq!(expand("mount"), ["mount"]);
    assert!(expand("@nothing").is_empty());
    assert!(expand("nothing").is_empty());
}

#[test]
fn every_call_has_a_signature_of_at_most_six() {
    for call in names() {
        assert!(signature(call).is_some_and(|args| args.len() <= 6), "{call}");
    }
    assert_eq!(signature("no_such_call"), None);
    assert_eq!(signature("socket"), Some(&[ArgKind::Int32; 3][..]));
    assert_eq!(
        signature("mount"),
        Some(&[ArgKind::Pointer, ArgKind::Pointer, ArgKind::Pointer, ArgKind::Uint64, ArgKind::Pointer][..])
    );
    // What the kernel cuts off is not compared.
    assert_eq!(signature("clone").map(|args| args[0]), Some(ArgKind::Uint32));
    assert_eq!(signature("chmod").map(|args| args[1].width()), Some(16));
}

#[test]
fn an_argument_is_found_in_its_register() {
    let at = |register, kind| Some(Operand { register, kind });
    assert_eq!(operand(Abi::X86_64, "pread64", 3), at(3, ArgKind::Int64));
    assert_eq!(operand(Abi::I386, "pread64", 3), None);
    assert_eq!(operand(Abi::I386, "readahead", 2), at(3, ArgKind::Uint32));
    assert_eq!(operand(Abi::I386, "mmap", 2), None);
    assert_eq!(operand(Abi::I386, "ptrace", 0), at(0, ArgKind::Int32));
    assert_eq!(operand(Abi::I386, "setuid", 0), at(0, ArgKind::Uint16));
    assert_eq!(operand(Abi::I386, "setuid32", 0), at(0, ArgKind::Uint32));
    assert_eq!(operand(Abi::X86_64, "setuid", 0), at(0, ArgKind::Uint32));
    assert_eq!(operand(Abi::X86_64, "setuid", 1), None);
    assert_eq!(operand(Abi::Aarch64, "open", 0), None);
    assert_eq!(operand(Abi::I386, "socket", 0), at(0, ArgKind::Int32));
}

#[test]
fn i386_has_several_ways_to_one_effect() {
    let numbers = |abi, call| entries(abi, call).iter().map(|entry| entry.number).collect::<Vec<_>>();
    assert_eq!(numbers(Abi::X86_64, "chown"), [92]);
    assert_eq!(numbers(Abi::Aarch64, "chown"), Vec::<u32>::new());
    assert_eq!(numbers(Abi::I386, "chown"), [182, 212]);
    assert_eq!(numbers(Abi::I386, "umount2"), [22, 52]);
    assert_eq!(numbers(Abi::I386, "clock_settime"), [264, 404]);
    assert_eq!(numbers(Abi::I386, "mmap"), [90, 192]);
    let socket = [
        Entry { number: 102, selector: Some(Selector { mask: u32::MAX, value: 1 }) },
        Entry { number: 359, selector: None },
    ];
    assert_eq!(entries(Abi::I386, "socket"), socket);
    let shmat = [
        Entry { number: 117, selector: Some(Selector { mask: 0xffff, value: 21 }) },
        Entry { number: 397, selector: None },
    ];
    assert_eq!(entries(Abi::I386, "shmat"), shmat);
}

#[test]
fn hooks_are_named_once_and_each_is_of_use() {
    let lsm: BTreeSet<_> = Hook::ALL.iter().map(|hook| hook.lsm_name()).collect();
    let functions: BTreeSet<_> = Hook::ALL.iter().map(|hook| hook.security_fn()).collect();
    assert_eq!((lsm.len(), functions.len()), (Hook::ALL.len(), Hook::ALL.len()));
    assert!(functions.iter().all(|function| function.starts_with("security_")));
    // A set of hooks fits in one 64-bit word.
    assert!(Hook::ALL.len() <= 64);
    for hook in Hook::ALL {
        let used = names().iter().any(|call| hooks(call).iter().any(|route| route.hooks.contains(hook)));
        let rules = [hooks::OF_PROCESSES, hooks::OF_FILES, hooks::OF_MOUNTS, hooks::OF_CAPABILITIES];
        assert!(used || rules.concat().contains(hook), "{hook:?}");
        assert!(!used || hook.is_of_calls(), "{hook:?}");
    }
}

#[test]
fn every_call_with_hooks_has_a_signature() {
    let mut with_hooks = 0;
    for call in names() {
        let routes = hooks(call);
        with_hooks += usize::from(!routes.is_empty());
        for route in routes {
            assert!(!route.hooks.is_empty() && route.since >= (5, 10), "{call}");
            assert!(signature(call).is_some(), "{call}");
            assert!(!hooks::is_gone(call), "{call}");
        }
        // The last resort asks for no newer kernel than the others.
        assert!(routes.is_sorted_by(|a, b| a.since >= b.since), "{call}");
    }
    assert!(with_hooks > 150, "{with_hooks}");
    assert!(hooks("no_such_call").is_empty());
}

#[test]
fn each_call_is_in_the_table_of_routes_once() {
    let mut seen = BTreeSet::new();
    for call in hooks::listed() {
        assert!(is_known(call), "{call}");
        assert!(seen.insert(call), "{call}");
    }
}

#[test]
fn only_what_no_hook_stops_is_left_out_of_the_groups_that_matter() {
    let uncovered = |group| {
        let calls = expand(group).into_iter();
        calls.filter(|call| hooks(call).is_empty() && !hooks::is_gone(call)).collect::<Vec<_>>()
    };
    for group in
        ["@module", "@mount", "@debug", "@reboot", "@swap", "@clock", "@keyring", "@chown", "@privileged"]
    {
        assert_eq!(uncovered(group), Vec::<&str>::new(), "{group}");
    }
    assert_eq!(uncovered("@raw-io"), Vec::<&str>::new());
    assert_eq!(uncovered("@cpu-emulation"), ["modify_ldt"]);
    assert_eq!(uncovered("@obsolete"), ["bdflush", "sgetmask", "ssetmask", "sysfs", "ustat"]);
}

#[test]
fn a_call_of_i386_has_the_hooks_of_its_64_bit_form() {
    for call in names() {
        let routes = hooks(call);
        if routes.is_empty() {
            continue;
        }
        for entry in entries(Abi::I386, call) {
            let other = name(Abi::I386, entry.number).expect("an entry has a name");
            if entry.selector.is_none() {
                assert_eq!(hooks(other), routes, "{call} and {other}");
            }
        }
    }
}

#[test]
fn a_kernel_gets_the_first_route_that_it_can_have() {
    let picked = |call, kernel, lacking: &[Hook]| {
        hooks::route(call, kernel, |hook| !lacking.contains(&hook)).map(|route| route.hooks)
    };
    assert_eq!(picked("ftruncate", (6, 12), &[]), Some(&[Hook::FileTruncate][..]));
    assert_eq!(picked("ftruncate", (6, 1), &[Hook::FileTruncate]), Some(&[Hook::PathTruncate][..]));
    assert_eq!(picked("io_uring_setup", (6, 18), &[]), Some(&[Hook::UringAllowed][..]));
    assert_eq!(picked("io_uring_setup", (6, 12), &[]), Some(&[Hook::InodeInitSecurityAnon][..]));
    // The hook is older than its use by io_uring.
    assert_eq!(picked("io_uring_setup", (5, 15), &[]), Some(&[Hook::FileAlloc][..]));
    assert_eq!(
        picked("unshare", (5, 10), &[Hook::UsernsCreate]),
        Some(&[Hook::Capable, Hook::CredPrepare][..])
    );
    assert_eq!(picked("mount", (6, 12), &[Hook::SbMount]), None);
    assert_eq!(picked("getppid", (6, 12), &[]), None);
}

#[test]
fn a_route_with_a_gap_covers_conditions_that_leave_the_gap_out() {
    let condition =
        |register, op, value| Condition { register, op, value, width: Width::Bits64, signed: false };
    let new_user = 0x1000_0000;
    let flag = |mask, value| condition(0, ArgOp::MaskedEqual { mask }, value);
    for route in hooks("unshare") {
        assert!(route.covers(&[]), "a rule without conditions means nobody else's harm");
        assert!(route.covers(&[flag(new_user, new_user)]));
        assert!(route.covers(&[condition(0, ArgOp::Equal, new_user | 0x400)]));
        assert!(route.covers(&[condition(1, ArgOp::Equal, 0), flag(u64::MAX, new_user)]), "all have to hold");
        // CLONE_FILES, or anything but a namespace.
        for gap in [
            flag(0x400, 0x400),
            flag(new_user, 0),
            condition(1, ArgOp::Equal, new_user),
            condition(0, ArgOp::GreaterThan, new_user),
        ] {
            assert!(!route.covers(&[gap]), "{gap:?}");
        }
    }
    assert!(hooks("mount").iter().all(|route| route.covers(&[condition(3, ArgOp::Equal, 1)])), "no gap");
}

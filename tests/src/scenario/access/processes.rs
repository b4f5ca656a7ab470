//! Which programs may be started.

use super::{Audited, Done, Killed, Refused, judgements};
use crate::scenario::suite::Scenario;

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    JUDGEMENTS.to_vec()
}

judgements! {
    exec_path: "a program is refused by its path, and others start",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}", [
            "exec /usr/bin/tool" => Refused("processes.rules[0]"),
            "exec /usr/bin/other" => Done,
            "exec {d}/tool" => Done,
            "read /usr/bin/tool" => Done,
        ];
    exec_star: "a star in a path stands for one name, and two for any number",
        "processes: {rules: [{paths: ['{d}/*'], action: Deny}, {paths: ['{v}/**'], action: Deny}]}", [
            "exec {d}/tool" => Refused("processes.rules[0]"),
            "copy {d}/tool {d}/sub/tool" => Done,
            "exec {d}/sub/tool" => Done,
            "copy {d}/tool {v}/sub/tool" => Done,
            "exec {v}/tool" => Refused("processes.rules[1]"),
            "exec {v}/sub/tool" => Refused("processes.rules[1]"),
        ];
    exec_inner_star: "a star within a name matches names, and not their ends",
        "processes: {rules: [{paths: ['/usr/bin/t*l'], action: Deny}]}", [
            "exec /usr/bin/tool" => Refused("processes.rules[0]"),
            "exec /usr/bin/other" => Done,
        ];
    exec_symlink: "a symbolic link is the program that it leads to",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}", [
            "exec /usr/bin/alias" => Refused("processes.rules[0]"),
            "exec /bin/tool" => Refused("processes.rules[0]"),
            "symlink /usr/bin/tool {t}/name" => Done,
            "exec {t}/name" => Refused("processes.rules[0]"),
        ];
    exec_link_rule: "a rule on the link of /bin to /usr/bin means what is behind it",
        "processes: {rules: [{paths: [/bin/tool], action: Deny}]}", [
            "exec /usr/bin/tool" => Refused("processes.rules[0]"),
            "exec /bin/tool" => Refused("processes.rules[0]"),
        ];
    exec_hard_link: "a hard link is the name that was used",
        "processes: {rules: [{paths: ['{d}/tool'], action: Deny}]}", [
            "link {d}/tool {d}/second" => Done,
            "exec {d}/second" => Done,
            "exec {d}/tool" => Refused("processes.rules[0]"),
        ];
    exec_dots: "dots in a path change nothing",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}", [
            "exec /usr/../usr/./bin//tool" => Refused("processes.rules[0]"),
            "exec /proc/self/root/usr/bin/tool" => Refused("processes.rules[0]"),
        ];
    exec_at: "a program is refused that is executed by its descriptor",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}", [
            "execat /usr/bin/tool" => Refused("processes.rules[0]"),
            "execat /usr/bin/other" => Done,
        ];
    exec_self: "/proc/self/exe is the program itself",
        "processes: {rules: [{paths: [/usr/bin/deeds], action: Audit}]}", [
            "/usr/bin/other: exec /proc/self/exe" => Done,
            "/usr/bin/other: exec /usr/bin/deeds" => Audited("processes.rules[0]"),
        ];
    exec_memfd: "a memfd is matched by no path, and a file that was removed by its last name",
        "processes: {rules: [{paths: ['{d}/**', '/memfd*'], action: Deny}, {notInImage: true, action: Kill}]}", [
            "exec {d}/tool" => Refused("processes.rules[0]"),
            "memfd /usr/bin/tool" => Killed("processes.rules[1]"),
            "unlinked {d}/tool" => Refused("processes.rules[0]"),
        ];
    exec_script: "a script is refused by its own path, and by its interpreter's",
        "processes: {rules: [{paths: [/usr/bin/script], action: Deny}, {paths: [/usr/bin/other], action: Kill}]}", [
            "exec /usr/bin/script" => Refused("processes.rules[0]"),
            "exec {d}/script" => Killed("processes.rules[1]"),
            "exec /usr/bin/tool" => Done,
        ];
    exec_image: "what was not in the image does not start, wherever it lies",
        "processes: {rules: [{notInImage: true, action: Deny}]}", [
            "exec /usr/bin/tool" => Done,
            "exec /usr/bin/alias" => Done,
            "exec {d}/tool" => Refused("processes.rules[0]"),
            "exec {t}/tool" => Refused("processes.rules[0]"),
            "exec {v}/tool" => Refused("processes.rules[0]"),
            "memfd /usr/bin/tool" => Refused("processes.rules[0]"),
            "unlinked {d}/tool" => Refused("processes.rules[0]"),
            "unlinked {t}/tool" => Refused("processes.rules[0]"),
            "exec {v}/script" => Refused("processes.rules[0]"),
            "exec /usr/bin/script" => Done,
        ];
    exec_image_changed: "a program of the image that was changed is not in it any more",
        "processes: {rules: [{notInImage: true, action: Kill}]}", [
            "exec /usr/bin/changed" => Done,
            "write /usr/bin/changed" => Done,
            "exec /usr/bin/changed" => Killed("processes.rules[0]"),
        ];
    exec_image_copied: "a copy of a program of the image is not in it",
        "processes: {rules: [{notInImage: true, action: Deny}]}", [
            "copy /usr/bin/tool {d}/copied" => Done,
            "exec {d}/copied" => Refused("processes.rules[0]"),
        ];
    exec_list: "an allow-list lets nothing else start",
        "processes: {default: Deny, rules: [{paths: [/usr/bin/deeds, '/opt/**'], action: Allow}]}", [
            "exec /opt/app/server" => Done,
            "exec /usr/bin/tool" => Refused("processes.default"),
            "exec {d}/tool" => Refused("processes.default"),
            "memfd /opt/app/server" => Refused("processes.default"),
            "exec /usr/bin/script" => Refused("processes.default"),
        ];
    exec_list_image: "an allow-list of all that is not foreign lets the image's programs start",
        "processes: {rules: [{paths: ['{v}/tool'], action: Allow}, {notInImage: true, action: Deny}]}", [
            "exec {v}/tool" => Done,
            "exec {v}/script" => Refused("processes.rules[1]"),
            "exec /usr/bin/tool" => Done,
        ];
    exec_order: "the first rule that matches a program decides",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Allow}, {paths: ['/usr/bin/t*'], action: Deny}, {paths: ['/usr/bin/o*'], action: Kill}]}", [
            "exec /usr/bin/tool" => Done,
            "exec /usr/bin/other" => Killed("processes.rules[2]"),
        ];
    exec_kill: "who starts what may not be started is killed before it runs",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Kill}]}", [
            "exec /usr/bin/tool" => Killed("processes.rules[0]"),
            "execat /usr/bin/tool" => Killed("processes.rules[0]"),
        ];
    exec_audit: "a rule to audit lets a program start and counts it",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Audit}]}", [
            "exec /usr/bin/tool" => Audited("processes.rules[0]"),
            "exec /usr/bin/other" => Done,
        ];
    exec_mode_audit: "a policy in Audit refuses nothing and counts what it would",
        "mode: Audit, processes: {default: Deny, rules: [{paths: [/usr/bin/deeds], action: Allow}, {notInImage: true, action: Kill}]}", [
            "exec {d}/tool" => Audited("processes.rules[1]"),
            "exec /usr/bin/tool" => Audited("processes.default"),
        ];
    exec_loader: "a program given to the dynamic loader is judged as if it were started",
        "processes: {rules: [{notInImage: true, action: Deny}]}", [
            "/usr/lib64/ld-deeds.so.1: mapcode {v}/tool" => Refused("processes.rules[0]"),
            "/usr/lib64/ld-deeds.so.1: mapcode /usr/bin/tool" => Done,
            "/lib64/ld-deeds.so.1: protect {t}/tool" => Refused("processes.rules[0]"),
            "mapcode {v}/tool" => Done,
        ];
    exec_mount: "no mount gives a refused program another path",
        "processes: {rules: [{paths: [/usr/bin/tool], action: Deny}]}", [
            "bindmount /usr/bin {d}/sub" => Refused("processes.rules[0]"),
            "tmpfs {d}/sub" => Refused("processes.rules[0]"),
            "usermount /usr/bin {d}/sub" => Refused("processes.rules[0]"),
        ];
    exec_rename: "a program that is renamed is judged by its new name",
        "processes: {rules: [{paths: ['{d}/tool'], action: Deny}]}", [
            "rename {d}/tool {d}/moved" => Done,
            "exec {d}/moved" => Done,
            "rename {d}/moved {d}/tool" => Done,
            "exec {d}/tool" => Refused("processes.rules[0]"),
        ];
}

//! What may be done to files.

use anyhow::Result;

use super::{Audited, Done, Killed, Refused, judged, judgements};
use crate::scenario::{rig::Rig, suite::Scenario};

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let owner = Scenario { name: "changing the owner alone is refused", run: file_chown };
    [JUDGEMENTS, &[owner]].concat()
}

/// Its hook takes structures by value, and no program can be attached to those before 6.1.
fn file_chown(rig: &mut Rig) -> Result<()> {
    let hooked = !rig.refuses() || rig.engine.mechanisms().kernel >= (6, 1);
    let comes = if hooked { Refused("files.rules[0]") } else { Done };
    let rules = "files: {rules: [{paths: ['{d}/f'], operations: [Chmod], action: Deny}]}";
    judged(
        rig,
        "shop/file-chown",
        rules,
        &[("chown {d}/f", comes), ("write {d}/f", Done), ("chown {d}/tool", Done)],
    )
}

judgements! {
    file_read: "reading alone is refused",
        "files: {rules: [{paths: ['{d}/f'], operations: [Read], action: Deny}]}", [
            "read {d}/f" => Refused("files.rules[0]"),
            "rdwr {d}/f" => Refused("files.rules[0]"),
            "write {d}/f" => Done,
            "stat {d}/f" => Done,
            "truncate {d}/f" => Done,
            "chmod {d}/f" => Done,
            "read {d}/sub/g" => Done,
            "unlink {d}/f" => Done,
        ];
    file_write: "writing alone is refused, however it is asked for",
        "files: {rules: [{paths: ['{d}/f'], operations: [Write], action: Deny}]}", [
            "write {d}/f" => Refused("files.rules[0]"),
            "rdwr {d}/f" => Refused("files.rules[0]"),
            "truncate {d}/f" => Refused("files.rules[0]"),
            "empty {d}/f" => Refused("files.rules[0]"),
            "read {d}/f" => Done,
            "chmod {d}/f" => Done,
        ];
    file_image: "a file of the image is refused once for each open",
        "files: {rules: [{paths: [/etc/secret], operations: [Read, Write], action: Deny}]}", [
            "read /etc/secret" => Refused("files.rules[0]"),
            "write /etc/secret" => Refused("files.rules[0]"),
            "rdwr /etc/secret" => Refused("files.rules[0]"),
            "read /etc/plain" => Done,
        ];
    file_create: "creating alone is refused, of every kind of file",
        "files: {rules: [{paths: ['{d}/sub/**'], operations: [Create], action: Deny}]}", [
            "create {d}/sub/new" => Refused("files.rules[0]"),
            "mkdir {d}/sub/new" => Refused("files.rules[0]"),
            "mkfifo {d}/sub/new" => Refused("files.rules[0]"),
            "symlink f {d}/sub/new" => Refused("files.rules[0]"),
            "bindunix {d}/sub/new" => Refused("files.rules[0]"),
            "link {d}/f {d}/sub/new" => Refused("files.rules[0]"),
            "rename {d}/f {d}/sub/new" => Refused("files.rules[0]"),
            "create {d}/new" => Done,
            "write {d}/sub/g" => Done,
            "unlink {d}/sub/g" => Done,
        ];
    file_delete: "deleting alone is refused",
        "files: {rules: [{paths: ['{d}/f', '{d}/sub/**', '{d}/sub'], operations: [Delete], action: Deny}]}", [
            "unlink {d}/f" => Refused("files.rules[0]"),
            "unlink {d}/sub/g" => Refused("files.rules[0]"),
            "rename {d}/tool {d}/f" => Refused("files.rules[0]"),
            "write {d}/f" => Done,
            "create {d}/sub/new" => Done,
            "unlink {d}/tool" => Done,
        ];
    file_rmdir: "removing a directory is deleting it",
        "files: {rules: [{paths: ['{d}/sub'], operations: [Delete], action: Deny}]}", [
            "unlink {d}/sub/g" => Done,
            "rmdir {d}/sub" => Refused("files.rules[0]"),
        ];
    file_rename: "renaming alone is refused, from a name and to it",
        "files: {rules: [{paths: ['{d}/f'], operations: [Rename], action: Deny}]}", [
            "rename {d}/f {d}/g" => Refused("files.rules[0]"),
            "rename {d}/tool {d}/f" => Refused("files.rules[0]"),
            "exchange {d}/tool {d}/f" => Refused("files.rules[0]"),
            "write {d}/f" => Done,
            "rename {d}/tool {d}/other" => Done,
        ];
    file_link: "linking alone is refused",
        "files: {rules: [{paths: ['{d}/f'], operations: [Link], action: Deny}]}", [
            "link {d}/f {d}/g" => Refused("files.rules[0]"),
            "linkfd {d}/f {d}/g" => Refused("files.rules[0]"),
            "link {d}/tool {d}/h" => Done,
            "rename {d}/f {d}/g" => Refused("files.rules[0]"),
        ];
    file_chmod: "changing permissions alone is refused",
        "files: {rules: [{paths: ['{d}/f', /etc/secret], operations: [Chmod], action: Deny}]}", [
            "chmod {d}/f" => Refused("files.rules[0]"),
            "fchmod {d}/f" => Refused("files.rules[0]"),
            "chmod /etc/secret" => Refused("files.rules[0]"),
            "write {d}/f" => Done,
            "chmod {d}/tool" => Done,
        ];
    file_map: "mapping as code alone is refused, at once and later",
        "files: {rules: [{paths: ['{d}/tool', /usr/bin/tool], operations: [ExecuteMap], action: Deny}]}", [
            "mapcode {d}/tool" => Refused("files.rules[0]"),
            "protect {d}/tool" => Refused("files.rules[0]"),
            "mapcode /usr/bin/tool" => Refused("files.rules[0]"),
            "map {d}/tool" => Done,
            "read {d}/tool" => Done,
            "mapcode {d}/f" => Done,
        ];
    file_below: "a directory's contents are protected and not the directory",
        "files: {rules: [{paths: ['{d}/sub/**'], operations: [Read], action: Deny}]}", [
            "read {d}/sub/g" => Refused("files.rules[0]"),
            "list {d}/sub" => Done,
            "read {d}/f" => Done,
        ];
    file_directory: "reading a directory itself is refused",
        "files: {rules: [{paths: ['{d}/sub'], operations: [Read], action: Deny}]}", [
            "list {d}/sub" => Refused("files.rules[0]"),
            "read {d}/sub/g" => Done,
        ];
    file_places: "files are protected in the volume and in the tmpfs",
        "files: {rules: [{paths: ['{v}/f', '{t}/f'], operations: [Read, Write], action: Deny}]}", [
            "read {v}/f" => Refused("files.rules[0]"),
            "write {t}/f" => Refused("files.rules[0]"),
            "read {v}/sub/g" => Done,
            "write {t}/sub/g" => Done,
        ];
    file_alias: "/var/run and /run are one, and a file is refused under both names",
        "files: {rules: [{paths: [/var/run/token], operations: [Read], action: Deny}]}", [
            "read /run/token" => Refused("files.rules[0]"),
            "read /var/run/token" => Refused("files.rules[0]"),
        ];
    file_symlink: "a symbolic link is no way round",
        "files: {rules: [{paths: [/etc/secret], operations: [Read], action: Deny}]}", [
            "read /etc/link" => Refused("files.rules[0]"),
            "symlink /etc/secret {t}/name" => Done,
            "read {t}/name" => Refused("files.rules[0]"),
        ];
    file_names: "other spellings of a path are no way round",
        "files: {rules: [{paths: [/etc/secret], operations: [Read], action: Deny}]}", [
            "read /etc/../etc/./secret" => Refused("files.rules[0]"),
            "read /proc/self/root/etc/secret" => Refused("files.rules[0]"),
            "chroot /etc /secret" => Refused("files.rules[0]"),
            "chroot /etc /plain" => Done,
        ];
    file_calls: "openat2, io_uring, and a descriptor for nothing that is opened again are no way round",
        "files: {rules: [{paths: ['{d}/f'], operations: [Read], action: Deny}]}", [
            "openat2 {d}/f" => Refused("files.rules[0]"),
            "openat2 {d}/sub/g" => Done,
            "reopen {d}/f" => Refused("files.rules[0]"),
            "reopen {d}/sub/g" => Done,
            "uring {d}/f" => Refused("files.rules[0]"),
            "uring {d}/f async" => Refused("files.rules[0]"),
            "uring {d}/sub/g" => Done,
            "uring {d}/sub/g async" => Done,
        ];
    file_handle: "a file opened by its handle is protected",
        "files: {rules: [{paths: ['{t}/f'], operations: [Read], action: Deny}]}", [
            "handle {t}/f /tmp" => Refused("files.rules[0]"),
            "handle {t}/sub/g /tmp" => Done,
        ];
    file_inside: "sendfile and copy_file_range read and write nothing that may not be opened",
        "files: {rules: [{paths: ['{t}/f'], operations: [Read], action: Deny}, {paths: ['{t}/sub/g'], operations: [Write], action: Deny}]}", [
            "sendfile {t}/f {t}/new" => Refused("files.rules[0]"),
            "copyrange {t}/f {t}/new" => Refused("files.rules[0]"),
            "sendfile {t}/tool {t}/sub/g" => Refused("files.rules[1]"),
            "copyrange {t}/tool {t}/sub/g" => Refused("files.rules[1]"),
            "sendfile {t}/tool {t}/new" => Done,
            "copyrange {t}/tool {t}/new" => Done,
        ];
    file_unless: "an executable is excepted, by the path that it was started by",
        "files: {rules: [{paths: [/etc/app/key], operations: [Read], action: Deny, unless: {executables: [/opt/app/server]}}]}", [
            "/opt/app/server: read /etc/app/key" => Done,
            "read /etc/app/key" => Refused("files.rules[0]"),
            "/usr/bin/other: read /etc/app/key" => Refused("files.rules[0]"),
        ];
    file_unless_copy: "a copy of an excepted executable is not excepted",
        "files: {rules: [{paths: ['{t}/f'], operations: [Read], action: Deny, unless: {executables: [/opt/app/server]}}]}", [
            "copy /opt/app/server {t}/server" => Done,
            "{t}/server: read {t}/f" => Refused("files.rules[0]"),
            "{v}/tool: read {t}/f" => Refused("files.rules[0]"),
            "/opt/app/server: read {t}/f" => Done,
        ];
    file_given: "a descriptor that an excepted program hands on is not given to another",
        "files: {rules: [{paths: [/etc/app/key], operations: [Read], action: Deny, unless: {executables: [/opt/app/server]}}]}", [
            "/opt/app/server: give /etc/app/key /usr/bin/other" => Refused("files.rules[0]"),
            "/opt/app/server: give /etc/plain /usr/bin/other" => Done,
            "/opt/app/server: give /etc/app/key /opt/app/server" => Done,
        ];
    file_parent: "the directory above a protected file keeps its name",
        "files: {rules: [{paths: ['{t}/sub/**'], operations: [Read], action: Deny}]}", [
            "rename {t}/sub {t}/moved" => Refused("files.rules[0]"),
            "exchange {t}/sub {t}/f" => Refused("files.rules[0]"),
            "rename {t}/sub/g {t}/moved" => Refused("files.rules[0]"),
            "link {t}/sub/g {t}/second" => Refused("files.rules[0]"),
            "rename {t}/f {t}/moved" => Done,
        ];
    file_mount: "no mount gives a protected file another path",
        "files: {rules: [{paths: ['{t}/f'], operations: [Read], action: Deny}]}", [
            "bindmount {t} {d}/sub" => Refused("files.rules[0]"),
            "usermount {t} {d}/sub" => Refused("files.rules[0]"),
            "tmpfs {d}/sub" => Refused("files.rules[0]"),
        ];
    file_detached: "a copy of a tree that is mounted nowhere shows no file",
        "files: {rules: [{paths: ['{t}/f'], operations: [Read], action: Deny}]}", [
            "opentree {t} f" => Refused("files.rules[0]"),
        ];
    file_socket: "connecting to a socket in the file system is reading and writing it",
        "files: {rules: [{paths: ['{t}/s', '{t}/d'], operations: [Write], action: Deny}]}", [
            "tounix stream {t}/s" => Refused("files.rules[0]"),
            "tounix dgram {t}/d" => Refused("files.rules[0]"),
            "tounix stream {t}/free" => Done,
            "tounix dgram {t}/free-too" => Done,
        ];
    file_glob: "stars in the paths of files match names and depths",
        "files: {rules: [{paths: ['{t}/*.key', '{t}/**/id'], operations: [Create, Read], action: Deny}]}", [
            "create {t}/a.key" => Refused("files.rules[0]"),
            "create {t}/sub/a.key" => Done,
            "create {t}/id" => Refused("files.rules[0]"),
            "create {t}/sub/id" => Refused("files.rules[0]"),
            "create {t}/key" => Done,
        ];
    file_audit: "a rule to audit lets an operation through and counts it",
        "files: {rules: [{paths: ['{d}/f'], operations: [Read, Write], action: Audit}]}", [
            "read {d}/f" => Audited("files.rules[0]"),
            "rdwr {d}/f" => Audited("files.rules[0]"),
            "chmod {d}/f" => Done,
        ];
    file_mode_audit: "a policy in Audit lets operations through, renames and mounts too",
        "mode: Audit, files: {rules: [{paths: ['{t}/sub/**'], operations: [Read, Delete], action: Kill}]}", [
            "read {t}/sub/g" => Audited("files.rules[0]"),
            "tmpfs {d}/sub" => Done,
            "unlink {t}/sub/g" => Audited("files.rules[0]"),
        ];
    file_kill: "who reads what it must not is killed and has read nothing",
        "files: {rules: [{paths: ['{d}/f'], operations: [Read, Delete], action: Kill}]}", [
            "read {d}/f" => Killed("files.rules[0]"),
            "unlink {d}/f" => Killed("files.rules[0]"),
            "write {d}/f" => Done,
        ];
    file_order: "the first rule that speaks of an operation on a file decides",
        "files: {rules: [{paths: ['{t}/sub/g'], operations: [Read], action: Allow}, {paths: ['{t}/**'], operations: [Read, Write], action: Deny}]}", [
            "read {t}/sub/g" => Done,
            "write {t}/sub/g" => Refused("files.rules[1]"),
            "read {t}/f" => Refused("files.rules[1]"),
        ];
    file_started: "to start a program is not to read it",
        "files: {rules: [{paths: ['{t}/tool', /usr/bin/tool], operations: [Read], action: Deny}]}", [
            "exec {t}/tool" => Done,
            "exec /usr/bin/tool" => Done,
            "read /usr/bin/tool" => Refused("files.rules[0]"),
        ];
}

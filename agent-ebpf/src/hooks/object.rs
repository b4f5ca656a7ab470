//! The object of system call programs: read, relocated to the running kernel's types, linked to maps.
//!
//! aya does the relocations; loading is done by hand ([`crate::abi::sys::bpf`]), as aya cannot load one and the same
//! program as an LSM program here and as `fmod_ret` there.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::Btf;
use aya::maps::MapData;
use aya_obj::generated::bpf_insn;
use tracing::info;

use super::HookError;
use crate::abi::sys::bpf::{self, LoadFailure, ProgramKind};

/// An object that knows the running kernel's types, but no maps yet.
pub(super) struct Object {
    parsed: aya_obj::Object,
    types: Arc<OwnedFd>,
    /// See [`with_cast`].
    cast: Option<(u32, u32)>,
}

/// A program without a kind.
struct Program {
    instructions: Vec<bpf_insn>,
    functions: Vec<u8>,
    function_record: u32,
}

/// Programs that are ready to be loaded.
pub(super) struct Programs {
    by_name: BTreeMap<String, Program>,
    /// See [`with_cast`].
    cast: Option<(u32, u32)>,
    license: CString,
    types: Arc<OwnedFd>,
    _maps: Vec<MapData>,
}

impl Object {
    /// Reads an object and relocates it. `cast`: the numbers of `bpf_rdonly_cast` and of `struct mount` among the kernel's
    /// types.
    pub(super) fn read(bytes: &[u8], kernel: &Btf, cast: Option<(u32, u32)>) -> Result<Self, HookError> {
        let failed = |what: &dyn std::fmt::Display| HookError::Object(what.to_string());
        let mut object = aya_obj::Object::parse(bytes).map_err(|e| failed(&e))?;
        let features = aya::features();
        let can = features.btf().ok_or_else(|| failed(&"this kernel takes no BTF"))?;
        let types = object
            .fixup_and_sanitize_btf(can)
            .map_err(|e| failed(&e))?
            .ok_or_else(|| failed(&"it holds no BTF"))?
            .to_bytes();
        let types = Arc::new(bpf::load_btf(&types).map_err(HookError::Types)?);
        object.relocate_btf(kernel).map_err(|e| failed(&e))?;
        // Of no use from here on, and large.
        (object.btf, object.btf_ext) = (None, None);
        Ok(Self { parsed: object, types, cast })
    }

    /// Links the programs to the maps that are pinned in a directory under their names.
    pub(super) fn link(&self, pins: &Path) -> Result<Programs, HookError> {
        let failed = |what: &dyn std::fmt::Display| HookError::Object(what.to_string());
        let mut object = self.parsed.clone();
        let definitions = std::mem::take(&mut object.maps);
        let mut maps = Vec::new();
        for (name, definition) in &definitions {
            let path = pins.join(name);
            let map = MapData::from_pin(&path).map_err(|source| HookError::Map { path, source })?;
            maps.push((name.as_str(), map, definition));
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object
            .relocate_maps(
                maps.iter().map(|(name, map, definition)| (*name, map.fd().as_fd().as_raw_fd(), *definition)),
                &text,
            )
            .map_err(|e| failed(&e))?;
        object.relocate_calls(&text).map_err(|e| failed(&e))?;
        object.sanitize_functions(aya::features());
        let mut programs = BTreeMap::new();
        for (name, program) in &object.programs {
            let function = object
                .functions
                .remove(&program.function_key())
                .ok_or_else(|| failed(&format!("program {name} has no code")))?;
            programs.insert(
                name.clone(),
                Program {
                    functions: function.func_info.func_info_bytes(),
                    function_record: u32::try_from(function.func_info_rec_size).map_err(|e| failed(&e))?,
                    instructions: function.instructions,
                },
            );
        }
        // The instructions name the maps by descriptors, which have to stay open.
        let maps = maps.into_iter().map(|(_, map, _)| map).collect();
        Ok(Programs {
            by_name: programs,
            cast: self.cast,
            license: object.license,
            types: Arc::clone(&self.types),
            _maps: maps,
        })
    }
}

impl Programs {
    /// Loads a program to be attached to a type of the kernel's BTF.
    pub(super) fn load(&self, name: &str, kind: ProgramKind, attach_to: u32) -> Result<OwnedFd, LoadFailure> {
        let Some(program) = self.by_name.get(name) else {
            let source = std::io::Error::other(format!("the object holds no program {name}"));
            return Err(LoadFailure { source, log: String::new() });
        };
        let load = |instructions: &[bpf_insn], explain| {
            bpf::load_program(&bpf::Program {
                name,
                kind,
                attach_to,
                instructions,
                license: &self.license,
                btf: self.types.as_fd(),
                functions: &program.functions,
                function_record: program.function_record,
                explain,
            })
        };
        if !program.instructions.iter().copied().any(is_cast) {
            return load(&program.instructions, true);
        }
        // What it serves is a shorter way, which a kernel that has the function may still not let this program take.
        match self.cast.map(|cast| load(&with_cast(&program.instructions, Some(cast)), false)) {
            Some(Ok(loaded)) => return Ok(loaded),
            Some(Err(error)) => info!(name, %error, "the kernel takes it without bpf_rdonly_cast only"),
            None => {}
        }
        load(&with_cast(&program.instructions, None), true)
    }
}

/// `HF_CALL_CAST` of `bpf/at_hook.h`: where `bpf_rdonly_cast` is called.
const CALL_CAST: i32 = 0x7fff_0001;
/// `HF_TYPE_OF_MOUNT`: the type that it is called for.
const TYPE_OF_MOUNT: i32 = 0x7fff_0002;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`: a call of a function of the kernel's, by its number in the kernel's types.
const KERNEL_FUNCTION: u8 = 2;
/// `BPF_ALU64 | BPF_MOV | BPF_K`, and the same of 32 bits.
const MOVE: u8 = 0xb7;
const MOVE_32: u8 = 0xb4;

fn is_cast(instruction: bpf_insn) -> bool {
    (instruction.code, instruction.src_reg(), instruction.imm) == (CALL, 0, CALL_CAST)
}

/// The instructions with the function of the first number called for the type of the second, or with 0 for what it would
/// give.
fn with_cast(instructions: &[bpf_insn], cast: Option<(u32, u32)>) -> Vec<bpf_insn> {
    let numbers =
        cast.and_then(|(function, mount)| Some((function.try_into().ok()?, mount.try_into().ok()?)));
    let mut instructions = instructions.to_vec();
    for instruction in &mut instructions {
        match numbers {
            Some((function, _)) if is_cast(*instruction) => {
                instruction.set_src_reg(KERNEL_FUNCTION);
                instruction.imm = function;
            }
            None if is_cast(*instruction) => (instruction.code, instruction.imm) = (MOVE, 0),
            Some((_, mount))
                if matches!(instruction.code, MOVE | MOVE_32) && instruction.imm == TYPE_OF_MOUNT =>
            {
                instruction.imm = mount;
            }
            _ => {}
        }
    }
    instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, imm: i32) -> bpf_insn {
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(0, 0), off: 0, imm }
    }

    #[test]
    fn the_call_is_of_the_kernels_function_or_gives_nothing() {
        let code = [instruction(CALL, 14), instruction(MOVE, TYPE_OF_MOUNT), instruction(CALL, CALL_CAST)];
        let seen = |code: &[bpf_insn]| -> Vec<(u8, u8, i32)> {
            code.iter()
                .map(|instruction| (instruction.code, instruction.src_reg(), instruction.imm))
                .collect()
        };
        let cast = with_cast(&code, Some((77, 5)));
        assert_eq!(seen(&cast), [(CALL, 0, 14), (MOVE, 0, 5), (CALL, KERNEL_FUNCTION, 77)]);
        let none = with_cast(&code, None);
        assert_eq!(seen(&none), [(CALL, 0, 14), (MOVE, 0, TYPE_OF_MOUNT), (MOVE, 0, 0)]);
    }
}

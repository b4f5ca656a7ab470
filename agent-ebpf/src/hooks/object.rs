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

use super::HookError;
use crate::abi::sys::bpf::{self, LoadFailure, ProgramKind};

/// An object that knows the running kernel's types, but no maps yet.
pub(super) struct Object {
    object: aya_obj::Object,
    types: Arc<OwnedFd>,
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
    license: CString,
    types: Arc<OwnedFd>,
    _maps: Vec<MapData>,
}

impl Object {
    /// Reads an object and relocates it.
    pub(super) fn read(bytes: &[u8], kernel: &Btf) -> Result<Self, HookError> {
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
        Ok(Self { object, types })
    }

    /// Links the programs to the maps that are pinned in a directory under their names.
    pub(super) fn link(&self, pins: &Path) -> Result<Programs, HookError> {
        let failed = |what: &dyn std::fmt::Display| HookError::Object(what.to_string());
        let mut object = self.object.clone();
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
        bpf::load_program(&bpf::Program {
            name,
            kind,
            attach_to,
            instructions: &program.instructions,
            license: &self.license,
            btf: self.types.as_fd(),
            functions: &program.functions,
            function_record: program.function_record,
        })
    }
}

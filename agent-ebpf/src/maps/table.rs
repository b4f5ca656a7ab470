//! Maps of each kind, as tables of rows.

use std::collections::HashMap;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap as BpfHash, LpmTrie, MapData, MapError as AyaError};

use super::MapError;
use crate::abi;

/// Reads and writes one map of the kernel as a table of rows.
pub trait Table<K, V> {
    /// The map's name.
    fn name(&self) -> &'static str;
    /// The most rows that it holds.
    fn capacity(&self) -> u32;
    /// Writes a row.
    ///
    /// # Errors
    ///
    /// When the map is full or the kernel refuses.
    fn write(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    /// Removes a row; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
    /// Reads one row.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn get(&self, key: &K) -> Result<Option<V>, MapError>;
    /// Reads all rows.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn read(&self) -> Result<HashMap<K, V>, MapError>;
}

pub(super) struct Meta {
    pub(super) name: &'static str,
    pub(super) capacity: u32,
}

impl Meta {
    fn failed(&self, source: AyaError) -> MapError {
        match &source {
            AyaError::SyscallError(error)
                if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
            {
                MapError::Full { map: self.name, capacity: self.capacity }
            }
            _ => MapError::Kernel { map: self.name, source },
        }
    }
}

/// A hash map.
pub struct Hash<K, V> {
    pub(super) meta: Meta,
    pub(super) map: BpfHash<MapData, K, V>,
}

impl<K: Pod + Eq + std::hash::Hash, V: Pod> Table<K, V> for Hash<K, V> {
    fn name(&self) -> &'static str {
        self.meta.name
    }
    fn capacity(&self) -> u32 {
        self.meta.capacity
    }
    fn write(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.map.insert(key, value, 0).map_err(|e| self.meta.failed(e))
    }
    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_fine(self.map.remove(key)).map_err(|e| self.meta.failed(e))
    }
    fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(AyaError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.meta.failed(error)),
        }
    }
    fn read(&self) -> Result<HashMap<K, V>, MapError> {
        collect(self.map.iter().map(|row| row.map_err(|e| self.meta.failed(e))))
    }
}

pub(super) fn absent_is_fine(result: Result<(), AyaError>) -> Result<(), AyaError> {
    match result {
        Err(AyaError::KeyNotFound) => Ok(()),
        Err(AyaError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Rows that vanish while a map is walked are left out by aya itself.
fn collect<K: Eq + std::hash::Hash, V>(
    rows: impl Iterator<Item = Result<(K, V), MapError>>,
) -> Result<HashMap<K, V>, MapError> {
    rows.collect()
}

/// A key that is a prefix length and the bytes after it.
pub trait PrefixKey: Copy + Eq + std::hash::Hash {
    /// The bytes.
    type Data: Pod;
    /// As the trie wants it.
    fn key(&self) -> Key<Self::Data>;
    /// Back from the trie.
    fn from_key(key: &Key<Self::Data>) -> Self;
}

impl PrefixKey for abi::CidrKey {
    type Data = abi::CidrData;
    fn key(&self) -> Key<Self::Data> {
        Key::new(self.prefixlen, abi::CidrData { space_be: self.space_be, addr: self.addr })
    }
    fn from_key(key: &Key<Self::Data>) -> Self {
        let data = key.data();
        Self { prefixlen: key.prefix_len(), space_be: data.space_be, addr: data.addr }
    }
}

impl PrefixKey for abi::VerdictKey {
    type Data = abi::VerdictData;
    fn key(&self) -> Key<Self::Data> {
        let Self { prefixlen, set_be, class_be, direction, proto, port_be } = *self;
        Key::new(prefixlen, abi::VerdictData { set_be, class_be, direction, proto, port_be })
    }
    fn from_key(key: &Key<Self::Data>) -> Self {
        let abi::VerdictData { set_be, class_be, direction, proto, port_be } = key.data();
        Self { prefixlen: key.prefix_len(), set_be, class_be, direction, proto, port_be }
    }
}

/// A trie of prefixes.
pub struct Trie<K: PrefixKey, V> {
    pub(super) meta: Meta,
    pub(super) map: LpmTrie<MapData, K::Data, V>,
}

impl<K: PrefixKey, V: Pod> Table<K, V> for Trie<K, V> {
    fn name(&self) -> &'static str {
        self.meta.name
    }
    fn capacity(&self) -> u32 {
        self.meta.capacity
    }
    fn write(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.map.insert(&key.key(), value, 0).map_err(|e| self.meta.failed(e))
    }
    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_fine(self.map.remove(&key.key())).map_err(|e| self.meta.failed(e))
    }
    /// A trie answers with the longest prefix, so that a row that is missing shows another's value.
    fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(&key.key(), 0) {
            Ok(value) => Ok(Some(value)),
            Err(AyaError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.meta.failed(error)),
        }
    }
    fn read(&self) -> Result<HashMap<K, V>, MapError> {
        collect(
            self.map.iter().map(|row| {
                row.map(|(key, value)| (K::from_key(&key), value)).map_err(|e| self.meta.failed(e))
            }),
        )
    }
}

/// The rows of automata: an array, of which only the elements mean something that some set uses.
pub struct Rows {
    pub(super) meta: Meta,
    pub(super) map: Array<MapData, abi::PathRow>,
}

impl Rows {
    /// Reads these elements; what lies beyond the end is left out.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn read_these(
        &self,
        elements: impl Iterator<Item = u32>,
    ) -> Result<HashMap<u32, abi::PathRow>, MapError> {
        let inside = elements.filter(|element| *element < self.meta.capacity);
        inside
            .map(|element| Ok((element, self.map.get(&element, 0).map_err(|e| self.meta.failed(e))?)))
            .collect()
    }
}

impl Table<u32, abi::PathRow> for Rows {
    fn name(&self) -> &'static str {
        self.meta.name
    }
    fn capacity(&self) -> u32 {
        self.meta.capacity
    }
    fn write(&mut self, key: &u32, value: &abi::PathRow) -> Result<(), MapError> {
        self.map.set(*key, value, 0).map_err(|e| self.meta.failed(e))
    }
    /// Nothing points to it any more: it stays as it is until it is used again.
    fn remove(&mut self, _: &u32) -> Result<(), MapError> {
        Ok(())
    }
    fn get(&self, key: &u32) -> Result<Option<abi::PathRow>, MapError> {
        self.map.get(key, 0).map(Some).map_err(|e| self.meta.failed(e))
    }
    fn read(&self) -> Result<HashMap<u32, abi::PathRow>, MapError> {
        self.read_these(0..self.meta.capacity)
    }
}

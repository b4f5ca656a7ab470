//! The maps beside the ring buffers of events.

use std::collections::HashMap;
use std::path::Path;

use aya::maps::{Array, Map, MapData};

use super::{Hash, MapError, Table, hash, typed};
use crate::abi;
use crate::abi::event::Bucket;

/// What is known of events that have no record.
pub struct EventMaps {
    buckets: Hash<abi::CounterKey, Bucket>,
    told: Hash<abi::CounterKey, u64>,
    lost: Array<MapData, u64>,
}

impl EventMaps {
    /// Opens what is pinned in a directory.
    ///
    /// # Errors
    ///
    /// When a map is missing, or has another shape than this agent's.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self {
            buckets: hash(dir, "event_buckets")?,
            told: hash(dir, "event_told")?,
            lost: typed(dir, "event_lost", 4, 8, Map::Array)?.0,
        })
    }

    /// The token buckets.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn buckets(&self) -> Result<HashMap<abi::CounterKey, Bucket>, MapError> {
        self.buckets.read()
    }

    /// How much of what was suppressed an agent has told, by key.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn told(&self) -> Result<HashMap<abi::CounterKey, u64>, MapError> {
        self.told.read()
    }

    /// Notes how much has been told.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_told(&mut self, key: &abi::CounterKey, total: u64) -> Result<(), MapError> {
        self.told.write(key, &total)
    }

    /// Forgets a key that nothing counts under any more.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn forget(&mut self, key: &abi::CounterKey) -> Result<(), MapError> {
        self.buckets.remove(key)?;
        self.told.remove(key)
    }

    /// One element of what was lost, or told of it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn lost(&self, element: u32) -> Result<u64, MapError> {
        self.lost.get(&element, 0).map_err(|source| MapError::Kernel { map: "event_lost", source })
    }

    /// Notes how much has been told.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_lost(&mut self, element: u32, total: u64) -> Result<(), MapError> {
        self.lost.set(element, total, 0).map_err(|source| MapError::Kernel { map: "event_lost", source })
    }
}

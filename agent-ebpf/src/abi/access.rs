//! Rules on programs, files and capabilities: paths as automata, and what is answered.

use super::event::Bytes;

/// Words of bits for beginnings of names (`HF_BEGINNING_WORDS`).
pub const BEGINNING_WORDS: usize = 8;

/// The bit for a name that begins with these two bytes, of which the second is 0 where there is none (`HF_BEGINNING`).
#[must_use]
pub fn beginning(first: u8, second: u8) -> usize {
    (usize::from(first) * 37 + usize::from(second)) % (64 * BEGINNING_WORDS)
}

/// Elements of `path_rows` (`HF_PATH_ROWS`).
pub const PATH_ROWS: u32 = 131_072;
/// Where those end that policies get: the rest is the canary's.
pub const POLICY_PATH_ROWS: u32 = PATH_ROWS - 2;
/// Cells of a row's element.
pub const ROW_CELLS: usize = 32;
/// The cells of a state before those of its columns: its outcome, and what can still come.
pub const CELL_NEXT: usize = 2;
/// Operations on files.
pub const OPERATIONS: usize = 8;
/// Bits of [`Access::flags`].
pub mod access_flags {
    /// It speaks of executables.
    pub const PROCESSES: u32 = 1;
    /// It speaks of files.
    pub const FILES: u32 = 2;
    /// It speaks of capabilities.
    pub const CAPABILITIES: u32 = 4;
    /// Some rule on paths refuses: what cannot be told is refused too.
    pub const REFUSES: u32 = 8;
}
/// Values of [`AccessKey::kind`].
pub mod access_kind {
    /// `a` = outcome of the executable; answers: in the image, not in it.
    pub const EXECUTABLE: u32 = 0;
    /// `a` = outcome of the file, `b` = of the executable; answers by operation.
    pub const FILE: u32 = 1;
    /// `a` = reach, `b` = outcome of the executable; one answer.
    pub const MOVE: u32 = 2;
    /// `a` = number of the capability; one answer.
    pub const CAPABILITY: u32 = 3;
    /// `a` = outcome of an executable that is a dynamic loader.
    pub const LOADER: u32 = 4;
}

mirrors! {
    /// A part of a state's row in an automaton.
    PathRow = "hf_path_row" {
        /// Outcome and reach, then the next state by column.
        cell: [u16; ROW_CELLS],
    }
    /// An automaton.
    PathAutomaton = "hf_automaton" {
        /// Where its rows begin; 0 = none.
        base: u32,
        /// Elements of a row.
        elements: u32,
        /// Elements of all rows.
        size: u32,
        /// By byte: the cell that says which state is next.
        column: Bytes<256>,
    }
    /// An access set.
    Access = "hf_access" {
        /// A bit for each that some policy denies.
        capabilities: u64,
        /// [`access_flags`].
        flags: u32,
        /// Counts what cannot be told.
        unknown_rule: u16,
        /// Zero.
        pad: u16,
        /// Of executables.
        executables: PathAutomaton,
        /// Of files.
        files: PathAutomaton,
    }
    /// What is asked of an access set.
    AccessKey = "hf_access_key" {
        /// Set.
        set: u32,
        /// See [`access_kind`].
        a: u16,
        /// See [`access_kind`].
        b: u16,
        /// [`access_kind`].
        kind: u32,
    }
    /// An answer of an access set.
    AccessAnswer = "hf_access_answer" {
        /// Rule of the action.
        rule: u16,
        /// Rule of the other.
        would_rule: u16,
        /// `enum hf_action`, of the Enforce policies.
        action: u8,
        /// Of the Audit policies, where stricter still.
        would_action: u8,
        /// Zero.
        pad: [u8; 2],
    }
    /// The answers under a key.
    AccessRow = "hf_access_row" {
        /// By operation, or as the key's kind says.
        answer: [AccessAnswer; OPERATIONS],
    }
    /// Of which paths no rule on files speaks, by how one of their first two names begins: see [`beginning`]. Zeros say
    /// nothing.
    Elsewhere = "hf_elsewhere" {
        /// A bit for each beginning that no path has as its first name's of which a rule speaks.
        first: [u64; BEGINNING_WORDS],
        /// And as its second name's.
        second: [u64; BEGINNING_WORDS],
    }
}

impl PathAutomaton {
    /// The elements of its rows.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u32> {
        if self.base == 0 { 0..0 } else { self.base..self.base.saturating_add(self.size) }
    }
}

/// The bit for this name.
#[must_use]
pub fn beginning_of(name: &[u8]) -> usize {
    let byte = |place: usize| name.get(place).copied().unwrap_or(0);
    beginning(byte(0), byte(1))
}

impl Elsewhere {
    /// Says of every path that no rule speaks of it.
    pub const EVERYTHING: Self =
        Self { first: [u64::MAX; BEGINNING_WORDS], second: [u64::MAX; BEGINNING_WORDS] };

    /// What both say.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let mine = self.first.iter_mut().chain(&mut self.second);
        mine.zip(other.first.iter().chain(&other.second)).for_each(|(mine, other)| *mine &= other);
        self
    }
}

/// Takes the bit away from [`Elsewhere::first`] or [`Elsewhere::second`] of a beginning that some rule speaks of.
pub fn strike(words: &mut [u64; BEGINNING_WORDS], beginning: usize) {
    words[beginning / 64] &= !(1 << (beginning % 64));
}

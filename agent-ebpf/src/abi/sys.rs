//! Raw bpf(2), where aya has no call for it.

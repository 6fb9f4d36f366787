//! Containers: a sandbox with a name and a record.

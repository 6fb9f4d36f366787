//! What this machine can do.
//!
//! May touch: the kernel, by asking. Knows nothing of what is printed.

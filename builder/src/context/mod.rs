//! The build context: the folder that COPY and ADD take files from.
pub mod ignore;
pub mod path_pattern;
pub mod pattern;

//! What the `assay` command is made of.
//!
//! [`main`] reads the arguments and calls one of the commands; a command says how it ended by an
//! [`outcome::Outcome`], which is the exit code, or by an [`outcome::Fault`], one line for the user.
#![forbid(unsafe_code)]

mod app;
mod assets;
pub mod calibration;
mod commands;
mod config;
pub mod demo;
mod files;
mod history;
mod in_order;
pub mod local;
mod networks;
pub mod outcome;
mod past;
mod roles;
pub mod self_audit;
mod terminal;
mod tree_file;

pub use app::main;

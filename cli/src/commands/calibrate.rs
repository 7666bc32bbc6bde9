//! `assay calibrate`: how far honest runs and cheats are from the thresholds, on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use assay_commitments::rows::Profile;
use clap::ValueEnum;
use serde_json::Value;

use crate::calibration::{self, Calibration, Plan, Subject};
use crate::files::make_folder;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Paint, Progress, complain, print, print_json};

mod constants;
mod plot;
mod text;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How the runtime rounds; what the folder is served in if not given
    #[arg(long, value_name = "P", value_parser = parse_profile)]
    profile: Option<Profile>,
    /// What the model runs on
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Tokens that every honest run generates
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Prompts, each answered greedily and sampled
    #[arg(long, value_name = "N", default_value_t = calibration::PROMPTS, value_parser = parse_prompts)]
    prompts: usize,
    /// Most cells of a run that are compared: fewer for a large model
    #[arg(long, value_name = "N", default_value_t = u32::MAX, hide_default_value = true, value_parser = clap::value_parser!(u32).range(1..))]
    cells: u32,
    /// Folder for calibration.json, margins.svg and profile.toml
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What a model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    Profile::from_name(name).ok_or_else(|| {
        let known = Profile::ALL.map(Profile::name);
        format!("the profiles are {}", known.join(", "))
    })
}

fn parse_prompts(number: &str) -> Result<usize, String> {
    let most = calibration::PROMPTS;
    number.parse().ok().filter(|number| (1..=most).contains(number)).ok_or_else(|| format!("1 to {most}"))
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let device = match args.device {
        Device::Cpu => assay_llm_runtime::Device::CPU,
        Device::Cuda if cfg!(feature = "cuda") => assay_llm_runtime::Device::cuda(0)?,
        Device::Cuda => {
            return Err(Fault::usage("this build of assay runs models on the CPU only: use --device cpu"));
        }
    };
    let subject = Subject::load(&args.folder, args.profile)?.on(&device)?;
    if let Some(out) = &args.out {
        make_folder(out)?;
    }
    let cells = args.cells as usize;
    let plan = Plan { prompts: args.prompts, ..Plan::full(&subject, args.tokens, cells) };
    let progress = Progress::new("measuring");
    let found = calibration::measure(&subject, &plan, &mut |done, total| progress.tell(done as u64, total as u64))?;
    drop(progress);

    if let Some(out) = &args.out {
        write(out, &found, subject.checkpoint.profile)?;
    }
    if args.json {
        print_json(&json(&found)?)?;
    } else {
        print(&text::text(&found, Paint::stdout()))?;
    }
    let (worst, profile) = (found.honest_max, &found.profile);
    if worst >= 1.0 {
        complain(
            "error",
            &format!(
                "an honest run reaches {worst:.2} of a threshold: under profile {profile} this model would be rejected on this machine"
            ),
        );
        return Ok(Outcome::Rejected);
    }
    Ok(Outcome::Done)
}

fn json(found: &Calibration) -> Result<Value, Fault> {
    serde_json::to_value(found).map_err(|error| Fault::own(format!("the figures cannot be written down: {error}")))
}

/// The document with a line for every entry of its lists.
fn lines(document: &Value) -> String {
    let line = |(key, value): (&String, &Value)| match value {
        Value::Array(entries) => {
            let entries: Vec<String> = entries.iter().map(Value::to_string).collect();
            format!("\"{key}\": [\n{}\n]", entries.join(",\n"))
        }
        other => format!("\"{key}\": {other}"),
    };
    let lines: Vec<String> = document.as_object().into_iter().flatten().map(line).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Writes the figures, what they look like, and the constants that they speak for.
fn write(out: &Path, found: &Calibration, profile: Profile) -> Result<(), Fault> {
    let files = [
        ("calibration.json", lines(&json(found)?)),
        ("margins.svg", plot::svg(found)),
        ("profile.toml", constants::toml(found, profile)),
    ];
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).map_err(|error| unwritable(&path, &error))?;
    }
    Ok(())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::usage(format!("{}: cannot be written to: {error}", path.display()))
}

//! What was measured, as a table and as JSON.

use std::fmt::{self, Display, Formatter};
use std::time::Instant;

use serde_json::{Map, Value, json};

/// What one implementation took. Less is better for every figure.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    name: String,
    /// Named with their unit.
    figures: Vec<(String, f64)>,
    facts: Map<String, Value>,
}

impl Measurement {
    /// Nothing measured yet.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), figures: Vec::new(), facts: Map::new() }
    }

    /// With one more figure.
    pub(crate) fn figure(mut self, name: impl Into<String>, value: f64) -> Self {
        self.figures.push((name.into(), value));
        self
    }

    /// With one more figure, in bytes.
    pub(crate) fn bytes(self, name: &str, count: usize) -> Self {
        self.figure(name, u32::try_from(count).map_or(f64::INFINITY, f64::from))
    }

    /// With something to know about it.
    pub(crate) fn fact(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// One measurement of several, each with its number of threads.
    pub(crate) fn by_threads(runs: Vec<(usize, Self)>) -> Self {
        let mut all = Self::new("");
        for (threads, run) in runs {
            all.name = run.name;
            all.figures
                .extend(run.figures.into_iter().map(|(name, value)| (format!("{name}_threads_{threads}"), value)));
            all.facts.extend(run.facts);
        }
        all
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(self.name));
        object.extend(self.figures.iter().map(|(name, value)| (name.clone(), json!(value))));
        object.extend(self.facts.clone());
        Value::Object(object)
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| figure == name).map(|&(_, value)| value)
    }

    /// This one's figures as multiples of the other's.
    fn ratios(&self, other: &Self) -> Value {
        let ratio = |(name, value): &(String, f64)| Some((name.clone(), json!(value / other.get(name)?)));
        Value::Object(self.figures.iter().filter_map(ratio).collect())
    }
}

/// Ours beside its peers.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    ours: Measurement,
    peers: Vec<Measurement>,
}

impl Report {
    /// Ours beside its peers.
    pub(crate) fn new(ours: Measurement, peers: Vec<Measurement>) -> Self {
        Self { ours, peers }
    }

    /// All of it. Ratios are ours by the peer's: below one, ours is better.
    pub(crate) fn json(&self) -> Value {
        let ratios = self.peers.iter().map(|peer| (peer.name.clone(), self.ours.ratios(peer)));
        json!({
            "peer_target_features": target_features(),
            "ours": self.ours.json(),
            "peers": self.peers.iter().map(Measurement::json).collect::<Vec<_>>(),
            "ratios": ratios.collect::<Map<_, _>>(),
        })
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let all = || std::iter::once(&self.ours).chain(&self.peers);
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in all().flat_map(|measurement| &measurement.figures) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        let first = all().map(|measurement| measurement.name.len()).max().unwrap_or(0);
        write!(out, "{:first$}", "")?;
        columns.iter().try_for_each(|name| write!(out, "  {name:>10}"))?;
        writeln!(out)?;
        for measurement in all() {
            write!(out, "{:first$}", measurement.name)?;
            for name in &columns {
                let width = name.len().max(10);
                match measurement.get(name) {
                    Some(value) if value >= 1000.0 => write!(out, "  {value:>width$.0}")?,
                    Some(value) => write!(out, "  {value:>width$.3}")?,
                    None => write!(out, "  {:>width$}", "-")?,
                }
            }
            writeln!(out)?;
        }
        for measurement in all().filter(|measurement| !measurement.facts.is_empty()) {
            writeln!(out, "{}: {}", measurement.name, Value::Object(measurement.facts.clone()))?;
        }
        writeln!(out, "peer_target_features: {}", target_features().join(" "))
    }
}

/// The vector instructions that everything here was compiled for.
fn target_features() -> Vec<&'static str> {
    let candidates = [
        ("sse2", cfg!(target_feature = "sse2")),
        ("bmi2", cfg!(target_feature = "bmi2")),
        ("avx2", cfg!(target_feature = "avx2")),
        ("avx512f", cfg!(target_feature = "avx512f")),
        ("avx512ifma", cfg!(target_feature = "avx512ifma")),
        ("neon", cfg!(target_feature = "neon")),
    ];
    candidates.into_iter().filter(|&(_, enabled)| enabled).map(|(name, _)| name).collect()
}

/// What some work makes, and the seconds it takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let made = work();
    (made, start.elapsed().as_secs_f64())
}

/// The fewest seconds of several runs, each on an input of its own, whose making does not count.
pub(crate) fn best_of<I, T>(runs: u32, mut input: impl FnMut() -> I, mut work: impl FnMut(I) -> T) -> f64 {
    let run = |_| {
        let input = input();
        timed(|| work(input)).1
    };
    (0..runs.max(1)).map(run).fold(f64::INFINITY, f64::min)
}

/// Forgets the largest memory so far, where the system can.
pub(crate) fn reset_peak_memory() {
    // Not to be had elsewhere than on Linux; the peak is then that of the whole run.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory since the last reset, in MiB.
pub(crate) fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

//! What was measured, as a table and as JSON.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

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

    /// With a time on the clock and, as a second figure, on all threads together; in units of which
    /// `scale` make a second.
    pub(crate) fn time(self, name: &str, unit: &str, scale: f64, seconds: Seconds) -> Self {
        let measurement = self.figure(format!("{name}_{unit}"), scale * seconds.wall);
        let cpu = seconds.cpu.into_iter();
        cpu.fold(measurement, |measurement, cpu| measurement.figure(format!("{name}_cpu_{unit}"), scale * cpu))
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

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds {
    /// On the clock.
    pub(crate) wall: f64,
    /// On all threads, where the system says; other load on the machine lengthens it less.
    pub(crate) cpu: Option<f64>,
}

impl Seconds {
    /// Of two runs, the less of each.
    fn best(self, other: Self) -> Self {
        let cpu = self.cpu.zip(other.cpu).map(|(one, other)| one.min(other));
        Self { wall: self.wall.min(other.wall), cpu }
    }
}

/// The best of the runs so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Best(Option<Seconds>);

impl Best {
    /// Runs some work once more.
    pub(crate) fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let made = work();
        let wall = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds().zip(cpu).map(|(end, start)| end - start);
        let seconds = Seconds { wall, cpu };
        self.0 = Some(self.0.map_or(seconds, |best| best.best(seconds)));
        made
    }

    /// The best, if there was a run.
    pub(crate) fn seconds(self) -> Seconds {
        self.0.unwrap_or(Seconds { wall: f64::INFINITY, cpu: None })
    }
}

/// The best of several runs, each on an input of its own, whose making does not count.
pub(crate) fn best_of<I, T>(runs: u32, mut input: impl FnMut() -> I, mut work: impl FnMut(I) -> T) -> Seconds {
    let mut best = Best::default();
    for _ in 0..runs.max(1) {
        let input = input();
        // What was made is dropped after the clock stops.
        drop(best.run(|| work(input)));
    }
    best.seconds()
}

/// What all threads together have run for.
fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0_u64;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let counts = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += counts.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds).as_secs_f64())
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

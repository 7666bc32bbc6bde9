//! What was measured, for programs and for people.

use assay_llm_runtime::synthetic::Numbers;
use serde_json::{Map, Value, json};

use super::shape::Shape;
use crate::commands::model::peak_memory;
use crate::outcome::{CommandResult, Outcome};
use crate::terminal::{Listing, Paint, bytes, print, print_json, seconds, table};

/// What was measured. An array of objects is a table.
pub(super) struct Figures(Map<String, Value>);

impl Figures {
    pub(super) fn new(what: &str) -> Self {
        let mut figures = Self(Map::new());
        figures.set("what", what);
        figures.set("threads", rayon::current_num_threads());
        figures
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    pub(super) fn shape(&mut self, shape: Shape, numbers: &Numbers) {
        self.set("shape", super::name(&shape));
        self.set("layers", numbers.layers);
        self.set("vocabulary", numbers.vocab_size);
    }

    /// Of so many a second, how many there could be at most.
    pub(super) fn rate(&mut self, rate: f64, ceiling: f64, unit: &str) {
        self.set("rate", rate);
        self.set("unit", unit);
        self.set("ceiling", ceiling);
        self.set("ratio_to_ceiling", rate / ceiling);
    }

    pub(super) fn tell(mut self, as_json: bool) -> CommandResult {
        if let Some(peak) = peak_memory() {
            self.set("peak_rss_bytes", peak);
        }
        if as_json {
            print_json(&Value::Object(self.0))?;
            return Ok(Outcome::Done);
        }
        let paint = Paint::stdout();
        let unit = self.0.get("unit").and_then(Value::as_str).unwrap_or_default();
        let (mut listing, mut tables) = (Listing::default(), String::new());
        for (key, value) in &self.0 {
            match rows(value) {
                Some(rows) => {
                    tables.push('\n');
                    tables.push_str(&as_table(rows, unit, paint));
                }
                None if key == "unit" => {}
                None => listing.line(key, shown(key, value, unit)),
            }
        }
        print(&(listing.render(paint) + &tables))?;
        Ok(Outcome::Done)
    }
}

fn rows(value: &Value) -> Option<&[Value]> {
    value.as_array().map(Vec::as_slice).filter(|rows| rows.first().is_some_and(Value::is_object))
}

fn as_table(rows: &[Value], unit: &str, paint: Paint) -> String {
    let head: Vec<&str> =
        rows.first().and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    let cells = |row: &Value| head.iter().map(|key| shown(key, row.get(key).unwrap_or(&json!(null)), unit)).collect();
    table(&head, &rows.iter().map(cells).collect::<Vec<_>>(), paint)
}

fn shown(key: &str, value: &Value, unit: &str) -> String {
    match (key, value.as_f64()) {
        (_, Some(value)) if key.ends_with("seconds") && value < 1e-3 => format!("{:.0} us", 1e6 * value),
        (_, Some(value)) if key.ends_with("seconds") => seconds(value),
        ("rate" | "ceiling", Some(value)) if value >= 1e6 => format!("{:.1} M {unit}", value / 1e6),
        ("rate" | "ceiling", Some(value)) => format!("{value:.2} {unit}"),
        ("ratio_to_ceiling" | "gain", Some(value)) => format!("{value:.2}"),
        (_, Some(value)) if key.ends_with("_ms") => format!("{value:.2} ms"),
        ("bytes_per_second", Some(value)) => format!("{:.1} GB/s", value / 1e9),
        (_, Some(_)) if key.contains("bytes") => bytes(value.as_u64().unwrap_or(0)),
        (_, Some(value)) if key.ends_with("_percent") => format!("{value:.2} %"),
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

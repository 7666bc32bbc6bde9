//! What goes to the terminal, or to whatever stands in its place.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::outcome::Fault;

/// Writes to standard output at once. A reader that went away, as `head` does, is no error: it breaks,
/// and whoever has more to say may stop.
pub(crate) fn write(text: &str) -> Result<ControlFlow<()>, Fault> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Fault::usage(format!("standard output cannot be written to: {error}"))),
    }
}

/// Writes all there is to say.
pub(crate) fn print(text: &str) -> Result<(), Fault> {
    write(text).map(|_| ())
}

/// Writes a JSON document.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Fault> {
    print(&format!("{value}\n"))
}

/// Writes a line to standard error. When that is gone too, nobody is left to tell.
pub(crate) fn complain(kind: &str, line: &dyn Display) {
    let paint = Paint::new(&io::stderr());
    let kind = if kind == "error" { paint.red(&format!("{kind}:")) } else { paint.yellow(&format!("{kind}:")) };
    let _ = writeln!(io::stderr(), "{kind} {line}");
}

/// Whether standard error is a terminal, for what only a person wants to see.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Colours, on a terminal whose user has not asked for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    fn new(stream: &impl IsTerminal) -> Self {
        Self { on: stream.is_terminal() && is_colour_wanted() }
    }

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self::new(&io::stdout())
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }
}

/// Whether colours are wanted where they can be shown.
pub(crate) fn is_colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Progress of work that takes longer than people wait, on a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    label: &'static str,
    /// What is counted.
    unit: Unit,
    begin: Instant,
    /// What was done before this began.
    before: u64,
    bar: Mutex<Option<ProgressBar>>,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    Steps,
    Weights,
}

/// Work below this is over before a bar would be read.
const PATIENCE: Duration = Duration::from_secs(2);

impl Progress {
    /// Of a few steps.
    pub(crate) fn new(label: &'static str) -> Self {
        Self::of(label, Unit::Steps, 0)
    }

    /// Of weights, some of which an earlier run has done.
    pub(crate) fn of_weights(label: &'static str, before: u64) -> Self {
        Self::of(label, Unit::Weights, before)
    }

    fn of(label: &'static str, unit: Unit, before: u64) -> Self {
        Self { label, unit, begin: Instant::now(), before, bar: Mutex::new(None) }
    }

    /// Takes note that `done` of `total` are done, whatever thread tells it.
    pub(crate) fn tell(&self, done: u64, total: u64) {
        let elapsed = self.begin.elapsed();
        // A bar is as good after a panic as before it.
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.is_none() && is_watched() && elapsed > PATIENCE {
            *bar = Some(self.start_bar(total));
        }
        if let Some(bar) = bar.as_ref() {
            // indicatif's own estimate takes what was done before the bar was shown for instant.
            bar.set_position(done);
            bar.set_message(self.message(done, total, elapsed.as_secs_f64()));
            if done >= total {
                bar.finish_and_clear();
            }
        }
    }

    /// Does what writes to the terminal beside the bar.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    fn message(&self, done: u64, total: u64, elapsed: f64) -> String {
        let by_this_run = done.saturating_sub(self.before).max(1) as f64;
        let rate = by_this_run / elapsed.max(1e-3);
        let left = seconds(total.saturating_sub(done) as f64 / rate);
        match self.unit {
            Unit::Steps => format!("{done}/{total}, {left} left"),
            Unit::Weights => {
                let [done, total] = [done, total].map(|count| count as f64 / 1e9);
                format!("{done:.2}/{total:.2} G weights, {:.1} M/s, {left} left", rate / 1e6)
            }
        }
    }

    fn start_bar(&self, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_prefix(self.label)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get_mut().unwrap_or_else(PoisonError::into_inner) {
            bar.finish_and_clear();
        }
    }
}

/// Lines of a name and a value, the values aligned.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    lines: Vec<(String, String)>,
}

impl Listing {
    pub(crate) fn line(&mut self, name: &str, value: impl Display) {
        self.lines.push((name.to_owned(), value.to_string()));
    }

    pub(crate) fn render(&self, paint: Paint) -> String {
        let width = self.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| format!("{}  {value}\n", paint.dim(&format!("{name:width$}")));
        self.lines.iter().map(line).collect()
    }
}

/// A table: a head, rows, all but the first column to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let aligned = cells.iter().enumerate().map(|(column, cell)| match (column, width(column)) {
            (0, width) => format!("{cell:width$}"),
            (_, width) => format!("{cell:>width$}"),
        });
        aligned.collect::<Vec<_>>().join("  ")
    };
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = format!("{}\n", paint.bold(line(&head).trim_end()));
    for row in rows {
        text.push_str(line(row).trim_end());
        text.push('\n');
    }
    text
}

/// A count of bytes for people.
#[expect(clippy::cast_precision_loss, reason = "shown to one decimal")]
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} KB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A count with its thousands apart.
pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span of time for people.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.0995 => format!("{:.1} ms", seconds * 1e3),
        ..0.9995 => format!("{:.0} ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0),
    }
}

/// Text from outside on one line, control characters made visible, so that no file can play with the
/// terminal.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.extend(character.escape_default()),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12, 4_096, 2_500_000].map(bytes), ["12 B", "4.1 KB", "2.5 MB"]);
        assert_eq!([0.0124, 0.5, 3.21, 125.0].map(seconds), ["12.4 ms", "500 ms", "3.2 s", "2 min 05 s"]);
    }

    #[test]
    fn progress_tells_the_rate_and_what_is_left() {
        let weights = Progress::of_weights("", 10_000_000_000);
        let told = weights.message(11_000_000_000, 70_000_000_000, 50.0);
        assert_eq!(told, "11.00/70.00 G weights, 20.0 M/s, 49 min 10 s left");
        assert_eq!(Progress::new("").message(1, 4, 10.0), "1/4, 30.0 s left");
    }

    #[test]
    fn a_quoted_text_is_one_line_without_control_characters() {
        assert_eq!(quoted("a \"b\"\n\x1b[31m é"), "\"a \\\"b\\\"\\n\\u{1b}[31m é\"");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["x".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["a", "n"], &rows, Paint { on: false }), "a      n\nx      1\nlong  22\n");
    }
}

//! Chat templates with a meter: what a template makes in memory is counted while it runs.
//!
//! The template engine counts instructions, but one instruction may double a string, and twenty of them
//! make a megabyte out of a letter. So a template is compiled here, and the instructions, filters and
//! methods that make something of a size of their operands' are exchanged for ones that first add that
//! size to a total. Beyond [`MAX_MADE`] bytes rendering ends.
//!
//! What holds, for any template of at most 64 KiB and any messages within their own bounds: strings and
//! lists made while rendering take at most [`MAX_MADE`] bytes and what the last step adds, a small
//! multiple of it; text that stands in the template itself is copied into captured blocks at most
//! [`MAX_RAW`] bytes in all; every other value is of constant size, and there are no more of them than
//! instructions. Values nested deeply are walked recursively, no deeper than instructions can nest them:
//! the stack on which that happens is dimensioned for it. Comparing two values adds the size of both as
//! text, since values that share parts may be walked once for each way to them. What cannot be metered is
//! refused: splats, computed dictionaries, `loop.changed`, `tojson` with an indent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Vm, WhitespaceConfig, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context, filters};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::num::long;

/// Most instructions of a template, those aside that take no fuel.
const FUEL: u64 = 1 << 19;
/// Most calls of macros within each other.
const RECURSION: usize = 64;
/// Most bytes of strings and lists made while rendering.
const MAX_MADE: u64 = 1 << 28;
/// Most bytes of the template's own text that its instructions can print.
const MAX_RAW: u64 = 1 << 30;
/// The stack for rendering: half a kilobyte for each level that [`FUEL`] could nest. Pages that are not
/// touched take no memory.
const STACK_BYTES: usize = 1 << 28;
/// What a value in a list counts for.
const ELEMENT_BYTES: u64 = 32;
/// Most parts of a value that is walked.
const MAX_PARTS: usize = 1 << 20;
/// Most values inside each other of a value that is walked.
const MAX_DEPTH: usize = 1 << 16;
/// The name under which the engine knows a template.
const NAME: &str = "chat";

/// Bytes made so far in a rendering.
#[derive(Debug, Default)]
struct Made(AtomicU64);

impl Object for Made {}

/// Adds to what has been made.
fn charge(state: &State<'_, '_>, bytes: u64) -> Result<(), Error> {
    let made = state.get_or_set_temp_object("metered", Made::default);
    let bytes = bytes.min(MAX_MADE.saturating_add(1));
    let before = made.0.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > MAX_MADE { Err(too_much()) } else { Ok(()) }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} is not supported in a chat template"))
}

fn too_much() -> Error {
    Error::new(ErrorKind::InvalidOperation, "the template makes too much in memory")
}

/// Counts what is written, up to a bound.
struct Counter(u64);

impl std::fmt::Write for Counter {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = self.0.saturating_add(long(text.len()));
        if self.0 > MAX_MADE { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// Bytes that a value takes as text, about, or more than may be made: it has too many parts, or is nested too
/// deeply, to be walked by whoever compares or prints it. A value may hold itself, so what walks it here keeps
/// its own account and needs no stack.
fn text_size(value: &Value) -> u64 {
    let mut size = 0_u64;
    let mut parts = 0_usize;
    let mut waiting = vec![(value.clone(), 0_usize)];
    while let Some((value, depth)) = waiting.pop() {
        size = size.saturating_add(match value.as_str() {
            Some(text) => long(text.len()),
            None => ELEMENT_BYTES,
        });
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            for key in value.try_iter().into_iter().flatten() {
                parts = parts.saturating_add(1);
                if parts > MAX_PARTS || depth >= MAX_DEPTH || size > MAX_MADE {
                    return MAX_MADE.saturating_add(1);
                }
                if value.kind() == ValueKind::Map
                    && let Ok(element) = value.get_item(&key)
                {
                    waiting.push((element, depth.saturating_add(1)));
                }
                waiting.push((key, depth.saturating_add(1)));
            }
        } else if value.kind() != ValueKind::String {
            // Numbers, and objects of the engine that hold nothing of the template's.
            let mut counter = Counter(0);
            let printed = write!(counter, "{value}");
            size = size.saturating_add(if printed.is_ok() { counter.0 } else { MAX_MADE });
        }
    }
    size
}

/// Bytes of a value itself, what it shares with others left out.
fn own_size(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => long(text.len()),
        None => value.len().map_or(ELEMENT_BYTES, |length| long(length).saturating_mul(ELEMENT_BYTES)),
    }
}

/// Bytes of a value that has just been made, strings in a list with it.
fn made_size(value: &Value) -> u64 {
    let strings = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => value.try_iter().ok(),
        _ => None,
    };
    strings
        .into_iter()
        .flatten()
        .filter_map(|element| element.as_str().map(|text| long(text.len())))
        .fold(own_size(value), u64::saturating_add)
}

/// Something that the plain engine computes.
fn plainly(expression: &str, operands: Value) -> Result<Value, Error> {
    Environment::empty().compile_expression(expression)?.eval(operands)
}

fn add(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, own_size(a).saturating_add(own_size(b)))?;
    plainly("a + b", context! { a, b })
}

fn multiply(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    // A number counts for what it says, for it may be the one that says how often.
    let factor = |value: &Value| match value.kind() {
        ValueKind::Number => value.as_usize().map_or(1, long),
        _ => own_size(value),
    };
    let numbers = a.kind() == ValueKind::Number && b.kind() == ValueKind::Number;
    charge(state, if numbers { 0 } else { factor(a).saturating_mul(factor(b)) })?;
    plainly("a * b", context! { a, b })
}

fn concatenate(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, text_size(a).saturating_add(text_size(b)))?;
    Ok(Value::from(format!("{a}{b}")))
}

fn slice(state: &State<'_, '_>, a: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    charge(state, own_size(a))?;
    // The engine breaks off when it reads an empty text backwards.
    if a.len() == Some(0) {
        return Ok(a.clone());
    }
    plainly("a[start:stop:step]", context! { a, start, stop, step })
}

/// A comparison by the plain engine, after a charge for what it may walk.
fn compare(state: &State<'_, '_>, expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, text_size(a).saturating_add(text_size(b)))?;
    plainly(expression, context! { a, b })
}

/// The comparisons: the name of the exchanged instruction, what it computes, and the tests that do the same.
const COMPARISONS: [(&str, &str, &[&str]); 7] = [
    ("metered_eq", "a == b", &["eq", "equalto", "=="]),
    ("metered_ne", "a != b", &["ne", "!="]),
    ("metered_lt", "a < b", &["lt", "lessthan", "<"]),
    ("metered_le", "a <= b", &["le", "<="]),
    ("metered_gt", "a > b", &["gt", "greaterthan", ">"]),
    ("metered_ge", "a >= b", &["ge", ">="]),
    ("metered_in", "a in b", &["in"]),
];

/// What a call may make that the sizes of its arguments do not show: one of them for each element, or
/// character, of another.
fn multiplied(name: &str, args: &[Value]) -> u64 {
    let count = |place: usize| args.get(place).map_or(0, |value| long(value.len().unwrap_or(0)));
    let text = |place: usize| args.get(place).map_or(0, text_size);
    match name {
        "replace" => count(0).saturating_add(1).saturating_mul(text(2)),
        // The filter's list comes first, the method's separator.
        "join" => count(0).saturating_mul(text(1)).max(text(0).saturating_mul(count(1))),
        "tojson" => text(0).saturating_mul(8),
        _ => 0,
    }
}

/// JSON as Python's `json.dumps` spaces it, for which templates are written: a space after commas and
/// colons, and no character escaped that JSON allows. The engine's own filter has neither.
fn to_json(value: &Value) -> Result<String, Error> {
    struct Spaced;
    impl Formatter for Spaced {
        fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            writer.write_all(if first { b"" } else { b", " })
        }

        fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            self.begin_array_value(writer, first)
        }

        fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
            writer.write_all(b": ")
        }
    }
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    if value.is_undefined() {
        return Err(failed(&"undefined has no JSON"));
    }
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)).map_err(|error| failed(&error))?;
    String::from_utf8(out).map_err(|error| failed(&error))
}

/// The filters of a template; those that read their argument as text, or compare its parts, are marked.
fn filter_table() -> Vec<(&'static str, bool, Value)> {
    vec![
        ("lower", true, Value::from_function(filters::lower)),
        ("upper", true, Value::from_function(filters::upper)),
        ("title", true, Value::from_function(filters::title)),
        ("capitalize", true, Value::from_function(filters::capitalize)),
        ("trim", true, Value::from_function(filters::trim)),
        ("replace", true, Value::from_function(filters::replace)),
        ("join", true, Value::from_function(filters::join)),
        ("split", true, Value::from_function(filters::split)),
        ("lines", true, Value::from_function(filters::lines)),
        ("string", true, Value::from_function(filters::string)),
        ("safe", true, Value::from_function(filters::safe)),
        ("tojson", true, Value::from_function(to_json)),
        ("length", false, Value::from_function(filters::length)),
        ("count", false, Value::from_function(filters::length)),
        ("list", false, Value::from_function(filters::list)),
        ("reverse", false, Value::from_function(filters::reverse)),
        ("first", false, Value::from_function(filters::first)),
        ("last", false, Value::from_function(filters::last)),
        ("items", false, Value::from_function(filters::items)),
        ("dictsort", true, Value::from_function(filters::dictsort)),
        ("default", false, Value::from_function(filters::default)),
        ("d", false, Value::from_function(filters::default)),
        ("int", false, Value::from_function(filters::int)),
        ("float", false, Value::from_function(filters::float)),
        ("abs", false, Value::from_function(filters::abs)),
        ("round", false, Value::from_function(filters::round)),
        ("bool", false, Value::from_function(filters::bool)),
        ("min", true, Value::from_function(filters::min)),
        ("max", true, Value::from_function(filters::max)),
        ("sort", true, Value::from_function(filters::sort)),
        ("unique", true, Value::from_function(filters::unique)),
        ("attr", false, Value::from_function(filters::attr)),
        ("map", false, Value::from_function(filters::map)),
        ("select", true, Value::from_function(filters::select)),
        ("reject", true, Value::from_function(filters::reject)),
        ("selectattr", true, Value::from_function(filters::selectattr)),
        ("rejectattr", true, Value::from_function(filters::rejectattr)),
    ]
}

/// Filters that come with the engine and that no chat template needs: with widths, depths or factors of
/// their own they make much of little.
const LEFT_OUT: [&str; 12] =
    ["escape", "e", "pprint", "urlencode", "batch", "slice", "groupby", "chain", "zip", "indent", "format", "sum"];

/// The names of the exchanged instructions. A template that calls them by name gets what the operator
/// gives.
const ADD: &str = "metered_add";
const MULTIPLY: &str = "metered_multiply";
const CONCATENATE: &str = "metered_concatenate";
const SLICE: &str = "metered_slice";

/// The engine as chat templates know it, with its meter.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(RECURSION);
    for name in LEFT_OUT {
        environment.remove_filter(name);
    }
    for (name, reads_text, filter) in filter_table() {
        environment.add_filter(name, move |state: &State<'_, '_>, args: Rest<Value>| -> Result<Value, Error> {
            if name == "tojson" && args.len() > 1 {
                return Err(refused("tojson with an indent"));
            }
            let size = if reads_text { text_size } else { own_size };
            let read = args.iter().map(size).fold(multiplied(name, &args), u64::saturating_add);
            charge(state, read)?;
            let made = filter.call(state, &args)?;
            charge(state, made_size(&made))?;
            Ok(made)
        });
    }
    let two = |operation: fn(&State<'_, '_>, &Value, &Value) -> Result<Value, Error>| {
        move |state: &State<'_, '_>, a: Value, b: Value| operation(state, &a, &b)
    };
    environment.add_filter(ADD, two(add));
    environment.add_filter(MULTIPLY, two(multiply));
    environment.add_filter(CONCATENATE, two(concatenate));
    environment.add_filter(SLICE, |state: &State<'_, '_>, a: Value, start: Value, stop: Value, step: Value| {
        slice(state, &a, &start, &stop, &step)
    });
    for (name, expression, tests) in COMPARISONS {
        environment
            .add_filter(name, move |state: &State<'_, '_>, a: Value, b: Value| compare(state, expression, &a, &b));
        for test in tests {
            environment.add_test(*test, move |state: &State<'_, '_>, a: Value, b: Value| {
                compare(state, expression, &a, &b).map(|holds| holds.is_true())
            });
        }
    }
    environment.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" {
            return Err(Error::new(ErrorKind::UnknownMethod, "format has widths of its own and is left out"));
        }
        let all: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        // What is looked for is compared with every part.
        let walks = value.kind() == ValueKind::String || method == "count";
        let receiver = if walks { text_size(value) } else { own_size(value) };
        let read = args.iter().map(text_size).fold(receiver, u64::saturating_add);
        charge(state, read.saturating_add(multiplied(method, &all)))?;
        let made = minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)?;
        charge(state, made_size(&made))?;
        // The library counts bytes, Python characters.
        Ok(match (method, value.as_str(), made.as_usize()) {
            ("find" | "rfind", Some(text), Some(bytes)) => {
                Value::from(text.get(..bytes).map_or(0, |before| before.chars().count()))
            }
            _ => made,
        })
    });
    environment.set_formatter(|out, state, value| {
        charge(state, text_size(value))?;
        minijinja::escape_formatter(out, state, value)
    });
    for name in ["startingwith", "endingwith", "lower", "upper"] {
        environment.remove_test(name);
    }
    environment.add_function("raise_exception", |state: &State<'_, '_>, message: Value| -> Result<Value, Error> {
        charge(state, text_size(&message))?;
        Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
    });
    environment.remove_global("debug");
    environment
}

/// A template, compiled, its instructions exchanged.
struct Compiled<'source> {
    main: Instructions<'source>,
    blocks: BTreeMap<&'source str, Instructions<'source>>,
    /// Bytes of its longest piece of text.
    longest: u64,
}

fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let whitespace = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let tree = parse(source, NAME, SyntaxConfig, whitespace)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (mut main, mut blocks) = generator.finish();
    let lists = std::iter::once(&mut main).chain(blocks.values_mut());
    let mut longest = 0;
    for instructions in lists {
        longest = longest.max(exchange(instructions)?);
    }
    Ok(Compiled { main, blocks, longest })
}

/// Exchanges what makes something of the size of its operands for its metered form, each taking the
/// same values from the stack and leaving one, and refuses what has none. Gives the length of the longest
/// piece of text.
fn exchange(instructions: &mut Instructions<'_>) -> Result<u64, Error> {
    let mut longest = 0;
    let length = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
    for place in 0..length {
        let Some(instruction) = instructions.get_mut(place) else { break };
        let (name, operands) = match instruction {
            Instruction::Add => (ADD, 2),
            Instruction::Mul => (MULTIPLY, 2),
            Instruction::StringConcat => (CONCATENATE, 2),
            Instruction::Slice => (SLICE, 4),
            Instruction::Eq => ("metered_eq", 2),
            Instruction::Ne => ("metered_ne", 2),
            Instruction::Lt => ("metered_lt", 2),
            Instruction::Lte => ("metered_le", 2),
            Instruction::Gt => ("metered_gt", 2),
            Instruction::Gte => ("metered_ge", 2),
            Instruction::In => ("metered_in", 2),
            Instruction::UnpackLists(_) => return Err(refused("a splat of arguments")),
            Instruction::BuildMap(_) => return Err(refused("a dictionary of computed values")),
            Instruction::CallMethod("changed", _) => return Err(refused("loop.changed")),
            Instruction::EmitRaw(text) => {
                longest = longest.max(long(text.len()));
                continue;
            }
            _ => continue,
        };
        // The last number keeps the engine from remembering the filter under another's number.
        *instruction = Instruction::ApplyFilter(name, Some(operands), u8::MAX);
    }
    Ok(longest)
}

/// Checks that a source is a template.
pub(super) fn check(source: &str) -> Result<(), Error> {
    compile(source).map(|_| ())
}

/// Renders a template on a stack of its own. A panic there ends the thread, and is an error.
pub(super) fn render(environment: &Environment<'static>, source: &str, root: Value) -> Result<String, Error> {
    let broken = |_| Error::new(ErrorKind::InvalidOperation, "rendering broke off");
    let work = move || {
        let compiled = compile(source)?;
        let mut environment = environment.clone();
        environment.set_fuel(Some(FUEL.min(MAX_RAW.checked_div(compiled.longest).unwrap_or(FUEL))));
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        Vm::new(&environment).eval(&compiled.main, root, &compiled.blocks, &mut out, AutoEscape::None).map(|_| ())?;
        Ok(text)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "there is no thread for rendering"))?
            .join()
            .map_err(broken)?
    })
}

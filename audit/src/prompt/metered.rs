//! Chat templates with a meter: what a template makes in memory is counted while it runs.
//!
//! The template engine counts instructions, but one instruction may double a string, and twenty of them
//! make a megabyte out of a letter; another may walk all that was made. So the instructions, filters and
//! methods that make or walk something of a size of their operands' are exchanged (by `compile`) for ones
//! that first add that size to a total. Beyond [`MAX_MADE`] bytes rendering ends.
//!
//! What holds, for any template of at most 64 KiB and any messages within their own bounds: strings and
//! lists made while rendering take at most [`MAX_MADE`] bytes and what the last step adds, a small
//! multiple of it; text that stands in the template itself is copied into captured blocks at most
//! [`MAX_RAW`] bytes in all; every other value is of constant size, and there are no more of them than
//! instructions. Values nested deeply are walked recursively, no deeper than instructions can nest them:
//! the stack on which that happens is dimensioned for it. Comparing two values adds the size of both as
//! text, since values that share parts may be walked once for each way to them; so does looking something
//! up, with what is looked for. What cannot be metered is refused: `tojson` with an indent, and what
//! `compile` names. So is what the platform would decide: what is not a number, and powers and places of rounding
//! that are not exact.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::machinery::{Instruction, Instructions, Vm, make_string_output};
use minijinja::value::{Object, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context, filters, functions, tests};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::compile::{MAX_ATTRIBUTES, compile, names};
use super::{MAX_COMPLAINT, guarded, on_a_thread};
use crate::num::long;

/// Most instructions of a template, those aside that take no fuel.
const FUEL: u64 = 1 << 19;
/// Most calls of macros within each other.
const RECURSION: usize = 64;
/// Most bytes of strings and lists made while rendering.
const MAX_MADE: u64 = 1 << 26;
/// What a comparison counts for, beside what it walks.
const COMPARISON_BYTES: u64 = 256;
/// Most bytes of the template's own text that its instructions can print.
const MAX_RAW: u64 = 1 << 30;
/// The stack for reading a template, of which every byte may be a level, and for rendering: half a kilobyte for each
/// level that [`FUEL`] could nest. Pages that are not touched take no memory.
const STACK_BYTES: usize = 1 << 28;
/// What a value in a list counts for.
const ELEMENT_BYTES: u64 = 32;
/// How often an element is compared, at most, where a list of any length that can be made is sorted.
const COMPARISONS_EACH: u64 = 32;
/// The places to which a number may be rounded: of more, or fewer, a power of ten is not one number on every platform.
const PLACES: std::ops::RangeInclusive<i64> = 0..=15;
/// Most parts of a value that is walked.
const MAX_PARTS: usize = 1 << 20;
/// Most values inside each other of a value that is walked.
const MAX_DEPTH: usize = 1 << 16;

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

pub(super) fn refused(what: &str) -> Error {
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
        size = size.saturating_add(ELEMENT_BYTES).saturating_add(value.as_str().map_or(0, |text| long(text.len())));
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
pub(super) fn own_size(value: &Value) -> u64 {
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

/// What is refused by name: what has no value has a sign still, and of that the platform decides.
pub(super) const NO_NUMBER: &str = "what is not a number";

/// Whether this is a number that is none: of zero divided by zero, say.
pub(super) fn is_no_number(value: &Value) -> bool {
    value.kind() == ValueKind::Number && f64::try_from(value.clone()).is_ok_and(f64::is_nan)
}

/// What was computed: a list in place of what gives its parts when asked, each time anew and each through all that it was
/// made of.
pub(super) fn settled(value: Value) -> Result<Value, Error> {
    if is_no_number(&value) {
        return Err(refused(NO_NUMBER));
    }
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    let parts: Vec<Value> = value.try_iter()?.take(MAX_PARTS.saturating_add(1)).collect();
    if parts.len() > MAX_PARTS { Err(too_much()) } else { Ok(Value::from(parts)) }
}

/// What an operator gives of two values.
fn computed(expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    settled(plainly(expression, context! { a, b })?)
}

fn add(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, own_size(a).saturating_add(own_size(b)))?;
    computed("a + b", a, b)
}

/// Bytes of a product: of a text or a list so many times.
pub(super) fn product_size(a: &Value, b: &Value) -> u64 {
    // A number counts for what it says, for it may be the one that says how often. A list of nothing is gone through as
    // often as any other.
    let factor = |value: &Value| match value.kind() {
        ValueKind::Number => value.as_usize().map_or(1, long),
        ValueKind::String => own_size(value),
        _ => own_size(value).max(ELEMENT_BYTES),
    };
    let numbers = a.kind() == ValueKind::Number && b.kind() == ValueKind::Number;
    if numbers { 0 } else { factor(a).saturating_mul(factor(b)) }
}

fn multiply(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, product_size(a, b))?;
    computed("a * b", a, b)
}

/// What is refused by name: of other numbers it is the platform that says what a power is.
pub(super) const FRACTIONAL_POWER: &str = "a power of other numbers than integers";

/// Whether a power is that of an integer, and one.
pub(super) fn is_integral(a: &Value, b: &Value) -> bool {
    a.is_integer() && b.is_integer() && b.as_i64().is_none_or(|exponent| exponent >= 0)
}

fn power(_: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if !is_integral(a, b) {
        return Err(refused(FRACTIONAL_POWER));
    }
    computed("a ** b", a, b)
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
    // Between two places, it means others than Python does, and breaks off at some.
    let is_whole = start.is_none() && stop.is_none();
    if i64::try_from(step.clone()).is_ok_and(|step| step < -1 || (step < 0 && !is_whole)) {
        return Err(refused("a slice backwards that is not [::-1]"));
    }
    settled(plainly("a[start:stop:step]", context! { a, start, stop, step })?)
}

/// An item of a list, a letter of a text or what a dictionary has under a key: what is looked for is walked.
fn item(state: &State<'_, '_>, a: &Value, key: &Value) -> Result<Value, Error> {
    charge(state, text_size(key).saturating_add(walked(a)))?;
    a.get_item(key)
}

/// What it takes to find one place in a value: a list knows where, a text and what only iterates do not.
fn walked(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::String | ValueKind::Iterable => own_size(value),
        _ => 0,
    }
}

/// What it takes to count the parts of a value, or to find the first: a list knows them, others are gone through.
fn counted(value: &Value) -> u64 {
    if value.kind() == ValueKind::Seq { 0 } else { own_size(value) }
}

/// What is iterated over, after a charge for what counts its parts before the first of them.
fn iterated(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    charge(state, walked(value))?;
    Ok(value.clone())
}

/// What is taken apart, after a charge for all of its parts.
fn unpacked(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    charge(state, own_size(value))?;
    Ok(value.clone())
}

/// A comparison by the plain engine, after a charge for what it may walk.
fn compare(state: &State<'_, '_>, expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    charge(state, text_size(a).saturating_add(text_size(b)).saturating_add(COMPARISON_BYTES))?;
    plainly(expression, context! { a, b })
}

/// The comparisons: the name of the exchanged instruction, what it computes, and the tests that do the same.
const COMPARISONS: [(&str, &str, &[&str]); 7] = [
    (names::EQ, "a == b", &["eq", "equalto", "=="]),
    (names::NE, "a != b", &["ne", "!="]),
    (names::LT, "a < b", &["lt", "lessthan", "<"]),
    (names::LTE, "a <= b", &["le", "<="]),
    (names::GT, "a > b", &["gt", "greaterthan", ">"]),
    (names::GTE, "a >= b", &["ge", ">="]),
    (names::CONTAINS, "a in b", &["in"]),
];

/// What a call may make or walk that the sizes of its arguments do not show: one of them for each element, or
/// character, of another.
fn multiplied(name: &str, args: &[Value]) -> u64 {
    let count = |place: usize| args.get(place).map_or(0, |value| long(value.len().unwrap_or(0)));
    let text = |place: usize| args.get(place).map_or(0, text_size);
    let others = || args.iter().skip(1).map(text_size).fold(0, u64::saturating_add);
    match name {
        "replace" => {
            let [of, old] = [0, 1].map(|place| args.get(place).and_then(Value::as_str));
            let found = of.zip(old).map(|(of, old)| long(of.matches(old).count()));
            found.unwrap_or_else(|| text(0).saturating_add(1)).saturating_mul(text(2))
        }
        // Each character is looked for among those that are taken off.
        "trim" | "strip" | "lstrip" | "rstrip" => text(0).saturating_mul(count(1)),
        // The path to an attribute is walked for each element, and where they are sorted for each comparison.
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => count(0).saturating_mul(others()),
        "sort" | "unique" | "dictsort" | "min" | "max" => {
            count(0).saturating_mul(others()).saturating_mul(COMPARISONS_EACH)
        }
        // The filter's list comes first, the method's separator.
        "join" => count(0).saturating_mul(text(1)).max(text(0).saturating_mul(count(1))),
        "tojson" => text(0).saturating_mul(8),
        _ => 0,
    }
}

/// Whether an argument, alone or by its name, is a list of attributes in one text: each is compared with each.
fn names_several(argument: &Value) -> bool {
    let named = argument.get_attr("attribute").unwrap_or_default();
    [argument, &named].into_iter().filter_map(|value| value.as_str()).any(|text| text.contains(','))
}

/// Bytes of the list that a call is about to make of a text.
fn pieces(name: &str, args: &[Value]) -> u64 {
    let Some(text) = args.first().and_then(Value::as_str) else { return 0 };
    let count = match (name, args.get(1).and_then(Value::as_str)) {
        ("split", Some(separator)) => text.matches(separator).count(),
        ("split", None) => text.split_whitespace().count(),
        ("lines" | "splitlines", _) => text.matches('\n').count(),
        ("list" | "sort" | "unique" | "map" | "select" | "reject" | "selectattr" | "rejectattr", _) => {
            text.chars().count()
        }
        _ => return 0,
    };
    long(count).saturating_add(1).saturating_mul(ELEMENT_BYTES)
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

/// The value of which `tojson` is to make JSON. That no character be escaped is what it does anyway.
fn of_json(args: &[Value]) -> Result<&[Value], Error> {
    let (value, others) = args.split_at(args.len().min(1));
    for other in others {
        let keys = if other.is_kwargs() { other.try_iter()?.collect() } else { vec![Value::from("indent")] };
        for key in keys {
            match key.as_str() {
                Some("ensure_ascii") if !other.get_item(&key)?.is_true() => {}
                Some("indent") | None => return Err(refused("tojson with an indent")),
                Some(name) => return Err(refused(&format!("tojson with {name}"))),
            }
        }
    }
    Ok(value)
}

/// The filters of a template; those that read their first argument as text, or compare its parts, are marked.
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
        ("map", true, Value::from_function(filters::map)),
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

/// The filters and tests that stand for operators.
fn add_operators(environment: &mut Environment<'static>) {
    let two = |operation: fn(&State<'_, '_>, &Value, &Value) -> Result<Value, Error>| {
        move |state: &State<'_, '_>, a: Value, b: Value| operation(state, &a, &b)
    };
    environment.add_filter(names::ADD, two(add));
    environment.add_filter(names::MULTIPLY, two(multiply));
    environment.add_filter(names::POWER, two(power));
    let numbers = [
        (names::SUBTRACT, "a - b"),
        (names::DIVIDE, "a / b"),
        (names::DIVIDE_DOWN, "a // b"),
        (names::REMAINDER, "a % b"),
    ];
    for (name, expression) in numbers {
        environment.add_filter(name, move |a: Value, b: Value| computed(expression, &a, &b));
    }
    environment.add_filter(names::CONCATENATE, two(concatenate));
    environment.add_filter(names::ITEM, two(item));
    environment.add_filter(names::ITERATED, |state: &State<'_, '_>, value: Value| iterated(state, &value));
    environment.add_filter(names::UNPACKED, |state: &State<'_, '_>, value: Value| unpacked(state, &value));
    environment.add_filter(names::SLICE, |state: &State<'_, '_>, a: Value, start: Value, stop: Value, step: Value| {
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
}

/// The engine as chat templates know it, with its meter.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(RECURSION);
    for name in LEFT_OUT {
        environment.remove_filter(name);
    }
    for (name, reads_text, filter) in filter_table() {
        environment.add_filter(name, move |state: &State<'_, '_>, args: Rest<Value>| -> Result<Value, Error> {
            let args = if name == "tojson" { of_json(&args)? } else { &args };
            if name == "round" && args.get(1).and_then(Value::as_i64).is_some_and(|places| !PLACES.contains(&places)) {
                return Err(refused("rounding to so many places"));
            }
            let first = args.first().map_or(
                0,
                match name {
                    "length" | "count" | "first" => counted,
                    _ if reads_text => text_size,
                    _ => own_size,
                },
            );
            if name == "sort" && args.iter().skip(1).any(names_several) {
                return Err(refused("sorting by several attributes"));
            }
            // The others say what is looked for.
            let others = args.iter().skip(1).map(text_size).fold(multiplied(name, args), u64::saturating_add);
            charge(state, first.saturating_add(others).saturating_add(pieces(name, args)))?;
            let made = settled(filter.call(state, args)?)?;
            charge(state, made_size(&made))?;
            Ok(made)
        });
    }
    add_operators(&mut environment);
    environment.add_test("iterable", |state: &State<'_, '_>, value: Value| -> Result<bool, Error> {
        charge(state, own_size(&value))?;
        Ok(tests::is_iterable(&value))
    });
    environment.add_test("sameas", |state: &State<'_, '_>, a: Value, b: Value| -> Result<bool, Error> {
        charge(state, own_size(&a).saturating_add(own_size(&b)))?;
        Ok(tests::is_sameas(&a, &b))
    });
    let dict = Value::from_function(functions::dict);
    environment.add_function("dict", move |state: &State<'_, '_>, args: Rest<Value>| copied(state, &dict, &args));
    environment.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" {
            return Err(Error::new(ErrorKind::UnknownMethod, "format has widths of its own and is left out"));
        }
        // It is found everywhere, and never passed.
        let is_empty = || args.first().and_then(Value::as_str) == Some("");
        if method == "count" && value.kind() == ValueKind::String && is_empty() {
            return Err(refused("counting a text of no length"));
        }
        let all: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        // What is looked for is compared with every part.
        let walks = value.kind() == ValueKind::String || method == "count";
        let receiver = if walks { text_size(value) } else { own_size(value) };
        let read = args.iter().map(text_size).fold(receiver, u64::saturating_add);
        charge(state, read.saturating_add(multiplied(method, &all)).saturating_add(pieces(method, &all)))?;
        let made = settled(minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)?)?;
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
        let complaint: String = message.to_string().chars().take(MAX_COMPLAINT).collect();
        Err(Error::new(ErrorKind::InvalidOperation, complaint))
    });
    environment.remove_global("debug");
    environment
}

/// What a function makes that copies what it is given.
fn copied(state: &State<'_, '_>, function: &Value, args: &[Value]) -> Result<Value, Error> {
    charge(state, args.iter().map(text_size).fold(ELEMENT_BYTES, u64::saturating_add))?;
    function.call(state, args)
}

/// The namespaces of a rendering. One may hold itself, and then nobody would ever drop it.
#[derive(Clone, Debug, Default)]
struct Namespaces(Arc<Mutex<Vec<Value>>>);

impl Namespaces {
    fn all(&self) -> MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a template its function, which keeps account.
    fn offer(&self, environment: &mut Environment<'_>) {
        let (namespaces, namespace) = (self.clone(), Value::from_function(functions::namespace));
        environment.add_function(
            "namespace",
            move |state: &State<'_, '_>, args: Rest<Value>| -> Result<Value, Error> {
                let made = copied(state, &namespace, &args)?;
                if made.len().is_some_and(|length| length > MAX_ATTRIBUTES) {
                    return Err(refused("a namespace of so many attributes"));
                }
                namespaces.all().push(made.clone());
                Ok(made)
            },
        );
    }

    /// Empties them, by the one instruction that changes one.
    fn clear(&self) -> Result<(), Error> {
        let environment = Environment::empty();
        let all = std::mem::take(&mut *self.all());
        all.into_iter().try_for_each(|namespace| {
            let keys: Vec<String> = namespace.try_iter()?.map(|key| key.to_string()).collect();
            let mut instructions = Instructions::new("clear", "");
            for key in &keys {
                instructions.add(Instruction::LoadConst(Value::from(())));
                instructions.add(Instruction::LoadConst(namespace.clone()));
                instructions.add(Instruction::SetAttr(key));
            }
            let (root, blocks, mut text) = (Value::from(()), BTreeMap::new(), String::new());
            let mut out = make_string_output(&mut text);
            Vm::new(&environment).eval(&instructions, root, &blocks, &mut out, AutoEscape::None).map(|_| ())
        })
    }
}

/// Does something with a template on a stack of its own.
fn on_a_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    on_a_thread(STACK_BYTES, work).map_err(|failure| Error::new(ErrorKind::InvalidOperation, failure))?
}

/// Checks that a source is a template.
pub(super) fn check(source: &str) -> Result<(), Error> {
    on_a_stack(|| compile(source).map(|_| ()))
}

/// Renders a template.
pub(super) fn render(environment: &Environment<'static>, source: &str, root: Value) -> Result<String, Error> {
    on_a_stack(move || {
        let compiled = compile(source)?;
        let mut environment = environment.clone();
        let namespaces = Namespaces::default();
        namespaces.offer(&mut environment);
        environment.set_fuel(Some(FUEL.min(MAX_RAW.checked_div(compiled.longest).unwrap_or(FUEL))));
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        let blocks = BTreeMap::new();
        let eval = || Vm::new(&environment).eval(&compiled.instructions, root, &blocks, &mut out, AutoEscape::None);
        let rendered = guarded(|| eval().map(|_| ()));
        namespaces.clear()?;
        rendered.map_err(|failure| Error::new(ErrorKind::InvalidOperation, failure))??;
        Ok(text)
    })
}

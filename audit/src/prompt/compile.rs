//! From the source of a chat template to instructions that are metered.
//!
//! The engine's own compiler does the work, between two looks of ours. Before it, at the tree: the compiler
//! computes what consists of constants, so that what would be long in memory, or long to find, is refused here.
//! After it, at the instructions: each is one that is known, and what makes or walks something of the size of its
//! operands is exchanged for the filter of `metered` that charges for it first.

use std::collections::BTreeSet;

use minijinja::Error;
use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Macro, Stmt};
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, WhitespaceConfig, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;

use super::metered::{
    FRACTIONAL_POWER, NO_NUMBER, is_integral, is_no_number, own_size, product_size, refused, settled,
};
use crate::num::{index, long};

/// Most expressions or statements within each other.
const MAX_NESTING: usize = 512;
/// Most bytes of a product of constants.
const MAX_FOLDED: u64 = 1 << 12;
/// Most bytes of a sum of constant texts or lists.
const MAX_SUM: u64 = 1 << 14;
/// Most arguments of a call and most parameters of a macro, which are copied whenever it is looked at.
const MAX_ARGUMENTS: usize = 64;
/// Most attributes that a namespace begins with, and most that are set: whoever asks whether there are any copies all names.
pub(super) const MAX_ATTRIBUTES: usize = 256;
/// Most bytes of a name, which is copied wherever something is kept under it.
const MAX_NAME: usize = 256;
/// The name under which the engine knows a template.
const NAME: &str = "chat";

/// The filters that stand for instructions, or before them. A template that calls them by name gets what the operator
/// gives.
pub(super) mod names {
    pub(in super::super) const ADD: &str = "metered_add";
    pub(in super::super) const MULTIPLY: &str = "metered_multiply";
    pub(in super::super) const POWER: &str = "metered_power";
    pub(in super::super) const SUBTRACT: &str = "metered_subtract";
    pub(in super::super) const DIVIDE: &str = "metered_divide";
    pub(in super::super) const DIVIDE_DOWN: &str = "metered_divide_down";
    pub(in super::super) const REMAINDER: &str = "metered_remainder";
    pub(in super::super) const CONCATENATE: &str = "metered_concatenate";
    pub(in super::super) const SLICE: &str = "metered_slice";
    pub(in super::super) const ITEM: &str = "metered_item";
    pub(in super::super) const ITERATED: &str = "metered_iterated";
    pub(in super::super) const UNPACKED: &str = "metered_unpacked";
    pub(in super::super) const EQ: &str = "metered_eq";
    pub(in super::super) const NE: &str = "metered_ne";
    pub(in super::super) const LT: &str = "metered_lt";
    pub(in super::super) const LTE: &str = "metered_lte";
    pub(in super::super) const GT: &str = "metered_gt";
    pub(in super::super) const GTE: &str = "metered_gte";
    pub(in super::super) const CONTAINS: &str = "metered_contains";
}

/// A template, compiled, its instructions exchanged.
pub(super) struct Compiled<'source> {
    pub(super) instructions: Instructions<'source>,
    /// Bytes of its longest piece of text.
    pub(super) longest: u64,
}

/// Compiles a template. To be called on a stack that has room for a level for each byte of the source.
pub(super) fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let whitespace = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let tree = parse(source, NAME, SyntaxConfig, whitespace)?;
    statement(&tree, 0)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    let (instructions, _) = generator.finish();
    exchange(instructions, source)
}

fn within(depth: usize) -> Result<usize, Error> {
    if depth < MAX_NESTING { Ok(depth.saturating_add(1)) } else { Err(refused("what is nested so deeply")) }
}

fn statements(list: &[Stmt<'_>], depth: usize) -> Result<(), Error> {
    list.iter().try_for_each(|inner| statement(inner, depth))
}

fn expressions<'tree, 'source: 'tree>(
    list: impl IntoIterator<Item = &'tree Expr<'source>>,
    depth: usize,
) -> Result<(), Error> {
    list.into_iter().try_for_each(|inner| expression(inner, depth))
}

/// Checks that a name is none that costs something to keep.
fn name(name: &str) -> Result<(), Error> {
    if name.len() > MAX_NAME { Err(refused("so long a name")) } else { Ok(()) }
}

/// Checks what a macro takes.
fn parameters(declared: &Macro<'_>, depth: usize) -> Result<(), Error> {
    name(declared.name)?;
    if declared.args.len() > MAX_ARGUMENTS {
        return Err(refused("a macro of so many parameters"));
    }
    expressions(declared.args.iter().chain(&declared.defaults), depth)
}

fn arguments(list: &[CallArg<'_>], depth: usize) -> Result<(), Error> {
    if list.len() > MAX_ARGUMENTS {
        return Err(refused("a call with so many arguments"));
    }
    list.iter().try_for_each(|argument| match argument {
        CallArg::Pos(value) => expression(value, depth),
        CallArg::Kwarg(key, value) => {
            name(key)?;
            expression(value, depth)
        }
        CallArg::PosSplat(_) | CallArg::KwargSplat(_) => Err(refused("a splat of arguments")),
    })
}

/// Checks a statement and all in it.
fn statement(tree: &Stmt<'_>, depth: usize) -> Result<(), Error> {
    let depth = within(depth)?;
    match tree {
        Stmt::Template(template) => statements(&template.children, depth),
        Stmt::EmitExpr(emit) => expression(&emit.expr, depth),
        Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => Ok(()),
        Stmt::ForLoop(each) if each.recursive => Err(refused("a recursive loop")),
        Stmt::ForLoop(each) => {
            expressions([&each.target, &each.iter].into_iter().chain(&each.filter_expr), depth)?;
            statements(&each.body, depth)?;
            statements(&each.else_body, depth)
        }
        Stmt::IfCond(branch) => {
            expression(&branch.expr, depth)?;
            statements(&branch.true_body, depth)?;
            statements(&branch.false_body, depth)
        }
        Stmt::WithBlock(with) => {
            expressions(with.assignments.iter().flat_map(|(target, value)| [target, value]), depth)?;
            statements(&with.body, depth)
        }
        Stmt::Set(set) => expressions([&set.target, &set.expr], depth),
        Stmt::SetBlock(set) => {
            expressions([&set.target].into_iter().chain(&set.filter), depth)?;
            statements(&set.body, depth)
        }
        Stmt::AutoEscape(_) => Err(refused("autoescape")),
        Stmt::FilterBlock(block) => {
            expression(&block.filter, depth)?;
            statements(&block.body, depth)
        }
        Stmt::Macro(declared) => {
            parameters(declared, depth)?;
            statements(&declared.body, depth)
        }
        Stmt::CallBlock(block) => {
            expression(&block.call.expr, depth)?;
            arguments(&block.call.args, depth)?;
            parameters(&block.macro_decl, depth)?;
            statements(&block.macro_decl.body, depth)
        }
        Stmt::Do(done) => {
            expression(&done.call.expr, depth)?;
            arguments(&done.call.args, depth)
        }
        Stmt::Block(_) | Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
            Err(refused("another template or a block for one"))
        }
    }
}

/// Checks an expression and all in it.
fn expression(tree: &Expr<'_>, depth: usize) -> Result<(), Error> {
    let depth = within(depth)?;
    match tree {
        Expr::Var(variable) => name(variable.id),
        Expr::Const(_) => Ok(()),
        Expr::Slice(slice) => {
            let ends = [&slice.start, &slice.stop, &slice.step];
            expressions([&slice.expr].into_iter().chain(ends.into_iter().flatten()), depth)
        }
        Expr::UnaryOp(operator) => expression(&operator.expr, depth),
        Expr::BinOp(operator) => {
            expressions([&operator.left, &operator.right], depth)?;
            folded(tree, operator.op, &operator.left, &operator.right)
        }
        // All but the last of a chain compare without a charge.
        Expr::Compare(compare) if compare.ops.len() > 1 => Err(refused("a chain of comparisons")),
        Expr::Compare(compare) => {
            expressions([&compare.expr].into_iter().chain(compare.ops.iter().map(|op| &op.expr)), depth)
        }
        Expr::IfExpr(branch) => {
            expressions([&branch.test_expr, &branch.true_expr].into_iter().chain(&branch.false_expr), depth)
        }
        Expr::Filter(filter) => {
            expressions(&filter.expr, depth)?;
            arguments(&filter.args, depth)
        }
        Expr::Test(test) => {
            expression(&test.expr, depth)?;
            arguments(&test.args, depth)
        }
        Expr::GetAttr(attribute) => {
            name(attribute.name)?;
            expression(&attribute.expr, depth)
        }
        Expr::GetItem(item) => expressions([&item.expr, &item.subscript_expr], depth),
        Expr::Call(call) => {
            expression(&call.expr, depth)?;
            arguments(&call.args, depth)
        }
        Expr::List(list) => expressions(&list.items, depth),
        // Keys are walked when they are entered, and a computed one may be anything. Of numbers, many have one hash.
        Expr::Map(map) if !map.keys.iter().all(is_name) => {
            Err(refused("a dictionary with other keys than texts that stand there"))
        }
        Expr::Map(map) => expressions(&map.values, depth),
    }
}

/// Whether this is a constant text that may be a name.
fn is_name(key: &Expr<'_>) -> bool {
    matches!(key, Expr::Const(key) if key.value.as_str().is_some_and(|text| text.len() <= MAX_NAME))
}

/// Checks what the compiler computes of constants: a product of lists, with every look at it going through all that it was
/// made of, a product or sum that is long, and what the platform decides: powers, and what is not a number.
fn folded(tree: &Expr<'_>, op: BinOpKind, left: &Expr<'_>, right: &Expr<'_>) -> Result<(), Error> {
    let (Some(a), Some(b)) = (left.as_const(), right.as_const()) else { return Ok(()) };
    let sum = own_size(&a).saturating_add(own_size(&b));
    let of_list = [&a, &b].into_iter().any(|value| !matches!(value.kind(), ValueKind::Number | ValueKind::String));
    match op {
        // One of a list of nothing has no length to tell how often it is gone through.
        BinOpKind::Mul if of_list => Err(refused("a product of a constant list")),
        BinOpKind::Mul if product_size(&a, &b) > MAX_FOLDED => Err(refused("so large a product of constants")),
        BinOpKind::Pow if !is_integral(&a, &b) => Err(refused(FRACTIONAL_POWER)),
        BinOpKind::Add | BinOpKind::Concat if sum > MAX_SUM => Err(refused("so long a sum of constants")),
        _ if tree.as_const().as_ref().is_some_and(is_no_number) => Err(refused(NO_NUMBER)),
        _ => Ok(()),
    }
}

/// The filter that charges for what an instruction is about to walk.
const fn before(instruction: &Instruction<'_>) -> Option<&'static str> {
    match instruction {
        Instruction::PushLoop(_) => Some(names::ITERATED),
        Instruction::UnpackList(_) => Some(names::UNPACKED),
        _ => None,
    }
}

/// Exchanges what makes or walks something of the size of its operands for its metered form, each taking the same
/// values from the stack and leaving as many, and refuses what is not known here.
fn exchange<'source>(mut plain: Instructions<'source>, source: &'source str) -> Result<Compiled<'source>, Error> {
    let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    // Where each instruction stands once others are put before some: with the length, which jumps may lead to.
    let mut places = vec![0_u32];
    for place in 0..length {
        let here = places.last().copied().unwrap_or(0);
        let has_one_before = plain.get(place).and_then(before).is_some();
        places.push(here.saturating_add(if has_one_before { 2 } else { 1 }));
    }
    let moved = |target| places.get(index(target)).copied().ok_or_else(|| refused("a jump out of the template"));

    let mut longest = 0;
    let mut attributes = BTreeSet::new();
    let mut metered = Instructions::new(NAME, source);
    for place in 0..length {
        let line = plain.get_line(place).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        let Some(instruction) = plain.get_mut(place) else { break };
        let instruction = std::mem::replace(instruction, Instruction::Swap);
        // The last number keeps the engine from remembering the filter under another's number.
        let filter = |name, operands| Instruction::ApplyFilter(name, Some(operands), u8::MAX);
        if let Some(name) = before(&instruction) {
            metered.add_with_line(filter(name, 1), line);
        }
        let exchanged = match instruction {
            Instruction::Add => filter(names::ADD, 2),
            Instruction::Mul => filter(names::MULTIPLY, 2),
            Instruction::Pow => filter(names::POWER, 2),
            Instruction::Sub => filter(names::SUBTRACT, 2),
            Instruction::Div => filter(names::DIVIDE, 2),
            Instruction::IntDiv => filter(names::DIVIDE_DOWN, 2),
            Instruction::Rem => filter(names::REMAINDER, 2),
            Instruction::StringConcat => filter(names::CONCATENATE, 2),
            Instruction::Slice => filter(names::SLICE, 4),
            Instruction::GetItem => filter(names::ITEM, 2),
            Instruction::Eq => filter(names::EQ, 2),
            Instruction::Ne => filter(names::NE, 2),
            Instruction::Lt => filter(names::LT, 2),
            Instruction::Lte => filter(names::LTE, 2),
            Instruction::Gt => filter(names::GT, 2),
            Instruction::Gte => filter(names::GTE, 2),
            Instruction::In => filter(names::CONTAINS, 2),
            Instruction::Iterate(target) => Instruction::Iterate(moved(target)?),
            Instruction::Jump(target) => Instruction::Jump(moved(target)?),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(moved(target)?),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(moved(target)?),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(moved(target)?),
            Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, moved(target)?, flags),
            Instruction::EmitRaw(text) => {
                longest = longest.max(long(text.len()));
                instruction
            }
            Instruction::SetAttr(name) => {
                attributes.insert(name);
                instruction
            }
            // A sum of constant lists goes through all of them at every look, be they of nothing.
            Instruction::LoadConst(value) => Instruction::LoadConst(settled(value)?),
            Instruction::CallMethod("changed", _) => return Err(refused("loop.changed")),
            // Of constant size, or of that of the part of the source they stand for.
            Instruction::StoreLocal(_)
            | Instruction::Lookup(_)
            | Instruction::GetAttr(_)
            | Instruction::BuildMap(_)
            | Instruction::BuildKwargs(_)
            | Instruction::BuildList(_)
            | Instruction::Neg
            | Instruction::Not
            | Instruction::Emit
            | Instruction::PushWith
            | Instruction::PushLoop(_)
            | Instruction::UnpackList(_)
            | Instruction::PushDidNotIterate
            | Instruction::PopFrame
            | Instruction::PopLoopFrame
            | Instruction::BeginCapture(_)
            | Instruction::EndCapture
            | Instruction::DupTop
            | Instruction::DiscardTop
            | Instruction::Swap
            | Instruction::Return
            | Instruction::IsUndefined
            | Instruction::Enclose(_)
            | Instruction::GetClosure
            // Filters, tests, methods and functions charge for themselves.
            | Instruction::ApplyFilter(..)
            | Instruction::PerformTest(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(_) => instruction,
            other => return Err(refused(&format!("{other:?}"))),
        };
        metered.add_with_line(exchanged, line);
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(refused("setting so many attributes"));
    }
    Ok(Compiled { instructions: metered, longest })
}

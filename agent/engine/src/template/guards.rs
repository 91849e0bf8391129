//! A compiled template with a look at each value that is made, and at each that is walked.
//!
//! The template language has no hook for its operators, so what it compiled is written anew with
//! the tests of [`super::weight`] between its instructions.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::BTreeSet;

use minijinja::{
    Environment,
    machinery::{Instruction, Instructions, Token, tokenize},
    syntax::SyntaxConfig,
};

use super::{NAME, weight};

const MADE: &str = "realm_made";
const WALKED: &str = "realm_walked";
const ARGUMENTS: &str = "realm_arguments";
const LIST_OF: &str = "realm_list_of";
/// The place of a test or filter that is looked up each time.
const UNCACHED: u8 = u8::MAX;
/// Names that a template may set in its namespaces, each of which may hold one value of the most
/// weight. Templates in use set up to ten.
const ATTRIBUTES_MAX: usize = 64;

/// Gives `environment` what the instructions of [`guarded`] call.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_test(MADE, weight::made);
    environment.add_test(WALKED, weight::walked);
    environment.add_filter(ARGUMENTS, weight::arguments);
    environment.add_filter(LIST_OF, weight::list_of);
    // What Python's templates do not have either, and what makes or writes values unseen.
    environment.remove_filter("chain");
    environment.remove_filter("zip");
    environment.remove_global("debug");
}

/// Refuses a template that multiplies a literal: the compiler would do that, without fuel.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<(), String> {
    let mut last = None;
    for token in tokenize(source, false, syntax) {
        let Ok((token, _)) = token else { return Ok(()) };
        let multiplied = matches!(
            (&last, &token),
            (Some(Token::BracketClose | Token::ParenClose), Token::Mul)
                | (Some(Token::Mul), Token::BracketOpen | Token::ParenOpen)
        );
        if multiplied {
            return Err("it multiplies what stands in brackets".to_owned());
        }
        last = Some(token);
    }
    Ok(())
}

/// `bare` with the guards.
pub(super) fn guarded<'a>(bare: &Instructions<'a>) -> Result<Instructions<'a>, String> {
    let mut attributes = BTreeSet::new();
    let mut places = Vec::new();
    let mut guarded = Instructions::new(NAME, bare.source());
    let mut at = 0_u32;
    while let Some(instruction) = bare.get(at) {
        if let Instruction::SetAttr(name) = instruction {
            attributes.insert(*name);
        }
        let line = bare.get_line(at).and_then(|line| u16::try_from(line).ok());
        let put = |instruction| match line {
            Some(line) => guarded.add_with_line(instruction, line),
            None => guarded.add(instruction),
        };
        let mut all = before(instruction)?;
        all.push(instruction.clone());
        all.extend(after(instruction));
        let placed: Vec<_> = all.into_iter().map(put).collect();
        places.extend(placed.first());
        at = at.saturating_add(1);
    }
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(format!("it sets {} names; {ATTRIBUTES_MAX} are the most", attributes.len()));
    }
    let end = guarded.add(Instruction::LoadConst(().into()));
    relocate(&mut guarded, &places, end);
    Ok(guarded)
}

/// Lets each jump go where what it went to now begins.
fn relocate(guarded: &mut Instructions<'_>, places: &[u32], end: u32) {
    for at in 0..end {
        if let Some(
            Instruction::Jump(to)
            | Instruction::JumpIfFalse(to)
            | Instruction::JumpIfFalseOrPop(to)
            | Instruction::JumpIfTrueOrPop(to)
            | Instruction::Iterate(to)
            | Instruction::BuildMacro(_, to, _),
        ) = guarded.get_mut(at)
        {
            let place = usize::try_from(*to).ok().and_then(|to| places.get(to));
            *to = place.copied().unwrap_or(end);
        }
    }
}

/// Looks at the value on top, which stays there.
fn look<'a>(test: &'static str) -> [Instruction<'a>; 3] {
    [
        Instruction::DupTop,
        Instruction::PerformTest(test, Some(1), UNCACHED),
        Instruction::DiscardTop,
    ]
}

/// Looks at the value below the top.
fn look_below<'a>() -> Vec<Instruction<'a>> {
    let [copy, test, discard] = look(WALKED);
    vec![Instruction::Swap, copy, test, discard, Instruction::Swap]
}

/// What an instruction is preceded by: the looks at what it walks.
fn before<'a>(instruction: &Instruction<'a>) -> Result<Vec<Instruction<'a>>, String> {
    Ok(match instruction {
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::In
        | Instruction::StringConcat
        | Instruction::CompareAndPreserve(_) => {
            let mut looks = look_below();
            looks.extend(look(WALKED));
            looks
        }
        Instruction::SetAttr(_) => look_below(),
        Instruction::Emit | Instruction::GetItem => look(WALKED).into(),
        Instruction::ApplyFilter(_, None, _)
        | Instruction::PerformTest(_, None, _)
        | Instruction::CallMethod(_, None) => return Err("it spreads arguments".to_owned()),
        Instruction::ApplyFilter("length" | "count" | "first" | "last" | "default" | "d", ..) => {
            Vec::new()
        }
        Instruction::ApplyFilter(_, Some(1), _) | Instruction::CallMethod(_, Some(1)) => {
            look(WALKED).into()
        }
        Instruction::ApplyFilter(_, Some(count), _)
        | Instruction::PerformTest(_, Some(count @ 2..), _)
        | Instruction::CallMethod(_, Some(count)) => {
            let count = usize::from(*count);
            let arguments = Instruction::ApplyFilter(ARGUMENTS, Some(1), UNCACHED);
            vec![Instruction::BuildList(Some(count)), arguments, Instruction::UnpackList(count)]
        }
        _ => Vec::new(),
    })
}

/// What an instruction is followed by: the look at what it made.
fn after<'a>(instruction: &Instruction<'a>) -> Vec<Instruction<'a>> {
    match instruction {
        Instruction::Mul | Instruction::Slice | Instruction::ApplyFilter("reverse", ..) => {
            vec![Instruction::ApplyFilter(LIST_OF, Some(1), UNCACHED)]
        }
        Instruction::BuildList(_)
        | Instruction::BuildMap(_)
        | Instruction::BuildTuple(_)
        | Instruction::Add
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => look(MADE).into(),
        _ => Vec::new(),
    }
}

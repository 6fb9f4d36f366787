//! Classic BPF: a balanced tree of comparisons over ranges of numbers.
//!
//! `>= middle?` jumps over the left half to the right one. A jump that an instruction's 8 bits can't hold
//! goes by way of a long one, so a tree may be of any size.
//!
//! May touch: its arguments. Knows nothing of names of calls.

use super::profile::{NAMESPACE_FLAGS, Question, Verdict};
use crate::sandbox::sys::Instruction;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// In `struct seccomp_data`: number, architecture, and the first argument's low word, which every question is about.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;

/// The numbers from `start` to the next range's.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) leaf: Leaf,
}

/// What is done about a number.
#[derive(Clone, Debug)]
pub(crate) enum Leaf {
    Return(u32),
    Ask(Question),
}

impl Leaf {
    pub(crate) fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Return(ALLOW),
            Verdict::Deny => Self::Return(ERROR | EPERM),
            Verdict::Unknown => Self::Return(ERROR | ENOSYS),
            Verdict::Ask(question) => Self::Ask(question),
        }
    }
}

/// The program of several architectures: the `AUDIT_ARCH` and the ranges of each.
pub(crate) fn compile(sections: &[(u32, Vec<Range>)]) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD, ARCHITECTURE_AT)];
    for (architecture, ranges) in sections {
        let mut section = vec![plain(LOAD, NUMBER_AT)];
        tree(&mut section, ranges);
        program.push(Instruction { code: JUMP_IF_EQUAL, if_true: 1, if_false: 0, operand: *architecture });
        program.push(plain(JUMP, length(&section)));
        program.append(&mut section);
    }
    program.push(plain(RETURN, KILL_PROCESS));
    program
}

fn tree(program: &mut Vec<Instruction>, ranges: &[Range]) {
    let [range] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let mut low = Vec::new();
        tree(&mut low, left);
        let start = right.first().map_or(0, |range| range.start);
        match u8::try_from(low.len()) {
            Ok(near) => {
                program.push(Instruction {
                    code: JUMP_IF_GREATER_OR_EQUAL,
                    if_true: near,
                    if_false: 0,
                    operand: start,
                });
            }
            Err(_) => {
                let code = JUMP_IF_GREATER_OR_EQUAL;
                program.push(Instruction { code, if_true: 0, if_false: 1, operand: start });
                program.push(plain(JUMP, length(&low)));
            }
        }
        program.append(&mut low);
        return tree(program, right);
    };
    match &range.leaf {
        Leaf::Return(value) => program.push(plain(RETURN, *value)),
        Leaf::Ask(question) => ask(program, *question),
    }
}

fn ask(program: &mut Vec<Instruction>, question: Question) {
    program.push(plain(LOAD, FIRST_ARGUMENT_AT));
    match question.ranges() {
        Some(ranges) => {
            let verdict = |allowed| if allowed { ALLOW } else { ERROR | EPERM };
            let range =
                |&(start, allowed): &(u32, bool)| Range { start, leaf: Leaf::Return(verdict(allowed)) };
            tree(program, &ranges.iter().map(range).collect::<Vec<_>>());
        }
        None => {
            let operand = NAMESPACE_FLAGS;
            program.push(Instruction { code: JUMP_IF_ANY_BIT, if_true: 0, if_false: 1, operand });
            program.push(plain(RETURN, ERROR | EPERM));
            program.push(plain(RETURN, ALLOW));
        }
    }
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).expect("a filter has a few thousand instructions at most")
}

/// What the kernel's interpreter would return.
#[cfg(test)]
pub(crate) fn run(program: &[Instruction], architecture: u32, number: u32, argument: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low word is meant")]
    let low = argument as u32;
    let mut value = 0;
    let mut place = 0;
    loop {
        let instruction = program[place];
        place += 1;
        let operand = instruction.operand;
        let holds = match instruction.code {
            LOAD => {
                value = match operand {
                    NUMBER_AT => number,
                    ARCHITECTURE_AT => architecture,
                    FIRST_ARGUMENT_AT => low,
                    other => panic!("load of {other}"),
                };
                continue;
            }
            JUMP => {
                place += operand as usize;
                continue;
            }
            RETURN => return operand,
            JUMP_IF_EQUAL => value == operand,
            JUMP_IF_GREATER_OR_EQUAL => value >= operand,
            JUMP_IF_ANY_BIT => value & operand != 0,
            other => panic!("instruction {other}"),
        };
        place += usize::from(if holds { instruction.if_true } else { instruction.if_false });
    }
}

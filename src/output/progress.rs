//! How a build is shown while it goes.
//!
//! ```text
//! plain     #3 [build 2/5] RUN make          tty    ⠋ [build 2/5] RUN make  3.1s  last line of its log
//!           #3 0.412 gcc -c a.c                     settled steps stay above, running ones move
//!           #3 DONE 3.1s
//! json      one object an event              quiet  nothing, and the log of a step that fails
//! ```
//!
//! Control bytes of steps never reach a terminal. Everything goes to stderr.

use std::collections::{HashMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use builder::progress::{Event, Progress, StepId};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How a build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Terminal,
    Plain,
    Json,
    Quiet,
}

impl Style {
    /// What suits stderr.
    pub(crate) fn of_terminal() -> Self {
        if std::io::stderr().is_terminal() { Self::Terminal } else { Self::Plain }
    }
}

/// Lines of a failing step that are shown again when they were not shown as they came.
const TAIL_LINES: usize = 50;

/// Shows a build.
#[derive(Debug)]
pub(crate) struct BuildProgress {
    style: Style,
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<StepId, Running>,
    warnings: usize,
}

#[derive(Debug)]
struct Running {
    name: String,
    started: Instant,
    cached: bool,
    /// What came after the last line break.
    rest: Vec<u8>,
    tail: VecDeque<String>,
    bar: Option<ProgressBar>,
}

impl BuildProgress {
    pub(crate) fn new(style: Style) -> Self {
        Self { style, bars: MultiProgress::new(), state: Mutex::default() }
    }

    /// Ends the show; what still ran when a build failed is taken off the screen.
    pub(crate) fn finish(&self, failed: bool) {
        let mut state = self.state.lock().expect("no thread panics while it shows progress");
        for (_, running) in state.running.drain() {
            if let Some(bar) = running.bar {
                bar.finish_and_clear();
            }
        }
        if failed {
            // Nothing may be drawn over the error that follows.
            drop(self.bars.clear());
        }
    }

    fn line(&self, text: &str) {
        match self.style {
            // A terminal that went away must not end the build.
            Style::Terminal => drop(self.bars.println(text)),
            _ => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    fn start(&self, state: &mut State, step: StepId, name: &str) {
        let bar = (self.style == Style::Terminal).then(|| self.spinner(name));
        if self.style == Style::Plain {
            self.line(&format!("#{} {name}", step.0 + 1));
        }
        let running = Running {
            name: name.to_owned(),
            started: Instant::now(),
            cached: false,
            rest: Vec::new(),
            tail: VecDeque::new(),
            bar,
        };
        state.running.insert(step, running);
    }

    fn spinner(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_prefix(clean(name.as_bytes()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn output(&self, state: &mut State, step: StepId, bytes: &[u8]) {
        let Some(running) = state.running.get_mut(&step) else { return };
        running.rest.extend(bytes);
        while let Some(end) = running.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = running.rest.drain(..=end).collect();
            self.output_line(step, running, &line[..end]);
        }
        // A step that never ends its line must not fill the memory.
        if running.rest.len() > 64 * 1024 {
            let line = std::mem::take(&mut running.rest);
            self.output_line(step, running, &line);
        }
    }

    fn output_line(&self, step: StepId, running: &mut Running, line: &[u8]) {
        let text = clean(line);
        if self.style == Style::Plain {
            self.line(&format!("#{} {:.3} {text}", step.0 + 1, running.started.elapsed().as_secs_f64()));
        }
        if let Some(bar) = &running.bar {
            bar.set_message(text.clone());
        }
        if running.tail.len() == TAIL_LINES {
            running.tail.pop_front();
        }
        running.tail.push_back(text);
    }

    fn settle(&self, state: &mut State, step: StepId, elapsed: Duration, failed: bool) {
        let Some(mut running) = state.running.remove(&step) else { return };
        if !running.rest.is_empty() {
            let line = std::mem::take(&mut running.rest);
            self.output_line(step, &mut running, &line);
        }
        if let Some(bar) = &running.bar {
            bar.finish_and_clear();
        }
        let seconds = elapsed.as_secs_f64();
        let end = match (failed, running.cached) {
            (true, _) => format!("ERROR {seconds:.1}s"),
            (false, true) => "CACHED".to_owned(),
            (false, false) => format!("DONE {seconds:.1}s"),
        };
        match self.style {
            Style::Plain => self.line(&format!("#{} {end}", step.0 + 1)),
            Style::Terminal => self.line(&format!("{} {end}", clean(running.name.as_bytes()))),
            Style::Json | Style::Quiet => {}
        }
        if failed && matches!(self.style, Style::Terminal | Style::Quiet) {
            self.line(&format!("--- {}", clean(running.name.as_bytes())));
            running.tail.iter().for_each(|line| self.line(line));
            self.line("---");
        }
    }
}

impl Progress for BuildProgress {
    fn event(&self, event: Event<'_>) {
        if self.style == Style::Json {
            drop(writeln!(std::io::stderr().lock(), "{}", json(&event)));
            return;
        }
        let mut state = self.state.lock().expect("no thread panics while it shows progress");
        match event {
            Event::Planned { .. } => {}
            Event::Started { step, name } => self.start(&mut state, step, name),
            Event::Output { step, bytes, .. } => self.output(&mut state, step, bytes),
            Event::Cached { step } => {
                if let Some(running) = state.running.get_mut(&step) {
                    running.cached = true;
                }
            }
            Event::Finished { step, elapsed } => self.settle(&mut state, step, elapsed, false),
            Event::Failed { step, elapsed } => self.settle(&mut state, step, elapsed, true),
            Event::Warning { text } => {
                state.warnings += 1;
                if self.style != Style::Quiet {
                    self.line(&format!("warning: {}", clean(text.as_bytes())));
                }
            }
        }
    }
}

/// Text without the bytes that could steer a terminal; tabs become blanks.
fn clean(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let text = text.rsplit('\r').next().unwrap_or_default();
    text.chars()
        .map(|letter| if letter == '\t' { ' ' } else { letter })
        .filter(|letter| !letter.is_control())
        .collect()
}

fn json(event: &Event<'_>) -> serde_json::Value {
    use serde_json::json;
    match event {
        Event::Planned { steps } => json!({"event": "planned", "steps": steps}),
        Event::Started { step, name } => json!({"event": "started", "step": step.0 + 1, "name": name}),
        Event::Output { step, stderr, bytes } => {
            let stream = if *stderr { "stderr" } else { "stdout" };
            json!({"event": "output", "step": step.0 + 1, "stream": stream, "text": String::from_utf8_lossy(bytes)})
        }
        Event::Cached { step } => json!({"event": "cached", "step": step.0 + 1}),
        Event::Finished { step, elapsed } => {
            json!({"event": "finished", "step": step.0 + 1, "seconds": elapsed.as_secs_f64()})
        }
        Event::Failed { step, elapsed } => {
            json!({"event": "failed", "step": step.0 + 1, "seconds": elapsed.as_secs_f64()})
        }
        Event::Warning { text } => json!({"event": "warning", "text": text}),
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn control_bytes_never_reach_a_terminal() {
        for (bytes, expected) in [
            (&b"plain"[..], "plain"),
            (b"a\tb", "a b"),
            (b"\x1b]0;title\x07text", "]0;titletext"),
            (b"10%\r50%\r100%", "100%"),
            (b"dos\r", "dos"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(clean(bytes), expected);
        }
    }
}

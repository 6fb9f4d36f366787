//! The user's terminal and a container's streams: raw mode, window size, signals, bytes to and fro.
//!
//! ```text
//! -t          user's terminal (raw) ◀──▶ master of the container's pty
//! otherwise   a stream that is a terminal ◀──▶ pipe; every other stream is handed over as it is
//! ```
//!
//! A container never gets a descriptor of the user's terminal: with one it could read what is typed
//! elsewhere. One loop on one thread attends to the streams, to signals and to the process; it
//! goes on after the process's end until the last byte is out.
//!
//! May touch: the three standard descriptors, this process's signal mask. Knows nothing of images,
//! the store, flags.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runner::container::Container;
use runner::sandbox::Stdio;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// What a user or the system sends to a command, and a container's process gets instead.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Our side of a container's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    signals: SignalFd,
    flows: Vec<Flow>,
    terminal: bool,
    interactive: bool,
}

/// Bytes on their way in one direction.
#[derive(Debug)]
struct Flow {
    from: OwnedFd,
    /// `None` when nobody reads any more; output is drained all the same.
    to: Option<OwnedFd>,
    pending: Vec<u8>,
    is_input: bool,
    ended: bool,
}

impl Streams {
    /// Holds signals back from now on, and makes the container's side of the streams.
    pub(crate) fn open(terminal: bool, interactive: bool) -> anyhow::Result<(Self, Stdio)> {
        let set: SigSet = FORWARDED.into_iter().collect();
        set.thread_block().context("cannot hold signals back")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("cannot wait for signals")?;
        let mut streams = Self { signals, flows: Vec::new(), terminal, interactive };
        let mut stdio = Stdio { terminal, ..Stdio::default() };
        if !terminal {
            if interactive {
                stdio.stdin = Some(streams.input(io::stdin().as_fd())?);
            }
            stdio.stdout = Some(streams.output(io::stdout().as_fd())?);
            stdio.stderr = Some(streams.output(io::stderr().as_fd())?);
        }
        Ok((streams, stdio))
    }

    /// Attends to streams and signals until the process has ended and its last byte is out.
    pub(crate) fn attend(mut self, container: &mut Container<'_>) -> anyhow::Result<()> {
        let _raw = self.take_terminal(container)?;
        loop {
            let ready = self.wait(container.pidfd())?;
            self.forward_signals(container)?;
            for (place, flow) in self.flows.iter_mut().enumerate() {
                if ready.flows & (1 << place) != 0 {
                    flow.advance();
                }
            }
            self.flows.retain(|flow| !flow.ended);
            if ready.ended {
                break;
            }
        }
        // All writers are dead: what is left is in the pipes, and then comes their end.
        for mut flow in self.flows.into_iter().filter(|flow| !flow.is_input) {
            while !flow.ended {
                let mut both = [PollFd::from_borrowed_fd(flow.waits_for(), flow.events())];
                wait_for(&mut both)?;
                flow.advance();
            }
        }
        Ok(())
    }

    fn input(&mut self, from: BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
        let from = from.try_clone_to_owned().context("cannot share stdin")?;
        if !from.is_terminal() {
            return Ok(from);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        rustix::io::ioctl_fionbio(&write, true).context("cannot set up a pipe")?;
        self.flows.push(Flow { from, to: Some(write), pending: Vec::new(), is_input: true, ended: false });
        Ok(read)
    }

    fn output(&mut self, to: BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
        let to = to.try_clone_to_owned().context("cannot share stdout and stderr")?;
        if !to.is_terminal() {
            return Ok(to);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let to = Some(to);
        self.flows.push(Flow { from: read, to, pending: Vec::new(), is_input: false, ended: false });
        Ok(write)
    }

    /// With `-t`: ties our terminal to the container's; the guard gives it back as it was.
    fn take_terminal(&mut self, container: &Container<'_>) -> anyhow::Result<Option<Raw>> {
        if !self.terminal {
            return Ok(None);
        }
        let master = container.terminal().context("the container has no terminal")?;
        let share = || master.try_clone().context("cannot share the container's terminal");
        rustix::io::ioctl_fionbio(master, true).context("cannot set up the container's terminal")?;
        follow_size(master.as_fd());
        let stdout = io::stdout().as_fd().try_clone_to_owned().context("cannot share stdout")?;
        self.flows.push(Flow {
            from: share()?,
            to: Some(stdout),
            pending: Vec::new(),
            is_input: false,
            ended: false,
        });
        if !self.interactive {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("cannot share stdin")?;
        let raw = Raw::enter(stdin.try_clone().context("cannot share stdin")?)?;
        self.flows.push(Flow {
            from: stdin,
            to: Some(share()?),
            pending: Vec::new(),
            is_input: true,
            ended: false,
        });
        Ok(Some(raw))
    }

    fn wait(&self, pidfd: BorrowedFd<'_>) -> anyhow::Result<Ready> {
        let mut all = vec![
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        all.extend(self.flows.iter().map(|flow| PollFd::from_borrowed_fd(flow.waits_for(), flow.events())));
        wait_for(&mut all)?;
        let is_ready = |place: usize| !all[place].revents().is_empty();
        let flows = (0..self.flows.len()).filter(|place| is_ready(place + 2));
        Ok(Ready { ended: is_ready(0), flows: flows.map(|place| 1 << place).sum() })
    }

    fn forward_signals(&self, container: &mut Container<'_>) -> anyhow::Result<()> {
        while let Some(info) = self.signals.read_signal().context("cannot read signals")? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
            match container.terminal() {
                Some(master) if signal == Signal::SIGWINCH as i32 => follow_size(master.as_fd()),
                _ => container.signal(signal)?,
            }
        }
        Ok(())
    }
}

/// What `poll` found.
struct Ready {
    /// The process.
    ended: bool,
    /// One bit each.
    flows: u32,
}

impl Flow {
    fn waits_for(&self) -> BorrowedFd<'_> {
        match &self.to {
            Some(to) if !self.pending.is_empty() => to.as_fd(),
            _ => self.from.as_fd(),
        }
    }

    fn events(&self) -> PollFlags {
        if self.pending.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// One read or one write, whichever `poll` waited for.
    fn advance(&mut self) {
        if self.pending.is_empty() { self.read() } else { self.write() }
    }

    fn read(&mut self) {
        // No more than a pipe takes at once after `poll` has said that it takes something.
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.from, &mut buffer) {
            Ok(count @ 1..) if self.to.is_some() => self.pending.extend_from_slice(&buffer[..count]),
            Ok(1..) | Err(Errno::AGAIN | Errno::INTR) => {}
            // The end; on a terminal's master it is an error, EIO. Closing our end passes it on.
            Ok(0) | Err(_) => self.ended = true,
        }
    }

    fn write(&mut self) {
        let Some(to) = &self.to else { return self.pending.clear() };
        match rustix::io::write(to, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                // Nobody reads any more. Input has come to its end; output goes nowhere.
                self.pending.clear();
                self.to = None;
                self.ended = self.is_input;
            }
        }
    }
}

/// The user's terminal in raw mode; dropping it restores what was.
#[derive(Debug)]
struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    fn enter(terminal: OwnedFd) -> anyhow::Result<Self> {
        let before = tcgetattr(&terminal).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).context("cannot set the terminal to raw mode")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Gives the container's terminal the size of ours.
fn follow_size(master: BorrowedFd<'_>) {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()));
    if let Ok(size) = size {
        // A terminal that its process has closed has no size.
        let _ = tcsetwinsize(master, size);
    }
}

fn wait_for(descriptors: &mut [PollFd<'_>]) -> anyhow::Result<()> {
    loop {
        match poll(descriptors, None) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).context("cannot wait for the container"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: OwnedFd, to: OwnedFd, is_input: bool) -> Flow {
        Flow { from, to: Some(to), pending: Vec::new(), is_input, ended: false }
    }

    #[test]
    fn bytes_flow_to_the_end_and_then_the_reader_sees_it() {
        let (source, feed) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (sink, target) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&feed, b"some bytes").unwrap();
        drop(feed);
        let mut flow = flow(source, target, false);
        while !flow.ended {
            flow.advance();
        }
        drop(flow);
        let mut seen = [0; 64];
        assert_eq!(rustix::io::read(&sink, &mut seen).unwrap(), 10);
        assert_eq!(rustix::io::read(&sink, &mut seen).unwrap(), 0);
    }

    #[test]
    fn output_that_nobody_reads_is_drained_and_input_ends() {
        for is_input in [false, true] {
            let (source, feed) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let (sink, target) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            drop(sink);
            let mut flow = flow(source, target, is_input);
            rustix::io::write(&feed, b"x").unwrap();
            flow.advance();
            flow.advance();
            assert_eq!(flow.ended, is_input);
            drop(feed);
            flow.advance();
            assert!(flow.ended);
        }
    }
}

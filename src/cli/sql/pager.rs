//! Text on a terminal: as it is while it fits the screen, through a pager once it does not.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Lines below a result that has to fit: its summary and the next prompt.
const LINES_KEPT: usize = 2;

/// Of the terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Held back until it is known whether all of it fits. The pager is left with the last of it.
pub struct Screen {
    size: Size,
    /// `$PAGER`, a line for the shell; empty means none.
    program: Option<String>,
    held: Vec<u8>,
    pager: Option<Child>,
    is_plain: bool,
}

impl Screen {
    /// `program` is `$PAGER`: without it `less` is taken, and an empty one stands for no pager.
    pub fn new(size: Size, program: Option<String>) -> Self {
        let is_plain = program.as_ref().is_some_and(|program| program.trim().is_empty());
        Self { size, program, held: Vec::new(), pager: None, is_plain }
    }

    fn pipe(&mut self) -> Option<&mut ChildStdin> {
        self.pager.as_mut()?.stdin.as_mut()
    }

    /// Without a pager everything goes to the screen.
    fn open(&mut self) -> io::Result<()> {
        let started = match &self.program {
            Some(program) => Command::new("sh").args(["-c", program]).stdin(Stdio::piped()).spawn(),
            // Wide rows are cut and can be scrolled.
            None => Command::new("less").arg("-S").stdin(Stdio::piped()).spawn(),
        };
        self.pager = started.ok();
        self.is_plain = self.pager.is_none();
        let held = std::mem::take(&mut self.held);
        self.write_all(&held)
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(pipe) = self.pipe() {
            return pipe.write(bytes);
        }
        if self.is_plain {
            return io::stdout().write(bytes);
        }
        self.held.extend_from_slice(bytes);
        if lines(&self.held, self.size.columns) + LINES_KEPT > self.size.rows {
            self.open()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.pipe() {
            Some(pipe) => pipe.flush(),
            None => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        match self.pager.take() {
            Some(mut pager) => {
                drop(pager.stdin.take());
                let _ = pager.wait();
            }
            None => {
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(&self.held).and_then(|()| stdout.flush());
            }
        }
    }
}

/// Lines on the screen, where a long one takes several.
fn lines(text: &[u8], columns: usize) -> usize {
    let text = String::from_utf8_lossy(text);
    text.lines().map(|line| line.chars().count().div_ceil(columns.max(1)).max(1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_takes_several_on_the_screen() {
        assert_eq!(lines(b"", 4), 0);
        assert_eq!(lines(b"\nabcd\n", 4), 2);
        assert_eq!(lines("ééééé\nab".as_bytes(), 4), 3);
    }

    #[test]
    fn what_does_not_fit_goes_through_the_pager() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let program = format!("cat > {}", file.path().display());
        let size = Size { columns: 80, rows: 5 };
        let mut screen = Screen::new(size, Some(program.clone()));
        screen.write_all(b"1\n2\n3\n").unwrap();
        assert!(screen.pager.is_none());
        screen.write_all(b"4\n").unwrap();
        screen.write_all(b"5\n").unwrap();
        drop(screen);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "1\n2\n3\n4\n5\n");
        let mut none = Screen::new(size, Some(" ".to_owned()));
        none.write_all(b"").unwrap();
        assert!(none.is_plain);
    }
}

//! How the engine and the process that holds a driver talk: frames on a pipe, requests and replies
//! as JSON, rows as an Arrow stream cut into frames. Knows no driver.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One byte of kind and four of length go before the content.
const HEAD_BYTES: usize = 5;
/// Larger frames are a broken pipe's.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Rows are cut into frames of about this.
const ROWS_FRAME_BYTES: usize = 1 << 20;

const MESSAGE: u8 = b'M';
const ROWS: u8 = b'R';
const END: u8 = b'E';

/// What the engine asks of the driver's process, one thing at a time.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// First of all: which library to load, and what to connect to.
    Connect {
        library: String,
        entrypoint: Option<String>,
        options: Vec<(String, String)>,
    },
    /// Rows follow in the reply.
    Query {
        sql: String,
    },
    Execute {
        sql: String,
    },
    /// Rows follow the request.
    Ingest {
        schema: String,
        table: String,
    },
}

/// How a request ends. A query has two: one before its rows and one after them.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done {
        rows: Option<i64>,
    },
    /// What the driver said, and its status by name.
    Failed {
        status: String,
        message: String,
        sqlstate: String,
    },
}

/// As one frame, flushed.
pub fn send<M: Serialize>(output: &mut impl Write, message: &M) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    write_frame(output, MESSAGE, &text)?;
    output.flush()
}

/// `None` when the other side is gone.
pub fn receive<M: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<M>> {
    match read_frame(input)? {
        None => Ok(None),
        Some((MESSAGE, content)) => Ok(Some(serde_json::from_slice(&content)?)),
        Some((kind, _)) => Err(unexpected(kind)),
    }
}

fn write_frame(output: &mut impl Write, kind: u8, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    output.write_all(&[kind])?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(content)
}

fn read_frame(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; HEAD_BYTES];
    if input.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..])?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut content = vec![0; length];
    input.read_exact(&mut content)?;
    Ok(Some((head[0], content)))
}

fn unexpected(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected frame {kind}"))
}

/// Takes an Arrow stream and sends it as frames; [`Self::end`] says that it is whole.
pub struct RowsWriter<W: Write> {
    output: W,
    buffer: Vec<u8>,
}

impl<W: Write> RowsWriter<W> {
    pub fn new(output: W) -> Self {
        Self { output, buffer: Vec::with_capacity(ROWS_FRAME_BYTES) }
    }

    /// Says that the stream is whole; without it, the reader takes the stream for broken.
    pub fn end(mut self) -> io::Result<()> {
        self.send_buffer()?;
        write_frame(&mut self.output, END, &[])?;
        self.output.flush()
    }

    fn send_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        write_frame(&mut self.output, ROWS, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for RowsWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(ROWS_FRAME_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == ROWS_FRAME_BYTES {
            self.send_buffer()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same stream on the other side. A stream without its end is an error, never a short one.
pub struct RowsReader<R: Read> {
    input: R,
    frame: Vec<u8>,
    read: usize,
    is_ended: bool,
}

impl<R: Read> RowsReader<R> {
    pub fn new(input: R) -> Self {
        Self { input, frame: Vec::new(), read: 0, is_ended: false }
    }

    /// Skips what nobody read.
    pub fn finish(&mut self) -> io::Result<()> {
        while !self.is_ended {
            self.next_frame()?;
        }
        Ok(())
    }

    fn next_frame(&mut self) -> io::Result<()> {
        match read_frame(&mut self.input)? {
            Some((ROWS, content)) => (self.frame, self.read) = (content, 0),
            Some((END, _)) => self.is_ended = true,
            Some((kind, _)) => return Err(unexpected(kind)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

impl<R: Read> Read for RowsReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.read == self.frame.len() && !self.is_ended {
            self.next_frame()?;
        }
        let left = self.frame.get(self.read..).unwrap_or_default();
        let taken = bytes.len().min(left.len());
        bytes[..taken].copy_from_slice(&left[..taken]);
        self.read += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_arrive_whole_or_not_at_all() {
        let rows: Vec<u8> = (0..3 * ROWS_FRAME_BYTES + 7).map(|n| (n % 251) as u8).collect();
        let mut pipe = Vec::new();
        let mut writer = RowsWriter::new(&mut pipe);
        writer.write_all(&rows).unwrap();
        writer.end().unwrap();
        send(&mut pipe, &Reply::Done { rows: Some(3) }).unwrap();

        let mut input = pipe.as_slice();
        let mut found = Vec::new();
        RowsReader::new(&mut input).read_to_end(&mut found).unwrap();
        assert_eq!(found, rows);
        assert!(matches!(receive(&mut input), Ok(Some(Reply::Done { rows: Some(3) }))));
        assert!(receive::<Reply>(&mut input).unwrap().is_none());

        let cut = &pipe[..2 * ROWS_FRAME_BYTES];
        assert!(RowsReader::new(cut).read_to_end(&mut found).is_err());
    }
}

//! HTTP over a socket, as far as tests need it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;

pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads all but the body.
    pub fn head(stream: &mut BufReader<UnixStream>) -> Answer {
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        while let Some((name, value)) = line().split_once(": ") {
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Answer { status, headers, body: Vec::new() }
    }

    /// Reads all, by the length that is told, or to the end of the stream.
    pub fn read(stream: &mut BufReader<UnixStream>) -> Answer {
        let mut answer = Answer::head(stream);
        if let Ok(length) = answer.header("content-length").parse() {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body).unwrap();
        } else if answer.status != 101 {
            stream.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }
}

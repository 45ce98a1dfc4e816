// SPDX-License-Identifier: GPL-2.0-only
//! The verdict channel: JSON lines from the guest's init.

use serde::Deserialize;

/// One line of the verdict channel.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The guest's init runs.
    Hello {
        /// `uname -r`
        kernel: String,
        /// processors the guest sees
        cpus: u32,
        /// seconds since the kernel started
        uptime: f64,
    },
    /// The command has ended.
    Exit {
        /// its exit status
        status: i32,
        /// `/proc/sys/kernel/tainted`
        tainted: u64,
    },
    /// The files are sent too; the guest switches off.
    End,
}

/// What is known of a guest from its verdict channel so far.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Verdict {
    /// kernel and number of processors, once the guest has said hello
    pub hello: Option<(String, u32)>,
    /// exit status and taint flags, once the command has ended
    pub exit: Option<(i32, u64)>,
    /// true once the guest has nothing more to say
    pub ended: bool,
}

impl Verdict {
    /// Reads the whole channel; a line that is not finished yet, or not understood, counts as absent.
    pub fn read(text: &str) -> Self {
        let mut verdict = Self::default();
        let finished = text.rfind('\n').map_or("", |end| &text[..end]);
        for event in finished
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
        {
            match event {
                Event::Hello { kernel, cpus, .. } => verdict.hello = Some((kernel, cpus)),
                Event::Exit { status, tainted } => verdict.exit = Some((status, tainted)),
                Event::End => verdict.ended = true,
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "{\"event\":\"hello\",\"kernel\":\"7.2\",\"cpus\":2,\"uptime\":2.31}\n";

    #[test]
    fn complete_run() {
        let text = format!(
            "{HELLO}{{\"event\":\"exit\",\"status\":3,\"tainted\":12288}}\n{{\"event\":\"end\"}}\n"
        );
        let verdict = Verdict::read(&text);
        assert_eq!(verdict.hello, Some(("7.2".into(), 2)));
        assert_eq!(verdict.exit, Some((3, 12288)));
        assert!(verdict.ended);
    }

    #[test]
    fn nothing_said_is_no_verdict() {
        assert_eq!(Verdict::read(""), Verdict::default());
    }

    #[test]
    fn half_a_line_does_not_count() {
        let text = format!("{HELLO}{{\"event\":\"exit\",\"status\":0,\"tainted\":0}}");
        let verdict = Verdict::read(&text);
        assert!(verdict.hello.is_some());
        assert_eq!(verdict.exit, None);
    }

    #[test]
    fn noise_is_no_verdict() {
        assert_eq!(
            Verdict::read("exit 0\n{\"event\":\"exit\"}\n\u{0}\n"),
            Verdict::default()
        );
    }
}

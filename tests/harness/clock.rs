//! A time of day that tests set.

use std::process::Command;

use super::Files;

/// The time of day of a gateway that is started with [`Clock::env`].
pub struct Clock {
    files: Files,
    env: [(&'static str, String); 2],
}

impl Clock {
    /// It is right at first. Made by the compiler that builds the gateway's own C.
    #[track_caller]
    pub fn start() -> Clock {
        let files = Files::new();
        let source = files.write("clock.c", include_bytes!("clock.c"));
        let library = files.dir().join("clock.so");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(made.is_ok_and(|status| status.success()), "cc is there (apt: build-essential)");
        let env = [("LD_PRELOAD", library.display().to_string()), ("CLOCK", files.dir().join("ahead").display().to_string())];
        Clock { files, env }
    }

    pub fn env(&self) -> [(&'static str, &str); 2] {
        self.env.each_ref().map(|(name, value)| (*name, value.as_str()))
    }

    /// Sets it so many seconds ahead of what it is.
    pub fn set(&self, ahead: i64) {
        let new = self.files.write("new", ahead.to_string());
        std::fs::rename(new, self.files.dir().join("ahead")).unwrap();
    }
}

//! What a shell starts with: the user's account, and an environment without the engine's own secrets.
//!
//! Nothing of the engine's environment is passed on but what is named here: a token in a variable must not be readable by
//! whoever may open a shell.

use std::collections::BTreeMap;
use std::ffi::CStr;

/// Variables of the engine that shells get, besides those that begin with `LC_`.
const PASSED_ON: [&str; 4] = ["PATH", "LANG", "TZ", "LANGUAGE"];
/// What `PATH` is when the engine has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest account entry that is read, in bytes.
const ACCOUNT_BYTES: usize = 16 << 10;

/// The user that the engine runs as.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl Account {
    /// Looks the user up in the system's accounts; a user without an entry gets `/` and `/bin/sh`.
    pub(crate) fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let mut own = Self::lookup(uid).unwrap_or_else(|| Self {
            name: uid.to_string(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        });
        // Who starts the engine with another home, in a container say, means it for the shells too.
        if let Some(home) = std::env::var("HOME").ok().filter(|home| home.starts_with('/')) {
            own.home = home;
        }
        own
    }

    fn lookup(uid: u32) -> Option<Self> {
        let mut buffer = vec![0; ACCOUNT_BYTES];
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live memory of the lengths that are given, for the duration of the call.
        let code = unsafe {
            libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found)
        };
        if code != 0 || found.is_null() {
            return None;
        }
        // SAFETY: the call succeeded and found an entry, so that it filled `entry` in.
        let entry = unsafe { entry.assume_init() };
        let text = |field: *const libc::c_char| {
            // SAFETY: the fields are null or point to strings that end within `buffer`, which is still alive.
            (!field.is_null()).then(|| unsafe { CStr::from_ptr(field) }.to_string_lossy().into_owned())
        };
        Some(Self {
            name: text(entry.pw_name)?,
            home: text(entry.pw_dir).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into()),
            shell: text(entry.pw_shell).filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into()),
        })
    }

    /// The environment of a shell that runs `program`: the account's, what is passed on, and `own` on top.
    pub(crate) fn environment(&self, program: &str, own: &[&BTreeMap<String, String>]) -> Vec<(String, String)> {
        let mut variables = BTreeMap::from([
            ("PATH".to_string(), PATH.to_string()),
            ("TERM".into(), "xterm-256color".into()),
            ("HOME".into(), self.home.clone()),
            ("USER".into(), self.name.clone()),
            ("LOGNAME".into(), self.name.clone()),
            ("SHELL".into(), if program.starts_with('/') { program.into() } else { self.shell.clone() }),
        ]);
        for (name, value) in std::env::vars_os() {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
                && (PASSED_ON.contains(&name) || name.starts_with("LC_"))
            {
                variables.insert(name.into(), value.into());
            }
        }
        for more in own {
            variables.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        variables.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gets_no_secret_of_the_engine() {
        let account = Account { name: "u".into(), home: "/home/u".into(), shell: "/bin/sh".into() };
        let own = BTreeMap::from([("TERM".to_string(), "dumb".to_string())]);
        let environment = account.environment("/bin/bash", &[&own]);
        let names: Vec<_> = environment.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| name.starts_with("LC_")
            || PASSED_ON.contains(name)
            || ["HOME", "USER", "LOGNAME", "SHELL", "TERM"].contains(name)));
        assert!(environment.contains(&("TERM".into(), "dumb".into())));
        assert!(environment.contains(&("SHELL".into(), "/bin/bash".into())));
        assert!(!Account::own().home.is_empty());
    }
}

//! The machine a configuration is read on, behind a trait: variables, files, names.
//!
//! Reading a configuration is a pure function of its text and these answers, so tests need no process environment.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// What the loader asks the machine.
pub trait Host {
    /// The value of an environment variable; `None` when it is not set or not UTF-8.
    fn var(&self, name: &str) -> Option<String>;

    /// A file's bytes, [`FILE_MAX`] and one at most.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Whether this is a directory that is there.
    fn is_dir(&self, path: &Path) -> bool;

    /// Whether something else than a directory is there.
    fn is_no_dir(&self, path: &Path) -> bool;

    /// The one name of a place: without links and `..`, as far as it is there.
    fn resolved(&self, path: &Path) -> PathBuf;

    /// The machine's own name.
    fn hostname(&self) -> Option<String>;

    /// The address packets towards the far end leave from.
    fn address(&self) -> Option<String>;
}

/// Largest configuration file we read: 1 MiB, some twenty times the largest we have seen.
pub const FILE_MAX: usize = 1 << 20;

/// A path without `.` and `..`, by its letters alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// This machine. The address is asked of a function the caller brings, because only the caller may open sockets.
pub struct Machine<A> {
    address: A,
}

impl<A: Fn() -> Option<String>> Machine<A> {
    /// `address` is called at most when `HOST_IP` and `AGENT_IP` are both not set.
    pub fn new(address: A) -> Machine<A> {
        Machine { address }
    }
}

impl<A: Fn() -> Option<String>> Host for Machine<A> {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = u64::try_from(FILE_MAX + 1).unwrap_or(u64::MAX);
        std::fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn is_no_dir(&self, path: &Path) -> bool {
        path.exists() && !path.is_dir()
    }

    fn resolved(&self, path: &Path) -> PathBuf {
        // What is not there yet has no links; what is above it may have.
        let real = path.ancestors().find_map(|there| {
            let rest = path.strip_prefix(there).ok()?;
            Some(there.canonicalize().ok()?.join(rest))
        });
        plain(&real.unwrap_or_else(|| path.to_owned()))
    }

    fn hostname(&self) -> Option<String> {
        let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
        (!name.is_empty()).then_some(name)
    }

    fn address(&self) -> Option<String> {
        (self.address)()
    }
}

impl<A> std::fmt::Debug for Machine<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

/// A machine made up for a test.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Default)]
pub struct Imagined {
    /// Its environment.
    pub vars: std::collections::BTreeMap<String, String>,
    /// Its files, by path.
    pub files: std::collections::BTreeMap<String, String>,
    /// Its directories.
    pub dirs: Vec<String>,
    /// Its links to directories, by path.
    pub links: std::collections::BTreeMap<String, String>,
    /// Its name.
    pub name: Option<String>,
    /// Its address.
    pub ip: Option<String>,
}

#[cfg(any(test, feature = "testing"))]
impl Imagined {
    /// With these variables and nothing else.
    #[must_use]
    pub fn with(vars: &[(&str, &str)]) -> Imagined {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Imagined { vars, ..Imagined::default() }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Host for Imagined {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.files.get(&path.display().to_string());
        text.map(|t| t.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/") || self.dirs.contains(&path.display().to_string())
    }

    fn is_no_dir(&self, path: &Path) -> bool {
        self.files.contains_key(&path.display().to_string())
    }

    fn resolved(&self, path: &Path) -> PathBuf {
        let path = plain(path);
        let behind = |(link, to): (&String, &String)| path.strip_prefix(link).ok().map(|rest| Path::new(to).join(rest));
        self.links.iter().find_map(behind).unwrap_or(path)
    }

    fn hostname(&self) -> Option<String> {
        self.name.clone()
    }

    fn address(&self) -> Option<String> {
        self.ip.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_variables_files_and_directories() {
        let machine = Machine::new(|| Some("10.0.0.7".to_owned()));
        assert!(machine.hostname().is_some_and(|name| !name.is_empty()));
        assert_eq!(machine.address(), Some("10.0.0.7".to_owned()));
        assert!(machine.var("PATH").is_some());
        assert!(machine.is_dir(Path::new("/proc")));
        assert_eq!(machine.read(Path::new("/dev/zero")).map(|b| b.len()).ok(), Some(FILE_MAX + 1));
        assert!(machine.read(Path::new("/nowhere")).is_err());
        assert!(machine.is_no_dir(Path::new("/dev/null")) && !machine.is_no_dir(Path::new("/dev")));
        assert!(!machine.is_no_dir(Path::new("/nowhere")));
    }

    #[test]
    fn a_place_has_one_name_whether_it_is_there_or_not() {
        let machine = Machine::new(|| None);
        let dir = tempfile::tempdir().expect("there is space");
        let real = dir.path().canonicalize().expect("it is there");
        std::fs::create_dir(real.join("a")).expect("there is space");
        std::os::unix::fs::symlink(real.join("a"), real.join("link")).expect("there is space");
        for (path, expected) in [
            ("a", "a"),
            ("link", "a"),
            ("link/new", "a/new"),
            ("new/../a/./x", "a/x"),
            ("new/b", "new/b"),
            ("a/../link/", "a"),
        ] {
            assert_eq!(machine.resolved(&real.join(path)), real.join(expected), "{path}");
        }
        assert_eq!(machine.resolved(Path::new("nowhere/../x")), Path::new("x"));
    }
}

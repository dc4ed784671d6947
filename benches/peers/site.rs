//! Where the benchmark runs: programs, directories, and facts about the machine.

use std::{
    cell::Cell,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::drive::output;

/// The product's builds, a directory for everybody's data, and the document to write to. `benches/run` sets it up.
pub(crate) struct Site {
    product: PathBuf,
    product_kind: String,
    default_build: PathBuf,
    baseline: PathBuf,
    document: Option<PathBuf>,
    work: tempfile::TempDir,
    made: Cell<u32>,
}

impl Site {
    /// # Panics
    /// When `benches/run` did not say where things are.
    pub(crate) fn from_environment() -> Self {
        let path = |name: &str| {
            let value = env::var_os(name);
            PathBuf::from(value.unwrap_or_else(|| panic!("{name} is not set: start this with benches/run")))
        };
        let work = tempfile::Builder::new()
            .prefix("triplock-bench-")
            .tempdir_in(path("BENCH_WORK"))
            .expect("a directory for the benchmark's data");
        // A server under a user of its own must be able to pass through.
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
        Self {
            product: path("BENCH_PRODUCT"),
            product_kind: env::var("BENCH_PRODUCT_KIND").unwrap_or_default(),
            default_build: path("BENCH_DEFAULT_BUILD"),
            baseline: path("BENCH_BASELINE"),
            document: env::var_os("BENCH_DOCUMENT").map(PathBuf::from),
            work,
            made: Cell::new(0),
        }
    }

    /// The product as it is packaged.
    pub(crate) fn product(&self) -> &Path {
        &self.product
    }

    /// The product as `cargo build --release` makes it.
    pub(crate) fn default_build(&self) -> &Path {
        &self.default_build
    }

    /// `benches/baseline.rs`, built as the product is.
    pub(crate) fn baseline(&self) -> &Path {
        &self.baseline
    }

    pub(crate) fn document(&self) -> Option<&Path> {
        self.document.as_deref()
    }

    /// A fresh directory, on the file system that everybody's data is on.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        let path = self.work.path().join(format!("{}-{name}", self.made.get()));
        fs::create_dir(&path).expect("a directory for the benchmark's data");
        path
    }

    /// The machine in one line.
    pub(crate) fn facts(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let file_system = output(Command::new("df").arg("--output=fstype").arg(self.work.path()));
        let date = output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]));
        format!(
            "Measured {}: {cores} cores, Linux {}, {}, load {} at the end; the product as a {} build",
            date.trim(),
            kernel.trim(),
            file_system.lines().last().unwrap_or_default(),
            load.split(' ').next().unwrap_or_default(),
            self.product_kind,
        )
    }
}

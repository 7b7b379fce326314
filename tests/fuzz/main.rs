//! Fuzz targets for what strangers, producers and users send: one libFuzzer program, whose target
//! the variable `FLOWGUARD_FUZZ_TARGET` names. `tests/fuzz/run` compiles it with the crate
//! instrumented, the lints without; elsewhere it is an empty program.

#![cfg_attr(fuzzing, no_main)]
// libFuzzer finds its functions by their C names. The house rules are for the program.
#![allow(unsafe_code, clippy::disallowed_methods, clippy::unwrap_used)]

#[cfg(fuzzing)]
mod door;
#[cfg(fuzzing)]
mod flight;
#[cfg(fuzzing)]
mod messages;
#[cfg(fuzzing)]
mod texts;

#[cfg(not(fuzzing))]
fn main() {}

/// Judges one input; panics where an invariant does not hold.
#[cfg(fuzzing)]
type Judge = Box<dyn Fn(&[u8]) + Send + Sync>;

#[cfg(fuzzing)]
mod targets {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Judge, door, flight, messages, texts};

    struct Target {
        name: &'static str,
        judge: fn() -> Judge,
        /// Inputs to begin with.
        seeds: fn() -> Vec<Vec<u8>>,
    }

    const TARGETS: [Target; 6] = [
        Target { name: "yaml", judge: || Box::new(texts::yaml), seeds: texts::yaml_seeds },
        Target { name: "dags", judge: || Box::new(texts::dags), seeds: texts::dags_seeds },
        Target { name: "models", judge: || Box::new(texts::models), seeds: texts::model_seeds },
        Target { name: "decode", judge: || Box::new(messages::judge), seeds: messages::seeds },
        Target { name: "door", judge: door::judge, seeds: door::seeds },
        Target { name: "flight", judge: flight::judge, seeds: flight::seeds },
    ];

    static CHOSEN: OnceLock<Judge> = OnceLock::new();

    /// libFuzzer keeps inputs that raise a counter it has not seen raised. Where the crate is not
    /// instrumented these are the only ones: an input is worth keeping for its length.
    const LENGTHS: usize = 4096;
    #[unsafe(link_section = "__libfuzzer_extra_counters")]
    static COUNTERS: [AtomicU8; LENGTHS] = [const { AtomicU8::new(0) }; LENGTHS];

    /// Chooses the target, and writes its seeds into the folder that a second variable names.
    fn choose() {
        let name = std::env::var("FLOWGUARD_FUZZ_TARGET").unwrap_or_default();
        let names = || TARGETS.map(|target| target.name).join(", ");
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("no target `{name}`; there are {}", names()));
        if let Ok(folder) = std::env::var("FLOWGUARD_FUZZ_SEEDS") {
            for (number, seed) in (target.seeds)().into_iter().enumerate() {
                std::fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).unwrap();
            }
        }
        let _ = CHOSEN.set((target.judge)());
    }

    libfuzzer_sys::fuzz_target!(init: choose(), |bytes: &[u8]| {
        COUNTERS[bytes.len() % LENGTHS].store(1, Ordering::Relaxed);
        CHOSEN.get().expect("chosen before the first input")(bytes);
    });
}

/// A file of the repository.
#[cfg(fuzzing)]
fn repository(path: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// `genuine` with the changes that `program` describes: three bytes for each, which flip bits of a
/// byte, cut the rest off or put a byte in.
#[cfg(fuzzing)]
fn edited(genuine: &[u8], program: &[u8]) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    for step in program.chunks_exact(3) {
        let at = usize::from(step[1]) % (bytes.len() + 1);
        match step[0] % 3 {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= step[2]),
            1 => bytes.truncate(at),
            _ => bytes.insert(at, step[2]),
        }
    }
    bytes
}

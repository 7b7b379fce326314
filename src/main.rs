//! Entry point: reads the process, starts the runtime, prints the error that ends it.

#![allow(clippy::print_stderr, clippy::disallowed_methods)]

use std::process::ExitCode;

use flowguard::cli::{Interrupts, Process, execute};
use flowguard::clock::Clock;
use flowguard::error::Error;
use flowguard::lake::stage::is_caught_panic;
use flowguard::model::depth::STACK_BYTES;
use tokio_util::sync::CancellationToken;

/// Gives back what a heavy statement needed; the system's allocator keeps it per thread.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Its options: what is freed goes back at once, not after ten seconds. A build that held 612 MiB had
/// 780 otherwise, and took as long.
#[allow(unsafe_code)] // The name by which jemalloc finds them, as a text in C's form.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_OPTIONS: &[u8; 17] = b"dirty_decay_ms:0\0";

fn main() -> ExitCode {
    let print_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_caught_panic(panic) {
            print_panic(panic);
        }
    }));
    // The first thread's stack is the shell's choice.
    let started = std::thread::Builder::new().name("main".to_owned()).stack_size(STACK_BYTES);
    let outcome = match started.spawn(start) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(source) => Err(Error::internal("cannot start a thread").source(source)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn start() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|source| Error::internal("cannot start the runtime").source(source))?;
    let current_folder = std::env::current_dir()
        .map_err(|source| Error::invalid("the current folder is gone").source(source))?;
    let program = std::env::current_exe()
        .map_err(|source| Error::internal("this program has no file").source(source))?;
    let process = Process {
        program,
        environment: std::env::vars().collect(),
        current_folder,
        clock: Clock::of_machine(),
        stop: CancellationToken::new(),
        interrupts: Interrupts::default(),
    };
    let (stop, interrupts) = (process.stop.clone(), process.interrupts.clone());
    runtime.block_on(async {
        tokio::spawn(stop_on_signal(stop, interrupts));
        execute(std::env::args_os().collect(), process).await
    })
}

/// The first signal asks for an orderly end, the second does not wait for it. A Ctrl-C may be a
/// statement's, and then ends no more than that.
async fn stop_on_signal(stop: CancellationToken, interrupts: Interrupts) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        let is_interrupt = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => false,
        };
        if is_interrupt && interrupts.is_taken() {
            continue;
        }
        if stop.is_cancelled() && !interrupts.is_patient() {
            std::process::exit(130);
        }
        stop.cancel();
    }
}

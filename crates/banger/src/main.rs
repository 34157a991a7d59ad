//! The `banger` program. Everything is in the library beside it.

fn main() -> std::process::ExitCode {
    banger_cli::main()
}

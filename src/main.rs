//! The `dxflow` program.

fn main() -> std::process::ExitCode {
    dxflow::cli::main()
}

//! scratch
use clap::Parser;
#[derive(Parser)]
struct A { #[command(flatten)] args: loadtest::bench::BenchArgs, #[arg(long)] toll: std::path::PathBuf, #[arg(long)] mock: std::path::PathBuf }
fn main() {
    let a = A::parse();
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match rt.block_on(loadtest::bench::run(a.args, a.toll, a.mock)) { Ok(r) => println!("{r}\nmissed {:?}", r.floors_missed()), Err(e) => { eprintln!("ERR {e:#}"); std::process::exit(1) } }
}

#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "import_world/mod.rs"]
mod world;
#[tokio::test]
async fn speed() {
    let mut world = world::World::start("speed").await;
    let n: u32 = std::env::var("ROWS").unwrap().parse().unwrap();
    let mut file = String::from("msisdn,plan,reference,zone,start\n");
    for i in 0..n {
        match i % 3 { 0 => file += &format!("8190{:07},hoshi-anime-monthly,ref-{i},,\n", i),
            1 => file += &format!("346{:08},alfa-news-daily,ref-{i},Atlantic/Canary,2026-12-01\n", i),
            _ => file += &format!("216{:08},medina-kids-daily,ref-{i},,\n", i) };
    }
    for round in 0..2 {
        let cpu0 = cpu();
        let mut seen = Vec::new();
        let (report, _) = world.run(file.as_bytes(), Some(file.len() as u64), &mut seen).await.unwrap();
        let step = (seen.len() / 10).max(1);
        let rates: Vec<_> = seen.iter().step_by(step).map(|p| p.rows_per_s).collect();
        println!("round {round}: {report:?} rate {} rows/s, own cpu {:.2}s; {rates:?}", report.rows * 1000 / report.elapsed_ms.max(1), cpu() - cpu0);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().filter(|l| l.starts_with("VmHWM")).collect::<String>());
}
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}

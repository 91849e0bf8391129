//! A report for people.

use realm_conformance::{
    report::{Check, Figure, Report},
    stats::Interval,
};

use crate::{output, table::Table};

pub(super) fn print(report: &Report) -> anyhow::Result<()> {
    let Report { url, tenants: [one, other], seed, verdict, checks } = report;
    let mut table = Table::headed(["CHECK", "VERDICT", "TRIALS", "WHY"]);
    for Check { about, verdict, why, trials, .. } in checks {
        let [id, verdict] = [about.id, verdict.word()].map(str::to_owned);
        table.add([id, verdict, trials.to_string(), why.clone()]);
    }
    output::table(&table, "nothing was tried")?;
    for check in checks.iter().filter(|check| !check.figures.is_empty()) {
        output::line(format!("\n{}: {}", check.about.id, check.about.claim))?;
        output::line(format!("holds where {}", check.about.threshold))?;
        let mut table = Table::headed(["FIGURE", "VALUE", "95%", "BOUNDS"]);
        check.figures.iter().for_each(|figure| table.add(row(figure)));
        output::table(&table, "")?;
    }
    let verdict = verdict.word();
    output::line(format!("\n{verdict}: {one} and {other} at {url}, seed {seed}"))?;
    Ok(())
}

fn row(figure: &Figure) -> [String; 4] {
    let Figure { name, unit, value, interval, bounds } = figure;
    let span = |interval: &Option<Interval>| {
        interval.map_or_else(String::new, |Interval { low, high }| format!("{low:.2} to {high:.2}"))
    };
    let value = format!("{value:.2} {unit}");
    [name.clone(), value.trim_end().to_owned(), span(interval), span(bounds)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_a_verdict_hangs_on_has_its_interval_and_bounds() {
        let plain = Figure::plain("first token", "ms", 12.345);
        assert_eq!(row(&plain), ["first token", "12.35 ms", "", ""]);
        let interval = Some(Interval { low: -1.0, high: 2.0 });
        let bounds = Some(Interval::around_zero(3.0));
        let judged = Figure { interval, bounds, ..Figure::plain("difference", "", 0.5) };
        assert_eq!(row(&judged), ["difference", "0.50", "-1.00 to 2.00", "-3.00 to 3.00"]);
    }
}

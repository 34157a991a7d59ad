//! Series of measurements and the table made of them.

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn of(value: f64) -> Series {
        Series(vec![value])
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The value below which this share of the measurements lies.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn show(&self, unit: &str) -> String {
        if self.0.len() == 1 {
            return format!("{:.2} {unit}", self.0[0]);
        }
        format!(
            "{:.2} {unit} ({:.2} to {:.2}, n={})",
            self.median(),
            self.quantile(0.0),
            self.quantile(1.0),
            self.0.len()
        )
    }
}

/// One line of the table.
pub(crate) struct Row {
    what: String,
    measured: String,
    floor: String,
    figure: String,
    promise: String,
    kept: bool,
}

impl Row {
    /// Smaller is better: at most `limit` times the floor.
    pub(crate) fn ratio(
        what: &str,
        floor: &str,
        unit: &str,
        a: &Series,
        b: &Series,
        limit: f64,
    ) -> Row {
        let ratio = a.median() / b.median();
        Row {
            what: what.into(),
            measured: a.show(unit),
            floor: format!("{floor}: {}", b.show(unit)),
            figure: format!("{ratio:.2} x"),
            promise: format!("<= {limit:.2} x"),
            kept: ratio <= limit,
        }
    }

    /// A ratio for which nothing is promised.
    pub(crate) fn unpromised(what: &str, floor: &str, unit: &str, a: &Series, b: &Series) -> Row {
        Row {
            promise: "-".into(),
            kept: true,
            ..Row::ratio(what, floor, unit, a, b, f64::INFINITY)
        }
    }

    /// A figure for which nothing is promised.
    pub(crate) fn figure(what: &str, unit: &str, a: &Series) -> Row {
        Row {
            promise: "-".into(),
            kept: true,
            ..Row::absolute(what, unit, a, f64::INFINITY)
        }
    }

    /// Below `limit`, without a floor.
    pub(crate) fn absolute(what: &str, unit: &str, a: &Series, limit: f64) -> Row {
        Row {
            what: what.into(),
            measured: a.show(unit),
            floor: "-".into(),
            figure: format!("{:.2} {unit}", a.median()),
            promise: format!("< {limit:.0} {unit}"),
            kept: a.median() < limit,
        }
    }
}

/// Prints the table as Markdown: medians, with the range and the number of runs.
pub(crate) fn print(rows: &[Row]) {
    println!("| what | banger | floor | figure | promise | |");
    println!("|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            row.what,
            row.measured,
            row.floor,
            row.figure,
            row.promise,
            match (row.promise.as_str(), row.kept) {
                ("-", _) => "",
                (_, true) => "kept",
                (_, false) => "MISSED",
            }
        );
    }
}

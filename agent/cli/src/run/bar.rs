//! The progress bar of a download, and of other work on a file.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error that appears with the first bytes and goes when it is dropped.
pub(crate) struct Bar {
    what: &'static str,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, bar: None }
    }

    pub(crate) fn show(&mut self, bytes_done: u64, bytes_total: Option<u64>) {
        let bar = self.bar.get_or_insert_with(|| {
            let shape = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
            let style = ProgressStyle::with_template(&format!("{} {shape}", self.what));
            let bar = ProgressBar::with_draw_target(bytes_total, ProgressDrawTarget::stderr());
            bar.with_style(style.expect("the template above is well-formed"))
        });
        if let Some(total) = bytes_total {
            bar.set_length(total);
        }
        bar.set_position(bytes_done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

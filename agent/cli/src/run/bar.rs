//! The progress bar of a download.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on standard error that appears with the first bytes and goes when it is dropped.
#[derive(Default)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(crate) fn show(&mut self, bytes_done: u64, bytes_total: Option<u64>) {
        let bar = self.0.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "fetching the model {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            );
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
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

//! Plain version: the definition.

use crate::real::Real;

/// Returns `y` and `rstd` of rows of `cols` columns.
pub(crate) fn forward<R: Real>(cols: usize, eps: R, offset: R, x: &[R], weight: &[R]) -> (Vec<R>, Vec<R>) {
    let (mut y, mut rstd) = (Vec::new(), Vec::new());
    for x in x.chunks(cols) {
        let mean = x.iter().map(|&x| x * x).sum::<R>() / R::from_f64(cols as f64);
        let inv_rms = R::ONE / (mean + eps).sqrt();
        rstd.push(inv_rms);
        for c in 0..cols {
            y.push(x[c] * inv_rms * (offset + weight[c]));
        }
    }
    (y, rstd)
}

/// Adds the gradient to `dx`.
pub(crate) fn backward<R: Real>(cols: usize, offset: R, x: &[R], weight: &[R], rstd: &[R], dy: &[R], dx: &mut [R]) {
    for (r, &rstd) in rstd.iter().enumerate() {
        let row = r * cols..(r + 1) * cols;
        let (x, dy, dx) = (&x[row.clone()], &dy[row.clone()], &mut dx[row]);
        let dot = (0..cols).map(|c| (offset + weight[c]) * dy[c] * x[c]).sum::<R>();
        let along_x = rstd * rstd * (dot / R::from_f64(cols as f64));
        for c in 0..cols {
            dx[c] += rstd * ((offset + weight[c]) * dy[c] - x[c] * along_x);
        }
    }
}

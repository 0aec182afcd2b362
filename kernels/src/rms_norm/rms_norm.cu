// rms_norm forward:   y[r,c] = x[r,c] * rstd[r] * (offset + weight[c]),   rstd[r] = 1 / sqrt(mean_c(x[r,c]^2) + eps)
// rms_norm backward:  dx[r,c] (+)= rstd[r] * (w[c] dy[r,c] - x[r,c] * rstd[r]^2 * mean_c(w[c] dy[r,c] x[r,c])),   w = offset + weight
//
//   x, dx   [rows / per_row, stride]  X: float or bf16; row r of the norm are the columns first + (r % per_row) * cols of row r / per_row
//   y, dy   likewise                  Y: float or bf16
//   weight  [cols]                    float
//   rstd    [rows]                    float
//
// Source:    arXiv 1910.07467, eq. 4; the backward is derived in docs/derivations/rms_norm.md
// Numerics:  sums and rstd are float; y and dx are rounded once, at the store
// Launch:    128 threads, a warp for each row: the bits of a row do not depend on other rows
// Floor:     memory: x is read twice (the second time from cache), y written once
#include "elem.cuh"
#include "reduce.cuh"

struct Rows {
    u64 rows;
    u64 stride;
    u32 first, per_row, cols;
};

// The row of this warp. A warp without a row has a number of `rows` or more.
__device__ __forceinline__ u64 row_of_warp() { return (u64)blockIdx.x * 4 + threadIdx.x / 32; }

__device__ __forceinline__ u64 start_of(const Rows& of, u64 row) {
    return row / of.per_row * of.stride + of.first + row % of.per_row * of.cols;
}

template <typename Y, typename X>
struct ForwardArgs {
    Y* y;
    float* rstd;
    const X* x;
    const float* weight;
    Rows of;
    float eps, offset;
};

template <typename Y, typename X>
__device__ __forceinline__ void forward(const ForwardArgs<Y, X>& args) {
    const u64 row = row_of_warp();
    if (row >= args.of.rows) return;
    const u32 lane = threadIdx.x % 32, cols = args.of.cols;
    const X* x = args.x + start_of(args.of, row);
    Y* y = args.y + start_of(args.of, row);
    float squares = 0.f;
    for (u32 c = lane; c < cols; c += 32) squares += to_float(x[c]) * to_float(x[c]);
    const float rstd = 1.f / sqrtf(warp_sum(squares) / cols + args.eps);
    if (lane == 0) args.rstd[row] = rstd;
    for (u32 c = lane; c < cols; c += 32) y[c] = from_float<Y>(to_float(x[c]) * rstd * (args.offset + args.weight[c]));
}

template <typename Y, typename X>
struct BackwardArgs {
    X* dx;
    const X* x;
    const float* weight;
    const float* rstd;
    const Y* dy;
    Rows of;
    float offset;
    u32 add;
};

template <typename Y, typename X>
__device__ __forceinline__ void backward(const BackwardArgs<Y, X>& args) {
    const u64 row = row_of_warp();
    if (row >= args.of.rows) return;
    const u32 lane = threadIdx.x % 32, cols = args.of.cols;
    const u64 start = start_of(args.of, row);
    const X* x = args.x + start;
    const Y* dy = args.dy + start;
    X* dx = args.dx + start;
    const float rstd = args.rstd[row];
    float dot = 0.f;
    for (u32 c = lane; c < cols; c += 32) dot += (args.offset + args.weight[c]) * to_float(dy[c]) * to_float(x[c]);
    const float along_x = rstd * rstd * (warp_sum(dot) / cols);
    for (u32 c = lane; c < cols; c += 32) {
        const float d = rstd * ((args.offset + args.weight[c]) * to_float(dy[c]) - to_float(x[c]) * along_x);
        dx[c] = from_float<X>(args.add ? to_float(dx[c]) + d : d);
    }
}

#define ENTRY(DIRECTION, ARGS, NAME, Y, X) \
    extern "C" __global__ void __launch_bounds__(128) rms_norm_##DIRECTION##_##NAME(const ARGS<Y, X> args) { DIRECTION(args); }

ENTRY(forward, ForwardArgs, f32_f32, float, float)
ENTRY(forward, ForwardArgs, bf16_f32, bf16, float)
ENTRY(forward, ForwardArgs, bf16_bf16, bf16, bf16)
ENTRY(backward, BackwardArgs, f32_f32, float, float)
ENTRY(backward, BackwardArgs, bf16_f32, bf16, float)
ENTRY(backward, BackwardArgs, bf16_bf16, bf16, bf16)

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
// Launch:    128 threads: a warp for each row, or all four warps where a row is longer than a warp keeps. How many there are depends
//            on the columns alone, so the bits of a row do not depend on other rows
// Floor:     memory: what has a value for each element is read once and written once, up to 4096 columns: the threads keep what
//            they read in registers. The columns beyond are read a second time, and the weight for every row, from cache
#include "elem.cuh"
#include "reduce.cuh"

struct Rows {
    u64 rows;
    u64 stride;
    u32 first, per_row, cols;
    u32 warps;  // of a row: 1 or 4
};

// Columns of a row that a thread keeps.
constexpr int KEPT = 32;

// The row of this warp. A warp without a row has a number of `rows` or more.
__device__ __forceinline__ u64 row_of_warp(const Rows& of) {
    return of.warps == 1 ? (u64)blockIdx.x * 4 + threadIdx.x / 32 : blockIdx.x;
}

__device__ __forceinline__ u64 start_of(const Rows& of, u64 row) {
    return row / of.per_row * of.stride + of.first + row % of.per_row * of.cols;
}

// The sum of the values of all threads of a row, in every thread.
__device__ __forceinline__ float row_sum(const Rows& of, float (&of_warps)[4], float value) {
    value = warp_sum(value);
    if (of.warps == 1) return value;
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    return of_warps[0] + of_warps[1] + of_warps[2] + of_warps[3];
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
    __shared__ float of_warps[4];
    const u64 row = row_of_warp(args.of);
    if (row >= args.of.rows) return;
    const u32 threads = 32 * args.of.warps, first = threadIdx.x % threads, beyond = first + KEPT * threads, cols = args.of.cols;
    const X* x = args.x + start_of(args.of, row);
    Y* y = args.y + start_of(args.of, row);
    float kept[KEPT], squares = 0.f;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 c = first + i * threads;
        if (c >= cols) break;
        kept[i] = to_float(x[c]);
        squares += kept[i] * kept[i];
    }
    for (u32 c = beyond; c < cols; c += threads) squares += to_float(x[c]) * to_float(x[c]);
    const float rstd = 1.f / sqrtf(row_sum(args.of, of_warps, squares) / cols + args.eps);
    if (first == 0) args.rstd[row] = rstd;
    const auto normed = [&](u32 c, float x) { y[c] = from_float<Y>(x * rstd * (args.offset + args.weight[c])); };
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 c = first + i * threads;
        if (c >= cols) break;
        normed(c, kept[i]);
    }
    for (u32 c = beyond; c < cols; c += threads) normed(c, to_float(x[c]));
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
    __shared__ float of_warps[4];
    const u64 row = row_of_warp(args.of);
    if (row >= args.of.rows) return;
    const u32 threads = 32 * args.of.warps, first = threadIdx.x % threads, beyond = first + KEPT * threads, cols = args.of.cols;
    const u64 start = start_of(args.of, row);
    const X* x = args.x + start;
    const Y* dy = args.dy + start;
    X* dx = args.dx + start;
    const float rstd = args.rstd[row];
    const auto w_dy = [&](u32 c) { return (args.offset + args.weight[c]) * to_float(dy[c]); };
    float kept_x[KEPT], kept_w_dy[KEPT], dot = 0.f;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 c = first + i * threads;
        if (c >= cols) break;
        kept_x[i] = to_float(x[c]);
        kept_w_dy[i] = w_dy(c);
        dot += kept_w_dy[i] * kept_x[i];
    }
    for (u32 c = beyond; c < cols; c += threads) dot += w_dy(c) * to_float(x[c]);
    const float along_x = rstd * rstd * (row_sum(args.of, of_warps, dot) / cols);
    const auto store = [&](u32 c, float x, float w_dy) {
        const float d = rstd * (w_dy - x * along_x);
        dx[c] = from_float<X>(args.add ? to_float(dx[c]) + d : d);
    };
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const u32 c = first + i * threads;
        if (c >= cols) break;
        store(c, kept_x[i], kept_w_dy[i]);
    }
    for (u32 c = beyond; c < cols; c += threads) store(c, to_float(x[c]), w_dy(c));
}

#define ENTRY(DIRECTION, ARGS, NAME, Y, X) \
    extern "C" __global__ void __launch_bounds__(128) rms_norm_##DIRECTION##_##NAME(const ARGS<Y, X> args) { DIRECTION(args); }

ENTRY(forward, ForwardArgs, f32_f32, float, float)
ENTRY(forward, ForwardArgs, bf16_f32, bf16, float)
ENTRY(forward, ForwardArgs, bf16_bf16, bf16, bf16)
ENTRY(backward, BackwardArgs, f32_f32, float, float)
ENTRY(backward, BackwardArgs, bf16_f32, bf16, float)
ENTRY(backward, BackwardArgs, bf16_bf16, bf16, bf16)

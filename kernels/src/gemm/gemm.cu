// out[r,c] (+)= alpha * sum_i left[r,i] * right[i,c]  (+ bias[c] + residual[r,c])
//
//   out    [rows, cols]   O: float or bf16, its rows out_row apart
//   left   [rows, depth]  L: float or bf16, any strides
//   right  [depth, cols]  R: float, f16 or bf16, any strides
//
// The three layouts of a linear layer are strides: x wT, dy w and dyT x. With `round` the operands are rounded to bf16 first.
//
// Numerics:  fused multiply-adds in float, in the order of i, whatever the tile: the bits of a row do not depend on the others
// Launch:    grid = (cols / 64, rows / 64), rounded up; 256 threads, each 4 x 4 of a tile of 64 x 64
// Floor:     arithmetic of float; plain: no tensor cores, no double buffering
#include "elem.cuh"

constexpr int TILE = 64, DEPTH = 16;
// A warp stores 16 steps of two neighbouring rows at once: with two more floats than a tile is wide, they go to 32 different banks.
constexpr int PADDED = TILE + 2;

struct Args {
    void* out;
    const void* left;
    const void* right;
    const float* bias;      // or null
    const float* residual;  // or null; its rows are out_row apart
    u64 left_row, left_step, right_step, right_col, out_row;
    u32 rows, cols, depth;
    float alpha;
    u32 add, round;
};

template <typename T>
__device__ __forceinline__ float operand(T x, u32 round) {
    const float wide = to_float(x);
    return round ? to_float(from_float<bf16>(wide)) : wide;
}

// Fetches DEPTH steps of TILE rows: tile[i][r] = from[(first + r) * row + (step + i) * step_stride], zeros outside.
template <typename T>
__device__ __forceinline__ void fetch(float (&tile)[DEPTH][PADDED], const T* from, u32 first, u32 rows, u64 row_stride, u32 step,
                                      u32 depth, u64 step_stride, u32 round) {
#pragma unroll 1
    for (u32 e = threadIdx.x; e < TILE * DEPTH; e += 256) {
        // neighbours read neighbours, whichever way they lie
        const u32 r = step_stride == 1 ? e / DEPTH : e % TILE, i = step_stride == 1 ? e % DEPTH : e / TILE;
        const bool there = first + r < rows && step + i < depth;
        tile[i][r] = there ? operand(from[(u64)(first + r) * row_stride + (u64)(step + i) * step_stride], round) : 0.f;
    }
}

// A thread's four rows or columns of a tile are two pairs, half a tile apart. So 16 threads read 32 neighbours at once, without bank
// conflicts. Returns where number i of the four is.
__device__ __forceinline__ u32 place(u32 first, int i) { return first + i % 2 + i / 2 * (TILE / 2); }

__device__ __forceinline__ void load_four(float (&to)[4], const float* first) {
    const float2 a = *(const float2*)first, b = *(const float2*)(first + TILE / 2);
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
}

template <typename O, typename L, typename R>
__device__ __forceinline__ void product(const Args& args) {
    __shared__ __align__(8) float left[DEPTH][PADDED];
    __shared__ __align__(8) float right[DEPTH][PADDED];
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    const u32 row = threadIdx.x / 16 * 2, col = threadIdx.x % 16 * 2;
    float sums[4][4] = {};
    for (u32 step = 0; step < args.depth; step += DEPTH) {
        fetch(left, (const L*)args.left, first_row, args.rows, args.left_row, step, args.depth, args.left_step, args.round);
        fetch(right, (const R*)args.right, first_col, args.cols, args.right_col, step, args.depth, args.right_step, args.round);
        __syncthreads();
#pragma unroll 4
        for (u32 i = 0; i < DEPTH; i++) {
            float l[4], r[4];
            load_four(l, &left[i][row]);
            load_four(r, &right[i][col]);
            for (int a = 0; a < 4; a++) {
                for (int b = 0; b < 4; b++) sums[a][b] = fmaf(l[a], r[b], sums[a][b]);
            }
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; r++) {
        for (int c = 0; c < 4; c++) {
            const u32 at_row = first_row + place(row, r), at_col = first_col + place(col, c);
            if (at_row >= args.rows || at_col >= args.cols) continue;
            const u64 at = (u64)at_row * args.out_row + at_col;
            O* out = (O*)args.out + at;
            float value = args.alpha * sums[r][c];
            if (args.bias) value += args.bias[at_col];
            if (args.residual) value += args.residual[at];
            if (args.add) value += to_float(*out);
            *out = from_float<O>(value);
        }
    }
}

#define ENTRY(NAME, O, L, R) \
    extern "C" __global__ void __launch_bounds__(256) gemm_##NAME(const Args args) { product<O, L, R>(args); }

ENTRY(f32_f32_f32, float, float, float)
ENTRY(f32_f32_f16, float, float, f16)
ENTRY(f32_f32_bf16, float, float, bf16)
ENTRY(f32_bf16_f32, float, bf16, float)
ENTRY(f32_bf16_f16, float, bf16, f16)
ENTRY(f32_bf16_bf16, float, bf16, bf16)
ENTRY(bf16_f32_f32, bf16, float, float)
ENTRY(bf16_f32_f16, bf16, float, f16)
ENTRY(bf16_f32_bf16, bf16, float, bf16)
ENTRY(bf16_bf16_f32, bf16, bf16, float)
ENTRY(bf16_bf16_f16, bf16, bf16, f16)
ENTRY(bf16_bf16_bf16, bf16, bf16, bf16)

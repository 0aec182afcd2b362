// y = x w^T in bf16 on the tensor cores, sums in f32: for the tests of the machine, not for speed.
//
//   y  [rows, cols]   float
//   x  [rows, depth]  bf16, row-major
//   w  [cols, depth]  bf16, row-major
//
// Launch:  grid = (cols / 64, rows / 64), rounded up; 128 threads. depth % 8 == 0, so that rows are 16-byte aligned.
// Tiles:   64 x 64 x 32, two stages of copies. A row of a tile takes 80 bytes: 8 rows at 16 bytes meet in no bank.
#include "ptx.cuh"

constexpr int TILE = 64, DEPTH = 32, STRIDE = 40;

struct Args {
    float* y;
    const u16* x;
    const u16* w;
    u32 rows, cols, depth;
};

// Copies 64 rows of 32 columns, zeros past the matrix.
__device__ __forceinline__ void fetch(u16* tile, const u16* from, u32 first, u32 rows, u32 column, u32 depth) {
    for (int piece = threadIdx.x; piece < TILE * DEPTH / 8; piece += blockDim.x) {
        const u32 row = piece / 4, at = piece % 4 * 8;
        const bool there = first + row < rows && column + at < depth;
        const u16* source = there ? from + (u64)(first + row) * depth + column + at : from;
        copy_async_16(shared_address(tile + row * STRIDE + at), source, there ? 16 : 0);
    }
}

extern "C" __global__ void __launch_bounds__(128) product_bf16(const Args args) {
    __shared__ __align__(16) u16 x_tile[2][TILE * STRIDE];
    __shared__ __align__(16) u16 w_tile[2][TILE * STRIDE];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 first_row = blockIdx.y * TILE, first_col = blockIdx.x * TILE;
    const u32 steps = (args.depth + DEPTH - 1) / DEPTH;
    float sums[8][4] = {};

    fetch(x_tile[0], args.x, first_row, args.rows, 0, args.depth);
    fetch(w_tile[0], args.w, first_col, args.cols, 0, args.depth);
    copies_commit();
    for (u32 step = 0; step < steps; step++) {
        const u32 now = step % 2;
        if (step + 1 < steps) {
            fetch(x_tile[1 - now], args.x, first_row, args.rows, (step + 1) * DEPTH, args.depth);
            fetch(w_tile[1 - now], args.w, first_col, args.cols, (step + 1) * DEPTH, args.depth);
        }
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int k = 0; k < DEPTH; k += 16) {
            u32 a[4];
            load_matrices(a, shared_address(x_tile[now] + (warp * 16 + lane % 16) * STRIDE + k + lane / 16 * 8));
            for (int n = 0; n < 4; n++) {
                u32 b[4];
                load_matrices(b, shared_address(w_tile[now] + (n * 16 + lane % 8 + lane / 16 * 8) * STRIDE + k + lane / 8 % 2 * 8));
                multiply_add(sums[2 * n], a, b[0], b[1]);
                multiply_add(sums[2 * n + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
    }
    for (int n = 0; n < 8; n++) {
        for (int i = 0; i < 4; i++) {
            const u32 row = first_row + warp * 16 + lane / 4 + i / 2 * 8, col = first_col + n * 8 + lane % 4 * 2 + i % 2;
            if (row < args.rows && col < args.cols) args.y[(u64)row * args.cols + col] = sums[n][i];
        }
    }
}

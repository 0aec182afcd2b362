// y[r] = the first column of the largest x[r,c] that counts, or NONE. NaN and the columns left out do not count.
//
//   y         [rows]        u32
//   x         [rows, cols]  float, 1 <= cols < 2^32
//   left_out  [n_left_out]  u32, in any order
//
// Launch:  a block of 1024 threads for each row: rows are few, and a vocabulary long
// Floor:   memory: x is read once. left_out is read where a column beats those before it of its thread
#include "ptx.cuh"

struct Args {
    u32* y;
    const float* x;
    const u32* left_out;
    u64 cols, n_left_out;
};

constexpr u32 THREADS = 1024;  // 32 warps: their results are one for each lane of a warp
constexpr u32 NONE = 0xffffffff;

struct __align__(8) Best {
    float value;
    u32 column;  // NONE: nothing counted, and the value means nothing
};

// The order is total, so the result does not depend on which are compared first.
__device__ __forceinline__ Best better(Best a, Best b) {
    if (a.column == NONE) return b;
    if (b.column == NONE) return a;
    const bool second = b.value > a.value || (b.value == a.value && b.column < a.column);
    return second ? b : a;
}

// The best of a warp, in every lane.
__device__ __forceinline__ Best warp_best(Best best) {
    for (u32 distance = 16; distance > 0; distance /= 2) {
        const float value = __shfl_xor_sync(0xffffffff, best.value, distance);
        const u32 column = __shfl_xor_sync(0xffffffff, best.column, distance);
        best = better(best, {value, column});
    }
    return best;
}

__device__ __forceinline__ bool is_left_out(const Args& args, u32 column) {
    bool found = false;
    for (u64 i = 0; i < args.n_left_out && !found; i++) found = args.left_out[i] == column;
    return found;
}

extern "C" __global__ void __launch_bounds__(THREADS) argmax(const Args args) {
    __shared__ Best of_warps[THREADS / 32];
    const float* const row = args.x + blockIdx.x * args.cols;

    Best best = {0.f, NONE};
    for (u64 c = threadIdx.x; c < args.cols; c += THREADS) {
        const float value = row[c];
        const bool beats = best.column == NONE ? value == value : value > best.value;
        if (beats && !is_left_out(args, (u32)c)) best = {value, (u32)c};
    }

    best = warp_best(best);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x < 32) {
        best = warp_best(of_warps[threadIdx.x]);
        if (threadIdx.x == 0) args.y[blockIdx.x] = best.column;
    }
}

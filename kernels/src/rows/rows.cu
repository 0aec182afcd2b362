// Rows that an index moves:
//
//   gather       y[i, c] = x[index[i], c]
//   scatter      y[index[i], c] = x[i, c], the indices all different; x are columns of a wider matrix
//   scatter_add  y[index[i], c] += x[i, c], for i in order; an index may occur more than once
//
//   index  [n]        each is a row of the other side: the caller checked it
//   dense  [n, cols]  y of gather, x of the scatters (scatter: rows of `stride` elements from column `first` on)
//
// Numerics:  a sum of scatter_add is in the order of the index, as on the CPU: the same bits
// Launch:    gather and scatter: a block of 256 threads for each index; scatter_add: a warp for each index, 8 a block. The warp of
//            the first place of an index adds the rows of all its places, the others have nothing to do, so no sum is shared
// Floor:     memory: a row is read and written, scatter_add also reads what y held. Each warp of scatter_add reads the index,
//            32 places at a time: n^2 / 32 loads that hit the caches
#include "elem.cuh"

struct GatherArgs {
    float* y;
    const float* x;
    const u32* index;
    u64 cols;
};

extern "C" __global__ void __launch_bounds__(256) rows_gather(const GatherArgs args) {
    const u64 i = blockIdx.x;
    const float* from = args.x + args.index[i] * args.cols;
    float* to = args.y + i * args.cols;
    for (u64 c = threadIdx.x; c < args.cols; c += blockDim.x) to[c] = from[c];
}

template <typename T>
struct ScatterArgs {
    T* y;
    const T* x;
    const u32* index;
    u64 cols;
    u64 first;
    u64 stride;
};

template <typename T>
__device__ __forceinline__ void scatter(const ScatterArgs<T>& args) {
    const u64 i = blockIdx.x;
    const T* from = args.x + i * args.stride + args.first;
    T* to = args.y + args.index[i] * args.cols;
    for (u64 c = threadIdx.x; c < args.cols; c += blockDim.x) to[c] = from[c];
}

extern "C" __global__ void __launch_bounds__(256) rows_scatter_f32(const ScatterArgs<float> args) { scatter(args); }
extern "C" __global__ void __launch_bounds__(256) rows_scatter_bf16(const ScatterArgs<bf16> args) { scatter(args); }

struct ScatterAddArgs {
    float* y;
    const float* x;
    const u32* index;
    u64 n;
    u64 cols;
};

extern "C" __global__ void __launch_bounds__(256) rows_scatter_add(const ScatterAddArgs args) {
    const u32 lane = threadIdx.x % 32;
    const u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (i >= args.n) return;
    const u32 row = args.index[i];
    float* to = args.y + row * args.cols;
    for (u64 block = 0; block < args.n; block += 32) {
        const u64 j = block + lane;
        u32 places = __ballot_sync(~0u, j < args.n && args.index[j] == row);
        while (places != 0) {
            const u64 place = block + __ffs(places) - 1;
            if (place < i) return;
            const float* from = args.x + place * args.cols;
            for (u64 c = lane; c < args.cols; c += 32) to[c] = __fadd_rn(to[c], from[c]);
            places &= places - 1;
        }
    }
}

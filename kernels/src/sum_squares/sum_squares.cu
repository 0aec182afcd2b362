// sums[b] = sum of x[i]^2 over the elements of block b, in double: 65,536 elements, fewer in the last block.
//
//   x     [len]                     float
//   sums  [blocks of 65,536 in len]  double
//
// Numerics:  a square of a float is exact in double. Lane j adds the elements j, 32 + j, 64 + j and so on of its block, and the
//            32 sums are added in order: the order of the CPU, so the bits are the same. The host adds the blocks
// Launch:    a block of 32 threads for each block of elements
// Floor:     memory: x is read once. So few warps that a small tensor takes as long as 2,048 additions of double, one after another
#include "elem.cuh"

struct Args {
    double* sums;
    const float* x;
    u64 len;
};

extern "C" __global__ void __launch_bounds__(32) sum_squares(const Args args) {
    constexpr u64 BLOCK = 65536;
    __shared__ double sums[32];
    const u64 first = blockIdx.x * BLOCK;
    const u64 end = first + BLOCK < args.len ? first + BLOCK : args.len;
    double sum = 0;
    for (u64 i = first + threadIdx.x; i < end; i += 32) {
        const double x = args.x[i];
        sum = __dadd_rn(sum, __dmul_rn(x, x));
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int j = 1; j < 32; j++) sum = __dadd_rn(sum, sums[j]);
        args.sums[blockIdx.x] = sum;
    }
}

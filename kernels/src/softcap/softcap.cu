// x[i] = cap tanh(x[i] / cap), in place.
//
//   x  [len]  float
//
// Launch:  256 threads, an element each
// Floor:   memory: x is read once and written once
#include "ptx.cuh"

struct Args {
    float* x;
    u64 len;
    float cap;
};

extern "C" __global__ void __launch_bounds__(256) softcap(const Args args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.len) args.x[i] = args.cap * tanhf(args.x[i] / args.cap);
}

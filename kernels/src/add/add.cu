// y[i] += x[i], of float or of bf16: the sum is float, and rounded once where y is bf16.
//
//   x, y  [len]
//
// Launch:  256 threads, an element each
// Floor:   memory: both are read once, y is written once
#include "elem.cuh"

template <typename Y, typename X>
struct Args {
    Y* y;
    const X* x;
    u64 len;
};

template <typename Y, typename X>
__device__ __forceinline__ void add(const Args<Y, X>& args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.len) args.y[i] = from_float<Y>(to_float(args.y[i]) + to_float(args.x[i]));
}

extern "C" __global__ void __launch_bounds__(256) add_f32_f32(const Args<float, float> args) { add(args); }
extern "C" __global__ void __launch_bounds__(256) add_f32_bf16(const Args<float, bf16> args) { add(args); }
extern "C" __global__ void __launch_bounds__(256) add_bf16_f32(const Args<bf16, float> args) { add(args); }
extern "C" __global__ void __launch_bounds__(256) add_bf16_bf16(const Args<bf16, bf16> args) { add(args); }

// to[i] = from[i] in another format: f32 to bf16 rounds to nearest, ties to even; the other way is exact.
//
// Launch:  256 threads, an element each
// Floor:   memory: read once, written once
#include "elem.cuh"

template <typename T, typename F>
struct Args {
    T* to;
    const F* from;
    u64 len;
};

template <typename T, typename F>
__device__ __forceinline__ void convert(const Args<T, F>& args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.len) args.to[i] = from_float<T>(to_float(args.from[i]));
}

extern "C" __global__ void __launch_bounds__(256) convert_bf16_f32(const Args<bf16, float> args) { convert(args); }
extern "C" __global__ void __launch_bounds__(256) convert_f32_bf16(const Args<float, bf16> args) { convert(args); }

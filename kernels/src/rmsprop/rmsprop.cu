// One RMSProp update with coupled weight decay, of float. The formula is that of mod.rs, the order of operations that of cpu.rs,
// nothing is fused: the bits of the CPU.
//
//   param, square_avg  [len], updated in place
//   grad               [len]
//
// Source:  Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012; torch's order of operations
// Launch:  256 threads, an element each
// Floor:   memory: three are read once, two are written once
#include "elem.cuh"

struct Args {
    float* param;
    float* square_avg;
    const float* grad;
    u64 len;
    float grad_scale;
    float weight_decay;
    float alpha;
    float square;
    float eps;
    float negative_step_size;
};

extern "C" __global__ void __launch_bounds__(256) rmsprop(const Args args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.len) return;
    const float p = args.param[i];
    const float g = __fadd_rn(__fmul_rn(args.grad_scale, args.grad[i]), __fmul_rn(args.weight_decay, p));
    const float v = __fadd_rn(__fmul_rn(args.square_avg[i], args.alpha), __fmul_rn(__fmul_rn(args.square, g), g));
    const float denom = __fadd_rn(__fsqrt_rn(v), args.eps);
    args.param[i] = __fadd_rn(p, __fdiv_rn(__fmul_rn(args.negative_step_size, g), denom));
    args.square_avg[i] = v;
}

// One AdamW update with decoupled weight decay, of float. The formula is that of mod.rs, the order of operations that of cpu.rs,
// nothing is fused: the bits of the CPU.
//
//   param, exp_avg, exp_avg_sq  [len], updated in place
//   grad                        [len]
//
// Source:  arXiv 1711.05101, alg. 2; torch's order of operations
// Launch:  256 threads, an element each
// Floor:   memory: four are read once, three are written once
#include "elem.cuh"

struct Args {
    float* param;
    float* exp_avg;
    float* exp_avg_sq;
    const float* grad;
    u64 len;
    float grad_scale;
    float decay;
    float lerp;
    float beta2;
    float square;
    float bias_correction2_sqrt;
    float eps;
    float negative_step_size;
    u32 from_end;
};

extern "C" __global__ void __launch_bounds__(256) adamw(const Args args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.len) return;
    const float g = __fmul_rn(args.grad_scale, args.grad[i]);
    const float p = __fmul_rn(args.param[i], args.decay);
    float m = args.exp_avg[i];
    const float way = __fsub_rn(g, m);
    if (args.from_end) {
        m = __fsub_rn(g, __fmul_rn(way, __fsub_rn(1.f, args.lerp)));
    } else {
        m = __fadd_rn(m, __fmul_rn(args.lerp, way));
    }
    const float v = __fadd_rn(__fmul_rn(args.exp_avg_sq[i], args.beta2), __fmul_rn(__fmul_rn(args.square, g), g));
    const float denom = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), args.bias_correction2_sqrt), args.eps);
    args.param[i] = __fadd_rn(p, __fdiv_rn(__fmul_rn(args.negative_step_size, m), denom));
    args.exp_avg[i] = m;
    args.exp_avg_sq[i] = v;
}

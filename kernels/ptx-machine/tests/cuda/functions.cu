// Functions of CUDA's mathematical library, division and roots, on arrays: what the compiler makes of them runs on the machine.

struct Args {
    float* y;
    const float* x;
    unsigned n;
};

#define FUNCTION(NAME, VALUE)                                                         \
    extern "C" __global__ void __launch_bounds__(256) NAME(const Args args) {         \
        const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;                     \
        if (i >= args.n) return;                                                      \
        const float x = args.x[i];                                                    \
        args.y[i] = VALUE;                                                            \
    }

FUNCTION(exp_f32, expf(x))
FUNCTION(expm1_f32, expm1f(x))
FUNCTION(log_f32, logf(x))
FUNCTION(log1p_f32, log1pf(x))
FUNCTION(sqrt_f32, sqrtf(x))
FUNCTION(rsqrt_f32, rsqrtf(x))
FUNCTION(reciprocal_f32, 1.0f / x)
FUNCTION(tanh_f32, tanhf(x))
FUNCTION(sin_f32, sinf(x))
FUNCTION(cos_f32, cosf(x))
FUNCTION(power_f32, powf(fabsf(x), 1.7f))
FUNCTION(exp_f64, (float)exp((double)x))

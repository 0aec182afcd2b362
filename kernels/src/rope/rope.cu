// Tables:  cos[r,i] = scaling[v] cos(a),  sin[r,i] = scaling[v] sin(a),  a = positions[r] inv_freq[v,i],  v = variants[r]
// Rotate:  (x[i], x[i + half]) becomes (x[i] cos - x[i + half] sin, x[i + half] cos + x[i] sin) in each head, i < half;
//          backward with -sin
//
//   cos, sin   [rows, half]        float, half is rotary_dim / 2
//   positions  [rows]              u32
//   variants   [rows]              u32, less than n_variants
//   inv_freq   [n_variants, half]  float
//   scaling    [n_variants]        float
//   x          [rows, stride]      float or bf16; the heads are the first columns, head_dim each, and the others stay
//
// Source:    arXiv 2104.09864; the backward is derived in docs/derivations/rope.md
// Numerics:  the angle is rounded to float, its cosine and sine are double until they are rounded once. Nothing of a rotation
//            is fused: float has the bits of the CPU
// Launch:    256 threads, an angle or a pair each
// Floor:     memory: x is read once and written once; the tables are read once for each head, from cache but the first time
#include "elem.cuh"

struct TablesArgs {
    float* cos;
    float* sin;
    const u32* positions;
    const u32* variants;
    const float* inv_freq;
    const float* scaling;
    u64 len, half;
};

template <typename T>
struct RotateArgs {
    T* x;
    const float* cos;
    const float* sin;
    u64 pairs, heads, half, head_dim, stride;
};

struct Turn {
    double cos, sin;
};

// Cosine and sine of an angle up to 2^32, within 1e-15. CUDA's own needs a stack for angles it takes for large.
__device__ __forceinline__ Turn turn(double angle) {
    // angle = n pi/2 + r. Adding 1.5 * 2^52 leaves n, rounded, in the low bits. pi/2 is the sum of two doubles. The inner fma is
    // exact: its result is below 1, and a multiple of 2^-52 as both its terms are (an angle below 1/2 is its own rest).
    const double shifted = fma(angle, 0.6366197723675814, 6755399441055744.0);
    const u32 quarter = (u32)__double2loint(shifted);
    const double n = shifted - 6755399441055744.0;
    const double r = fma(-n, 6.123233995736766e-17, fma(-n, 1.5707963267948966, angle));

    // on [-pi/4, pi/4], the polynomials of fdlibm (k_sin.c, k_cos.c)
    const double z = r * r;
    double s = fma(z, 1.58969099521155010221e-10, -2.50507602534068634195e-08);
    s = fma(z, s, 2.75573137070700676789e-06);
    s = fma(z, s, -1.98412698298579493134e-04);
    s = fma(z, s, 8.33333333332248946124e-03);
    s = fma(z, s, -1.66666666666666324348e-01);
    s = fma(z * r, s, r);
    double c = fma(z, -1.13596475577881948265e-11, 2.08757232129817482790e-09);
    c = fma(z, c, -2.75573143513906633035e-07);
    c = fma(z, c, 2.48015872894767294178e-05);
    c = fma(z, c, -1.38888888888741095749e-03);
    c = fma(z, c, 4.16666666666666019037e-02);
    c = fma(z * z, c, fma(z, -0.5, 1.0));

    const double cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    return {(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

extern "C" __global__ void __launch_bounds__(256) rope_tables(const TablesArgs args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.len) return;
    const u64 row = i / args.half, column = i % args.half;
    const u32 variant = args.variants[row];
    const float angle = __fmul_rn((float)args.positions[row], args.inv_freq[variant * args.half + column]);
    const float scaling = args.scaling[variant];
    const Turn at = turn(angle);
    args.cos[i] = __fmul_rn(scaling, (float)at.cos);
    args.sin[i] = __fmul_rn(scaling, (float)at.sin);
}

template <bool BACKWARD, typename T>
__device__ __forceinline__ void rotate(const RotateArgs<T>& args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.pairs) return;
    const u64 column = i % args.half, head = i / args.half % args.heads, row = i / args.half / args.heads;
    const float cos = args.cos[row * args.half + column], sin = args.sin[row * args.half + column];
    T* const at = args.x + row * args.stride + head * args.head_dim + column;
    const float a = to_float(at[0]), b = to_float(at[args.half]);
    const float ac = __fmul_rn(a, cos), bs = __fmul_rn(b, sin), bc = __fmul_rn(b, cos), as = __fmul_rn(a, sin);
    at[0] = from_float<T>(BACKWARD ? __fadd_rn(ac, bs) : __fsub_rn(ac, bs));
    at[args.half] = from_float<T>(BACKWARD ? __fsub_rn(bc, as) : __fadd_rn(bc, as));
}

extern "C" __global__ void __launch_bounds__(256) rope_rotate_f32(const RotateArgs<float> args) { rotate<false>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_rotate_bf16(const RotateArgs<bf16> args) { rotate<false>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_rotate_backward_f32(const RotateArgs<float> args) { rotate<true>(args); }
extern "C" __global__ void __launch_bounds__(256) rope_rotate_backward_bf16(const RotateArgs<bf16> args) { rotate<true>(args); }

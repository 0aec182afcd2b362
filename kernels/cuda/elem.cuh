// Numbers: float, and bf16 and f16 as their bits. What is computed is float.
#pragma once
#include "ptx.cuh"

struct bf16 {
    u16 bits;
};

struct f16 {
    u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ float to_float(f16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.f), "f"(x));
    return bf16{(u16)pair};
}

// e^x within 1.04 units in the last place for x from -87 to 80, and 0 below -87. `expf` is off by up to 2, which shows in sums of
// gradients that cancel.
__device__ __forceinline__ float exp_f32(float x) {
    if (!(x > -87.f)) return x != x ? x : 0.f;
    const float n = rintf(x * 1.44269504f);
    // ln 2 in two parts, the first of few bits, so that the first product is exact
    const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
    float p = fmaf(r, 1.98412698e-4f, 1.38888889e-3f);
    p = fmaf(r, p, 8.33333333e-3f);
    p = fmaf(r, p, 4.16666667e-2f);
    p = fmaf(r, p, 1.66666667e-1f);
    p = fmaf(r, p, 0.5f);
    p = fmaf(r * r, p, r);
    const float scale = __int_as_float(((int)n + 127) << 23);
    return fmaf(p, scale, scale);
}

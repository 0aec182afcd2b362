// Sums and maxima over the lanes of a warp, in an order that depends on nothing but the lanes.
#pragma once

// The sum of the values of all lanes, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}

// The largest of the values of all lanes, in every lane.
__device__ __forceinline__ float warp_max(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
    return value;
}

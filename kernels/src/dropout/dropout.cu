// y[r, c] = word >= threshold ? x[r, c] * scale : 0, of float or of bf16. The word is number c % 4 of the four words of
// Philox 4x32-10 at the counter (numbers[r], c / 4).
//
//   x, y     [rows, cols]
//   numbers  [rows]
//   threshold = ceil(p * 2^32),  scale = 1 / (1 - p)
//
// Source:    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; kernels/src/rng.rs
// Numerics:  one product, rounded once where y is bf16: the bits of the CPU
// Launch:    a block of 256 threads for each row; a thread computes the words of a counter, for four columns
// Floor:     memory: x is read, y is written, four columns at a time where they are aligned
#include "elem.cuh"

struct Words {
    u32 at[4];
};

// The words at a counter, whose low words are those of `low`.
__device__ __forceinline__ Words philox(u32 key0, u32 key1, u64 high, u64 low) {
    u32 c0 = (u32)low, c1 = (u32)(low >> 32), c2 = (u32)high, c3 = (u32)(high >> 32);
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        const u64 a = (u64)0xD2511F53u * c0;
        const u64 b = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(b >> 32) ^ c1 ^ key0;
        c1 = (u32)b;
        c2 = (u32)(a >> 32) ^ c3 ^ key1;
        c3 = (u32)a;
    }
    return Words{{c0, c1, c2, c3}};
}

template <typename T>
struct Args {
    T* y;
    const T* x;
    const u64* numbers;
    u64 cols;
    u64 key;
    u32 threshold;
    float scale;
};

template <typename T>
struct __align__(4 * sizeof(T)) Four {
    T at[4];
};

template <typename T>
__device__ __forceinline__ T dropped(const Args<T>& args, u32 word, T x) {
    return from_float<T>(word >= args.threshold ? __fmul_rn(to_float(x), args.scale) : 0.f);
}

template <typename T>
__device__ __forceinline__ void dropout(const Args<T>& args) {
    const u64 row = blockIdx.x;
    const u64 number = args.numbers[row];
    const T* x = args.x + row * args.cols;
    T* y = args.y + row * args.cols;
    const bool is_aligned = ((u64)x | (u64)y) % sizeof(Four<T>) == 0;
    for (u64 low = threadIdx.x; 4 * low < args.cols; low += blockDim.x) {
        const Words words = philox((u32)args.key, (u32)(args.key >> 32), number, low);
        const u64 c = 4 * low;
        if (is_aligned && c + 4 <= args.cols) {
            Four<T> four = *(const Four<T>*)(x + c);
#pragma unroll
            for (int j = 0; j < 4; j++) four.at[j] = dropped(args, words.at[j], four.at[j]);
            *(Four<T>*)(y + c) = four;
            continue;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (c + j < args.cols) y[c + j] = dropped(args, words.at[j], x[c + j]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) dropout_f32(const Args<float> args) { dropout(args); }
extern "C" __global__ void __launch_bounds__(256) dropout_bf16(const Args<bf16> args) { dropout(args); }

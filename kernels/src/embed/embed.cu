// y[r, c] = scale * table[ids[r], c]: one product of float, whatever the format of the table.
//
//   y      [rows, cols]        float
//   ids    [rows]              each is a row of the table: the caller checked it
//   table  [vocab_size, cols]  float, f16 or bf16
//
// Launch:  a block of 256 threads for each row
// Floor:   memory: a row of the table is read, a row of y is written
#include "elem.cuh"

template <typename T>
struct Args {
    float* y;
    const u32* ids;
    const T* table;
    u64 cols;
    float scale;
};

template <typename T>
__device__ __forceinline__ void embed(const Args<T>& args) {
    const u64 row = blockIdx.x;
    const T* from = args.table + args.ids[row] * args.cols;
    float* to = args.y + row * args.cols;
    for (u64 c = threadIdx.x; c < args.cols; c += blockDim.x) to[c] = __fmul_rn(args.scale, to_float(from[c]));
}

extern "C" __global__ void __launch_bounds__(256) embed_f32(const Args<float> args) { embed(args); }
extern "C" __global__ void __launch_bounds__(256) embed_f16(const Args<f16> args) { embed(args); }
extern "C" __global__ void __launch_bounds__(256) embed_bf16(const Args<bf16> args) { embed(args); }

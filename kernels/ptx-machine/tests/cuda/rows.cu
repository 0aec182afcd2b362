// Sums of rows by one block each, and a transposition with and without conflicts in the banks: for the tests of the machine.

struct Sums {
    float* y;
    const float* x;
    unsigned cols;
};

// The sum of a block's values, in every thread. Ends with a barrier.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warp[32];
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.f;
    for (int warp = 0; warp < blockDim.x / 32; warp++) sum += of_warp[warp];
    __syncthreads();
    return sum;
}

// y[row] = mean of the squares of row `row`, over its sum
extern "C" __global__ void __launch_bounds__(128) row_sums_f32(const Sums args) {
    const float* x = args.x + (unsigned long long)blockIdx.x * args.cols;
    float sum = 0.f, squares = 0.f;
    for (unsigned col = threadIdx.x; col < args.cols; col += blockDim.x) {
        sum += x[col];
        squares += x[col] * x[col];
    }
    sum = block_sum(sum);
    squares = block_sum(squares);
    if (threadIdx.x == 0) args.y[blockIdx.x] = squares / args.cols / sum;
}

struct Square {
    float* y;
    const float* x;
    unsigned n;
};

// y = x^T in tiles of 32 x 32, by 32 x 8 threads
template <int STRIDE>
__device__ __forceinline__ void transposed(const Square& args) {
    __shared__ float tile[32 * STRIDE];
    const unsigned n = args.n, col = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    for (unsigned i = 0; i < 32; i += 8) {
        if (row + i < n && col < n) tile[(threadIdx.y + i) * STRIDE + threadIdx.x] = args.x[(unsigned long long)(row + i) * n + col];
    }
    __syncthreads();
    const unsigned to_col = blockIdx.y * 32 + threadIdx.x, to_row = blockIdx.x * 32 + threadIdx.y;
    for (unsigned i = 0; i < 32; i += 8) {
        if (to_row + i < n && to_col < n) args.y[(unsigned long long)(to_row + i) * n + to_col] = tile[threadIdx.x * STRIDE + threadIdx.y + i];
    }
}

extern "C" __global__ void __launch_bounds__(256) transposed_f32(const Square args) { transposed<33>(args); }
extern "C" __global__ void __launch_bounds__(256) transposed_with_conflicts_f32(const Square args) { transposed<32>(args); }

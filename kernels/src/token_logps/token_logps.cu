// Log-probs of target tokens from blocks of logits, an online softmax (arXiv 1805.02867, alg. 3), and the gradients of the logits.
//
//   u        [rows, cols]  float: products of some rows with the tokens first .. first + cols
//   running  [rows, 5]     float: max, sum e, sum e (z - max), sum e^2 of the logits so far, e = exp(z - max), and the target's logit
//
//   z = u / temperature, or cap * tanh(u / cap) / temperature
//   du = d_logp ([v = target] - exp(z - lse)) / temperature * (1 - (z temperature / cap)^2)
//
// Launch:  128 threads: a block for each row where logits are added up, a warp where they become gradients, a thread at the end
// Floor:   memory: u is read once, or read and written. 4096 logits of a row are kept in shared memory, those beyond read twice
#include "elem.cuh"
#include "reduce.cuh"

constexpr u32 IGNORE = ~0u;
constexpr u32 THREADS = 128, WARPS = THREADS / 32;
// Logits of a row that are kept. The host makes blocks of no more columns.
constexpr u32 KEPT = 4096;

struct Logit {
    float cap;  // 0: none
    float temperature;
};

__device__ __forceinline__ float logit(float u, const Logit& of) {
    const float capped = of.cap > 0.f ? of.cap * tanhf(u / of.cap) : u;
    return capped / of.temperature;
}

struct AddArgs {
    float* running;
    const float* u;
    const u32* targets;
    u64 rows;
    u32 cols, first;
    Logit of;
    u32 is_first;
};

extern "C" __global__ void __launch_bounds__(THREADS) token_logps_add(const AddArgs args) {
    __shared__ float kept[KEPT], maxima[WARPS], sums[WARPS][3];
    const u64 row = blockIdx.x;
    const u32 target = args.targets[row];
    if (target == IGNORE) return;
    const u32 thread = threadIdx.x, warp = thread / 32, at = target - args.first;
    const float* u = args.u + row * args.cols;
    float max = __int_as_float(0xff800000);  // minus infinity
    for (u32 c = thread; c < args.cols; c += THREADS) {
        const float z = logit(u[c], args.of);
        if (c < KEPT) kept[c] = z;
        max = fmaxf(max, z);
    }
    max = warp_max(max);
    if (thread % 32 == 0) maxima[warp] = max;
    __syncthreads();
    max = fmaxf(fmaxf(maxima[0], maxima[1]), fmaxf(maxima[2], maxima[3]));
    float sum = 0.f, weighted = 0.f, squares = 0.f;
    for (u32 c = thread; c < args.cols; c += THREADS) {
        const float below = (c < KEPT ? kept[c] : logit(u[c], args.of)) - max, e = expf(below);
        sum += e;
        weighted += e == 0.f ? 0.f : e * below;
        squares += e * e;
    }
    sum = warp_sum(sum);
    weighted = warp_sum(weighted);
    squares = warp_sum(squares);
    if (thread % 32 == 0) {
        sums[warp][0] = sum;
        sums[warp][1] = weighted;
        sums[warp][2] = squares;
    }
    __syncthreads();
    if (thread != 0) return;
    for (u32 other = 1; other < WARPS; other++) {
        sum += sums[other][0];
        weighted += sums[other][1];
        squares += sums[other][2];
    }
    float* running = args.running + row * 5;
    if (args.is_first == 0) {
        // both relative to the larger maximum; a factor of 0 stands for a part that no longer counts
        const float before = running[0], larger = fmaxf(before, max);
        const float by = before - larger, factor = expf(by), by_now = max - larger, now = expf(by_now);
        weighted = (factor == 0.f ? 0.f : factor * (running[2] + by * running[1])) + (now == 0.f ? 0.f : now * (weighted + by_now * sum));
        sum = running[1] * factor + sum * now;
        squares = running[3] * factor * factor + squares * now * now;
        max = larger;
    }
    running[0] = max;
    running[1] = sum;
    running[2] = weighted;
    running[3] = squares;
    if (at < args.cols) running[4] = logit(u[at], args.of);
}

struct FinishArgs {
    float* logps;
    float* lse;
    float* entropy;           // or null, with the two below
    float* target_is_argmax;
    float* lse_of_twice;
    const float* running;
    const u32* targets;
    u64 rows;
};

extern "C" __global__ void __launch_bounds__(THREADS) token_logps_finish(const FinishArgs args) {
    const u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= args.rows) return;
    const bool scored = args.targets[row] != IGNORE;
    const float* running = args.running + row * 5;
    const float max = scored ? running[0] : 0.f, sum = scored ? running[1] : 1.f, target = scored ? running[4] : 0.f;
    const float log_sum = logf(sum);
    args.lse[row] = max + log_sum;
    args.logps[row] = (target - max) - log_sum;
    if (args.entropy == nullptr) return;
    // rounding can push the entropy of a one-hot row below 0
    args.entropy[row] = scored ? fmaxf(log_sum - running[2] / sum, 0.f) : 0.f;
    args.target_is_argmax[row] = scored && !(target < max) ? 1.f : 0.f;
    args.lse_of_twice[row] = scored ? 2.f * max + logf(running[3]) : 0.f;
}

struct GradientArgs {
    float* u;  // becomes du
    const float* lse;
    const float* d_logps;
    const u32* targets;
    u64 rows;
    u32 cols, first;
    Logit of;
};

extern "C" __global__ void __launch_bounds__(THREADS) token_logps_gradients(const GradientArgs args) {
    const u64 row = (u64)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= args.rows) return;
    const u32 lane = threadIdx.x % 32, target = args.targets[row], at = target - args.first;
    float* u = args.u + row * args.cols;
    const float lse = args.lse[row], d_logp = args.d_logps[row];
    for (u32 c = lane; c < args.cols; c += 32) {
        if (target == IGNORE || d_logp == 0.f) {
            u[c] = 0.f;
            continue;
        }
        const float z = logit(u[c], args.of), below = z - lse;
        const float t = args.of.cap > 0.f ? z * args.of.temperature / args.of.cap : 0.f;
        const float slope = (1.f - t * t) / args.of.temperature;
        // near 1 the target's probability leaves little: expm1 keeps it
        u[c] = (c == at ? -d_logp * expm1f(below) : -d_logp * expf(below)) * slope;
    }
}

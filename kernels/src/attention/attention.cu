// Causal attention over prefix trees, plainly: a warp for each query row and head, or for each key row and head.
//
//   qkv  [rows, heads + 2 kv_heads, head_dim]  T: float or bf16
//   o    [rows, heads, head_dim]               T
//   lse  [rows, heads]                         float
//
//   z[t] = scale q.k[t], or cap tanh(scale q.k[t] / cap)    p[t] = exp(z[t] - lse)    o = sum_t p[t] v[t]
//   delta = do.o    dz[t] = p[t] (do.v[t] - delta)    du[t] = dz[t] (1 - (z[t]/cap)^2)
//   dq = scale sum_t du[t] k[t]    dk[t] = sum_i scale du[t] q[i]    dv[t] = sum_i p[t] do[i]
//
// Numerics:  scores and sums are float, in the order of positions: the bits of a row are those of its sequence alone
// Launch:    128 threads, a warp for each row and head. 32 keys at a time: each lane makes the score of one, then the lanes share
//            the columns
// Floor:     arithmetic of float; plain: no tiles, no tensor cores
#include "elem.cuh"
#include "reduce.cuh"

constexpr u32 NONE = ~0u;

// Rows that attend to a prefix and, causally, to themselves.
struct Segment {
    u32 rows, end;      // its rows
    u32 prefix, before; // the first row of its prefix, and how many there are
    u32 child, child_end;  // places in `children` of the segments whose prefix it is
};

struct Geometry {
    u32 heads, kv_heads, head_dim, window;  // window 0: none
    float scale, cap;                       // cap 0: none
};

struct Tree {
    const Segment* segments;
    const u32* children;
    const u32* segment_of;  // of each row, or NONE
    u32 rows;
};

__device__ __forceinline__ u32 row_at(const Segment& of, u32 position) {
    return position < of.before ? of.prefix + position : of.rows + position - of.before;
}

__device__ __forceinline__ u32 first_visible(const Geometry& geometry, u32 position) {
    return geometry.window == 0 || position + 1 < geometry.window ? 0 : position + 1 - geometry.window;
}

template <typename T>
__device__ __forceinline__ float dot(const T* a, const T* b, u32 n) {
    float sum = 0.f;
    for (u32 c = 0; c < n; c++) sum = fmaf(to_float(a[c]), to_float(b[c]), sum);
    return sum;
}

template <typename T>
__device__ __forceinline__ float score(const Geometry& geometry, const T* q, const T* k) {
    const float u = geometry.scale * dot(q, k, geometry.head_dim);
    return geometry.cap > 0.f ? geometry.cap * tanhf(u / geometry.cap) : u;
}

__device__ __forceinline__ float slope(const Geometry& geometry, float z) {
    const float t = geometry.cap > 0.f ? z / geometry.cap : 0.f;
    return 1.f - t * t;
}

// Columns of a row of queries, keys and values.
__device__ __forceinline__ u64 columns(const Geometry& of) { return (u64)(of.heads + 2 * of.kv_heads) * of.head_dim; }

// Most columns of a head that a lane holds: head dims to 512.
constexpr int COLUMNS = 16;

// The softmax of one query over the positions first .. end of a sequence. `key` and `value` return the rows of a position. Returns
// the log-sum-exp.
template <typename T, typename Key, typename Value>
__device__ __forceinline__ float attend(float (&sums)[COLUMNS], const Geometry& geometry, const T* q, u32 first, u32 end, Key key,
                                        Value value) {
    const u32 lane = threadIdx.x % 32, d = geometry.head_dim;
    float max = __int_as_float(0xff800000), sum = 0.f;
    for (u32 start = first; start < end; start += 32) {
        const u32 t = start + lane;
        const float z = t < end ? score(geometry, q, key(t)) : __int_as_float(0xff800000);
        const float larger = fmaxf(max, warp_max(z)), rescale = exp_f32(max - larger), p = exp_f32(z - larger);
        sum = sum * rescale + warp_sum(p);
        for (int i = 0; i < COLUMNS; i++) sums[i] *= rescale;
        const u32 n = end - start < 32 ? end - start : 32;
        for (u32 j = 0; j < n; j++) {
            const float weight = __shfl_sync(~0u, p, j);
            const T* v = value(start + j);
            for (int i = 0; i < COLUMNS; i++) {
                const u32 c = lane + 32 * i;
                if (c < d) sums[i] = fmaf(weight, to_float(v[c]), sums[i]);
            }
        }
        max = larger;
    }
    for (int i = 0; i < COLUMNS; i++) sums[i] /= sum;
    return max + logf(sum);
}


template <typename T>
struct ForwardArgs {
    T* o;
    float* lse;
    const T* qkv;
    Tree tree;
    Geometry geometry;
};

template <typename T>
__device__ __forceinline__ void forward(const ForwardArgs<T>& args) {
    const Geometry& geometry = args.geometry;
    const u32 task = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, d = geometry.head_dim;
    const u32 row = task / geometry.heads, head = task % geometry.heads;
    if (row >= args.tree.rows) return;
    T* o = args.o + ((u64)row * geometry.heads + head) * d;
    const u32 at = args.tree.segment_of[row];
    if (at == NONE) {
        for (u32 c = lane; c < d; c += 32) o[c] = from_float<T>(0.f);
        if (lane == 0) args.lse[(u64)row * geometry.heads + head] = 0.f;
        return;
    }
    const Segment segment = args.tree.segments[at];
    const u32 position = segment.before + row - segment.rows;
    const T* q = args.qkv + row * columns(geometry) + head * d;
    const T* keys = args.qkv + (u64)(geometry.heads + head / (geometry.heads / geometry.kv_heads)) * d;
    const auto key = [&](u32 t) { return keys + row_at(segment, t) * columns(geometry); };
    const auto value = [&](u32 t) { return key(t) + (u64)geometry.kv_heads * d; };
    float sums[COLUMNS] = {};
    const u32 first = first_visible(geometry, position);
    const float lse = attend(sums, geometry, q, first, position + 1, key, value);
    for (int i = 0; i < COLUMNS; i++) {
        if (lane + 32 * i < d) o[lane + 32 * i] = from_float<T>(sums[i]);
    }
    if (lane == 0) args.lse[(u64)row * geometry.heads + head] = lse;
}

template <typename T>
struct BackwardArgs {
    T* dqkv;
    const T* qkv;
    const T* o;
    const float* lse;
    const T* d_o;
    Tree tree;
    Geometry geometry;
};

// dq: a warp for each query row and head.
template <typename T>
__device__ __forceinline__ void backward_queries(const BackwardArgs<T>& args) {
    const Geometry& geometry = args.geometry;
    const u32 task = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, d = geometry.head_dim;
    const u32 row = task / geometry.heads, head = task % geometry.heads;
    if (row >= args.tree.rows) return;
    T* dq = args.dqkv + row * columns(geometry) + head * d;
    const u32 at = args.tree.segment_of[row];
    float sums[COLUMNS] = {};
    if (at != NONE) {
        const Segment segment = args.tree.segments[at];
        const u32 position = segment.before + row - segment.rows;
        const T* q = args.qkv + row * columns(geometry) + head * d;
        const T* keys = args.qkv + (u64)(geometry.heads + head / (geometry.heads / geometry.kv_heads)) * d;
        const u64 to_values = (u64)geometry.kv_heads * d, at_head = (u64)row * geometry.heads + head;
        const T* d_o = args.d_o + at_head * d;
        const float lse = args.lse[at_head], delta = dot(d_o, args.o + at_head * d, d);
        for (u32 start = first_visible(geometry, position); start <= position; start += 32) {
            const u32 t = start + lane;
            float du = 0.f;
            if (t <= position) {
                const T* k = keys + row_at(segment, t) * columns(geometry);
                const float z = score(geometry, q, k), p = exp_f32(z - lse);
                du = geometry.scale * p * (dot(d_o, k + to_values, d) - delta) * slope(geometry, z);
            }
            const u32 n = position + 1 - start < 32 ? position + 1 - start : 32;
            for (u32 j = 0; j < n; j++) {
                const float weight = __shfl_sync(~0u, du, j);
                const T* k = keys + row_at(segment, start + j) * columns(geometry);
                for (int i = 0; i < COLUMNS; i++) {
                    if (lane + 32 * i < d) sums[i] = fmaf(weight, to_float(k[lane + 32 * i]), sums[i]);
                }
            }
        }
    }
    for (int i = 0; i < COLUMNS; i++) {
        if (lane + 32 * i < d) dq[lane + 32 * i] = from_float<T>(sums[i]);
    }
}

// dk and dv: a warp for each key row and key-value head, over the queries that see it, in the order of segments and positions.
template <typename T>
__device__ __forceinline__ void backward_keys(const BackwardArgs<T>& args) {
    const Geometry& geometry = args.geometry;
    const u32 task = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, d = geometry.head_dim;
    const u32 row = task / geometry.kv_heads, kv_head = task % geometry.kv_heads, group = geometry.heads / geometry.kv_heads;
    if (row >= args.tree.rows) return;
    const T* k = args.qkv + row * columns(geometry) + (u64)(geometry.heads + kv_head) * d;
    const T* v = k + (u64)geometry.kv_heads * d;
    T* dk = args.dqkv + row * columns(geometry) + (u64)(geometry.heads + kv_head) * d;
    T* dv = dk + (u64)geometry.kv_heads * d;
    float to_k[COLUMNS] = {}, to_v[COLUMNS] = {};
    const u32 own = args.tree.segment_of[row];
    if (own != NONE) {
        const Segment mine = args.tree.segments[own];
        const u32 position = mine.before + row - mine.rows;
        // its own segment, then those whose prefix it is
        for (u32 next = mine.child; next <= mine.child_end; next++) {
            const bool is_own = next == mine.child;
            const Segment segment = is_own ? mine : args.tree.segments[args.tree.children[next - 1]];
            const u32 first = is_own ? row : segment.rows;
            u32 end = segment.end;
            if (geometry.window > 0) {
                // the last position that sees it
                const u32 last = position + geometry.window - 1, of_end = segment.before + segment.end - segment.rows;
                if (last + 1 < of_end) end = last + 1 > segment.before ? segment.rows + last + 1 - segment.before : segment.rows;
            }
            for (u32 start = first; start < end; start += 32) {
                const u32 n = end - start < 32 ? end - start : 32;
                for (u32 h = kv_head * group; h < (kv_head + 1) * group; h++) {
                    float p = 0.f, du = 0.f;
                    if (lane < n) {
                        const u32 i = start + lane;
                        const u64 at_head = (u64)i * geometry.heads + h;
                        const T* q = args.qkv + i * columns(geometry) + h * d;
                        const T* d_o = args.d_o + at_head * d;
                        const float z = score(geometry, q, k), delta = dot(d_o, args.o + at_head * d, d);
                        p = exp_f32(z - args.lse[at_head]);
                        du = geometry.scale * p * (dot(d_o, v, d) - delta) * slope(geometry, z);
                    }
                    for (u32 j = 0; j < n; j++) {
                        const float of_k = __shfl_sync(~0u, du, j), of_v = __shfl_sync(~0u, p, j);
                        const T* q = args.qkv + (start + j) * columns(geometry) + h * d;
                        const T* d_o = args.d_o + ((u64)(start + j) * geometry.heads + h) * d;
                        for (int i = 0; i < COLUMNS; i++) {
                            const u32 c = lane + 32 * i;
                            if (c >= d) continue;
                            to_k[i] = fmaf(of_k, to_float(q[c]), to_k[i]);
                            to_v[i] = fmaf(of_v, to_float(d_o[c]), to_v[i]);
                        }
                    }
                }
            }
        }
    }
    for (int i = 0; i < COLUMNS; i++) {
        if (lane + 32 * i >= d) continue;
        dk[lane + 32 * i] = from_float<T>(to_k[i]);
        dv[lane + 32 * i] = from_float<T>(to_v[i]);
    }
}

template <typename T>
struct DecodeArgs {
    T* o;
    const u32* lengths;
    const T* qkv;
    const T* k_cache;
    const T* v_cache;
    u64 capacity;
    u32 batch;
    Geometry geometry;
};

template <typename T>
__device__ __forceinline__ void decode(const DecodeArgs<T>& args) {
    const Geometry& geometry = args.geometry;
    const u32 task = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, d = geometry.head_dim;
    const u32 b = task / geometry.heads, head = task % geometry.heads;
    if (b >= args.batch) return;
    const u32 length = args.lengths[b];
    const T* q = args.qkv + b * columns(geometry) + head * d;
    const u64 row = (u64)geometry.kv_heads * d;
    const u64 start = b * args.capacity * row + (u64)(head / (geometry.heads / geometry.kv_heads)) * d;
    const auto key = [&](u32 t) { return args.k_cache + start + t * row; };
    const auto value = [&](u32 t) { return args.v_cache + start + t * row; };
    float sums[COLUMNS] = {};
    attend(sums, geometry, q, first_visible(geometry, length - 1), length, key, value);
    T* o = args.o + ((u64)b * geometry.heads + head) * d;
    for (int i = 0; i < COLUMNS; i++) {
        if (lane + 32 * i < d) o[lane + 32 * i] = from_float<T>(sums[i]);
    }
}

#define ENTRIES(NAME, T)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(128) attention_forward_##NAME(const ForwardArgs<T> args) { forward(args); }        \
    extern "C" __global__ void __launch_bounds__(128) attention_queries_##NAME(const BackwardArgs<T> args) { backward_queries(args); } \
    extern "C" __global__ void __launch_bounds__(128) attention_keys_##NAME(const BackwardArgs<T> args) { backward_keys(args); }    \
    extern "C" __global__ void __launch_bounds__(128) attention_decode_##NAME(const DecodeArgs<T> args) { decode(args); }

ENTRIES(f32, float)
ENTRIES(bf16, bf16)

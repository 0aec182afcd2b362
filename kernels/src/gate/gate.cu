// Forward:   y[r,c] = act(gate[r,c]) up[r,c]
// Backward:  d_gate[r,c] = dy[r,c] up[r,c] act'(gate[r,c]),   d_up[r,c] = dy[r,c] act(gate[r,c])
//
//   gate_up, d_gate_up  [rows, 2 cols]  T, a row is gate, then up         T is float or bf16
//   y, dy               [rows, cols]    T
//
//   silu:  act(x) = x sigmoid(x)
//   gelu:  act(x) = x sigmoid(z),  z = 2 sqrt(2/pi) (x + 0.044715 x^3): 0.5 (1 + tanh(z/2)) is sigmoid(z), which does not cancel
//
// Source:    arXiv 2002.05202, 1606.08415 sec. 2; the backward is derived in docs/derivations/gate.md
// Numerics:  all is float, whatever T is; a result is rounded once, at the store
// Launch:    256 threads, an element of y each
// Floor:     memory: every operand is read or written once
#include "elem.cuh"

template <typename T>
struct ForwardArgs {
    T* y;
    const T* gate_up;
    u64 len, cols;
};

template <typename T>
struct BackwardArgs {
    T* d_gate_up;
    const T* gate_up;
    const T* dy;
    u64 len, cols;
};

// act(x) is x times the share; slope is act'(x).
struct Gate {
    float share, slope;
};

struct Silu {
    __device__ __forceinline__ static float share(float x) { return 1.f / (1.f + expf(-x)); }

    __device__ __forceinline__ static Gate gate(float x) {
        const float sigmoid = share(x);
        return {sigmoid, sigmoid * fmaf(x, 1.f - sigmoid, 1.f)};
    }
};

struct Gelu {
    static constexpr float SCALE = 0.7978846f;  // sqrt(2/pi)
    static constexpr float CUBIC = 0.044715f;

    // Cut at -80, so that exp(-z) is finite: (1 - sigmoid(z)) is a product with it. A NaN is cut too, but results are multiplied by x.
    __device__ __forceinline__ static float z(float x) { return fmaxf(2.f * SCALE * (x + CUBIC * x * x * x), -80.f); }

    __device__ __forceinline__ static float share(float x) { return 1.f / (1.f + expf(-z(x))); }

    __device__ __forceinline__ static Gate gate(float x) {
        // sigmoid(z) = 1 / (1 + e) and 1 - sigmoid(z) = e / (1 + e), e = exp(-z)
        const float e = expf(-z(x));
        const float sigmoid = 1.f / (1.f + e);
        const float dz = 2.f * SCALE * (1.f + 3.f * CUBIC * (x * x));
        return {sigmoid, sigmoid * fmaf(x, e * sigmoid * dz, 1.f)};
    }
};

// The place of element i of [rows, cols] in the gates of [rows, 2 cols].
__device__ __forceinline__ u64 gate_at(u64 i, u64 cols) { return i + i / cols * cols; }

template <typename Act, typename T>
__device__ __forceinline__ void forward(const ForwardArgs<T>& args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.len) return;
    const u64 at = gate_at(i, args.cols);
    const float gate = to_float(args.gate_up[at]), up = to_float(args.gate_up[at + args.cols]);
    args.y[i] = from_float<T>(gate * Act::share(gate) * up);
}

template <typename Act, typename T>
__device__ __forceinline__ void backward(const BackwardArgs<T>& args) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.len) return;
    const u64 at = gate_at(i, args.cols);
    const float gate = to_float(args.gate_up[at]), up = to_float(args.gate_up[at + args.cols]), dy = to_float(args.dy[i]);
    const Gate act = Act::gate(gate);
    args.d_gate_up[at] = from_float<T>(dy * up * act.slope);
    args.d_gate_up[at + args.cols] = from_float<T>(dy * (gate * act.share));
}

extern "C" __global__ void __launch_bounds__(256) gate_forward_silu_f32(const ForwardArgs<float> args) { forward<Silu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_forward_silu_bf16(const ForwardArgs<bf16> args) { forward<Silu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_forward_gelu_f32(const ForwardArgs<float> args) { forward<Gelu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_forward_gelu_bf16(const ForwardArgs<bf16> args) { forward<Gelu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_backward_silu_f32(const BackwardArgs<float> args) { backward<Silu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_backward_silu_bf16(const BackwardArgs<bf16> args) { backward<Silu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_backward_gelu_f32(const BackwardArgs<float> args) { backward<Gelu>(args); }
extern "C" __global__ void __launch_bounds__(256) gate_backward_gelu_bf16(const BackwardArgs<bf16> args) { backward<Gelu>(args); }
